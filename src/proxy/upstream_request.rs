//! The head of the request to a server, and which headers of a server's response go to the client.
//!
//! The head is built from scratch, from the few headers that MCP and tracing need. A client's credentials and
//! cookies stay here unless the server's configuration asks for them, and the gateway's own credentials for
//! a server never come back. Of a server's response only the few headers pass that a client needs.

use std::sync::Arc;

use filters::guard::{Action, Redactor};
use http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, TRANSFER_ENCODING,
    USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use mcp::header_name;
use mcp::header_value::{decode, encode};
use mcp::json::quote::quote;
use mcp::rejection::code;
use mcp::{Reason, Rejection};
use pingora::OrErr;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;

use super::RequestContext;
use crate::config::Redaction;
use crate::dispatch::text_places::is_traceparent;
use crate::exchange::{ForwardedCall, ResumedStream, UpstreamRequest, UpstreamRequestKind};
use crate::server::Server;
use crate::session;
use crate::session::id_map;
use crate::telemetry::{Direction, Metrics};
use crate::upstream::http::UpstreamSession;
use crate::upstream::http::pool::EndpointGuard;
use crate::upstream::{Peer, ResponseRedactor};
use mcp::method::Method;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Headers in a response to a client, in most cases.
const HEADER_CAPACITY: usize = 12;

/// Headers of the client that are forwarded unchanged.
const FORWARDED: [HeaderName; 4] = [
    USER_AGENT,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
];

/// The head of a request to a server.
pub fn request(
    session: &Session,
    ctx: &RequestContext,
    upstream_request: &UpstreamRequest,
    peer: &Peer,
    upstream_session: Option<&UpstreamSession>,
    bearer: Option<&HeaderValue>,
    metrics: &Metrics,
) -> pingora::Result<RequestHeader> {
    let client = &session.req_header().headers;
    let mut request = http::Request::new(());
    let index = ctx.attempt.endpoint.as_ref().map(EndpointGuard::index);
    *request.uri_mut() = match &ctx.redirect {
        Some((at, path)) if Some(*at) == index => path.clone(),
        _ => peer.path.clone(),
    };
    // Names go out in lower case, as most clients write them: another case would need a second map.
    let mut headers = HeaderMap::with_capacity(12);
    let searched = Searched::of(ctx, upstream_request, metrics);
    for name in &FORWARDED {
        if let Some(value) = client.get(name).filter(|value| is_trace(name, value) || searched.passes(value))
        {
            headers.insert(name, value.clone());
        }
    }
    for (name, value) in &peer.static_headers {
        headers.insert(name, value.clone());
    }
    match &upstream_request.kind {
        UpstreamRequestKind::Resume(stream) => {
            headers.remove(CONTENT_TYPE);
            headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
            headers.insert(LAST_EVENT_ID, stream.last_event_id.clone());
        }
        UpstreamRequestKind::Call(_) | UpstreamRequestKind::Answer(_) => {
            *request.method_mut() = http::Method::POST;
            headers.insert(CONTENT_LENGTH, HeaderValue::from(upstream_request.body().len()));
        }
    }
    let codec = upstream_request.server_era().codec();
    match upstream_request.as_call().filter(|_| codec.has_mirrored_headers()) {
        Some(call) => mirrored(&mut headers, client, call, &searched)?,
        None => {
            let session = upstream_session.map(|session| (&*session.version, session.session.as_ref()));
            codec.add_headers(&mut headers, session);
        }
    }
    if let Some(bearer) = bearer {
        headers.insert(AUTHORIZATION, bearer.clone());
    }
    *request.headers_mut() = headers;
    Ok(request.into_parts().0.into())
}

/// The headers that mirror the body (2026-07-28, streamable-http). They matched the body when it was
/// authorized.
fn mirrored(
    headers: &mut HeaderMap,
    client: &HeaderMap,
    call: &ForwardedCall,
    searched: &Searched<'_>,
) -> pingora::Result<()> {
    for name in [&header_name::PROTOCOL_VERSION, &header_name::METHOD] {
        if let Some(value) = client.get(name) {
            headers.insert(name, value.clone());
        }
    }
    match &call.name {
        Some(name) => {
            let value = HeaderValue::from_str(&encode(name))
                .or_err(pingora::ErrorType::InternalError, "a name that no header can carry")?;
            headers.insert(header_name::NAME, value);
        }
        None => {
            // It repeats a task id, or something that was not compared with the body.
            let method =
                client.get(header_name::METHOD).and_then(|method| method.to_str().ok()).unwrap_or_default();
            let is_allowed =
                |value: &&HeaderValue| Method::parse(method).has_name() || searched.passes(value);
            if let Some(value) = client.get(header_name::NAME).filter(is_allowed) {
                headers.insert(header_name::NAME, value.clone());
            }
        }
    }
    // "Intermediate servers that do not recognize an Mcp-Param-{Name} header MUST forward it."
    for (name, value) in client.iter().filter(|(name, _)| name.as_str().starts_with("mcp-param-")) {
        // They repeat arguments. A redacted argument must not pass in a header.
        let made = call.param_headers.iter().any(|(mirrored, _)| mirrored == name);
        if !made && searched.passes(value) {
            headers.append(name, value.clone());
        }
    }
    for (name, value) in &call.param_headers {
        headers.insert(name, value.clone());
    }
    Ok(())
}

