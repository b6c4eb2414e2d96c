//! The head of a request as a value: what the filters see of it, and which HTTP faults are rejected first.

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use filters::{Caller, Permit, RequestHead};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Version};
use mcp::header_name;
use mcp::rejection::code;
use mcp::{MessageKind, Reason, Rejection};
use pingora::proxy::Session;

use crate::catalog::{self, Endpoint};
use crate::dispatch::Dispatcher;
use crate::listener::http1::{RequestEnd, request_ended};
use crate::listener::tls;
use crate::session;
use mcp::version;

/// The head as the filters see it; `client` is the client's address.
pub fn head(session: &Session, client: Option<IpAddr>) -> RequestHead<'_> {
    let request = session.req_header();
    let authority = match request.version {
        Version::HTTP_2 => request.uri.authority().map(|authority| authority.as_str()),
        _ => None,
    };
    RequestHead {
        http_method: &request.method,
        path: catalog::plain(request.uri.path()),
        headers: &request.headers,
        authority,
        peer: client,
        certificate: tls::certificate(session.digest()),
        is_network: true,
    }
}

/// Ignores a protocol upgrade (RFC 9110 §7.8). For nothing after this, the connection can change its
/// protocol with this request.
pub fn strip_upgrade(session: &mut Session) {
    if session.req_header().headers.contains_key(UPGRADE) {
        session.req_header_mut().remove_header(&UPGRADE);
    }
}

/// Rejects framing that two HTTP readers could interpret differently (RFC 9112 §6.3, request smuggling),
/// and framing that MCP does not use.
pub fn validate_framing(session: &Session, max_header: usize) -> Result<(), Rejection> {
    let request = session.req_header();
    if request.raw_path().len() > max_header {
        let message = format!("the request target is longer than the limit of {max_header} bytes");
        return Err(Rejection::http(414, Reason::TargetTooLong, message).closing());
    }
    // It was verified in the handshake, and connections may last long.
    if tls::is_expired(session.digest()) {
        request_ended(RequestEnd::CloseConnection);
        let message = "the client certificate of this connection has ended, or is not vouched for any more; come again with one that is good";
        return Err(Rejection::http(403, Reason::CertificateEnded, message).closing());
    }
    let bad = |reason, message: &'static str| Err(Rejection::http(400, reason, message).closing());
    let mut encodings = request.headers.get_all(TRANSFER_ENCODING).iter();
    let Some(encoding) = encodings.next() else { return Ok(()) };
    if request.version == Version::HTTP_10 || request.version == Version::HTTP_2 {
        return bad(Reason::TransferEncoding, "Transfer-Encoding belongs to HTTP/1.1");
    }
    if encodings.next().is_some() || !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return bad(Reason::TransferEncoding, "the only Transfer-Encoding taken is one `chunked`");
    }
    // Pingora drops Content-Length beside Transfer-Encoding before this code runs, so the raw head is read.
    let doubled = request.headers.contains_key(CONTENT_LENGTH)
        || session.as_downstream().as_http1().is_some_and(|h1| {
            let raw = h1.get_headers_raw_bytes();
            raw.split(|b| *b == b'\n').any(|line| {
                line.get(..14).is_some_and(|name| name.eq_ignore_ascii_case(b"content-length"))
                    && line.get(14).is_some_and(|next| matches!(next, b':' | b' ' | b'\t'))
            })
        });
    if doubled {
        return bad(
            Reason::LengthAndEncoding,
            "Content-Length and Transfer-Encoding must not stand together",
        );
    }
    Ok(())
}

/// The session of a legacy message: `None` for `initialize`, which opens one.
pub fn session(
    dispatcher: &Dispatcher,
    session: &Session,
    endpoint: &Endpoint,
    permit: &Permit,
    body: &[u8],
) -> Result<Option<Arc<session::Session>>, Rejection> {
    let opens = permit.rpc.kind == MessageKind::Request
        && permit.rpc.method.is_some_and(|m| m.is(body, "initialize"));
    if !permit.client_era.codec().has_sessions() || opens {
        return Ok(None);
    }
    find(dispatcher, session, endpoint, &permit.caller).map(Some)
}

/// The session of a GET or DELETE.
pub fn session_of_get(
    dispatcher: &Dispatcher,
    session: &Session,
    endpoint: &Endpoint,
    caller: &Caller,
) -> Result<Arc<session::Session>, Rejection> {
    let head = head(session, None);
    if let Ok(Some(version)) = head.single(&header_name::PROTOCOL_VERSION)
        && version::MODERN.contains(&version)
    {
        return Err(Rejection::http(405, Reason::Verb, "this protocol revision has only POST"));
    }
    find(dispatcher, session, endpoint, caller)
}

/// The session that the header names, if the caller has it on this endpoint.
pub fn find(
    dispatcher: &Dispatcher,
    session: &Session,
    endpoint: &Endpoint,
    caller: &Caller,
) -> Result<Arc<session::Session>, Rejection> {
    let head = head(session, None);
    let invalid = |reason, message: &'static str| Rejection::new(400, code::INVALID_REQUEST, reason, message);
    match head.single(&header_name::SESSION) {
        Ok(Some(id)) => dispatcher.sessions.get(id, &endpoint.path, caller).ok_or_else(|| {
            Rejection::http(404, Reason::NoSession, "no such session here; open one with `initialize`")
        }),
        Ok(None) => Err(invalid(
            Reason::SessionMissing,
            "the header Mcp-Session-Id is missing; `initialize` opens a session",
        )),
        Err(_) => Err(invalid(Reason::HeaderDoubled, "the header Mcp-Session-Id must stand once")),
    }
}

/// The trace id of a W3C `traceparent`, if it is valid.
pub fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get("traceparent")?.to_str().ok()?;
    let id = value.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

/// A number for one request: each thread starts at random, so that no two processes or restarts share a
/// sequence.
pub fn request_id() -> u64 {
    thread_local! {
        static NEXT: Cell<u64> = Cell::new(getrandom::u64().expect("the system gives random bytes") | 1);
    }
    NEXT.with(|next| {
        // xorshift64: distinct for 2^64 - 1 requests of a thread.
        let mut x = next.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        next.set(x);
        x
    })
}
