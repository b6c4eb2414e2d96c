//! How a bridge ends: with its client, by signals, and with running calls.

use std::time::Duration;

use serde_json::json;
use tokio::sync::broadcast;

use super::{DEMO, StdioClient, modern, modern_call};
use crate::commands::folder_with;
use crate::harness::{Gateway, legacy_call};
use crate::mock_server::{MockReply, MockServer, good};

#[tokio::test]
async fn a_signal_ends_it_in_good_order_and_what_runs_is_told() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        for own in [true, false] {
            let gateway = Gateway::start(DEMO).await;
            let folder = folder_with(DEMO);
            let mut front = match own {
                true => StdioClient::start(folder.path(), &[]),
                false => StdioClient::bridge(&gateway.url("/mcp"), &[]),
            };
            front.open(json!({})).await;
            let listen =
                modern("l", "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}));
            front.say(&listen).await;
            front.method("notifications/subscriptions/acknowledged").await;
            front.say(&legacy_call("old", "demo__sleep", json!({"seconds": 60}))).await;
            front.say(&modern_call("new", "demo__sleep", json!({"seconds": 60}))).await;
            // All earlier messages were read.
            front.say(&json!({"jsonrpc": "2.0", "id": "ping", "method": "ping"})).await;
            front.answer("ping").await;
            front.signal(signal);
            let mut output = Vec::new();
            while let Some(message) = front.line().await {
                let id = message.get("id").unwrap_or(&message["params"]["requestId"]);
                output.push((id.as_str().unwrap_or_default().to_owned(), message["error"]["code"].as_i64()));
            }
            output.sort();
            assert_eq!(output, [("l".into(), None), ("new".into(), Some(503)), ("old".into(), Some(503))]);
            let (status, log) = front.exit().await;
            assert_eq!(status.code(), Some(0), "{log}");
            gateway
                .eventually("the session is over", async |g| g.has_metric("toolgate_sessions", 0.0).await)
                .await;
        }
    }
}

#[tokio::test]
async fn a_client_that_reads_no_more_ends_it_without_a_word() {
    let gateway = Gateway::start(DEMO).await;
    let folder = folder_with("mcpServers: {demo: {builtin: demo}}\nlog: {level: warn}\n");
    for own in [true, false] {
        let mut front = match own {
            true => StdioClient::start(folder.path(), &[]),
            false => StdioClient::bridge(&gateway.url("/mcp"), &[]),
        };
        front.open(json!({})).await;
        front.deafen();
        // Standard input stays open: the broken pipe alone ends it. A program that another test starts at
        // this moment may hold the pipe for an instant, so one message need not break it.
        while front.is_running() {
            let _ = front.try_raw(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (status, log) = front.exit().await;
        assert_eq!((status.code(), log.as_str()), (Some(0), ""), "own: {own}");
    }
}

#[tokio::test]
async fn after_the_end_of_input_calls_get_the_time_of_a_drain_and_no_more() {
    let (came, mut calls) = broadcast::channel(4);
    let mock = MockServer::start(move |seen| match seen.method() {
        "tools/call" => {
            let _ = came.send(());
            MockReply::Hang(Vec::new())
        }
        _ => MockReply::Say(good(seen)),
    })
    .await;
    let config = format!("mcpServers: {{p: {{url: \"{}\"}}}}\nlimits: {{drain: 200ms}}\n", mock.url);
    let folder = folder_with(&config);
    let mut front = StdioClient::start(folder.path(), &[]);
    front.say(&modern_call(1, "p__tool", json!({}))).await;
    calls.recv().await.expect("the call reaches the server");
    front.end();
    let answer = front.next().await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(1), &json!(503)), "{answer}");
    assert_eq!(front.line().await, None);
    assert_eq!(front.exit().await.0.code(), Some(0));
}

#[tokio::test]
async fn a_wrong_command_says_what_would_be_right() {
    let folder = folder_with(DEMO);
    for (message, why) in [
        (&["--url", "localhost:8000/mcp"][..], "http://127.0.0.1:8000/mcp"),
        (&["--url", "http://a:b@127.0.0.1/mcp"], "--token-file"),
        (&["--url", "http://127.0.0.1/mcp", "--token-file", "none"], "--token-file none"),
        (&["--url", "http://127.0.0.1/mcp", "--token-file", "/dev/zero"], "regular file"),
        (&["--url", "https://127.0.0.1/mcp", "--ca", "toolgate.yaml"], "--ca toolgate.yaml"),
        (&["--url", "http://127.0.0.1/mcp", "-c", "toolgate.yaml"], "cannot be used with"),
        (&["--wait", "soon"], "--wait soon"),
        (&["-c", "none.yaml"], "none.yaml"),
    ] {
        let mut front = StdioClient::start(folder.path(), message);
        assert_eq!(front.line().await, None, "{message:?}");
        let (status, log) = front.exit().await;
        assert_eq!(status.code(), Some(2), "{message:?}: {log}");
        assert!(log.contains(why), "{message:?}: {log}");
    }
}
