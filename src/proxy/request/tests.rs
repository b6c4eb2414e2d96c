use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::gateway_for_tests::{downstream, gateway};
use super::*;

/// What becomes of a request: what the client gets, and what is known of it then.
async fn handled(gateway: &Gateway, request: &str) -> (String, Box<RequestContext>, bool) {
    let (mut session, mut client) = downstream(request).await;
    let snapshot = gateway.dispatcher.registry.snapshot();
    let mut ctx = Box::new(RequestContext::new(snapshot, gateway.state.begin_request()));
    client.shutdown().await.expect("it is open");
    let next = gateway.handle_request(&mut session, &mut ctx).await.expect("the client is there");
    drop(session);
    let mut got = String::new();
    client.read_to_string(&mut got).await.expect("text");
    (got, ctx, next.is_some())
}

/// Who refuses a request, with which status and reason, and whether the connection is used again.
async fn refused(gateway: &Gateway, request: &str) -> Option<(&'static str, u16, &'static str, bool)> {
    let (got, ctx, goes_on) = handled(gateway, request).await;
    let (filter, rejection) = ctx.rejection.as_ref()?;
    assert!(!goes_on && got.starts_with(&format!("HTTP/1.1 {} ", rejection.status)), "{got}");
    assert_eq!(ctx.outcome, Some(Outcome::Refused));
    Some((*filter, rejection.status, rejection.reason.as_str(), rejection.close))
}

/// A request with these further lines in its head.
fn asks(line: &str, lines: &str, body: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n{body}")
}

/// A message in a POST.
fn post(lines: &str, body: &str) -> String {
    let length = format!("Content-Type: application/json\r\nContent-Length: {}\r\n{lines}", body.len());
    asks("POST /mcp", &length, body)
}

async fn ready() -> Gateway {
    let gateway = gateway("");
    gateway.dispatcher.registry.settled(Duration::from_secs(5), Duration::from_secs(5)).await;
    gateway
}

#[tokio::test]
async fn a_method_or_path_that_is_not_served_is_refused_by_name() {
    let gateway = ready().await;
    for (line, status, reason) in [
        ("PUT /mcp", 405, "verb"),
        ("PATCH /mcp", 405, "verb"),
        ("HEAD /mcp", 405, "verb"),
        ("PUT /servers/demo/mcp", 405, "verb"),
        ("POST /", 404, "no_endpoint"),
        ("GET /mcp/x", 404, "no_endpoint"),
        ("POST /servers/other/mcp", 404, "no_endpoint"),
        ("PUT /servers/other/mcp", 404, "no_endpoint"),
        // That is for the listener of operators.
        ("GET /metrics", 404, "no_endpoint"),
    ] {
        let outcome =
            refused(&gateway, &asks(line, "Content-Type: application/json\r\nContent-Length: 0\r\n", ""))
                .await;
        assert_eq!(outcome, Some(("request_head", status, reason, false)), "{line}");
    }
}

#[tokio::test]
async fn what_two_readers_could_take_for_two_requests_is_refused_and_its_connection_closed() {
    let gateway = ready().await;
    for (lines, reason) in [
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "length_and_encoding"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "length_and_encoding"),
        ("Transfer-Encoding: gzip, chunked\r\n", "transfer_encoding"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "transfer_encoding"),
    ] {
        let outcome = refused(&gateway, &asks("POST /mcp", lines, "0\r\n\r\n")).await;
        assert_eq!(outcome, Some(("request_head", 400, reason, true)), "{lines}");
    }
    let chunked = asks(
        "POST /mcp",
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n",
        "nonsense\r\n\r\n",
    );
    assert_eq!(refused(&gateway, &chunked).await, Some(("size", 400, "body_broken", true)));
    let long = asks(&format!("POST /{}", "x".repeat(40_000)), "", "");
    assert_eq!(refused(&gateway, &long).await, Some(("request_head", 414, "target_too_long", true)));
}

