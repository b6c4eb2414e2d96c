//! Batches, which only sessions of 2025-03-26 have.

use serde_json::{Value, json};

use super::{Several, listed, lists};
use crate::events::Events;
use crate::harness::{Gateway, legacy_call, read, stdio_fixture};

/// Opens a session of a version.
async fn session(gateway: &Gateway, path: &str, revision: &str) -> String {
    let open = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": revision,
        "capabilities": {"sampling": {}}, "clientInfo": {"name": "test", "version": "1"}}});
    let response = gateway.post(path, None, &open).send().await.expect("an answer");
    let id = response.headers()["mcp-session-id"].to_str().expect("ASCII").to_owned();
    let (status, answer) = read(response).await;
    assert_eq!((status, &answer["result"]["protocolVersion"]), (200, &json!(revision)), "{answer}");
    id
}

/// A POST as clients of that version send it, which know no version header.
fn post(gateway: &Gateway, path: &str, session: &str, body: &Value) -> reqwest::RequestBuilder {
    let request = gateway.http.post(gateway.url(path)).header("mcp-session-id", session);
    let request = request.header("accept", "application/json, text/event-stream");
    request.header("content-type", "application/json").body(body.to_string())
}

async fn say(gateway: &Gateway, session: &str, body: &Value) -> (u16, Value) {
    read(post(gateway, "/mcp", session, body).send().await.expect("an answer")).await
}

fn ping(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "ping"})
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_of_a_batch_goes_its_own_way() {
    let several = Several::start(&["fix"]).await;
    let gateway = &several.gateway;
    let config = std::fs::read_to_string(gateway.folder.path().join("toolgate.yaml")).expect("a file");
    let line = config.lines().find_map(|line| line.strip_prefix("mcpServers: ")).expect("the servers");
    let mut servers: Value = serde_json::from_str(line).expect("JSON");
    servers["demo"] = json!({"builtin": "demo"});
    servers["pipe"] = stdio_fixture();
    gateway.rewrite(&format!("mcpServers: {servers}\n"));
    listed(gateway, "pipe__echo").await;
    lists(gateway, "pipe__echo").await;
    let session = session(gateway, "/mcp", "2025-03-26").await;
    let batch = json!([
        ping(1),
        legacy_call(2, "fix__echo", json!({"message": "over http"})),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        legacy_call(3, "demo__echo", json!({"message": "in here"})),
        legacy_call(4, "none__such", json!({})),
        legacy_call("five", "pipe__echo", json!({"message": "by pipe"})),
        {"jsonrpc": "2.0", "id": 6, "method": "initialize", "params": {"protocolVersion": "2025-03-26",
            "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}},
        7,
        {"jsonrpc": "2.0", "id": 8, "method": "tools/list"},
    ]);
    let (status, answers) = say(gateway, &session, &batch).await;
    let all = answers.as_array().unwrap_or_else(|| panic!("{status} {answers}"));
    assert_eq!((status, all.len()), (200, 8), "{answers}");
    let text = |at: usize| all[at]["result"]["content"][0]["text"].as_str().unwrap_or_default();
    assert_eq!((&all[0]["id"], &all[0]["result"]), (&json!(1), &json!({})));
    assert_eq!((&all[1]["id"], text(1)), (&json!(2), "over http"));
    assert_eq!((&all[2]["id"], text(2)), (&json!(3), "in here"));
    assert_eq!((&all[3]["id"], &all[3]["error"]["code"]), (&json!(4), &json!(-32602)));
    assert_eq!((&all[4]["id"], text(4)), (&json!("five"), "by pipe"));
    assert_eq!((&all[5]["id"], &all[5]["error"]["code"]), (&json!(6), &json!(-32600)));
    assert_eq!((all[6].get("id"), &all[6]["error"]["code"]), (None, &json!(-32600)));
    assert!(all[7]["result"]["tools"].is_array());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_servers_say_on_the_way_makes_it_a_stream() {
    let several = Several::start(&["one", "two"]).await;
    let gateway = &several.gateway;
    let session = session(gateway, "/mcp", "2025-03-26").await;
    let batch = json!([
        legacy_call(1, "one__test_sampling", json!({"prompt": "one"})),
        legacy_call(2, "two__test_sampling", json!({"prompt": "two"})),
    ]);
    let mut stream = Events::open(post(gateway, "/mcp", &session, &batch)).await;
    let mut replies = Vec::new();
    for _ in 0..2 {
        let question = stream.method("sampling/createMessage").await;
        let text = format!("for {}", question["params"]["messages"][0]["content"]["text"]);
        replies.push(json!({"jsonrpc": "2.0", "id": question["id"], "result": {"role": "assistant",
            "model": "m", "content": {"type": "text", "text": text}}}));
    }
    // Both answers in one batch, which has no response.
    let (status, nothing) = say(gateway, &session, &json!(replies)).await;
    assert_eq!((status, nothing), (202, json!("")));
    let answers = stream.rest().await.pop().expect("the answers");
    for (at, name) in ["one", "two"].into_iter().enumerate() {
        let text = &answers[at]["result"]["content"][0]["text"];
        assert_eq!(*text, format!("LLM response: for \"{name}\""), "{answers}");
    }
}

#[tokio::test]
async fn a_batch_that_is_none_is_refused_as_a_whole() {
    let gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    let session = session(&gateway, "/mcp", "2025-03-26").await;
    let many: Vec<Value> = (0..65).map(ping).collect();
    for batch in [json!([]), json!(many), json!([ping(1), ping(2), ping(1)])] {
        let (status, answer) = say(&gateway, &session, &batch).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32600)), "{answer}");
    }
    let (status, answers) = say(&gateway, &session, &json!(many[..64])).await;
    assert_eq!((status, answers.as_array().map(Vec::len)), (200, Some(64)));
    let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(say(&gateway, &session, &json!([note, note])).await, (202, json!("")));
    let broken = post(&gateway, "/mcp", &session, &json!(1)).body("[{\"jsonrpc\":\"2.0\"},");
    let (status, answer) = read(broken.send().await.expect("an answer")).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32700)), "{answer}");
}

