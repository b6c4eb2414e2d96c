//! Messages during a call: progress, logging, requests to the client, cancellation.

use serde_json::{Value, json};

use crate::clients::{Sdk, run, step};
use crate::events::Events;
use crate::harness::{Gateway, Process, a_fixture, legacy_call, stdio_fixture};

/// The fixture over HTTP as `fix`, another as `two`, and as a process `pipe`.
async fn setup() -> (Gateway, [Process; 2]) {
    let ((fix, fix_url), (two, two_url)) = tokio::join!(a_fixture(), a_fixture());
    let servers = json!({"fix": {"url": fix_url}, "two": {"url": two_url}, "pipe": stdio_fixture()});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    gateway
        .eventually("all are connected", async |g| g.get("/health").await.contains("\"connected\":3"))
        .await;
    (gateway, [fix, two])
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_and_log_messages_reach_the_caller_with_its_own_token() {
    let (gateway, _servers) = setup().await;
    let session = gateway.initialize("/mcp").await;
    for server in ["fix", "pipe"] {
        let mut call = legacy_call("c", &format!("{server}__stream"), json!({"n": 3, "interval_ms": 5}));
        call["params"]["_meta"] = json!({"progressToken": "my token"});
        let mut stream = Events::open(gateway.post("/mcp", Some(&session), &call)).await;
        let mut all = stream.rest().await;
        let answer = all.pop().expect("an answer");
        assert_eq!(
            (&answer["id"], &answer["result"]["content"][0]["text"]),
            (&json!("c"), &json!("streamed 3"))
        );
        let output = |method: &str| {
            all.iter().filter(|m| m["method"] == method).map(|m| m["params"].clone()).collect::<Vec<_>>()
        };
        let progress = output("notifications/progress");
        let steps: Vec<&Value> = progress.iter().map(|params| &params["progress"]).collect();
        assert_eq!(steps, [1.0, 2.0, 3.0], "{server}");
        assert!(progress.iter().all(|params| params["progressToken"] == "my token"), "{progress:?}");
        if server == "fix" {
            let logged = output("notifications/message");
            assert_eq!(logged.len(), 3);
            assert_eq!((&logged[0]["level"], &logged[0]["data"]), (&json!("info"), &json!("step 1")));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_level_that_a_client_sets_holds_at_the_servers() {
    let (gateway, _servers) = setup().await;
    let session = gateway.initialize("/mcp").await;
    let level =
        json!({"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": "error"}});
    assert_eq!(gateway.say("/mcp", &session, &level).await.0, 200);
    let call = legacy_call(2, "fix__stream", json!({"n": 2, "interval_ms": 5}));
    // Servers are notified in the background.
    gateway
        .eventually("no more messages of level info", async |g| {
            let mut stream = Events::open(g.post("/mcp", Some(&session), &call)).await;
            stream.rest().await.iter().all(|message| message["method"] != "notifications/message")
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_is_cancelled_at_its_server() {
    let (gateway, _servers) = setup().await;
    let session = gateway.initialize("/mcp").await;
    for server in ["fix", "pipe"] {
        let call = legacy_call("long", &format!("{server}__sleep"), json!({"seconds": 600}));
        let running = tokio::spawn(gateway.post("/mcp", Some(&session), &call).send());
        let started = format!("the call runs at {server}");
        gateway.eventually(&started, async |g| g.count(&session, server, "sleep.started").await == 1).await;
        let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
            "params": {"requestId": "long", "reason": "a test"}});
        assert_eq!(gateway.say("/mcp", &session, &cancel).await.0, 202);
        let stopped = format!("the call is cancelled at {server}");
        gateway.eventually(&stopped, async |g| g.count(&session, server, "sleep.cancelled").await == 1).await;
        // Its request ends too, in some way.
        let ended = async { running.await.expect("no panic").expect("an answer").text().await };
        tokio::time::timeout(std::time::Duration::from_secs(30), ended)
            .await
            .unwrap_or_else(|_| panic!("the cancelled request hangs at {server}"))
            .ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_client_that_leaves_takes_its_call_with_it() {
    let (gateway, _servers) = setup().await;
    let count = async |g: &Gateway, server: &str, name: &str| {
        let (_, answer) = g.call(&format!("{server}__counter"), json!({"name": name, "add": 0})).await;
        answer["result"]["structuredContent"]["count"]
            .as_u64()
            .unwrap_or_else(|| panic!("no count: {answer}"))
    };
    for server in ["fix", "pipe"] {
        let params = json!({"name": format!("{server}__sleep"), "arguments": {"seconds": 600}});
        let running = tokio::spawn(gateway.modern_request("/mcp", "tools/call", params).send());
        let what = format!("the call runs at {server}");
        gateway.eventually(&what, async |g| count(g, server, "sleep.started").await == 1).await;
        running.abort();
        let what = format!("the call ended at {server}");
        gateway.eventually(&what, async |g| count(g, server, "sleep.cancelled").await == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_ask_the_client_at_once_and_each_gets_its_answer() {
    let (gateway, _servers) = setup().await;
    let session = gateway.initialize_with("/mcp", json!({"elicitation": {}, "sampling": {}})).await;
    let mut asking = Vec::new();
    for server in ["fix", "two"] {
        let call = legacy_call(server, &format!("{server}__test_elicitation"), json!({"message": "who?"}));
        let mut stream = Events::open(gateway.post("/mcp", Some(&session), &call)).await;
        let question = stream.method("elicitation/create").await;
        asking.push((server, stream, question));
    }
    assert_ne!(asking[0].2["id"], asking[1].2["id"], "their ids must lead back");
    for (server, _, question) in asking.iter().rev() {
        let content = json!({"username": format!("user of {server}"), "email": "e"});
        let answer = json!({"jsonrpc": "2.0", "id": question["id"],
            "result": {"action": "accept", "content": content}});
        assert_eq!(gateway.say("/mcp", &session, &answer).await.0, 202);
    }
    for (server, mut stream, _) in asking {
        let answer = stream.rest().await.pop().expect("an answer");
        assert_eq!(answer["id"], server);
        let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_default();
        assert!(text.contains(&format!("user of {server}")), "{answer}");
    }

    // And with a real client.
    let plan: Vec<Value> = ["fix", "two"]
        .into_iter()
        .flat_map(|server| {
            [
                step(&format!("{server}__test_elicitation"), json!({"message": "who?"}), "filled"),
                step(&format!("{server}__test_sampling"), json!({"prompt": "?"}), "a sampled answer"),
            ]
        })
        .collect();
    let ran = run(Sdk::Python, &gateway.url("/mcp"), "legacy", &plan).await;
    assert!(ran.ok, "{}", ran.output);
}
