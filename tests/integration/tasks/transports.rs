//! Tasks that the gateway offers work whatever the way to the server, and at a toolset.

use std::process::Command;

use serde_json::json;

use super::{call, send, task_of, until};
use crate::harness::{Gateway, Process, python, root};

#[tokio::test(flavor = "multi_thread")]
async fn a_long_call_becomes_a_task_over_each_transport_and_at_a_toolset() {
    let fixture = root().join("tests/fixture/waits.py");
    let script = fixture.clone();
    let start = move || {
        let mut process = Process::start(Command::new(python()).arg(script));
        let line = process.wait_for("sse listening on");
        (process, line.rsplit(' ').next().expect("a URL at the end").to_owned())
    };
    let (_sse, url) = tokio::task::spawn_blocking(start).await.expect("it starts");
    let tasks = json!({"tools": ["until"], "after": "100ms"});
    let servers = json!({"pipe": {"command": python(), "args": [fixture, "--stdio"], "tasks": tasks},
        "sse": {"type": "sse", "url": url, "tasks": tasks}});
    let toolsets = json!({"set": {"tools": ["*__until"]}});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\ntoolsets: {toolsets}\n")).await;
    gateway
        .eventually("its tools are shown", async |g| {
            let list = g.modern("/mcp", "tools/list", json!({})).await.1.to_string();
            ["pipe__until", "sse__until"].iter().all(|tool| list.contains(tool))
        })
        .await;
    for (number, (path, tool)) in [
        ("/mcp", "pipe__until"),
        ("/mcp", "sse__until"),
        ("/servers/set/mcp", "pipe__until"),
        ("/servers/set/mcp", "sse__until"),
        ("/servers/pipe/mcp", "until"),
        ("/servers/sse/mcp", "until"),
    ]
    .into_iter()
    .enumerate()
    {
        let file = gateway.folder.path().join(format!("{number}"));
        let (status, created) = send(&gateway, path, "", &call(3, tool, json!({"file": file}))).await;
        assert_eq!(status, 200, "{path} {tool}: {created}");
        let task = task_of(&created);
        until(&gateway, path, "", &task, "working").await;
        let ready = gateway.folder.path().join("ready");
        std::fs::write(&ready, format!("said {number}")).expect("it is written");
        std::fs::rename(&ready, &file).expect("it is there at once");
        let done = until(&gateway, path, "", &task, "completed").await;
        let said = &done["result"]["content"][0]["text"];
        assert_eq!(said, &json!(format!("said {number}")), "{path} {tool}: {done}");
    }
}
