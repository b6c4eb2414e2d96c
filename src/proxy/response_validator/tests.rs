use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use mcp::Era;
use pingora::http::ResponseHeader;

use super::super::Gateway;
use super::super::gateway_for_tests::{
    CLIENT_ID, ONE, answer, call, call_of, call_with, client_session, gateway, head, server, upstream_session,
};
use super::*;
use crate::config;
use crate::runtime::filter_chain;
use crate::session::SentIds;
use crate::telemetry::Metrics;
use crate::upstream::UpstreamError as E;

const JSON_KIND: (&str, &str) = ("content-type", "application/json");
const EVENTS_KIND: (&str, &str) = ("content-type", "text/event-stream");
/// Nothing else was asked on the connection.
const ALONE: BodyFraming = BodyFraming { certain: true, sized: false };
/// Something may have been.
const USED: BodyFraming = BodyFraming { certain: false, sized: false };

fn request() -> UpstreamRequest {
    call(&server(ONE))
}

/// A message without an answer.
fn message() -> (Gateway, UpstreamRequest) {
    let gateway = gateway("");
    let request = answer(&gateway, &server(ONE));
    (gateway, request)
}

/// `$ID` is the id that the request was sent under.
fn written(request: &UpstreamRequest, text: &str) -> Bytes {
    Bytes::from(text.replace("$ID", request.as_call().map_or("none", |call| call.sent.wire.as_str())))
}

/// An answer that comes in these pieces, as it goes out.
fn passed(
    watch: &mut ResponseValidator,
    request: &UpstreamRequest,
    pieces: &[&str],
) -> Result<String, UpstreamError> {
    let mut out = Vec::new();
    for piece in pieces {
        out.extend_from_slice(&watch.push(Some(written(request, piece)), false)?.unwrap_or_default());
    }
    out.extend_from_slice(&watch.push(None, true)?.unwrap_or_default());
    Ok(String::from_utf8(out).expect("text"))
}

