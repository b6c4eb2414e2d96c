//! Subscriptions to resources, and notifications of list changes, across the eras.

use serde_json::{Value, json};

use super::Bridged;
use crate::access::{Caller, key};
use crate::conformance_rows::listen::{listen, listen_by, next};
use crate::events::Events;
use crate::harness::{Gateway, initialize, legacy_call, read};

pub const WATCHED: &str = "test://watched-resource";

pub fn uri(number: u8) -> String {
    format!("test://template/{number}/data")
}

fn updated(uri: &str) -> Option<Value> {
    Some(json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}}))
}

/// A `resources/subscribe` or `unsubscribe` of a session.
pub async fn ask(gateway: &Gateway, path: &str, session: &str, word: &str, uri: &str) -> Value {
    let method = format!("resources/{word}");
    let body = json!({"jsonrpc": "2.0", "id": "s", "method": method, "params": {"uri": uri}});
    gateway.say(path, session, &body).await.1
}

/// The server says that a resource has changed.
pub async fn touch(gateway: &Gateway, session: &str, server: &str, uri: &str) {
    let call = legacy_call("touch", &format!("{server}__touch"), json!({"uri": uri}));
    let (status, answer) = gateway.say("/mcp", session, &call).await;
    assert_eq!(status, 200, "{answer}");
}

