//! Servers that a caller may not use: none of their messages reaches the caller, on any path, and nothing
//! names their entries.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Caller, key};
use crate::harness::{Gateway, a_fixture, legacy_call};
use crate::mock_server::{MockReply, MockServer, answer, good, http, json_answer};

const ROLES: &str =
    "rbac:\n  roles:\n    little: {allow: {tools: [\"demo__*\"]}}\n    all: {allow: {servers: [\"*\"]}}\n";

/// A server that logs, and sends a message on each stream that is opened.
async fn talkative() -> MockServer {
    MockServer::start(|seen| match (seen.http_method.as_str(), seen.method()) {
        ("GET", _) => {
            let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n".to_vec();
            let data = "card 4111 1111 1111 1111";
            let note = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": data}});
            MockReply::Repeat(head, format!("data: {note}\n\n").into_bytes(), Duration::from_millis(100))
        }
        (_, "initialize") => {
            let result = json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}, "logging": {}},
                "serverInfo": {"name": "mock", "version": "1"}});
            let headers = ["Content-Type: application/json", "Mcp-Session-Id: theirs"];
            MockReply::Say(http("200 OK", &headers, &answer(seen, &result)))
        }
        (_, "logging/setLevel" | "tasks/list" | "vendor/wipe") => {
            MockReply::Say(json_answer(&answer(seen, &json!({}))))
        }
        ("POST", "") => MockReply::Say(http("202 Accepted", &[], "")),
        _ => MockReply::Say(good(seen)),
    })
    .await
}

async fn setup(server: &MockServer, settings: &str) -> Gateway {
    let keys = key("ann", "little") + &key("roy", "all");
    let gateway = Gateway::start(&format!(
        "mcpServers: {{p: {{url: \"{}\"{settings}}}, demo: {{builtin: demo}}}}\nauth:\n  api_keys:\n{keys}{ROLES}",
        server.url
    ))
    .await;
    let roy = Caller::new(&gateway, "roy");
    gateway.eventually("the server is there", async |_| roy.call("p__tool", json!({})).await.0 == 200).await;
    gateway
}

fn stream(caller: &Caller<'_>, path: &str, session: &str) -> reqwest::RequestBuilder {
    let request = caller.gateway.http.get(caller.gateway.url(path)).bearer_auth(&caller.key);
    request.header("mcp-session-id", session).header("accept", "text/event-stream")
}

#[tokio::test]
async fn a_server_out_of_reach_hears_nothing_at_all() {
    let server = talkative().await;
    let gateway = setup(&server, "").await;
    let (ann, roy) = (Caller::new(&gateway, "ann"), Caller::new(&gateway, "roy"));
    let session = roy.session("/servers/p/mcp").await;
    let wipe = json!({"jsonrpc": "2.0", "id": 2, "method": "vendor/wipe"});
    assert_eq!(roy.say("/servers/p/mcp", &session, &wipe).await.1["result"], json!({}), "roy may");
    let (sessions, calls) = (server.count("initialize"), server.calls().len());

    // Its own endpoint is unknown, even for an existing session.
    for id in [None, Some(session.as_str())] {
        let begin = crate::harness::initialize(json!({}));
        let body = if id.is_some() { &wipe } else { &begin };
        let request = gateway.post("/servers/p/mcp", id, body).bearer_auth(&ann.key);
        assert_eq!(request.send().await.expect("an answer").status(), 404);
        assert_eq!(ann.modern("/servers/p/mcp", "vendor/wipe", json!({})).await.0, 404);
    }
    let path = "/mcp";
    let session = ann.session(path).await;
    let say = async |body: Value| ann.say(path, &session, &body).await;
    let level =
        json!({"jsonrpc": "2.0", "id": 1, "method": "logging/setLevel", "params": {"level": "debug"}});
    say(level).await;
    for method in ["tasks/list", "vendor/wipe"] {
        let (_, answer) = say(json!({"jsonrpc": "2.0", "id": 2, "method": method})).await;
        assert_eq!(answer["error"]["code"], -32601, "{path}: {answer}");
        let (status, answer) = ann.modern(path, method, json!({})).await;
        assert_eq!(status, 404, "{path}: {answer}");
    }
    say(json!({"jsonrpc": "2.0", "id": 9, "result": {}})).await;
    say(json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})).await;
    let resumed = stream(&ann, path, &session).header("last-event-id", "7");
    let resumed = resumed.send().await.expect("an answer");
    assert_eq!(resumed.status(), 400, "{path}: no stream of this session");
    assert_eq!(server.count("initialize"), sessions, "no session was opened there");
    assert_eq!(server.calls().len(), calls, "{:?}", server.calls());
}

