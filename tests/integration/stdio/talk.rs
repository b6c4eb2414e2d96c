//! Messages between a client and a gateway through a bridge: in both directions, in both eras, in batches.

use serde_json::json;
use tokio::sync::broadcast;

use super::{DEMO, StdioClient, modern, modern_call, text};
use crate::harness::{Gateway, a_fixture, legacy_call};
use crate::mock_server::{MockReply, MockServer, good};

async fn behind(url: &str) -> Gateway {
    let gateway =
        Gateway::start(&format!("mcpServers: {{fix: {{url: \"{url}\"}}}}\nlog: {{level: debug}}\n")).await;
    crate::legacy::listed(&gateway, "fix__test_simple_text").await;
    gateway
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_client_is_asked_and_told_and_answers() {
    let (_fixture, url) = a_fixture().await;
    let gateway = behind(&url).await;
    let mut front = StdioClient::bridge(&gateway.url("/mcp"), &[]);
    front.open(json!({"elicitation": {}, "sampling": {}})).await;
    front.say(&legacy_call(1, "fix__test_elicitation", json!({"message": "who?"}))).await;
    let question = front.method("elicitation/create").await;
    assert_eq!(question["params"]["message"], "who?");
    // Calls do not wait for each other.
    assert!(text(&front.ask(&legacy_call(2, "fix__test_simple_text", json!({}))).await).contains("simple"));
    let content = json!({"username": "ann", "email": "a@b"});
    front
        .say(&json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": content}}))
        .await;
    let answer = front.answer(1).await;
    assert!(text(&answer).contains("ann"), "{answer}");

    let mut call = legacy_call(3, "fix__test_tool_with_progress", json!({}));
    call["params"]["_meta"] = json!({"progressToken": "p"});
    front.say(&call).await;
    let progress = front.method("notifications/progress").await;
    assert_eq!(progress["params"]["progressToken"], "p");
    assert!(front.answer(3).await.get("result").is_some());

    let level =
        json!({"jsonrpc": "2.0", "id": 4, "method": "logging/setLevel", "params": {"level": "debug"}});
    assert!(front.ask(&level).await.get("result").is_some());
    front.say(&legacy_call(5, "fix__test_tool_with_logging", json!({}))).await;
    front.method("notifications/message").await;
    front.answer(5).await;
    // A stream that ends in the middle of a call is resumed.
    let answer = front.ask(&legacy_call(6, "fix__test_reconnection", json!({}))).await;
    assert!(answer.get("result").is_some(), "{answer}");
    front.end();
    assert!(front.exit().await.0.success());
    gateway.eventually("the session is over", async |g| g.has_metric("toolgate_sessions", 0.0).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_repeats_its_arguments_in_the_head_whether_the_client_has_listed_the_tool_or_not() {
    let (_fixture, url) = a_fixture().await;
    let gateway = behind(&url).await;
    let arguments = json!({"region": "grün", "priority": 7, "urgent": true});
    for listed in [false, true] {
        let mut front = StdioClient::bridge(&gateway.url("/mcp"), &[]);
        if listed {
            front.ask(&modern(1, "tools/list", json!({}))).await;
        }
        let answer = front.ask(&modern_call(2, "fix__test_x_mcp_header", arguments.clone())).await;
        assert!(text(&answer).contains("grün"), "{answer}");
    }
}

#[tokio::test]
async fn batches_go_and_come_as_one_line_where_the_revision_has_them() {
    let gateway = Gateway::start(DEMO).await;
    let mut front = StdioClient::bridge(&gateway.url("/mcp"), &[]);
    let mut hello = crate::harness::initialize(json!({}));
    hello["params"]["protocolVersion"] = json!("2025-03-26");
    assert_eq!(front.ask(&hello).await["result"]["protocolVersion"], "2025-03-26");
    let echo = |id: i32| legacy_call(id, "demo__echo", json!({"message": id.to_string()}));
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    front.say(&json!([ready, echo(1), echo(2)])).await;
    let answers = front.next().await;
    let ids: Vec<_> =
        answers.as_array().expect("a batch").iter().map(|answer| answer["id"].clone()).collect();
    assert_eq!(ids, [json!(1), json!(2)], "{answers}");
    // A batch without requests has no response, so the next line answers the message after it.
    front.say(&json!([{"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}])).await;
    assert_eq!(text(&front.ask(&echo(3)).await), "3");

    let mut front = StdioClient::bridge(&gateway.url("/mcp"), &[]);
    front.open(json!({})).await;
    front.say(&json!([echo(1)])).await;
    let refused = front.next().await;
    let error = &refused[0]["error"];
    assert_eq!((&refused[0]["id"], &error["code"]), (&json!(1), &json!(-32600)), "{refused}");
}

/// Never answers a call, and signals when one has come.
async fn silent(came: &broadcast::Sender<()>) -> MockServer {
    let came = came.clone();
    MockServer::start(move |seen| match seen.method() {
        "tools/call" => {
            let _ = came.send(());
            MockReply::Hang(Vec::new())
        }
        _ => MockReply::Say(good(seen)),
    })
    .await
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_its_server_in_both_eras() {
    let (came, mut calls) = broadcast::channel(4);
    let mock = silent(&came).await;
    let gateway = Gateway::start(&format!("mcpServers: {{p: {{url: \"{}\"}}}}\n", mock.url)).await;
    crate::legacy::listed(&gateway, "p__tool").await;
    let mut front = StdioClient::bridge(&gateway.url("/mcp"), &[]);
    front.open(json!({})).await;
    let cancel = |id: &str| json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
    front.say(&legacy_call("old", "p__tool", json!({}))).await;
    calls.recv().await.expect("a call");
    front.say(&cancel("old")).await;
    gateway.eventually("the server hears of it", async |_| mock.count("notifications/cancelled") == 1).await;
    front.say(&modern_call("new", "p__tool", json!({}))).await;
    calls.recv().await.expect("a call");
    front.say(&cancel("new")).await;
    // The stream is closed, which is the cancellation: the gateway sees its client disconnect.
    gateway
        .eventually("the call ends", async |g| {
            let output = g.process.output();
            output.lines().any(|line| line.contains("tools/call") && line.contains("\"client_aborted\""))
        })
        .await;
    // Neither has a response: the next line answers the message after them.
    front.say(&json!({"jsonrpc": "2.0", "id": "ping", "method": "ping"})).await;
    assert_eq!(front.next().await, json!({"jsonrpc": "2.0", "id": "ping", "result": {}}));
}

#[tokio::test]
async fn what_is_no_message_is_answered_with_an_error_and_costs_nothing_else() {
    let gateway = Gateway::start(&format!("{DEMO}limits: {{max_body: 1KiB}}\n")).await;
    let own = crate::commands::folder_with(&format!("{DEMO}limits: {{max_body: 1KiB}}\n"));
    for mut front in [StdioClient::bridge(&gateway.url("/mcp"), &[]), StdioClient::start(own.path(), &[])] {
        for (bad, id, code) in [
            ("{\"jsonrpc\":", None, -32700),
            ("hello", None, -32700),
            ("[1,", None, -32700),
            ("7", None, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, Some(json!(1)), -32600),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, None, -32600),
        ] {
            front.raw(format!("{bad}\r\n\n").as_bytes()).await;
            let answer = front.next().await;
            // The MCP schemas have no null there (2025-11-25, `JSONRPCErrorResponse`).
            assert_eq!(
                (answer.get("id"), &answer["error"]["code"]),
                (id.as_ref(), &json!(code)),
                "{bad}: {answer}"
            );
        }
        // The gateway rejects a message that is too long, under its id.
        for (id, length) in [(7, 2000), (8, 5 << 20)] {
            let answer =
                front.ask(&modern_call(id, "demo__echo", json!({"message": "x".repeat(length)}))).await;
            assert_eq!(answer["error"]["code"], 413, "{answer}");
            let message = answer["error"]["message"].as_str().expect("words");
            assert!(message.contains("larger than the limit of 1024 bytes"), "{answer}");
        }
        let answer = front.ask(&modern_call(9, "demo__echo", json!({"message": "still here"}))).await;
        assert_eq!(text(&answer), "still here");
    }
}

#[tokio::test]
async fn a_hundred_calls_at_once_get_each_their_own_answer() {
    let gateway = Gateway::start(DEMO).await;
    let mut front = StdioClient::bridge(&gateway.url("/mcp"), &[]);
    front.open(json!({})).await;
    let message = |id: u64| json!({"message": format!("m{id}")});
    for id in 0..100u64 {
        let call = if id % 2 == 0 {
            legacy_call(id, "demo__echo", message(id))
        } else {
            modern_call(id, "demo__echo", message(id))
        };
        front.say(&call).await;
    }
    let mut seen = std::collections::HashSet::new();
    while seen.len() < 100 {
        let answer = front.next().await;
        let Some(id) = answer["id"].as_u64() else { continue };
        assert_eq!(text(&answer), format!("m{id}"));
        assert!(seen.insert(id), "answered twice: {id}");
    }
}
