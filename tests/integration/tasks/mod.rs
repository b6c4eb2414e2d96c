//! Tasks (SEP-2663, `io.modelcontextprotocol/tasks`), and those of 2025-11-25.

mod of_sessions;
mod offered;
mod passed;
mod processes;
mod real;
mod transports;

use std::time::Duration;

use serde_json::{Value, json};

use crate::bridge::modern_call;
use crate::harness::{Gateway, read};
use crate::mock_server::{MockReply, MockServer, RecordedRequest, acknowledged, answer, json_answer};
use tokio::sync::broadcast;

pub const EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// The id of a task as its server knows it.
pub const RAW: &str = "raw-1";

/// The capabilities of a client that has tasks.
pub fn declared() -> Value {
    json!({"extensions": {EXTENSION: {}}})
}

/// A modern request of a client with these capabilities, for this caller (an API key).
pub async fn send(gateway: &Gateway, path: &str, key: &str, body: &Value) -> (u16, Value) {
    read(request(gateway, path, key, body).send().await.expect("an answer")).await
}

pub fn request(gateway: &Gateway, path: &str, key: &str, body: &Value) -> reqwest::RequestBuilder {
    let params = &body["params"];
    let mut request = gateway
        .http
        .post(gateway.url(path))
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", body["method"].as_str().expect("a method"))
        .body(body.to_string());
    if let Some(name) = params.get("name").or_else(|| params.get("taskId")).and_then(Value::as_str) {
        request = request.header("mcp-name", name);
    }
    if !key.is_empty() {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    request
}

/// A call of a client that has tasks.
pub fn call(id: u64, tool: &str, arguments: Value) -> Value {
    modern_call(id, tool, arguments, &declared())
}

/// A request of a client with these capabilities about a task.
pub fn about_as(method: &str, task: &str, capabilities: &Value, more: Value) -> Value {
    let mut body = modern_call(7, "", json!({}), capabilities);
    body["method"] = json!(method);
    let params = body["params"].as_object_mut().expect("params");
    params.remove("name");
    params.remove("arguments");
    params.insert("taskId".into(), json!(task));
    params.extend(more.as_object().expect("members").clone());
    body
}

pub fn about(method: &str, task: &str) -> Value {
    about_as(method, task, &declared(), json!({}))
}

/// A `subscriptions/listen` for these tasks.
pub fn listen(ids: &[&str], capabilities: &Value) -> Value {
    let mut body = about_as("subscriptions/listen", "", capabilities, json!({}));
    let params = body["params"].as_object_mut().expect("params");
    params.remove("taskId");
    params.insert("notifications".into(), json!({"taskIds": ids}));
    body
}

/// The outward id in a result that is a task.
pub fn task_of(answer: &Value) -> String {
    assert_eq!(answer["result"]["resultType"], "task", "{answer}");
    answer["result"]["taskId"].as_str().expect("an id").to_owned()
}

/// Asks for a task until it has this status.
pub async fn until(gateway: &Gateway, path: &str, key: &str, task: &str, status: &str) -> Value {
    let deadline = std::time::Instant::now() + crate::harness::TEST_TIMEOUT;
    loop {
        let (code, got) = send(gateway, path, key, &about("tasks/get", task)).await;
        assert_eq!((code, &got["result"]["resultType"]), (200, &json!("complete")), "{got}");
        assert_eq!(got["result"]["taskId"], *task, "{got}");
        if got["result"]["status"] == status {
            return got["result"].clone();
        }
        assert!(std::time::Instant::now() < deadline, "not {status} in time: {got}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_declared(seen: &RecordedRequest) -> bool {
    let capabilities = &seen.body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"];
    capabilities["extensions"].get(EXTENSION).is_some()
}

/// A modern server whose tool `report` becomes a task for clients that declare the extension; `plain` never does.
/// What is sent on `changes` goes to who listens.
pub async fn server_with_tasks(changes: broadcast::Sender<Value>) -> MockServer {
    let task = |status: &str| {
        json!({"taskId": RAW, "status": status, "createdAt": "2026-11-30T10:00:00Z",
            "lastUpdatedAt": "2026-11-30T10:00:01Z", "ttlMs": 60000, "pollIntervalMs": 100})
    };
    MockServer::start(move |seen| {
        let named = seen.body["params"]["taskId"] == RAW && seen.header("mcp-name") == Some(RAW);
        let result = match seen.method() {
            "server/discover" => json!({"supportedVersions": ["2026-07-28"], "resultType": "complete", "ttlMs": 0,
                "cacheScope": "private", "capabilities": {"tools": {}, "extensions": {EXTENSION: {}}}}),
            "tools/list" => crate::mock_server::tools(&["report", "plain"]),
            "tools/call" if seen.tool() == "report" && is_declared(seen) => {
                let mut created = task("working");
                created["resultType"] = json!("task");
                created
            }
            "tasks/get" if named => {
                let mut got = task("completed");
                got["resultType"] = json!("task");
                got["result"] = json!({"content": [{"type": "text", "text": "the report"}]});
                got
            }
            "tasks/update" | "tasks/cancel" if named => json!({"resultType": "complete"}),
            "tasks/get" | "tasks/update" | "tasks/cancel" => {
                let error = json!({"jsonrpc": "2.0", "id": seen.body["id"], "error": {"code": -32602, "message": "no such task"}});
                return MockReply::Say(json_answer(&error.to_string()));
            }
            "subscriptions/listen" => {
                let wanted = &seen.body["params"]["notifications"];
                let known = match wanted["taskIds"].as_array() {
                    Some(_) if is_declared(seen) => json!({"taskIds": [RAW]}),
                    _ => json!({}),
                };
                let id = seen.body["id"].clone();
                let mut change = task("working");
                change["_meta"] = json!({"io.modelcontextprotocol/subscriptionId": id});
                let change = json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": change});
                let mut first = vec![acknowledged(seen, &known)];
                if known.get("taskIds").is_some() {
                    first.push(change);
                }
                return MockReply::Stream(first, changes.subscribe());
            }
            _ => return MockReply::Good,
        };
        MockReply::Say(json_answer(&answer(seen, &result)))
    })
    .await
}