#[tokio::test]
async fn other_revisions_have_no_batches() {
    let gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    for revision in ["2025-06-18", "2025-11-25"] {
        let session = session(&gateway, "/mcp", revision).await;
        let (status, answer) = say(&gateway, &session, &json!([ping(1)])).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32600)), "{answer}");
    }
    let none = gateway.post("/mcp", None, &json!([ping(1)]));
    assert_eq!(none.send().await.expect("an answer").status(), 400);
}

#[tokio::test]
async fn limits_count_each_message_of_a_batch() {
    let gateway = Gateway::start(
        "mcpServers: {demo: {builtin: demo}}\nrate_limits:\n  rules:\n    - {name: few, key: [user], limit: 3/1h, match: {tools: [\"demo__echo\"]}}\n",
    )
    .await;
    let session = session(&gateway, "/mcp", "2025-03-26").await;
    let calls: Vec<Value> =
        (0..5).map(|id| legacy_call(id, "demo__echo", json!({"message": "hi"}))).collect();
    let (status, answers) = say(&gateway, &session, &json!(calls)).await;
    let all = answers.as_array().unwrap_or_else(|| panic!("{answers}"));
    let codes: Vec<&Value> = all.iter().map(|answer| &answer["error"]["code"]).collect();
    assert_eq!(status, 200);
    assert_eq!(codes, [&Value::Null, &Value::Null, &Value::Null, &json!(429), &json!(429)], "{answers}");
}

#[tokio::test]
async fn a_batch_in_a_session_that_ended_is_told_so() {
    let gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    let session = session(&gateway, "/mcp", "2025-03-26").await;
    let end = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &session);
    assert_eq!(end.send().await.expect("an answer").status(), 204);
    let (status, answer) = say(&gateway, &session, &json!([ping(1)])).await;
    assert_eq!((status, &answer["error"]["code"]), (404, &json!(404)), "{answer}");
}
