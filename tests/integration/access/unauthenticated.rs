//! Callers without valid credentials, and what they learn.

use serde_json::json;

use super::{Caller, key};
use crate::harness::{Gateway, legacy_call, read};
use crate::mock_server::{MockReply, MockServer};
use crate::raw::{Client, Head};

fn demo(keys: &str) -> String {
    format!("mcpServers: {{demo: {{builtin: demo}}}}\nauth:\n  api_keys:\n{keys}")
}

#[tokio::test]
async fn a_stranger_is_challenged_before_a_byte_of_the_body_is_read() {
    let config = demo(&key("ann", "dev"))
        + "  resource_metadata: {resource: \"http://127.0.0.1:PORT/mcp\", authorization_servers: [\"https://id.example.com\"], scopes_supported: [mcp]}\n";
    let gateway = Gateway::start(&config).await;
    let response = gateway.modern_request("/mcp", "tools/list", json!({})).send().await.expect("an answer");
    assert_eq!(response.status(), 401);
    let challenge = response.headers()["www-authenticate"].to_str().expect("ASCII").to_owned();
    let place = format!("http://127.0.0.1:{}/.well-known/oauth-protected-resource/mcp", gateway.port);
    assert!(challenge.starts_with("Bearer ") && challenge.contains(&place), "{challenge}");
    // RFC 6750 §3: without credentials there is no error code.
    assert!(!challenge.contains("error="), "{challenge}");
    let (_, answer) = read(response).await;
    assert_eq!(answer["error"]["code"], 401, "{answer}");

    // The body never comes; the response does.
    let mut client = Client::connect(gateway.port).await;
    client.send(&Head::post("/mcp").with("Content-Length", "1000").bytes()).await;
    assert_eq!(client.answer().await.expect("an answer").status, 401);

    for (path, resource) in [
        ("/.well-known/oauth-protected-resource", "/mcp"),
        ("/.well-known/oauth-protected-resource/mcp", "/mcp"),
        ("/.well-known/oauth-protected-resource/servers/demo/mcp", "/servers/demo/mcp"),
    ] {
        let document: serde_json::Value = serde_json::from_str(&gateway.get(path).await).expect("JSON");
        let expected = format!("http://127.0.0.1:{}{resource}", gateway.port);
        assert_eq!(document["resource"], json!(expected), "{path}: {document}");
        assert_eq!(document["authorization_servers"], json!(["https://id.example.com"]), "{path}");
        assert_eq!(document["bearer_methods_supported"], json!(["header"]), "{path}");
    }
}

/// Status, headers (without lengths and times), and body of a response, with the name normalized.
async fn outcome_of(request: reqwest::RequestBuilder, name: &str) -> (u16, Vec<String>, String) {
    let response = request.send().await.expect("an answer");
    let same = |text: &str| text.replace(name, "NAME");
    let own = |header: &str| matches!(header, "x-request-id" | "date" | "content-length");
    let mut headers: Vec<String> = response
        .headers()
        .iter()
        .filter(|(header, _)| !own(header.as_str()))
        .map(|(header, value)| format!("{header}: {}", same(value.to_str().expect("ASCII"))))
        .collect();
    headers.sort();
    let status = response.status().as_u16();
    let body = same(&response.text().await.expect("a body"));
    // Some bodies contain the number of the request.
    let body = body.split("\"request_id\"").next().unwrap_or_default().to_owned();
    (status, headers, body)
}

#[tokio::test]
async fn who_may_not_use_a_server_does_not_learn_that_it_is_there() {
    let config = demo(&(key("nil", "") + &key("ann", "dev") + &key("els", "other")))
        .replace("mcpServers:", "toolsets: {bundle: {tools: [\"demo__echo\"]}}\nmcpServers:")
        + "  resource_metadata: {resource: \"http://127.0.0.1:PORT/mcp\", authorization_servers: [\"https://id.example.com\"], scopes_supported: [mcp]}\n"
        + "rbac:\n  roles: {dev: {allow: {servers: [demo]}}, other: {allow: {tools: [\"else__*\"]}}}\n";
    let gateway = Gateway::start(&config).await;
    let ann = Caller::new(&gateway, "ann");
    gateway.eventually("it has tools", async |_| !ann.tools("/mcp").await.is_empty()).await;
    assert_eq!(ann.tools("/servers/bundle/mcp").await, ["demo__echo"]);
    let initialize = crate::harness::initialize(json!({}));
    for key in ["", "wrong-key", "nil-key", "els-key"] {
        let with = |request: reqwest::RequestBuilder| match key {
            "" => request,
            key => request.bearer_auth(key),
        };
        let all = async |name: &str| {
            let path = format!("/servers/{name}/mcp");
            let url = gateway.url(&path);
            let described = format!("/.well-known/oauth-protected-resource{path}");
            let session = |request: reqwest::RequestBuilder| request.header("mcp-session-id", "none");
            let mut said = Vec::new();
            for request in [
                gateway.modern_request(&path, "tools/list", json!({})),
                gateway.modern_request(&path, "tools/call", json!({"name": "echo", "arguments": {}})),
                gateway.post(&path, None, &initialize),
                gateway.post(&path, Some("none"), &legacy_call(1, "echo", json!({}))),
                gateway.http.post(&url).body("not JSON"),
                session(gateway.http.get(&url)),
                session(gateway.http.delete(&url)),
                gateway.http.put(&url),
                gateway.http.get(gateway.url(&described)),
            ] {
                said.push(outcome_of(with(request), name).await);
            }
            said
        };
        let nowhere = all("none").await;
        assert_eq!(nowhere[8].0, 200, "the document for a name that nobody has: {nowhere:?}");
        for there in ["demo", "bundle"] {
            assert_eq!(all(there).await, nowhere, "{key:?} at {there}");
        }
    }
}

