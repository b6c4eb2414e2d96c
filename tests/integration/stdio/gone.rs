//! Gateways that are missing or gone: the bridge waits a moment, reports the error, and recovers by itself.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use super::{DEMO, MOMENT, StdioClient, modern, modern_call, text};
use crate::harness::{Gateway, Process, free_port, initialize, legacy_call};
use crate::mock_server::{MockReply, MockServer, good, http};

/// A gateway that the test starts again on the same port.
fn gateway(folder: &Path, port: u16, config: &str) -> Process {
    std::fs::write(folder.join("toolgate.yaml"), format!("listen: {{address: 127.0.0.1:{port}}}\n{config}"))
        .expect("a file");
    let mut command: Command = Gateway::command(folder, &["run"]);
    let mut process = Process::start(&mut command);
    process.wait_for("endpoint");
    process
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_not_there_yet_is_an_error_and_no_end() {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    let url = format!("http://127.0.0.1:{port}/mcp");
    let mut front = StdioClient::bridge(&url, &["--wait", "0s"]);
    for message in [initialize(json!({})), modern(0, "server/discover", json!({}))] {
        let answer = front.ask(&message).await;
        assert_eq!(answer["error"]["code"], 503, "{answer}");
        assert!(
            answer["error"]["message"].as_str().is_some_and(|words| words.contains("cannot be reached")),
            "{answer}"
        );
    }
    let _gateway = gateway(folder.path(), port, DEMO);
    front.open(json!({})).await;
    assert_eq!(text(&front.ask(&legacy_call(1, "demo__echo", json!({"message": "now"}))).await), "now");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_a_gateway_that_is_about_to_come() {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    let mut front = StdioClient::bridge(&format!("http://127.0.0.1:{port}/mcp"), &["--wait", "2m"]);
    front.say(&initialize(json!({}))).await;
    front.say(&modern_call(1, "demo__echo", json!({"message": "late"}))).await;
    // Their waiting cannot be seen from outside; that they were not rejected can.
    tokio::time::sleep(MOMENT).await;
    let _gateway = gateway(folder.path(), port, DEMO);
    let mut ids = [front.next().await, front.next().await].map(|answer| {
        assert!(answer.get("result").is_some(), "{answer}");
        answer["id"].clone()
    });
    ids.sort_by_key(|id| id.as_i64());
    assert_eq!(ids, [json!(0), json!(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_never_sees_that_the_gateway_was_restarted() {
    let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
    for kill in [true, false] {
        let mut first = gateway(folder.path(), port, DEMO);
        let mut front = StdioClient::bridge(&format!("http://127.0.0.1:{port}/mcp"), &["--wait", "1m"]);
        front.open(json!({})).await;
        let listen =
            modern("l", "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}));
        front.say(&listen).await;
        front.method("notifications/subscriptions/acknowledged").await;
        assert_eq!(
            text(&front.ask(&legacy_call(1, "demo__echo", json!({"message": "before"}))).await),
            "before"
        );
        match kill {
            true => first.kill(),
            false => {
                first.signal(libc::SIGTERM);
                assert!(first.wait().success());
            }
        }
        // This is lost until another gateway is ready.
        front.say(&legacy_call(2, "demo__echo", json!({"message": "between"}))).await;
        let fewer = "mcpServers: {demo: {builtin: demo, tools: {deny: [fail]}}}\n";
        let _second = gateway(folder.path(), port, fewer);
        let (mut answered, mut by_session, mut by_subscription) = (false, false, false);
        while !(answered && by_session && by_subscription) {
            let message = front.next().await;
            match message["method"].as_str() {
                Some("notifications/tools/list_changed") => {
                    match &message["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] {
                        id if id == "l" => by_subscription = true,
                        _ => by_session = true,
                    }
                }
                // The other lists that may have changed.
                Some(method) => assert!(method.ends_with("/list_changed"), "{message}"),
                None => {
                    assert_eq!(text(&message), "between", "{message}");
                    answered = true;
                }
            }
        }
        let listed = front.ask(&json!({"jsonrpc": "2.0", "id": 3, "method": "tools/list"})).await;
        assert_eq!(listed["result"]["tools"].as_array().map(Vec::len), Some(4), "{listed}");
        // The new gateway's own changes arrive as well.
        std::fs::write(
            folder.path().join("new.tmp"),
            format!("listen: {{address: 127.0.0.1:{port}}}\n{DEMO}"),
        )
        .expect("a file");
        std::fs::rename(folder.path().join("new.tmp"), folder.path().join("toolgate.yaml"))
            .expect("it is replaced");
        front.method("notifications/tools/list_changed").await;
        front.method("notifications/tools/list_changed").await;
        front.end();
        assert!(front.exit().await.0.success());
    }
}

#[tokio::test]
async fn what_the_client_has_set_is_said_again_in_a_new_session() {
    // A server with sessions of its own as the gateway: it forgets all of them on demand.
    let epoch = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(1));
    let now = epoch.clone();
    let mock = MockServer::start(move |seen| {
        let session = format!("s{}", now.load(std::sync::atomic::Ordering::SeqCst));
        match (seen.http_method.as_str(), seen.method()) {
            ("POST", "initialize") => {
                let result = json!({"jsonrpc": "2.0", "id": seen.body["id"], "result": {"protocolVersion": "2025-11-25",
                    "capabilities": {"logging": {}, "resources": {"subscribe": true}}, "serverInfo": {"name": "p", "version": "1"}}});
                MockReply::Say(http("200 OK", &["Content-Type: application/json", &format!("Mcp-Session-Id: {session}")], &result.to_string()))
            }
            ("GET", _) => MockReply::Say(http("405 Method Not Allowed", &[], "")),
            _ if seen.header("mcp-session-id") != Some(&session) => {
                // As the TypeScript SDK's example writes it.
                let error = json!({"jsonrpc": "2.0", "error": {"code": -32000, "message": "Bad Request: No valid session ID provided"}, "id": null});
                MockReply::Say(http("400 Bad Request", &["Content-Type: application/json"], &error.to_string()))
            }
            (_, "") => MockReply::Say(http("202 Accepted", &[], "")),
            _ if seen.body.get("id").is_none() => MockReply::Say(http("202 Accepted", &[], "")),
            _ => {
                let result = json!({"jsonrpc": "2.0", "id": seen.body["id"], "result": {}});
                MockReply::Say(http("200 OK", &["Content-Type: application/json"], &result.to_string()))
            }
        }
    })
    .await;
    let mut front = StdioClient::bridge(&mock.url, &[]);
    front.open(json!({"roots": {}})).await;
    for (id, method, params) in [
        (1, "logging/setLevel", json!({"level": "error"})),
        (2, "resources/subscribe", json!({"uri": "a:1"})),
        (3, "resources/subscribe", json!({"uri": "a:2"})),
        (4, "resources/unsubscribe", json!({"uri": "a:1"})),
    ] {
        let answer =
            front.ask(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        assert!(answer.get("result").is_some(), "{answer}");
    }
    epoch.store(2, std::sync::atomic::Ordering::SeqCst);
    // Two at once find it out; the session is opened once.
    for id in [5, 6] {
        front.say(&legacy_call(id, "tool", json!({}))).await;
    }
    for _ in 0..2 {
        let answer = front.next().await;
        assert!(answer.get("result").is_some(), "{answer}");
    }
    let seen = mock.all();
    let in_new: Vec<_> = seen.iter().filter(|seen| seen.header("mcp-session-id") == Some("s2")).collect();
    let of = |method: &str| {
        in_new
            .iter()
            .filter(|seen| seen.method() == method)
            .map(|seen| seen.body["params"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(mock.count("initialize"), 2);
    let opened: Vec<_> =
        seen.iter().filter(|seen| seen.method() == "initialize").map(|seen| &seen.body["params"]).collect();
    assert_eq!(opened[0], opened[1], "what the client said of itself is said again");
    assert_eq!(of("logging/setLevel"), [json!({"level": "error"})]);
    assert_eq!(of("resources/subscribe"), [json!({"uri": "a:2"})]);
    assert_eq!(of("tools/call").len(), 2);
    let order: Vec<&str> = in_new.iter().map(|seen| seen.method()).take(3).collect();
    assert_eq!(order, ["notifications/initialized", "logging/setLevel", "resources/subscribe"]);
}

#[tokio::test]
async fn a_call_whose_answer_breaks_off_is_told_unless_it_only_reads() {
    let broken = http("200 OK", &["Content-Type: application/json"], "{\"jsonrpc\":\"2.0\",\"id\":1,");
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let asked = count.clone();
    let mock = MockServer::start(move |seen| match seen.method() {
        "tools/call" => MockReply::Cut(broken[..broken.len() - 4].to_vec()),
        "tools/list" if asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 => {
            MockReply::Cut(broken[..broken.len() - 4].to_vec())
        }
        _ => MockReply::Say(good(seen)),
    })
    .await;
    let mut front = StdioClient::bridge(&mock.url, &[]);
    let answer = front.ask(&modern_call(1, "tool", json!({}))).await;
    assert_eq!(answer["error"]["code"], 503, "{answer}");
    assert_eq!(mock.count("tools/call"), 1, "nobody knows whether it was carried out");
    let answer = front.ask(&modern(2, "tools/list", json!({}))).await;
    assert!(answer.get("result").is_some(), "{answer}");
    assert_eq!(mock.count("tools/list"), 2);
}

#[tokio::test]
async fn a_token_is_read_anew_when_it_is_not_taken_any_more_and_told_to_nobody() {
    let mock = MockServer::start(|seen| match seen.header("authorization") {
        Some("Bearer new-secret") => MockReply::Say(good(seen)),
        _ => MockReply::Say(http(
            "401 Unauthorized",
            &["Content-Type: application/json"],
            r#"{"jsonrpc":"2.0","error":{"code":401,"message":"the token has ended"}}"#,
        )),
    })
    .await;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("token"), "old-secret\n").expect("a file");
    let mut front = StdioClient::start(folder.path(), &["--url", &mock.url, "--token-file", "token"]);
    let answer = front.ask(&modern(1, "server/discover", json!({}))).await;
    assert_eq!(
        (&answer["id"], &answer["error"]["message"]),
        (&json!(1), &json!("the token has ended")),
        "{answer}"
    );
    std::fs::write(folder.path().join("token"), "new-secret\n").expect("a file");
    let answer = front.ask(&modern(2, "server/discover", json!({}))).await;
    assert!(answer.get("result").is_some(), "{answer}");
    front.end();
    let (status, log) = front.exit().await;
    assert!(status.success() && !log.contains("secret"), "{log}");
}
