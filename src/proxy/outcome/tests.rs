use mcp::Reason;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use super::super::gateway_for_tests::{TWO, call_with, context, downstream, gateway, head, server, told};
use super::super::response_validator::{BodyFraming, ResponseValidator};
use super::*;
use crate::server::Server;

fn called(gateway: &Gateway, idempotent: bool) -> RequestContext {
    context(gateway, call_with(&server(TWO), |call| call.idempotent = idempotent))
}

fn server_of(ctx: &RequestContext) -> &Arc<Server> {
    &ctx.request.as_ref().expect("a call").server
}

fn doubted(ctx: &RequestContext) -> bool {
    ctx.attempt.endpoint.as_ref().expect("an endpoint").endpoint().peer.is_doubtful()
}

/// What the client is told, and what is counted.
fn says(ctx: &RequestContext) -> Option<(&'static str, u16, &'static str, Outcome)> {
    let (filter, rejection) = ctx.rejection.as_ref()?;
    Some((*filter, rejection.status, rejection.reason.as_str(), ctx.outcome.expect("an outcome")))
}

/// An answer with this content type begins to come.
fn begin(ctx: &mut RequestContext, kind: &str) {
    let way = BodyFraming { certain: !ctx.attempt.reused, sized: false };
    let request = ctx.request.as_ref().expect("a call");
    let mut head = head(200, &[("content-type", kind)]);
    let watch = ResponseValidator::begin(&mut head, request, None, way, Instant::now());
    ctx.attempt.validator = Some(watch.expect("it is MCP"));
}

/// An answer to this very call.
fn answer(ctx: &RequestContext, rest: &str) -> Bytes {
    let id = ctx.request.as_ref().and_then(UpstreamRequest::as_call).expect("a call").sent.wire;
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{},{rest}}}"#, id.as_str()))
}

#[tokio::test]
async fn each_failure_has_a_status_a_reason_and_those_who_are_told_of_it() {
    use UpstreamError as E;
    let gateway = gateway("");
    let second = Duration::from_secs(1);
    let text = String::new;
    // Whether the circuit opens, whether the endpoint is left out.
    for (error, status, reason, fault) in [
        (E::Unreachable(text()), 502, "upstream_unreachable", true),
        (E::ConnectionReset(text()), 502, "upstream_nonsense", true),
        (E::TimedOut(second), 504, "upstream_timeout", true),
        (E::InvalidResponse(text()), 502, "upstream_nonsense", true),
        (E::RetryLater(503, None), 503, "upstream_unavailable", true),
        (E::Redirected(302, text()), 502, "upstream_redirects", true),
        // These say something of the call, its caller or the gateway, and nothing of the server.
        (E::ClientCaused(text()), 502, "upstream_nonsense", false),
        (E::UnexpectedServer, 502, "upstream_nonsense", false),
        (E::Nameless, 502, "upstream_nonsense", false),
        (E::TooLarge(1), 502, "upstream_too_large", false),
        (E::Credentials(401), 502, "upstream_credentials", false),
        (E::Denied(403, text()), 502, "upstream_credentials", false),
        (E::RetryLater(429, None), 429, "upstream_unavailable", false),
        (E::SessionExpired, 502, "upstream_session", false),
        (E::SessionClosed, 404, "no_session", false),
        (E::Stopping, 503, "stopping", false),
        (E::Exhausted(text()), 503, "descriptors", false),
        (E::Blocked(text()), 403, "result_blocked", false),
    ] {
        let mut ctx = called(&gateway, false);
        let made = fail(&mut ctx, &error);
        assert!(matches!(made.esource(), ErrorSource::Upstream) && !made.retry(), "{error:?}");
        let outcome = if status >= 502 { Outcome::Failed } else { Outcome::Refused };
        assert_eq!(says(&ctx), Some(("upstream", status, reason, outcome)), "{error:?}");
        assert_eq!(told(server_of(&ctx)), (fault, !fault), "{error:?}");
    }
}

