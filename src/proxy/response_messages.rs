//! The messages of an answer, one after the other: whether each is what may come there, what it says of the call, and how
//! it goes out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use mcp::Span;
use mcp::json::splice::splice;

use super::response_id;
use super::response_id::Whose;
use crate::dispatch::Leave;
use crate::server::Server;
use crate::session::id_map;
use crate::session::{Heard, Sent, Session, heard_without};
use crate::upstream::call_timer::Clock;
use crate::upstream::http::Seat;
use crate::upstream::{Screen, UpstreamError, WireId};
use mcp::jsonrpc::message;
use mcp::sse;

/// Reads messages, and keeps what they say of the call.
pub struct Hearing {
    /// The id that the client gets its answer under, as written.
    pub id: Option<Bytes>,
    /// What stands in its place, and in that of the progress token, on the way to the server and back.
    pub sent: Sent,
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
    /// What comes belongs to this request: something in it said so, or nothing else was asked where it comes from.
    proven: bool,
    /// Events that wait for that.
    waiting: Pieces,
    /// An error has come that names no request: after it nothing on this connection can be told apart.
    pub nameless: bool,
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

    fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    pub fn joined(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

impl Hearing {
    /// Of the answer to this call, whose head came now. `certain`: nothing else was asked on its connection.
    pub fn of(leave: &Leave, seat: Option<&Arc<Seat>>, certain: bool, now: Instant) -> Self {
        Self {
            id: leave.id.clone(),
            sent: leave.sent.clone(),
            proven: certain,
            waiting: Pieces::default(),
            nameless: false,
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

    /// Judges a JSON answer; gives the one that was waited for, under the client's id.
    /// It will be `length` long in the end, if that is known.
    pub fn judge(&mut self, body: Bytes, length: Option<usize>) -> Result<Bytes, UpstreamError> {
        let nonsense = || UpstreamError::Nonsense("the answer has neither a result nor an error".into());
        let parts = if self.has_batches() { message::batch(&body) } else { None };
        let Some(parts) = parts else { return self.part(body, length)?.ok_or_else(nonsense) };
        for part in parts {
            if let Some(answer) = self.part(part, length)? {
                return Ok(answer);
            }
        }
        Err(nonsense())
    }

    /// The answer that was waited for, if a message of a JSON answer is that.
    fn part(&mut self, message: Bytes, length: Option<usize>) -> Result<Option<Bytes>, UpstreamError> {
        let read = message::read(&message)
            .ok_or_else(|| UpstreamError::Nonsense("the answer is not a JSON-RPC message".into()))?;
        if read.is_answer() {
            let whose = response_id::of(&read, &message, &self.sent.wire)?;
            self.believe(whose)?;
            (self.answered, self.error) = (true, read.error.is_some());
            let Some(id) = &self.id else { return Ok(Some(message)) };
            return Ok(Some(response_id::home(message, &read, id, length.unwrap_or_default())));
        }
        // There is no room for anything else in this form, but of a changed list others are told.
        if let Some((session, seat)) = self.session.as_ref().filter(|_| !read.is_request()) {
            session.hear(&self.server, seat.number, &message, &read, None);
        }
        Ok(None)
    }

    /// Judges the body of an error of HTTP, in whatever words. Gives it with the client's id, and whether it is a message.
    pub fn failure(&mut self, body: Bytes) -> Result<(Bytes, bool), UpstreamError> {
        let read = message::read(&body).filter(message::Incoming::is_answer);
        let (Some(read), Some(id)) = (read, self.id.clone()) else {
            self.believe(Whose::Nobodys)?;
            return Ok((body, false));
        };
        let whose = match response_id::of(&read, &body, &self.sent.wire) {
            // Servers that have read nothing of a request write what they like for its id.
            Err(_) if read.error.is_some() && !read.id.is_some_and(|id| WireId::is_one(id.of(&body))) => {
                Whose::Nobodys
            }
            whose => whose?,
        };
        self.believe(whose)?;
        Ok((response_id::home(body, &read, &id, 0), true))
    }

    /// What names no request is the answer to this one where nothing else can be meant. After it the connection is not used
    /// again.
    fn believe(&mut self, whose: Whose) -> Result<(), UpstreamError> {
        if whose == Whose::Nobodys {
            self.nameless = true;
            return if self.proven { Ok(()) } else { Err(UpstreamError::Nameless) };
        }
        Ok(())
    }

    /// Looks at an event and gives on what of it may go to the client; `limit` bounds what has to wait.
    pub fn event(
        &mut self,
        event: BytesMut,
        screen: Option<&Screen>,
        limit: usize,
        out: &mut Pieces,
    ) -> Result<(), UpstreamError> {
        let mut passed = Pieces::default();
        let is_message = self.heed(event, screen, &mut passed)?;
        if !self.proven && !is_message {
            // It keeps connections open, and says nothing.
            out.push(Bytes::from_static(sse::KEEP_ALIVE));
            return Ok(());
        }
        if !self.proven {
            self.waiting.push(passed.joined());
            if self.waiting.len() > limit {
                return Err(UpstreamError::TooLarge(limit));
            }
            return Ok(());
        }
        if self.waiting.len() > 0 {
            out.push(std::mem::take(&mut self.waiting).joined());
        }
        out.push(passed.joined());
        Ok(())
    }

    /// Gives whether it was there for the sake of a message.
    fn heed(
        &mut self,
        event: BytesMut,
        screen: Option<&Screen>,
        out: &mut Pieces,
    ) -> Result<bool, UpstreamError> {
        let read = sse::read(&event);
        // MCP has no others: what they hold cannot be judged, and no client looks at them.
        if read.is_foreign() {
            return Ok(true);
        }
        // A stream can only be gone on with in the seat where it was begun.
        let seat = self.session.as_ref().map(|(_, seat)| seat.number);
        let id = read.id.as_deref().filter(|id| !id.is_empty());
        let place = id.zip(seat).map(|(id, seat)| id_map::event_id(id, seat));
        self.resumable |= read.id.is_some() && seat.is_some();
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
                let heard = self.message(message)?;
                let Some(message) = outward(heard, message, screen)? else { continue };
                // Who goes on after this event has had all of it.
                let place = place.as_deref().filter(|_| number == last);
                out.push(sse::event(place, message.as_deref().unwrap_or(&messages[number])));
            }
            return Ok(true);
        }
        let heard = self.message(data)?;
        // Nearly always on one line: then only the id is touched, where it lies.
        let within = (data.as_ptr() as usize).checked_sub(event.as_ptr() as usize);
        let within = within.filter(|at| at + data.len() <= event.len());
        if let (Said::Edited(place, word), None, Some(at)) = (&heard, screen, within) {
            let place = Span { start: at + place.start, end: at + place.end };
            let word = word.clone();
            drop(read);
            out.push(placed(splice(event, place, &word)));
            return Ok(true);
        }
        match outward(heard, data, screen)? {
            None => {}
            Some(Some(message)) => out.push(sse::retold(&read, place.as_deref(), &message)),
            Some(None) => {
                drop(read);
                out.push(placed(event.freeze()));
            }
        }
        Ok(true)
    }

    fn message(&mut self, message: &[u8]) -> Result<Said, UpstreamError> {
        let read = message::read(message).ok_or_else(|| {
            UpstreamError::Nonsense("an event of the stream is not a JSON-RPC message".into())
        })?;
        self.spoke = true;
        self.heard();
        if read.is_answer() {
            return self.answer(message, &read);
        }
        if self.session.is_none() && read.is_request() {
            // 2026-07-28, streamable-http: no requests on this stream. Nobody could answer it either.
            let words = "it asks its client on the stream of an answer";
            return Err(UpstreamError::Nonsense(words.into()));
        }
        if let Some(token) = id_map::progresses(message, &read) {
            if message::same_id(token.of(message), &self.sent.wire) {
                self.proven = true;
                return Ok(self.sent.token.clone().map_or(Said::Nothing, |own| Said::Edited(token, own)));
            }
            if self.session.is_none() && WireId::is_one(token.of(message)) {
                return Ok(Said::Nothing);
            }
        }
        let Some((session, seat)) = &self.session else {
            let passes = heard_without(&self.server, message, &read);
            return Ok(if passes { Said::AsItIs } else { Said::Nothing });
        };
        // Few servers ask anything.
        let clock = read.is_request().then(|| &*self.clock.get_or_insert_default());
        Ok(match session.hear(&self.server, seat.number, message, &read, clock) {
            Heard::AsItIs => Said::AsItIs,
            Heard::As(other) => Said::As(other),
            Heard::Not => Said::Nothing,
        })
    }

    fn answer(&mut self, message: &[u8], read: &message::Incoming) -> Result<Said, UpstreamError> {
        if let (true, Some((session, _)), Some(got)) = (self.resumes, &self.session, read.id) {
            // Of whatever request of the session the stream was; what none has asked nobody waits for.
            let Some(known) = session.runs.known_as(got.of(message)) else { return Ok(Said::Nothing) };
            session.runs.done(&known.id);
            self.answered = true;
            self.error |= read.error.is_some();
            return Ok(Said::Edited(got, known.id));
        }
        let whose = response_id::of(read, message, &self.sent.wire)?;
        self.believe(whose)?;
        self.answered = true;
        self.error |= read.error.is_some();
        self.proven = true;
        Ok(match (&self.id, read.id) {
            (Some(id), Some(place)) => Said::Edited(place, id.clone()),
            (Some(id), None) => Said::As(response_id::home(Bytes::copy_from_slice(message), read, id, 0)),
            (None, _) => Said::AsItIs,
        })
    }
}

/// What becomes of a message.
enum Said {
    AsItIs,
    As(Bytes),
    /// With a word in the place of a value.
    Edited(Span, Bytes),
    /// It is not for the client.
    Nothing,
}

/// A message as it goes out: none if it does not, none within if it goes as it is.
fn outward(
    said: Said,
    message: &[u8],
    screen: Option<&Screen>,
) -> Result<Option<Option<Bytes>>, UpstreamError> {
    let moved = match said {
        Said::Nothing => return Ok(None),
        Said::As(moved) => Some(moved),
        Said::Edited(place, word) => Some(splice(BytesMut::from(message), place, &word)),
        Said::AsItIs => None,
    };
    let Some(screen) = screen else { return Ok(Some(moved)) };
    let clean = screen.message(moved.as_deref().unwrap_or(message))?;
    Ok(Some(clean.or(moved)))
}