#[tokio::test]
async fn a_body_is_refused_by_its_length_alone_and_where_none_belongs() {
    let gateway = ready().await;
    let long = asks("POST /mcp", "Content-Length: 99999999999\r\n", "");
    assert_eq!(refused(&gateway, &long).await, Some(("size", 413, "body_too_large", true)));
    for line in ["GET /mcp", "DELETE /mcp"] {
        let outcome = refused(&gateway, &asks(line, "Content-Length: 2\r\n", "{}")).await;
        assert_eq!(outcome, Some(("request_head", 400, "body_unwanted", true)), "{line}");
    }
}

#[tokio::test]
async fn a_legacy_message_names_its_session_once_and_one_that_is_its_callers() {
    let gateway = ready().await;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let twice = "Mcp-Session-Id: a\r\nMcp-Session-Id: a\r\n";
    for (lines, status, reason) in [
        ("", 400, "session_missing"),
        (twice, 400, "header_doubled"),
        ("Mcp-Session-Id: unknown\r\n", 404, "no_session"),
    ] {
        for request in [post(lines, ping), asks("GET /mcp", lines, ""), asks("DELETE /mcp", lines, "")] {
            let outcome = refused(&gateway, &request).await;
            assert_eq!(outcome, Some(("session", status, reason, false)), "{request}");
        }
    }
    // The modern era has neither sessions nor what is done with them.
    let lines = format!("Mcp-Protocol-Version: {}\r\n", mcp::version::NEWEST_MODERN);
    for line in ["GET /mcp", "DELETE /mcp"] {
        let outcome = refused(&gateway, &asks(line, &lines, "")).await;
        assert_eq!(outcome, Some(("session", 405, "verb", false)), "{line}");
    }
}

#[tokio::test]
async fn a_session_lasts_from_initialize_to_delete_on_the_path_where_it_was_opened() {
    let gateway = ready().await;
    let initialize = r#"{"jsonrpc":"2.0","id":"a","method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;
    let (got, ctx, _) = handled(&gateway, &post("", initialize)).await;
    assert!(got.starts_with("HTTP/1.1 200 ") && got.contains(r#""id":"a""#), "{got}");
    assert_eq!((ctx.labels.method, ctx.received), ("initialize", initialize.len()));
    let mut lines = got.lines().filter_map(|line| line.split_once(": "));
    let id = lines.find(|(name, _)| name.eq_ignore_ascii_case("mcp-session-id")).expect("a session").1;
    let session = format!("Mcp-Session-Id: {id}\r\n");
    let ping = r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#;
    let (got, ..) = handled(&gateway, &post(&session, ping)).await;
    assert!(got.ends_with(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#), "{got}");
    let elsewhere = post(&session, ping).replace("/mcp", "/servers/demo/mcp");
    let no_session = Some(("session", 404, "no_session", false));
    assert_eq!(refused(&gateway, &elsewhere).await, no_session);
    let (got, _, streams) = handled(&gateway, &asks("GET /mcp", &session, "")).await;
    assert!(streams && got.is_empty(), "a stream begins: {got}");
    let (got, ctx, _) = handled(&gateway, &asks("DELETE /mcp", &session, "")).await;
    assert!(got.starts_with("HTTP/1.1 204 "), "{got}");
    assert_eq!(ctx.labels.method, "_delete");
    assert_eq!(refused(&gateway, &post(&session, ping)).await, no_session);
}

#[tokio::test]
async fn a_stranger_is_refused_by_the_head_alone_and_a_browser_may_ask_first() {
    let gateway = ready().await;
    // Its body never comes.
    let length = "Content-Type: application/json\r\nContent-Length: 9\r\n";
    let page = asks("POST /mcp", &format!("Origin: https://evil.example\r\n{length}"), "");
    let host = asks("POST /mcp", length, "").replace("localhost", "evil.example");
    for request in [page, host] {
        let (filter, status, ..) = refused(&gateway, &request).await.expect("it is refused");
        assert_eq!((filter, status / 100), ("origin", 4), "{request}");
    }
    let preflight = "Origin: http://localhost\r\nAccess-Control-Request-Method: POST\r\n";
    for line in ["OPTIONS /mcp", "OPTIONS /nowhere"] {
        let (got, ctx, _) = handled(&gateway, &asks(line, preflight, "")).await;
        assert!(got.starts_with("HTTP/1.1 204 ") && ctx.labels.method == "_preflight", "{line}: {got}");
    }
}
