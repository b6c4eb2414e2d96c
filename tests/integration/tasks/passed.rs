//! Tasks of a server pass through the gateway, under ids of the gateway.

use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::{
    EXTENSION, RAW, about, about_as, call, declared, listen, request, send, server_with_tasks, task_of, until,
};
use crate::bridge::modern_call;
use crate::events::Events;
use crate::harness::Gateway;
use crate::mock_server::MockServer;

pub const CALLERS: &str = r#"
auth:
  api_keys:
    - {id: ann, sha256: cba322bc2b94a5dd50710068d2a8fa4cd2b1d4dea94bba56b3b5d955987dbef7, user: ann, roles: [all]}
    - {id: bob, sha256: e38fba47d2a588ec6334d3d14cf3459e670f1bc08950e706f9893aaa78a18d6c, user: bob, roles: [all]}
"#;
const RBAC: &str = r#"
rbac:
  roles:
    all: {allow: {tools: ["TOOL"]}}
"#;
pub const ANN: &str = "ann-key-of-the-test-000000000000";
pub const BOB: &str = "bob-key-of-the-test-000000000000";

fn config(server: &MockServer, tools: &str) -> String {
    let servers =
        json!({"s": {"url": server.url, "health": {"interval": "1h"}}, "demo": {"builtin": "demo"}});
    format!("mcpServers: {servers}\n{CALLERS}{}", RBAC.replace("TOOL", tools))
}

async fn start() -> (MockServer, Gateway, broadcast::Sender<Value>) {
    let changes = broadcast::channel(8).0;
    let server = server_with_tasks(changes.clone()).await;
    let gateway = Gateway::start(&config(&server, "*")).await;
    gateway.eventually("its tools are shown", async |g| shown(g).await).await;
    (server, gateway, changes)
}

pub async fn shown(gateway: &Gateway) -> bool {
    let mut body = modern_call(1, "", json!({}), &json!({}));
    body["method"] = json!("tools/list");
    body["params"].as_object_mut().expect("params").remove("name");
    send(gateway, "/mcp", ANN, &body).await.1.to_string().contains("s__report")
}

