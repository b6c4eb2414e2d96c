//! The end of a session, with every HTTP method and with calls in flight.

use serde_json::json;

use super::{Several, listed};
use crate::events::Events;
use crate::harness::{Gateway, legacy_call, read, stdio_fixture};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ended_is_nowhere_and_ends_its_calls() {
    let fixture = stdio_fixture();
    let gateway =
        Gateway::start(&format!("mcpServers: {{pipe: {fixture}, demo: {{builtin: demo}}}}\n")).await;
    listed(&gateway, "pipe__echo").await;
    let (watcher, session) = (gateway.initialize("/mcp").await, gateway.initialize("/mcp").await);
    let call = legacy_call(1, "pipe__sleep", json!({"seconds": 600}));
    let call = tokio::spawn(gateway.post("/mcp", Some(&session), &call).send());
    let started = async |g: &Gateway| g.count(&watcher, "pipe", "sleep.started").await == 1;
    gateway.eventually("it runs", started).await;
    let mut stream = Events::of_session(&gateway, "/mcp", &session).await;

    let http_method = |http_method: reqwest::Method| {
        let request =
            gateway.http.request(http_method, gateway.url("/mcp")).header("mcp-session-id", &session);
        request.header("accept", "text/event-stream").send()
    };
    assert_eq!(http_method(reqwest::Method::DELETE).await.expect("an answer").status(), 204);
    let (status, answer) = read(call.await.expect("no panic").expect("an answer")).await;
    assert!(answer["error"].is_object(), "{status} {answer}");
    let cancelled = async |g: &Gateway| g.count(&watcher, "pipe", "sleep.cancelled").await == 1;
    gateway.eventually("the server is told", cancelled).await;
    assert_eq!(stream.next().await, None);

    for again in [reqwest::Method::DELETE, reqwest::Method::GET] {
        assert_eq!(http_method(again.clone()).await.expect("an answer").status(), 404, "{again}");
    }
    for body in [
        json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}),
        json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}),
        json!({"jsonrpc": "2.0", "id": "tg:1:1", "result": {}}),
        legacy_call(2, "demo__echo", json!({"message": "hi"})),
    ] {
        assert_eq!(gateway.say("/mcp", &session, &body).await.0, 404, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_ends_with_unsubscribe_and_with_its_session() {
    let several = Several::start(&["fix", "two"]).await;
    let gateway = &several.gateway;
    let watcher = gateway.initialize("/mcp").await;
    let session = gateway.initialize("/mcp").await;
    let deleted = gateway.count(&watcher, "fix", "http.DELETE").await;
    let uri = "test://watched-resource";
    for method in ["resources/subscribe", "resources/unsubscribe", "resources/subscribe"] {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"uri": uri}});
        let (status, answer) = gateway.say("/mcp", &session, &body).await;
        assert_eq!((status, &answer["result"]), (200, &json!({})), "{answer}");
    }
    let unknown =
        json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": "no://x"}});
    let (_, answer) = gateway.say("/mcp", &session, &unknown).await;
    assert!(answer["error"].is_object(), "{answer}");
    let end = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &session);
    assert_eq!(end.send().await.expect("an answer").status(), 204);
    let output = async |g: &Gateway| g.count(&watcher, "fix", "http.DELETE").await == deleted + 1;
    gateway.eventually("the server's session ends, and all that it followed", output).await;
}
