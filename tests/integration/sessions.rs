//! Legacy sessions: the protection of their ids, and how a session ends.

use serde_json::json;

use crate::events::Events;
use crate::harness::{Gateway, a_fixture, fixture, free_port, initialize, legacy_call, read};

const DEMO: &str = "mcpServers: {demo: {builtin: demo}}\n";

/// Waits until a server is connected.
async fn connected(gateway: &Gateway, server: &str) {
    let metric = format!("toolgate_upstream_up{{server=\"{server}\"}}");
    gateway.eventually(&format!("{server} is up"), async |g| g.has_metric(&metric, 1.0).await).await;
}

#[tokio::test]
async fn a_session_belongs_to_the_endpoint_that_opened_it() {
    let gateway = Gateway::start(DEMO).await;
    let session = gateway.initialize("/servers/demo/mcp").await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    assert_eq!(gateway.say("/servers/demo/mcp", &session, &ping).await.0, 200);
    let (status, answer) = gateway.say("/mcp", &session, &ping).await;
    assert_eq!((status, &answer["id"]), (404, &json!(1)), "{answer}");
    let stream = gateway.http.get(gateway.url("/mcp")).header("mcp-session-id", &session);
    assert_eq!(stream.send().await.expect("an answer").status(), 404);
    let end = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &session);
    assert_eq!(end.send().await.expect("an answer").status(), 404);
    assert_eq!(gateway.say("/servers/demo/mcp", &session, &ping).await.0, 200, "it is still there");
    let (status, _) = read(gateway.post("/mcp", None, &ping).send().await.expect("an answer")).await;
    assert_eq!(status, 400, "a message without a session");
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_ends_a_session_here_and_at_the_server() {
    let (_fixture, url) = a_fixture().await;
    let gateway = Gateway::start(&format!("mcpServers: {{fix: {{url: \"{url}\"}}}}\n")).await;
    connected(&gateway, "fix").await;
    let watcher = gateway.initialize("/mcp").await;
    let session = gateway.initialize("/mcp").await;
    // Nothing is opened at the server before a request needs it.
    let echo = legacy_call(1, "fix__echo", json!({"message": "hi"}));
    assert_eq!(gateway.say("/mcp", &session, &echo).await.0, 200);
    let before = gateway.count(&watcher, "fix", "http.DELETE").await;
    let mut stream = Events::of_session(&gateway, "/mcp", &session).await;

    let end = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &session);
    assert_eq!(end.send().await.expect("an answer").status(), 204);
    assert_eq!(stream.next().await, None, "its stream ends");
    let (status, answer) = gateway.say("/mcp", &session, &echo).await;
    assert_eq!(status, 404, "{answer}");
    let output = "the server is told, once";
    gateway.eventually(output, async |g| g.count(&watcher, "fix", "http.DELETE").await == before + 1).await;
}

#[tokio::test]
async fn more_sessions_than_allowed_are_refused() {
    let gateway = Gateway::start(&format!("{DEMO}limits: {{max_sessions: 2}}\n")).await;
    let first = gateway.initialize("/mcp").await;
    gateway.initialize("/servers/demo/mcp").await;
    let open = async || {
        read(gateway.post("/mcp", None, &initialize(json!({}))).send().await.expect("an answer")).await
    };
    let (status, answer) = open().await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!(503)), "{answer}");
    let end = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &first);
    assert_eq!(end.send().await.expect("an answer").status(), 204);
    assert_eq!(open().await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_sessions_are_swept_but_not_under_a_running_call() {
    let gateway = Gateway::start(&format!("{DEMO}limits: {{session_ttl: 1s}}\n")).await;
    let busy = gateway.initialize("/mcp").await;
    for _ in 0..3 {
        gateway.initialize("/mcp").await;
    }
    let listening = gateway.initialize("/mcp").await;
    let mut stream = Events::of_session(&gateway, "/mcp", &listening).await;
    let call = legacy_call(1, "demo__sleep", json!({"seconds": 6}));
    let call = tokio::spawn(gateway.post("/mcp", Some(&busy), &call).send());
    // Two stay: one has a call, and one has an open stream.
    gateway.eventually("idle ones go", async |g| g.has_metric("toolgate_sessions", 2.0).await).await;
    let (status, answer) = read(call.await.expect("no panic").expect("an answer")).await;
    assert_eq!(status, 200, "{answer}");
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    assert_eq!(gateway.say("/mcp", &busy, &ping).await.0, 200, "it was in use until now");
    let end = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &listening);
    assert_eq!(end.send().await.expect("an answer").status(), 204);
    assert_eq!(stream.next().await, None);
    gateway.eventually("all are swept", async |g| g.has_metric("toolgate_sessions", 0.0).await).await;
}

