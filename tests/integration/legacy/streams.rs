//! Streams of one session: each message on exactly one, no message lost with a stream, and resumption.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::Several;
use crate::events::Events;
use crate::harness::{Gateway, legacy_call, read};

fn uri(number: usize) -> String {
    format!("test://template/{number}/data")
}

async fn touch(gateway: &Gateway, session: &str, number: usize) {
    let call = legacy_call("touch", "fix__touch", json!({"uri": uri(number)}));
    assert_eq!(gateway.say("/mcp", session, &call).await.0, 200);
}

/// A session with subscriptions at `fix`, with its first stream; returns when the server's own stream is
/// open.
async fn following(several: &Several, count: usize) -> (String, String, Events) {
    let gateway = &several.gateway;
    let watcher = gateway.initialize("/mcp").await;
    let session = gateway.initialize("/mcp").await;
    let before = gateway.count(&watcher, "fix", "http.GET").await;
    for number in 0..count {
        let subscribe = json!({"jsonrpc": "2.0", "id": number, "method": "resources/subscribe",
            "params": {"uri": uri(number)}});
        let (status, answer) = gateway.say("/mcp", &session, &subscribe).await;
        assert_eq!((status, &answer["result"]), (200, &json!({})), "{answer}");
    }
    let stream = Events::of_session(gateway, "/mcp", &session).await;
    let heard = async |g: &Gateway| g.count(&watcher, "fix", "http.GET").await > before;
    gateway.eventually("the gateway listens to the server", heard).await;
    (watcher, session, stream)
}

fn updated(message: &Value) -> String {
    assert_eq!(message["method"], "notifications/resources/updated", "{message}");
    message["params"]["uri"].as_str().expect("a URI").to_owned()
}

