//! Requests that a person answers: they need no slot beside the call, and the timer of that call is paused.

use std::time::Duration;

use serde_json::{Value, json};

use super::{accepted, hold, question, staged};
use crate::events::Events;
use crate::harness::{Gateway, legacy_call};

fn able() -> Value {
    json!({"elicitation": {}, "roots": {}})
}

/// Makes a call send an elicitation request, and returns the request as the client gets it.
async fn asked(stream: &mut Events, call: &super::OpenSession) -> Value {
    call.say(&question(7, "may I?"));
    stream.method("elicitation/create").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_needs_no_place_where_there_is_only_one() {
    let rate = "rate_limits: {rules: [{name: one, key: [], concurrent: 1, match: {methods: [\"*\"]}}]}\n";
    for (settings, rest) in [(", max_concurrent: 1", ""), ("", rate)] {
        let (gateway, stage) = staged(settings, rest).await;
        let session = gateway.initialize_with("/mcp", able()).await;
        let (mut stream, call) = hold(&gateway, &stage, &session, 1).await;
        let id = asked(&mut stream, &call).await["id"].clone();
        // The slot is taken.
        let (status, answer) = gateway.say("/mcp", &session, &legacy_call(2, "s__tool", json!({}))).await;
        assert!(matches!(status, 429 | 503), "{status} {answer}");
        assert_eq!(gateway.say("/mcp", &session, &accepted(&id)).await, (202, json!("")), "{settings}{rest}");
        gateway.eventually("the answer is there", async |_| stage.replies().len() == 1).await;
        call.answer("thanks");
        assert_eq!(stream.rest().await.pop().expect("an answer")["result"]["content"][0]["text"], "thanks");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_passes_a_circuit_that_other_calls_have_opened() {
    let (gateway, stage) = staged(", circuit_breaker: {failures: 1, open_for: 1h}", "").await;
    let session = gateway.initialize_with("/mcp", able()).await;
    let (mut stream, call) = hold(&gateway, &stage, &session, 1).await;
    let id = asked(&mut stream, &call).await["id"].clone();
    stage.with(|state| state.refuses.insert("tools/call", "502 Bad Gateway"));
    for reason in [502, 503] {
        let call = legacy_call(2, "s__tool", json!({}));
        assert_eq!(gateway.say("/mcp", &session, &call).await.0, reason);
    }
    assert_eq!(gateway.say("/mcp", &session, &accepted(&id)).await.0, 202);
    gateway.eventually("the answer is there", async |_| stage.replies().len() == 1).await;
    call.answer("thanks");
    assert_eq!(stream.rest().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_for_a_person_but_not_for_its_server() {
    let (gateway, stage) = staged(", timeout: 1s", "").await;
    for path in ["alone", "in a batch"] {
        let revision = if path == "alone" { "2025-11-25" } else { "2025-03-26" };
        let open = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": revision, "capabilities": able(), "clientInfo": {"name": "test", "version": "1"}}});
        let response = gateway.post("/mcp", None, &open).send().await.expect("an answer");
        let session = response.headers()["mcp-session-id"].to_str().expect("ASCII").to_owned();
        let call = legacy_call(1, "s__hold", json!({}));
        let body = if path == "alone" { call } else { json!([call]) };
        let post = gateway.http.post(gateway.url("/mcp")).header("mcp-session-id", &session);
        let post = post.header("accept", "application/json, text/event-stream");
        let post = post.header("content-type", "application/json").body(body.to_string());
        let before = stage.with(|state| state.calls.len());
        let sending = tokio::spawn(Events::open(post));
        let held = async |_: &Gateway| stage.with(|state| state.calls.len()) > before;
        gateway.eventually("the server holds it", held).await;
        let call = stage.call().expect("a call");
        call.say(&question(7, "may I?"));
        let mut stream = sending.await.expect("no panic");
        let id = stream.method("elicitation/create").await["id"].clone();
        // Longer than the timeout of the call, without a message of the server.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(gateway.say("/mcp", &session, &accepted(&id)).await.0, 202, "{path}");
        call.say(&logged_progress());
        assert_eq!(stream.next().await.expect("it goes on")["method"], "notifications/progress", "{path}");
        // After the last answer the timer resumes, and expires.
        let last = stream.rest().await.pop().expect("an end");
        let error = if path == "alone" { &last["error"] } else { &last[0]["error"] };
        assert_eq!(error["code"], 504, "{path}: {last}");
    }
    // The server is notified of it, if it can be.
    gateway
        .eventually("the call is cancelled", async |_| !stage.heard("notifications/cancelled").is_empty())
        .await;
}

fn logged_progress() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_is_taken_back_lets_the_time_go_on() {
    let (gateway, stage) = staged(", timeout: 1s", "").await;
    let session = gateway.initialize_with("/mcp", able()).await;
    let (mut stream, call) = hold(&gateway, &stage, &session, 1).await;
    let id = asked(&mut stream, &call).await["id"].clone();
    call.say(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}));
    let all = stream.rest().await;
    assert_eq!(all[0]["params"]["requestId"], id, "under the id that the client knows");
    assert_eq!(all[1]["error"]["code"], 504, "{all:?}");
    assert_eq!(gateway.say("/mcp", &session, &accepted(&id)).await.0, 202);
    assert!(stage.replies().is_empty(), "nobody waits for it");
}
