use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::Gateway;
use super::super::gateway_for_tests::{
    answer, call, call_with, client_session, context, downstream, gateway, head, server, told,
};
use super::*;

const BOTH: &str = "POST /mcp HTTP/1.1\r\nHost: x\r\nAccept: application/json, text/event-stream\r\nContent-Length: 0\r\n\r\n";
const ONLY_JSON: &str =
    "POST /mcp HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\nContent-Length: 0\r\n\r\n";
const ONLY_EVENTS: &str =
    "POST /mcp HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nContent-Length: 0\r\n\r\n";
const ANSWER: &str = r#"{"jsonrpc":"2.0","id":$ID,"result":{}}"#;
const MINE: &str = r#"{"jsonrpc":"2.0","id":"mine","result":{}}"#;
const NOTE: &str = r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":1}}"#;

/// A server on a port of its own, and a call to it.
async fn upstream() -> (TcpListener, UpstreamRequest) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    (listener, call(&server(&format!("url: \"http://{at}/mcp\""))))
}

/// The next call that comes, with its head and body.
async fn next_call(listener: &TcpListener) -> (TcpStream, String) {
    let (mut stream, _) = listener.accept().await.expect("a connection");
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\n{}") {
        assert_ne!(stream.read_buf(&mut got).await.expect("a call"), 0);
    }
    (stream, String::from_utf8(got).expect("text"))
}

/// An answer with this content type.
fn written(kind: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// What the client gets of what the server answers: status, content type and body, and what is known of the call then.
async fn relayed(
    gateway: &Gateway,
    asks: &str,
    answer: impl FnOnce(&str) -> String,
) -> ((u16, String, String), RequestContext) {
    let (listener, request) = upstream().await;
    let answer = answer(request.as_call().expect("a call").sent.wire.as_str());
    tokio::spawn(async move {
        let (mut stream, _) = next_call(&listener).await;
        stream.write_all(answer.as_bytes()).await.expect("it is taken");
    });
    let (mut session, mut client) = downstream(asks).await;
    let mut ctx = context(gateway, call(&request.server));
    ctx.attempt.endpoint = None;
    relay(&mut session, &mut ctx, request, &gateway.dispatcher).await.expect("the client is there");
    drop(session);
    let mut got = String::new();
    client.read_to_string(&mut got).await.expect("text");
    let (head, body) = got.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let kind = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-type")).map(|(_, kind)| kind);
    ((status, kind.collect(), unchunked(body)), ctx)
}

/// A body without its chunks, if it came in some.
fn unchunked(body: &str) -> String {
    let (mut out, mut rest) = (String::new(), body);
    while let Some((size, more)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size, 16) else { return body.to_owned() };
        out.push_str(&more[..size]);
        rest = more[size..].trim_start_matches("\r\n");
    }
    if out.is_empty() { body.to_owned() } else { out }
}

#[tokio::test]
async fn a_client_gets_the_answer_in_a_form_that_it_takes_under_its_own_id() {
    let gateway = gateway("");
    let event = |message: &str| format!("data: {message}\n\n");
    let stream = event(NOTE) + &event(ANSWER);
    let (json, events) = ("application/json", "text/event-stream");
    for (asks, came, body, goes, out) in [
        (BOTH, json, ANSWER, json, MINE.to_owned()),
        (BOTH, events, &*stream, events, event(NOTE) + &event(MINE)),
        (ONLY_JSON, json, ANSWER, json, MINE.to_owned()),
        (ONLY_JSON, events, &stream, json, MINE.to_owned()),
        (ONLY_EVENTS, json, ANSWER, events, format!("event: message\ndata: {MINE}\n\n")),
    ] {
        let (got, ctx) = relayed(&gateway, asks, |id| written(came, &body.replace("$ID", id))).await;
        assert_eq!(got, (200, goes.to_owned(), out), "{asks} {came}");
        assert_eq!(ctx.outcome, Some(Outcome::Ok));
        assert!(ctx.attempt.validator.as_ref().is_some_and(ResponseValidator::is_answered));
        assert!(ctx.request.is_some(), "the call is known to the log");
    }
}

