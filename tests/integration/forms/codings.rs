//! Compressed responses.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};

use super::*;

const BROTLI: &[u8] = &[
    27, 100, 0, 160, 140, 211, 21, 243, 35, 132, 117, 143, 32, 119, 228, 199, 191, 95, 75, 34, 201, 194, 146,
    172, 165, 223, 58, 125, 93, 44, 117, 114, 192, 124, 57, 124, 167, 47, 10, 178, 36, 48, 14, 220, 100, 153,
    80, 57, 108, 58, 171, 41, 103, 245, 249, 111, 163, 103, 19, 238, 97, 4, 114, 41, 220, 177, 202, 142, 26,
    45, 101, 10, 131, 142, 30, 241, 68, 248, 113, 0, 67, 1,
];

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    out.write_all(body).expect("memory");
    out.finish().expect("memory")
}

fn zlib(body: &[u8]) -> Vec<u8> {
    let mut out = ZlibEncoder::new(Vec::new(), Compression::default());
    out.write_all(body).expect("memory");
    out.finish().expect("memory")
}

/// A response whose body is encoded.
fn encoded(coding: &str, kind: &str, body: &[u8]) -> MockReply {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Encoding: {coding}\r\nContent-Length: {length}\r\n\r\n"
    );
    MockReply::Say([head.as_bytes(), body].concat())
}

/// Compresses lists and responses, regardless of the request.
fn compresses(seen: &RecordedRequest) -> MockReply {
    let json = "application/json";
    let result = || done(seen).into_bytes();
    match (seen.method(), seen.tool()) {
        ("tools/list", _) => {
            let names = ["gzip", "deflate", "stream", "bomb", "stream_bomb", "cut", "zstd", "false"];
            encoded("gzip", json, &gzip(answer(seen, &tools(&names)).as_bytes()))
        }
        ("server/discover" | "initialize", _) => {
            let good = mock_server::good(seen);
            let at = good.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
            encoded("deflate", &format!("{json}\r\nMcp-Session-Id: theirs"), &zlib(&good[at..]))
        }
        ("tools/call", "gzip") => encoded("x-gzip", json, &gzip(&result())),
        ("tools/call", "deflate") => encoded("deflate", json, &zlib(&result())),
        ("tools/call", "stream") => {
            let body = format!(": hello\n\ndata: {}\n\n", done(seen));
            encoded("gzip", "text/event-stream", &gzip(body.as_bytes()))
        }
        ("tools/call", "bomb") => encoded("gzip", json, &gzip(&vec![b' '; 64 << 20])),
        ("tools/call", "stream_bomb") => {
            encoded("gzip", "text/event-stream", &gzip(&b": x\n\n".repeat(16 << 20)))
        }
        ("tools/call", "cut") => {
            let body = gzip(&result());
            encoded("gzip", json, &body[..body.len() - 4])
        }
        ("tools/call", "zstd") => encoded("zstd", json, &result()),
        ("tools/call", "false") => encoded("gzip", json, &result()),
        _ => MockReply::Good,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compressed_unasked_is_decoded_within_the_limits() {
    let mock = MockServer::start(compresses).await;
    let gateway = before(&mock, ", max_response: 1MiB").await;
    let session = gateway.initialize("/mcp").await;
    for session in [None, Some(session.as_str())] {
        for long in [false, true] {
            for tool in ["gzip", "deflate", "stream"] {
                let answer = call(&gateway, &format!("box__{tool}"), session, Some(BOTH), long).await;
                assert_eq!((answer.status, text(&answer)), (200, json!("done")), "{tool}: {answer:?}");
                assert_eq!(answer.header("content-encoding"), None);
            }
            for (tool, message) in [
                ("bomb", "more than the 1048576 bytes"),
                ("stream_bomb", "more than the 1048576 bytes"),
                ("cut", "breaks off"),
                ("zstd", "its Content-Encoding is \\\"zstd\\\""),
                ("false", "cannot be decoded"),
            ] {
                let answer = call(&gateway, &format!("box__{tool}"), session, Some(BOTH), long).await;
                let body = String::from_utf8_lossy(&answer.body);
                assert!(body.contains(message) && body.contains("502"), "{tool}: {body}");
            }
        }
    }
}

/// A brotli stream that stores a text uncompressed (RFC 7932 §9.2): there is no brotli encoder here.
fn stored(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len() - 1).expect("a short text");
    assert!(length < 1 << 16);
    // A window of 16 bits; a meta-block that is not the last, of 4 nibbles of length, uncompressed.
    let head = (length << 4 | 1 << 20).to_le_bytes();
    [&head[..3], text.as_bytes(), &[3]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn brotli_is_decoded_too() {
    let mock = MockServer::start(|seen| match seen.method() {
        "tools/call" if seen.tool() == "packed" => encoded("br", "application/json", BROTLI),
        "tools/call" => {
            let result = json!({"content": [{"type": "text", "text": "done"}], "resultType": "complete"});
            encoded("br", "application/json", &stored(&mock_server::answer(seen, &result)))
        }
        "tools/list" => MockReply::Say(mock_server::json_answer(&mock_server::answer(
            seen,
            &mock_server::tools(&["tool", "packed"]),
        ))),
        _ => MockReply::Good,
    })
    .await;
    let gateway = before(&mock, "").await;
    for long in [false, true] {
        let answer = call(&gateway, "box__tool", None, Some(BOTH), long).await;
        assert_eq!((answer.status, text(&answer)), (200, json!("done")), "{answer:?}");
        // The output of an encoder has the id that it was made with: the rejection shows that it is read.
        let answer = call(&gateway, "box__packed", None, Some(BOTH), long).await;
        let message = answer.message()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(message.contains("it answers another request"), "{message}");
    }
}
