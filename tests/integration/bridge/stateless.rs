//! `stateless: true`: modern callers share one session at a legacy server.

use serde_json::{Value, json};

use super::{able, modern_call, send, text};
use crate::access::key;
use crate::harness::{Gateway, a_fixture_of, legacy_call};

const AUTH: &str = "auth:\n  required: false\n  api_keys:\n";

#[tokio::test(flavor = "multi_thread")]
async fn all_modern_callers_of_a_stateless_server_share_one_session() {
    let (_fixture, url) = a_fixture_of("legacy").await;
    let keys = ["ann", "bob"].map(|name| key(name, "")).concat();
    let servers = json!({"apart": {"url": url, "era": "legacy"}, "shared": {"url": url, "era": "legacy", "stateless": true}});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n{AUTH}{keys}")).await;
    let counter = gateway.initialize("/mcp").await;
    let mut counted = gateway.count(&counter, "apart", "sessions").await;
    // The server has the sessions of the gateway, of the counter, and those that these calls open.
    for (server, opened) in [("shared", 1), ("apart", 5)] {
        for (who, capabilities) in [
            ("ann-key", json!({})),
            ("ann-key", able()),
            ("bob-key", json!({})),
            ("", json!({})),
            ("", json!({})),
        ] {
            let call = modern_call(1, &format!("{server}__echo"), json!({"message": who}), &capabilities);
            let (status, said) = send(&gateway, "/mcp", who, &call).await;
            assert_eq!((status, text(&said)), (200, who), "{said}");
        }
        let now = gateway.count(&counter, "apart", "sessions").await;
        assert_eq!(now - counted, opened, "{server}");
        counted = now;
    }
    // Without capabilities there is nobody to ask, whatever the caller declares.
    let call = modern_call(2, "shared__test_elicitation", json!({"message": "who?"}), &able());
    let (_, said) = send(&gateway, "/mcp", "ann-key", &call).await;
    assert_eq!(said["result"]["isError"], true, "{said}");
    // A legacy client is the server's own client.
    let session = gateway.initialize("/mcp").await;
    let call = legacy_call(1, "shared__echo", json!({"message": "legacy"}));
    let (_, said): (u16, Value) = gateway.say("/mcp", &session, &call).await;
    assert_eq!(text(&said), "legacy", "{said}");
    assert_eq!(gateway.count(&counter, "apart", "sessions").await - counted, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answers_of_a_shared_session_reach_their_callers() {
    let (_fixture, url) = a_fixture_of("legacy").await;
    let servers = json!({"s": {"url": url, "era": "legacy", "stateless": true}});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    let calls = (0..20).map(|number| {
        let gateway = &gateway;
        async move {
            let message = format!("message {number}");
            let call = modern_call(1, "s__echo", json!({"message": message}), &json!({}));
            let (status, said) = send(gateway, "/mcp", "", &call).await;
            assert_eq!((status, text(&said)), (200, &*message), "{said}");
        }
    });
    futures::future::join_all(calls).await;
}
