//! Secrets and credentials on the less common paths.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::harness::Gateway;
use crate::mock_server::{MockReply, MockServer, http, json_answer};
use crate::raw::{Client, Head};

#[tokio::test]
async fn an_error_of_a_server_is_searched_as_its_results_are() {
    let server = MockServer::start(|seen| match seen.method() {
        "tools/call" => {
            let error = json!({"jsonrpc": "2.0", "id": seen.body["id"], "error": {"code": -32602, "message": "card 4111 1111 1111 1111"}});
            MockReply::Say(http("400 Bad Request", &["Content-Type: application/json"], &error.to_string()))
        }
        _ => MockReply::Good,
    })
    .await;
    let gateway = Gateway::start(&format!(
        "mcpServers: {{p: {{url: \"{}\", redact: {{arguments: redact, results: redact}}}}}}\n",
        server.url
    ))
    .await;
    gateway.eventually("the server is there", async |g| g.get("/health").await.contains("\"tools\":1")).await;
    let (status, output) = gateway.call("p__tool", json!({})).await;
    assert_eq!((status, &output["error"]["code"]), (400, &json!(-32602)), "{output}");
    assert_eq!(output["error"]["message"], "card [redacted:credit_card]", "{output}");

    // An argument that is redacted is not in the headers that repeat arguments either.
    let params = json!({"name": "p__tool", "arguments": {"card": "4111 1111 1111 1111", "city": "Ulm"}});
    let request = gateway.modern_request("/mcp", "tools/call", params);
    let request = request.header("mcp-param-card", "4111 1111 1111 1111").header("mcp-param-city", "Ulm");
    let request = request.header("mcp-param-again", "=?base64?NDExMSAxMTExIDExMTEgMTExMQ==?=");
    request.send().await.expect("an answer");
    let seen = server.calls().pop().expect("the call");
    assert_eq!(seen.header("mcp-param-city"), Some("Ulm"));
    assert_eq!((seen.header("mcp-param-card"), seen.header("mcp-param-again")), (None, None), "{seen:?}");
}

#[tokio::test]
async fn a_traded_token_is_not_shared_with_a_token_of_other_roles() {
    let issuer = MockServer::start(|_| {
        MockReply::Say(json_answer(
            r#"{"access_token": "traded", "token_type": "Bearer", "expires_in": 3600}"#,
        ))
    })
    .await;
    let server = MockServer::start(|_| MockReply::Good).await;
    let gateway = Gateway::start(&format!(
        "mcpServers: {{p: {{url: \"{}\", credentials: exchange}}}}\nauth:\n  jwt:\n    - {{issuer: \"https://me.example\", audience: toolgate, secret: \"{}\"}}\n  exchange: {{token_endpoint: \"{}\", client_id: gw}}\n",
        server.url,
        "s".repeat(40),
        issuer.url
    ))
    .await;
    let mint = |role: &str| {
        let file = gateway.folder.path().join("toolgate.yaml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_toolgate"));
        command.args(["token", "--sub", "ann", "--role", role, "-c"]).arg(file);
        let said = command.output().expect("the command runs");
        String::from_utf8(said.stdout).expect("a token").trim().to_owned()
    };
    let call = async |token: &str| {
        let request =
            gateway.modern_request("/mcp", "tools/call", json!({"name": "p__tool", "arguments": {}}));
        request.bearer_auth(token).send().await.expect("an answer").status().as_u16()
    };
    let (reader, admin) = (mint("reader"), mint("admin"));
    gateway.eventually("the server is there", async |_| call(&admin).await == 200).await;
    assert_eq!((call(&admin).await, issuer.calls().len()), (200, 1), "kept for the same rights");
    assert_eq!((call(&reader).await, issuer.calls().len()), (200, 2), "and not for others");
    for seen in server.calls() {
        assert_eq!(seen.header("authorization"), Some("Bearer traded"), "{seen:?}");
    }
}

#[tokio::test]
async fn a_long_call_in_chunks_is_told_to_the_circuit_breaker_too() {
    let broken = Arc::new(AtomicBool::new(false));
    let state = broken.clone();
    let server = MockServer::start(move |seen| match seen.method() {
        "tools/call" if state.load(Ordering::Relaxed) => MockReply::Cut(Vec::new()),
        _ => MockReply::Good,
    })
    .await;
    let gateway = Gateway::start(&format!(
        "mcpServers: {{p: {{url: \"{}\", circuit_breaker: {{failures: 2, open_for: 1h}}}}}}\n",
        server.url
    ))
    .await;
    gateway.eventually("the server is there", async |g| g.call("p__tool", json!({})).await.0 == 200).await;
    for _ in 0..2 {
        broken.store(true, Ordering::Relaxed);
        assert_eq!(gateway.call("p__tool", json!({})).await.0, 502);
        broken.store(false, Ordering::Relaxed);
        let long = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "p__tool",
            "arguments": {"text": "x".repeat(200_000)}, "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}}}});
        let request =
            Head::modern("/mcp", "tools/call", Some("p__tool")).chunked(long.to_string().as_bytes(), 8000);
        let answer = Client::connect(gateway.port).await.exchange(&request).await.expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}