/// How many requests about tasks have reached the server.
fn asked(server: &MockServer) -> usize {
    server.all().iter().filter(|seen| seen.method().starts_with("tasks/")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_read_answered_and_cancelled_by_its_outward_id() {
    let (server, gateway, _changes) = start().await;
    for (path, tool) in [("/mcp", "s__report"), ("/servers/s/mcp", "report")] {
        let mut discover = modern_call(1, "", json!({}), &declared());
        discover["method"] = json!("server/discover");
        discover["params"].as_object_mut().expect("params").remove("name");
        let (_, found) = send(&gateway, path, ANN, &discover).await;
        assert_eq!(found["result"]["capabilities"]["extensions"], json!({EXTENSION: {}}), "{found}");

        let (status, created) = send(&gateway, path, ANN, &call(5, tool, json!({}))).await;
        assert_eq!((status, &created["id"]), (200, &json!(5)), "{created}");
        let task = task_of(&created);
        assert!(!created.to_string().contains(RAW), "{created}");
        assert_eq!(created["result"]["ttlMs"], 60000);

        let got = until(&gateway, path, ANN, &task, "completed").await;
        assert_eq!(got["result"]["content"][0]["text"], "the report");
        assert!(!got.to_string().contains(RAW), "{got}");
        let update = about_as(
            "tasks/update",
            &task,
            &declared(),
            json!({"inputResponses": {"k": {"action": "decline"}}}),
        );
        for body in [update, about("tasks/cancel", &task)] {
            let (status, done) = send(&gateway, path, ANN, &body).await;
            assert_eq!((status, &done["result"]), (200, &json!({"resultType": "complete"})), "{done}");
        }
    }
    let updates: Vec<_> = server.all().into_iter().filter(|seen| seen.method() == "tasks/update").collect();
    assert_eq!(updates.len(), 2);
    assert_eq!(updates[0].body["params"]["inputResponses"], json!({"k": {"action": "decline"}}));
    assert_eq!(asked(&server), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_id_reaches_a_server() {
    let (server, gateway, _changes) = start().await;
    let (_, created) = send(&gateway, "/mcp", ANN, &call(1, "s__report", json!({}))).await;
    let task = task_of(&created);
    let middle = task.len() / 2;
    let letter = if task.as_bytes()[middle] == b'A' { "B" } else { "A" };
    let forged = format!("{}{letter}{}", &task[..middle], &task[middle + 1..]);
    let other_path = ("/servers/s/mcp", ANN, task.clone());
    let wrong = [
        ("/mcp", BOB, task.clone()),
        other_path,
        ("/mcp", ANN, forged),
        ("/mcp", ANN, task[..task.len() - 1].to_owned()),
        ("/mcp", ANN, RAW.to_owned()),
        ("/servers/s/mcp", ANN, RAW.to_owned()),
        ("/mcp", ANN, "x".repeat(5000)),
    ];
    for (path, key, id) in wrong {
        for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
            let (status, refused) = send(&gateway, path, key, &about(method, &id)).await;
            assert_eq!(
                (status, &refused["error"]["code"]),
                (400, &json!(-32602)),
                "{method} {id}: {refused}"
            );
        }
    }
    assert_eq!(asked(&server), 0);
    until(&gateway, "/mcp", ANN, &task, "completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_declared_the_extension_has_no_tasks() {
    let (server, gateway, _changes) = start().await;
    let (status, plain) =
        send(&gateway, "/mcp", ANN, &modern_call(1, "s__report", json!({}), &json!({}))).await;
    assert_eq!((status, &plain["result"]["resultType"]), (200, &json!("complete")), "{plain}");
    let (_, created) = send(&gateway, "/mcp", ANN, &call(2, "s__report", json!({}))).await;
    let task = task_of(&created);
    let bodies = ["tasks/get", "tasks/update", "tasks/cancel"]
        .map(|method| about_as(method, &task, &json!({}), json!({})))
        .into_iter()
        .chain([listen(&[&task], &json!({}))]);
    for body in bodies {
        let (status, refused) = send(&gateway, "/mcp", ANN, &body).await;
        assert_eq!((status, &refused["error"]["code"]), (400, &json!(-32021)), "{body}: {refused}");
        let required = &refused["error"]["data"]["requiredCapabilities"];
        assert_eq!(*required, declared(), "{refused}");
    }
    assert_eq!(asked(&server), 0);
    // Other calls of a client that has it are answered as always.
    let (_, done) = send(&gateway, "/mcp", ANN, &call(3, "s__plain", json!({}))).await;
    assert_eq!(done["result"]["content"][0]["text"], "done", "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_the_tool_loses_its_tasks() {
    let (server, gateway, _changes) = start().await;
    let (_, created) = send(&gateway, "/mcp", ANN, &call(1, "s__report", json!({}))).await;
    let task = task_of(&created);
    until(&gateway, "/mcp", ANN, &task, "completed").await;
    gateway.rewrite(&config(&server, "*plain"));
    gateway
        .eventually("the task is gone", async |g| {
            let (status, refused) = send(g, "/mcp", ANN, &about("tasks/get", &task)).await;
            status == 400 && refused["error"]["code"] == -32602
        })
        .await;
    let before = asked(&server);
    let (status, _) = send(&gateway, "/mcp", ANN, &about("tasks/cancel", &task)).await;
    assert_eq!((status, asked(&server)), (400, before));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_tasks_come_under_their_outward_ids() {
    let (_server, gateway, changes) = start().await;
    let (_, created) = send(&gateway, "/mcp", ANN, &call(1, "s__report", json!({}))).await;
    let task = task_of(&created);
    let body = listen(&[&task, "unknown", RAW], &declared());
    let mut stream = Events::open(request(&gateway, "/mcp", ANN, &body)).await;
    let ack = stream.method("notifications/subscriptions/acknowledged").await;
    assert_eq!(ack["params"]["notifications"], json!({"taskIds": [&task]}), "{ack}");
    let change = stream.method("notifications/tasks").await;
    assert_eq!(change["params"]["taskId"], *task, "{change}");
    assert_eq!(change["params"]["_meta"], json!({"io.modelcontextprotocol/subscriptionId": 7}), "{change}");
    assert!(!change.to_string().contains(RAW));
    let done = json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": {"taskId": RAW, "status": "completed",
        "result": {"content": []}, "createdAt": "x", "lastUpdatedAt": "y", "ttlMs": null}});
    let other = json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": {"taskId": "raw-2", "status": "working"}});
    for message in [other, done] {
        changes.send(message).expect("the gateway listens");
    }
    let change = stream.method("notifications/tasks").await;
    assert_eq!(
        (&change["params"]["taskId"], &change["params"]["status"]),
        (&json!(task), &json!("completed"))
    );
    // Somebody else follows nothing.
    let mut stream = Events::open(request(&gateway, "/mcp", BOB, &body)).await;
    let ack = stream.method("notifications/subscriptions/acknowledged").await;
    assert_eq!(ack["params"]["notifications"], json!({}), "{ack}");
}
