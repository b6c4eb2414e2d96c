//! Calls in one session share its connections to the server, whoever it belongs to.

use serde_json::json;

use super::request_state::{ANN, AUTH};
use super::{modern_call, send};
use crate::harness::{Gateway, initialize, legacy_call, read};
use crate::mock_server::{MockReply, MockServer, http};

const CALLS: u64 = 20;
/// The first call has a connection of its own; one of the rest may be made while another is not yet idle.
const CONNECTIONS: usize = 4;

/// A server that speaks the legacy era only, and a gateway in front of it.
async fn legacy_only(more: &str) -> (MockServer, Gateway) {
    let unknown = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32601,"message":"Method not found"}}"#;
    let server = MockServer::start(move |seen| match seen.method() {
        "server/discover" => {
            MockReply::Say(http("404 Not Found", &["Content-Type: application/json"], unknown))
        }
        _ => MockReply::Good,
    })
    .await;
    let config =
        format!("mcpServers: {{old: {{url: \"{}\", health: {{interval: 1h}}{more}}}}}\n{AUTH}", server.url);
    let gateway = Gateway::start(&config).await;
    gateway.eventually("it is connected", async |g| g.get("/health").await.contains("\"connected\":1")).await;
    (server, gateway)
}

#[tokio::test(flavor = "multi_thread")]
async fn bridged_calls_of_one_caller_share_the_connections_of_its_session() {
    let (server, gateway) = legacy_only("").await;
    let before = server.connections();
    for id in 0..CALLS {
        let (status, answer) =
            send(&gateway, "/mcp", ANN, &modern_call(id, "old__tool", json!({}), &json!({}))).await;
        assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("done")), "{answer}");
    }
    assert_eq!(server.count("initialize"), 2, "the gateway's own session, and one for the caller");
    let made = server.connections() - before;
    assert!(made <= CONNECTIONS, "{made} connections for {CALLS} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_client_that_can_be_asked_share_the_connections_of_its_session() {
    let (server, gateway) = legacy_only("").await;
    let asked = initialize(json!({"elicitation": {}}));
    let opened = gateway.post("/mcp", None, &asked).bearer_auth(ANN).send().await.expect("an answer");
    let session = opened.headers()["mcp-session-id"].to_str().expect("a session").to_owned();
    drop(opened.bytes().await);
    let before = server.connections();
    for id in 0..CALLS {
        let call = legacy_call(id, "old__tool", json!({}));
        let answer = gateway.post("/mcp", Some(&session), &call).bearer_auth(ANN).send().await;
        let (status, answer) = read(answer.expect("an answer")).await;
        assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("done")), "{answer}");
    }
    let made = server.connections() - before;
    assert!(made <= CONNECTIONS, "{made} connections for {CALLS} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_share_a_session_share_no_connection() {
    let (server, gateway) = legacy_only(", stateless: true").await;
    let before = server.connections();
    for id in 0..CALLS {
        let call = modern_call(id, "old__tool", json!({}), &json!({}));
        let (status, answer) = send(&gateway, "/mcp", ANN, &call).await;
        assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("done")), "{answer}");
    }
    let made = server.connections() - before;
    assert!(made as u64 >= CALLS, "{made} connections for {CALLS} calls");
}
