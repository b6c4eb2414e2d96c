//! Looking at a server's answer while it streams through: is it MCP, does it answer *this* request, does it end?
//!
//! Events and bytes pass as they came. Held back is only what cannot be judged yet: the event that has not ended,
//! and a JSON answer up to [`HELD`], so that a wrong one can still become a clean error.

use bytes::{Bytes, BytesMut};
use filters::Era;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use pingora::http::ResponseHeader;

use crate::address;
use crate::door::Leave;
use crate::protocol::sse::{self, Splitter};
use crate::protocol::wire;
use crate::server::Server;
use crate::session::Session;
use crate::upstream::{Screen, UpstreamError};
use std::sync::Arc;
use std::time::Instant;

/// JSON answers up to this size are judged before their first byte goes out. A client can do nothing with a part
/// of one, so holding costs it no time; of longer ones only the beginning is looked at, to bound the memory.
const HELD: usize = 1024 * 1024;

/// The code of a head that does not agree with its body (2026-07-28, streamable-http).
const MISMATCH: &[u8] = b"-32020";

pub struct Watch {
    form: Form,
    /// The id that the answer must carry, as written.
    id: Option<Bytes>,
    server: Arc<Server>,
    /// The session that may answer what the server asks.
    session: Option<Arc<Session>>,
    readdress: bool,
    passed: usize,
    answered: bool,
    /// When the server last said something of the call; none while it waits for its client's answer.
    heard: Option<Instant>,
    /// A stream may end before its answer: the client can come back for the rest.
    resumable: bool,
    modern: bool,
    screen: Option<Screen>,
    /// The answer was an error.
    pub saw_error: bool,
    /// Something of a stream was a message: the server works.
    pub spoke: bool,
    /// The server may say that the head does not repeat what its schema wants, which then is another than is known.
    doubtful: bool,
}

enum Form {
    Json {
        held: BytesMut,
        open: bool,
    },
    Events(Splitter),
    /// An error in the server's own words, which is searched.
    Failure(BytesMut),
    /// Nothing to look at: no body, or an error in the server's own words.
    Other,
}

impl Watch {
    /// Judges the head of an answer.
    pub fn begin(response: &mut ResponseHeader, leave: &Leave) -> Result<Self, UpstreamError> {
        let kind =
            response.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let status = response.status.as_u16();
        if response.headers.contains_key(CONTENT_ENCODING) {
            return Err(UpstreamError::Nonsense("it is compressed though nobody asked for that".into()));
        }
        let length =
            response.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        let limit = leave.server.max_response;
        if leave.screen.is_some() {
            // What is taken out or put in changes the length.
            response.remove_header(&CONTENT_LENGTH);
        }
        let form = match (status, kind.as_str()) {
            (401 | 403, _) if !leave.server.passthrough => return Err(UpstreamError::Credentials(status)),
            (200..=599, "application/json") if length.is_some_and(|length| length > limit) => {
                return Err(UpstreamError::TooLarge(limit));
            }
            (200..=299, "application/json") if leave.id.is_some() && length == Some(0) => {
                return Err(UpstreamError::Nonsense("the answer is empty".into()));
            }
            (200..=299, "application/json") if leave.id.is_some() => {
                Form::Json { held: BytesMut::new(), open: false }
            }
            (200..=299, "text/event-stream") => {
                // A mark before it and an event that does not end are left out, and ids may become longer.
                response.remove_header(&CONTENT_LENGTH);
                Form::Events(Splitter::new(limit))
            }
            // An error may hold a secret as well as a result.
            (400..=599, "application/json") if leave.screen.is_some() => {
                Form::Json { held: BytesMut::new(), open: false }
            }
            (202 | 204, _) if leave.id.is_none() => Form::Other,
            (200..=299, _) if leave.id.is_none() && leave.resume.is_none() => Form::Other,
            (400..=599, "application/json") if leave.screen.is_some() => Form::Failure(BytesMut::new()),
            (400..=599, "application/json") => Form::Other,
            (400..=499, _) => {
                return Err(UpstreamError::Odd(format!("HTTP {status} with content type {kind:?}")));
            }
            _ => return Err(UpstreamError::Nonsense(format!("HTTP {status} with content type {kind:?}"))),
        };
        Ok(Self {
            form,
            id: leave.id.clone(),
            server: leave.server.clone(),
            session: leave.session.clone(),
            readdress: leave.readdress,
            passed: 0,
            answered: false,
            heard: Some(Instant::now()),
            resumable: false,
            modern: leave.era == Era::Modern,
            screen: leave.screen.clone(),
            saw_error: false,
            spoke: false,
            doubtful: status == 400 && leave.era == Era::Modern,
        })
    }

