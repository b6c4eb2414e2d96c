//! The messages of a response, one after the other: whether each is allowed there, what it says about the
//! call, and how it goes out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mcp::Span;
use mcp::json::splice::splice;

use super::response_id;
use super::response_id::IdOwner;
use crate::exchange::UpstreamRequest;
use crate::server::Server;
use crate::session::id_map;
use crate::session::{Rewrite, SentIds, Session, accept_without_session};
use crate::upstream::call_timer::CallTimer;
use crate::upstream::http::UpstreamSession;
use crate::upstream::{ResponseRedactor, UpstreamError, WireId};
use mcp::jsonrpc::message;
use mcp::sse;

/// Reads messages, and keeps what they say about the call.
pub struct MessageReader {
    /// The id under which the client gets its response, as written.
    pub id: Option<Bytes>,
    /// The ids that replace it and the progress token on the way to the server and back.
    pub sent: SentIds,
    pub server: Arc<Server>,
    /// The session that may answer the server's requests, and the upstream session in which the server
    /// sends them.
    session: Option<(Arc<Session>, Arc<UpstreamSession>)>,
    /// The stream is a resumed one.
    resumes: bool,
    pub answered: bool,
    /// The response was an error.
    pub error: bool,
    /// A stream may end before its response, because the client can resume it.
    pub resumable: bool,
    /// The stream has contained a message: the server works.
    pub has_messages: bool,
    /// The content belongs to this request: a message in it proves it, or nothing else was requested on its
    /// connection.
    proven: bool,
    /// Events that wait for this proof.
    pending: Chunks,
    /// An error that names no request has arrived: after it, responses on this connection cannot be
    /// attributed any more.
    pub nameless: bool,
    /// When the server last sent something about the call.
    last_activity: Instant,
    /// Set once the server has sent its client a request: the timer is paused until the client has
    /// answered.
    timer: Option<Arc<CallTimer>>,
}

/// What goes out at once: nearly always one chunk, which then is not copied.
#[derive(Default)]
pub struct Chunks {
    first: Bytes,
    all: BytesMut,
}

impl Chunks {
    fn push(&mut self, piece: Bytes) {
        if self.first.is_empty() && self.all.is_empty() {
            self.first = piece;
            return;
        }
        self.all.extend_from_slice(&std::mem::take(&mut self.first));
        self.all.extend_from_slice(&piece);
    }

    fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    pub fn joined(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

impl MessageReader {
    /// A reader for the response to this call, whose head arrived now. `certain`: nothing else was
    /// requested on its connection.
    pub fn of(
        upstream_request: &UpstreamRequest,
        upstream_session: Option<&Arc<UpstreamSession>>,
        certain: bool,
        now: Instant,
    ) -> Self {
        Self {
            id: upstream_request.id().cloned(),
            sent: upstream_request.as_call().map_or_else(SentIds::untracked, |call| call.sent.clone()),
            proven: certain,
            pending: Chunks::default(),
            nameless: false,
            server: upstream_request.server.clone(),
            session: upstream_request.session().cloned().zip(upstream_session.cloned()),
            resumes: upstream_request.resumes(),
            answered: false,
            error: false,
            resumable: false,
            has_messages: false,
            last_activity: now,
            timer: None,
        }
    }

    /// Remaining time in which the server may stay silent about the call; `None` while it waits for its
    /// client.
    pub fn remaining(&self) -> Option<Duration> {
        let timeout = self.server.timeout;
        if self.id.is_none() || self.answered {
            return None;
        }
        match &self.timer {
            Some(timer) => timer.remaining(timeout),
            None => Some(timeout.saturating_sub(self.last_activity.elapsed())),
        }
    }

    /// The server sent something about the call.
    pub fn is_alive_at(&mut self) {
        match &self.timer {
            Some(timer) => timer.activity(),
            None => self.last_activity = Instant::now(),
        }
    }

    /// Whether many messages may come as one.
    fn has_batches(&self) -> bool {
        self.session.as_ref().is_some_and(|(_, upstream_session)| upstream_session.has_batches())
    }

    /// Validates a JSON response and returns the expected message under the client's id. `length` is its
    /// final length, if known.
    pub fn validate(&mut self, body: Bytes, length: Option<usize>) -> Result<Bytes, UpstreamError> {
        let nonsense =
            || UpstreamError::InvalidResponse("the answer has neither a result nor an error".into());
        let parts = if self.has_batches() { message::batch(&body) } else { None };
        let Some(parts) = parts else { return self.part(body, length)?.ok_or_else(nonsense) };
        for part in parts {
            if let Some(answer) = self.part(part, length)? {
                return Ok(answer);
            }
        }
        Err(nonsense())
    }

    /// The expected response, if this message of a JSON response is that.
    fn part(&mut self, message: Bytes, length: Option<usize>) -> Result<Option<Bytes>, UpstreamError> {
        let read = message::read(&message)
            .ok_or_else(|| UpstreamError::InvalidResponse("the answer is not a JSON-RPC message".into()))?;
        if read.is_response() {
            let whose = response_id::of(&read, &message, &self.sent.wire)?;
            self.believe(whose)?;
            (self.answered, self.error) = (true, read.error.is_some());
            let Some(id) = &self.id else { return Ok(Some(message)) };
            return Ok(Some(response_id::with_client_id(message, &read, id, length.unwrap_or_default())));
        }
        // Other messages are not allowed in this form, but a list change is forwarded to other sessions.
        if let Some((session, upstream_session)) = self.session.as_ref().filter(|_| !read.is_request()) {
            session.on_server_message(&self.server, upstream_session.id, &message, &read, None);
        }
        Ok(None)
    }

    /// Validates the body of an HTTP error in any format. Returns it with the client's id, and whether it
    /// is a message.
    pub fn failure(&mut self, body: Bytes) -> Result<(Bytes, bool), UpstreamError> {
        let read = message::read(&body).filter(message::ServerMessage::is_response);
        let (Some(read), Some(id)) = (read, self.id.clone()) else {
            self.believe(IdOwner::Nobodys)?;
            return Ok((body, false));
        };
        let whose = match response_id::of(&read, &body, &self.sent.wire) {
            // Servers that could not read a request may write any id.
            Err(_) if read.error.is_some() && !read.id.is_some_and(|id| WireId::is_one(id.of(&body))) => {
                IdOwner::Nobodys
            }
            whose => whose?,
        };
        self.believe(whose)?;
        Ok((response_id::with_client_id(body, &read, &id, 0), true))
    }

    /// A response that names no request belongs to this one if no other can be meant. After it, the
    /// connection is not reused.
    fn believe(&mut self, whose: IdOwner) -> Result<(), UpstreamError> {
        if whose == IdOwner::Nobodys {
            self.nameless = true;
            return if self.proven { Ok(()) } else { Err(UpstreamError::Nameless) };
        }
        Ok(())
    }

    /// Inspects an event and adds to `out` what may go to the client; `limit` bounds what has to wait.
    pub fn event(
        &mut self,
        event: BytesMut,
        redactor: Option<&ResponseRedactor>,
        limit: usize,
        out: &mut Chunks,
    ) -> Result<(), UpstreamError> {
        let mut passed = Chunks::default();
        let is_message = self.on_server_message(event, redactor, &mut passed)?;
        if !self.proven && !is_message {
            // It keeps connections open and carries no message.
            out.push(Bytes::from_static(sse::KEEP_ALIVE));
            return Ok(());
        }
        if !self.proven {
            self.pending.push(passed.joined());
            if self.pending.len() > limit {
                return Err(UpstreamError::TooLarge(limit));
            }
            return Ok(());
        }
        if self.pending.len() > 0 {
            out.push(std::mem::take(&mut self.pending).joined());
        }
        out.push(passed.joined());
        Ok(())
    }

    /// Returns whether the event was there for a message.
    fn on_server_message(
        &mut self,
        event: BytesMut,
        redactor: Option<&ResponseRedactor>,
        out: &mut Chunks,
    ) -> Result<bool, UpstreamError> {
        let read = sse::read(&event);
        // MCP has no other event types: their content cannot be validated, and no client reads them.
        if read.is_other_event_type() {
            return Ok(true);
        }
        // A stream can only be resumed in the upstream session where it began.
        let upstream_session = self.session.as_ref().map(|(_, upstream_session)| upstream_session.id);
        let id = read.id.as_deref().filter(|id| !id.is_empty());
        let place =
            id.zip(upstream_session).map(|(id, upstream_session)| id_map::event_id(id, upstream_session));
        self.resumable |= read.id.is_some() && upstream_session.is_some();
        let placed =
            |event: Bytes| place.as_deref().map_or(event.clone(), |place| sse::with_id(&event, place));
        let Some(data) = read.message() else {
            drop(read);
            out.push(placed(event.freeze()));
            return Ok(false);
        };
        let batch = if self.has_batches() { message::batch(&Bytes::copy_from_slice(data)) } else { None };
        if let Some(messages) = batch {
            let last = messages.len().saturating_sub(1);
            for (number, message) in messages.iter().enumerate() {
                let read_message = self.message(message)?;
                let Some(message) = to_client(read_message, message, redactor)? else { continue };
                // A client that resumes after this event has received all of it.
                let place = place.as_deref().filter(|_| number == last);
                out.push(sse::event(place, message.as_deref().unwrap_or(&messages[number])));
            }
            return Ok(true);
        }
        let read_message = self.message(data)?;
        // Nearly always on one line: then only the id is changed, in place.
        let within = (data.as_ptr() as usize).checked_sub(event.as_ptr() as usize);
        let within = within.filter(|at| at + data.len() <= event.len());
        if let (ClientMessage::Edited(place, value), None, Some(at)) = (&read_message, redactor, within) {
            let place = Span { start: at + place.start, end: at + place.end };
            let value = value.clone();
            drop(read);
            out.push(placed(splice(event, place, &value)));
            return Ok(true);
        }
        match to_client(read_message, data, redactor)? {
            None => {}
            Some(Some(message)) => out.push(sse::with_message(&read, place.as_deref(), &message)),
            Some(None) => {
                drop(read);
                out.push(placed(event.freeze()));
            }
        }
        Ok(true)
    }

    fn message(&mut self, message: &[u8]) -> Result<ClientMessage, UpstreamError> {
        let read = message::read(message).ok_or_else(|| {
            UpstreamError::InvalidResponse("an event of the stream is not a JSON-RPC message".into())
        })?;
        self.has_messages = true;
        self.is_alive_at();
        if read.is_response() {
            return self.answer(message, &read);
        }
        if self.session.is_none() && read.is_request() {
            // 2026-07-28, streamable-http: no requests on this stream. No client could answer them either.
            let text = "it asks its client on the stream of an answer";
            return Err(UpstreamError::InvalidResponse(text.into()));
        }
        if let Some(token) = id_map::progress_token(message, &read) {
            if message::same_id(token.of(message), &self.sent.wire) {
                self.proven = true;
                return Ok(self
                    .sent
                    .token
                    .clone()
                    .map_or(ClientMessage::Drop, |own| ClientMessage::Edited(token, own)));
            }
            if self.session.is_none() && WireId::is_one(token.of(message)) {
                return Ok(ClientMessage::Drop);
            }
        }
        let Some((session, upstream_session)) = &self.session else {
            let passes = accept_without_session(&self.server, message, &read);
            return Ok(if passes { ClientMessage::Unchanged } else { ClientMessage::Drop });
        };
        // Few servers send requests.
        let timer = read.is_request().then(|| &*self.timer.get_or_insert_default());
        Ok(match session.on_server_message(&self.server, upstream_session.id, message, &read, timer) {
            Rewrite::Unchanged => ClientMessage::Unchanged,
            Rewrite::Replaced(other) => ClientMessage::Replaced(other),
            Rewrite::Drop => ClientMessage::Drop,
        })
    }

    fn answer(
        &mut self,
        message: &[u8],
        read: &message::ServerMessage,
    ) -> Result<ClientMessage, UpstreamError> {
        if let (true, Some((session, _)), Some(got)) = (self.resumes, &self.session, read.id) {
            // The stream may belong to any request of the session; a response that was not requested is
            // dropped.
            let Some(known) = session.in_flight.answered_as(got.of(message)) else {
                return Ok(ClientMessage::Drop);
            };
            session.in_flight.remove(&known.id);
            self.answered = true;
            self.error |= read.error.is_some();
            return Ok(ClientMessage::Edited(got, known.id));
        }
        let whose = response_id::of(read, message, &self.sent.wire)?;
        self.believe(whose)?;
        self.answered = true;
        self.error |= read.error.is_some();
        self.proven = true;
        Ok(match (&self.id, read.id) {
            (Some(id), Some(place)) => ClientMessage::Edited(place, id.clone()),
            (Some(id), None) => ClientMessage::Replaced(response_id::with_client_id(
                Bytes::copy_from_slice(message),
                read,
                id,
                0,
            )),
            (None, _) => ClientMessage::Unchanged,
        })
    }
}

/// What happens to a message.
enum ClientMessage {
    Unchanged,
    Replaced(Bytes),
    /// With other bytes in the place of a value.
    Edited(Span, Bytes),
    /// It is not for the client.
    Drop,
}

/// A message as it goes out: `None` if it is dropped, an inner `None` if it is unchanged.
fn to_client(
    message_kind: ClientMessage,
    message: &[u8],
    redactor: Option<&ResponseRedactor>,
) -> Result<Option<Option<Bytes>>, UpstreamError> {
    let moved = match message_kind {
        ClientMessage::Drop => return Ok(None),
        ClientMessage::Replaced(moved) => Some(moved),
        ClientMessage::Edited(place, value) => Some(splice(BytesMut::from(message), place, &value)),
        ClientMessage::Unchanged => None,
    };
    let Some(redactor) = redactor else { return Ok(Some(moved)) };
    let clean = redactor.message(moved.as_deref().unwrap_or(message))?;
    Ok(Some(clean.or(moved)))
}
