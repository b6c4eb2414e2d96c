//! The capabilities of a session and what it sets at its servers.

use serde_json::json;

use super::{calls, followed, staged};
use crate::harness::{Gateway, read};

#[tokio::test(flavor = "multi_thread")]
async fn a_level_that_is_none_is_refused_and_one_that_nobody_keeps_too() {
    let (gateway, _stage) = staged("", "").await;
    let session = gateway.initialize("/mcp").await;
    let level = |level: serde_json::Value| json!({"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": level}});
    for (word, code) in [(json!("warning"), None), (json!("loud"), Some(-32602)), (json!(3), Some(-32602))] {
        let (_, answer) = gateway.say("/mcp", &session, &level(word)).await;
        assert_eq!(answer["error"]["code"].as_i64(), code, "{answer}");
    }
    let alone = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    let session = alone.initialize("/mcp").await;
    let (_, answer) = alone.say("/mcp", &session, &level(json!("warning"))).await;
    assert_eq!(answer["error"]["code"], -32601, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_called_later_learns_the_level_first() {
    let (gateway, stage) = staged("", "").await;
    let session = gateway.initialize("/mcp").await;
    let level =
        json!({"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": "error"}});
    assert_eq!(gateway.say("/mcp", &session, &level).await.0, 200);
    assert!(stage.heard("logging/setLevel").is_empty(), "for that no session is opened");
    calls(&gateway, &session).await;
    let client = stage.clients()[0].clone();
    let all = stage.mock.all();
    let of_client = all.iter().filter(|seen| seen.header("mcp-session-id") == Some(client.as_str()));
    let message: Vec<&str> = of_client.map(|seen| seen.method()).collect();
    assert_eq!(message, ["notifications/initialized", "logging/setLevel", "tools/call"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_listed_no_more_can_be_followed_no_more() {
    let (gateway, stage) = staged("", "").await;
    let session = gateway.initialize("/mcp").await;
    let say = async |method: &str| {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"uri": "test://a"}});
        gateway.say("/mcp", &session, &body).await.1
    };
    assert_eq!(say("resources/subscribe").await["result"], json!({}));
    stage.with(|state| {
        state.lists.insert("resources/list", json!({"resources": []}));
    });
    let _stream = crate::events::Events::of_session(&gateway, "/mcp", &session).await;
    followed(&gateway, &stage, 0)
        .await
        .say(&json!({"jsonrpc": "2.0", "method": "notifications/resources/list_changed"}));
    let gone = async |_: &Gateway| say("resources/read").await["error"]["code"] == -32002;
    gateway.eventually("it is listed no more", gone).await;
    assert_eq!(say("resources/unsubscribe").await["result"], json!({}));
    assert_eq!(stage.heard("resources/unsubscribe").len(), 1);
    assert_eq!(say("resources/unsubscribe").await["error"]["code"], -32002, "now it is unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_client_that_says_much_of_itself_its_name_is_kept() {
    let (gateway, stage) = staged("", "").await;
    let open = |info: serde_json::Value, capabilities: serde_json::Value| {
        json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
            "capabilities": capabilities, "clientInfo": info}})
    };
    let icon = format!("data:image/png;base64,{}", "A".repeat(20_000));
    let info = json!({"name": "big", "version": "2", "title": "Big", "icons": [{"src": icon}]});
    let response =
        gateway.post("/mcp", None, &open(info, json!({"roots": {}}))).send().await.expect("an answer");
    let session = response.headers()["mcp-session-id"].to_str().expect("ASCII").to_owned();
    calls(&gateway, &session).await;
    let seen = stage.heard("initialize").pop().expect("a session");
    assert_eq!(seen.body["params"]["clientInfo"], json!({"name": "big", "title": "Big", "version": "2"}));
    assert_eq!(seen.body["params"]["capabilities"], json!({"roots": {}}));
    let long = json!({"experimental": {"x": "y".repeat(10_000)}});
    let info = json!({"name": "big", "version": "2"});
    let (_, answer) =
        read(gateway.post("/mcp", None, &open(info, long)).send().await.expect("an answer")).await;
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
}
