//! Limits of the processes of stdio servers: their number, their start, and what each may take.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Gateway, legacy_call, python, read, stdio_fixture};

/// Answers `initialize` and lists two tools that take too much. With `MODE` a client
/// named toolgate-tests gets no good answer to `initialize`. As root it becomes another user, since root has no limit
/// of processes.
const GREEDY: &str = r#"
import json, os, sys, time
if os.getuid() == 0: os.setuid(61234)
def fork():
    n = 0
    try:
        while n < 5000:
            if os.fork() == 0: time.sleep(600)
            n += 1
    except OSError as error: return f"stopped after {n}: {error.strerror}"
    return "not stopped"
def eat():
    try: return str(len(bytearray(1 << 30)))
    except MemoryError: return "MemoryError"
def die(): os.abort() if eat() == "MemoryError" else None
tools = {"fork": fork, "eat": eat, "die": die}
for line in sys.stdin:
    ask = json.loads(line)
    if "id" not in ask: continue
    method, error = ask["method"], None
    if method == "initialize":
        mode = os.environ.get("MODE")
        if mode and ask["params"]["clientInfo"]["name"] == "toolgate-tests":
            if mode == "hangs": time.sleep(600)
            error = {"code": -32603, "message": "no licence"}
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
            "serverInfo": {"name": "greedy", "version": "1"}}
    elif method == "tools/list":
        result = {"tools": [{"name": n, "inputSchema": {"type": "object"}} for n in tools]}
    elif method == "tools/call":
        result = {"content": [{"type": "text", "text": tools[ask["params"]["name"]]()}]}
    else: result = {}
    answer = {"jsonrpc": "2.0", "id": ask["id"]}
    answer.update({"error": error} if error else {"result": result})
    print(json.dumps(answer), flush=True)
"#;

async fn greedy(more: Value) -> Gateway {
    let mut own = json!({"command": python(), "args": ["-c", GREEDY], "era": "legacy"});
    own.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    Gateway::start(&format!("mcpServers: {}\n", json!({"own": own}))).await
}

async fn text(gateway: &Gateway, session: &str, tool: &str) -> String {
    let (_, answer) = gateway.say("/mcp", session, &legacy_call(1, tool, json!({}))).await;
    answer["result"]["content"][0]["text"].as_str().map_or_else(|| answer.to_string(), str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_processes_of_a_program_are_limited_in_each_isolation() {
    let limits = json!({"memory": "256MiB", "processes": 200});
    for isolation in ["shared", "session"] {
        let gateway = greedy(json!({"limits": limits, "isolation": isolation})).await;
        let session = gateway.initialize("/mcp").await;
        assert_eq!(text(&gateway, &session, "own__eat").await, "MemoryError");
        let forked = text(&gateway, &session, "own__fork").await;
        assert!(forked.starts_with("stopped after"), "{forked}");
        let warned = gateway.process.output().contains("limits.processes has no effect on processes of root");
        assert_eq!(warned, nix::unistd::geteuid().is_root());
        // One that ends of it is told of as others are.
        let died = text(&gateway, &session, "own__die").await;
        assert!(died.contains("own") || died.contains("has ended"), "{died}");
    }
    let gateway = greedy(json!({})).await;
    let session = gateway.initialize("/mcp").await;
    assert_eq!(text(&gateway, &session, "own__eat").await, (1_u64 << 30).to_string(), "no limit by default");
}

/// A session of a client with this name, and the answer to its first call.
async fn first_call(gateway: &Gateway, client: &str) -> (u16, Value) {
    let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params":
        {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": client, "version": "1"}}});
    let response = gateway.post("/mcp", None, &body).send().await.expect("an answer");
    let session = response.headers()["mcp-session-id"].to_str().expect("an ASCII id").to_owned();
    gateway.say("/mcp", &session, &legacy_call(1, "own__eat", json!({}))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_a_session_that_does_not_start_is_told_and_ended() {
    for (mode, startup, status, words) in [
        ("hangs", "4s", 504, "the server `own` did not answer within 4s"),
        ("fails", "60s", 502, "no licence"),
    ] {
        let gateway = greedy(
            json!({"isolation": "session", "startup_timeout": startup, "env": {"MODE": mode, "MARK_START": mode}}),
        )
        .await;
        let (got, answer) = first_call(&gateway, "toolgate-tests").await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(got == status && message.contains(words), "{mode}: {got} {answer}");
        assert!(!message.contains("not MCP"), "{answer}");
        let (_, answer) = first_call(&gateway, "another").await;
        assert!(answer["result"].is_object(), "others are served: {answer}");
        // The gateway's own process and that of the second client remain.
        let mark = format!("MARK_START={mode}");
        gateway.eventually("it is ended", async |_| running(&mark) == 2).await;
    }
}

/// Programs with this variable.
fn running(mark: &str) -> usize {
    let all = std::fs::read_dir("/proc").expect("Linux").flatten().filter(|process| {
        let is_program = |text: Vec<u8>| text.split(|byte| *byte == 0).any(|arg| arg == GREEDY.as_bytes());
        std::fs::read(process.path().join("cmdline")).is_ok_and(is_program)
    });
    let environments = all.filter_map(|process| std::fs::read(process.path().join("environ")).ok());
    environments.filter(|text| text.split(|byte| *byte == 0).any(|one| one == mark.as_bytes())).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_processes_of_one_caller_and_of_all_are_counted() {
    for (setting, most, status) in [("max_processes", 1, 429), ("max_processes_per_caller", 2, 429)] {
        let mut own = stdio_fixture();
        own["isolation"] = json!("session");
        own[setting] = json!(most);
        let gateway = Gateway::start(&format!("mcpServers: {}\n", json!({"own": own}))).await;
        let echo = legacy_call(1, "own__echo", json!({"message": "here"}));
        let mut sessions = Vec::new();
        for _ in 0..most {
            let session = gateway.initialize("/mcp").await;
            let (_, answer) = gateway.say("/mcp", &session, &echo).await;
            assert!(answer["result"].is_object(), "{answer}");
            sessions.push(session);
        }
        let more = gateway.initialize("/mcp").await;
        let response = gateway.post("/mcp", Some(&more), &echo).send().await.expect("an answer");
        assert_eq!(response.status(), status);
        assert!(response.headers().contains_key("retry-after"));
        let (_, answer) = read(response).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        // One caller has all: its share is the first that is used up.
        assert!(message.contains("max_processes"), "{answer}");
        let ended = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &sessions[0]);
        assert!(ended.send().await.expect("an answer").status().is_success());
        gateway
            .eventually("a place is given back", async |gateway| {
                tokio::time::sleep(Duration::from_millis(50)).await;
                gateway.say("/mcp", &more, &echo).await.1["result"].is_object()
            })
            .await;
    }
}