#[tokio::test]
async fn the_first_word_counts_for_the_client_and_for_the_server() {
    let gateway = gateway("");
    let mut ctx = called(&gateway, false);
    let wait = Duration::from_secs(7);
    drop(fail(&mut ctx, &UpstreamError::RetryLater(429, Some(wait))));
    drop(fail(&mut ctx, &UpstreamError::InvalidResponse("later".into())));
    assert_eq!(says(&ctx), Some(("upstream", 429, "upstream_unavailable", Outcome::Refused)));
    assert_eq!(ctx.rejection.as_ref().and_then(|(_, rejection)| rejection.retry_after), Some(wait));
    let mut ctx = called(&gateway, false);
    let request = ctx.request.take().expect("a call");
    report_to_upstream(&request, &mut ctx.attempt.endpoint, None);
    report_to_upstream(
        &request,
        &mut ctx.attempt.endpoint,
        Some(&UpstreamError::InvalidResponse("later".into())),
    );
    assert_eq!(told(&request.server), (false, true), "it has worked");
}

#[tokio::test]
async fn a_server_is_in_doubt_only_where_its_words_may_have_been_for_another() {
    use UpstreamError as E;
    let gateway = gateway("");
    for (error, reused, first_party, doubt) in [
        (E::Nameless, false, true, true),
        (E::Denied(403, String::new()), true, false, true),
        (E::Redirected(302, String::new()), true, false, true),
        (E::Denied(403, String::new()), false, false, false),
        (E::Denied(403, String::new()), true, true, false),
        (E::UnexpectedServer, true, false, false),
        (E::InvalidResponse(String::new()), true, false, false),
    ] {
        let mut ctx = called(&gateway, false);
        (ctx.attempt.reused, ctx.attempt.first_party) = (reused, first_party);
        drop(fail(&mut ctx, &error));
        assert_eq!(doubted(&ctx), doubt, "{error:?} {reused} {first_party}");
    }
}

#[tokio::test]
async fn an_error_of_pingora_is_the_clients_the_servers_or_the_gateways() {
    use ErrorType::{
        ConnectionClosed, H2Error, InternalError, InvalidHTTPHeader, ReadTimedout, WriteError, WriteTimedout,
    };
    let gateway = gateway("");
    let (up, ours) = (ErrorSource::Upstream, ErrorSource::Internal);
    let (down, unset) = (ErrorSource::Downstream, ErrorSource::Unset);
    let (silent, broken) = (Some((504, "upstream_timeout")), Some((502, "upstream_nonsense")));
    let internal = Some((500, "internal"));
    // Of whom, what, with which words; what the client is told, if it is still there, and whether it is the server's fault.
    for (source, etype, words, told_client, fault) in [
        (&down, ReadTimedout, "", None, false),
        (&down, InternalError, "", None, false),
        (&up, ReadTimedout, "", silent, true),
        (&up, WriteTimedout, "", silent, true),
        (&up, ConnectionClosed, "", broken, true),
        (&up, H2Error, "while reading", broken, true),
        (&up, H2Error, "cannot reserve capacity", broken, false),
        (&up, InvalidHTTPHeader, "header larger than 1 MiB", broken, true),
        (&up, h2_response_head::EMPTY, "", broken, true),
        // It was flushing to the client.
        (&unset, WriteError, "", None, false),
        (&unset, WriteTimedout, "", None, false),
        (&unset, H2Error, "", None, false),
        (&unset, ReadTimedout, "", internal, false),
        (&ours, WriteError, "", internal, false),
    ] {
        let mut ctx = called(&gateway, false);
        let mut error = Error::explain(etype, words.to_owned());
        error.esource = source.clone();
        let left = gateway.classify_error(&mut ctx, &error);
        let told_now =
            ctx.rejection.as_ref().map(|(_, rejection)| (rejection.status, rejection.reason.as_str()));
        assert_eq!(told_now, told_client, "{error}");
        let left = left.err().map(|left| (left.error_code, left.can_reuse_downstream));
        assert_eq!(left, told_client.is_none().then_some((499, false)), "{error}");
        assert_eq!(ctx.outcome == Some(Outcome::ClientAborted), told_client.is_none(), "{error}");
        assert_eq!(told(server_of(&ctx)).0, fault, "{error}");
    }
}

