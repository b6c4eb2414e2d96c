//! A real client and a real server with tasks (FastMCP), and calls of a server without them that the gateway
//! makes tasks of, in both eras.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Gateway, Process, python, root};

fn server(plain: bool) -> (Process, String) {
    let mut command = Command::new(python());
    command.arg(root().join("tests/fixture/fast_tasks.py")).args(["--port", "0"]);
    command.args(plain.then_some("--plain"));
    let mut process = Process::start(&mut command);
    let line = process.wait_for("fastmcp listening on");
    (process, line.rsplit(' ').next().expect("a URL at the end").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_client_has_tasks_of_a_real_server_and_of_the_gateway() {
    let start = |plain| tokio::task::spawn_blocking(move || server(plain));
    let (with, without) = tokio::join!(start(false), start(true));
    let (_with, with) = with.expect("it starts");
    let (_without, without) = without.expect("it starts");
    let tasks = json!({"tools": ["crunch"], "after": "200ms"});
    let servers = json!({"own": {"url": with}, "modern": {"url": without, "era": "modern", "tasks": tasks},
        "legacy": {"url": without, "era": "legacy", "tasks": tasks}});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    gateway
        .eventually("all tools are shown", async |g| {
            let list = g.modern("/mcp", "tools/list", json!({})).await.1.to_string();
            ["own__crunch", "modern__crunch", "legacy__crunch"].iter().all(|tool| list.contains(tool))
        })
        .await;
    let mut client = tokio::process::Command::new(python());
    client.arg(root().join("tests/clients/tasks.py")).arg(gateway.url("/mcp"));
    let ran = client.kill_on_drop(true).output().await.expect("the client runs");
    let output = String::from_utf8_lossy(&ran.stdout);
    let said = String::from_utf8_lossy(&ran.stderr);
    let seen: Value = serde_json::from_str(output.trim()).unwrap_or_else(|_| panic!("{output}\n{said}"));
    for name in ["own", "modern", "legacy"] {
        assert_eq!(seen[format!("{name}__quick")], "quick", "{seen}");
        assert_eq!(seen[format!("{name}__crunch")], "crunched 5", "{seen}");
        assert_eq!(seen[format!("{name}__crunch cancelled")], json!(["working", "cancelled"]), "{seen}");
    }
}
