//! The gateway promises its clients for resources what their servers promise, and keeps it.

use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::listed;
use super::listen::{listen, next};
use crate::harness::Gateway;
use crate::mock_server::{MockReply, MockServer, RecordedRequest, acknowledged, answer, http, json_answer};

fn says(seen: &RecordedRequest, result: &Value) -> MockReply {
    MockReply::Say(json_answer(&answer(seen, result)))
}

/// A server with the resources `a://1` and `a://2`.
fn handshake(seen: &RecordedRequest, subscribe: bool) -> Option<MockReply> {
    let resource = |uri: &str| json!({"uri": uri, "name": "r"});
    Some(match seen.method() {
        "server/discover" => says(
            seen,
            &json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}, "resources":
                {"subscribe": subscribe}}, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}),
        ),
        "resources/list" => says(
            seen,
            &json!({"resources": [resource("a://1"), resource("a://2")], "resultType": "complete"}),
        ),
        _ => return None,
    })
}

/// Whether a `subscriptions/listen` is one for resources.
fn follows(seen: &RecordedRequest) -> bool {
    seen.method() == "subscriptions/listen"
        && seen.body["params"]["notifications"].get("resourceSubscriptions").is_some()
}

fn updated(uri: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri,
        "_meta": {"io.modelcontextprotocol/subscriptionId": "1"}}})
}

async fn gateway(mock: &MockServer, more: &str) -> Gateway {
    let config = format!("mcpServers: {{p: {{url: \"{}\"{more}}}}}\n", mock.url);
    let gateway = Gateway::start(&config).await;
    listed(&gateway, "p__").await;
    gateway
}

fn both() -> Value {
    json!({"resourceSubscriptions": ["a://1", "a://2"]})
}

#[tokio::test]
async fn the_server_hears_of_it_first_and_what_it_leaves_out_is_left_out() {
    let (word, _) = broadcast::channel(8);
    let message = word.clone();
    let mock = MockServer::start(move |seen| match seen {
        seen if follows(seen) => MockReply::Stream(
            vec![acknowledged(seen, &json!({"resourceSubscriptions": ["a://2"]}))],
            message.subscribe(),
        ),
        seen => handshake(seen, true).unwrap_or(MockReply::Good),
    })
    .await;
    let gateway = gateway(&mock, "").await;
    let (mut events, honoured) = listen(&gateway, "/mcp", both()).await;
    assert_eq!(honoured, json!({"resourceSubscriptions": ["a://2"]}));
    // The stream is open: a notification sent now arrives.
    word.send(updated("a://2")).expect("the gateway listens");
    assert_eq!(next(&mut events).await["params"]["uri"], "a://2");
    // A stream that ended is opened again, and possibly missed changes are reported.
    word.send(Value::Null).expect("the gateway listens");
    assert_eq!(next(&mut events).await["params"]["uri"], "a://2");
    word.send(updated("a://2")).expect("the gateway listens");
    assert_eq!(next(&mut events).await["params"]["uri"], "a://2");
}

#[tokio::test]
async fn what_no_server_promises_is_not_promised() {
    let refuses = |seen: &RecordedRequest| {
        let error =
            json!({"jsonrpc": "2.0", "id": seen.body["id"], "error": {"code": -32601, "message": "no"}});
        MockReply::Say(http("404 Not Found", &["Content-Type: application/json"], &error.to_string()))
    };
    type Play = fn(&RecordedRequest) -> MockReply;
    let nothing: Play = |seen| {
        let body = format!("data: {}\n\n", acknowledged(seen, &json!({})));
        MockReply::Hang(
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{body}").into_bytes(),
        )
    };
    let rows: [(&str, bool, Play, &str, usize); 4] = [
        ("it cannot", false, refuses, "", 0),
        ("it refuses", true, refuses, "", 1),
        ("it promises nothing", true, nothing, "", 1),
        ("it would have to be asked in each caller's name", true, nothing, ", credentials: passthrough", 0),
    ];
    for (what, subscribe, play, settings, times) in rows {
        let mock = MockServer::start(move |seen| match seen {
            seen if follows(seen) => play(seen),
            seen => handshake(seen, subscribe).unwrap_or(MockReply::Good),
        })
        .await;
        let gateway = gateway(&mock, settings).await;
        let mut wanted = both();
        wanted["toolsListChanged"] = json!(true);
        let (_events, honoured) = listen(&gateway, "/mcp", wanted).await;
        assert_eq!(honoured, json!({"toolsListChanged": true}), "{what}");
        assert_eq!(mock.all().iter().filter(|seen| follows(seen)).count(), times, "{what}");
    }
}

#[tokio::test]
async fn a_promise_that_the_server_takes_back_ends_the_stream_with_a_result() {
    let (word, _) = broadcast::channel(8);
    let (message, first) = (word.clone(), std::sync::atomic::AtomicBool::new(true));
    let mock = MockServer::start(move |seen| match seen {
        seen if follows(seen) => {
            let first = first.swap(false, std::sync::atomic::Ordering::SeqCst);
            let granted = if first { both() } else { json!({"resourceSubscriptions": ["a://1"]}) };
            MockReply::Stream(vec![acknowledged(seen, &granted)], message.subscribe())
        }
        seen => handshake(seen, true).unwrap_or(MockReply::Good),
    })
    .await;
    let gateway = gateway(&mock, "").await;
    let (mut events, honoured) = listen(&gateway, "/mcp", both()).await;
    assert_eq!(honoured, both());
    word.send(Value::Null).expect("the gateway listens");
    let last = events.rest().await.pop().expect("a result");
    assert_eq!((&last["id"], &last["result"]["resultType"]), (&json!(1), &json!("complete")), "{last}");
    let (_events, honoured) = listen(&gateway, "/mcp", both()).await;
    assert_eq!(honoured, json!({"resourceSubscriptions": ["a://1"]}));
}

#[tokio::test]
async fn a_server_that_asks_where_it_may_only_announce_is_not_heard() {
    let (word, _) = broadcast::channel(8);
    let words = word.clone();
    let mock = MockServer::start(move |seen| match seen {
        seen if follows(seen) => MockReply::Stream(vec![acknowledged(seen, &both())], words.subscribe()),
        seen => handshake(seen, true).unwrap_or(MockReply::Good),
    })
    .await;
    let gateway = gateway(&mock, "").await;
    let (mut events, honoured) = listen(&gateway, "/mcp", both()).await;
    assert_eq!(honoured, both());
    let of_it = json!({"io.modelcontextprotocol/subscriptionId": "1"});
    for message in [
        json!({"jsonrpc": "2.0", "id": 7, "method": "roots/list", "params": {"_meta": of_it}}),
        json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x", "_meta": of_it}}),
        updated("a://2"),
    ] {
        word.send(message).expect("the gateway listens");
    }
    loop {
        let output = next(&mut events).await;
        assert_eq!(output["method"], "notifications/resources/updated", "{output}");
        if output["params"]["uri"] == "a://2" {
            return;
        }
    }
}
