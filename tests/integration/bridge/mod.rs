//! The bridge between the eras: clients of one era at servers of the other.

mod connections;
mod ends;
mod every_tool;
mod many_callers;
mod outside_questions;
mod outsiders;
mod processes;
mod request_state;
mod sdks;
mod stateless;
mod subscriptions;
mod subscriptions_end;
mod tables;

use serde_json::{Value, json};

use crate::harness::{Gateway, a_fixture_of, read, stdio_fixture};
use crate::process::Process;

/// A gateway in front of one HTTP server and one process of each era, and the gateway's own server.
pub struct Bridged {
    pub gateway: Gateway,
    _servers: [Process; 2],
}

impl Bridged {
    pub async fn start(rest: &str) -> Self {
        let (old, old_url) = a_fixture_of("legacy").await;
        let (new, new_url) = a_fixture_of("modern").await;
        let (mut old_pipe, mut new_pipe) = (stdio_fixture(), stdio_fixture());
        old_pipe["era"] = json!("legacy");
        new_pipe["era"] = json!("modern");
        let servers = json!({"old": {"url": old_url}, "new": {"url": new_url}, "old_pipe": old_pipe,
            "new_pipe": new_pipe, "demo": {"builtin": "demo"}});
        let gateway = Gateway::start(&format!("mcpServers: {servers}\n{rest}")).await;
        Self { gateway, _servers: [old, new] }
    }
}

/// Everything that a client can be asked.
pub fn able() -> Value {
    json!({"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}})
}

/// A modern request of a client with these capabilities, for this caller (an API key).
pub async fn send(gateway: &Gateway, path: &str, key: &str, body: &Value) -> (u16, Value) {
    let name = body["params"].get("name").or_else(|| body["params"].get("uri"));
    let mut request = gateway
        .http
        .post(gateway.url(path))
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", body["method"].as_str().expect("a method"))
        .body(body.to_string());
    if let Some(name) = name.and_then(Value::as_str) {
        request = request.header("mcp-name", name);
    }
    if !key.is_empty() {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    read(request.send().await.expect("an answer")).await
}

/// A modern tool call.
pub fn modern_call(id: u64, tool: &str, arguments: Value, capabilities: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments,
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": capabilities}}})
}

/// The retry of a call with these answers.
pub fn retry(call: &Value, id: u64, asked: &Value, answers: Value) -> Value {
    let mut retry = call.clone();
    retry["id"] = json!(id);
    retry["params"]["inputResponses"] = answers;
    retry["params"]["requestState"] = asked["result"]["requestState"].clone();
    retry
}

/// The key of the only question of a result, and the question.
pub fn question(asked: &Value) -> (String, Value) {
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    let questions = asked["result"]["inputRequests"].as_object().expect("questions");
    assert_eq!(questions.len(), 1, "{asked}");
    let (key, question) = questions.iter().next().expect("a question");
    (key.clone(), question.clone())
}

/// An accepted form.
pub fn accepted(name: &str) -> Value {
    json!({"action": "accept", "content": {"username": name, "email": "a@example.com"}})
}

/// The text of a tool's result.
pub fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_default()
}
