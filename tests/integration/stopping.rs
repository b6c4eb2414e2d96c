//! The end of the gateway: clean at SIGTERM, and with no process left behind at SIGKILL.

use std::time::Duration;

use serde_json::{Value, json};

use crate::events::Events;
use crate::harness::{
    Gateway, Process, a_fixture, free_port, legacy_call, python, read, root, stdio_fixture,
};
use crate::mock_server::{MockReply, MockServer};
use crate::process;
use crate::raw::{Client, Head};

/// Leaves a process in a session of its own, whose parent has ended and which SIGTERM does not end.
const DAEMON: &str = "(trap '' TERM; setsid sleep 1235 &)";

/// A stdio server as `npx` runs it: a shell that starts the server, one more process, and a daemon.
fn nested_fixture() -> Value {
    let line = format!("{DAEMON}; sleep 1234 & {} {} --stdio; true", python().display(), fixture_file());
    // In each era a process of its own.
    json!({"command": "sh", "args": ["-c", line], "bridge": "off"})
}

fn fixture_file() -> String {
    root().join("tests/fixture/server.py").display().to_string()
}

/// One that does not end before its calls do, however long they take.
async fn setup(pipe: Value) -> (Gateway, Process) {
    let (fixture, url) = a_fixture().await;
    let servers = json!({"fix": {"url": url}, "pipe": pipe, "demo": {"builtin": "demo"}});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\nlimits: {{drain: 1h}}\n")).await;
    gateway
        .eventually("all are connected", async |g| g.get("/health").await.contains("\"connected\":3"))
        .await;
    (gateway, fixture)
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_calls_finish_and_ends_streams_in_good_order() {
    let (mut gateway, _fixture) = setup(stdio_fixture()).await;
    let mut pipes = Vec::new();
    gateway
        .eventually("one process serves both eras", async |g| {
            pipes = process::children_running(g.process.id(), "--stdio");
            pipes.len() == 1
        })
        .await;
    let session = gateway.initialize("/mcp").await;
    let mut stream = Events::of_session(&gateway, "/mcp", &session).await;
    let wanted = json!({"notifications": {"toolsListChanged": true}});
    let mut listen = Events::open(gateway.modern_request("/mcp", "subscriptions/listen", wanted)).await;
    assert_eq!(listen.next().await.expect("a message")["method"], "notifications/subscriptions/acknowledged");
    let mut calls = Vec::new();
    for server in ["fix", "pipe", "demo"] {
        let call = legacy_call(server, &format!("{server}__sleep"), json!({"seconds": 2}));
        calls.push((server, tokio::spawn(gateway.post("/mcp", Some(&session), &call).send())));
    }
    for server in ["fix", "pipe"] {
        let what = format!("the call runs at {server}");
        gateway.eventually(&what, async |g| g.count(&session, server, "sleep.started").await == 1).await;
    }

    gateway.process.signal(libc::SIGTERM);
    assert_eq!(stream.next().await, None, "the session's stream ends");
    let last = listen.rest().await.pop().expect("listen has a result");
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!(1), &json!("complete")), "{last}");
    assert_eq!(last["result"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 1, "{last}");
    for (server, call) in calls {
        let (status, answer) = read(call.await.expect("no panic").expect("an answer")).await;
        let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_default();
        assert!(status == 200 && text.starts_with("slept"), "{server}: {status} {answer}");
    }
    assert!(gateway.process.wait().success());
    process::gone(&pipes).await;
}