fn begin(
    request: &UpstreamRequest,
    status: u16,
    headers: &[(&'static str, &str)],
    way: BodyFraming,
) -> Result<(ResponseValidator, ResponseHeader), UpstreamError> {
    let mut head = head(status, headers);
    let watch = ResponseValidator::begin(&mut head, request, None, way, Instant::now())?;
    Ok((watch, head))
}

/// What becomes of an answer in one piece.
fn judged(
    request: &UpstreamRequest,
    status: u16,
    headers: &[(&'static str, &str)],
    body: &str,
    way: BodyFraming,
) -> Result<String, UpstreamError> {
    passed(&mut begin(request, status, headers, way)?.0, request, &[body])
}

/// Which error, without its words.
fn kind<T>(outcome: Result<T, UpstreamError>) -> std::mem::Discriminant<UpstreamError> {
    std::mem::discriminant(&outcome.err().expect("it does not pass"))
}

fn invalid() -> UpstreamError {
    E::InvalidResponse(String::new())
}

#[test]
fn an_answer_gets_the_clients_id_byte_for_byte_however_it_is_cut() {
    let ids = [
        "\"mine\"",
        "7",
        "-1.50e+3",
        r#""\u00e4\" id: $ID""#,
        r#""a very long id that a client has chosen""#,
    ];
    for id in ids {
        let request = call_with(&server(ONE), |call| call.id = Bytes::from_static(id.as_bytes()));
        for text in [
            r#"{"jsonrpc":"2.0","id":$ID,"result":{"id":$ID}}"#,
            "{\"result\":{\"x\":[1,{}]},\n \"id\" : $ID , \"jsonrpc\":\"2.0\"} ",
            r#"{"jsonrpc":"2.0","id":$ID,"error":{"code":1,"message":"\"id\":7"}}"#,
        ] {
            let whole = written(&request, text);
            let expected = String::from_utf8_lossy(&whole).replacen(
                request.as_call().map_or("none", |call| call.sent.wire.as_str()),
                id,
                1,
            );
            for cut in 0..=whole.len() {
                let (mut watch, _) = begin(&request, 200, &[JSON_KIND], ALONE).expect("JSON");
                let first =
                    watch.push(Some(whole.slice(..cut)), false).expect("it waits").unwrap_or_default();
                assert!(first.is_empty() && watch.is_held() && !watch.is_answered(), "{cut}");
                let rest = watch.push(Some(whole.slice(cut..)), true).expect("it passes").unwrap_or_default();
                assert_eq!(String::from_utf8_lossy(&rest), expected, "{cut}");
                assert!(watch.is_answered() && !watch.spends(), "{cut}");
                assert_eq!(watch.saw_error(), text.contains("error"));
            }
        }
    }
}

#[test]
fn of_what_is_no_answer_to_this_request_not_a_byte_goes_out() {
    let request = request();
    let other = SentIds::untracked().wire;
    let others = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, other.as_str());
    for way in [ALONE, USED] {
        for (body, error) in [
            (&*others, E::UnexpectedServer),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, E::UnexpectedServer),
            (r#"{"jsonrpc":"2.0","id":"mine","result":{}}"#, E::UnexpectedServer),
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":""}}"#, E::UnexpectedServer),
            (r#"{"jsonrpc":"2.0","id":null,"result":{}}"#, E::UnexpectedServer),
            (r#"{"jsonrpc":"2.0","result":{}}"#, E::UnexpectedServer),
            (r#"{"jsonrpc":"2.0","id":$ID,"method":"ping"}"#, invalid()),
            (r#"{"jsonrpc":"2.0","method":"notifications/message","params":{}}"#, invalid()),
            (r#"{"jsonrpc":"2.0","id":$ID}"#, invalid()),
            (r#"[{"jsonrpc":"2.0","id":$ID,"result":{}}]"#, invalid()),
            (r#"{"jsonrpc":"2.0","id":$ID,"result":{}"#, invalid()),
            (r#"{"jsonrpc":"2.0","id":$ID,"result":{}} x"#, invalid()),
            ("<html>", invalid()),
            ("", invalid()),
        ] {
            let outcome = judged(&request, 200, &[JSON_KIND], body, way);
            assert_eq!(kind(outcome), std::mem::discriminant(&error), "{body} {way:?}");
        }
    }
}

#[test]
fn an_error_without_an_id_is_believed_where_nothing_else_was_asked_and_spends_the_connection() {
    let request = request();
    for (body, expected) in [
        (
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"x"}}"#,
            r#"{"jsonrpc":"2.0","id":"mine","error":{"code":-32700,"message":"x"}}"#,
        ),
        (
            r#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"x"}}"#,
            r#"{"id":"mine","jsonrpc":"2.0","error":{"code":-32700,"message":"x"}}"#,
        ),
    ] {
        for status in [200, 400, 500] {
            let (mut watch, _) = begin(&request, status, &[JSON_KIND], ALONE).expect("JSON");
            assert_eq!(passed(&mut watch, &request, &[body]).as_deref(), Ok(expected), "{status}");
            assert!(watch.spends(), "{status}");
            assert_eq!(judged(&request, status, &[JSON_KIND], body, USED), Err(E::Nameless), "{status}");
        }
        let event = format!("event: message\ndata: {body}\n\n");
        let out = format!("event: message\ndata: {expected}\n\n");
        let (mut watch, _) = begin(&request, 200, &[EVENTS_KIND], ALONE).expect("events");
        assert_eq!(passed(&mut watch, &request, &[&event]), Ok(out));
        assert!(watch.spends() && watch.is_answered());
        assert_eq!(judged(&request, 200, &[EVENTS_KIND], &event, USED), Err(E::Nameless));
    }
}

#[test]
fn by_its_head_an_answer_is_taken_or_refused() {
    let bare = server(ONE);
    let known = server(&format!("{ONE}, headers: {{Authorization: secret}}"));
    let secs = |seconds| Some(Duration::from_secs(seconds));
    let html = ("content-type", "text/html");
    let empty = ("content-length", "0");
    for (server, status, headers, way, refused) in [
        (&bare, 200, &[JSON_KIND][..], USED, None),
        (&bare, 200, &[("content-type", "Application/JSON; charset=utf-8")], USED, None),
        (&bare, 200, &[("content-type", "text/json")], USED, None),
        (&bare, 200, &[("content-type", "application/json-rpc")], USED, None),
        (&bare, 200, &[EVENTS_KIND], USED, None),
        (&bare, 200, &[], USED, None),
        (&bare, 400, &[], USED, None),
        (&bare, 500, &[JSON_KIND], USED, None),
        (&bare, 200, &[html], ALONE, Some(invalid())),
        (&bare, 200, &[("content-type", "application/jsonx")], ALONE, Some(invalid())),
        (&bare, 200, &[empty], ALONE, Some(invalid())),
        (&bare, 200, &[JSON_KIND, empty], ALONE, Some(invalid())),
        (&bare, 202, &[], ALONE, Some(invalid())),
        (&bare, 204, &[JSON_KIND], ALONE, Some(invalid())),
        (&bare, 500, &[html], ALONE, Some(invalid())),
        (&bare, 500, &[EVENTS_KIND], ALONE, Some(invalid())),
        (&bare, 200, &[JSON_KIND, ("content-encoding", "zstd")], ALONE, Some(invalid())),
        (&bare, 404, &[html], ALONE, Some(E::ClientCaused(String::new()))),
        (&bare, 429, &[html, ("retry-after", "7")], USED, Some(E::RetryLater(429, secs(7)))),
        (&bare, 503, &[html], USED, Some(E::RetryLater(503, None))),
        (&bare, 503, &[JSON_KIND, empty], USED, Some(E::RetryLater(503, None))),
        (&bare, 302, &[("location", "/x")], ALONE, Some(E::Redirected(302, "/x".into()))),
        // What may have been said to another is told to nobody.
        (&bare, 302, &[("location", "/x")], USED, Some(E::Redirected(302, "no place that is named".into()))),
        (&bare, 403, &[html], USED, Some(E::Denied(403, String::new()))),
        (&bare, 401, &[], ALONE, Some(E::Denied(401, String::new()))),
        (&known, 401, &[JSON_KIND], ALONE, Some(E::Credentials(401))),
        (&known, 403, &[JSON_KIND], ALONE, Some(E::Credentials(403))),
    ] {
        let outcome = begin(&call(server), status, headers, way).map(|_| ()).err();
        let case = format!("{status} {headers:?} {way:?}: {outcome:?}");
        match (&outcome, &refused) {
            (Some(E::InvalidResponse(_)), Some(E::InvalidResponse(_)))
            | (Some(E::ClientCaused(_)), Some(E::ClientCaused(_))) => {}
            _ => assert_eq!(outcome, refused, "{case}"),
        }
    }
}

#[tokio::test]
async fn what_follows_a_message_without_an_answer_is_for_nobody() {
    let (_gateway, request) = message();
    for (status, headers, body, told) in [
        (202, &[][..], "", 202),
        (204, &[], "", 204),
        (200, &[JSON_KIND], r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, 202),
        (200, &[EVENTS_KIND], "data: {}\n\n", 202),
        (200, &[("content-type", "text/html")], "<html>", 202),
    ] {
        let (mut watch, head) = begin(&request, status, headers, USED).expect("it is taken");
        assert_eq!(passed(&mut watch, &request, &[body]).as_deref(), Ok(""), "{status}");
        assert_eq!(
            (head.status.as_u16(), head.headers.contains_key(CONTENT_TYPE)),
            (told, false),
            "{status}"
        );
        // A body where none was due: what else lies there nobody knows.
        assert_eq!(watch.spends(), !body.is_empty(), "{status}");
        assert!(watch.is_answered() && watch.remaining().is_none());
    }
    let said = r#"{"error":"no"}"#;
    assert_eq!(judged(&request, 400, &[JSON_KIND], said, ALONE).as_deref(), Ok(said));
    assert_eq!(judged(&request, 400, &[JSON_KIND], said, USED), Err(E::Nameless));
}

#[test]
fn an_error_of_http_passes_under_the_clients_id_or_in_the_servers_own_words() {
    let request = request();
    let with = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":1,"message":"x"}}}}"#);
    let other = SentIds::untracked().wire;
    let (ours, theirs) = (with("$ID"), with(CLIENT_ID));
    let later = |status| Err(E::RetryLater(status, None));
    for (status, body, way, expected) in [
        (400, &*ours, USED, Ok(&*theirs)),
        (503, &ours, USED, Ok(&theirs)),
        // One that has read nothing of the request writes what it likes for its id.
        (400, &with("\"server-error\""), ALONE, Ok(&theirs)),
        (400, &with("\"server-error\""), USED, Err(E::Nameless)),
        (400, &with(other.as_str()), ALONE, Err(E::UnexpectedServer)),
        (400, r#"{"error":"bad"}"#, ALONE, Ok(r#"{"error":"bad"}"#)),
        (400, r#"{"error":"bad"}"#, USED, Err(E::Nameless)),
        (503, r#"{"error":"busy"}"#, ALONE, later(503)),
        (429, r#"{"error":"busy"}"#, USED, later(429)),
        (503, "", ALONE, later(503)),
        // Its client would wait for the response.
        (405, "", USED, Err(E::ClientCaused("HTTP 405 without a body".into()))),
        (500, "", ALONE, Err(E::InvalidResponse("HTTP 500 without a body".into()))),
    ] {
        let outcome = judged(&request, status, &[JSON_KIND], body, way);
        assert_eq!(outcome.as_deref(), expected.as_ref().copied(), "{status} {body} {way:?}");
    }
    // One that says nothing of its type is judged by its body, and is the caller's doing if that is no message.
    let none = [];
    assert_eq!(judged(&request, 400, &none, &ours, USED).as_deref(), Ok(&*theirs));
    assert_eq!(
        kind(judged(&request, 400, &none, "no", ALONE)),
        kind::<()>(Err(E::ClientCaused(String::new())))
    );
    assert_eq!(judged(&request, 429, &none, "no", ALONE).as_deref(), later(429).as_ref().copied());
    let long = "x".repeat(HOLD_LIMIT + 1);
    let outcome = judged(&request, 400, &[JSON_KIND], &long, ALONE);
    assert_eq!(kind(outcome), kind::<()>(Err(E::ClientCaused(String::new()))));
}

#[test]
fn a_refusal_of_the_gateway_is_told_in_few_words() {
    let request = request();
    let (mut watch, head) = begin(&request, 403, &[("content-type", "text/plain")], ALONE).expect("it waits");
    assert_eq!(head.status.as_u16(), 502);
    assert!(watch.is_held());
    assert_eq!(watch.push(Some(Bytes::from_static(b"not ")), false), Ok(Some(Bytes::new())));
    assert_eq!(watch.push(Some(Bytes::from_static(b"you")), true), Err(E::Denied(403, "not you".into())));
    // It is not read for ever.
    let (mut watch, _) = begin(&request, 403, &[("content-type", "text/plain")], ALONE).expect("it waits");
    let outcome = watch.push(Some(Bytes::from("x".repeat(DENIAL))), false);
    assert_eq!(kind(outcome), kind::<()>(Err(E::Denied(403, String::new()))));
}

#[test]
fn a_head_that_does_not_fit_its_body_has_the_lists_read_again_in_the_modern_era_alone() {
    let body = r#"{"jsonrpc":"2.0","id":$ID,"error":{"code":-32020,"message":"x"}}"#;
    for (server_era, status, stale) in
        [(Era::Modern, 400, true), (Era::Legacy, 400, false), (Era::Modern, 404, false)]
    {
        let request = call_with(&server(ONE), |call| call.server_era = server_era);
        judged(&request, status, &[JSON_KIND], body, USED).expect("it passes");
        assert_eq!(
            request.server.lists_stale.notified().now_or_never().is_some(),
            stale,
            "{server_era:?} {status}"
        );
    }
}

#[test]
fn an_answer_has_a_bound_in_each_form() {
    let server = server(&format!("{ONE}, max_response: 1KiB, max_stream: 4KiB"));
    let answer = |room: usize| {
        let frame = r#"{"jsonrpc":"2.0","id":"tg-0123456789abcdef","result":""}"#.len();
        format!(r#"{{"jsonrpc":"2.0","id":$ID,"result":"{}"}}"#, "x".repeat(room - frame))
    };
    let json = |room| judged(&call(&server), 200, &[JSON_KIND], &answer(room), USED).map(|body| body.len());
    // The client's id is shorter.
    assert_eq!((json(1024), json(1025)), (Ok(1024 - 15), Err(E::TooLarge(1024))));
    let failure = |room| judged(&call(&server), 400, &[JSON_KIND], &answer(room), USED).map(|_| ());
    assert_eq!((failure(1024), failure(1025)), (Ok(()), Err(E::TooLarge(1024))));
    let event =
        |room| judged(&call(&server), 200, &[EVENTS_KIND], &format!("data: {}\n\n", answer(room)), USED);
    assert!(event(1024 - 8).is_ok());
    assert_eq!(event(1025 - 8), Err(E::TooLarge(1024)));
    let request = call(&server);
    let (mut watch, _) = begin(&request, 200, &[EVENTS_KIND], USED).expect("events");
    let comment = format!(":{}\n\n", "x".repeat(509));
    assert!(passed(&mut watch, &request, &[&*comment; 9]).is_err_and(|error| error == E::TooLarge(4096)));
}

#[test]
fn a_long_answer_goes_out_as_it_comes_once_it_is_known_whose_it_is() {
    let filling = format!(r#""result":"{}""#, "x".repeat(HOLD_LIMIT));
    for (id, way, early, answers) in [
        ("$ID", ALONE, true, true),
        ("$ID", USED, false, true),
        ("\"other\"", USED, false, false),
        ("\"other\"", ALONE, true, false),
    ] {
        let request = request();
        let (mut watch, _) = begin(&request, 200, &[JSON_KIND], way).expect("JSON");
        let mut first = format!("{{{filling}");
        let got = watch.push(Some(first.clone().into()), false).expect("it goes on").expect("a piece");
        assert_eq!((!got.is_empty(), !watch.is_held()), (early, early), "{id} {way:?}");
        let rest = written(&request, &format!(r#","id":{id},"jsonrpc":"2.0"}}"#));
        let last = watch.push(Some(rest), true);
        if !answers {
            assert_eq!(kind(last), kind::<()>(Err(E::UnexpectedServer)), "{way:?}");
            continue;
        }
        let out = [got, last.expect("it passes").expect("the rest")].concat();
        first.push_str(r#","id":"mine","jsonrpc":"2.0"}"#);
        assert!(out == first.as_bytes() && watch.is_answered(), "{way:?}");
    }
}

#[test]
fn the_length_that_the_client_is_told_is_that_of_what_it_gets() {
    let long = r#""a long id: more room than the gateway's own takes up in an answer, and some""#;
    for id in ["1", CLIENT_ID, long] {
        let request = call_with(&server(ONE), |call| call.id = Bytes::from_static(id.as_bytes()));
        for room in [0, 100, 500, LONG_STRING, 3 * LONG_STRING] {
            let text = "x".repeat(room);
            for body in [
                format!(r#"{{"jsonrpc":"2.0","id":$ID,"result":"{text}"}}"#),
                format!(r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":1,"message":"{text}"}}}}"#),
                format!(r#"{{"jsonrpc":"2.0","error":{{"code":1,"message":"{text}"}}}}"#),
            ] {
                let body = written(&request, &body);
                let headers = [JSON_KIND, ("content-length", &*body.len().to_string())];
                let way = BodyFraming { certain: true, sized: true };
                let (mut watch, head) = begin(&request, 200, &headers, way).expect("JSON");
                let told: usize =
                    head.headers[CONTENT_LENGTH].to_str().expect("text").parse().expect("a number");
                let out = watch.push(Some(body), true).expect("it passes").expect("a body");
                assert_eq!(out.len(), told, "{id} {room}");
                let message: serde_json::Value = serde_json::from_slice(&out).expect("JSON and white space");
                assert_eq!(message["id"].to_string(), id);
            }
        }
    }
    // What is taken out changes the length, and is told of none.
    let sized = [JSON_KIND, ("content-length", "64")];
    let (_, head) = begin(&request(), 200, &sized, ALONE).expect("JSON");
    assert!(!head.headers.contains_key(CONTENT_LENGTH));
}

#[test]
fn what_is_searched_for_secrets_goes_out_without_them_or_not_at_all() {
    let server = server(&format!("{ONE}, redact: {{results: redact}}"));
    let redactor = Arc::new(filter_chain::redactor(&config::GuardConfig::default()).expect("detectors"));
    let screen = ResponseRedactor::of(&server.name, &server.config, Some(&redactor), &Metrics::new());
    assert!(screen.is_some());
    let mut request = call(&server);
    request.redactor = screen;
    let card =
        r#"{"jsonrpc":"2.0","id":$ID,"result":{"content":[{"type":"text","text":"4111 1111 1111 1111"}]}}"#;
    let event = format!("data: {card}\n\n");
    for (status, headers, body) in
        [(200, [JSON_KIND], card), (400, [JSON_KIND], card), (200, [EVENTS_KIND], &*event)]
    {
        let out = judged(&request, status, &headers, body, ALONE).expect("it passes");
        assert!(out.contains(r#""id":"mine""#) && !out.contains("4111"), "{out}");
    }
    let (mut watch, _) = begin(&request, 400, &[JSON_KIND], ALONE).expect("JSON");
    assert_eq!(kind(watch.push(Some(Bytes::from_static(b"\xff")), true)), kind::<()>(Err(invalid())));
    assert_eq!(
        begin(&request, 403, &[("content-type", "text/plain")], ALONE).map(|_| ()).err(),
        Some(E::Denied(403, String::new()))
    );
}

mod hostile;
mod streams;