#[tokio::test]
async fn what_the_client_was_to_be_told_stays_whatever_pingora_makes_of_it() {
    let gateway = gateway("");
    for source in [ErrorSource::Upstream, ErrorSource::Unset, ErrorSource::Internal] {
        let mut ctx = called(&gateway, false);
        let mut error = fail(&mut ctx, &UpstreamError::TooLarge(1));
        error.esource = source;
        assert!(gateway.classify_error(&mut ctx, &error).is_ok());
        assert_eq!(says(&ctx), Some(("upstream", 502, "upstream_too_large", Outcome::Failed)));
        // But its own leaving comes before.
        error.esource = ErrorSource::Downstream;
        assert!(gateway.classify_error(&mut ctx, &error).is_err());
        assert_eq!(ctx.outcome, Some(Outcome::ClientAborted));
    }
}

#[tokio::test]
async fn a_head_that_is_too_long_is_told_from_one_that_is_broken() {
    for (words, cause, long) in [
        ("header larger than 1048576", None, true),
        ("while reading", Some("too many headers"), true),
        ("while reading", Some("invalid header name"), false),
        ("", None, false),
    ] {
        let mut error = Error::explain(ErrorType::InvalidHTTPHeader, words);
        if let Some(cause) = cause {
            error.set_cause(cause);
        }
        assert_eq!(is_too_long(&error), long, "{words} {cause:?}");
    }
    let gateway = gateway("");
    let mut ctx = called(&gateway, false);
    let error = Error::explain(ErrorType::InvalidHTTPHeader, "header larger than 1048576").into_up();
    assert!(gateway.classify_error(&mut ctx, &error).is_ok());
    let message = &ctx.rejection.as_ref().expect("it is refused").1.message;
    assert!(message.contains("head"), "{message}");
}

#[tokio::test]
async fn an_answer_to_another_goes_again_only_where_nothing_was_done_with_it() {
    let gateway = gateway("");
    // The client has nothing yet, the call may be sent twice, the connection was used, and is not one of its own.
    for (untouched, idempotent, reused, fresh, again) in [
        (true, true, true, false, true),
        (false, true, true, false, false),
        (true, false, true, false, false),
        (true, true, false, false, false),
        (true, true, true, true, false),
    ] {
        for (body, doubt) in [
            (r#"{"jsonrpc":"2.0","id":"other","result":{}}"#, false),
            (r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"x"}}"#, true),
        ] {
            let mut ctx = called(&gateway, idempotent);
            (ctx.attempt.reused, ctx.fresh) = (reused, fresh);
            begin(&mut ctx, "application/json");
            let passed = filter_body(&mut ctx, Some(Bytes::from(body)), true, untouched);
            let case = format!("{untouched} {idempotent} {reused} {fresh} {body}");
            if doubt && !reused {
                // On a connection that nobody has used it can be nobody else's.
                assert!(passed.is_ok() && ctx.outcome == Some(Outcome::Error), "{case}");
                continue;
            }
            let error = passed.expect_err("it is not passed on");
            assert_eq!(*error.etype() == FOREIGN_RESPONSE, again, "{case}");
            assert_eq!((ctx.fresh, ctx.attempt.validator.is_none()), (again || fresh, again), "{case}");
            let refused = Some(("upstream", 502, "upstream_nonsense", Outcome::Failed)).filter(|_| !again);
            assert_eq!(says(&ctx), refused, "{case}");
            assert_eq!(doubted(&ctx), doubt, "{case}");
            assert_eq!(told(server_of(&ctx)), (false, true), "{case}");
        }
    }
}

