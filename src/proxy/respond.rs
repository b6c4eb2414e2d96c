//! Writing to the client: whole answers, refusals, streams of events, and answers that the house's own client
//! brings.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, CONTENT_LENGTH,
    CONTENT_TYPE, RETRY_AFTER, TRANSFER_ENCODING, VARY, WWW_AUTHENTICATE,
};
use http::{HeaderName, HeaderValue, Version};
use mcp::Rejection;
use mcp::json::quote::quote;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};

use super::RequestContext;
use super::accept_header::AcceptedTypes;
use super::response_validator::ResponseValidator;
use crate::catalog;
use crate::dispatch::Response;
use crate::telemetry::Outcome;
use mcp::header_name;
use mcp::jsonrpc::message;
use mcp::sse;

/// How long a client that sends a refused body may go on before the connection is closed.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// The same for one that has stopped sending.
const LINGER_IDLE: Duration = Duration::from_millis(100);

/// Bodies of refused requests up to this size do not cost the connection, if they come in this time.
const SMALL: usize = 16 * 1024;
const DRAIN: Duration = Duration::from_secs(1);

/// What a client gets the whole of `limits.write_timeout` for.
const PIECE: usize = 64 * 1024;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Puts on every answer what every answer carries.
pub fn add_common_headers(response: &mut ResponseHeader, ctx: &RequestContext) -> pingora::Result<()> {
    response.insert_header(REQUEST_ID, hex(ctx.request_id))?;
    let streams =
        response.headers.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"));
    if streams {
        // 2026-07-28, streamable-http: proxies on the way shall not hold events back.
        response.insert_header(ACCEL_BUFFERING, HeaderValue::from_static("no"))?;
    }
    if let Some(origin) = allowed_origin(ctx) {
        response.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, origin)?;
        response.insert_header(VARY, HeaderValue::from_static("Origin"))?;
        response.insert_header(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(
                "Mcp-Session-Id, MCP-Protocol-Version, X-Request-Id, Retry-After, WWW-Authenticate",
            ),
        )?;
    }
    Ok(())
}

/// A request's number as it is written everywhere: 16 digits.
fn hex(number: u64) -> HeaderValue {
    let digit = |at: usize| b"0123456789abcdef"[(number >> (60 - 4 * at)) as usize & 0xf];
    HeaderValue::from_bytes(&std::array::from_fn::<u8, 16, _>(digit)).expect("digits can stand in a header")
}

/// The page that may read the answer: one that the origin guard let in, and that `cors` names if it is there.
fn allowed_origin(ctx: &RequestContext) -> Option<&HeaderValue> {
    let origin = ctx.origin.as_ref()?;
    let word = origin.to_str().ok()?;
    let runtime_config = &ctx.snapshot.config;
    let named = runtime_config
        .config
        .cors
        .as_ref()
        .is_none_or(|cors| cors.origins.iter().any(|o| o == "*" || o.eq_ignore_ascii_case(word)));
    (named && runtime_config.chain.origin.is_origin_allowed(word)).then_some(origin)
}

/// Whether a client speaks HTTP/1.0.
pub fn is_http10(session: &Session) -> bool {
    session.req_header().version < Version::HTTP_11
}

/// Clients of HTTP/1.0 know no chunks (RFC 9112 §6.1): for them the end of the connection ends the body.
pub fn fix_framing(session: &mut Session, response: &mut ResponseHeader) {
    if is_http10(session) && response.remove_header(&TRANSFER_ENCODING).is_some() {
        session.set_keepalive(None);
    }
}

/// Writes a head. What goes wrong with that is the client's doing, and no server's.
pub async fn write_head(session: &mut Session, head: Box<ResponseHeader>, end: bool) -> pingora::Result<()> {
    session.write_response_header(head, end).await.map_err(|error| error.into_down())
}

/// Writes a part of a body; what is long in pieces, so that a client which is slow but steady has time for each.
pub async fn write_body(session: &mut Session, mut body: Bytes, end: bool) -> pingora::Result<()> {
    while body.len() > PIECE {
        let piece = body.split_to(PIECE);
        session.write_response_body(Some(piece), false).await.map_err(|error| error.into_down())?;
    }
    session.write_response_body(Some(body), end).await.map_err(|error| error.into_down())
}

/// A whole answer.
pub async fn write_response(
    session: &mut Session,
    ctx: &mut RequestContext,
    reply: Response,
) -> pingora::Result<()> {
    ctx.outcome.get_or_insert(Outcome::Ok);
    let mut head = ResponseHeader::build_no_case(reply.status, Some(6))?;
    // A result, or a refusal in HTTP's words, which is JSON for everybody.
    let wrapped =
        !reply.events && reply.status == 200 && !reply.body.is_empty() && !AcceptedTypes::of(session).json;
    if reply.events || wrapped {
        head.insert_header(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))?;
        head.insert_header(CACHE_CONTROL, HeaderValue::from_static("no-cache"))?;
    } else if !reply.body.is_empty() {
        head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
    }
    if let Some(id) = reply.session {
        head.insert_header(header_name::SESSION, id)?;
    }
    let body = if wrapped { sse::message(&reply.body) } else { reply.body };
    write(session, ctx, head, body).await
}

/// Any head with a whole body.
pub async fn write(
    session: &mut Session,
    ctx: &RequestContext,
    mut head: ResponseHeader,
    body: Bytes,
) -> pingora::Result<()> {
    add_common_headers(&mut head, ctx)?;
    if head.status != 204 {
        head.insert_header(CONTENT_LENGTH, HeaderValue::from(body.len()))?;
    }
    // HTTP/2 sends what it is given, for HEAD too (RFC 9110 §9.3.2).
    let empty = body.is_empty() || session.req_header().method == http::Method::HEAD;
    write_head(session, Box::new(head), empty).await?;
    if !empty {
        write_body(session, body, true).await?;
    }
    Ok(())
}

