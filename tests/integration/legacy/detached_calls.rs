//! Calls whose exchange ends before their response: they continue, can be cancelled, and end with their
//! session.

use serde_json::json;

use super::{calls, hold, listed, staged};
use crate::events::Events;
use crate::harness::{Gateway, legacy_call, stdio_fixture};

fn cancel(id: &str) -> serde_json::Value {
    json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id, "reason": "a test"}})
}

async fn end(gateway: &Gateway, session: &str) {
    let end = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", session);
    assert_eq!(end.send().await.expect("an answer").status(), 204);
}

/// Waits until the gateway has noticed that the client of a call disconnected.
async fn noticed(gateway: &Gateway) {
    let left = "toolgate_requests_total{method=\"tools/call\",outcome=\"client_aborted\",server=\"s\",tool=\"s__hold\"}";
    gateway.eventually("the client has left", async |g| g.metric(left).await >= 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_client_left_can_be_cancelled_and_ends_with_its_session() {
    for capabilities in [json!({}), json!({"elicitation": {}})] {
        let (gateway, stage) = staged("", "").await;
        let session = gateway.initialize_with("/mcp", capabilities).await;
        let (stream, _call) = hold(&gateway, &stage, &session, "first").await;
        drop(stream);
        noticed(&gateway).await;
        let sent = stage.sent();
        assert_ne!(sent, "first", "the server knows it by another id");
        assert_eq!(gateway.say("/mcp", &session, &cancel("first")).await.0, 202);
        let output = stage.heard("notifications/cancelled");
        assert_eq!(output.len(), 1, "its sender hears that it was taken when it is there");
        assert_eq!(output[0].body["params"], json!({"requestId": sent, "reason": "a test"}));
        assert_eq!(gateway.say("/mcp", &session, &cancel("first")).await.0, 202);
        assert_eq!(stage.heard("notifications/cancelled").len(), 1, "it is over");

        let (stream, _call) = hold(&gateway, &stage, &session, "second").await;
        drop(stream);
        end(&gateway, &session).await;
        gateway
            .eventually("the second too", async |_| stage.heard("notifications/cancelled").len() == 2)
            .await;
        assert_eq!(stage.heard("notifications/cancelled")[1].body["params"]["requestId"], stage.sent());
        gateway.eventually("and the session", async |_| stage.clients().is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_before_the_answer_is_no_end_of_the_call() {
    let (gateway, stage) = staged("", "").await;
    let session = gateway.initialize("/mcp").await;
    let begin = async |id: &str| {
        let (mut stream, call) = hold(&gateway, &stage, &session, id).await;
        call.raw("id: 1\nretry: 50\ndata:\n\n");
        call.end();
        assert!(stream.rest().await.is_empty(), "the server ends the stream");
        stream.last_id.expect("an id to go on from")
    };
    begin("polled").await;
    assert_eq!(gateway.say("/mcp", &session, &cancel("polled")).await.0, 202);
    assert_eq!(stage.heard("notifications/cancelled").len(), 1);

    // A call whose response was received on a resumed stream is over.
    let last = begin("answered").await;
    let before = stage.with(|state| state.streams.len());
    let get = gateway.http.get(gateway.url("/mcp")).header("mcp-session-id", &session);
    let resumed = tokio::spawn(Events::open(get.header("last-event-id", &last)));
    gateway
        .eventually("it is gone on with", async |_| stage.with(|state| state.streams.len()) > before)
        .await;
    let server = stage.with(|state| state.streams.pop()).expect("a stream");
    server.say(&json!({"jsonrpc": "2.0", "id": stage.sent(), "result": {"content": []}}));
    let mut stream = resumed.await.expect("no panic");
    assert_eq!(stream.next().await.expect("the answer")["id"], "answered");
    assert_eq!(gateway.say("/mcp", &session, &cancel("answered")).await.0, 202);
    assert_eq!(stage.heard("notifications/cancelled").len(), 1, "nothing is left to cancel");
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_gone_on_with_ends_with_its_session() {
    let (gateway, stage) = staged("", "").await;
    let session = gateway.initialize("/mcp").await;
    let (mut stream, call) = hold(&gateway, &stage, &session, 1).await;
    call.raw("id: 1\ndata:\n\n");
    call.end();
    stream.rest().await;
    let get = gateway.http.get(gateway.url("/mcp")).header("mcp-session-id", &session);
    let get = get.header("last-event-id", stream.last_id.expect("an id"));
    let mut resumed = Events::open(get).await;
    // The server would work on it forever.
    stage.with(|state| state.refuses.insert("DELETE", "405 Method Not Allowed"));
    end(&gateway, &session).await;
    assert_eq!(resumed.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_under_way_is_not_begun_anew_when_its_session_ends() {
    let (gateway, stage) = staged("", "").await;
    stage.with(|state| state.refuses.insert("DELETE", "405 Method Not Allowed"));
    for id in ["one", "two"] {
        let session = gateway.initialize("/mcp").await;
        calls(&gateway, &session).await;
        let (opened, called) = (stage.heard("initialize").len(), stage.heard("tools/call").len());
        let late =
            tokio::spawn(gateway.post("/mcp", Some(&session), &legacy_call(id, "s__late", json!({}))).send());
        gateway.eventually("it is there", async |_| stage.heard("tools/call").len() > called).await;
        let sent = stage.sent();
        end(&gateway, &session).await;
        // The server that keeps its sessions is told what to cancel.
        let output = async |_: &Gateway| {
            stage.heard("notifications/cancelled").iter().any(|seen| seen.body["params"]["requestId"] == sent)
        };
        gateway.eventually("it is cancelled", output).await;
        let answer = late.await.expect("no panic").expect("an answer");
        assert_eq!(answer.status(), 404);
        assert_eq!(stage.heard("initialize").len(), opened, "nobody opens a session for it");
        assert_eq!(stage.heard("tools/call").len(), called + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_a_process_whose_client_left_can_be_cancelled() {
    let gateway = Gateway::start(&format!("mcpServers: {{pipe: {}}}\n", stdio_fixture())).await;
    listed(&gateway, "pipe__sleep").await;
    let (watcher, session) = (gateway.initialize("/mcp").await, gateway.initialize("/mcp").await);
    let count = async |name: &str| gateway.count(&watcher, "pipe", name).await;
    let call = legacy_call("long", "pipe__sleep", json!({"seconds": 600}));
    let running = tokio::spawn(gateway.post("/mcp", Some(&session), &call).send());
    gateway.eventually("it runs", async |_| count("sleep.started").await == 1).await;
    running.abort();
    let left = "toolgate_requests_total{method=\"tools/call\",outcome=\"client_aborted\",server=\"pipe\",tool=\"pipe__sleep\"}";
    gateway.eventually("the client has left", async |g| g.metric(left).await >= 1.0).await;
    assert_eq!(count("sleep.cancelled").await, 0, "that is no cancellation");
    assert_eq!(gateway.say("/mcp", &session, &cancel("long")).await.0, 202);
    gateway.eventually("it is cancelled", async |_| count("sleep.cancelled").await == 1).await;
}
