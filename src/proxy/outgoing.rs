//! The head that goes to a server, and what of a server's head goes to the client.
//!
//! The head is made anew, from the few headers that MCP and tracing need: a client's credentials and cookies stay
//! here unless the server's configuration asks for them, and the gateway's own for a server never come back.

use std::sync::Arc;

use filters::agree::{decode, encode, quote};
use filters::call::header;
use filters::guard::Redactor;
use filters::verdict::code;
use filters::{Era, Refusal};
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, SERVER, SET_COOKIE, USER_AGENT,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use pingora::OrErr;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;

use super::Ctx;
use crate::address;
use crate::config::Redaction;
use crate::door::Leave;
use crate::server::Server;
use crate::session;
use crate::upstream::http::Seat;
use crate::upstream::{Peer, Screen};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Headers of the client that go on as they are.
const CARRIED: [HeaderName; 5] = [
    ACCEPT,
    USER_AGENT,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
];

/// The head of a request to a server.
pub fn request(
    session: &Session,
    ctx: &Ctx,
    leave: &Leave,
    peer: &Peer,
    seat: Option<&Seat>,
    bearer: Option<&HeaderValue>,
) -> pingora::Result<RequestHeader> {
    let client = &session.req_header().headers;
    let resumes = leave.resume.is_some();
    let verb = if resumes { Method::GET } else { Method::POST };
    // Names go out in lower case, as most clients write them: keeping another case costs a second map.
    let mut head = RequestHeader::build_no_case(verb, peer.path.as_bytes(), Some(16))?;
    head.insert_header(HOST, &peer.authority)?;
    for name in &CARRIED {
        if let Some(value) = client.get(name) {
            head.insert_header(name, value)?;
        }
    }
    match &leave.resume {
        Some(last) => head.insert_header(LAST_EVENT_ID, &**last)?,
        None => {
            head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
            head.insert_header(CONTENT_LENGTH, HeaderValue::from(leave.body.len()))?;
        }
    }
    match (leave.era, seat) {
        (Era::Modern, _) => modern(&mut head, client, leave, ctx.house.plan.redactor.as_deref())?,
        (Era::Legacy, Some(seat)) => {
            if let Ok(version) = HeaderValue::from_str(&seat.version) {
                head.insert_header(header::PROTOCOL_VERSION, version)?;
            }
            if let Some(id) = &seat.session {
                head.insert_header(header::SESSION, id)?;
            }
        }
        (Era::Legacy, None) => {}
    }
    for (name, value) in &peer.headers {
        head.insert_header(name, value)?;
    }
    if let Some(bearer) = bearer {
        head.insert_header(AUTHORIZATION, bearer)?;
    }
    Ok(head)
}

/// The headers that mirror the body (2026-07-28, streamable-http); they agreed with it when it was judged.
fn modern(
    head: &mut RequestHeader,
    client: &HeaderMap,
    leave: &Leave,
    redactor: Option<&Redactor>,
) -> pingora::Result<()> {
    for name in [&header::PROTOCOL_VERSION, &header::METHOD] {
        if let Some(value) = client.get(name) {
            head.insert_header(name, value)?;
        }
    }
    match &leave.name {
        Some(name) => {
            let value = HeaderValue::from_str(&encode(name))
                .or_err(pingora::ErrorType::InternalError, "a name that no header can carry")?;
            head.insert_header(header::NAME, value)?;
        }
        None => {
            if let Some(value) = client.get(header::NAME) {
                head.insert_header(header::NAME, value)?;
            }
        }
    }
    // "Intermediate servers that do not recognize an Mcp-Param-{Name} header MUST forward it."
    let redactor = redactor.filter(|_| leave.server.config.redact.arguments != Redaction::Off);
    for (name, value) in client.iter().filter(|(name, _)| name.as_str().starts_with("mcp-param-")) {
        // They repeat arguments; what is taken out of those must not come by this way.
        let made = leave.mirrored.iter().any(|(mirrored, _)| mirrored == name);
        if !made && redactor.is_none_or(|redactor| is_clean(value, redactor)) {
            head.append_header(name, value)?;
        }
    }
    for (name, value) in &leave.mirrored {
        head.insert_header(name, value)?;
    }
    Ok(())
}

/// Whether a header holds no secret, neither as it stands nor as it reads.
fn is_clean(value: &HeaderValue, redactor: &Redactor) -> bool {
    let Ok(value) = value.to_str() else { return false };
    let Some(read) = decode(value) else { return false };
    let found = |text: &str| redactor.scan(quote(text).as_bytes()).map_or(true, |found| !found.is_empty());
    !found(value) && !found(&read)
}

/// Takes out of a server's head what is between the gateway and the server.
pub fn response(head: &mut ResponseHeader) {
    for name in [&header::SESSION, &SET_COOKIE, &WWW_AUTHENTICATE, &SERVER] {
        head.remove_header(name);
    }
    let from_server: Vec<HeaderName> =
        head.headers.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
    for name in from_server {
        head.remove_header(&name);
    }
}

/// The resumption of a stream (`Last-Event-ID`): only the server that sent the events can go on with them, so it
/// is asked itself, in the seat in which it sent them. The id says which.
pub fn resumption(
    session: &Session,
    client: &Arc<session::Session>,
    may: impl Fn(&Server) -> bool,
    screen: impl Fn(&Server) -> Option<Screen>,
) -> Result<Option<Leave>, Refusal> {
    let Some(last) = session.req_header().headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let unknown = || {
        let words = "Last-Event-ID names no event of this session; without it, GET opens another stream";
        Refusal::new(400, code::INVALID_REQUEST, "unknown_event", words)
    };
    if session.req_header().headers.get_all(LAST_EVENT_ID).iter().count() > 1 {
        return Err(unknown());
    }
    let said = last.to_str().map_err(|_| unknown())?;
    let (number, own) = address::event_home(said).ok_or_else(unknown)?;
    let last = HeaderValue::from_str(own).map_err(|_| unknown())?;
    let there = client.sitting(number).filter(|(server, _)| may(server));
    let (server, seat) = there.ok_or_else(unknown)?;
    let running = server.start().map_err(|error| error.refusal(&server.name))?;
    Ok(Some(Leave {
        body: bytes::Bytes::new(),
        era: Era::Legacy,
        session: Some(client.clone()),
        seat: Some(seat),
        run: None,
        answering: None,
        deed: None,
        name: None,
        mirrored: Vec::new(),
        safe: true,
        key: client.key(),
        id: None,
        resume: Some(Box::new(last)),
        running,
        screen: screen(&server),
        server,
    }))
}
