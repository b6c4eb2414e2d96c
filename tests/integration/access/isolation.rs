//! One caller cannot harm the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::harness::{Gateway, initialize, legacy_call, read};
use crate::mock_server::{MockReply, MockServer, answer, http, json_answer};

/// A gateway in front of this server, whose circuit opens at `failures` failures.
async fn setup(server: &MockServer, failures: u32) -> Gateway {
    let breaker = format!("circuit_breaker: {{failures: {failures}, open_for: 5s}}");
    let gateway =
        Gateway::start(&format!("mcpServers: {{p: {{url: \"{}\", {breaker}}}}}\n", server.url)).await;
    gateway.eventually("the server is there", async |g| g.get("/health").await.contains("\"tools\":1")).await;
    gateway
}

#[tokio::test]
async fn calls_that_a_server_cannot_answer_well_do_not_shut_it_for_others() {
    let server = MockServer::start(|seen| match seen.method() {
        // Like a server that stores numbers as doubles. It never sees the client's id.
        "tools/call" => {
            let message =
                answer(seen, &json!({"content": []})).replace("9007199254740993", "9007199254740992");
            MockReply::Say(json_answer(&message))
        }
        "vendor/none" => MockReply::Say(http("404 Not Found", &["Content-Type: text/html"], "<p>none</p>")),
        _ => MockReply::Good,
    })
    .await;
    let gateway = setup(&server, 2).await;
    let session = gateway.initialize("/servers/p/mcp").await;
    let say = async |body| gateway.say("/servers/p/mcp", &session, &body).await;
    for _ in 0..3 {
        let (status, output) = say(legacy_call(9_007_199_254_740_993_u64, "tool", json!({}))).await;
        assert_eq!((status, &output["id"]), (200, &json!(9_007_199_254_740_993_u64)), "{output}");
        let (status, output) = say(json!({"jsonrpc": "2.0", "id": 2, "method": "vendor/none"})).await;
        assert_eq!(status, 502, "{output}");
    }
    assert_eq!(say(legacy_call(3, "tool", json!({}))).await.0, 200);
}

#[tokio::test]
async fn a_stream_that_tries_a_server_does_not_keep_it_shut() {
    let broken = Arc::new(AtomicBool::new(false));
    let state = broken.clone();
    let server = MockServer::start(move |seen| match (seen.http_method.as_str(), seen.method()) {
        ("GET", _) if seen.header("last-event-id").is_some() => {
            let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n".to_vec();
            MockReply::Repeat(head, b": here\n\n".to_vec(), Duration::from_millis(100))
        }
        (_, "tools/call") if state.load(Ordering::Relaxed) => MockReply::Cut(Vec::new()),
        _ => MockReply::Good,
    })
    .await;
    let gateway = setup(&server, 1).await;
    let path = "/servers/p/mcp";
    let session = gateway.initialize(path).await;
    let call = async || gateway.say(path, &session, &legacy_call(1, "tool", json!({}))).await.0;
    assert_eq!(call().await, 200);
    broken.store(true, Ordering::Relaxed);
    assert_eq!((call().await, call().await), (502, 503), "the circuit is open");
    broken.store(false, Ordering::Relaxed);
    let mut stream = None;
    gateway
        .eventually("a stream may try it", async |g| {
            // Event ids begin with the id of the upstream session, one of the first of the process.
            for upstream_session in 1..=3 {
                let request = g.http.get(g.url(path)).header("mcp-session-id", &session);
                let request = request
                    .header("accept", "text/event-stream")
                    .header("last-event-id", format!("tg:{upstream_session}:7"));
                let answer = request.send().await.expect("an answer");
                assert!([200, 400, 503].contains(&answer.status().as_u16()), "{}", answer.status());
                if answer.status() == 200 {
                    stream = Some(answer);
                }
            }
            stream.is_some()
        })
        .await;
    let mut stream = stream.expect("it stands");
    assert!(stream.chunk().await.expect("a stream").is_some());
    assert_eq!(call().await, 200, "the stream goes on, and so do calls");
}

#[tokio::test]
async fn what_a_session_keeps_of_its_client_is_bounded() {
    let gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    let body = initialize(json!({"experimental": {"x": {"y": "z".repeat(100_000)}}}));
    let response = gateway.post("/mcp", None, &body).send().await.expect("an answer");
    assert!(!response.headers().contains_key("mcp-session-id"));
    let (_, output) = read(response).await;
    assert_eq!(output["error"]["code"], -32602, "{output}");
    gateway.initialize_with("/mcp", json!({"experimental": {"x": {"y": "z".repeat(1_000)}}})).await;
}