#[tokio::test]
async fn what_an_answer_says_is_the_outcome_and_the_first_message_of_a_stream_shows_that_the_server_works() {
    let gateway = gateway("");
    let mut ctx = called(&gateway, false);
    begin(&mut ctx, "application/json");
    let error = answer(&ctx, r#""error":{"code":1,"message":"x"}"#);
    let passed = filter_body(&mut ctx, Some(error), true, true).expect("it passes").expect("a body");
    assert!(passed.starts_with(br#"{"jsonrpc":"2.0","id":"mine","error""#), "{passed:?}");
    assert_eq!(ctx.outcome, Some(Outcome::Error));

    for (event, tells) in [(": comment\n\n".to_owned(), false), (String::new(), true)] {
        let mut ctx = called(&gateway, false);
        begin(&mut ctx, "text/event-stream");
        let event = match event.is_empty() {
            true => {
                Bytes::from(format!("data: {}\n\n", String::from_utf8_lossy(&answer(&ctx, r#""result":{}"#))))
            }
            false => event.into(),
        };
        filter_body(&mut ctx, Some(event), false, true).expect("it passes");
        // Whoever has had an answer of it is told of no later failure.
        drop(fail(&mut ctx, &UpstreamError::InvalidResponse("broken".into())));
        assert_eq!(told(server_of(&ctx)), (!tells, tells));
    }
    // Without a watch all passes: the answer is not one of MCP's.
    let mut ctx = called(&gateway, false);
    let piece = Some(Bytes::from_static(b"x"));
    assert_eq!(filter_body(&mut ctx, piece.clone(), true, true).expect("it passes"), piece);
}

#[tokio::test]
async fn an_answer_that_is_held_must_be_whole_in_the_time_of_the_call_and_a_stream_need_not() {
    let gateway = gateway("");
    for (kind, refused) in [("application/json", true), ("text/event-stream", false)] {
        let mut ctx = called(&gateway, false);
        begin(&mut ctx, kind);
        ctx.attempt.waited = server_of(&ctx).timeout + Duration::from_secs(1);
        let passed = filter_body(&mut ctx, Some(Bytes::from_static(b" ")), false, true);
        assert_eq!(passed.is_err(), refused, "{kind}");
        let silent = ("upstream", 504, "upstream_timeout", Outcome::Failed);
        assert_eq!(says(&ctx), refused.then_some(silent), "{kind}");
    }
}

#[tokio::test]
async fn after_an_error_without_an_id_the_connection_ends() {
    let gateway = gateway("");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    for (nameless, ends) in [(true, true), (false, false)] {
        let ours = TcpStream::connect(listener.local_addr().expect("an address")).expect("it listens");
        let (mut theirs, _) = listener.accept().expect("it came");
        let mut ctx = called(&gateway, false);
        ctx.attempt.socket = Some(ours.as_raw_fd());
        begin(&mut ctx, "application/json");
        let body = match nameless {
            true => Bytes::from_static(br#"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}"#),
            false => answer(&ctx, r#""error":{"code":1,"message":"x"}"#),
        };
        filter_body(&mut ctx, Some(body), true, true).expect("it passes");
        theirs.set_nonblocking(true).expect("a socket");
        assert_eq!(theirs.read(&mut [0; 1]).ok(), ends.then_some(0), "{nameless}");
    }
}

#[tokio::test]
async fn a_request_is_counted_by_its_method_its_outcome_and_who_refused_it() {
    let gateway = gateway("");
    let (session, _client) = downstream("GET /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut ctx = called(&gateway, false);
    ctx.sent_at = Some(Instant::now());
    gateway.record(&session, &ctx, Outcome::Ok);
    ctx.labels.method = "tools/list";
    ctx.refuse("rbac", Box::new(Rejection::http(403, Reason::RuleDenied, "no")));
    gateway.record(&session, &ctx, Outcome::Refused);
    let metrics = String::from_utf8(gateway.dispatcher.metrics.text()).expect("text");
    for line in [
        r#"toolgate_requests_total{method="_none",outcome="ok"#,
        r#"toolgate_requests_total{method="tools/list",outcome="refused"#,
        r#"toolgate_filter_rejections_total{filter="rbac",reason="rule_denied"} 1"#,
        r#"toolgate_upstream_seconds_count{server="s"} 2"#,
        "toolgate_request_seconds_count 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}
