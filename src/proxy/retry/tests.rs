use bytes::Bytes;
use http::header::RETRY_AFTER;
use mcp::Reason;
use pingora::proxy::ProxyHttp as _;

use super::super::gateway_for_tests::{
    ONE, TWO, answer, call, call_of, call_with, client_session, context, downstream, gateway, head,
    resumption, server, told, upstream_session,
};
use super::super::response_validator::{BodyFraming, ResponseValidator};
use super::super::{FOREIGN_RESPONSE, REDIRECTED, SESSION_EXPIRED, UNSOLICITED_BYTES};
use super::*;

/// Settings that repeat what they may.
const ALL: &str = "retry: {attempts: 3, on: [connect, reset, 502, 503, 504]}";
const POST: &str = "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";

/// A server with these settings, and a call at its first endpoint.
fn called(gateway: &Gateway, settings: &[&str], idempotent: bool) -> RequestContext {
    let server =
        server(&settings.iter().filter(|one| !one.is_empty()).copied().collect::<Vec<_>>().join(", "));
    context(gateway, call_with(&server, |call| call.idempotent = idempotent))
}

/// A message of this kind at the first endpoint of a server with these settings.
fn sent(gateway: &Gateway, settings: &[&str], kind: Kind) -> RequestContext {
    let mut ctx = called(gateway, settings, false);
    let server = &ctx.request.as_ref().expect("a call").server;
    let request = match kind {
        Kind::Call => call(server),
        Kind::Answer => answer(gateway, server),
        Kind::Resume => resumption(gateway, server),
    };
    ctx.request = Some(request);
    ctx
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Call,
    Answer,
    Resume,
}

fn told_of(ctx: &RequestContext) -> bool {
    !told(&ctx.request.as_ref().expect("a call").server).1
}

/// An answer to the call has begun.
fn begin_answer(ctx: &mut RequestContext) {
    let mut head = head(200, &[("content-type", "application/json")]);
    let way = BodyFraming { certain: true, sized: false };
    let request = ctx.request.as_ref().expect("a call");
    ctx.attempt.validator = Some(
        ResponseValidator::begin(&mut head, request, None, way, std::time::Instant::now()).expect("JSON"),
    );
}

#[tokio::test]
async fn without_a_connection_any_call_goes_elsewhere_and_only_what_is_bound_stays() {
    let gateway = gateway("");
    let unreachable = UpstreamError::Unreachable("refused".into());
    // Where it can go, its policy, what it is, how often it was tried; whether it goes again.
    for (urls, policy, kind, made, again) in [
        (TWO, "", Kind::Call, 1, true),
        (TWO, "", Kind::Answer, 1, false),
        (TWO, "", Kind::Resume, 1, false),
        (TWO, "", Kind::Call, 4, true),
        (TWO, "", Kind::Call, 5, false),
        (ONE, "", Kind::Call, 1, false),
        (ONE, ALL, Kind::Call, 1, true),
        (ONE, ALL, Kind::Answer, 1, true),
        (ONE, ALL, Kind::Call, 3, false),
        (ONE, "retry: {attempts: 3, on: [reset, 503]}", Kind::Call, 1, false),
    ] {
        let mut ctx = sent(&gateway, &[urls, policy], kind);
        ctx.attempts.made = made;
        let case = format!("{urls} {policy} {kind:?} {made}");
        assert_eq!(gateway.should_retry_connect(&mut ctx, None, &unreachable), again, "{case}");
        assert_eq!(ctx.attempts.made, made + u32::from(again), "{case}");
        // The endpoint is told in any case, and passed over where there is another.
        assert_eq!(told_of(&ctx), urls == TWO, "{case}");
        assert_eq!(ctx.attempts.failed, u64::from(urls == TWO && kind == Kind::Call), "{case}");
        assert!(ctx.attempt.endpoint.is_none(), "its place is given back: {case}");
        assert!(!gateway.should_retry_connect(&mut ctx, None, &unreachable), "nothing was tried: {case}");
    }
}

#[tokio::test]
async fn another_address_of_a_name_is_the_same_endpoint_and_free_for_all() {
    let gateway = gateway("");
    let other = HttpPeer::new("127.0.0.1:9", false, String::new());
    for kind in [Kind::Call, Kind::Answer] {
        let mut ctx = sent(&gateway, &[TWO], kind);
        let error = UpstreamError::Unreachable("refused".into());
        assert!(gateway.should_retry_connect(&mut ctx, Some(&other), &error));
        assert!(!told_of(&ctx), "it has an address left");
        assert_eq!(ctx.attempts.failed, 0);
    }
    // Its only address is none that is left.
    let mut ctx = called(&gateway, &[ONE], false);
    let only =
        ctx.attempt.endpoint.as_ref().expect("an endpoint").endpoint().peer.now(false).expect("an address");
    assert!(!gateway.should_retry_connect(&mut ctx, Some(&only), &UpstreamError::Unreachable(String::new())));
}