    /// Whether nothing of the body went out yet, so that another can take its place. An answer that is held must be
    /// whole within the time of a call; what streams may take longer, if it is not silent.
    pub fn is_held(&self) -> bool {
        matches!(self.form, Form::Json { open: false, .. } | Form::Failure(_))
    }

    /// Takes the next piece of the body and gives what may go out now.
    pub fn pass(&mut self, piece: Option<Bytes>, end: bool) -> Result<Option<Bytes>, UpstreamError> {
        self.passed += piece.as_ref().map_or(0, Bytes::len);
        if self.doubtful
            && let Some(piece) = &piece
            && memchr::memmem::find(piece, MISMATCH).is_some()
        {
            self.doubtful = false;
            self.server.outdated.notify_one();
        }
        let limit = self.server.max_response;
        match &mut self.form {
            Form::Other if self.passed > limit => Err(UpstreamError::TooLarge(limit)),
            Form::Other => Ok(piece),
            Form::Json { .. } | Form::Failure(_) if self.passed > limit => {
                Err(UpstreamError::TooLarge(limit))
            }
            Form::Json { held, open } => {
                if *open {
                    return Ok(piece);
                }
                // The whole answer in one piece is judged where it lies.
                if end && held.is_empty() {
                    let body = piece.unwrap_or_default();
                    self.saw_error = judge(&body, self.id.as_deref())?;
                    return Ok(Some(screened(self.screen.as_ref(), body)?));
                }
                held.extend_from_slice(&piece.unwrap_or_default());
                if end {
                    let body = std::mem::take(held).freeze();
                    self.saw_error = judge(&body, self.id.as_deref())?;
                    return Ok(Some(screened(self.screen.as_ref(), body)?));
                }
                if held.len() > HELD && self.screen.is_none() {
                    *open = true;
                    // At least what has come must be able to become our answer.
                    if held.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
                        return Err(UpstreamError::Nonsense("the answer is not a JSON object".into()));
                    }
                    return Ok(Some(std::mem::take(held).freeze()));
                }
                Ok(Some(Bytes::new()))
            }
            Form::Failure(held) => {
                held.extend_from_slice(&piece.unwrap_or_default());
                if !end || held.is_empty() {
                    return Ok(Some(Bytes::new()));
                }
                let body = std::mem::take(held).freeze();
                let screen = self.screen.as_ref();
                let clean = match wire::read(&body) {
                    Some(_) => screen.map_or(Ok(None), |screen| screen.message(&body))?,
                    None => screen.map_or(Ok(None), |screen| screen.text(&body))?,
                };
                Ok(Some(clean.unwrap_or(body)))
            }
            Form::Events(_) if self.id.is_some() && self.passed > self.server.bounds.max_stream => {
                Err(UpstreamError::TooLarge(self.server.bounds.max_stream))
            }
            Form::Events(splitter) => {
                splitter.push(&piece.unwrap_or_default());
                let mut out: Option<BytesMut> = None;
                let mut single: Option<Bytes> = None;
                while let Some(event) = splitter.event().map_err(|_| UpstreamError::TooLarge(limit))? {
                    let seen = look(&event, self.id.as_deref(), self.readdress, &self.server)?;
                    if self.modern && seen.asks.is_some() {
                        // 2026-07-28, streamable-http: no requests on this stream. Nobody could answer it either.
                        let words = "it asks its client on the stream of an answer";
                        return Err(UpstreamError::Nonsense(words.into()));
                    }
                    self.answered |= seen.answer;
                    if let (Some(id), Some(session)) = (&seen.asks, &self.session) {
                        session.asked.note(self.server.serial, id);
                    }
                    self.spoke |= seen.said.is_some();
                    if let Some(asks) = seen.said {
                        self.heard = (!asks).then(Instant::now);
                    }
                    self.resumable |= seen.id && !self.modern;
                    self.saw_error |= seen.error;
                    let event = seen.replacement.unwrap_or(event);
                    let event = match &self.screen {
                        Some(screen) => screened_event(screen, event)?,
                        None => event,
                    };
                    match (&mut out, single.take()) {
                        (Some(out), _) => out.extend_from_slice(&event),
                        (None, None) => single = Some(event),
                        (None, Some(first)) => {
                            let mut both = BytesMut::from(&first[..]);
                            both.extend_from_slice(&event);
                            out = Some(both);
                        }
                    }
                }
                if end && self.id.is_some() && !self.answered && !self.resumable {
                    return Err(UpstreamError::Nonsense("the stream ended without an answer".into()));
                }
                // Comments keep a connection open, but they are no answer.
                let patience = self.server.timeout;
                if !self.answered && self.id.is_some() && self.heard.is_some_and(|at| at.elapsed() > patience)
                {
                    return Err(UpstreamError::TimedOut(patience));
                }
                Ok(Some(out.map(BytesMut::freeze).or(single).unwrap_or_default()))
            }
        }
    }
}

