//! Servers that lose their legacy sessions.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::{HostileSetup, Status, ask, judge, setup_with, text, works};
use crate::mock_server::{MockReply, RecordedRequest, answer, good, http};
use crate::raw::{Client, Head};

/// The sessions that a server knows, and the total number of sessions.
type Known = Arc<Mutex<(HashSet<String>, usize)>>;

/// A server that answers 404 in unknown sessions; with `never` it knows none.
fn forgetful(known: Known, never: bool) -> impl Fn(&RecordedRequest) -> MockReply + Send + Sync + 'static {
    move |seen| {
        let mut known = known.lock().expect("no play panics with the lock");
        if seen.method() == "initialize" {
            known.1 += 1;
            let id = format!("session-{}", known.1);
            known.0.insert(id.clone());
            let result = json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                "serverInfo": {"name": "mock", "version": "1"}});
            let headers = ["Content-Type: application/json", &format!("Mcp-Session-Id: {id}")];
            return MockReply::Say(http("200 OK", &headers, &answer(seen, &result)));
        }
        let stands = seen.header("mcp-session-id").is_none_or(|id| known.0.contains(id));
        if !stands || never && seen.method() == "tools/call" {
            let error = json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32001, "message": "Session not found"}});
            return MockReply::Say(http(
                "404 Not Found",
                &["Content-Type: application/json"],
                &error.to_string(),
            ));
        }
        MockReply::Say(good(seen))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_session_is_opened_again_without_the_client_knowing() {
    let known = Known::default();
    let HostileSetup { gateway, bad, _good } = setup_with(forgetful(known.clone(), false), "").await;
    let session = gateway.initialize("/mcp").await;
    works(&gateway, "bad__tool", Some(&session)).await;
    for long in [false, true] {
        known.lock().expect("no play panics with the lock").0.clear();
        let (opened, called) = (bad.count("initialize"), bad.count("tools/call"));
        let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call",
            "params": {"name": "bad__tool", "arguments": {"x": "y".repeat(if long { 200_000 } else { 10 })}}});
        let head =
            Head::post("/mcp").with("Mcp-Session-Id", &session).with("MCP-Protocol-Version", "2025-11-25");
        let request = head.chunked(body.to_string().as_bytes(), 50_000);
        let answer = Client::connect(gateway.port).await.exchange(&request).await.expect("an answer");
        assert_eq!(text(&answer), "done", "long: {long}: {} {}", answer.status, answer.message());
        assert_eq!(
            (bad.count("initialize") - opened, bad.count("tools/call") - called),
            (1, 2),
            "long: {long}"
        );
        let last = bad.calls().pop().expect("a call");
        assert_eq!(
            last.body["params"]["arguments"], body["params"]["arguments"],
            "the body went again as it was"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgets_every_session_is_asked_twice_and_no_more() {
    let HostileSetup { gateway, bad, _good } = setup_with(forgetful(Known::default(), true), "").await;
    let session = gateway.initialize("/mcp").await;
    for turn in 1..=3 {
        let answer = ask(&gateway, "bad__tool", Some(&session)).await.expect("an answer");
        assert_eq!(judge(&answer, 502, Status::Free), Ok(()));
        assert_eq!(bad.count("tools/call"), 2 * turn);
        works(&gateway, "good__tool", Some(&session)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_sessions_to_clients_becomes_a_502() {
    // The gateway's own session is the first.
    let known = Known::default();
    let play = forgetful(known.clone(), false);
    let refuse = move |seen: &RecordedRequest| {
        let first = known.lock().expect("no play panics with the lock").1 == 0;
        match seen.method() {
            "initialize" if !first => {
                MockReply::Say(http("500 Internal Server Error", &["Content-Type: text/html"], "<p>full"))
            }
            _ => play(seen),
        }
    };
    let HostileSetup { gateway, bad: _bad, _good } = setup_with(refuse, "").await;
    let session = gateway.initialize("/mcp").await;
    let answer = ask(&gateway, "bad__tool", Some(&session)).await.expect("an answer");
    assert_eq!(judge(&answer, 502, Status::Free), Ok(()));
    works(&gateway, "good__tool", Some(&session)).await;
    works(&gateway, "bad__tool", None).await;
}