/// Searches a client's header for secrets before it goes to a server that must get none. A header that
/// holds a secret is dropped, because its rest is no valid value.
struct Searched<'a> {
    redactor: Option<&'a Redactor>,
    server: &'a str,
    action: Action,
    metrics: &'a Metrics,
}

impl<'a> Searched<'a> {
    fn of(ctx: &'a RequestContext, upstream_request: &'a UpstreamRequest, metrics: &'a Metrics) -> Self {
        let redaction = upstream_request.server.config.redact.arguments;
        let redactor = ctx.snapshot.config.redactor.as_deref().filter(|_| redaction != Redaction::Off);
        let action = if redaction == Redaction::Block { Action::Block } else { Action::Redact };
        Self { redactor, server: &upstream_request.server.name, action, metrics }
    }

    /// Whether it holds no secret, raw or decoded. A value that cannot be read fails the check.
    fn passes(&self, value: &HeaderValue) -> bool {
        let Some(redactor) = self.redactor else { return true };
        let Some((value, read)) = value.to_str().ok().and_then(|value| Some((value, decode(value)?))) else {
            return false;
        };
        [value, &*read].into_iter().all(|text| match redactor.scan(quote(text).as_bytes()) {
            Ok(found) if found.is_empty() => true,
            Ok(found) => {
                self.metrics.redacted(self.server, Direction::Arguments, self.action, &found);
                false
            }
            Err(_) => false,
        })
    }
}

/// Ids that programs generate, in their usual form. They may look like a card number but are none.
fn is_trace(name: &HeaderName, value: &HeaderValue) -> bool {
    name.as_str() == "traceparent" && value.to_str().is_ok_and(is_traceparent)
}

/// Whether a header of a server goes to the client: those that describe the response and how to treat it,
/// and future MCP headers. The others concern only the server and the gateway, or would speak in the
/// gateway's name.
fn is_forwarded(name: &HeaderName) -> bool {
    [CONTENT_TYPE, CONTENT_LENGTH, TRANSFER_ENCODING, CACHE_CONTROL, RETRY_AFTER].contains(name)
        || (name.as_str().starts_with("mcp-") && *name != header_name::SESSION)
}

/// Turns a server's response head into the client's. Names whose case need not be kept need no second map.
/// Capacity is reserved for the headers that the gateway adds.
pub fn response(head: &mut ResponseHeader) -> pingora::Result<()> {
    let mut kept = ResponseHeader::build_no_case(head.status, Some(HEADER_CAPACITY))?;
    kept.set_version(head.version);
    for (name, value) in head.headers.iter().filter(|(name, _)| is_forwarded(name)) {
        kept.append_header(name.clone(), value.clone())?;
    }
    *head = kept;
    Ok(())
}

/// The resumption of a stream (`Last-Event-ID`). Only the server that sent the events can resume them, in
/// the same upstream session. The id names both.
pub fn resumption(
    session: &Session,
    client: &Arc<session::Session>,
    may: impl Fn(&Server) -> bool,
    redactor: impl Fn(&Server) -> Option<ResponseRedactor>,
) -> Result<Option<UpstreamRequest>, Rejection> {
    let Some(last) = session.req_header().headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let unknown = || {
        let message = "Last-Event-ID names no event of this session; without it, GET opens another stream";
        Rejection::new(400, code::INVALID_REQUEST, Reason::UnknownEvent, message)
    };
    if session.req_header().headers.get_all(LAST_EVENT_ID).iter().count() > 1 {
        return Err(unknown());
    }
    let event_id = last.to_str().map_err(|_| unknown())?;
    let (number, own) = id_map::parse_event_id(event_id).ok_or_else(unknown)?;
    let last = HeaderValue::from_str(own).map_err(|_| unknown())?;
    let there = client.upstream_session_by_id(number).filter(|(server, _)| may(server));
    let (server, upstream_session) = there.ok_or_else(unknown)?;
    let running = server.begin_call().map_err(|error| error.rejection(&server.name))?;
    let redactor = redactor(&server);
    let stream = ResumedStream { last_event_id: last, session: client.clone(), upstream_session };
    Ok(Some(UpstreamRequest::new(server, UpstreamRequestKind::Resume(stream), running, redactor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_servers_head_little_goes_to_the_client() {
        let mut head = ResponseHeader::build(200, None).expect("a head");
        let kept = ["Content-Type", "Content-Length", "Cache-Control", "Retry-After", "Mcp-Later"];
        let gone = [
            "Set-Cookie",
            "Mcp-Session-Id",
            "Connection",
            "Keep-Alive",
            "X-Hop",
            "Alt-Svc",
            "Trailer",
            "Strict-Transport-Security",
            "Clear-Site-Data",
            "Proxy-Authenticate",
            "WWW-Authenticate",
            "Server",
            "Access-Control-Allow-Origin",
            "Upgrade",
            "Date",
        ];
        for name in kept.iter().chain(&gone) {
            head.append_header(*name, "1").expect("a header");
        }
        for number in 0..100 {
            head.append_header(format!("X-{number}"), "1").expect("a header");
            head.append_header("Set-Cookie", "2").expect("a header");
        }
        response(&mut head).expect("a head");
        let mut left: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["cache-control", "content-length", "content-type", "mcp-later", "retry-after"]);
    }
}
