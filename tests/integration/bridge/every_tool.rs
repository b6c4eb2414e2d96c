//! Both official SDKs, in each of their modes, call every tool of real servers over each transport, and answer with
//! their own callbacks what the servers ask: server-everything (TypeScript SDK 1.x, legacy), a server of the
//! Python SDK 1.x (legacy), and one that is only modern.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use crate::clients::{Sdk, run, step};
use crate::harness::{Gateway, a_fixture_of, free_port, node, npm, python_v1, root, stdio_fixture};
use crate::process::Process;
use crate::real_servers_setup::{everything_over, everything_plan, fixture_plan, tool_of};

/// Modes, and the revision that each gets.
const CLIENTS: [(Sdk, &str, &str); 6] = [
    (Sdk::Python, "legacy", "2025-11-25"),
    (Sdk::Python, "auto", "2026-07-28"),
    (Sdk::Python, "2026-07-28", "2026-07-28"),
    (Sdk::TypeScript, "legacy", "2025-11-25"),
    (Sdk::TypeScript, "auto", "2026-07-28"),
    (Sdk::TypeScript, "modern", "2026-07-28"),
];

/// Listed tools that no plan calls, and why.
const NOT_CALLED: [(&str, &str); 4] = [
    ("new__crash", "it ends the server"),
    ("new_pipe__crash", "it ends the server"),
    ("new__test_dynamic_tool", "another client may have enabled it just now"),
    ("new_pipe__test_dynamic_tool", "another client may have enabled it just now"),
];

struct Servers {
    gateway: Gateway,
    _running: Vec<Process>,
}

impl Servers {
    async fn start() -> Self {
        let ports = [free_port(), free_port()];
        let mut running = Vec::new();
        for (transport, port) in [("streamableHttp", ports[0]), ("sse", ports[1])] {
            let start = tokio::task::spawn_blocking(move || everything_over(transport, port));
            running.push(start.await.expect("everything starts"));
        }
        let (v1, v1_url) = tokio::task::spawn_blocking(v1).await.expect("the server of 1.x starts");
        let (modern, modern_url) = a_fixture_of("modern").await;
        running.extend([v1, modern]);
        let mut new_pipe = stdio_fixture();
        new_pipe["era"] = json!("modern");
        let script = root().join("tests/fixture/v1.py");
        let servers = json!({
            "every_http": {"url": format!("http://127.0.0.1:{}/mcp", ports[0])},
            "every_sse": {"type": "sse", "url": format!("http://127.0.0.1:{}/sse", ports[1])},
            "every_pipe": {"command": node(), "args": [
                npm("@modelcontextprotocol/server-everything/dist/index.js"), "stdio"]},
            "v1_http": {"url": format!("{v1_url}/mcp")},
            "v1_sse": {"type": "sse", "url": format!("{v1_url}/sse")},
            // One process for each session can ask its client.
            "v1_pipe": {"command": python_v1(), "args": [script, "--stdio"], "isolation": "session"},
            "new": {"url": modern_url},
            "new_pipe": new_pipe,
        });
        let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
        for server in servers.as_object().expect("servers").keys() {
            let metric = format!("toolgate_upstream_up{{server=\"{server}\"}}");
            gateway.eventually(&metric, async |g| g.has_metric(&metric, 1.0).await).await;
        }
        Self { gateway, _running: running }
    }
}

fn v1() -> (Process, String) {
    let mut command = Command::new(python_v1());
    command.arg(root().join("tests/fixture/v1.py")).args(["--port", "0"]);
    let mut process = Process::start(&mut command);
    let line = process.wait_for("v1 listening on");
    let url = line.rsplit(' ').next().expect("a URL at the end").to_owned();
    (process, url)
}

fn v1_plan(server: &str) -> Vec<Value> {
    let one = |tool: &str, args: Value, expect: &str| step(&format!("{server}__{tool}"), args, expect);
    // One event stream is for all callers: its server has no client to ask.
    let asks = server != "v1_sse";
    let asked = |answer: &'static str| if asks { answer } else { "Error executing tool" };
    vec![
        one("add", json!({"a": 2, "b": 3}), "5"),
        one("upper", json!({"text": "grüße"}), "GRÜSSE"),
        one("steps", json!({"count": 3}), "3 steps"),
        one("fails", json!({}), "as it should"),
        one("who", json!({}), asked("accept filled")),
        one("think", json!({}), asked("the model said: a sampled answer")),
        one("roots", json!({}), asked("file:///root")),
    ]
}

/// For the servers of each era; one client for all of them would take too long on a busy machine.
fn plans() -> [Vec<Value>; 2] {
    let mut legacy = Vec::new();
    for server in ["every_http", "every_sse", "every_pipe"] {
        legacy.extend(everything_plan(server));
    }
    for server in ["v1_http", "v1_sse", "v1_pipe"] {
        legacy.extend(v1_plan(server));
    }
    [legacy, ["new", "new_pipe"].into_iter().flat_map(fixture_plan).collect()]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_in_each_mode_calls_every_tool_of_servers_of_both_eras() {
    let servers = Servers::start().await;
    let (url, plans) = (servers.gateway.url("/mcp"), plans());
    let called: BTreeSet<&str> = plans.iter().flatten().map(tool_of).collect();
    let known: BTreeSet<&str> = called.iter().copied().chain(NOT_CALLED.map(|(tool, _)| tool)).collect();
    let ran = CLIENTS.iter().flat_map(|(sdk, mode, version)| {
        let url = &url;
        plans.iter().map(move |plan| async move { (run(*sdk, url, mode, plan).await, version, plan.len()) })
    });
    let mut bad = Vec::new();
    for (ran, version, calls) in futures::future::join_all(ran).await {
        assert!(!ran.seen.is_null(), "{}", ran.output);
        assert_eq!((&ran.seen["negotiated"], ran.calls.len()), (&json!(version), calls), "{}", ran.output);
        bad.extend(ran.bad().into_iter().map(|call| format!("{} {call}", ran.name)));
        let listed: BTreeSet<&str> =
            ran.seen["tools"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        let unknown: Vec<_> = listed.difference(&known).collect();
        assert!(unknown.is_empty(), "no plan calls {unknown:?}");
        assert!(called.is_subset(&listed), "{}", ran.output);
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