/// The head of an answer that was begun; that a client may go on with its body is none.
pub fn response_head_sent(session: &Session) -> Option<&ResponseHeader> {
    session.response_written().filter(|head| !head.status.is_informational())
}

/// Says the refusal that the context holds: as a JSON-RPC error where MCP is spoken, else in the REST form; as a
/// last event where a stream has begun.
pub async fn write_error(session: &mut Session, ctx: &mut RequestContext) -> pingora::Result<()> {
    let Some((_, rejection)) = &ctx.rejection else { return Ok(()) };
    if let Some(begun) = response_head_sent(session) {
        let streams =
            begun.headers.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"));
        let message = message::rejection_response(ctx.id.as_deref(), rejection);
        let length = begun.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if !streams && ctx.validator.as_ref().is_some_and(ResponseValidator::is_held) {
            // The status is gone but nothing of the body; white space fills up a length that was promised.
            let missing = length.unwrap_or(message.len()).checked_sub(message.len());
            if let Some(missing) = missing {
                let body = [&message[..], &vec![b' '; missing]].concat();
                return write_body(session, body.into(), true).await;
            }
        }
        if !streams {
            return Error::e_explain(
                ErrorType::InternalError,
                "the answer broke off after its head was sent",
            );
        }
        return write_body(session, sse::message(&message), true).await;
    }
    if rejection.close {
        session.set_keepalive(None);
    } else if is_small(session) {
        // Thrown away after the answer, without a look: a new connection would cost both sides more. Most of it came
        // with the head.
        let downstream = session.as_downstream_mut();
        downstream.set_close_on_response_before_downstream_finish(false);
        downstream.set_total_drain_timeout(Some(DRAIN));
    }
    // By its form alone: whether there is such an endpoint is not told by the form of a refusal.
    let mcp = catalog::is_endpoint(session.req_header().uri.path());
    let body = if mcp {
        message::rejection_response(ctx.id.as_deref(), rejection)
    } else {
        rest_error(rejection, ctx.request_id)
    };
    let mut head = ResponseHeader::build_no_case(rejection.status, Some(6))?;
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
    if rejection.status == 405 {
        head.insert_header(ALLOW, HeaderValue::from_static("POST, GET, DELETE"))?;
    }
    if let Some(challenge) = &rejection.challenge {
        head.insert_header(WWW_AUTHENTICATE, challenge.as_str())?;
    }
    if let Some(wait) = rejection.retry_after {
        // Whole seconds (RFC 9110 §10.2.3); a client that waits them must not come too early.
        head.insert_header(RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1000) as u64))?;
    }
    write(session, ctx, head, body).await?;
    lingering_close(session).await;
    Ok(())
}

/// Whether a body is short, of known length and on its way unasked.
fn is_small(session: &Session) -> bool {
    let head = session.req_header();
    let length = head.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    length.is_some_and(|length| length <= SMALL) && !head.headers.contains_key(http::header::EXPECT)
}

/// Reads what still comes of a refused body, for a moment. A connection that is closed over unread bytes is reset,
/// and a client that is still writing then never reads the answer (RFC 9112 §9.6).
async fn lingering_close(session: &mut Session) {
    let downstream = session.as_downstream_mut();
    if downstream.as_http1().is_some() && downstream.get_keepalive().is_none() {
        let rest = async {
            while let Ok(Ok(Some(_))) =
                tokio::time::timeout(LINGER_IDLE, downstream.read_request_body()).await
            {}
        };
        let _ = tokio::time::timeout(LINGER_TIMEOUT, rest).await;
    }
}

fn rest_error(rejection: &Rejection, request_id: u64) -> Bytes {
    let wait = rejection.retry_after.map(|wait| format!(r#""retry_after_ms":{},"#, wait.as_millis()));
    Bytes::from(format!(
        r#"{{"error":{{"code":{},"message":{},{}"request_id":"{request_id:016x}"}}}}"#,
        quote(rejection.reason),
        quote(&rejection.message),
        wait.unwrap_or_default()
    ))
}

/// Whether a browser asks what a page may do here.
pub fn is_preflight(session: &Session) -> bool {
    let head = session.req_header();
    head.method == http::Method::OPTIONS
        && head.headers.contains_key(http::header::ORIGIN)
        && head.headers.contains_key(http::header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a CORS preflight (Fetch standard, "CORS-preflight request").
pub async fn preflight(session: &mut Session, ctx: &mut RequestContext) -> pingora::Result<()> {
    ctx.outcome = Some(Outcome::Ok);
    let mut head = ResponseHeader::build_no_case(204, Some(6))?;
    if allowed_origin(ctx).is_some() {
        let cors = ctx.snapshot.config.config.cors.as_ref();
        let methods = cors.map_or_else(
            || "GET, POST, DELETE".to_owned(),
            |cors| {
                let methods: Vec<&str> = cors.methods.iter().map(|method| method.as_str()).collect();
                methods.join(", ")
            },
        );
        let asked = session.req_header().headers.get("access-control-request-headers").cloned();
        let headers = match cors.map(|cors| cors.headers.join(", ")) {
            Some(listed) if listed != "*" => HeaderValue::try_from(listed).ok(),
            // `*` does not cover Authorization, so what was asked for is named.
            _ => asked,
        };
        head.insert_header(ACCESS_CONTROL_ALLOW_METHODS, methods)?;
        if let Some(headers) = headers {
            head.insert_header(ACCESS_CONTROL_ALLOW_HEADERS, headers)?;
        }
        head.insert_header(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"))?;
    }
    write(session, ctx, head, Bytes::new()).await
}
