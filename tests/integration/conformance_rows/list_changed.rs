//! List changes are reported once to each client that sees the change, and to no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::listed;
use super::listen::{listen, listen_by, next};
use crate::access::{Caller, key};
use crate::events::Events;
use crate::harness::Gateway;
use crate::mock_server::{MockReply, MockServer, acknowledged, answer, json_answer, tools};

const TOOLS: &str = "notifications/tools/list_changed";

fn all() -> Value {
    json!({"toolsListChanged": true, "promptsListChanged": true, "resourcesListChanged": true})
}

/// The result at the end of a stream, without any other message before it.
async fn ends(events: &mut Events) {
    let rest = events.rest().await;
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert_eq!(rest[0]["result"]["resultType"], "complete", "{rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_hundreds_of_endpoints_is_told_to_each_of_its_own() {
    let config = |first: usize, tool: &str, more: &str| {
        let sets = (first..400).map(|n| format!("t{n}: {{tools: [demo__{tool}]}}"));
        format!(
            "mcpServers: {{demo: {{builtin: demo}}{more}}}\ntoolsets: {{{}}}\n",
            sets.collect::<Vec<_>>().join(", ")
        )
    };
    let gateway = Gateway::start(&config(0, "echo", "")).await;
    listed(&gateway, "demo__").await;
    let (mut whole, honoured) = listen(&gateway, "/mcp", all()).await;
    // No server has prompts or resources, but such a server may be added.
    assert_eq!(honoured, all());
    let (mut gone, honoured) = listen(&gateway, "/servers/t0/mcp", all()).await;
    assert_eq!(honoured, json!({"toolsListChanged": true}));
    let (mut last, _) = listen(&gateway, "/servers/t399/mcp", all()).await;
    let session = gateway.initialize("/servers/t399/mcp").await;
    let mut old = Events::of_session(&gateway, "/servers/t399/mcp", &session).await;
    gateway.rewrite(&config(1, "time", ""));
    ends(&mut gone).await;
    assert_eq!(next(&mut last).await["method"], TOOLS);
    assert_eq!(old.next().await.expect("it is told")["method"], TOOLS);
    // The next notification is of the next change, which only the federated endpoint shows.
    gateway.rewrite(&config(1, "time", ", more: {builtin: demo}"));
    assert_eq!(next(&mut whole).await["method"], TOOLS);
    gateway.rewrite(&config(1, "fail", ", more: {builtin: demo}"));
    assert_eq!(next(&mut last).await["method"], TOOLS);
    assert_eq!(old.next().await.expect("it is told")["method"], TOOLS);
    gateway.rewrite(&config(400, "fail", ""));
    ends(&mut last).await;
    assert_eq!(old.rest().await, Vec::<Value>::new());
    assert_eq!(next(&mut whole).await["method"], TOOLS);
}

#[tokio::test]
async fn a_list_that_says_the_same_in_other_words_is_no_change() {
    let (reads, (word, _)) = (Arc::new(AtomicUsize::new(0)), broadcast::channel(8));
    let (count, message) = (reads.clone(), word.clone());
    let mock = MockServer::start(move |seen| match seen.method() {
        "initialize" => MockReply::Good,
        "subscriptions/listen" => MockReply::Stream(
            vec![acknowledged(seen, &json!({"toolsListChanged": true}))],
            message.subscribe(),
        ),
        "tools/list" => {
            let turn = count.fetch_add(1, Ordering::SeqCst);
            let mut list = tools(if turn < 8 { &["tool"] } else { &["tool", "new"] });
            list["ttlMs"] = json!(60_000 - turn);
            list["cacheScope"] = json!(if turn.is_multiple_of(2) { "public" } else { "private" });
            MockReply::Say(json_answer(&answer(seen, &list)))
        }
        _ => MockReply::Good,
    })
    .await;
    let config =
        format!("mcpServers: {{p: {{url: \"{}\", era: modern}}, demo: {{builtin: demo}}}}\n", mock.url);
    let gateway = Gateway::start(&config).await;
    listed(&gateway, "p__tool").await;
    let (mut events, _) = listen(&gateway, "/mcp", all()).await;
    let changed = json!({"jsonrpc": "2.0", "method": TOOLS, "params": {}});
    gateway
        .eventually("it is read many times", async |_| {
            let _ = word.send(changed.clone());
            reads.load(Ordering::SeqCst) > 9
        })
        .await;
    assert_eq!(next(&mut events).await["method"], TOOLS);
    // The one after it concerns another list.
    gateway.rewrite("mcpServers: {}\n");
    assert_eq!(next(&mut events).await["method"], TOOLS);
    let (_, list) = gateway.modern("/mcp", "tools/list", json!({})).await;
    assert_eq!(list["result"]["tools"], json!([]), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_that_change_what_one_sees_are_told_to_that_one() {
    let config = |ann: &str, more: &str| {
        let keys = [key("ann", "a"), key("bob", "b")].concat();
        format!(
            "mcpServers: {{demo: {{builtin: demo}}{more}}}\nauth:\n  api_keys:\n{keys}rbac:\n  roles:\n    \
             a: {{allow: {{tools: [demo__echo, demo__{ann}]}}}}\n    b: {{allow: {{tools: [demo__time]}}}}\n"
        )
    };
    let gateway = Gateway::start(&config("fail", "")).await;
    let (ann, bob) = (Caller::new(&gateway, "ann"), Caller::new(&gateway, "bob"));
    gateway.eventually("it is listed", async |_| ann.tools("/mcp").await.len() == 2).await;
    let open = async |caller: &Caller<'_>| {
        let params = json!({"notifications": {"toolsListChanged": true}});
        let request = gateway.modern_request("/mcp", "subscriptions/listen", params).bearer_auth(&caller.key);
        listen_by(request).await.0
    };
    let session = ann.session("/mcp").await;
    let request = gateway.http.get(gateway.url("/mcp")).header("accept", "text/event-stream");
    let request = request.header("mcp-session-id", &session).header("mcp-protocol-version", "2025-11-25");
    let mut old = Events::open(request.bearer_auth(&ann.key)).await;
    let (mut hers, mut his) = (open(&ann).await, open(&bob).await);
    // A server that neither caller may use causes no notification.
    gateway.rewrite(&config("fail", ", more: {builtin: demo}"));
    gateway.eventually("it is there", async |g| g.get("/health").await.contains("\"connected\":2")).await;
    gateway.rewrite(&config("sleep", ", more: {builtin: demo}"));
    assert_eq!(next(&mut hers).await["method"], TOOLS);
    assert_eq!(old.next().await.expect("it is told")["method"], TOOLS);
    assert_eq!(ann.tools("/mcp").await, ["demo__echo", "demo__sleep"]);
    // Under another policy, streams end cleanly and are opened again.
    ends(&mut hers).await;
    ends(&mut his).await;
    assert_eq!(old.rest().await, Vec::<Value>::new());
}
