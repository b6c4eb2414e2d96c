//! What every HTTP/2 client relies on: the authority, the GOAWAY, and the end of connections.

use std::time::{Duration, Instant};

use serde_json::json;

use super::frames::{self, Raw, frame};
use super::{Wire, in_time, message, next, pour, whole};
use crate::harness::Gateway;
use crate::mock_server::{MockReply, MockServer};
use crate::raw::{Client, Head};

const DEMO: &str = "mcpServers: {demo: {builtin: demo}}\n";

#[tokio::test]
async fn the_same_port_speaks_both() {
    let gateway = Gateway::start(DEMO).await;
    let wire = Wire::open(gateway.port).await;
    let arguments = json!({"name": "demo__echo", "arguments": {"text": "hello"}});
    let answer = wire.ask("/mcp", "tools/call", arguments.clone()).await;
    assert_eq!(answer.status, 200, "{:?}", answer.message());
    assert!(answer.headers.contains_key("x-request-id") && !answer.headers.contains_key("connection"));
    let (status, message) = gateway.modern("/mcp", "tools/call", arguments).await;
    assert_eq!((status, &message["result"]), (200, &answer.message()["result"]), "over HTTP/1.1");
    // The shortest request that HTTP/1 has, in two pieces.
    let mut client = Client::connect(gateway.port).await;
    assert!(client.send(b"GE").await);
    let answer = client.exchange(b"T / HTTP/1.0\r\n\r\n").await.expect("an answer");
    assert_eq!(answer.status, 400, "it names no host");
}

#[tokio::test]
async fn head_has_the_length_of_a_body_and_no_body() {
    let gateway = Gateway::start(DEMO).await;
    let wire = Wire::open(gateway.port).await;
    let request = http::Request::head(format!("http://127.0.0.1:{}/health", gateway.port));
    let answer = wire.exchange(request.body(()).expect("a request"), &[], 1).await.expect("an answer");
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_ne!(answer.headers["content-length"], "0");
    let head = Head::of("HEAD /health HTTP/1.1").with("Connection", "close");
    let answer = Client::connect(gateway.port).await.exchange(&head.bytes()).await.expect("an answer");
    assert_eq!((answer.status, answer.body.len()), (200, 0), "over HTTP/1.1");
}

#[tokio::test]
async fn where_http2_is_off_nobody_speaks_it() {
    let gateway =
        Gateway::start(&format!("{DEMO}listen: {{address: \"127.0.0.1:PORT\", http2: false}}\n")).await;
    let mut raw = Raw::open(gateway.port).await;
    // The response is HTTP/1: there is no SETTINGS frame.
    assert!(raw.frame().await.is_none_or(|(kind, ..)| kind != frames::SETTINGS));
    assert_eq!(gateway.call("demo__echo", json!({"text": "x"})).await.0, 200);
}

#[tokio::test]
async fn the_authority_is_judged_as_a_host_is() {
    let gateway = Gateway::start(DEMO).await;
    let wire = Wire::open(gateway.port).await;
    let (_, body) = message("tools/list", json!({}));
    for (authority, host, status) in [
        ("localhost", None, 200),
        ("127.0.0.1:80", None, 200),
        ("localhost", Some("localhost"), 200),
        ("evil.example", None, 403),
        // Pingora's own rejections, which have no body.
        ("localhost", Some("evil.example"), 400),
        ("evil.example", Some("localhost"), 400),
    ] {
        let mut request = wire.modern("/mcp", "tools/list", None).uri(format!("http://{authority}/mcp"));
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let answer = wire.exchange(request.body(()).expect("a request"), &body, 1000).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, status, "{authority} and {host:?}: {:?}", answer.message());
        let refused_by_us = answer.message()["error"]["code"] == 403;
        assert_eq!(refused_by_us, status == 403, "{authority} and {host:?}: {:?}", answer.message());
    }
}

