//! Secrets and credentials on the less used ways.

use std::process::Command;

use serde_json::json;

use crate::harness::Gateway;
use crate::puppet::{Act, Puppet, json_answer};

#[tokio::test]
async fn a_traded_token_is_not_shared_with_a_token_of_other_roles() {
    let issuer = Puppet::start(|_| {
        Act::Say(json_answer(r#"{"access_token": "traded", "token_type": "Bearer", "expires_in": 3600}"#))
    })
    .await;
    let server = Puppet::start(|_| Act::Good).await;
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
