//! Streams that break: the client gets a last event about it.

use std::time::Duration;

use super::{HostileSetup, Status, Trick, call, judge, setup, ways, works};
use crate::mock_server::{MockReply, RecordedRequest};
use crate::raw::{Client, Head};

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const NOTE: &str = "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":\"note\"}}\n\n";

fn stream(events: &str) -> Vec<u8> {
    format!("{CHUNKED}{:x}\r\n{events}\r\n", events.len()).into_bytes()
}

/// A whole stream with one message, in which `ID` stands for the request's id.
fn whole(seen: &RecordedRequest, message: &str) -> MockReply {
    let message = message.replace("ID", &seen.body["id"].to_string());
    MockReply::Say([stream(&format!("{NOTE}data: {message}\n\n")), b"0\r\n\r\n".to_vec()].concat())
}

/// The code of the last event; 0 where the stream is valid.
fn broken() -> Vec<(Trick, i64)> {
    vec![
        (
            ("sound", |seen| {
                whole(seen, r#"{"jsonrpc":"2.0","id":ID,"result":{"content":[],"resultType":"complete"}}"#)
            }),
            0,
        ),
        (("reset_first", |_| MockReply::Reset(CHUNKED.as_bytes().to_vec())), 502),
        (("reset_between", |_| MockReply::Reset(stream(NOTE))), 502),
        (("reset_within", |_| MockReply::Reset(stream(&NOTE[..40]))), 502),
        (("closed_between", |_| MockReply::Cut(stream(NOTE))), 502),
        (("closed_within_a_chunk", |_| MockReply::Cut([CHUNKED.as_bytes(), b"40\r\nevent"].concat())), 502),
        (("ended_without_answer", |_| MockReply::Cut(format!("{HEAD}{NOTE}").into_bytes())), 502),
        (("ended_in_good_order", |_| MockReply::Say([stream(NOTE), b"0\r\n\r\n".to_vec()].concat())), 502),
        (
            ("ended_within_an_event", |_| {
                MockReply::Cut(
                    format!("{HEAD}{NOTE}data: {{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{{}}}}\n")
                        .into_bytes(),
                )
            }),
            502,
        ),
        (("ended_at_once", |_| MockReply::Say([CHUNKED.as_bytes(), b"0\r\n\r\n"].concat())), 502),
        (("wrong_id", |seen| whole(seen, r#"{"jsonrpc":"2.0","id":8,"result":{}}"#)), 502),
        (("two_ids", |seen| whole(seen, r#"{"jsonrpc":"2.0","id":8,"id":ID,"result":{}}"#)), 502),
        (("no_id", |seen| whole(seen, r#"{"jsonrpc":"2.0","result":{}}"#)), 502),
        (("no_json", |seen| whole(seen, "hello")), 502),
        (("half_json", |seen| whole(seen, r#"{"jsonrpc":"2.0","id":ID,"result":{"#)), 502),
        (("array", |seen| whole(seen, r#"[{"jsonrpc":"2.0","id":ID,"result":{}}]"#)), 502),
        (("silent", |_| MockReply::Hang(stream(NOTE))), 504),
        (("silent_first", |_| MockReply::Hang(CHUNKED.as_bytes().to_vec())), 504),
        (
            ("endless_event", |_| {
                MockReply::Repeat(
                    format!("{HEAD}{NOTE}data: ").into_bytes(),
                    vec![b'x'; 1024],
                    Duration::ZERO,
                )
            }),
            502,
        ),
        (
            ("endless_lines", |_| {
                MockReply::Repeat(
                    format!("{HEAD}{NOTE}").into_bytes(),
                    b"data: x\n".repeat(128),
                    Duration::ZERO,
                )
            }),
            502,
        ),
    ]
}

/// A call whose client requests the server's log messages; without the request they may not come, and the
/// call would wait for its response.
fn telling((head, body): (Head, Vec<u8>)) -> (Head, Vec<u8>) {
    let body = String::from_utf8(body).expect("UTF-8");
    let capabilities = "\"io.modelcontextprotocol/clientCapabilities\":{}";
    let level = format!("{capabilities},\"io.modelcontextprotocol/logLevel\":\"info\"");
    (head, body.replace(capabilities, &level).into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_ends_with_an_error_event() {
    let tricks: Vec<Trick> = broken().into_iter().map(|(trick, _)| trick).collect();
    let HostileSetup { gateway, bad: _bad, _good } =
        setup(tricks, ", timeout: 1s, max_response: 32KiB").await;
    let session = gateway.initialize("/mcp").await;
    let mut wrong = Vec::new();
    for session in [None, Some(session.as_str())] {
        // One connection for all: a failing server is no reason to close the client's.
        let mut client = Client::connect(gateway.port).await;
        for ((name, _), code) in broken() {
            for (way, request) in ways(&telling(call(&format!("bad__{name}"), session))).iter().enumerate() {
                let answer = client.exchange(request).await.expect("an answer");
                assert!(answer.whole && !answer.closes(), "{name} by way {way}: {answer:?}");
                let judged = match code {
                    0 if answer.whole && answer.message()["result"].is_object() => Ok(()),
                    0 => Err(format!("{answer:?}")),
                    // A fault in the first byte can still get a status of its own.
                    code => judge(&answer, code, Status::Maybe200),
                };
                if let Err(why) = judged {
                    wrong.push(format!("{name} in {session:?} by way {way}: {why}"));
                }
                let events = String::from_utf8_lossy(&answer.body);
                if name.contains("between") && !events.contains("note") {
                    wrong.push(format!("{name}: what came before was lost: {events}"));
                }
            }
            works(&gateway, "good__tool", session).await;
            works(&gateway, "bad__tool", session).await;
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