#[tokio::test]
async fn what_is_no_answer_becomes_an_error_while_it_still_can() {
    let gateway = gateway("");
    let error = r#"{"jsonrpc":"2.0","id":$ID,"error":{"code":1,"message":"x"}}"#;
    // What comes, and how much of it does not; the status, a word of what the client is told, the outcome, and whether it is the server's fault.
    let stream = format!("data: {NOTE}\n\ndata: {}\n\n", ANSWER.replace("$ID", "1"));
    let (json, events) = ("application/json", "text/event-stream");
    for (kind, answer, missing, status, word, outcome, fault) in [
        (json, &*ANSWER.replace("$ID", "1"), 0, 502, "another request", Outcome::Failed, false),
        (json, "{}", 0, 502, "not MCP", Outcome::Failed, true),
        (json, "{", 50, 502, "not MCP", Outcome::Failed, true),
        ("text/html", "x", 0, 502, "not MCP", Outcome::Failed, true),
        (json, error, 0, 200, r#""id":"mine","error""#, Outcome::Error, false),
        // A stream has begun: the error is its last event.
        (events, &stream, 0, 200, "another request", Outcome::Failed, false),
    ] {
        let whole = |id: &str| {
            let body = answer.replace("$ID", id);
            let length = body.len() + missing;
            format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        let ((got, _, body), ctx) = relayed(&gateway, BOTH, whole).await;
        assert_eq!(got, status, "{answer}");
        assert!(body.contains(word), "{answer}: {body}");
        assert_eq!(ctx.outcome, Some(outcome), "{answer}");
        assert_eq!(told(&ctx.request.as_ref().expect("a call").server).0, fault, "{answer}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_of_as_such() {
    let gateway = gateway("");
    let (listener, request) = upstream().await;
    drop(listener);
    let (mut session, _client) = downstream(BOTH).await;
    let mut ctx = context(&gateway, call(&request.server));
    relay(&mut session, &mut ctx, request, &gateway.dispatcher).await.expect("the client is there");
    let rejection = &ctx.rejection.as_ref().expect("it is refused").1;
    assert_eq!((rejection.status, rejection.reason.as_str()), (502, "upstream_unreachable"));
    assert!(told(&ctx.request.as_ref().expect("a call").server).0);
}

#[tokio::test]
async fn when_the_client_leaves_its_call_ends_and_says_nothing_of_the_server() {
    let gateway = gateway("");
    // Before the answer begins, and in the midst of it.
    for begun in [false, true] {
        let (listener, request) = upstream().await;
        let (mut session, mut client) = downstream(BOTH).await;
        let mut ctx = context(&gateway, call(&request.server));
        ctx.attempt.endpoint = None;
        let serve = async {
            let (mut stream, _) = next_call(&listener).await;
            if begun {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
                stream.write_all(format!("{head}: hello\n\n").as_bytes()).await.expect("it is taken");
                let mut got = Vec::new();
                while !got.ends_with(b"\n\n\r\n") {
                    client.read_buf(&mut got).await.expect("it comes");
                }
            }
            drop(client);
            // The server learns it by the end of its connection.
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            rest
        };
        let (left, rest) = tokio::join!(relay(&mut session, &mut ctx, request, &gateway.dispatcher), serve);
        let error = left.expect_err("nobody is there");
        assert!(matches!(error.esource(), pingora::ErrorSource::Downstream), "{error}");
        assert_eq!((ctx.outcome, ctx.rejection.is_none()), (Some(Outcome::ClientAborted), true), "{begun}");
        assert!(!told(&ctx.request.as_ref().expect("a call").server).0 && rest.is_empty(), "{begun}");
    }
}

#[tokio::test]
async fn when_the_gateway_waits_no_longer_the_client_is_told_so() {
    let gateway = gateway("");
    let (listener, request) = upstream().await;
    let (mut session, _client) = downstream(BOTH).await;
    let mut ctx = context(&gateway, call(&request.server));
    let serve = async {
        let stream = next_call(&listener).await;
        gateway.dispatcher.cut.cancel();
        stream
    };
    let relaying = relay(&mut session, &mut ctx, request, &gateway.dispatcher);
    let (done, (_stream, call)) = tokio::join!(relaying, serve);
    done.expect("the client is there");
    let rejection = &ctx.rejection.as_ref().expect("it is refused").1;
    assert_eq!((rejection.status, rejection.reason.as_str()), (503, "stopping"));
    assert!(
        call.starts_with(Method::POST.as_str()) && !told(&ctx.request.as_ref().expect("a call").server).0
    );
}

#[tokio::test]
async fn only_a_request_of_a_client_that_can_be_asked_may_wait_for_a_person() {
    let gateway = gateway("");
    let server = server("url: \"http://127.0.0.1:1/mcp\"");
    for (capabilities, is_request, waits) in [
        (Some(r#"{"elicitation":{}}"#), true, true),
        (Some(r#"{"sampling":{}}"#), true, true),
        (Some(r#"{"roots":{}}"#), false, false),
        (Some(r#"{"roots":{}}"#), true, false),
        (None, true, false),
    ] {
        let session = || capabilities.map(|capabilities| client_session(&gateway, capabilities));
        let request = match is_request {
            true => call_with(&server, |call| call.session = session()),
            false => answer(&gateway, &server),
        };
        assert_eq!(may_elicit(&request), waits, "{capabilities:?} {is_request}");
    }
}

#[tokio::test]
async fn the_time_of_a_call_runs_from_when_it_was_sent_and_that_of_a_stream_from_its_last_word() {
    let gateway = gateway("");
    let server = server("url: \"http://127.0.0.1:1/mcp\", timeout: 10s");
    let mut ctx = context(&gateway, call(&server));
    let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).expect("a running clock");
    ctx.sent_at = Some(ago(20));
    let request = call(&server);
    assert_eq!(remaining(&ctx, &request), None, "whoever sends it counts");
    assert!(matches!(ended_early(&ctx), Err(UpstreamError::SessionClosed)));
    for (kind, held) in [("application/json", true), ("text/event-stream", false)] {
        let mut head = head(200, &[("content-type", kind)]);
        let way = BodyFraming { certain: true, sized: false };
        let watch = ResponseValidator::begin(&mut head, &request, None, way, ago(1)).expect("it is MCP");
        ctx.attempt.validator = Some(watch);
        let left = remaining(&ctx, &request).expect("it is a call");
        assert_eq!(left.is_zero(), held, "{kind}: {left:?}");
        assert!(left <= Duration::from_secs(9), "{left:?}");
        assert!(matches!(ended_early(&ctx), Ok(RelayItem::End)), "it ends in good order");
    }
}
