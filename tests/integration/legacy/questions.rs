//! Servers that send requests to their client during a call: the request reaches the client on the stream
//! of that call, and its answer reaches only this server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::{Several, listed};
use crate::events::Events;
use crate::harness::{Gateway, legacy_call};
use crate::mock_server::{MockReply, MockServer, good, http};

fn able() -> Value {
    json!({"elicitation": {}, "sampling": {}})
}

fn sampled(id: &Value, text: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": {"role": "assistant", "model": "m",
        "content": {"type": "text", "text": text}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_that_ask_at_once_get_each_their_own_answer() {
    let names = ["one", "two", "three"];
    let several = Several::start(&names).await;
    let gateway = &several.gateway;
    let session = gateway.initialize_with("/mcp", able()).await;
    let mut asking = Vec::new();
    for name in names {
        let call = legacy_call(name, &format!("{name}__test_sampling"), json!({"prompt": name}));
        let mut stream = Events::open(gateway.post("/mcp", Some(&session), &call)).await;
        let question = stream.method("sampling/createMessage").await;
        assert_eq!(question["params"]["messages"][0]["content"]["text"], name, "on its call's stream");
        asking.push((name, question["id"].clone(), stream));
    }
    // All wait now, and all servers number their requests from the same start.
    let own = |id: &Value| id.as_str().and_then(|id| id.rsplit(':').next().map(str::to_owned));
    assert_eq!(own(&asking[0].1), own(&asking[1].1));
    assert!(asking[0].1 != asking[1].1 && asking[1].1 != asking[2].1);
    asking.rotate_left(1);
    for (name, id, _) in &asking {
        let (status, answer) = gateway.say("/mcp", &session, &sampled(id, &format!("for {name}"))).await;
        assert_eq!(status, 202, "{answer}");
    }
    for (name, _, mut stream) in asking {
        let answer = stream.rest().await.pop().expect("an answer");
        assert_eq!(answer["id"], name);
        assert_eq!(answer["result"]["content"][0]["text"], format!("LLM response: for {name}"), "{answer}");
    }
}

/// Sends the client a request with id 7 in each call, and counts the answers.
async fn curious(answers: &Arc<AtomicUsize>) -> MockServer {
    let count = answers.clone();
    MockServer::start(move |seen| match (seen.http_method.as_str(), seen.method()) {
        ("POST", "") => {
            count.fetch_add(1, Ordering::SeqCst);
            MockReply::Say(http("202 Accepted", &[], ""))
        }
        (_, "tools/call") => {
            let ask = json!({"jsonrpc": "2.0", "id": 7, "method": "elicitation/create",
                "params": {"_meta": {"progressToken": 5}, "message": "?", "requestedSchema": {"type": "object", "properties": {}}}});
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
            MockReply::Hang(format!("{head}retry: 100\nid: 1\ndata: {ask}\n\n").into_bytes())
        }
        _ => MockReply::Say(good(seen)),
    })
    .await
}

#[tokio::test]
async fn what_nobody_asked_is_answered_to_nobody() {
    let answers = Arc::new(AtomicUsize::new(0));
    let (asks, silent) = (curious(&answers).await, curious(&answers).await);
    let servers = json!({"a": {"url": asks.url}, "b": {"url": silent.url}});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    for server in ["a", "b"] {
        listed(&gateway, &format!("{server}__tool")).await;
    }
    for path in ["/mcp", "/servers/a/mcp"] {
        let tool = if path == "/mcp" { "a__tool" } else { "tool" };
        let session = gateway.initialize_with(path, able()).await;
        let other = gateway.initialize_with(path, able()).await;
        let call = legacy_call(1, tool, json!({}));
        let mut stream = Events::open(gateway.post(path, Some(&session), &call)).await;
        let question = stream.method("elicitation/create").await;
        let id = question["id"].clone();
        let before = answers.load(Ordering::SeqCst);
        let say = async |session: &str, id: &Value| {
            let answer = json!({"jsonrpc": "2.0", "id": id, "result": {"action": "accept"}});
            assert_eq!(gateway.say(path, session, &answer).await.0, 202);
        };
        for id in [json!(8), json!("7"), json!("tg:1:8"), json!("tg:2:7"), json!("tg:99:7"), json!("tg::")] {
            if id != question["id"] {
                say(&session, &id).await;
            }
        }
        say(&other, &id).await;
        assert_eq!(answers.load(Ordering::SeqCst), before, "none of these was asked");
        say(&session, &id).await;
        assert_eq!(answers.load(Ordering::SeqCst), before + 1);
        say(&session, &id).await;
        assert_eq!(answers.load(Ordering::SeqCst), before + 1, "it has its answer");
    }
}

#[tokio::test]
async fn progress_of_a_question_is_told_to_who_asked() {
    let answers = Arc::new(AtomicUsize::new(0));
    let (one, two) = (curious(&answers).await, curious(&answers).await);
    let servers = json!({"a": {"url": one.url}, "b": {"url": two.url}});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    listed(&gateway, "a__tool").await;
    listed(&gateway, "b__tool").await;
    let session = gateway.initialize_with("/mcp", able()).await;
    let mut asking = Vec::new();
    for tool in ["a__tool", "b__tool"] {
        let call = legacy_call(tool, tool, json!({}));
        let mut stream = Events::open(gateway.post("/mcp", Some(&session), &call)).await;
        asking.push((stream.method("elicitation/create").await, stream));
    }
    let say = async |token: &Value, progress: u64| {
        let note = json!({"jsonrpc": "2.0", "method": "notifications/progress",
            "params": {"progressToken": token, "progress": progress}});
        assert_eq!(gateway.say("/mcp", &session, &note).await.0, 202);
    };
    for token in [json!(5), json!("5"), json!("tg:99:5")] {
        say(&token, 1).await;
    }
    for (question, _) in &asking {
        say(&question["params"]["_meta"]["progressToken"], 2).await;
    }
    let heard = |server: &MockServer| {
        let all = server.calls().into_iter().filter(|seen| seen.method() == "notifications/progress");
        all.map(|seen| seen.body["params"].clone()).collect::<Vec<_>>()
    };
    gateway.eventually("both are told", async |_| !heard(&one).is_empty() && !heard(&two).is_empty()).await;
    let expected = json!({"progressToken": 5, "progress": 2});
    assert_eq!((heard(&one), heard(&two)), (vec![expected.clone()], vec![expected]));
}