/// The first message may come before the server's stream is ready, so it waits for a known one.
async fn settle(gateway: &Gateway, watcher: &str, stream: &mut Events) {
    loop {
        touch(gateway, watcher, 0).await;
        let next = tokio::time::timeout(Duration::from_millis(300), stream.next()).await;
        if let Ok(message) = next {
            assert_eq!(updated(&message.expect("the stream is open")), uri(0));
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_is_on_exactly_one_of_many_streams() {
    const COUNT: usize = 20;
    let several = Several::start(&["fix", "two"]).await;
    let gateway = &several.gateway;
    let (watcher, session, mut first) = following(&several, COUNT).await;
    settle(gateway, &watcher, &mut first).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(Events::of_session(gateway, "/mcp", &session).await);
    }
    for number in 1..COUNT {
        touch(gateway, &watcher, number).await;
    }
    // Only this session ends the streams, and all messages come before.
    let unsubscribe = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    assert_eq!(gateway.say("/mcp", &session, &unsubscribe).await.0, 200);
    let streams: Vec<Events> = [first].into_iter().chain(others).collect();
    let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
    for mut stream in streams {
        let said = said.clone();
        tokio::spawn(async move {
            while let Some(message) = stream.next().await {
                said.send(updated(&message)).expect("the test listens");
            }
        });
    }
    drop(said);
    let mut all = Vec::new();
    while all.len() < COUNT - 1 {
        all.push(heard.recv().await.expect("the streams are open"));
    }
    let end = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &session);
    assert_eq!(end.send().await.expect("an answer").status(), 204);
    while let Some(more) = heard.recv().await {
        all.push(more);
    }
    let expected: BTreeSet<String> = (1..COUNT).map(uri).collect();
    assert_eq!(all.len(), COUNT - 1, "none twice: {all:?}");
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_leaves_loses_nothing_for_the_session() {
    let several = Several::start(&["fix"]).await;
    let gateway = &several.gateway;
    let (watcher, session, mut first) = following(&several, 4).await;
    settle(gateway, &watcher, &mut first).await;
    let open = async |count: f64| {
        gateway.eventually("so many streams", async |g| g.has_metric("toolgate_streams", count).await).await;
    };
    let mut second = Events::of_session(gateway, "/mcp", &session).await;
    open(2.0).await;
    drop(first);
    open(1.0).await;
    touch(gateway, &watcher, 1).await;
    assert_eq!(updated(&second.next().await.expect("the other stream has it")), uri(1));
    drop(second);
    open(0.0).await;
    touch(gateway, &watcher, 2).await;
    // The server has sent it, and the gateway stores it.
    touch(gateway, &watcher, 3).await;
    let mut third = Events::of_session(gateway, "/mcp", &session).await;
    assert_eq!(updated(&third.next().await.expect("it waited")), uri(2));
    assert_eq!(updated(&third.next().await.expect("it waited")), uri(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ninth_stream_is_refused() {
    let gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    let session = gateway.initialize("/mcp").await;
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(Events::of_session(&gateway, "/mcp", &session).await);
    }
    let get = || {
        let get = gateway.http.get(gateway.url("/mcp")).header("mcp-session-id", &session);
        get.header("accept", "text/event-stream").send()
    };
    let (status, answer) = read(get().await.expect("an answer")).await;
    assert_eq!((status, &answer["error"]["code"]), (429, &json!(429)), "{answer}");
    open.pop();
    gateway
        .eventually("one has left", async |_| get().await.is_ok_and(|response| response.status() == 200))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_list_is_told_once_however_many_streams_and_servers() {
    let several = Several::start(&["fix", "two"]).await;
    let gateway = &several.gateway;
    let (watcher, session, first) = following(&several, 1).await;
    several.sit(&session, "two").await;
    let mut streams = vec![first, Events::of_session(gateway, "/mcp", &session).await];
    // The server sends it on this session's own stream too, and that copy is dropped.
    let change = legacy_call(1, "fix__test_trigger_tool_change", json!({}));
    let (_, before) =
        gateway.say("/mcp", &watcher, &json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})).await;
    assert_eq!(gateway.say("/mcp", &watcher, &change).await.0, 200);
    gateway
        .eventually("the list has changed", async |g| {
            let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
            g.say("/mcp", &watcher, &list).await.1 != before
        })
        .await;
    let mut all = Vec::new();
    let (one, two) = streams.split_at_mut(1);
    tokio::select! {
        message = one[0].next() => all.extend(message),
        message = two[0].next() => all.extend(message),
    }
    let end = gateway.http.delete(gateway.url("/mcp")).header("mcp-session-id", &session);
    assert_eq!(end.send().await.expect("an answer").status(), 204);
    for mut stream in streams {
        all.extend(stream.rest().await);
    }
    assert_eq!(all, [json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_three_servers_are_gone_on_with_at_the_right_one() {
    let names = ["one", "two", "three"];
    let several = Several::start(&names).await;
    let gateway = &several.gateway;
    let session = gateway.initialize("/mcp").await;
    let mut begun = Vec::new();
    for name in names {
        let call = legacy_call(name, &format!("{name}__test_reconnection"), json!({}));
        begun.push((name, Events::open(gateway.post("/mcp", Some(&session), &call)).await));
    }
    let mut ids = BTreeSet::new();
    for (name, mut stream) in begun {
        assert_eq!(stream.rest().await, Vec::<Value>::new(), "the stream of {name} ends before its answer");
        let last = stream.last_id.expect("it begins with an id");
        let get = gateway.http.get(gateway.url("/mcp")).header("mcp-session-id", &session);
        let get = get.header("accept", "text/event-stream").header("last-event-id", &last);
        let mut rest = Events::open(get).await;
        let answer = rest.next().await.expect("an answer");
        assert_eq!(answer["id"], name, "{answer}");
        assert!(ids.insert(last), "no two of a session alike");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_not_of_this_session_is_refused() {
    let several = Several::start(&["one", "two"]).await;
    let gateway = &several.gateway;
    let session = gateway.initialize("/mcp").await;
    let call = legacy_call(1, "one__test_reconnection", json!({}));
    let mut stream = Events::open(gateway.post("/mcp", Some(&session), &call)).await;
    stream.rest().await;
    let known = stream.last_id.expect("it begins with an id");
    let other = gateway.initialize("/mcp").await;
    let get = |session: &str, last: &[&str]| {
        let mut get = gateway.http.get(gateway.url("/mcp")).header("mcp-session-id", session);
        for last in last {
            get = get.header("last-event-id", *last);
        }
        get.header("accept", "text/event-stream").send()
    };
    let (first, own) = known.rsplit_once(':').expect("the server's own id at the end");
    let serial: u64 = first.trim_start_matches("tg:").parse().expect("the serial of the server");
    let elsewhere = format!("tg:{}:{own}", serial + 1);
    for (session, last) in [
        (&session, vec!["garbage"]),
        (&session, vec![""]),
        (&session, vec![own]),
        (&session, vec!["tg:99999:1"]),
        (&session, vec!["tg:x:1"]),
        (&session, vec![elsewhere.as_str()]),
        (&session, vec![known.as_str(), known.as_str()]),
        // This session has no upstream session there.
        (&other, vec![known.as_str()]),
    ] {
        let (status, answer) = read(get(session, &last).await.expect("an answer")).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32600)), "{last:?}: {answer}");
    }
    // The same id at the same server belongs to another session there: the server decides, and nothing is
    // lost.
    several.sit(&other, "one").await;
    let foreign = get(&other, &[&known]).await.expect("an answer");
    assert!(!foreign.status().is_success() || foreign.headers()["content-type"] == "text/event-stream");
    several.sit(&session, "one").await;
}
