//! How the end of a response counts for its server: in the circuit breaker, and in the pool of its
//! endpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::call;
use crate::harness::{Gateway, legacy_call};
use crate::mock_server::{self, MockReply, MockServer, RecordedRequest};
use crate::raw::{Client, Head};

const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

/// A progress message of a call, as an event.
fn step() -> Vec<u8> {
    let params = json!({"progressToken": 1, "progress": 1});
    let note = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
    format!("data: {note}\n\n").into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_has_begun_to_speak_closes_the_circuit() {
    let sick = Arc::new(AtomicBool::new(false));
    let breaks = sick.clone();
    let mock = MockServer::start(move |seen| match seen.body["params"]["arguments"]["how"].as_str() {
        _ if seen.tool() != "tool" => MockReply::Good,
        _ if breaks.load(Ordering::SeqCst) => MockReply::Cut(Vec::new()),
        Some("stream") => MockReply::Repeat(STREAM.into(), step(), Duration::from_millis(50)),
        _ => MockReply::Good,
    })
    .await;
    let settings = "circuit_breaker: {failures: 1, open_for: 500ms}, timeout: 1h";
    let gateway =
        Gateway::start(&format!("mcpServers: {{up: {{url: \"{}\", {settings}}}}}\n", mock.url)).await;
    sick.store(true, Ordering::SeqCst);
    assert_eq!(gateway.call("up__tool", json!({})).await.0, 502);
    assert_eq!(gateway.call("up__tool", json!({})).await.0, 503, "the circuit is open");
    sick.store(false, Ordering::SeqCst);
    // The probe call is a stream that does not end.
    let mut streamed = None;
    gateway
        .eventually("a call tries", async |g| {
            let arguments = json!({"name": "up__tool", "arguments": {"how": "stream"}});
            let response = g.modern_request("/mcp", "tools/call", arguments).send().await.expect("an answer");
            let begun = response.status() == 200;
            streamed = Some(response);
            begun
        })
        .await;
    gateway.eventually("others pass", async |g| g.call("up__tool", json!({})).await.0 == 200).await;
    drop(streamed);
}

/// Two endpoints; the first one handles calls this way.
async fn pair(
    bad: impl Fn(&RecordedRequest) -> MockReply + Send + Sync + 'static,
) -> (Gateway, [MockServer; 2]) {
    let mocks = [MockServer::start(bad).await, MockServer::start(|_| MockReply::Good).await];
    let urls = [&mocks[0].url, &mocks[1].url];
    let settings = "health: {interval: 200ms}, timeout: 1s";
    let gateway =
        Gateway::start(&format!("mcpServers: {{up: {{urls: {}, {settings}}}}}\n", json!(urls))).await;
    let both = async |g: &Gateway| is_in(g, &mocks[0], 1.0).await && is_in(g, &mocks[1], 1.0).await;
    gateway.eventually("both are there", both).await;
    (gateway, mocks)
}

async fn is_in(gateway: &Gateway, mock: &MockServer, value: f64) -> bool {
    let label = mock.url.trim_start_matches("http://");
    let name = format!("toolgate_upstream_endpoint_up{{endpoint=\"{label}\",server=\"up\"}}");
    gateway.has_metric(&name, value).await
}

/// A call by Pingora, or by the gateway's own HTTP client.
async fn one(gateway: &Gateway, carried: bool) {
    let data = "x".repeat(if carried { 100_000 } else { 10 });
    let (head, body) = call("up__tool", &json!({"data": data}));
    let request = if carried { head.chunked(&body, 30_000) } else { head.whole(&body) };
    Client::connect(gateway.port).await.exchange(&request).await;
}

const BEGINNING: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_says_a_head_and_no_more_is_taken_out() {
    for carried in [false, true] {
        let (gateway, mocks) = pair(|seen| match seen.tool() {
            "tool" => MockReply::Hang(BEGINNING.into()),
            _ => MockReply::Good,
        })
        .await;
        let out = async |g: &Gateway| {
            futures::future::join_all((0..4).map(|_| one(g, carried))).await;
            is_in(g, &mocks[0], 0.0).await
        };
        gateway.eventually("it is taken out", out).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_breaks_off_in_the_midst_of_its_answers_is_taken_out() {
    let sick = Arc::new(AtomicBool::new(false));
    let breaks = sick.clone();
    let (gateway, mocks) = pair(move |seen| match seen.tool() {
        "tool" if breaks.load(Ordering::SeqCst) => MockReply::Cut(BEGINNING.into()),
        _ => MockReply::Good,
    })
    .await;
    let out = async |g: &Gateway| {
        // Reused connections, which may also have been closed just then.
        sick.store(false, Ordering::SeqCst);
        futures::future::join_all((0..32).map(|_| one(g, false))).await;
        sick.store(true, Ordering::SeqCst);
        for _ in 0..6 {
            one(g, false).await;
        }
        is_in(g, &mocks[0], 0.0).await
    };
    gateway.eventually("it is taken out", out).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_a_seat_is_a_part_of_the_time_of_a_call() {
    // Each message comes in time, but all of them together take too long.
    let mock = MockServer::start(|seen| match seen.method() {
        "initialize" | "notifications/initialized" => {
            let good = String::from_utf8_lossy(&mock_server::good(seen)).replacen(
                "\r\n",
                "\r\nConnection: close\r\n",
                1,
            );
            MockReply::Pause(Vec::new(), Duration::from_millis(1500), good.into_bytes())
        }
        _ => MockReply::Good,
    })
    .await;
    let server = format!("{{url: \"{}\", era: legacy, timeout: 2s}}", mock.url);
    let gateway = Gateway::start(&format!("mcpServers: {{up: {server}}}\n")).await;
    gateway.eventually("its tool is there", async |g| g.get("/health").await.contains("\"tools\":1")).await;
    for size in [10, 100_000] {
        let session = gateway.initialize("/mcp").await;
        let call = legacy_call(1, "up__tool", json!({"data": "x".repeat(size)})).to_string();
        let head = Head::post("/mcp").with("Mcp-Session-Id", &session);
        let head = head.with("MCP-Protocol-Version", "2025-11-25");
        let request = head.chunked(call.as_bytes(), 30_000);
        let answer = Client::connect(gateway.port).await.exchange(&request).await.expect("an answer");
        assert_eq!(answer.status, 504, "{}", answer.message());
    }
    assert_eq!(mock.count("tools/call"), 0, "nobody waits for them any more");
}
