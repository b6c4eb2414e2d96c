//! Validates a server's response while it streams through: is it MCP, does it answer *this* request, is it
//! complete?
//!
//! Events and bytes pass unchanged, with the client's id in the place of the gateway's. Only what cannot be
//! validated yet is held back: an unfinished event, and a JSON response up to [`HOLD_LIMIT`], so that a
//! wrong one can still become a clean error. In a longer response, the id is searched while it streams
//! (`scan`).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;

use super::long_response_id::ResponseIdScanner;
use super::response_messages::{Chunks, MessageReader};
use crate::exchange::{ForwardedCall, UpstreamRequest};
use crate::upstream::http::content_coding::Decoder;
use crate::upstream::http::response::rejection_text;
use crate::upstream::{ResponseRedactor, UpstreamError};
use mcp::jsonrpc::message;
use mcp::sse::EventSplitter;

mod begin;

/// An HTTP error without content where a message is due.
fn empty_failure(status: u16) -> UpstreamError {
    let why = format!("HTTP {status} without a body");
    if status < 500 { UpstreamError::ClientCaused(why) } else { UpstreamError::InvalidResponse(why) }
}

/// JSON responses up to this size, in bytes, are validated before their first byte goes out. A client
/// cannot use a part of one, so holding costs it no time. Of longer responses only the beginning is
/// inspected, to bound the memory.
const HOLD_LIMIT: usize = 1024 * 1024;

/// Bytes of a refusal that are read.
const DENIAL: usize = 4096;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// White space after a response: space for an id that is missing or null, since the length goes out before
/// the response is validated.
const ID_MEMBER: usize = br#""id":,"#.len() + 21;
/// The same for a short response, which the gateway's own error may have to replace.
const SHORT_PADDING: usize = 320;
/// Longer than any error that has no id.
const LONG_STRING: usize = 4096;

/// The framing of a response on both sides.
#[derive(Clone, Copy, Debug)]
pub struct BodyFraming {
    /// Nothing else was requested on its connection, or by no other client: the content belongs to this
    /// request.
    pub certain: bool,
    /// The client is told the length, if the server sends it.
    pub sized: bool,
}

/// The error code for a head that does not match its body (2026-07-28, streamable-http).
const MISMATCH: &[u8] = b"-32020";

pub struct ResponseValidator {
    kind: BodyKind,
    /// Reads its messages.
    reader: MessageReader,
    passed: usize,
    /// The length that was announced to the client, and the bytes of it that are sent.
    promised: Option<usize>,
    gone: usize,
    certain: bool,
    redactor: Option<ResponseRedactor>,
    /// The server may report that the head does not repeat what its schema requires; then its schema has
    /// changed.
    doubtful: bool,
    decoder: Option<Decoder>,
    /// The status of an error without a content type, and its `Retry-After`.
    client_caused: Option<(u16, Option<Duration>)>,
}

enum BodyKind {
    Json {
        held: BytesMut,
        /// Set for a response that is too long to validate as a whole.
        scan: Option<Box<ResponseIdScanner>>,
        open: bool,
    },
    Events(EventSplitter),
    /// An HTTP error in the server's own format; and the error that replaces it if it is no message and
    /// only reports that the server cannot answer now.
    Failure {
        status: u16,
        held: BytesMut,
        later: Option<(u16, Option<Duration>)>,
    },
    /// Why the server refuses the gateway, which has no credentials to send.
    Denial {
        status: u16,
        kind: String,
        held: BytesMut,
    },
    /// The content after a message that has no response, whatever it is: it is dropped.
    Dropped,
    /// Nothing to validate: no body, or an error in the server's own format.
    Other,
}

impl ResponseValidator {
    /// Whether the response was an error.
    pub fn saw_error(&self) -> bool {
        self.reader.error
    }

    /// Whether the stream has contained a message: the server works.
    pub fn has_messages(&self) -> bool {
        self.reader.has_messages
    }

    /// Whether the request is answered and nothing more is expected.
    pub fn is_answered(&self) -> bool {
        self.reader.answered
            || matches!(self.kind, BodyKind::Failure { .. } | BodyKind::Dropped | BodyKind::Other)
    }

    /// Remaining time in which the server may stay silent about the call; `None` while it waits for its
    /// client.
    pub fn remaining(&self) -> Option<Duration> {
        self.reader.remaining()
    }

    /// Whether nothing of the body went out yet, so that another can replace it. A held response must be
    /// complete within the timeout of a call; a streamed one may take longer if it is not silent.
    pub fn is_held(&self) -> bool {
        matches!(
            self.kind,
            BodyKind::Json { open: false, .. } | BodyKind::Failure { .. } | BodyKind::Denial { .. }
        )
    }

