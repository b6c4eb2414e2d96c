//! A server dies during work: its calls fail clearly, other servers are not affected, and it comes back by
//! itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Gateway, a_fixture, fixture, free_port, read};
use crate::process;
use crate::raw::{Client, Head};
use crate::real_servers_setup::RealServers;

/// Repeated calls to other servers, until they are stopped; each must succeed.
struct Others {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Result<(), String>>>,
}

impl Others {
    async fn start(gateway: &Gateway, calls: &[(&str, Value, &str)]) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let session = gateway.initialize("/mcp").await;
        let mut tasks = Vec::new();
        for (tool, arguments, expect) in calls {
            let body = json!({"jsonrpc": "2.0", "id": tool, "method": "tools/call",
                "params": {"name": tool, "arguments": arguments}});
            let request = gateway.post("/mcp", Some(&session), &body);
            let (stop, done, expect) = (stop.clone(), done.clone(), (*expect).to_owned());
            tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let sent = request.try_clone().expect("a body of bytes").send().await;
                    let (status, answer) = read(sent.map_err(|error| error.to_string())?).await;
                    if status != 200 || !answer.to_string().contains(&expect) {
                        return Err(format!("{status} {answer}"));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok(())
            }));
        }
        Self { stop, done, tasks }
    }

    /// Waits until this many more calls are done.
    async fn more(&self, gateway: &Gateway, calls: usize) {
        let goal = self.done.load(Ordering::Relaxed) + calls;
        gateway.eventually("the others go on", async |_| self.done.load(Ordering::Relaxed) >= goal).await;
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no panic").expect("no call to another server fails");
        }
    }
}

fn assert_down(answer: &(u16, Value), server: &str) {
    let (status, answer) = answer;
    assert_eq!(answer["error"]["data"]["server"], server, "{answer}");
    let message = answer["error"]["message"].as_str().expect("a message");
    // A process that is restarted may be ready in a moment.
    let said = if message.contains("is still starting") { 503 } else { 502 };
    assert_eq!((*status, &answer["error"]["code"]), (said, &json!(said)), "{answer}");
    assert!(message.contains(&format!("`{server}`")), "{message}");
}

async fn tool_names(gateway: &Gateway) -> Vec<String> {
    let (status, answer) = gateway.modern("/mcp", "tools/list", json!({})).await;
    assert_eq!(status, 200, "{answer}");
    let tools = answer["result"]["tools"].as_array().expect("tools");
    tools.iter().map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_http_server_is_missed_by_its_own_callers_only_and_comes_back() {
    let mut servers = RealServers::start().await;
    let listed = tool_names(&servers.gateway).await;
    let calls = [
        ("everything__get-sum", json!({"a": 2, "b": 3}), "is 5."),
        ("fast__fast_add", json!({"a": 2, "b": 3}), "5"),
        ("time__get_current_time", json!({"timezone": "UTC"}), "timezone"),
        ("files__list_allowed_directories", json!({}), "Allowed"),
    ];
    let others = Others::start(&servers.gateway, &calls).await;
    others.more(&servers.gateway, 20).await;

    let running = servers.gateway.modern_request(
        "/mcp",
        "tools/call",
        json!({"name": "fix__sleep", "arguments": {"seconds": 600}}),
    );
    let running = tokio::spawn(running.send());
    servers
        .gateway
        .eventually("the long call runs", async |g| {
            let (_, answer) = g.call("fix__counter", json!({"name": "sleep.started", "add": 0})).await;
            answer["result"]["structuredContent"]["count"] == 1
        })
        .await;
    servers.fixture.kill();
    // The call there ends, although its timeout was ten minutes.
    let broken = read(running.await.expect("no panic").expect("an answer")).await;
    assert_eq!(broken.1["error"]["data"]["server"], "fix", "{broken:?}");
    assert_down(&servers.gateway.call("fix__echo", json!({"message": "x"})).await, "fix");

    servers.up("fix", false).await;
    assert_down(&servers.gateway.call("fix__echo", json!({"message": "x"})).await, "fix");
    assert_eq!(tool_names(&servers.gateway).await, listed, "the last good list stays");
    others.more(&servers.gateway, 50).await;

    let port = servers.fixture_port;
    servers.fixture = tokio::task::spawn_blocking(move || fixture(port).0).await.expect("it starts");
    servers.up("fix", true).await;
    let (status, answer) = servers.gateway.call("fix__echo", json!({"message": "back"})).await;
    assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("back")), "{answer}");
    others.more(&servers.gateway, 20).await;
    others.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_stdio_server_is_started_again() {
    let servers = RealServers::start().await;
    let calls = [
        ("everything__get-sum", json!({"a": 2, "b": 3}), "is 5."),
        ("fast__fast_add", json!({"a": 2, "b": 3}), "5"),
        ("fix__echo", json!({"message": "hi"}), "hi"),
        ("files__list_allowed_directories", json!({}), "Allowed"),
    ];
    let others = Others::start(&servers.gateway, &calls).await;
    others.more(&servers.gateway, 20).await;

    let gateway = servers.gateway.process.id();
    let mut old = Vec::new();
    let runs_once = "one process serves both eras";
    servers
        .gateway
        .eventually(runs_once, async |_| {
            old = process::children_running(gateway, "mcp-server-time");
            old.len() == 1
        })
        .await;
    for pid in &old {
        process::kill(*pid);
    }
    process::gone(&old).await;
    // Until it is back its calls fail, with a message.
    let mut failed = 0;
    servers
        .gateway
        .eventually("the server is back", async |g| {
            let answer = g.call("time__get_current_time", json!({"timezone": "UTC"})).await;
            if answer.0 == 200 {
                return true;
            }
            assert_down(&answer, "time");
            failed += 1;
            false
        })
        .await;
    assert!(failed > 0, "a dead server cannot have answered at once");
    servers.up("time", true).await;
    let new = async |_: &Gateway| {
        let new = process::children_running(gateway, "mcp-server-time");
        new.len() == 1 && !old.contains(&new[0])
    };
    servers.gateway.eventually(runs_once, new).await;
    others.more(&servers.gateway, 20).await;
    others.end().await;
}

#[tokio::test]
async fn a_connection_outlives_the_server_that_its_calls_are_for() {
    let (server, url) = a_fixture().await;
    let gone = format!("http://127.0.0.1:{}/mcp", free_port());
    let gateway =
        Gateway::start(&format!("mcpServers: {{here: {{url: \"{url}\"}}, gone: {{url: \"{gone}\"}}}}\n"))
            .await;
    let mut client = Client::connect(gateway.port).await;
    let mut call = async |tool: &str| {
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": tool, "_meta": meta}});
        let head = Head::modern("/mcp", "tools/call", Some(tool));
        let request = head.whole(body.to_string().as_bytes());
        let answer = client.exchange(&request).await.expect("the connection is there");
        assert!(!answer.closes(), "{answer:?}");
        answer.status
    };
    assert_eq!(call("here__test_simple_text").await, 200);
    assert_eq!(call("gone__tool").await, 502);
    assert_eq!(call("here__test_simple_text").await, 200);
    drop(server);
    for _ in 0..50 {
        assert_eq!(call("here__test_simple_text").await, 502);
    }
}
