//! Processes that all callers share: each session has its own subscriptions there, and gets only its own
//! notifications.

use serde_json::{Value, json};

use super::listed;
use crate::events::Events;
use crate::harness::{Gateway, legacy_call, read, stdio_fixture};

fn uri(number: u8) -> String {
    format!("test://template/{number}/data")
}

fn updated(number: u8) -> Option<Value> {
    Some(
        json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri(number)}}),
    )
}

async fn start(timeout: &str, era: &str) -> Gateway {
    let gateway = Gateway::start(&setup(timeout, era, "as it was")).await;
    listed(&gateway, "pipe__touch").await;
    gateway
}

/// `word` is in the environment of the process.
fn setup(timeout: &str, era: &str, word: &str) -> String {
    let mut fixture = stdio_fixture();
    fixture["timeout"] = json!(timeout);
    fixture["era"] = json!(era);
    fixture["env"] = json!({"WORD": word});
    format!("mcpServers: {{pipe: {fixture}}}\n")
}

async fn ask(gateway: &Gateway, session: &str, word: &str, number: u8) -> Value {
    let method = format!("resources/{word}");
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"uri": uri(number)}});
    gateway.say("/mcp", session, &body).await.1
}

async fn touch(gateway: &Gateway, session: &str, number: u8) {
    let call = legacy_call("touch", "pipe__touch", json!({"uri": uri(number)}));
    assert_eq!(gateway.say("/mcp", session, &call).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_is_told_of_what_it_follows_at_a_process_of_all() {
    // In its own era, and through the bridge.
    for era in ["legacy", "modern", "auto"] {
        each_session_is_told(era).await;
    }
}

async fn each_session_is_told(era: &str) {
    let gateway = start("50s", era).await;
    let mut all = Vec::new();
    for _ in 0..2 {
        let session = gateway.initialize("/mcp").await;
        let stream = Events::of_session(&gateway, "/mcp", &session).await;
        all.push((session, stream));
    }
    let watcher = gateway.initialize("/mcp").await;
    let [(one, ones), (two, twos)] = &mut all[..] else { unreachable!("there are two") };
    for (session, number) in [(&*one, 1), (&*two, 1), (&*two, 2), (&*one, 3)] {
        assert_eq!(ask(&gateway, session, "subscribe", number).await["result"], json!({}));
    }
    for number in 1..=3 {
        touch(&gateway, &watcher, number).await;
    }
    assert_eq!((ones.next().await, ones.next().await), (updated(1), updated(3)));
    assert_eq!((twos.next().await, twos.next().await), (updated(1), updated(2)));
    // The other session stays subscribed.
    assert_eq!(ask(&gateway, one, "unsubscribe", 1).await["result"], json!({}));
    for number in [1, 3] {
        touch(&gateway, &watcher, number).await;
    }
    assert_eq!((ones.next().await, twos.next().await), (updated(3), updated(1)));

    // A new process does not know the subscription, and gets it.
    let crash = legacy_call("crash", "pipe__crash", json!({}));
    let (_, answer) = gateway.say("/mcp", &watcher, &crash).await;
    assert!(answer["error"].is_object(), "{answer}");
    assert_eq!(ones.next().await, updated(3), "it may have changed");
    for number in 1..=2 {
        assert_eq!(twos.next().await, updated(number));
    }
    touch(&gateway, &watcher, 3).await;
    assert_eq!(ones.next().await, updated(3));

    // A process with other settings gets it too.
    gateway.rewrite(&setup("50s", era, "another"));
    assert_eq!(ones.next().await, updated(3));
    touch(&gateway, &watcher, 3).await;
    assert_eq!(ones.next().await, updated(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_process_offers_what_it_can_keep() {
    let gateway = start("50s", "auto").await;
    for path in ["/mcp", "/servers/pipe/mcp"] {
        let open = crate::harness::initialize(json!({}));
        let (_, answer) = read(gateway.post(path, None, &open).send().await.expect("an answer")).await;
        let capabilities = &answer["result"]["capabilities"];
        assert_eq!(capabilities["resources"]["subscribe"], true, "{path}: {answer}");
        // One level for all callers would be wrong for each.
        assert_eq!(capabilities.get("logging"), None, "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_starts_the_time_of_a_call_anew_at_a_process_too() {
    let gateway = start("1s", "auto").await;
    let session = gateway.initialize("/mcp").await;
    let mut call = legacy_call("long", "pipe__stream", json!({"n": 5, "interval_ms": 500}));
    call["params"]["_meta"] = json!({"progressToken": "p"});
    let (_, answer) = gateway.say("/mcp", &session, &call).await;
    assert_eq!(answer["result"]["content"][0]["text"], "streamed 5", "{answer}");
    let silent = legacy_call("silent", "pipe__sleep", json!({"seconds": 600}));
    assert_eq!(gateway.say("/mcp", &session, &silent).await.1["error"]["code"], 504);
}
