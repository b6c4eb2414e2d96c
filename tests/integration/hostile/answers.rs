//! Invalid responses.

use std::time::Duration;

use serde_json::json;

use super::{HostileSetup, Status, Trick, ask, call, judge, play, setup, ways, works};
use crate::mock_server::{MockReply, MockServer, RecordedRequest, answer, http, json_answer};
use crate::raw::Client;

/// Sends a body as JSON under the request's id, which replaces `ID`.
fn says(seen: &RecordedRequest, body: &str) -> MockReply {
    MockReply::Say(json_answer(&body.replace("ID", &seen.body["id"].to_string())))
}

fn sound(seen: &RecordedRequest) -> String {
    answer(seen, &json!({"content": [], "resultType": "complete"}))
}

fn kind(status: &str, kind: &str, body: &str) -> MockReply {
    MockReply::Say(http(status, &[&format!("Content-Type: {kind}")], body))
}

fn with(seen: &RecordedRequest, headers: &[&str]) -> Vec<u8> {
    http("200 OK", &[&["Content-Type: application/json"], headers].concat(), &sound(seen))
}

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";

/// Answered by 502.
fn nonsense() -> Vec<Trick> {
    vec![
        ("closes", |_| MockReply::Cut(Vec::new())),
        ("resets", |_| MockReply::Reset(Vec::new())),
        ("no_http", |_| MockReply::Cut(b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec())),
        ("half_a_line", |_| MockReply::Cut(b"HTTP/1.1 20".to_vec())),
        ("half_a_head", |_| MockReply::Cut(HEAD.as_bytes().to_vec())),
        ("no_body", |_| kind("200 OK", "application/json", "")),
        ("html", |_| kind("200 OK", "text/html", "<html>It works!</html>")),
        ("html_as_json", |_| kind("200 OK", "application/json", "<html>It works!</html>")),
        ("html_500", |_| kind("500 Internal Server Error", "text/html; charset=utf-8", "<h1>Oops</h1>")),
        ("html_404", |_| kind("404 Not Found", "text/html", "<h1>Not here</h1>")),
        ("text", |seen| kind("200 OK", "text/plain", &sound(seen))),
        ("nothing_204", |_| MockReply::Say(http("204 No Content", &[], ""))),
        ("typed_204", |_| kind("204 No Content", "application/json", "")),
        ("typed_205", |seen| kind("205 Reset Content", "application/json", &sound(seen))),
        ("identity", |seen| MockReply::Say(with(seen, &["Transfer-Encoding: identity"]))),
        ("gzip_chunked", |seen| {
            let (body, head) = (sound(seen), format!("{HEAD}Transfer-Encoding: gzip, chunked\r\n\r\n"));
            MockReply::Say(format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes())
        }),
        ("accepted_202", |_| MockReply::Say(http("202 Accepted", &[], ""))),
        ("moved_307", |_| {
            MockReply::Say(http("307 Temporary Redirect", &["Location: http://127.0.0.1:1/mcp"], ""))
        }),
        ("moved_json", |seen| {
            MockReply::Say(http(
                "302 Found",
                &["Location: /x", "Content-Type: application/json"],
                &sound(seen),
            ))
        }),
        ("wrong_id", |seen| says(seen, r#"{"jsonrpc":"2.0","id":8,"result":{}}"#)),
        ("longer_id", |seen| says(seen, r#"{"jsonrpc":"2.0","id":ID0,"result":{}}"#)),
        ("text_id", |seen| says(seen, r#"{"jsonrpc":"2.0","id":"ID","result":{}}"#)),
        ("float_id", |seen| says(seen, r#"{"jsonrpc":"2.0","id":ID.0,"result":{}}"#)),
        ("null_id", |seen| says(seen, r#"{"jsonrpc":"2.0","id":null,"result":{}}"#)),
        ("no_id", |seen| says(seen, r#"{"jsonrpc":"2.0","result":{}}"#)),
        ("foreign_error", |seen| says(seen, r#"{"jsonrpc":"2.0","id":8,"error":{"code":1,"message":"x"}}"#)),
        ("two_ids", |seen| says(seen, r#"{"jsonrpc":"2.0","id":8,"id":ID,"result":{}}"#)),
        ("two_ids_escaped", |seen| says(seen, r#"{"jsonrpc":"2.0","\u0069d":8,"id":ID,"result":{}}"#)),
        ("two_results", |seen| {
            says(seen, r#"{"jsonrpc":"2.0","id":ID,"result":{},"result":{"content":[]}}"#)
        }),
        ("both_outcomes", |seen| {
            says(seen, r#"{"jsonrpc":"2.0","id":ID,"result":{},"error":{"code":1,"message":"x"}}"#)
        }),
        ("no_outcome", |seen| says(seen, r#"{"jsonrpc":"2.0","id":ID}"#)),
        ("a_request", |seen| says(seen, r#"{"jsonrpc":"2.0","id":ID,"method":"ping"}"#)),
        ("a_note", |seen| says(seen, r#"{"jsonrpc":"2.0","method":"notifications/message"}"#)),
        ("no_version", |seen| says(seen, r#"{"id":ID,"result":{}}"#)),
        ("other_version", |seen| says(seen, r#"{"jsonrpc":"1.0","id":ID,"result":{}}"#)),
        ("array", |seen| says(seen, r#"[{"jsonrpc":"2.0","id":ID,"result":{}}]"#)),
        ("scalar", |seen| says(seen, "42")),
        ("null", |seen| says(seen, "null")),
        ("two_objects", |seen| says(seen, r#"{"jsonrpc":"2.0","id":ID,"result":{}}{}"#)),
        ("half_json", |seen| says(seen, r#"{"jsonrpc":"2.0","id":ID,"result":{"#)),
        ("deep", |seen| {
            says(
                seen,
                &format!(r#"{{"jsonrpc":"2.0","id":ID,"result":{}{}}}"#, "[".repeat(9000), "]".repeat(9000)),
            )
        }),
        ("compressed", |seen| MockReply::Say(with(seen, &["Content-Encoding: gzip"]))),
        ("brotli", |seen| MockReply::Say(with(seen, &["Content-Encoding: br"]))),
        ("login", |_| {
            MockReply::Say(http("401 Unauthorized", &["WWW-Authenticate: Bearer realm=\"inside\""], ""))
        }),
        ("login_json", |seen| {
            MockReply::Say(http(
                "401 Unauthorized",
                &["WWW-Authenticate: Basic", "Content-Type: application/json"],
                &sound(seen),
            ))
        }),
        ("forbidden", |seen| {
            MockReply::Say(http(
                "403 Forbidden",
                &["Content-Type: application/json", "Set-Cookie: a=b"],
                &sound(seen),
            ))
        }),
        ("long_header", |seen| MockReply::Say(with(seen, &[&format!("X-Long: {}", "x".repeat(2 << 20))]))),
        ("many_headers", |seen| MockReply::Say(with(seen, &["X-Many: y"; 400]))),
        ("two_lengths", |seen| MockReply::Say(with(seen, &["Content-Length: 5"]))),
        ("too_long", |seen| {
            says(seen, &format!(r#"{{"jsonrpc":"2.0","id":ID,"result":{{"x":"{}"}}}}"#, "x".repeat(40_000)))
        }),
        ("says_too_long", |_| {
            MockReply::Hang(format!("{HEAD}Content-Length: 99999999999\r\n\r\n{{").into_bytes())
        }),
        ("long_error", |_| kind("500 Internal Server Error", "application/json", &"x".repeat(40_000))),
    ]
}

/// The same, though the head of the response was valid.
fn late() -> Vec<Trick> {
    vec![
        ("half_a_body", |_| {
            MockReply::Cut(format!("{HEAD}Content-Length: 500\r\n\r\n{{\"jsonrpc\"").into_bytes())
        }),
        ("reset_in_body", |_| {
            MockReply::Reset(format!("{HEAD}Content-Length: 500\r\n\r\n{{\"jsonrpc\"").into_bytes())
        }),
        ("half_a_chunk", |_| {
            MockReply::Cut(format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n9\r\n{{\"js").into_bytes())
        }),
        ("bad_chunk", |_| {
            MockReply::Cut(
                format!("{HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n").into_bytes(),
            )
        }),
        ("endless", |_| {
            MockReply::Repeat(
                format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n").into_bytes(),
                b"400\r\n".iter().chain(&[b' '; 1024]).chain(b"\r\n").copied().collect(),
                Duration::ZERO,
            )
        }),
        ("endless_to_the_end", |_| {
            MockReply::Repeat(format!("{HEAD}\r\n{{\"x\":\"").into_bytes(), vec![b'x'; 1024], Duration::ZERO)
        }),
    ]
}

/// The same, if the announced length is shorter than the gateway's own error.
fn short() -> Vec<Trick> {
    fn late(length: usize, body: &str) -> MockReply {
        let head = format!("{HEAD}Content-Length: {length}\r\n\r\n").into_bytes();
        MockReply::Pause(head, Duration::from_millis(300), body.as_bytes().to_vec())
    }
    vec![
        ("short_foreign", |_| late(36, r#"{"jsonrpc":"2.0","id":8,"result":{}}"#)),
        ("short_no_json", |_| late(2, "hi")),
        ("short_half", |_| late(20, "{")),
        ("short_nothing", |_| late(1, "")),
    ]
}

/// Answered by 504.
fn silence() -> Vec<Trick> {
    vec![
        ("hangs", |_| MockReply::Hang(Vec::new())),
        ("hangs_in_head", |_| MockReply::Hang(HEAD.as_bytes().to_vec())),
    ]
}

/// The same, though the head of the response came.
fn late_silence() -> Vec<Trick> {
    vec![
        ("hangs_after_head", |_| MockReply::Hang(format!("{HEAD}Content-Length: 500\r\n\r\n").into_bytes())),
        ("hangs_in_body", |_| MockReply::Hang(format!("{HEAD}Content-Length: 500\r\n\r\n{{").into_bytes())),
        ("hangs_in_chunk", |_| {
            MockReply::Hang(format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n").into_bytes())
        }),
        ("trickles", |_| {
            let head = format!("{HEAD}Content-Length: 500\r\n\r\n{{").into_bytes();
            MockReply::Repeat(head, b" ".to_vec(), Duration::from_millis(200))
        }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_none_becomes_a_502() {
    let settings = ", timeout: 5s, max_response: 32KiB";
    play(&setup(nonsense(), settings).await, &nonsense(), 502, Status::Free).await;
    play(&setup(late(), settings).await, &late(), 502, Status::Maybe200).await;
    play(&setup(short(), settings).await, &short(), 502, Status::Maybe200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_come_becomes_a_504() {
    play(&setup(silence(), ", timeout: 500ms").await, &silence(), 504, Status::Free).await;
    play(&setup(late_silence(), ", timeout: 500ms").await, &late_silence(), 504, Status::Maybe200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_after_it_was_listed_becomes_a_502() {
    let HostileSetup { gateway, bad, _good } = setup(vec![("x", |_| MockReply::Good)], "").await;
    let session = gateway.initialize("/mcp").await;
    // With a kept connection, a session, and without.
    works(&gateway, "bad__tool", None).await;
    works(&gateway, "bad__tool", Some(&session)).await;
    bad.close().await;
    let fresh = gateway.initialize("/mcp").await;
    for session in [None, Some(session.as_str()), None, Some(fresh.as_str())] {
        let answer = ask(&gateway, "bad__tool", session).await.expect("an answer");
        assert_eq!(judge(&answer, 502, Status::Free), Ok(()));
        works(&gateway, "good__tool", session).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_that_breaks_off_is_cut_and_not_ended() {
    fn long(seen: &RecordedRequest, end: &str) -> MockReply {
        let filler = "x".repeat(2_000_000);
        says(seen, &format!(r#"{{"jsonrpc":"2.0","id":ID,"result":{{"x":"{filler}{end}"#))
    }
    let tricks: Vec<Trick> = vec![
        ("endless", |_| {
            let head = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n5\r\n{{\"x\":\r\n").into_bytes();
            let chunk = b"1000\r\n".iter().chain(&[b' '; 4096]).chain(b"\r\n").copied().collect();
            MockReply::Repeat(head, chunk, Duration::ZERO)
        }),
        ("breaks_off", |_| {
            MockReply::Cut(
                format!("{HEAD}Content-Length: 3999999\r\n\r\n{{\"x\":\"{}", "x".repeat(2_000_000))
                    .into_bytes(),
            )
        }),
        ("both", |seen| long(seen, r#""},"error":{"code":1,"message":"m"}}"#)),
        ("neither", |seen| {
            let filler = "x".repeat(2_000_000);
            says(seen, &format!(r#"{{"jsonrpc":"2.0","id":ID,"x":"{filler}"}}"#))
        }),
        ("fits", |seen| long(seen, "\"}}")),
    ];
    let names: Vec<&str> = tricks.iter().map(|(name, _)| *name).collect();
    let HostileSetup { gateway, bad: _bad, _good } = setup(tricks, ", timeout: 2s, max_response: 4MiB").await;
    for name in names {
        let answer = ask(&gateway, &format!("bad__{name}"), None).await.expect("an answer");
        assert_eq!((answer.status, answer.whole), (200, name == "fits"), "{name}");
        assert!(answer.body.len() <= (4 << 20) + 65_536, "{name}: {} bytes", answer.body.len());
        works(&gateway, "good__tool", None).await;
    }
}

/// Long enough to come in many chunks, short enough to be held until its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_answer_is_judged_by_its_end() {
    fn long(seen: &RecordedRequest, id: &str, end: &str) -> MockReply {
        let filler = "x".repeat(200_000);
        says(seen, &format!(r#"{{"jsonrpc":"2.0","result":{{"x":"{filler}"}},"id":{id}{end}"#))
    }
    let tricks: Vec<Trick> = vec![
        ("wrong_id", |seen| long(seen, "4242", "}")),
        ("no_end", |seen| long(seen, "ID", "")),
        ("trailing", |seen| long(seen, "ID", "}}")),
    ];
    play(&setup(tricks.clone(), ", timeout: 2s").await, &tricks, 502, Status::Maybe200).await;
}

/// JSON-RPC 2.0 §5: if a server could not read the id of a request, the id of the error is null.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_without_an_id_is_that_of_its_caller() {
    const ERROR: &str = r#""error":{"code":-32001,"message":"what?"}}"#;
    fn error(status: &str, id: &str) -> MockReply {
        kind(status, "application/json", &format!(r#"{{"jsonrpc":"2.0",{id}{ERROR}"#))
    }
    let tricks: Vec<Trick> = vec![
        ("null", |_| error("200 OK", r#""id":null,"#)),
        ("none", |_| error("200 OK", "")),
        ("null_400", |_| error("400 Bad Request", r#""id":null,"#)),
        ("none_404", |_| error("404 Not Found", "")),
        ("word_400", |_| error("400 Bad Request", r#""id":"server-error","#)),
        ("its_own", |seen| error("400 Bad Request", &format!(r#""id":{},"#, seen.body["id"]))),
        ("last", |_| {
            kind(
                "200 OK",
                "application/json",
                &format!(r#"{{"jsonrpc":"2.0",{}"#, ERROR.replace("}}", r#"},"id":null}"#)),
            )
        }),
        ("long", |_| error("200 OK", &format!(r#""id":null,"x":"{}","#, "x".repeat(3000)))),
        ("longer", |_| error("200 OK", &format!(r#""id":null,"x":"{}","#, "x".repeat(70_000)))),
        ("longest", |_| error("200 OK", &format!(r#""id":null,"x":"{}","#, "x".repeat(900_000)))),
        ("longer_none", |_| error("200 OK", &format!(r#""x":"{}","#, "x".repeat(70_000)))),
    ];
    let setup = setup(tricks.clone(), "").await;
    // On a reused connection, the first response without an id is not accepted; then each call has its own
    // connection.
    for request in ways(&call("bad__null", None)) {
        let answer = Client::connect(setup.gateway.port).await.exchange(&request).await.expect("an answer");
        assert_eq!(answer.message()["id"], 7, "{}", answer.message());
    }
    for (name, _) in tricks {
        for _ in 0..2 {
            let request = call(&format!("bad__{name}"), None);
            for request in ways(&request) {
                let answer =
                    Client::connect(setup.gateway.port).await.exchange(&request).await.expect("an answer");
                let message = answer.message();
                assert_eq!(
                    (&message["id"], &message["error"]["code"]),
                    (&json!(7), &json!(-32001)),
                    "{name}: {message}"
                );
                assert_eq!(message["error"]["message"], "what?", "{name}");
                assert!(answer.whole, "{name}");
            }
            works(&setup.gateway, "bad__tool", None).await;
        }
    }
}

/// A mock server that never answers does not keep the gateway from starting.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_greets_holds_nobody_up() {
    let mute = MockServer::start(|_| MockReply::Hang(Vec::new())).await;
    let good = MockServer::start(|_| MockReply::Good).await;
    let config = format!(
        "mcpServers: {{bad: {{url: \"{}\", timeout: 500ms}}, good: {{url: \"{}\"}}}}\n",
        mute.url, good.url
    );
    let gateway = crate::harness::Gateway::start(&config).await;
    works(&gateway, "good__tool", None).await;
    let answer = ask(&gateway, "bad__tool", None).await.expect("an answer");
    assert_eq!(judge(&answer, 503, Status::Free), Ok(()), "it may still start");
}
