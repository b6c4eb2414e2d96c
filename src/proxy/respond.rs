//! Writes to the client: whole responses, rejections, event streams, and responses that the gateway's own
//! client receives.

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
use crate::catalog::{self, EndpointPath};
use crate::dispatch::Response;
use crate::telemetry::Outcome;
use mcp::header_name;
use mcp::jsonrpc::message;
use mcp::sse;

/// How long the rest of a rejected body is read before the connection is closed.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// The same timeout for a client that has stopped sending.
const LINGER_IDLE: Duration = Duration::from_millis(100);

/// Bodies of rejected requests up to this size, in bytes, do not close the connection if they arrive within
/// this time.
const SMALL: usize = 16 * 1024;
const DRAIN: Duration = Duration::from_secs(1);

/// Bytes for which a client gets the whole of `limits.write_timeout`.
const PIECE: usize = 64 * 1024;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Adds the headers that every response carries.
pub fn add_common_headers(response: &mut ResponseHeader, ctx: &RequestContext) -> pingora::Result<()> {
    response.insert_header(REQUEST_ID, hex(ctx.request_id))?;
    let streams =
        response.headers.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"));
    if streams {
        // 2026-07-28, streamable-http: proxies must not buffer events.
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

/// A request's number in its one written form: 16 hexadecimal digits.
fn hex(number: u64) -> HeaderValue {
    let digit = |at: usize| b"0123456789abcdef"[(number >> (60 - 4 * at)) as usize & 0xf];
    HeaderValue::from_bytes(&std::array::from_fn::<u8, 16, _>(digit)).expect("digits can stand in a header")
}

/// The origin that may read the response: the origin guard accepted it, and `cors`, if present, names it.
fn allowed_origin(ctx: &RequestContext) -> Option<&HeaderValue> {
    let origin = ctx.origin.as_ref()?;
    let text = origin.to_str().ok()?;
    let runtime_config = &ctx.snapshot.config;
    let named = runtime_config
        .config
        .cors
        .as_ref()
        .is_none_or(|cors| cors.origins.iter().any(|o| o == "*" || o.eq_ignore_ascii_case(text)));
    (named && runtime_config.chain.origin.is_origin_allowed(text)).then_some(origin)
}

/// Whether a client speaks HTTP/1.0.
pub fn is_http10(session: &Session) -> bool {
    session.req_header().version < Version::HTTP_11
}

/// Clients of HTTP/1.0 know no chunked encoding (RFC 9112 §6.1): for them, the end of the connection ends
/// the body.
pub fn fix_framing(session: &mut Session, response: &mut ResponseHeader) {
    if is_http10(session) && response.remove_header(&TRANSFER_ENCODING).is_some() {
        session.set_keepalive(None);
    }
}

/// Writes a head. A failure is the client's, not a server's.
pub async fn write_head(session: &mut Session, head: Box<ResponseHeader>, end: bool) -> pingora::Result<()> {
    session.write_response_header(head, end).await.map_err(|error| error.into_down())
}

/// Writes a part of a body. Long parts are written in pieces, so that a slow but steady client has time for
/// each.
pub async fn write_body(session: &mut Session, mut body: Bytes, end: bool) -> pingora::Result<()> {
    while body.len() > PIECE {
        let piece = body.split_to(PIECE);
        session.write_response_body(Some(piece), false).await.map_err(|error| error.into_down())?;
    }
    session.write_response_body(Some(body), end).await.map_err(|error| error.into_down())
}

/// Writes a whole response.
pub async fn write_response(
    session: &mut Session,
    ctx: &mut RequestContext,
    reply: Response,
) -> pingora::Result<()> {
    ctx.outcome.get_or_insert(Outcome::Ok);
    let mut head = ResponseHeader::build_no_case(reply.status, Some(6))?;
    // A result, or an HTTP rejection, which is JSON for every client.
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

/// Writes any head with a whole body.
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
    // HTTP/2 sends any body, for HEAD too (RFC 9110 §9.3.2).
    let empty = body.is_empty() || session.req_header().method == http::Method::HEAD;
    write_head(session, Box::new(head), empty).await?;
    if !empty {
        write_body(session, body, true).await?;
    }
    Ok(())
}

/// The head of a response that has begun; `100 Continue` is none.
pub fn response_head_sent(session: &Session) -> Option<&ResponseHeader> {
    session.response_written().filter(|head| !head.status.is_informational())
}

/// Writes the rejection in the context: as a JSON-RPC error for MCP, otherwise in the REST form; as a last
/// event if a stream has begun.
pub async fn write_error(session: &mut Session, ctx: &mut RequestContext) -> pingora::Result<()> {
    let Some((_, rejection)) = &ctx.rejection else { return Ok(()) };
    if let Some(begun) = response_head_sent(session) {
        let streams =
            begun.headers.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"text/event-stream"));
        let message = message::rejection_response(ctx.id.as_deref(), rejection);
        let length = begun.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if !streams && ctx.attempt.validator.as_ref().is_some_and(ResponseValidator::is_held) {
            // The status is sent but nothing of the body. White space fills up the announced length.
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
        // The rest of the body is discarded after the response: a new connection would cost both sides
        // more. Most of it came with the head.
        let downstream = session.as_downstream_mut();
        downstream.set_close_on_response_before_downstream_finish(false);
        downstream.set_total_drain_timeout(Some(DRAIN));
    }
    // By the form of the path alone, so that a rejection does not reveal whether the endpoint exists.
    let endpoint = catalog::is_endpoint(session.req_header().uri.path());
    let body = if endpoint.is_some() {
        message::rejection_response(ctx.id.as_deref(), rejection)
    } else {
        rest_error(rejection, ctx.request_id)
    };
    let mut head = ResponseHeader::build_no_case(rejection.status, Some(6))?;
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
    if rejection.status == 405 {
        let methods = endpoint.unwrap_or(EndpointPath::Mcp).methods();
        head.insert_header(ALLOW, HeaderValue::from_static(methods))?;
    }
    if let Some(challenge) = &rejection.challenge {
        head.insert_header(WWW_AUTHENTICATE, challenge.as_str())?;
    }
    if let Some(wait) = rejection.retry_after {
        // Whole seconds (RFC 9110 §10.2.3), rounded up: a client that waits them must not come too early.
        head.insert_header(RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1000) as u64))?;
    }
    write(session, ctx, head, body).await?;
    lingering_close(session).await;
    Ok(())
}

/// Whether a body is short, of known length, and sent without waiting for `100 Continue`.
fn is_small(session: &Session) -> bool {
    let head = session.req_header();
    let length = head.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    length.is_some_and(|length| length <= SMALL) && !head.headers.contains_key(http::header::EXPECT)
}

/// Reads the rest of a rejected body for a moment. A connection that is closed with unread bytes is reset,
/// and a client that is still writing then never reads the response (RFC 9112 §9.6).
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
        quote(rejection.reason.as_str()),
        quote(&rejection.message),
        wait.unwrap_or_default()
    ))
}

/// Whether the request is a CORS preflight of a browser.
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
            // `*` does not cover Authorization, so the requested headers are named.
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