#[tokio::test]
async fn large_heads_are_refused_and_the_connection_goes_on() {
    let gateway = Gateway::start(&format!("{DEMO}limits: {{max_header: 4KiB}}\n")).await;
    let wire = Wire::open(gateway.port).await;
    let (_, body) = message("tools/list", json!({}));
    for size in [5_000, 60_000] {
        let request = wire.modern("/mcp", "tools/list", None).header("x-large", "x".repeat(size));
        let answer = wire.exchange(request.body(()).expect("a request"), &body, 1000).await;
        assert_eq!(answer.map(|answer| answer.status).expect("an answer"), 431, "{size}");
    }
    assert_eq!(wire.ask("/mcp", "tools/list", json!({})).await.status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for_and_its_neighbours_are_served() {
    let gateway = Gateway::start(&format!("{DEMO}limits: {{body_timeout: 500ms}}\n")).await;
    let wire = Wire::open(gateway.port).await;
    let request = wire.modern("/mcp", "tools/list", None).body(()).expect("a request");
    let (late, _body) = wire.begin(request, false).await;
    assert_eq!(wire.ask("/mcp", "tools/list", json!({})).await.status, 200);
    assert_eq!(in_time(whole(late)).await.expect("an answer").status, 408);
    assert_eq!(wire.ask("/mcp", "tools/list", json!({})).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_stream_is_reset_is_given_up_at_once() {
    let mock = MockServer::start(|seen| match seen.tool() {
        "tool" => MockReply::Hang(Vec::new()),
        _ => MockReply::Good,
    })
    .await;
    let gateway = Gateway::start(&format!(
        "mcpServers: {{up: {{url: \"{}\", max_concurrent: 1, timeout: 1h}}}}\n",
        mock.url
    ))
    .await;
    let wire = Wire::open(gateway.port).await;
    for (turn, size) in [10, 200_000].into_iter().enumerate() {
        // With its length, and so long that the gateway's own HTTP client sends it without.
        let (name, body) =
            message("tools/call", json!({"name": "up__tool", "arguments": {"a": "x".repeat(size)}}));
        let request = wire.modern("/mcp", "tools/call", name.as_deref()).body(()).expect("a request");
        let (answer, to) = wire.begin(request, false).await;
        let poured = tokio::spawn(async move { pour_and_keep(to, body).await });
        gateway.eventually("the call reaches the server", async |_| mock.calls().len() == turn + 1).await;
        drop(answer);
        let mut to = poured.await.expect("no panic");
        to.send_reset(h2::Reason::CANCEL);
        let left = format!("the {turn}th call is told as left");
        gateway
            .eventually(&left, async |g| {
                g.process
                    .output()
                    .lines()
                    .filter(|line| line.contains("\"outcome\":\"client_aborted\""))
                    .count()
                    == turn + 1
            })
            .await;
    }
    assert_eq!(wire.ask("/mcp", "tools/list", json!({})).await.status, 200, "the connection goes on");
}

/// Sends a body, and keeps the stream open to be reset.
async fn pour_and_keep(mut to: h2::SendStream<bytes::Bytes>, body: Vec<u8>) -> h2::SendStream<bytes::Bytes> {
    let mut rest = bytes::Bytes::from(body);
    while !rest.is_empty() {
        to.reserve_capacity(rest.len());
        let capacity =
            std::future::poll_fn(|cx| to.poll_capacity(cx)).await.expect("open").expect("capacity");
        let next = rest.split_to(capacity.min(rest.len()));
        to.send_data(next, rest.is_empty()).expect("it is taken");
    }
    to
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_the_client_is_told_and_running_calls_finish() {
    let mut gateway = Gateway::start(DEMO).await;
    let wire = Wire::open(gateway.port).await;
    let (name, body) = message("tools/call", json!({"name": "demo__sleep", "arguments": {"seconds": 1}}));
    let request = wire.modern("/mcp", "tools/call", name.as_deref()).body(()).expect("a request");
    let (answer, to) = wire.begin(request, false).await;
    assert!(pour(to, &body, usize::MAX).await);
    // An idle one beside it.
    let idle = Wire::open(gateway.port).await;
    assert_eq!(idle.ask("/mcp", "tools/list", json!({})).await.status, 200);
    gateway.process.signal(libc::SIGTERM);
    let answer = in_time(whole(answer)).await.expect("an answer");
    assert_eq!(answer.status, 200, "{:?}", answer.message());
    assert!(answer.message()["result"]["content"][0]["text"].is_string(), "{:?}", answer.message());
    assert!(wire.ended().await.is_ok(), "in good order");
    assert!(idle.ended().await.is_ok(), "in good order");
    assert!(gateway.process.wait().success(), "{}", gateway.process.story());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_session_come_event_by_event() {
    let gateway = Gateway::start(DEMO).await;
    let session = gateway.initialize("/mcp").await;
    let wire = Wire::open(gateway.port).await;
    let get = |uri: &str| {
        http::Request::get(format!("http://127.0.0.1:{}{uri}", wire.port))
            .header("accept", "text/event-stream")
            .header("mcp-session-id", &session)
            .header("mcp-protocol-version", "2025-11-25")
            .body(())
            .expect("a request")
    };
    let (answer, _) = wire.begin(get("/mcp"), true).await;
    let (head, mut body) = in_time(answer).await.expect("an answer").into_parts();
    assert_eq!(
        (head.status.as_u16(), head.headers["content-type"].as_bytes()),
        (200, &b"text/event-stream"[..])
    );
    gateway.rewrite("mcpServers: {demo: {builtin: demo}, more: {builtin: demo}}\n");
    let event = in_time(next(&mut body)).await.expect("an event").expect("the stream goes on");
    let event = String::from_utf8_lossy(&event).into_owned();
    assert!(event.contains("list_changed"), "{event}");
}

#[tokio::test]
async fn a_client_that_does_not_begin_is_dropped_in_time() {
    let gateway = Gateway::start(&format!("{DEMO}limits: {{header_timeout: 1s}}\n")).await;
    let part = &frames::PREFACE[..10];
    let head = frames::fields(&[(":method", "GET"), (":path", "/mcp")]);
    // A header block that never ends.
    let open = frame(frames::HEADERS, 0, 1, &head);
    let settings = [frames::PREFACE, &frame(frames::SETTINGS, 0, 0, &[])].concat();
    for begin in [&b""[..], b"P", part, frames::PREFACE, &settings, &[&settings[..], &open].concat()] {
        let begun = Instant::now();
        let mut raw = Raw::silent(gateway.port).await;
        assert!(raw.send(begin).await);
        let pings = async {
            // Pings do not extend the time either.
            while begin.len() == settings.len() && raw.ping().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(30), pings).await;
        raw.reason().await;
        assert!(
            begun.elapsed() >= Duration::from_millis(900),
            "{begin:?}: closed after {:?}",
            begun.elapsed()
        );
    }
    let head = Head::modern("/mcp", "tools/list", None);
    let (_, body) = message("tools/list", json!({}));
    let answer = Client::connect(gateway.port).await.exchange(&head.whole(&body)).await;
    assert_eq!(answer.expect("an answer").status, 200);
}