#[tokio::test]
async fn keys_are_taken_from_either_header_and_revoked_by_a_reload() {
    let gateway = Gateway::start(&demo(&(key("ann", "dev") + &key("bob", "dev")))).await;
    let (ann, bob) = (Caller::new(&gateway, "ann"), Caller::new(&gateway, "bob"));
    assert_eq!(ann.call("demo__echo", json!({"message": "hi"})).await.0, 200);
    assert_eq!(bob.call("demo__echo", json!({"message": "hi"})).await.0, 200);
    let list = || gateway.modern_request("/mcp", "tools/list", json!({}));
    let status = async |request: reqwest::RequestBuilder| request.send().await.expect("an answer").status();
    assert_eq!(status(list().header("x-api-key", "ann-key")).await, 200);
    assert_eq!(status(list().header("x-api-key", "ann-key").bearer_auth("ann-key")).await, 400);
    assert_eq!(status(list().bearer_auth("other-key")).await, 401);
    assert_eq!(status(list().basic_auth("ann", Some("ann-key"))).await, 401);
    assert_eq!(status(list().header("authorization", "Bearer")).await.as_u16() / 100, 4);

    gateway.rewrite(&demo(&key("ann", "dev")));
    gateway.eventually("bob is out", async |_| bob.call("demo__echo", json!({})).await.0 == 401).await;
    assert_eq!(ann.call("demo__echo", json!({"message": "hi"})).await.0, 200);
}

#[tokio::test]
async fn credentials_stay_at_the_gateway_and_unauthenticated_callers_reach_no_server() {
    let mock = MockServer::start(|_| MockReply::Good).await;
    let gateway = Gateway::start(&format!(
        "mcpServers: {{p: {{url: \"{}\"}}}}\nauth:\n  api_keys:\n{}",
        mock.url,
        key("ann", "dev")
    ))
    .await;
    let ann = Caller::new(&gateway, "ann");
    gateway.eventually("the server is there", async |_| ann.call("p__tool", json!({})).await.0 == 200).await;
    let session = ann.session("/mcp").await;
    assert_eq!(ann.say("/mcp", &session, &legacy_call(1, "p__tool", json!({}))).await.0, 200);
    let calls = mock.calls();
    assert!(calls.len() >= 2, "{calls:?}");
    for seen in &calls {
        assert!(seen.headers.iter().all(|(_, value)| !value.contains("ann-key")), "{seen:?}");
    }
    let unauthenticated =
        gateway.modern_request("/mcp", "tools/call", json!({"name": "p__tool", "arguments": {}}));
    assert_eq!(unauthenticated.send().await.expect("an answer").status(), 401);
    assert_eq!(mock.calls().len(), calls.len(), "the unauthenticated call went no further");
}

#[tokio::test]
async fn without_required_credentials_callers_are_anonymous_but_bad_ones_are_refused() {
    let config = demo(&key("ann", "dev"))
        + "  required: false\n  anonymous: {roles: [guest]}\nrbac:\n  roles:\n    guest: {allow: {tools: [demo__echo]}}\n    dev: {allow: {tools: [\"*\"]}}\n";
    let gateway = Gateway::start(&config).await;
    let (status, answer) = gateway.modern("/mcp", "tools/list", json!({})).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["result"]["tools"].as_array().map(Vec::len), Some(1), "{answer}");
    let bad = gateway.modern_request("/mcp", "tools/list", json!({})).bearer_auth("nobody");
    assert_eq!(bad.send().await.expect("an answer").status(), 401);
}

#[tokio::test]
async fn operators_paths_tell_unauthenticated_callers_nothing_but_that_it_runs() {
    let config = demo(&(key("ann", "dev") + &key("root", "admin")))
        + "rbac:\n  roles:\n    dev: {allow: {tools: [\"*\"]}}\n    admin: {allow: {servers: [\"*\"]}, admin: true}\n";
    let gateway = Gateway::start(&config).await;
    let get = async |path: &str, key: Option<&str>| {
        let mut request = gateway.http.get(gateway.url(path));
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(get("/health", None).await, 200);
    assert_eq!(get("/ready", None).await, 200);
    assert_eq!(get("/metrics", None).await, 401);
    assert_eq!(get("/metrics", Some("ann-key")).await, 403);
    assert_eq!(get("/metrics", Some("root-key")).await, 200);
}
