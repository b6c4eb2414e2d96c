//! Headers that stay on their side: credentials, cookies and sessions, in both directions.

use serde_json::json;

use super::{HostileSetup, Trick, call, setup, text, ways};
use crate::harness::Gateway;
use crate::mock_server::{self, MockReply, MockServer, RecordedRequest, answer, http};
use crate::raw::{Answer, Client};

fn talkative(seen: &RecordedRequest) -> MockReply {
    let headers = [
        "Content-Type: application/json",
        "Set-Cookie: sid=secret; Path=/",
        "Set-Cookie: b=secret",
        "Mcp-Session-Id: secret",
        "WWW-Authenticate: Bearer realm=\"secret\"",
        "Server: secret/1.0",
        "Access-Control-Allow-Origin: *",
        "Access-Control-Allow-Credentials: true",
        "X-Request-Id: secret",
    ];
    let result = json!({"content": [{"type": "text", "text": "done"}], "resultType": "complete"});
    MockReply::Say(http("200 OK", &headers, &answer(seen, &result)))
}

/// Calls a tool on both paths, with all headers that a client could send.
async fn calls(port: u16, tool: &str, session: Option<&str>) -> Vec<Answer> {
    let (head, body) = call(tool, session);
    let head = head
        .with("Authorization", "Bearer mine")
        .with("Cookie", "mine=1")
        .with("Proxy-Authorization", "Basic mine")
        .with("X-Api-Key", "mine")
        .with("X-Forwarded-For", "10.9.8.7")
        .with("Last-Event-ID", "mine");
    let mut answers = Vec::new();
    for request in ways(&(head, body)) {
        let answer = Client::connect(port).await.exchange(&request).await.expect("an answer");
        assert_eq!(text(&answer), "done", "{} {}", answer.status, answer.message());
        answers.push(answer);
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_to_the_gateway_alone_stays_there() {
    let HostileSetup { gateway, bad: _bad, _good } = setup(vec![("talks", talkative)], "").await;
    let session = gateway.initialize("/mcp").await;
    for session in [None, Some(session.as_str())] {
        for answer in calls(gateway.port, "bad__talks", session).await {
            let leak = answer.headers.iter().find(|(name, value)| {
                value.contains("secret") || name == "set-cookie" || name.starts_with("access-control")
            });
            assert_eq!(leak, None, "of {:?}", answer.headers);
        }
    }
}

/// A head with this many additional lines, of this many bytes each.
fn crowded(seen: &RecordedRequest, lines: usize, bytes: usize) -> MockReply {
    let MockReply::Say(answer) = talkative(seen) else { unreachable!("it answers") };
    let answer = String::from_utf8(answer).expect("UTF-8");
    let more: String = (0..lines).map(|n| format!("X-More-{n}: {}\r\n", "y".repeat(bytes))).collect();
    MockReply::Say(answer.replacen("\r\n", &format!("\r\n{more}"), 1).into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_may_have_many_lines_and_not_too_many_bytes() {
    let tricks: Vec<Trick> = vec![
        ("lines_150", |seen| crowded(seen, 150, 10)),
        ("bytes_60k", |seen| crowded(seen, 6, 10_000)),
        ("lines_300", |seen| crowded(seen, 300, 10)),
        ("bytes_800k", |seen| crowded(seen, 100, 8_000)),
        ("bytes_3m", |seen| crowded(seen, 100, 30_000)),
    ];
    let HostileSetup { gateway, bad: _bad, _good } = setup(tricks.clone(), "").await;
    for (name, _) in tricks {
        for request in ways(&call(&format!("bad__{name}"), None)) {
            let answer = Client::connect(gateway.port).await.exchange(&request).await.expect("an answer");
            if matches!(name, "lines_150" | "bytes_60k") {
                assert_eq!(text(&answer), "done", "{name}: {} {}", answer.status, answer.message());
                continue;
            }
            let message = answer.message()["error"]["message"].as_str().unwrap_or_default().to_owned();
            assert_eq!(answer.status, 502, "{name}: {message}");
            assert!(message.contains("`bad`") && message.contains("head"), "{name}: {message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_heads_have_more_than_a_hundred_lines_connects() {
    let many = MockServer::start(|seen| {
        let answer = String::from_utf8(mock_server::good(seen)).expect("UTF-8");
        let more: String = (0..150).map(|n| format!("X-More-{n}: y\r\n")).collect();
        MockReply::Say(answer.replacen("\r\n", &format!("\r\n{more}"), 1).into_bytes())
    })
    .await;
    let gateway = Gateway::start(&format!("mcpServers: {{bad: {{url: \"{}\"}}}}\n", many.url)).await;
    gateway.eventually("it is connected", async |g| g.get("/health").await.contains("\"connected\":1")).await;
    assert_eq!(text(&super::ask(&gateway, "bad__tool", None).await.expect("an answer")), "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_credentials_reach_only_servers_that_are_trusted_with_them() {
    for (settings, expected) in [
        ("", None),
        (", credentials: passthrough", Some("Bearer mine")),
        (", headers: {Authorization: Bearer ours}", Some("Bearer ours")),
    ] {
        let HostileSetup { gateway, bad, _good } = setup(vec![("x", |_| MockReply::Good)], settings).await;
        let session = gateway.initialize("/mcp").await;
        for session in [None, Some(session.as_str())] {
            calls(gateway.port, "bad__tool", session).await;
        }
        let seen = bad.calls();
        assert_eq!(seen.len(), 4, "with {settings:?}: {seen:?}");
        for seen in seen {
            assert_eq!(seen.header("authorization"), expected, "with {settings:?}: {seen:?}");
            let mine =
                seen.headers.iter().find(|(name, value)| name != "authorization" && value.contains("mine"));
            assert_eq!((mine, seen.header("x-forwarded-for")), (None, None), "with {settings:?}");
            let session = seen.header("mcp-session-id");
            assert!(session.is_none_or(|id| id == "theirs"), "the client's own session: {session:?}");
        }
    }
}
