//! Who may do what: credentials on both requests, the sessions of others, roles, and what a reload changes of them.

use serde_json::json;

use super::{SseClient, request, text};
use crate::access::key;
use crate::harness::{Gateway, legacy_call, read};

const ROLES: &str = "rbac:\n  roles:\n    reader: {allow: {tools: [\"demo__echo\"]}}\n    none: {allow: {tools: [\"x__*\"]}}\n";

fn config(keys: &str, roles: &str) -> String {
    format!("mcpServers: {{demo: {{builtin: demo}}}}\nauth:\n  api_keys:\n{keys}{roles}")
}

async fn open(gateway: &Gateway, path: &str, name: &str) -> SseClient {
    SseClient::open_at(&gateway.http, &gateway.url(path), Some(&format!("{name}-key"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_requests_need_credentials_of_the_same_caller() {
    let gateway = Gateway::start(&config(&(key("ann", "reader") + &key("bob", "reader")), "")).await;
    let (status, _) = read(gateway.http.get(gateway.url("/sse")).send().await.expect("an answer")).await;
    assert_eq!(status, 401);
    let mut ann = open(&gateway, "/sse", "ann").await;
    ann.initialize("2024-11-05", json!({})).await;
    let call = legacy_call(1, "demo__echo", json!({"message": "hi"}));
    let post = |uri: &str, key: Option<&str>| {
        let mut post =
            gateway.http.post(uri).header("content-type", "application/json").body(call.to_string());
        if let Some(key) = key {
            post = post.bearer_auth(key);
        }
        async { read(post.send().await.expect("an answer")).await }
    };
    let own = ann.uri.to_string();
    let unknown = own.split_once('=').expect("an id").0.to_owned() + "=0123456789abcdef0123456789abcdef";
    let elsewhere = own.replace("/messages/", "/servers/demo/messages/");
    // Of others it is as if it did not exist, and nothing of it is told.
    let answers = [
        post(&unknown, Some("bob-key")).await,
        post(&own, Some("bob-key")).await,
        post(&elsewhere, Some("ann-key")).await,
        post(&own.replace("session_id=", "session_id=x"), Some("ann-key")).await,
    ];
    for answer in &answers {
        assert_eq!(answer.0, 404, "{answer:?}");
        assert_eq!(answer, &answers[0]);
    }
    assert_eq!(post(&own, None).await.0, 401);
    assert_eq!(post(&own, Some("no-key")).await.0, 401);
    // It is no session of Streamable HTTP.
    let id = own.split_once('=').expect("an id").1.to_owned();
    let streamable = gateway.post("/mcp", Some(&id), &call).bearer_auth("ann-key");
    assert_eq!(streamable.send().await.expect("an answer").status(), 404);
    // Nothing of all this came on the stream, and it goes on.
    ann.send(&call).await;
    let next = ann.events.next().await.expect("a message");
    assert_eq!((text(&next), &next["id"]), ("hi", &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_two_callers_with_the_same_ids_go_to_each_their_own() {
    let gateway = Gateway::start(&config(&(key("ann", "reader") + &key("bob", "reader")), "")).await;
    let (mut ann, mut bob) = (open(&gateway, "/sse", "ann").await, open(&gateway, "/sse", "bob").await);
    for client in [&mut ann, &mut bob] {
        client.initialize("2024-11-05", json!({})).await;
    }
    for id in 0..20 {
        ann.send(&legacy_call(id, "demo__echo", json!({"message": format!("ann {id}")}))).await;
        bob.send(&legacy_call(id, "demo__echo", json!({"message": format!("bob {id}")}))).await;
    }
    for (client, name) in [(&mut ann, "ann"), (&mut bob, "bob")] {
        for _ in 0..20 {
            let answer = client.events.next().await.expect("an answer");
            assert_eq!(text(&answer), format!("{name} {}", answer["id"]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_decide_on_each_message_and_their_reload_keeps_the_stream() {
    let keys = key("ann", "reader") + &key("bob", "none");
    let gateway = Gateway::start(&config(&keys, ROLES)).await;
    let mut ann = open(&gateway, "/sse", "ann").await;
    ann.initialize("2024-11-05", json!({})).await;
    let list = ann.say(&request(1, "tools/list")).await;
    assert_eq!(list["result"]["tools"].as_array().expect("a list").len(), 1, "{list}");
    let sum = legacy_call(2, "demo__calculator", json!({"operation": "add", "a": 3, "b": 4}));
    assert_eq!(ann.say(&sum).await["error"]["code"], -32602, "it does not exist for her");
    // A server of which the caller may use nothing has no event stream either.
    let hidden = gateway.http.get(gateway.url("/servers/demo/sse")).bearer_auth("bob-key");
    assert_eq!(hidden.send().await.expect("an answer").status(), 404);
    gateway.rewrite(&config(&keys, &ROLES.replace("demo__echo", "demo__calculator")));
    let change = ann.events.next().await.expect("the stream goes on");
    assert_eq!(change["method"], "notifications/tools/list_changed", "{change}");
    assert_eq!(text(&ann.say(&sum).await), "7");
    let echo = legacy_call(3, "demo__echo", json!({"message": "hi"}));
    assert_eq!(ann.say(&echo).await["error"]["code"], -32602);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_credentials_that_opened_it() {
    let (ann, bob) = (key("ann", "reader"), key("bob", "reader"));
    let gateway = Gateway::start(&config(&(ann + &bob), "")).await;
    let mut client = open(&gateway, "/sse", "ann").await;
    client.initialize("2024-11-05", json!({})).await;
    gateway.rewrite(&config(&bob, ""));
    assert_eq!(client.events.next().await, None, "it ends");
    gateway
        .eventually("the session ends", async |g| {
            let metrics = g.http.get(g.url("/ready")).send().await.expect("an answer");
            metrics.status() == 200 && client.post(&request(1, "ping")).await == 401
        })
        .await;
    let mut client = open(&gateway, "/sse", "bob").await;
    client.initialize("2024-11-05", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_credentials_is_led_to_the_document_of_its_path() {
    let metadata = "  resource_metadata: {authorization_servers: [\"https://id.example.com\"]}\n";
    let gateway = Gateway::start(&config(&(key("ann", "") + metadata), "")).await;
    for (method, path, described) in [
        ("GET", "/sse", "/sse"),
        ("POST", "/messages/?session_id=1", "/sse"),
        ("GET", "/servers/demo/sse/", "/servers/demo/sse"),
    ] {
        let asked = gateway.http.request(method.parse().expect("a method"), gateway.url(path));
        let response = asked.header("content-type", "application/json").send().await.expect("an answer");
        assert_eq!(response.status(), 401, "{path}");
        let challenge = response.headers()["www-authenticate"].to_str().expect("ASCII").to_owned();
        let place = gateway.url(&format!("/.well-known/oauth-protected-resource{described}"));
        assert!(challenge.contains(&format!("\"{place}\"")), "{challenge}");
        let (status, document) = read(gateway.http.get(place).send().await.expect("an answer")).await;
        assert_eq!((status, &document["resource"]), (200, &json!(gateway.url(described))));
    }
}
