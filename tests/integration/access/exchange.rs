//! `credentials: exchange`: a server receives a token of its own for each caller, made by a real
//! authorization server (RFC 8693), and never the caller's own token.

use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Caller, key};
use crate::harness::{Gateway, free_port, initialize, legacy_call, read};
use crate::mock_server::{MockReply, MockServer, RecordedRequest, http};
use crate::oauth_server::OauthServer;
use crate::raw::{Client, Head};

const AUDIENCES: [&str; 2] = ["https://one.example.com", "https://two.example.com/mcp"];
const SECRET: &str = "guards-nothing";

/// A gateway in front of two servers that require tokens of their own; `own` is the audience of the
/// callers' tokens.
struct ExchangeSetup {
    authority: OauthServer,
    servers: [MockServer; 2],
    gateway: Gateway,
}

impl ExchangeSetup {
    async fn start() -> Self {
        Self::with(|_, exchange| exchange).await
    }

    /// With other exchange settings, made of the usual ones and the issuer.
    async fn with(change: impl Fn(&str, Value) -> Value) -> Self {
        let mock = || {
            // A server may reject a token for reasons that its content does not show.
            let bad = Mutex::new(None);
            MockServer::start(move |seen| {
                let mut bad = bad.lock().expect("no holder of the lock panics");
                let token = seen.header("authorization").map(str::to_owned);
                if seen.body["params"]["arguments"]["revoke"] == true {
                    *bad = token;
                    return MockReply::Good;
                }
                let refused = token.is_some() && token == *bad;
                if refused { MockReply::Say(http("401 Unauthorized", &[], "")) } else { MockReply::Good }
            })
        };
        let (authority, one, two) = tokio::join!(OauthServer::start(), mock(), mock());
        let issuer = &authority.issuer;
        let exchange = json!({"token_endpoint": format!("{issuer}/token"), "client_id": "service",
            "client_secret": SECRET});
        let server = |mock: &MockServer, audience| json!({"url": mock.url, "credentials": "exchange", "audience": audience});
        let servers = json!({"one": server(&one, AUDIENCES[0]), "two": server(&two, AUDIENCES[1])});
        let jwt = json!({"issuer": issuer, "audience": "http://127.0.0.1:PORT/mcp", "jwks_url": format!("{issuer}/jwks")});
        let config = format!(
            "mcpServers: {servers}\nlimits: {{max_body: 8MiB}}\nauth:\n  jwt: [{jwt}]\n  exchange: {}\n  api_keys:\n{}",
            change(issuer, exchange),
            key("ann", "")
        );
        let gateway = Gateway::start(&config).await;
        let setup = Self { authority, servers: [one, two], gateway };
        let ann = Caller::new(&setup.gateway, "ann");
        setup
            .gateway
            .eventually("both servers are there", async |_| ann.tools("/mcp").await.len() == 2)
            .await;
        setup
    }

    async fn token(&self, person: &str) -> String {
        self.authority.token_of(person, &self.gateway.url("/mcp")).await
    }

    async fn call(&self, token: &str, tool: &str) -> (u16, Value) {
        self.call_with(token, tool, json!({})).await
    }

    async fn call_with(&self, token: &str, tool: &str, arguments: Value) -> (u16, Value) {
        let params = json!({"name": tool, "arguments": arguments});
        let request = self.gateway.modern_request("/mcp", "tools/call", params).bearer_auth(token);
        read(request.send().await.expect("the gateway answers")).await
    }
}

/// The token that reached a server, and its claims.
fn sent(seen: &RecordedRequest) -> (String, Value) {
    let token = seen.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let token = token.unwrap_or_else(|| panic!("no token: {seen:?}"));
    let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok()).expect("a JWT");
    (token.to_owned(), serde_json::from_slice(&claims).expect("claims"))
}