#[tokio::test]
async fn a_status_is_retried_where_the_call_may_be_and_the_policy_names_it() {
    let gateway = gateway("");
    for (status, urls, policy, idempotent, after, again) in [
        (502, ONE, ALL, true, None, true),
        (503, ONE, ALL, true, None, true),
        (504, ONE, ALL, true, None, true),
        (503, ONE, ALL, true, Some("1"), true),
        (503, ONE, ALL, true, Some("60"), false),
        (503, TWO, ALL, true, Some("60"), true),
        (503, TWO, ALL, false, None, false),
        (503, ONE, "", true, None, false),
        (503, TWO, "", true, None, false),
        (503, TWO, "retry: {attempts: 3, on: [connect, reset, 502]}", true, None, false),
    ] {
        let mut ctx = called(&gateway, &[urls, policy], idempotent);
        let mut headers = HeaderMap::new();
        headers.extend(after.map(|after| (RETRY_AFTER, http::HeaderValue::from_static(after))));
        let case = format!("{status} {urls} {policy} {idempotent} {after:?}");
        assert_eq!(gateway.should_retry_status(&mut ctx, status, &headers), again, "{case}");
        assert_eq!(ctx.attempts.failed != 0, again && urls == TWO, "{case}");
        assert_eq!(told_of(&ctx), urls == TWO, "{case}");
        if (after, urls) == (Some("1"), ONE) {
            assert_eq!(ctx.attempts.wait, Duration::from_secs(1), "it comes when it was told to");
        }
    }
    for status in [200, 400, 404, 429, 500, 501, 505] {
        let mut ctx = called(&gateway, &[TWO, ALL], true);
        assert!(!gateway.should_retry_status(&mut ctx, status, &HeaderMap::new()), "{status}");
        assert!(!told_of(&ctx), "{status} says nothing yet");
    }
}

