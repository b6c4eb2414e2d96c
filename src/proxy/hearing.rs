//! The messages of an answer, one after the other: whether each is what may come there, what it says of the call, and how
//! it goes out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use crate::address;
use crate::door::Leave;
use crate::protocol::{sse, wire};
use crate::server::Server;
use crate::session::{Heard, Session};
use crate::upstream::clock::Clock;
use crate::upstream::http::Seat;
use crate::upstream::{Screen, UpstreamError};

/// Reads messages, and keeps what they say of the call.
pub struct Hearing {
    /// The id that the answer must carry, as written.
    pub id: Option<Bytes>,
    pub server: Arc<Server>,
    /// The session that may answer what the server asks, and the seat in which it asks.
    session: Option<(Arc<Session>, Arc<Seat>)>,
    /// The stream is one that was gone on with.
    resumes: bool,
    pub answered: bool,
    /// The answer was an error.
    pub error: bool,
    /// A stream may end before its answer: the client can come back for the rest.
    pub resumable: bool,
    /// Something of a stream was a message: the server works.
    pub spoke: bool,
    /// When the server last said something of the call.
    heard: Instant,
    /// Set once the server has asked its client: it stands still until that has answered.
    clock: Option<Arc<Clock>>,
}

/// What goes out at once: nearly always one piece, which then is not copied.
#[derive(Default)]
pub struct Pieces {
    first: Bytes,
    all: BytesMut,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        if self.first.is_empty() && self.all.is_empty() {
            self.first = piece;
            return;
        }
        self.all.extend_from_slice(&std::mem::take(&mut self.first));
        self.all.extend_from_slice(&piece);
    }

    pub fn joined(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

impl Hearing {
    /// Of the answer to this call, whose head came now.
    pub fn of(leave: &Leave, seat: Option<&Arc<Seat>>, now: Instant) -> Self {
        Self {
            id: leave.id.clone(),
            server: leave.server.clone(),
            session: leave.session.clone().zip(seat.cloned()),
            resumes: leave.resume.is_some(),
            answered: false,
            error: false,
            resumable: false,
            spoke: false,
            heard: now,
            clock: None,
        }
    }

    /// How long the server may still say nothing of the call; none while it waits for its client.
    pub fn left(&self) -> Option<Duration> {
        let patience = self.server.timeout;
        if self.id.is_none() || self.answered {
            return None;
        }
        match &self.clock {
            Some(clock) => clock.left(patience),
            None => Some(patience.saturating_sub(self.heard.elapsed())),
        }
    }

    /// The server said something of the call.
    pub fn heard(&mut self) {
        match &self.clock {
            Some(clock) => clock.heard(),
            None => self.heard = Instant::now(),
        }
    }

    /// Whether many messages may come as one.
    fn has_batches(&self) -> bool {
        self.session.as_ref().is_some_and(|(_, seat)| seat.has_batches())
    }

    /// Whether a message is the answer that is waited for.
    pub fn is_answer(&self, message: &[u8]) -> bool {
        let read = wire::read(message).filter(wire::Incoming::is_answer);
        read.is_some_and(|read| fits(&read, message, self.id.as_deref()).is_ok())
    }

    /// Judges a JSON answer; gives the one that was waited for.
    pub fn judge(&mut self, body: Bytes) -> Result<Bytes, UpstreamError> {
        let nonsense = |words: &str| UpstreamError::Nonsense(words.into());
        let parts = if self.has_batches() { wire::batch(&body) } else { None };
        for message in parts.unwrap_or_else(|| vec![body]) {
            let read =
                wire::read(&message).ok_or_else(|| nonsense("the answer is not a JSON-RPC message"))?;
            if read.is_answer() {
                fits(&read, &message, self.id.as_deref())?;
                (self.answered, self.error) = (true, read.error.is_some());
                return Ok(message);
            }
            // There is no room for anything else in this form, but of a changed list others are told.
            if let Some((session, seat)) = self.session.as_ref().filter(|_| !read.is_request()) {
                session.hear(&self.server, seat.number, &message, &read, None);
            }
        }
        Err(nonsense("the answer has neither a result nor an error"))
    }

    /// Looks at an event and gives on what of it may go to the client.
    pub fn event(
        &mut self,
        event: Bytes,
        screen: Option<&Screen>,
        out: &mut Pieces,
    ) -> Result<(), UpstreamError> {
        let read = sse::read(&event);
        // MCP has no others: what they hold cannot be judged, and no client looks at them.
        if read.is_foreign() {
            return Ok(());
        }
        // A stream can only be gone on with in the seat where it was begun.
        let seat = self.session.as_ref().map(|(_, seat)| seat.number);
        let id = read.id.as_deref().filter(|id| !id.is_empty());
        let place = id.zip(seat).map(|(id, seat)| address::event_id(id, seat));
        self.resumable |= read.id.is_some() && seat.is_some();
        let Some(data) = read.message() else {
            out.push(place.as_deref().map_or_else(|| event.clone(), |place| sse::with_id(&event, place)));
            return Ok(());
        };
        let batch = if self.has_batches() { wire::batch(&Bytes::copy_from_slice(data)) } else { None };
        if let Some(messages) = batch {
            let last = messages.len().saturating_sub(1);
            for (number, message) in messages.iter().enumerate() {
                let heard = self.message(message)?;
                let Some(message) = outward(heard, message, screen)? else { continue };
                // Who goes on after this event has had all of it.
                let place = place.as_deref().filter(|_| number == last);
                out.push(sse::event(place, message.as_deref().unwrap_or(&messages[number])));
            }
            return Ok(());
        }
        let heard = self.message(data)?;
        match outward(heard, data, screen)? {
            None => {}
            Some(Some(message)) => out.push(sse::retold(&read, place.as_deref(), &message)),
            Some(None) => {
                out.push(place.as_deref().map_or_else(|| event.clone(), |place| sse::with_id(&event, place)));
            }
        }
        Ok(())
    }

    fn message(&mut self, message: &[u8]) -> Result<Heard, UpstreamError> {
        let read = wire::read(message).ok_or_else(|| {
            UpstreamError::Nonsense("an event of the stream is not a JSON-RPC message".into())
        })?;
        self.spoke = true;
        self.heard();
        if read.is_answer() {
            fits(&read, message, self.id.as_deref())?;
            self.answered = true;
            self.error |= read.error.is_some();
            if let (true, Some((session, _)), Some(id)) = (self.resumes, &self.session, read.id) {
                session.runs.done(id.of(message));
            }
            return Ok(Heard::AsItIs);
        }
        if self.session.is_none() && read.is_request() {
            // 2026-07-28, streamable-http: no requests on this stream. Nobody could answer it either.
            let words = "it asks its client on the stream of an answer";
            return Err(UpstreamError::Nonsense(words.into()));
        }
        let Some((session, seat)) = &self.session else { return Ok(Heard::AsItIs) };
        // Few servers ask anything.
        let clock = read.is_request().then(|| &*self.clock.get_or_insert_default());
        Ok(session.hear(&self.server, seat.number, message, &read, clock))
    }
}

/// A message as it goes out: none if it does not, none within if it goes as it is.
fn outward(
    heard: Heard,
    message: &[u8],
    screen: Option<&Screen>,
) -> Result<Option<Option<Bytes>>, UpstreamError> {
    let moved = match heard {
        Heard::Not => return Ok(None),
        Heard::As(moved) => Some(moved),
        Heard::AsItIs => None,
    };
    let Some(screen) = screen else { return Ok(Some(moved)) };
    let clean = screen.message(moved.as_deref().unwrap_or(message))?;
    Ok(Some(clean.or(moved)))
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