async fn counts(gateway: &Gateway, session: &str, server: &str, name: &str, count: u64) {
    let what = format!("{name} of {server} is {count}");
    gateway.eventually(&what, async |g| g.count(session, server, name).await == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_at_a_modern_server_has_the_union_of_what_a_legacy_session_follows() {
    let bridged = Bridged::start("").await;
    let gateway = &bridged.gateway;
    let counter = gateway.initialize("/mcp").await;
    for server in ["new", "new_pipe"] {
        // The gateway follows the lists itself.
        counts(gateway, &counter, server, "listen.open", 1).await;
        let path = format!("/servers/{server}/mcp");
        let opened = gateway.post(&path, None, &initialize(json!({}))).send().await.expect("an answer");
        let (_, answer) = read(opened).await;
        assert_eq!(answer["result"]["capabilities"]["resources"]["subscribe"], true, "{server}: {answer}");
        let mut all = Vec::new();
        for _ in 0..2 {
            let session = gateway.initialize(&path).await;
            let stream = Events::of_session(gateway, &path, &session).await;
            all.push((session, stream));
        }
        let [(one, ones), (two, twos)] = &mut all[..] else { unreachable!("there are two") };
        for (session, uri) in [(&*one, uri(1)), (&*one, uri(2)), (&*two, uri(1)), (&*one, uri(2))] {
            let answer = ask(gateway, &path, session, "subscribe", &uri).await;
            assert_eq!((&answer["result"], &answer["id"]), (&json!({}), &json!("s")), "{server}: {answer}");
        }
        // One for each session, however many resources it follows.
        counts(gateway, &counter, server, "listen.open", 3).await;
        for number in [3, 2, 1] {
            touch(gateway, &counter, server, &uri(number)).await;
        }
        assert_eq!((ones.next().await, ones.next().await), (updated(&uri(2)), updated(&uri(1))), "{server}");
        assert_eq!(twos.next().await, updated(&uri(1)), "{server}");
        assert_eq!(ask(gateway, &path, one, "unsubscribe", &uri(1)).await["result"], json!({}));
        for number in [1, 2] {
            touch(gateway, &counter, server, &uri(number)).await;
        }
        assert_eq!((ones.next().await, twos.next().await), (updated(&uri(2)), updated(&uri(1))), "{server}");
        // Nobody wants anything: there is no stream any more.
        assert_eq!(ask(gateway, &path, one, "unsubscribe", &uri(2)).await["result"], json!({}));
        counts(gateway, &counter, server, "listen.open", 2).await;
        let end = gateway.http.delete(gateway.url(&path)).header("mcp-session-id", &*two);
        assert_eq!(end.send().await.expect("an answer").status(), 204);
        counts(gateway, &counter, server, "listen.open", 1).await;
    }
}

const AUTH: &str = "rbac:\n  roles:\n    all: {allow: {servers: [\"*\"]}}\n    some: {allow: {tools: [\"*\"], \
    resources: [\"test://static-*\"]}}\nauth:\n  required: false\n  anonymous: {roles: [all]}\n  api_keys:\n";

fn auth() -> String {
    let keys = [("ann", "all"), ("bob", "all"), ("sam", "some")];
    format!("{AUTH}{}", keys.map(|(name, roles)| key(name, roles)).concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_client_follows_resources_of_a_legacy_server_in_a_session_of_its_own() {
    let bridged = Bridged::start(&auth()).await;
    let gateway = &bridged.gateway;
    let counter = gateway.initialize("/mcp").await;
    let path = "/servers/old/mcp";
    let (_, discovered) = gateway.modern(path, "server/discover", json!({})).await;
    assert_eq!(discovered["result"]["capabilities"]["resources"]["subscribe"], true, "{discovered}");
    let wanted = json!({"resourceSubscriptions": [WATCHED, "none://such"], "toolsListChanged": true});
    let follow = async |name: &str| {
        let params = json!({"notifications": wanted.clone()});
        let request = gateway.modern_request(path, "subscriptions/listen", params);
        let (events, honoured) = listen_by(request.bearer_auth(format!("{name}-key"))).await;
        let expected = json!({"resourceSubscriptions": [WATCHED], "toolsListChanged": true});
        assert_eq!(honoured, expected, "{name}");
        events
    };
    let (mut first, mut second) = (follow("ann").await, follow("ann").await);
    // The session counts one subscriber after the other.
    counts(gateway, &counter, "old", "subscribe", 1).await;
    let mut bobs = follow("bob").await;
    counts(gateway, &counter, "old", "subscribe", 2).await;
    touch(gateway, &counter, "old", "test://static-text").await;
    touch(gateway, &counter, "old", WATCHED).await;
    for events in [&mut first, &mut second, &mut bobs] {
        let note = next(events).await;
        assert_eq!(
            (&note["method"], &note["params"]["uri"]),
            (&json!("notifications/resources/updated"), &json!(WATCHED))
        );
    }
    drop(first);
    touch(gateway, &counter, "old", WATCHED).await;
    assert_eq!(next(&mut second).await["params"]["uri"], WATCHED);
    assert_eq!(gateway.count(&counter, "old", "unsubscribe").await, 0);
    drop(second);
    counts(gateway, &counter, "old", "unsubscribe", 1).await;
    touch(gateway, &counter, "old", WATCHED).await;
    for _ in 0..2 {
        assert_eq!(next(&mut bobs).await["params"]["uri"], WATCHED);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_of_an_anonymous_caller_lasts_as_long_as_its_stream() {
    let bridged = Bridged::start("").await;
    let gateway = &bridged.gateway;
    let counter = gateway.initialize("/mcp").await;
    let wanted = json!({"resourceSubscriptions": [WATCHED]});
    let sessions = gateway.count(&counter, "old", "sessions").await;
    let (mut one, _) = listen(gateway, "/servers/old/mcp", wanted.clone()).await;
    let (mut two, _) = listen(gateway, "/servers/old/mcp", wanted.clone()).await;
    counts(gateway, &counter, "old", "sessions", sessions + 2).await;
    touch(gateway, &counter, "old", WATCHED).await;
    assert_eq!(next(&mut one).await["params"]["uri"], WATCHED);
    assert_eq!(next(&mut two).await["params"]["uri"], WATCHED);
    let ended = gateway.count(&counter, "old", "http.DELETE").await;
    drop(one);
    counts(gateway, &counter, "old", "http.DELETE", ended + 1).await;
    touch(gateway, &counter, "old", WATCHED).await;
    assert_eq!(next(&mut two).await["params"]["uri"], WATCHED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_client_follows_resources_of_a_legacy_process_of_all() {
    let bridged = Bridged::start("").await;
    let gateway = &bridged.gateway;
    let counter = gateway.initialize("/mcp").await;
    let wanted = json!({"resourceSubscriptions": [WATCHED]});
    let (mut one, honoured) = listen(gateway, "/servers/old_pipe/mcp", wanted.clone()).await;
    assert_eq!(honoured, wanted);
    let (mut two, _) = listen(gateway, "/servers/old_pipe/mcp", wanted).await;
    assert_eq!(gateway.count(&counter, "old_pipe", "subscribe").await, 1, "it has one client");
    touch(gateway, &counter, "old_pipe", WATCHED).await;
    assert_eq!(next(&mut one).await["params"]["uri"], WATCHED);
    assert_eq!(next(&mut two).await["params"]["uri"], WATCHED);
    drop(one);
    drop(two);
    counts(gateway, &counter, "old_pipe", "unsubscribe", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_judged_like_a_read_of_the_resource() {
    let bridged = Bridged::start(&auth()).await;
    let gateway = &bridged.gateway;
    let sam = Caller::new(gateway, "sam");
    let (_, read) = sam.modern("/servers/old/mcp", "resources/read", json!({"uri": WATCHED})).await;
    assert!(read["error"].is_object(), "{read}");
    let params = json!({"notifications": {"resourceSubscriptions": [WATCHED, "test://static-text"]}});
    let request = gateway.modern_request("/servers/old/mcp", "subscriptions/listen", params);
    let (_events, honoured) = listen_by(request.bearer_auth(&sam.key)).await;
    assert_eq!(honoured, json!({"resourceSubscriptions": ["test://static-text"]}));
    let path = "/servers/new/mcp";
    let say = async |session: Option<&str>, body: Value| {
        let sent = gateway.post(path, session, &body).bearer_auth(&sam.key).send().await.expect("an answer");
        let id = sent.headers().get("mcp-session-id").map(|id| id.to_str().expect("ASCII").to_owned());
        (crate::harness::read(sent).await.1, id)
    };
    let (_, session) = say(None, initialize(json!({}))).await;
    for (uri, allowed) in [("test://static-text", true), (WATCHED, false)] {
        let body =
            json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": uri}});
        let (answer, _) = say(session.as_deref(), body).await;
        assert_eq!(answer["result"].is_object(), allowed, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_lists_of_servers_of_either_era_are_told_to_clients_of_both() {
    let bridged = Bridged::start("").await;
    let gateway = &bridged.gateway;
    let session = gateway.initialize("/mcp").await;
    let mut legacy = Events::of_session(gateway, "/mcp", &session).await;
    let wanted = json!({"toolsListChanged": true, "promptsListChanged": true});
    let (mut modern, honoured) = listen(gateway, "/mcp", wanted.clone()).await;
    assert_eq!(honoured, wanted);
    for server in ["old", "new", "old_pipe", "new_pipe"] {
        for (tool, method) in [
            ("test_trigger_tool_change", "notifications/tools/list_changed"),
            ("test_trigger_prompt_change", "notifications/prompts/list_changed"),
        ] {
            let call = legacy_call("change", &format!("{server}__{tool}"), json!({}));
            assert_eq!(gateway.say("/mcp", &session, &call).await.0, 200, "{server}");
            assert_eq!(next(&mut modern).await["method"], method, "{server}");
            let note = legacy.next().await.expect("a notification");
            assert_eq!(note, json!({"jsonrpc": "2.0", "method": method}), "{server}");
        }
        let (_, list) = gateway.modern("/mcp", "tools/list", json!({})).await;
        let new = format!("{server}__test_dynamic_tool");
        assert!(list["result"]["tools"].as_array().expect("tools").iter().any(|tool| tool["name"] == *new));
    }
}