#[tokio::test]
async fn a_stream_has_no_secrets_and_ends_with_the_right_to_it() {
    let server = talkative().await;
    let gateway = setup(&server, ", redact: {results: redact}").await;
    let roy = Caller::new(&gateway, "roy");
    let session = roy.session("/mcp").await;
    assert_eq!(roy.say("/mcp", &session, &legacy_call(1, "p__tool", json!({}))).await.0, 200);
    let mut events = stream(&roy, "/mcp", &session).send().await.expect("an answer");
    let first = events.chunk().await.expect("a stream").expect("an event");
    let first = String::from_utf8_lossy(&first).into_owned();
    assert!(first.contains("[redacted:credit_card]") && !first.contains("4111"), "{first}");

    gateway.rewrite(&format!(
        "mcpServers: {{p: {{url: \"{}\", redact: {{results: redact}}}}, demo: {{builtin: demo}}}}\nauth:\n  api_keys:\n{}{ROLES}",
        server.url,
        key("ann", "little")
    ));
    let end = async { while events.chunk().await.expect("it ends in good order").is_some() {} };
    tokio::time::timeout(Duration::from_secs(30), end).await.expect("the stream of a revoked key ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_shows_does_not_let_through_what_it_covers() {
    let (_fixture, url) = a_fixture().await;
    let rbac = "rbac:\n  roles:\n    reader: {allow: {resources: [\"*\"]}, deny: {resources: [\"test://template/secret*\"]}}\n";
    let gateway = Gateway::start(&format!(
        "mcpServers: {{fix: {{url: \"{url}\"}}}}\nauth:\n  api_keys:\n{}{rbac}",
        key("ann", "reader")
    ))
    .await;
    let ann = Caller::new(&gateway, "ann");
    let templates =
        async || ann.names("/mcp", "resources/templates/list", "resourceTemplates", "uriTemplate").await;
    gateway.eventually("templates are there", async |_| !templates().await.is_empty()).await;
    let uris = ["test://template/open/data", "test://template/secret1/data"];
    let params = json!({"notifications": {"resourceSubscriptions": uris}});
    let request = gateway.modern_request("/mcp", "subscriptions/listen", params).bearer_auth(&ann.key);
    let mut response = request.send().await.expect("an answer");
    let first = response.chunk().await.expect("a stream").expect("an event");
    let first = String::from_utf8_lossy(&first).into_owned();
    assert!(first.contains("test://template/open/data") && !first.contains("secret1"), "{first}");
}

#[tokio::test]
async fn a_caller_that_leaves_keeps_its_place_until_the_server_is_done() {
    let limits =
        "rate_limits:\n  rules:\n    - {name: one, key: [user], concurrent: 1, match: {tools: [\"*\"]}}\n";
    let gateway = Gateway::start(&format!(
        "mcpServers: {{demo: {{builtin: demo}}}}\nauth:\n  api_keys:\n{}{limits}",
        key("ann", "")
    ))
    .await;
    let ann = Caller::new(&gateway, "ann");
    let session = ann.session("/mcp").await;
    let nap = legacy_call(1, "demo__sleep", json!({"seconds": 10}));
    gateway
        .eventually("it is told as left", async |g| {
            // Once more if the machine was too busy to accept it in time; a running call excludes others.
            let request = g.post("/mcp", Some(&session), &nap).bearer_auth(&ann.key);
            let _ = request.timeout(Duration::from_millis(500)).send().await;
            g.process.output().contains("\"outcome\":\"client_aborted\"")
        })
        .await;
    let echo = legacy_call(2, "demo__echo", json!({"message": "hi"}));
    let (status, answer) = ann.say("/mcp", &session, &echo).await;
    assert_eq!(status, 429, "its call still runs: {answer}");
    gateway.eventually("it is done", async |_| ann.say("/mcp", &session, &echo).await.0 == 200).await;
}