#[tokio::test]
async fn a_server_that_a_reload_adds_is_announced_once() {
    let gateway = Gateway::start(DEMO).await;
    let session = gateway.initialize("/mcp").await;
    let mut stream = Events::of_session(&gateway, "/mcp", &session).await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    for (config, tools) in [("mcpServers: {demo: {builtin: demo}, more: {builtin: demo}}\n", 10), (DEMO, 5)] {
        gateway.rewrite(config);
        assert_eq!(stream.next().await, Some(changed.clone()));
        // A list request at once shows it.
        let (_, answer) = gateway.say("/mcp", &session, &list).await;
        assert_eq!(answer["result"]["tools"].as_array().map(Vec::len), Some(tools), "{answer}");
    }
    let end = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &session);
    assert_eq!(end.send().await.expect("an answer").status(), 204);
    assert_eq!(stream.rest().await, Vec::<serde_json::Value>::new(), "not told twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_a_restart_of_the_server() {
    let port = free_port();
    let start = move || tokio::task::spawn_blocking(move || fixture(port).0);
    let mut server = start().await.expect("it starts");
    let url = format!("http://127.0.0.1:{port}/mcp");
    let gateway = Gateway::start(&format!("mcpServers: {{fix: {{url: \"{url}\"}}}}\n")).await;
    connected(&gateway, "fix").await;
    for path in ["/mcp", "/servers/fix/mcp"] {
        let tool = if path == "/mcp" { "fix__echo" } else { "echo" };
        let echo = legacy_call(1, tool, json!({"message": "hi"}));
        let session = gateway.initialize(path).await;
        assert_eq!(gateway.say(path, &session, &echo).await.0, 200);
        server.kill();
        server = start().await.expect("it starts again");
        connected(&gateway, "fix").await;
        let (status, answer) = gateway.say(path, &session, &echo).await;
        assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("hi")), "{answer}");
    }
}

#[tokio::test]
async fn nobody_takes_more_than_its_share_of_the_sessions() {
    let config = format!(
        "listen: {{address: \"127.0.0.1:PORT\", trusted_proxies: [\"127.0.0.0/8\"]}}\n{DEMO}limits: {{max_sessions: 32, max_sessions_per_caller: 2}}\n"
    );
    let gateway = Gateway::start(&config).await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let open = async |from: &str| {
        let request = gateway.post("/mcp", None, &initialize(json!({}))).header("x-forwarded-for", from);
        let response = request.send().await.expect("an answer");
        let session =
            response.headers().get("mcp-session-id").map(|id| id.to_str().expect("ASCII").to_owned());
        let wait = response.headers().get("retry-after").map(|wait| wait.to_str().expect("ASCII").to_owned());
        if let Some(session) = &session {
            assert_eq!(gateway.say("/mcp", session, &ping).await.0, 200, "it is in use");
        }
        (read(response).await, session, wait)
    };
    let mut first = Vec::new();
    for _ in 0..2 {
        first.push(open("203.0.113.9").await.1.expect("there is a free slot"));
    }
    for from in ["203.0.113.9", "::ffff:203.0.113.9"] {
        let ((status, answer), session, wait) = open(from).await;
        assert_eq!((status, session), (429, None), "{answer}");
        assert_eq!(answer["error"]["code"], 429, "{answer}");
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("limits.max_sessions_per_caller"), "{answer}");
        assert!(answer["error"]["data"]["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{answer}");
        let wait: u64 = wait.expect("it is told").parse().expect("seconds");
        assert!((1..=60).contains(&wait), "{wait}");
    }
    // Other callers have their own; for IPv6 the /64 counts.
    assert!(open("203.0.113.10").await.1.is_some());
    assert!(open("2001:db8::1").await.1.is_some() && open("2001:db8::2").await.1.is_some());
    assert_eq!(open("2001:db8::3").await.0.0, 429);
    // One that was ended frees its slot at once.
    let end = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &first[0]);
    assert_eq!(end.send().await.expect("an answer").status(), 204);
    assert!(open("203.0.113.9").await.1.is_some());
    // One that was never used is evicted for another of the same caller.
    gateway.rewrite(&config.replace("per_caller: 2", "per_caller: 1"));
    let unused = async || {
        let request =
            gateway.post("/mcp", None, &initialize(json!({}))).header("x-forwarded-for", "203.0.113.77");
        let response = request.send().await.expect("an answer");
        let id = response.headers().get("mcp-session-id").map(|id| id.to_str().expect("ASCII").to_owned());
        id.expect("there is a free slot")
    };
    let loaded = "toolgate_config_reloads_total{result=\"ok\"}";
    gateway.eventually("it is reloaded", async |g| g.metric(loaded).await > 0.0).await;
    let (one, two) = (unused().await, unused().await);
    assert_eq!(gateway.say("/mcp", &one, &ping).await.0, 404, "it gave way");
    assert_eq!(gateway.say("/mcp", &two, &ping).await.0, 200);
}