#[tokio::test]
async fn attempts_and_the_budget_bound_retries_and_each_is_counted() {
    let gateway = gateway("");
    let mut ctx = called(&gateway, &[ONE, ALL], true);
    let mut again = || gateway.should_retry_status(&mut ctx, 503, &HeaderMap::new());
    assert_eq!([again(), again(), again()], [true, true, false]);
    let metrics = String::from_utf8(gateway.dispatcher.metrics.text()).expect("text");
    assert!(metrics.contains(r#"toolgate_retries_total{reason="503",server="s"} 2"#), "{metrics}");
    let request = ctx.request.take().expect("a call");
    let retried = (0..100)
        .filter(|_| {
            let request = call_with(&request.server, |call| call.idempotent = true);
            gateway.should_retry_status(&mut context(&gateway, request), 503, &HeaderMap::new())
        })
        .count();
    assert_eq!(retried, 48, "the reserve of 50 retries, of which two are spent");
    // No time is left.
    let mut late = called(&gateway, &[ONE, ALL, "timeout: 10ms"], true);
    late.attempts.began = std::time::Instant::now().checked_sub(Duration::from_secs(1));
    assert!(!gateway.should_retry_status(&mut late, 503, &HeaderMap::new()));
}

#[tokio::test]
async fn a_session_stays_at_its_endpoint_whatever_that_answers() {
    let gateway = gateway("");
    let mut ctx = called(&gateway, &[TWO, ALL], true);
    ctx.attempt.upstream_session =
        Some(upstream_session(&ctx.request.as_ref().expect("a call").server, "2025-06-18"));
    assert!(gateway.should_retry_status(&mut ctx, 503, &HeaderMap::new()));
    assert_eq!(ctx.attempts.failed, 0);
}

#[tokio::test]
async fn a_broken_connection_is_retried_only_where_the_server_cannot_have_acted() {
    use ErrorType::{ConnectionClosed, H2Error, ReadTimedout, WriteTimedout};
    let gateway = gateway("");
    // What happened, on a used connection, to an idempotent call, with a policy, after an answer had begun; whether it goes
    // again, and whether the endpoint is told.
    for (etype, reused, idempotent, policy, begun, again, tells) in [
        (ConnectionClosed, false, true, ALL, false, true, true),
        (ConnectionClosed, false, false, ALL, false, false, true),
        (ConnectionClosed, false, true, "", false, false, true),
        // The server may have closed it just before the call came.
        (ConnectionClosed, true, true, "", false, true, false),
        (ConnectionClosed, true, false, ALL, false, false, false),
        (ConnectionClosed, true, true, ALL, true, false, true),
        (ConnectionClosed, false, true, ALL, true, false, true),
        (ReadTimedout, false, true, ALL, false, false, true),
        (ReadTimedout, true, true, ALL, false, false, true),
        (WriteTimedout, true, true, ALL, false, false, true),
        (H2Error, false, false, ALL, false, false, true),
    ] {
        let mut ctx = called(&gateway, &[TWO, policy], idempotent);
        if begun {
            begin_answer(&mut ctx);
        }
        let case = format!("{etype:?} {reused} {idempotent} {policy} {begun}");
        let error = Error::new_up(etype);
        assert_eq!(gateway.should_retry_reset(&mut ctx, &error, reused), again, "{case}");
        assert_eq!(told_of(&ctx), tells, "{case}");
        // One closed pooled connection is no reason to go elsewhere.
        assert_eq!(ctx.attempts.failed != 0, again && !reused, "{case}");
    }
    let early = Error::explain(ErrorType::H2Error, "cannot reserve capacity").into_up();
    let mut ctx = called(&gateway, &[TWO, ALL], false);
    assert!(!gateway.should_retry_reset(&mut ctx, &early, false));
    assert!(!told_of(&ctx), "it has answered, if too early to be heard");
}

#[tokio::test]
async fn what_is_not_the_servers_failure_or_was_answered_already_is_never_retried() {
    let gateway = gateway("");
    for error in [
        Error::new_down(ErrorType::ConnectionClosed),
        Error::new_in(ErrorType::ConnectionClosed),
        Error::new(ErrorType::ConnectionClosed),
    ] {
        let mut ctx = called(&gateway, &[TWO, ALL], true);
        assert!(!gateway.should_retry_reset(&mut ctx, &error, true), "{error}");
        assert!(!told_of(&ctx), "{error}");
    }
    let mut ctx = called(&gateway, &[TWO, ALL], true);
    ctx.refuse("upstream", Box::new(mcp::Rejection::http(502, Reason::UpstreamNonsense, "told already")));
    assert!(!gateway.should_retry_reset(&mut ctx, &Error::new_up(ErrorType::ConnectionClosed), true));
    assert!(!told_of(&ctx));
}

/// How a call ends that a server of HTTP/2 resets for this reason, or leaves by this word.
async fn reset(reason: h2::Reason, goes_away: bool) -> h2::Error {
    let (ours, theirs) = tokio::io::duplex(4096);
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(theirs).await.expect("it shakes hands");
        let (_, mut respond) = connection.accept().await.expect("a call").expect("a sound one");
        if goes_away {
            connection.abrupt_shutdown(reason);
        } else {
            respond.send_reset(reason);
        }
        while connection.accept().await.is_some() {}
    });
    let (mut calls, connection) = h2::client::handshake(ours).await.expect("it shakes hands");
    tokio::spawn(connection);
    let (answer, _) = calls.send_request(http::Request::new(()), true).expect("it is sent");
    answer.await.expect_err("it is reset")
}

#[tokio::test]
async fn what_a_server_of_http2_says_it_did_not_look_at_goes_again_whatever_it_is() {
    let gateway = gateway("");
    for (reason, goes_away, again) in [
        (h2::Reason::REFUSED_STREAM, false, true),
        (h2::Reason::CANCEL, false, false),
        (h2::Reason::INTERNAL_ERROR, false, false),
        (h2::Reason::NO_ERROR, false, false),
        (h2::Reason::PROTOCOL_ERROR, true, false),
    ] {
        let error =
            Error::because(ErrorType::H2Error, "while reading", reset(reason, goes_away).await).into_up();
        let mut ctx = called(&gateway, &[TWO], false);
        assert_eq!(gateway.should_retry_reset(&mut ctx, &error, false), again, "{error}");
    }
    for (words, stale, early) in [
        ("while creating new stream", true, false),
        ("cannot reserve capacity", false, true),
        ("while reading", false, false),
    ] {
        let error = Error::explain(ErrorType::H2Error, words);
        assert_eq!((is_stale(&error), is_early(&error)), (stale, early), "{words}");
        let error = Error::explain(ErrorType::ConnectionClosed, words);
        assert!(!is_stale(&error) && !is_early(&error), "{words}");
    }
}