fn screened(screen: Option<&Screen>, body: Bytes) -> Result<Bytes, UpstreamError> {
    Ok(screen.map_or(Ok(None), |screen| screen.message(&body))?.unwrap_or(body))
}

fn screened_event(screen: &Screen, event: Bytes) -> Result<Bytes, UpstreamError> {
    let read = sse::read(&event);
    let Some(data) = read.data.clone().filter(|data| !data.is_empty()) else { return Ok(event) };
    let clean = screen.message(&data)?.map(|clean| sse::retold(&read, None, &clean));
    Ok(clean.unwrap_or_else(|| event.clone()))
}

/// Whether a JSON answer answers the request, and if so whether it is an error.
fn judge(body: &[u8], id: Option<&[u8]>) -> Result<bool, UpstreamError> {
    let read = wire::read(body)
        .ok_or_else(|| UpstreamError::Nonsense("the answer is not a JSON-RPC message".into()))?;
    if !read.is_answer() {
        return Err(UpstreamError::Nonsense("the answer has neither a result nor an error".into()));
    }
    fits(&read, body, id)?;
    Ok(read.error.is_some())
}

fn fits(read: &wire::Incoming, message: &[u8], id: Option<&[u8]>) -> Result<(), UpstreamError> {
    match (read.id, id) {
        // An error about a request that the server could not read has no id of it.
        (None, _) if read.error.is_some() => Ok(()),
        (Some(got), _) if read.error.is_some() && got.of(message) == b"null" => Ok(()),
        (Some(got), Some(id)) if wire::same_id(got.of(message), id) => Ok(()),
        (_, None) => Ok(()),
        _ => Err(UpstreamError::Odd("it answers another request".into())),
    }
}

#[derive(Default)]
struct Seen {
    answer: bool,
    error: bool,
    /// It was a message; whether one that asks the client.
    said: Option<bool>,
    /// The server's own id of what it asks the client.
    asks: Option<Bytes>,
    /// The event has an id.
    id: bool,
    replacement: Option<Bytes>,
}

fn look(event: &Bytes, id: Option<&[u8]>, readdress: bool, server: &Server) -> Result<Seen, UpstreamError> {
    let read = sse::read(event);
    let id_there = read.id.is_some();
    // Several servers share the endpoint: a stream can only be resumed at the one that began it.
    let place = read.id.as_deref().filter(|id| readdress && !id.is_empty());
    let place = place.map(|id| address::event_id(id, server));
    let replacement = place.as_deref().map(|place| sse::with_id(event, place));
    let Some(data) = read.data.clone().filter(|data| !data.is_empty()) else {
        return Ok(Seen { id: id_there, replacement, ..Seen::default() });
    };
    let message = wire::read(&data)
        .ok_or_else(|| UpstreamError::Nonsense("an event of the stream is not a JSON-RPC message".into()))?;
    if message.is_answer() {
        fits(&message, &data, id)?;
        return Ok(Seen {
            asks: None,
            answer: true,
            error: message.error.is_some(),
            said: Some(false),
            id: id_there,
            replacement,
        });
    }
    let cancels = || message.method.is_some_and(|method| method.is(&data, address::CANCELLED));
    let moved = match message.id.filter(|_| message.is_request()) {
        _ if !readdress => None,
        Some(_) => Some(address::return_address(&data, &message, server)),
        None if cancels() => address::withdrawn(&data, &message, server),
        None => None,
    };
    let replacement = moved.map(|moved| sse::retold(&read, place.as_deref(), &moved)).or(replacement);
    let asks = message.id.filter(|_| message.is_request()).map(|id| Bytes::copy_from_slice(id.of(&data)));
    Ok(Seen { said: Some(asks.is_some()), asks, id: id_there, replacement, ..Seen::default() })
}