/// An endless stream ends when the time to drain is over: with an error, and with its last chunk.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_end_ends_in_good_order_when_the_gateway_stops() {
    let mock = MockServer::start(|seen| match seen.method() {
        "tools/call" => {
            let head =
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            let params =
                json!({"progressToken": seen.body["params"]["_meta"]["progressToken"], "progress": 1});
            let note = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params});
            let event = format!("data: {note}\n\n");
            let chunk = format!("{:x}\r\n{event}\r\n", event.len());
            MockReply::Repeat(head.as_bytes().to_vec(), chunk.into_bytes(), Duration::from_millis(20))
        }
        _ => MockReply::Good,
    })
    .await;
    let config = format!("mcpServers: {{s: {{url: \"{}\"}}}}\nlimits: {{drain: 0s}}\n", mock.url);
    let mut gateway = Gateway::start(&config).await;
    let params = json!({"name": "s__tool", "arguments": {}, "_meta": {"progressToken": 7,
        "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
    let head = Head::modern("/mcp", "tools/call", Some("s__tool"));
    let long = [body.as_bytes(), &[b' '; 100_000]].concat();
    let mut calls = Vec::new();
    for request in [head.whole(body.as_bytes()), head.chunked(&long, 50_000)] {
        let port = gateway.port;
        calls.push(tokio::spawn(async move { Client::connect(port).await.exchange(&request).await }));
    }
    gateway.eventually("both run", async |_| mock.count("tools/call") == 2).await;
    gateway.process.signal(libc::SIGTERM);
    for call in calls {
        let answer = call.await.expect("no panic").expect("an answer");
        let message = answer.message();
        assert!(answer.whole, "it has a last chunk: {message}");
        assert_eq!((&message["id"], &message["error"]["code"]), (&json!(1), &json!(503)), "{message}");
    }
    assert!(gateway.process.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_is_not_ready() {
    let (mut gateway, _fixture) = setup(stdio_fixture()).await;
    let session = gateway.initialize("/mcp").await;
    let call = legacy_call(1, "fix__sleep", json!({"seconds": 2}));
    let call = gateway.post("/mcp", Some(&session), &call);
    let call = tokio::spawn(async move { read(call.send().await.expect("an answer")).await });
    gateway.eventually("the call runs", async |g| g.count(&session, "fix", "sleep.started").await == 1).await;
    assert!(gateway.get("/ready").await.contains("\"ready\":true"));
    gateway.process.signal(libc::SIGTERM);
    gateway
        .eventually("no load balancer sends more", async |g| match g.http.get(g.url("/ready")).send().await {
            Ok(answer) => answer.status() == 503,
            Err(_) => true,
        })
        .await;
    assert!(!call.is_finished(), "that was while the call ran");
    let (status, answer) = call.await.expect("no panic");
    assert_eq!(status, 200, "{answer}");
    assert!(gateway.process.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_outlasts_the_drain_time_is_cut() {
    let (fixture, url) = a_fixture().await;
    let config = format!("mcpServers: {{fix: {{url: \"{url}\"}}}}\nlimits: {{drain: 1s}}\n");
    let mut gateway = Gateway::start(&config).await;
    gateway.eventually("it is connected", async |g| g.get("/health").await.contains("\"connected\":1")).await;
    let session = gateway.initialize("/mcp").await;
    let call = legacy_call(1, "fix__sleep", json!({"seconds": 600}));
    let call = tokio::spawn(gateway.post("/mcp", Some(&session), &call).send());
    gateway.eventually("the call runs", async |g| g.count(&session, "fix", "sleep.started").await == 1).await;
    gateway.process.signal(libc::SIGTERM);
    assert!(gateway.process.wait().success());
    assert!(gateway.process.output().contains("some requests were cut"), "{}", gateway.process.story());
    drop((call, fixture));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_of_a_server_is_left_behind() {
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        let (mut gateway, _fixture) = setup(nested_fixture()).await;
        let shells = process::children_running(gateway.process.id(), "sh -c");
        assert_eq!(shells.len(), 2, "a process for each era");
        let mut all: Vec<u32> =
            shells.iter().copied().chain(shells.iter().flat_map(|s| process::children(*s))).collect();
        let message = all.iter().map(|pid| process::command_line(*pid)).collect::<Vec<_>>().join("\n");
        assert_eq!((message.matches("sleep 1234 \n").count(), all.len()), (2, 6), "{message}");
        let supervisors = process::supervisors(gateway.process.id());
        let daemons = daemons(&gateway);
        assert_eq!((daemons.len(), supervisors.len()), (2, 2));
        all.extend(daemons.into_iter().chain(supervisors));
        gateway.process.signal(signal);
        let status = gateway.process.wait();
        assert_eq!(status.success(), signal == libc::SIGTERM, "{status}");
        process::gone(&all).await;
    }
}

/// The processes that `DAEMON` has left, with their supervisors as parents.
fn daemons(gateway: &Gateway) -> Vec<u32> {
    let mut found = process::children_running(gateway.process.id(), "sleep 1235 ");
    found.retain(|pid| process::command_line(*pid) == "sleep 1235 ");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_ends_with_its_server() {
    let line = format!("{DAEMON}; exec {} {} --stdio", python().display(), fixture_file());
    let pipe = json!({"command": "sh", "args": ["-c", line], "era": "legacy"});
    let config = |servers: Value| format!("mcpServers: {servers}\n");
    let demo = json!({"builtin": "demo"});
    let mut gateway = Gateway::start(&config(json!({"pipe": pipe, "demo": demo}))).await;
    let connected = async |g: &Gateway| g.get("/health").await.contains("\"connected\":2");
    gateway.eventually("both are connected", connected).await;
    let (first, servers) =
        (daemons(&gateway), process::children_running(gateway.process.id(), "server.py --stdio"));
    assert_eq!((first.len(), servers.len()), (1, 1));

    process::kill(servers[0]);
    let line = gateway.process.wait_for("left processes running");
    assert!(line.contains("\"running\":1"), "{line}");
    process::gone(&first).await;
    let mut second = Vec::new();
    gateway
        .eventually("it is started anew", async |g| {
            second = daemons(g);
            !second.is_empty() && connected(g).await
        })
        .await;

    gateway.rewrite(&config(json!({"demo": demo})));
    process::gone(&second).await;
    gateway.process.signal(libc::SIGTERM);
    assert!(gateway.process.wait().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_time_that_a_reload_raised_holds() {
    let (_fixture, url) = a_fixture().await;
    let config = |drain| format!("mcpServers: {{fix: {{url: \"{url}\"}}}}\nlimits: {{drain: {drain}}}\n");
    let mut gateway = Gateway::start(&config("1s")).await;
    gateway.eventually("it is connected", async |g| g.get("/health").await.contains("\"connected\":1")).await;
    gateway.rewrite(&config("60s"));
    let ok = "toolgate_config_reloads_total{result=\"ok\"}";
    gateway.eventually("it is reloaded", async |g| g.metric(ok).await == 1.0).await;
    let session = gateway.initialize("/mcp").await;
    let call = legacy_call(1, "fix__sleep", json!({"seconds": 7}));
    let call = tokio::spawn(gateway.post("/mcp", Some(&session), &call).send());
    gateway.eventually("the call runs", async |g| g.count(&session, "fix", "sleep.started").await == 1).await;
    gateway.process.signal(libc::SIGTERM);
    let (status, answer) = read(call.await.expect("no panic").expect("an answer")).await;
    assert_eq!(status, 200, "{answer}");
    assert!(gateway.process.wait().success());
    assert!(!gateway.process.output().contains("were cut"), "{}", gateway.process.story());
}

/// A gateway that waits for the first response of a server, which does not answer.
struct Starting {
    process: Process,
    port: u16,
    folder: tempfile::TempDir,
    /// Its start continues when these are closed.
    server: (std::net::TcpListener, std::net::TcpStream),
}

impl Starting {
    fn new() -> Self {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let folder = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let config = format!(
            "listen: {{address: \"127.0.0.1:{port}\"}}\nmcpServers: {{demo: {{builtin: demo}}, far: {{url: \"http://{}/mcp\"}}}}\n",
            silent.local_addr().expect("an address")
        );
        std::fs::write(folder.path().join("toolgate.yaml"), config).expect("it is written");
        let process = Process::start(&mut Gateway::command(folder.path(), &["run"]));
        let (stream, _) = silent.accept().expect("it looks for its server");
        Self { process, port, folder, server: (silent, stream) }
    }

    fn go_on(self) -> Gateway {
        let Self { mut process, port, folder, server } = self;
        assert!(!process.output().contains("endpoint"), "it still starts");
        drop(server);
        process.wait_for("endpoint");
        Gateway { process, port, folder, http: reqwest::Client::new() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_saved_while_it_starts_is_seen() {
    let starting = tokio::task::spawn_blocking(Starting::new).await.expect("it starts");
    let file = starting.folder.path().join("toolgate.yaml");
    let text = std::fs::read_to_string(&file).expect("it is there");
    std::fs::write(&file, text.replace("{builtin: demo}", "{builtin: demo, prefix: d}"))
        .expect("it is written");
    let gateway = starting.go_on();
    gateway
        .eventually("the change is there", async |g| {
            g.http.get(g.url("/health")).send().await.is_ok()
                && g.call("d__echo", json!({"message": "hi"})).await.0 == 200
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_while_it_starts_neither_end_it_nor_get_lost() {
    let mut starting = tokio::task::spawn_blocking(Starting::new).await.expect("it starts");
    for signal in [libc::SIGHUP, libc::SIGUSR2, libc::SIGQUIT] {
        starting.process.signal(signal);
    }
    starting.process.wait_for("SIGUSR2 does nothing: this gateway is not there itself yet");
    starting.process.wait_for("SIGQUIT does nothing");
    let mut gateway = starting.go_on();
    gateway.process.signal(libc::SIGTERM);
    assert!(gateway.process.wait().success());
    let mut starting = tokio::task::spawn_blocking(Starting::new).await.expect("it starts");
    starting.process.signal(libc::SIGTERM);
    assert!(starting.process.wait().success());
    assert!(!starting.process.output().contains("endpoint"), "{}", starting.process.output());
}