#[tokio::test]
async fn a_redirection_is_followed_within_the_origin_and_not_for_ever() {
    let gateway = gateway("");
    // Where the last redirection led, and by which endpoint; how often there was one.
    let at = |path: &'static str, index| Some((index, http::Uri::from_static(path)));
    for (location, before, redirects, to) in [
        (Some("/mcp/"), None, 0, Some("/mcp/")),
        (Some("v2?a=b"), None, 0, Some("/v2?a=b")),
        (Some("http://127.0.0.1:1/x"), None, 3, Some("/x")),
        (Some("c"), at("/a/b", 0), 1, Some("/a/c")),
        (Some("c"), at("/a/b", 1), 1, Some("/c")),
        (Some("http://127.0.0.1:2/mcp"), None, 0, None),
        (Some("https://127.0.0.1:1/mcp"), None, 0, None),
        (Some("//other.example/mcp"), None, 0, None),
        (None, None, 0, None),
        (Some("/mcp/"), None, 4, None),
    ] {
        let mut ctx = called(&gateway, &[ONE], false);
        (ctx.redirect, ctx.redirects) = (before.clone(), redirects);
        let location: Vec<_> = location.into_iter().map(|to| ("location", to)).collect();
        let follows = gateway.should_follow_redirect(&mut ctx, &head(307, &location));
        let case = format!("{location:?} {before:?} {redirects}");
        assert_eq!(follows, to.is_some(), "{case}");
        assert_eq!(ctx.redirects, redirects + usize::from(follows), "{case}");
        let now = to.map(|to| (0, http::Uri::from_static(to)));
        assert_eq!(ctx.redirect, if follows { now } else { before }, "{case}");
    }
}

#[tokio::test]
async fn a_call_that_the_server_did_not_look_at_goes_once_more() {
    let gateway = gateway("");
    // The status, whether the upstream session is a new one, whether the call is tied to it; what becomes of it.
    for (status, renewed, bound, retried) in [
        (404, false, false, Some(&SESSION_EXPIRED)),
        (404, true, false, None),
        (404, false, true, None),
        (307, false, false, Some(&REDIRECTED)),
        (308, false, false, Some(&REDIRECTED)),
        (302, false, false, None),
        (503, false, false, Some(&RETRY)),
    ] {
        let (mut session, _client) = downstream(POST).await;
        let mut ctx = Box::new(called(&gateway, &[ONE, ALL], true));
        let request = ctx.request.as_mut().expect("a call");
        let upstream = upstream_session(&request.server, "2025-06-18");
        match bound {
            true => *request = resumption(&gateway, &request.server),
            false => call_of(request).session = Some(client_session(&gateway, "{}")),
        }
        (ctx.attempt.upstream_session, ctx.session_renewed) = (Some(upstream), renewed);
        let mut head = head(status, &[("location", "/mcp/"), ("content-type", "text/plain")]);
        let error = gateway.upstream_response_filter(&mut session, &mut head, &mut ctx).await;
        let error = error.expect_err("it is no answer");
        let case = format!("{status} {renewed} {bound}");
        assert_eq!(retried.is_some_and(|etype| error.etype() == etype), retried.is_some(), "{case}: {error}");
        assert_eq!(ctx.rejection.is_none(), retried.is_some(), "the client is told: {case}");
        if status == 404 {
            assert!(ctx.attempt.upstream_session.is_none(), "the upstream is given up: {case}");
        }
        let peer = HttpPeer::new("127.0.0.1:1", false, String::new());
        let error = gateway.error_while_proxy(&peer, &mut session, error, &mut ctx, false);
        assert_eq!(error.retry(), retried.is_some(), "{case}");
    }
}

#[tokio::test]
async fn nothing_goes_again_once_the_client_has_the_head_of_an_answer() {
    let gateway = gateway("");
    let peer = HttpPeer::new("127.0.0.1:1", false, String::new());
    for begun in [false, true] {
        for etype in [SESSION_EXPIRED, REDIRECTED, FOREIGN_RESPONSE, RETRY, ErrorType::ConnectionClosed] {
            let (mut session, _client) = downstream(POST).await;
            let mut ctx = Box::new(called(&gateway, &[ONE, ALL], true));
            if begun {
                let head = Box::new(head(200, &[("content-length", "2")]));
                session.write_response_header(head, false).await.expect("there is room");
            }
            let error = Error::new_up(etype.clone());
            let error = gateway.error_while_proxy(&peer, &mut session, error, &mut ctx, true);
            assert_eq!(error.retry(), !begun, "{etype:?}");
        }
    }
    // What lay on the connection was found before anything was sent on it: the call takes another, whatever it is.
    let (mut session, _client) = downstream(POST).await;
    let mut ctx = Box::new(called(&gateway, &[ONE], false));
    let error =
        gateway.error_while_proxy(&peer, &mut session, Error::new_up(UNSOLICITED_BYTES), &mut ctx, true);
    assert!(error.retry() && ctx.fresh);
    let body = Bytes::from_static(b"{}");
    assert_eq!(*ctx.request.as_ref().expect("a call").body(), body);
}

mod next_attempt;
