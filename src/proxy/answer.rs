//! Looking at a server's answer while it streams through: is it MCP, does it answer *this* request, does it end?
//!
//! Events and bytes pass as they came. Held back is only what cannot be judged yet: the event that has not ended,
//! and a JSON answer up to [`HELD`], so that a wrong one can still become a clean error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use filters::Era;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use pingora::http::ResponseHeader;

use super::hearing::{Hearing, Pieces};
use crate::config;
use crate::door::Leave;
use crate::protocol::sse::Splitter;
use crate::upstream::answers::{kind_of, refusal_words};
use crate::upstream::coding::Decoder;
use crate::upstream::http::Seat;
use crate::upstream::retry::retry_after;
use crate::upstream::{Screen, UpstreamError, moved};

/// JSON answers up to this size are judged before their first byte goes out. A client can do nothing with a part
/// of one, so holding costs it no time; of longer ones only the beginning is looked at, to bound the memory.
const HELD: usize = 1024 * 1024;

/// What of a refusal is read.
const DENIAL: usize = 4096;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The code of a head that does not agree with its body (2026-07-28, streamable-http).
const MISMATCH: &[u8] = b"-32020";

pub struct Watch {
    form: Form,
    /// Its messages.
    reader: Hearing,
    passed: usize,
    screen: Option<Screen>,
    /// The server may say that the head does not repeat what its schema wants, which then is another than is known.
    doubtful: bool,
    decoder: Option<Decoder>,
    /// The status of an error without a content type.
    odd: Option<u16>,
}

enum Form {
    Json {
        held: BytesMut,
        open: bool,
    },
    Events(Splitter),
    /// An error in the server's own words, which is searched.
    Failure(BytesMut),
    /// Why the gateway, which has no credentials to give, is refused.
    Denial {
        status: u16,
        kind: String,
        held: BytesMut,
    },
    /// Nothing to look at: no body, or an error in the server's own words.
    Other,
}

impl Watch {
    /// Judges the head of an answer, which came now.
    pub fn begin(
        response: &mut ResponseHeader,
        leave: &Leave,
        seat: Option<&Arc<Seat>>,
        now: Instant,
    ) -> Result<Self, UpstreamError> {
        let kind = kind_of(&response.headers);
        let status = response.status.as_u16();
        if response.status.is_redirection() {
            return Err(moved::elsewhere(status, &response.headers));
        }
        let decoder = Decoder::of(&response.headers)?;
        let length =
            response.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        let limit = leave.server.max_response;
        // Some call it so, or nothing. Of what has no type its body tells.
        let untyped = kind.is_empty()
            && leave.id.is_some()
            && length != Some(0)
            && (status == 200 || response.status.is_client_error());
        let kind = match kind.as_str() {
            "text/json" | "application/json-rpc" => "application/json",
            kind => kind,
        };
        if decoder.is_some() || leave.screen.is_some() || seat.is_some_and(|seat| seat.has_batches()) {
            // What is taken out or put in changes the length.
            response.remove_header(&CONTENT_LENGTH);
        }
        if kind == "application/json" || untyped {
            response
                .insert_header(CONTENT_TYPE, JSON)
                .map_err(|_| nonsense("its head cannot be passed on"))?;
        }
        let form = match (status, kind) {
            (401 | 403, _) if !leave.server.passthrough => {
                if leave.server.config.credentials != config::Credentials::None {
                    return Err(UpstreamError::Credentials(status));
                }
                // With what it secures, it may say what it likes.
                if kind.is_empty() || length == Some(0) || leave.screen.is_some() {
                    return Err(UpstreamError::Denied(status, String::new()));
                }
                let kind = kind.to_owned();
                response.remove_header(&CONTENT_LENGTH);
                response
                    .insert_header(CONTENT_TYPE, JSON)
                    .map_err(|_| nonsense("its head cannot be passed on"))?;
                response
                    .set_status(StatusCode::BAD_GATEWAY)
                    .map_err(|_| nonsense("its head cannot be passed on"))?;
                Form::Denial { status, kind, held: BytesMut::new() }
            }
            (_, "") if untyped => {
                response.remove_header(&CONTENT_LENGTH);
                Form::Json { held: BytesMut::new(), open: false }
            }
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
            (202 | 204, _) if leave.id.is_none() => Form::Other,
            (200..=299, _) if leave.id.is_none() && leave.resume.is_none() => Form::Other,
            // An error may hold a secret as well as a result.
            (400..=599, "application/json") if leave.screen.is_some() => Form::Failure(BytesMut::new()),
            (400..=599, "application/json") => Form::Other,
            (429 | 503, _) => return Err(UpstreamError::Later(status, retry_after(&response.headers))),
            (400..=499, _) => {
                return Err(UpstreamError::Odd(format!("HTTP {status} with content type {kind:?}")));
            }
            _ => return Err(UpstreamError::Nonsense(format!("HTTP {status} with content type {kind:?}"))),
        };
        let reader = Hearing::of(leave, seat, now);
        let doubtful = status == 400 && leave.era == Era::Modern;
        let odd = (untyped && status >= 400).then_some(status);
        Ok(Self { form, reader, passed: 0, screen: leave.screen.clone(), doubtful, decoder, odd })
    }