    /// Whether the client may resume this stream.
    pub fn is_resumable(&self) -> bool {
        self.reader.resumable
    }

    /// Whether the connection must not be reused: an error that names no request may have belonged to
    /// another.
    pub fn spends(&self) -> bool {
        self.reader.nameless || matches!(self.kind, BodyKind::Dropped) && self.passed > 0
    }

    /// Whether it is a stream of events, which goes out as it comes.
    pub fn is_stream(&self) -> bool {
        matches!(self.kind, BodyKind::Events(_))
    }

    /// Takes the next chunk of the body and returns what may go out now.
    pub fn push(&mut self, piece: Option<Bytes>, end: bool) -> Result<Option<Bytes>, UpstreamError> {
        let passed = match self.decoder.take() {
            None => self.inspect(piece, end),
            Some(mut decoder) => {
                let passed = self.decoded(&mut decoder, &piece.unwrap_or_default(), end);
                self.decoder = Some(decoder);
                passed
            }
        };
        let passed = passed.and_then(|piece| self.fill_up(piece, end));
        if end && passed.is_ok() && self.is_held() {
            // It goes out whole: nothing can replace it any more.
            self.kind = BodyKind::Other;
        }
        passed
    }

    /// Inspects the decoded content of a compressed body's chunk, in bounded parts.
    fn decoded(
        &mut self,
        decoder: &mut Decoder,
        piece: &[u8],
        end: bool,
    ) -> Result<Option<Bytes>, UpstreamError> {
        let (limit, mut out) = (self.reader.server.max_response, BytesMut::new());
        decoder.decode(piece, |text| {
            out.extend_from_slice(
                &self.inspect(Some(Bytes::copy_from_slice(text)), false)?.unwrap_or_default(),
            );
            if out.len() > limit { Err(UpstreamError::TooLarge(limit)) } else { Ok(()) }
        })?;
        if end {
            decoder.finish()?;
            out.extend_from_slice(&self.inspect(None, true)?.unwrap_or_default());
        }
        Ok(Some(out.freeze()))
    }

    /// Fills a response up to the announced length.
    fn fill_up(&mut self, piece: Option<Bytes>, end: bool) -> Result<Option<Bytes>, UpstreamError> {
        let Some(promised) = self.promised else { return Ok(piece) };
        self.gone += piece.as_ref().map_or(0, Bytes::len);
        let Some(missing) = promised.checked_sub(self.gone) else {
            return Err(UpstreamError::ClientCaused("it is longer than it was to be".into()));
        };
        if !end || missing == 0 {
            return Ok(piece);
        }
        let piece = piece.unwrap_or_default();
        // In most cases the buffer has capacity for it.
        let mut filled = piece.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        filled.resize(filled.len() + missing, b' ');
        Ok(Some(filled.freeze()))
    }