/// Nothing of the caller's own token arrived, in a header or in a body.
fn assert_unseen(token: &str, mock: &MockServer) {
    let signature = token.rsplit('.').next().expect("a JWT");
    for seen in mock.all() {
        assert!(!format!("{seen:?}").contains(signature), "the caller's own token: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_sees_a_token_of_the_caller_that_is_made_for_it() {
    let setup = ExchangeSetup::start().await;
    let alice = setup.token("alice").await;
    for (number, tool) in ["one__tool", "two__tool"].iter().enumerate() {
        let (status, answer) = setup.call(&alice, tool).await;
        assert_eq!(status, 200, "{answer}");
        let seen = setup.servers[number].calls().pop().expect("the call");
        let (token, claims) = sent(&seen);
        assert_ne!(token, alice);
        assert_eq!(
            (&claims["aud"], &claims["sub"]),
            (&json!(AUDIENCES[number]), &json!("alice")),
            "{claims}"
        );
        assert_eq!(claims["act"]["sub"], "service", "who acts for her: {claims}");
        assert_eq!(seen.headers.iter().filter(|(name, _)| name == "authorization").count(), 1, "{seen:?}");
        assert_unseen(&alice, &setup.servers[number]);
    }
    // Requests of the gateway itself carry no caller's token.
    for seen in setup.servers[0].all().iter().filter(|seen| seen.is_own_request()) {
        assert_eq!(seen.header("authorization"), None, "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_once_for_each_caller_and_server() {
    let setup = ExchangeSetup::start().await;
    let (alice, bob) = tokio::join!(setup.token("alice"), setup.token("bob"));
    let before = setup.authority.requests("token").await;
    let asked = async || setup.authority.requests("token").await - before;
    let calls = (0..12).map(|_| setup.call(&alice, "one__tool"));
    for (status, answer) in futures::future::join_all(calls).await {
        assert_eq!(status, 200, "{answer}");
    }
    assert_eq!(asked().await, 1, "for many at once");
    assert_eq!(setup.call(&setup.token("alice").await, "one__tool").await.0, 200);
    assert_eq!(asked().await, 1, "another token of the same person");
    assert_eq!(setup.call(&bob, "one__tool").await.0, 200);
    assert_eq!(asked().await, 2, "another person");
    assert_eq!(sent(&setup.servers[0].calls()[13]).1["sub"], "bob");
    assert_eq!(setup.call(&alice, "two__tool").await.0, 200);
    assert_eq!(asked().await, 3, "another server");
    assert_eq!(setup.call(&bob, "one__tool").await.0, 200);
    assert_eq!(setup.call(&alice, "one__tool").await.0, 200);
    assert_eq!(asked().await, 3, "they do not push each other out");
    assert_eq!(sent(&setup.servers[0].calls()[15]).1["sub"], "alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_its_server_refuses_is_not_used_again() {
    let setup = ExchangeSetup::start().await;
    let alice = setup.token("alice").await;
    assert_eq!(setup.call_with(&alice, "one__tool", json!({"revoke": true})).await.0, 200);
    let (status, answer) = setup.call(&alice, "one__tool").await;
    assert_eq!((status, &answer["error"]["data"]["server"]), (502, &json!("one")), "{answer}");
    setup
        .gateway
        .eventually("it has a new one", async |_| setup.call(&alice, "one__tool").await.0 == 200)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_session_is_opened_at_the_server_in_the_callers_name() {
    let setup = ExchangeSetup::start().await;
    let alice = setup.token("alice").await;
    let post = async |session: Option<&str>, body: &Value| {
        let request = setup.gateway.post("/mcp", session, body).bearer_auth(&alice);
        request.send().await.expect("the gateway answers")
    };
    let opened = post(None, &initialize(json!({}))).await;
    let session = opened.headers()["mcp-session-id"].to_str().expect("ASCII").to_owned();
    let (status, answer) = read(post(Some(&session), &legacy_call(7, "one__tool", json!({}))).await).await;
    assert_eq!(status, 200, "{answer}");
    let all = setup.servers[0].all();
    let hers = |seen: &&RecordedRequest| seen.body["params"]["clientInfo"]["name"] == "test";
    let upstream_session = all.iter().find(hers).expect("an initialize of the client's");
    assert_eq!(
        (&sent(upstream_session).1["sub"], &sent(upstream_session).1["aud"]),
        (&json!("alice"), &json!(AUDIENCES[0]))
    );
    let call = setup.servers[0].calls().pop().expect("the call");
    assert_eq!(sent(&call), sent(upstream_session));
    // All requests of the session carry her token: opening it, listening, and closing it.
    let ended = setup.gateway.http.delete(setup.gateway.url("/mcp")).bearer_auth(&alice);
    let ended = ended.header("mcp-session-id", &session).send().await.expect("the gateway answers");
    assert_eq!(ended.status().as_u16() / 100, 2);
    setup
        .gateway
        .eventually("it is left", async |_| {
            setup.servers[0]
                .all()
                .iter()
                .any(|seen| seen.http_method == "DELETE" && seen.header("authorization").is_some())
        })
        .await;
    let at = all.iter().position(|seen| hers(&seen)).expect("found before");
    let opened =
        all[at + 1..].iter().find(|seen| seen.method() == "notifications/initialized").expect("a note");
    assert_eq!(sent(opened), sent(upstream_session));
    assert_unseen(&alice, &setup.servers[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_pingora_cannot_send_goes_with_the_exchanged_token_too() {
    let setup = ExchangeSetup::start().await;
    let alice = setup.token("alice").await;
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "one__tool", "arguments": {"text": "x".repeat(300_000)},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}}}});
    let head = Head::modern("/mcp", "tools/call", Some("one__tool"))
        .with("Authorization", &format!("Bearer {alice}"));
    let mut client = Client::connect(setup.gateway.port).await;
    let answer =
        client.exchange(&head.chunked(body.to_string().as_bytes(), 60_000)).await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.message());
    let seen = setup.servers[0].calls().pop().expect("the call");
    assert_eq!(seen.body["params"]["arguments"], body["params"]["arguments"]);
    let (token, claims) = sent(&seen);
    assert_ne!(token, alice);
    assert_eq!((&claims["aud"], &claims["sub"]), (&json!(AUDIENCES[0]), &json!("alice")));
    assert_unseen(&alice, &setup.servers[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_exchange_is_told_without_secrets_and_nothing_is_sent() {
    type Change = fn(&str, Value) -> Value;
    let wrong_secret: Change = |_, mut exchange| {
        exchange["client_secret"] = json!("not-the-secret-of-service");
        exchange
    };
    let nobody_there: Change = |_, mut exchange| {
        exchange["token_endpoint"] = json!(format!("http://127.0.0.1:{}/token", free_port()));
        exchange
    };
    let no_endpoint: Change = |issuer, mut exchange| {
        exchange["token_endpoint"] = json!(format!("{issuer}/nowhere?key=also-secret"));
        exchange
    };
    for (change, why) in [
        (wrong_secret, "HTTP 401: invalid_client"),
        (nobody_there, "Connection refused"),
        (no_endpoint, "HTTP 404"),
    ] {
        let setup = ExchangeSetup::with(change).await;
        let alice = setup.token("alice").await;
        let (status, answer) = setup.call(&alice, "one__tool").await;
        assert_eq!(status, 502, "{answer}");
        assert_eq!(answer["error"]["data"], json!({"server": "one"}), "{answer}");
        let message = answer["error"]["message"].as_str().expect("a sentence");
        assert!(message.contains("`one`") && message.contains("token exchange failed"), "{message}");
        assert!(setup.servers[0].calls().is_empty());
        let output = |log: &str| log.contains("token_exchange") && log.contains(why);
        setup.gateway.eventually("the log tells why", async |g| output(&g.process.output())).await;
        let log = setup.gateway.process.output();
        let secrets = [
            SECRET,
            "not-the-secret",
            "also-secret",
            &setup.authority.issuer,
            alice.rsplit('.').next().expect("a JWT"),
        ];
        for secret in secrets {
            assert!(!answer.to_string().contains(secret), "{answer}");
        }
        for secret in [secrets[0], secrets[1], secrets[2], secrets[4]] {
            assert!(!log.contains(secret), "{log}");
        }

        // A failure is not cached, and does not affect other callers.
        assert_eq!(setup.call(&alice, "one__tool").await.0, 502);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_a_key_is_told_that_it_needs_a_token() {
    let setup = ExchangeSetup::start().await;
    let (status, answer) = Caller::new(&setup.gateway, "ann").call("one__tool", json!({})).await;
    assert_eq!(status, 403, "{answer}");
    assert_eq!(answer["error"]["data"]["server"], "one", "{answer}");
    let message = answer["error"]["message"].as_str().expect("a sentence");
    assert!(
        message.contains("`one`") && message.contains("token") && message.contains("API key"),
        "{message}"
    );
    assert!(setup.servers[0].calls().is_empty());
    assert_eq!(setup.authority.requests("token").await, 0);
}