    /// Whether the answer was an error.
    pub fn saw_error(&self) -> bool {
        self.reader.error
    }

    /// Whether something of a stream was a message: the server works.
    pub fn spoke(&self) -> bool {
        self.reader.spoke
    }

    /// Whether nothing is to come any more of the request.
    pub fn is_answered(&self) -> bool {
        self.reader.answered || matches!(self.form, Form::Failure(_) | Form::Other)
    }

    /// How long the server may still say nothing of the call; none while it waits for its client.
    pub fn left(&self) -> Option<Duration> {
        self.reader.left()
    }

    /// Whether nothing of the body went out yet, so that another can take its place. An answer that is held must be
    /// whole within the time of a call; what streams may take longer, if it is not silent.
    pub fn is_held(&self) -> bool {
        matches!(self.form, Form::Json { open: false, .. } | Form::Failure(_) | Form::Denial { .. })
    }

    /// Whether it is a stream of events, which goes out as it comes.
    pub fn is_stream(&self) -> bool {
        matches!(self.form, Form::Events(_))
    }

    /// Takes the next piece of the body and gives what may go out now.
    pub fn pass(&mut self, piece: Option<Bytes>, end: bool) -> Result<Option<Bytes>, UpstreamError> {
        let passed = match self.decoder.take() {
            None => self.look(piece, end),
            Some(mut decoder) => {
                let passed = self.decoded(&mut decoder, &piece.unwrap_or_default(), end);
                self.decoder = Some(decoder);
                passed
            }
        };
        if end && passed.is_ok() && self.is_held() {
            // It goes out whole: nothing can take its place any more.
            self.form = Form::Other;
        }
        passed
    }

    /// Looks at what a piece of a compressed body stands for, a bounded part of it at a time.
    fn decoded(
        &mut self,
        decoder: &mut Decoder,
        piece: &[u8],
        end: bool,
    ) -> Result<Option<Bytes>, UpstreamError> {
        let (limit, mut out) = (self.reader.server.max_response, BytesMut::new());
        decoder.decode(piece, |text| {
            out.extend_from_slice(&self.look(Some(Bytes::copy_from_slice(text)), false)?.unwrap_or_default());
            if out.len() > limit { Err(UpstreamError::TooLarge(limit)) } else { Ok(()) }
        })?;
        if end {
            decoder.finish()?;
            out.extend_from_slice(&self.look(None, true)?.unwrap_or_default());
        }
        Ok(Some(out.freeze()))
    }