    fn inspect(&mut self, piece: Option<Bytes>, end: bool) -> Result<Option<Bytes>, UpstreamError> {
        self.passed += piece.as_ref().map_or(0, Bytes::len);
        if self.doubtful
            && let Some(piece) = &piece
            && memchr::memmem::find(piece, MISMATCH).is_some()
        {
            self.doubtful = false;
            self.reader.server.lists_stale.notify_one();
        }
        let (limit, reader, redactor) =
            (self.reader.server.max_response, &mut self.reader, self.redactor.as_ref());
        let certain = self.certain;
        match &mut self.kind {
            BodyKind::Other if self.passed > limit => Err(UpstreamError::TooLarge(limit)),
            BodyKind::Other => Ok(piece),
            BodyKind::Dropped => Ok(None),
            BodyKind::Json { .. } | BodyKind::Failure { .. } if self.passed > limit => {
                Err(UpstreamError::TooLarge(limit))
            }
            BodyKind::Json { held, scan: Some(scan), open } => {
                // It arrives, and may take longer, as a stream may.
                reader.is_alive_at();
                let piece = scan.push(&piece.unwrap_or_default())?;
                if end {
                    scan.end()?;
                    reader.answered = true;
                }
                *open |= scan.found();
                Ok(Some(match *open {
                    true if held.is_empty() => piece.freeze(),
                    _ => {
                        held.extend_from_slice(&piece);
                        if *open { std::mem::take(held).freeze() } else { Bytes::new() }
                    }
                }))
            }
            BodyKind::Json { held, scan, open } => {
                // A whole response in one chunk is validated in place.
                if end {
                    let body = if held.is_empty() {
                        piece.unwrap_or_default()
                    } else {
                        held.extend_from_slice(&piece.unwrap_or_default());
                        std::mem::take(held).freeze()
                    };
                    let body = match (reader.validate(body, self.promised), self.client_caused) {
                        (Err(_), Some((429, wait))) => return Err(UpstreamError::RetryLater(429, wait)),
                        (Err(_), Some((status, _))) => {
                            return Err(UpstreamError::ClientCaused(format!(
                                "HTTP {status} without a content type"
                            )));
                        }
                        (authorized, _) => authorized?,
                    };
                    return Ok(Some(redacted(redactor, body)?));
                }
                held.extend_from_slice(&piece.unwrap_or_default());
                let own = reader.id.clone().filter(|_| held.len() > HOLD_LIMIT && redactor.is_none());
                if let Some(own) = own {
                    reader.is_alive_at();
                    let looking = scan.insert(Box::new(ResponseIdScanner::new(reader.sent.wire, own)));
                    let passed = looking.push(&std::mem::take(held))?;
                    // What may belong to another request waits until the id has come.
                    *open = certain || looking.found();
                    if *open {
                        return Ok(Some(passed.freeze()));
                    }
                    *held = passed;
                }
                Ok(Some(Bytes::new()))
            }
            BodyKind::Denial { status, kind, held } => {
                held.extend_from_slice(&piece.unwrap_or_default());
                if !end && held.len() < DENIAL {
                    return Ok(Some(Bytes::new()));
                }
                Err(UpstreamError::Denied(*status, rejection_text(kind, held)))
            }
            BodyKind::Failure { status, held, later } => {
                held.extend_from_slice(&piece.unwrap_or_default());
                if held.len() > HOLD_LIMIT {
                    return Err(UpstreamError::ClientCaused("an error that is too long to be judged".into()));
                }
                if !end {
                    return Ok(Some(Bytes::new()));
                }
                if held.is_empty() && later.is_none() {
                    // A client would wait for the response to its id.
                    return match reader.id {
                        None => Ok(Some(Bytes::new())),
                        Some(_) => Err(empty_failure(*status)),
                    };
                }
                let body = std::mem::take(held).freeze();
                // A text in another encoding would pass unseen.
                if redactor.is_some() && std::str::from_utf8(&body).is_err() {
                    return Err(UpstreamError::InvalidResponse("its answer cannot be searched".into()));
                }
                if let Some((status, wait)) = *later
                    && !message::read(&body).is_some_and(|read| read.is_response())
                {
                    return Err(UpstreamError::RetryLater(status, wait));
                }
                let (body, is_answer) = reader.failure(body)?;
                let clean = match redactor {
                    // The structure of a response is for programs and stays unchanged.
                    Some(redactor) if is_answer => redactor.message(&body)?,
                    Some(redactor) => redactor.text(&body)?,
                    None => None,
                };
                Ok(Some(clean.unwrap_or(body)))
            }
            BodyKind::Events(_) if reader.id.is_some() && self.passed > reader.server.limits.max_stream => {
                Err(UpstreamError::TooLarge(reader.server.limits.max_stream))
            }
            BodyKind::Events(splitter) => {
                splitter.push(&piece.unwrap_or_default());
                if end {
                    splitter.finish();
                }
                let mut out = Chunks::default();
                while let Some(event) = splitter.event().map_err(|_| UpstreamError::TooLarge(limit))? {
                    reader.event(event, redactor, limit, &mut out)?;
                }
                if end && reader.id.is_some() && !reader.answered && !reader.resumable {
                    return Err(UpstreamError::InvalidResponse("the stream ended without an answer".into()));
                }
                // Comments keep a connection open, but they are no response.
                if reader.remaining() == Some(Duration::ZERO) {
                    return Err(UpstreamError::TimedOut(reader.server.timeout));
                }
                Ok(Some(out.joined()))
            }
        }
    }
}

fn invalid_response(message: &str) -> UpstreamError {
    UpstreamError::InvalidResponse(message.into())
}

/// The length that is announced to the client for a response of this length.
fn promise(length: usize, call: &ForwardedCall) -> usize {
    let own = call.id.len();
    let ours = (length + own).saturating_sub(call.sent.wire.len());
    let least = if length > LONG_STRING { 0 } else { SHORT_PADDING + own };
    (ours + ID_MEMBER).max(least)
}

fn redacted(redactor: Option<&ResponseRedactor>, body: Bytes) -> Result<Bytes, UpstreamError> {
    Ok(redactor.map_or(Ok(None), |redactor| redactor.message(&body))?.unwrap_or(body))
}

#[cfg(test)]
mod tests;
