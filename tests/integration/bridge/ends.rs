//! How bridged calls end before their result: the client leaves, cancels, refuses, or the server asks without
//! end.

use std::time::Duration;

use serde_json::json;

use super::{Bridged, able, modern_call, send};
use crate::events::Events;
use crate::harness::{Gateway, legacy_call};
use crate::mock_server::{MockReply, MockServer, answer, json_answer};

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_client_that_leaves_cancels_its_call_at_a_legacy_server() {
    let bridged = Bridged::start("").await;
    let gateway = &bridged.gateway;
    let session = gateway.initialize("/mcp").await;
    let call = modern_call(1, "old__sleep", json!({"seconds": 300}), &json!({}));
    let leaves = send(gateway, "/mcp", "", &call);
    tokio::select! {
        said = leaves => panic!("it cannot end: {said:?}"),
        () = gateway.eventually("it runs", async |g| g.count(&session, "old", "sleep.started").await == 1) => {}
    }
    gateway
        .eventually("it is cancelled", async |g| g.count(&session, "old", "sleep.cancelled").await == 1)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_client_cancels_its_call_at_a_modern_server() {
    let bridged = Bridged::start("").await;
    let gateway = &bridged.gateway;
    let session = gateway.initialize("/mcp").await;
    let post = gateway.post("/mcp", Some(&session), &legacy_call(7, "new__sleep", json!({"seconds": 300})));
    let waiting = tokio::spawn(async move { post.send().await });
    gateway.eventually("it runs", async |g| g.count(&session, "new", "sleep.started").await == 1).await;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7, "reason": "no"}});
    assert_eq!(gateway.say("/mcp", &session, &cancel).await.0, 202);
    gateway
        .eventually("it is cancelled", async |g| g.count(&session, "new", "sleep.cancelled").await == 1)
        .await;
    waiting.await.expect("no panic").expect("it is answered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_client_that_refuses_ends_the_call_with_words() {
    let bridged = Bridged::start("").await;
    let gateway = &bridged.gateway;
    let session = gateway.initialize_with("/mcp", able()).await;
    let call = legacy_call(1, "new__test_sampling", json!({"prompt": "x"}));
    let mut stream = Events::open(gateway.post("/mcp", Some(&session), &call)).await;
    let asked = stream.method("sampling/createMessage").await;
    let refusal = json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -1, "message": "not today"}});
    assert_eq!(gateway.say("/mcp", &session, &refusal).await.0, 202);
    let last = stream.rest().await.pop().expect("an end");
    assert_eq!((&last["id"], &last["error"]["code"]), (&json!(1), &json!(-32603)), "{last}");
    assert!(last["error"]["message"].as_str().unwrap_or_default().contains("not today"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_session_cannot_answer_what_one_is_asked() {
    let bridged = Bridged::start("").await;
    let gateway = &bridged.gateway;
    let (one, two) =
        (gateway.initialize_with("/mcp", able()).await, gateway.initialize_with("/mcp", able()).await);
    let call = legacy_call(1, "new__test_elicitation", json!({"message": "who?"}));
    let mut stream = Events::open(gateway.post("/mcp", Some(&one), &call)).await;
    let asked = stream.method("elicitation/create").await;
    let answer = |name: &str| json!({"jsonrpc": "2.0", "id": asked["id"], "result": super::accepted(name)});
    assert_eq!(gateway.say("/mcp", &two, &answer("eve")).await.0, 202);
    assert_eq!(gateway.say("/mcp", &one, &answer("ann")).await.0, 202);
    let last = stream.rest().await.pop().expect("an end");
    assert!(super::text(&last).contains("ann") && !super::text(&last).contains("eve"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_without_end_is_told_apart() {
    let mock = MockServer::start(move |seen| match seen.method() {
        "tools/call" => {
            let roots = json!({"method": "roots/list"});
            let asks =
                json!({"resultType": "input_required", "requestState": "s", "inputRequests": {"r": roots}});
            MockReply::Say(json_answer(&answer(seen, &asks)))
        }
        _ => MockReply::Good,
    })
    .await;
    let gateway =
        Gateway::start(&format!("mcpServers: {{up: {{url: \"{}\", era: modern}}}}\n", mock.url)).await;
    let session = gateway.initialize_with("/mcp", able()).await;
    let mut stream =
        Events::open(gateway.post("/mcp", Some(&session), &legacy_call(1, "up__tool", json!({})))).await;
    let mut rounds = 0;
    let last = loop {
        let message = tokio::time::timeout(Duration::from_secs(60), stream.next()).await.expect("in time");
        let message = message.expect("an answer");
        if message["method"] != "roots/list" {
            break message;
        }
        rounds += 1;
        let roots = json!({"jsonrpc": "2.0", "id": message["id"], "result": {"roots": []}});
        assert_eq!(gateway.say("/mcp", &session, &roots).await.0, 202);
    };
    assert_eq!(last["error"]["code"], 502, "{last}");
    assert!(last["error"]["message"].as_str().unwrap_or_default().contains("10 times"), "{last}");
    assert_eq!(rounds, 9);
}