    fn look(&mut self, piece: Option<Bytes>, end: bool) -> Result<Option<Bytes>, UpstreamError> {
        self.passed += piece.as_ref().map_or(0, Bytes::len);
        if self.doubtful
            && let Some(piece) = &piece
            && memchr::memmem::find(piece, MISMATCH).is_some()
        {
            self.doubtful = false;
            self.reader.server.outdated.notify_one();
        }
        let (limit, reader, screen) =
            (self.reader.server.max_response, &mut self.reader, self.screen.as_ref());
        match &mut self.form {
            Form::Other if self.passed > limit => Err(UpstreamError::TooLarge(limit)),
            Form::Other => Ok(piece),
            Form::Json { .. } | Form::Failure(_) if self.passed > limit => {
                Err(UpstreamError::TooLarge(limit))
            }
            Form::Json { held, open } => {
                if *open {
                    // It comes, and may take longer, as a stream may.
                    reader.heard();
                    reader.answered |= end;
                    return Ok(piece);
                }
                // The whole answer in one piece is judged where it lies.
                if end {
                    let body = if held.is_empty() {
                        piece.unwrap_or_default()
                    } else {
                        held.extend_from_slice(&piece.unwrap_or_default());
                        std::mem::take(held).freeze()
                    };
                    let body = match (reader.judge(body), self.odd) {
                        (Err(_), Some(status)) => {
                            return Err(UpstreamError::Odd(format!("HTTP {status} without a content type")));
                        }
                        (judged, _) => judged?,
                    };
                    return Ok(Some(screened(screen, body)?));
                }
                held.extend_from_slice(&piece.unwrap_or_default());
                if held.len() > HELD && screen.is_none() {
                    *open = true;
                    reader.heard();
                    // At least what has come must be able to become our answer.
                    if held.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
                        return Err(UpstreamError::Nonsense("the answer is not a JSON object".into()));
                    }
                    return Ok(Some(std::mem::take(held).freeze()));
                }
                Ok(Some(Bytes::new()))
            }
            Form::Denial { status, kind, held } => {
                held.extend_from_slice(&piece.unwrap_or_default());
                if !end && held.len() < DENIAL {
                    return Ok(Some(Bytes::new()));
                }
                Err(UpstreamError::Denied(*status, refusal_words(kind, held)))
            }
            Form::Failure(held) => {
                held.extend_from_slice(&piece.unwrap_or_default());
                if !end || held.is_empty() {
                    return Ok(Some(Bytes::new()));
                }
                let body = std::mem::take(held).freeze();
                // A text in another encoding would pass unseen.
                if std::str::from_utf8(&body).is_err() {
                    return Err(UpstreamError::Nonsense("its answer cannot be searched".into()));
                }
                let clean = match screen {
                    // Of an answer its skeleton is for programs, and stays.
                    Some(screen) if reader.is_answer(&body) => screen.message(&body)?,
                    Some(screen) => screen.text(&body)?,
                    None => None,
                };
                Ok(Some(clean.unwrap_or(body)))
            }
            Form::Events(_) if reader.id.is_some() && self.passed > reader.server.bounds.max_stream => {
                Err(UpstreamError::TooLarge(reader.server.bounds.max_stream))
            }
            Form::Events(splitter) => {
                splitter.push(&piece.unwrap_or_default());
                if end {
                    splitter.finish();
                }
                let mut out = Pieces::default();
                while let Some(event) = splitter.event().map_err(|_| UpstreamError::TooLarge(limit))? {
                    reader.event(event, screen, &mut out)?;
                }
                if end && reader.id.is_some() && !reader.answered && !reader.resumable {
                    return Err(UpstreamError::Nonsense("the stream ended without an answer".into()));
                }
                // Comments keep a connection open, but they are no answer.
                if reader.left() == Some(Duration::ZERO) {
                    return Err(UpstreamError::TimedOut(reader.server.timeout));
                }
                Ok(Some(out.joined()))
            }
        }
    }
}

fn nonsense(words: &str) -> UpstreamError {
    UpstreamError::Nonsense(words.into())
}

fn screened(screen: Option<&Screen>, body: Bytes) -> Result<Bytes, UpstreamError> {
    Ok(screen.map_or(Ok(None), |screen| screen.message(&body))?.unwrap_or(body))
}
