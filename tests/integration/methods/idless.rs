//! A request's method without an `id` (JSON-RPC 2.0 §4.1) is a call that expects no response: it would run
//! without authorization. It is accepted and dropped, on every path.

use serde_json::{Value, json};

use crate::harness::Gateway;
use crate::legacy::scripted_server::ScriptedServer;
use crate::legacy::{calls, lists, setup_with};

/// Messages that no version defines as a client's notification.
fn strays() -> Vec<Value> {
    let note = |method: &str, params: Value| json!({"jsonrpc": "2.0", "method": method, "params": params});
    let initialize = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}});
    let mut all = vec![
        note("tools/call", json!({"name": "s__tool", "arguments": {}})),
        note("tools/call", json!({"name": "tool", "arguments": {}})),
        note("prompts/get", json!({"name": "s__p"})),
        note("resources/read", json!({"uri": "test://a"})),
        note("resources/subscribe", json!({"uri": "test://a"})),
        note("initialize", initialize),
        note("logging/setLevel", json!({"level": "debug"})),
        note("tasks/cancel", json!({"taskId": "1"})),
        note("completion/complete", json!({"ref": {"type": "ref/prompt", "name": "p"}})),
        note("sampling/createMessage", json!({})),
        note("notifications/message", json!({"level": "info", "data": "x"})),
        note("notifications/tools/list_changed", json!({})),
    ];
    for method in ["ping", "tools/list", "admin/anything", "notifications/nobody/knows", "Tools/call", ""] {
        all.push(note(method, json!({})));
    }
    all
}

/// Messages that reached the server, other than those of a session and of the gateway itself.
fn unexpected(stage: &ScriptedServer) -> Vec<Value> {
    let marker = "notifications/roots/list_changed";
    let all = stage.mock.all().into_iter();
    let all = all.filter(|seen| seen.http_method == "POST" && seen.body.get("id").is_none());
    let known = ["notifications/initialized", marker, "notifications/cancelled"];
    all.map(|seen| seen.body).filter(|body| !known.contains(&body["method"].as_str().unwrap_or(""))).collect()
}

#[tokio::test]
async fn a_call_without_an_id_reaches_no_server_and_is_counted() {
    let stage = ScriptedServer::start().await;
    let roles = "auth: {required: false, anonymous: {roles: [little]}}\nrbac: {roles: {little: {admin: true, allow: {tools: [\"s__tool\"]}}}}\n";
    let gateway = Gateway::start(&setup_with(&stage, "", roles)).await;
    lists(&gateway, "s__tool").await;
    for path in ["/mcp", "/servers/s/mcp"] {
        let session = gateway.initialize(path).await;
        if path == "/mcp" {
            calls(&gateway, &session).await;
        } else {
            let call = crate::harness::legacy_call(1, "tool", json!({}));
            assert_eq!(gateway.say(path, &session, &call).await.0, 200);
        }
        let called = stage.heard("tools/call").len();
        for stray in strays() {
            let (status, answer) = gateway.say(path, &session, &stray).await;
            assert_eq!((status, answer), (202, json!("")), "{stray}");
        }
        // A notification that the version defines is forwarded, and so comes after all of them.
        let roots = json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"});
        let before = stage.heard("notifications/roots/list_changed").len();
        assert_eq!(gateway.say(path, &session, &roots).await.0, 202);
        assert_eq!(stage.heard("notifications/roots/list_changed").len(), before + 1);
        assert_eq!(unexpected(&stage), Vec::<Value>::new(), "{path}");
        assert_eq!(stage.heard("tools/call").len(), called, "{path}");
    }
    let count = async |method: &str| {
        let labels = format!("from=\"client\",kind=\"notification\",method=\"{method}\",server=\"\"");
        gateway.metric(&format!("toolgate_messages_dropped_total{{{labels}}}")).await
    };
    assert_eq!((count("tools/call").await, count("_other").await), (4.0, 8.0));
    assert!(gateway.process.story().contains("a message that its sender may not send was dropped"));
}

#[tokio::test]
async fn nor_does_one_in_a_batch() {
    let stage = ScriptedServer::start().await;
    stage.with(|state| state.version = Some("2025-03-26"));
    let gateway = Gateway::start(&setup_with(&stage, "", "")).await;
    lists(&gateway, "s__tool").await;
    let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-03-26",
        "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}});
    let opened = gateway.post("/mcp", None, &body).send().await.expect("an answer");
    let session = opened.headers()["mcp-session-id"].to_str().expect("an id").to_owned();
    calls(&gateway, &session).await;
    let called = stage.heard("tools/call").len();
    let mut batch = strays();
    batch.push(json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}));
    batch.push(json!({"jsonrpc": "2.0", "id": 5, "method": "ping"}));
    let (status, answer) = gateway.say("/mcp", &session, &Value::Array(batch)).await;
    assert_eq!((status, &answer), (200, &json!([{"jsonrpc": "2.0", "id": 5, "result": {}}])));
    assert_eq!(stage.heard("notifications/roots/list_changed").len(), 1);
    assert_eq!(unexpected(&stage), Vec::<Value>::new());
    assert_eq!(stage.heard("tools/call").len(), called);
}
