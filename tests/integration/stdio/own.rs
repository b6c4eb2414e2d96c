//! A gateway of its own: the whole gateway in the process that the client starts, without a listener.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{DEMO, StdioClient, modern, modern_call, text};
use crate::commands::folder_with;
use crate::harness::{TEST_TIMEOUT, initialize, legacy_call, stdio_fixture};

#[tokio::test]
async fn what_is_piped_in_at_once_is_answered_before_the_end() {
    let folder = folder_with(DEMO);
    let mut front = StdioClient::start(folder.path(), &[]);
    let lines = [
        initialize(json!({})),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
        legacy_call(2, "demo__sleep", json!({"seconds": 0.3})),
        legacy_call("three", "demo__echo", json!({"message": "hi"})),
    ];
    for line in &lines {
        front.say(line).await;
    }
    front.end();
    let mut seen = Vec::new();
    while let Some(message) = front.line().await {
        seen.push(message);
    }
    let by = |id: serde_json::Value| {
        seen.iter().find(|m| m["id"] == id).unwrap_or_else(|| panic!("{id}: {seen:?}"))
    };
    assert_eq!(seen[0]["id"], 0, "the session is there before it is used");
    assert_eq!(by(json!(1))["result"]["tools"].as_array().map(Vec::len), Some(5));
    assert_eq!(text(by(json!("three"))), "hi");
    let place = |id: serde_json::Value| seen.iter().position(|m| m["id"] == id);
    assert!(place(json!("three")) < place(json!(2)), "answers come as they are ready: {seen:?}");
    let (status, log) = front.exit().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("demo__echo"), "the log of the gateway is on standard error: {log}");
}

#[tokio::test]
async fn without_a_file_there_are_the_demo_tools_in_both_eras_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut front = StdioClient::start(folder.path(), &[]);
    let discovered = front.ask(&modern("d", "server/discover", json!({}))).await;
    assert_eq!(discovered["result"]["supportedVersions"], json!(["2026-07-28"]), "{discovered}");
    front.open(json!({})).await;
    assert_eq!(text(&front.ask(&modern_call(1, "demo__echo", json!({"message": "new"}))).await), "new");
    assert_eq!(text(&front.ask(&legacy_call(1, "demo__echo", json!({"message": "old"}))).await), "old");
    front.end();
    assert!(front.exit().await.0.success());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_those_that_are() {
    let folder = folder_with(&format!("{DEMO}toolsets: {{some: {{tools: [demo__echo]}}}}\n"));
    let mut front = StdioClient::start(folder.path(), &["-c", "toolgate.yaml", "--server", "nosuch"]);
    front.end();
    let (status, log) = front.exit().await;
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("no server or toolset of that name; there are demo, some"), "{log}");
}

#[tokio::test]
async fn a_changed_file_is_told_and_one_server_can_stand_alone() {
    let folder = folder_with(DEMO);
    let mut front = StdioClient::start(folder.path(), &["-c", "toolgate.yaml", "--server", "demo"]);
    front.open(json!({})).await;
    assert_eq!(text(&front.ask(&legacy_call(1, "echo", json!({"message": "a"}))).await), "a");
    let listen = modern("l", "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}));
    front.say(&listen).await;
    front.method("notifications/subscriptions/acknowledged").await;
    let new = folder.path().join("new.tmp");
    std::fs::write(&new, "mcpServers: {demo: {builtin: demo, tools: {deny: [fail]}}}\n").expect("a file");
    std::fs::rename(new, folder.path().join("toolgate.yaml")).expect("the file is replaced");
    // By the stream of the session and by the subscription.
    let output = [
        front.method("notifications/tools/list_changed").await,
        front.method("notifications/tools/list_changed").await,
    ];
    let subscription = "io.modelcontextprotocol/subscriptionId";
    let mut ids: Vec<_> = output.iter().map(|note| note["params"]["_meta"][subscription].clone()).collect();
    ids.sort_by_key(ToString::to_string);
    assert_eq!(ids, [json!("l"), json!(null)]);
    let listed = front.ask(&json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"})).await;
    assert_eq!(listed["result"]["tools"].as_array().map(Vec::len), Some(4), "{listed}");
    front.end();
    assert!(front.exit().await.0.success());
}

const ROLES: &str = "
mcpServers: {demo: {builtin: demo}}
auth: {required: true, api_keys: [{id: ci, sha256: SUM, roles: [robot]}]}
rbac: {roles: {robot: {allow: {tools: [demo__echo]}}, other: {allow: {tools: [demo__time]}}}}
";

#[tokio::test]
async fn roles_are_given_and_not_assumed() {
    // printf %s secret | sha256sum
    let sum = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
    let folder = folder_with(&ROLES.replace("SUM", sum));
    let mut front = StdioClient::start(folder.path(), &[]);
    front.end();
    let (status, log) = front.exit().await;
    assert_eq!(status.code(), Some(2), "{log}");
    assert!(log.contains("--as USER:ROLE") && log.contains("other, robot"), "{log}");

    let seen = async |front: &mut StdioClient| {
        let listed = front.ask(&modern(1, "tools/list", json!({}))).await;
        listed["result"]["tools"]
            .as_array()
            .map(|tools| tools.iter().map(|tool| tool["name"].clone()).collect::<Vec<_>>())
    };
    let mut front = StdioClient::start(folder.path(), &["--as", "ann:other"]);
    assert_eq!(seen(&mut front).await, Some(vec![json!("demo__time")]));
    let mut front =
        StdioClient::start_with(folder.path(), &[], |command| command.env("TOOLGATE_TOKEN", "secret"));
    assert_eq!(seen(&mut front).await, Some(vec![json!("demo__echo")]));
    let answer = front.ask(&modern_call(2, "demo__time", json!({}))).await;
    assert!(
        answer["error"]["message"].as_str().is_some_and(|message| message.contains("Unknown tool")),
        "{answer}"
    );
    let mut front = StdioClient::start(folder.path(), &["--token", "wrong"]);
    let answer = front.ask(&modern_call(3, "demo__echo", json!({}))).await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(3), &json!(401)), "{answer}");
}

#[tokio::test]
async fn a_server_that_is_a_process_asks_the_client_and_ends_with_the_front() {
    let servers = json!({"fix": stdio_fixture()});
    let folder = folder_with(&format!("mcpServers: {servers}\n"));
    let mut front = StdioClient::start(folder.path(), &[]);
    // The process starts slowly.
    let listed = async |front: &mut StdioClient| {
        let list = front.ask(&modern("list", "tools/list", json!({}))).await;
        list["result"]["tools"].as_array().is_some_and(|tools| !tools.is_empty())
    };
    let give_up = Instant::now() + TEST_TIMEOUT;
    while !listed(&mut front).await {
        assert!(Instant::now() < give_up, "the server does not come up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut call = modern_call(1, "fix__test_input_required_result_elicitation", json!({}));
    call["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
    let asked = front.ask(&call).await;
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    let name = json!({"action": "accept", "content": {"name": "Ann", "user_name": "Ann"}});
    let keys = asked["result"]["inputRequests"].as_object().expect("questions").keys();
    call["params"]["inputResponses"] = keys.map(|key| (key.clone(), name.clone())).collect();
    if let Some(state) = asked["result"].get("requestState") {
        call["params"]["requestState"] = state.clone();
    }
    call["id"] = json!(2);
    let answer = front.ask(&call).await;
    assert!(text(&answer).contains("Ann"), "{answer}");
    front.end();
    assert!(front.exit().await.0.success());
}
