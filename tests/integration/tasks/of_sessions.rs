//! The tasks of 2025-11-25 pass at the endpoint of one server: a real server (TypeScript SDK), and a client in
//! sessions.

use serde_json::json;

use crate::events::Events;
use crate::harness::{Gateway, free_port, python};
use crate::real_servers_setup::everything;

const PATH: &str = "/servers/everything/mcp";

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_a_session_is_asked_about_answered_and_read_in_it() {
    let port = free_port();
    let server = tokio::task::spawn_blocking(move || everything(port)).await;
    let _server = server.expect("everything starts");
    let servers =
        json!({"everything": {"url": format!("http://127.0.0.1:{port}/mcp"), "health": {"interval": "1h"}}});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    let able = json!({"elicitation": {}, "tasks": {"requests": {"elicitation": {"create": {}}}}});
    let session = gateway.initialize_with(PATH, able.clone()).await;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "simulate-research-query",
        "arguments": {"topic": "python", "ambiguous": true}, "task": {"ttl": 60000}}});
    let (status, created) = gateway.say(PATH, &session, &call).await;
    let task = created["result"]["task"]["taskId"].as_str().map(str::to_owned);
    let task = task.unwrap_or_else(|| panic!("{status} no task: {created}"));
    let about = |id: u64, method: &str| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": {"taskId": task}});
    let (_, got) = gateway.say(PATH, &session, &about(2, "tasks/get")).await;
    assert_eq!(got["result"]["taskId"], *task, "{got}");

    // The question comes while the client waits for the result.
    let mut stream = Events::open(gateway.post(PATH, Some(&session), &about(3, "tasks/result"))).await;
    let asks = stream.method("elicitation/create").await;
    assert_eq!(asks["params"]["_meta"]["io.modelcontextprotocol/related-task"]["taskId"], *task, "{asks}");
    let choice =
        asks["params"]["requestedSchema"]["properties"]["interpretation"]["oneOf"][0]["const"].clone();
    let answer = json!({"jsonrpc": "2.0", "id": asks["id"], "result": {"action": "accept", "content": {"interpretation": choice}}});
    assert_eq!(gateway.say(PATH, &session, &answer).await.0, 202);
    let result = loop {
        let message = stream.next().await.expect("a result");
        if message["id"] == 3 && message.get("method").is_none() {
            break message;
        }
    };
    assert!(
        result["result"]["content"][0]["text"].as_str().unwrap_or_default().contains("python"),
        "{result}"
    );
    let (_, got) = gateway.say(PATH, &session, &about(4, "tasks/get")).await;
    assert_eq!(got["result"]["status"], "completed", "{got}");

    // Another session knows nothing of it, nor does the federation.
    let other = gateway.initialize_with(PATH, able).await;
    let (_, refused) = gateway.say(PATH, &other, &about(5, "tasks/get")).await;
    assert!(refused["error"]["code"].is_i64(), "{refused}");
    let federated = gateway.initialize("/mcp").await;
    let (_, refused) = gateway.say("/mcp", &federated, &about(6, "tasks/get")).await;
    assert_eq!(refused["error"]["code"], -32601, "{refused}");
}

/// A server of 2025-11-25 that tells everybody of its tasks.
const SHARED: &str = r#"
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    method = message.get("method", "")
    if method == "initialize":
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}, "tasks": {"list": {}, "cancel": {}}}, "serverInfo": {"name": "s", "version": "1"}}
    elif method == "tools/list":
        result = {"tools": [{"name": "tool", "inputSchema": {"type": "object"}}]}
    elif method.startswith("tasks/"):
        result = {"tasks": [], "secret": "the report of ann"}
    elif "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "?"}}), flush=True)
        continue
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn where_callers_share_a_process_nobody_asks_about_tasks() {
    for (isolation, era, passes) in
        [("shared", "legacy", false), ("shared", "auto", false), ("session", "legacy", true)]
    {
        let mut own = json!({"command": python(), "args": ["-c", SHARED], "isolation": isolation});
        if era != "auto" {
            own["era"] = json!(era);
        }
        let gateway = Gateway::start(&format!("mcpServers: {}\n", json!({"own": own}))).await;
        gateway
            .eventually("it is connected", async |g| g.get("/health").await.contains("\"connected\":1"))
            .await;
        let session = gateway.initialize("/servers/own/mcp").await;
        for method in ["tasks/list", "tasks/get", "tasks/result", "tasks/cancel"] {
            let ask = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"taskId": "of-ann"}});
            let (_, answer) = gateway.say("/servers/own/mcp", &session, &ask).await;
            match passes {
                true => assert_eq!(answer["result"]["secret"], "the report of ann", "{method} {answer}"),
                false => assert_eq!(answer["error"]["code"], -32601, "{isolation} {era} {method} {answer}"),
            }
        }
    }
}
