//! Servers that have lost a client's session, and their error responses: the client does not notice.

use futures::future::join_all;
use serde_json::{Value, json};

use super::{calls, followed, logged, staged};
use crate::events::Events;
use crate::harness::{Gateway, Process, free_port, legacy_call, node, npm};
use crate::mock_server::http;

const JSON: &[&str] = &["Content-Type: application/json"];

/// The responses of real servers for an unknown session; their statuses and texts differ.
fn unknown() -> Vec<(&'static str, Vec<u8>)> {
    let error = |code: i64, message: &str| {
        json!({"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": null}).to_string()
    };
    let (none, lost) =
        (error(-32000, "Bad Request: No valid session ID provided"), error(-32001, "Session not found"));
    vec![
        ("an error with 400", http("400 Bad Request", JSON, &none)),
        (
            "text with 400",
            http("400 Bad Request", &["Content-Type: text/html"], "Invalid or missing session ID"),
        ),
        ("nothing but 400", http("400 Bad Request", &[], "")),
        ("an error with 404", http("404 Not Found", JSON, &lost)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_does_not_see_that_its_session_was_lost_however_the_server_says_it() {
    for (how, message) in unknown() {
        let (gateway, stage) = staged("", "").await;
        let session = gateway.initialize("/mcp").await;
        calls(&gateway, &session).await;
        stage.with(|state| state.unknown = Some(message));
        stage.forget();
        let before = stage.heard("initialize").len();
        let call = |id: usize| {
            let call = legacy_call(id, "s__tool", json!({"n": id}));
            let (gateway, session) = (&gateway, &session);
            async move { gateway.say("/mcp", session, &call).await }
        };
        for (id, (status, answer)) in join_all((1..=25).map(call)).await.into_iter().enumerate() {
            let text = &answer["result"]["content"][0]["text"];
            assert_eq!(
                (status, text, &answer["id"]),
                (200, &json!("done"), &json!(id + 1)),
                "{how}: {answer}"
            );
        }
        let opened: Vec<Value> =
            stage.heard("initialize").split_off(before).into_iter().map(|s| s.body).collect();
        let clients = opened.iter().filter(|body| body["params"]["clientInfo"]["name"] == "test").count();
        assert_eq!(clients, 1, "{how}: {opened:?}");
        assert_eq!(stage.clients().len(), 1, "{how}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_another_client_carries_goes_again_too() {
    let (gateway, stage) = staged("", "").await;
    // Of clients that support elicitation.
    let session = gateway.initialize_with("/mcp", json!({"elicitation": {}})).await;
    calls(&gateway, &session).await;
    stage.with(|state| state.unknown = Some(http("400 Bad Request", &[], "")));
    stage.forget();
    calls(&gateway, &session).await;
    assert_eq!(stage.clients().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_only_listens_is_heard_in_a_new_session() {
    let (gateway, stage) = staged("", "").await;
    let session = gateway.initialize("/mcp").await;
    let mut stream = Events::of_session(&gateway, "/mcp", &session).await;
    calls(&gateway, &session).await;
    followed(&gateway, &stage, 0).await.say(&logged("before"));
    assert_eq!(stream.next().await, Some(logged("before")));
    stage.with(|state| state.unknown = Some(http("400 Bad Request", &[], "")));
    stage.forget();
    followed(&gateway, &stage, 0).await.say(&logged("after"));
    assert_eq!(stream.next().await, Some(logged("after")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_400_that_is_about_the_call_is_its_answer() {
    let (gateway, stage) = staged("", "").await;
    let session = gateway.initialize("/mcp").await;
    let bad = json!({"jsonrpc": "2.0", "id": 7, "error": {"code": -32602, "message": "no such n"}});
    stage.with(|state| {
        state.tools.push("bad");
        state.answers.insert("bad", http("400 Bad Request", JSON, &bad.to_string()));
    });
    stage.change();
    gateway.eventually("it is listed", async |g| super::shows(g, &session, "s__bad").await).await;
    calls(&gateway, &session).await;
    let sessions = stage.clients();
    let (status, answer) = gateway.say("/mcp", &session, &legacy_call(7, "s__bad", json!({}))).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32602)), "{answer}");
    let calls: usize = stage.heard("tools/call").iter().filter(|seen| seen.tool() == "bad").count();
    assert_eq!((calls, stage.clients()), (1, sessions), "it was not repeated, and its session stays");

    // Some answer so to every request: they are asked twice, and no more.
    stage.with(|state| _ = state.refuses.insert("ping", "400 Bad Request"));
    let (status, answer) = gateway.say("/mcp", &session, &legacy_call(7, "s__bad", json!({}))).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32602)), "{answer}");
    let calls: usize = stage.heard("tools/call").iter().filter(|seen| seen.tool() == "bad").count();
    assert_eq!(calls, 3);
}

async fn start(file: &'static str, port: u16) -> Process {
    let start = move || {
        let mut command = std::process::Command::new(node());
        command.arg(npm(file)).arg("streamableHttp");
        let mut process =
            Process::start(command.env("PORT", port.to_string()).env("MCP_PORT", port.to_string()));
        process.wait_for(&port.to_string());
        process
    };
    tokio::task::spawn_blocking(start).await.expect("it starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_of_real_servers_are_not_seen_by_their_clients() {
    let servers = [
        ("@modelcontextprotocol/server-everything/dist/index.js", "echo", json!({"message": "hi"}), "hi"),
        (
            "@modelcontextprotocol/sdk/dist/esm/examples/server/simpleStreamableHttp.js",
            "greet",
            json!({"name": "Ann"}),
            "Hello, Ann!",
        ),
    ];
    for (file, tool, arguments, expected) in servers {
        let port = free_port();
        let server = start(file, port).await;
        // Only the calls themselves may find out.
        let config = format!(
            "mcpServers: {{real: {{url: \"http://127.0.0.1:{port}/mcp\", health: {{interval: 1h}}}}}}\n"
        );
        let gateway = Gateway::start(&config).await;
        let name = format!("real__{tool}");
        super::lists(&gateway, &name).await;
        let session = gateway.initialize("/mcp").await;
        let mut server = Some(server);
        for round in 0..3 {
            let call = |id: usize| {
                let call = legacy_call(round * 100 + id, &name, arguments.clone());
                let (gateway, session) = (&gateway, &session);
                async move { gateway.say("/mcp", session, &call).await }
            };
            for (status, answer) in join_all((0..25).map(call)).await {
                let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_default();
                assert!(status == 200 && text.contains(expected), "{file}, round {round}: {status} {answer}");
            }
            drop(server.take());
            server = Some(start(file, port).await);
        }
    }
}
