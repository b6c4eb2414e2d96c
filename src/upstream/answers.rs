//! What an endpoint answers to the gateway itself, read as a whole: JSON, or the stream that ends with it.
//!
//! Answers to clients do not come this way (`proxy/answer.rs`).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use filters::Span;
use http::header::CONTENT_TYPE;

use super::clock::Clock;
use super::http::Http;
use super::{Progress, Said, UpstreamError, cause, is_exhausted};
use crate::protocol::sse::{self, Splitter};
use crate::protocol::wire;

/// What is waited for, and how.
pub struct Wanted<'a> {
    /// The id of the request, as written.
    pub id: &'a [u8],
    /// Many messages may come as one.
    pub batches: bool,
    /// Takes what is said on the way.
    pub progress: Option<&'a Progress>,
    pub timeout: Duration,
    /// Set where each message starts the time anew.
    pub clock: Option<&'a Clock>,
}

impl<'a> Wanted<'a> {
    pub fn new(id: &'a str, timeout: Duration) -> Self {
        Self { id: id.as_bytes(), batches: false, progress: None, timeout, clock: None }
    }
}

impl Http {
    /// Reads the answer to a request, from JSON or from a stream.
    pub async fn answer(
        &self,
        mut response: reqwest::Response,
        wanted: Wanted<'_>,
    ) -> Result<Said, UpstreamError> {
        let most = self.bounds().max_response;
        let Wanted { id, batches, progress, timeout, clock } = wanted;
        // One message, or those of a batch.
        let parts = |message: Bytes| {
            let parts = if batches { wire::batch(&message) } else { None };
            parts.unwrap_or_else(|| vec![message])
        };
        let read = async {
            if is_sse(&response) {
                let mut splitter = Splitter::new(most);
                let mut ended = false;
                while !ended {
                    match response.chunk().await.map_err(|e| unreachable(&e))? {
                        Some(piece) => splitter.push(&piece),
                        None => {
                            splitter.finish();
                            ended = true;
                        }
                    }
                    while let Some(event) = splitter.event().map_err(|_| UpstreamError::TooLarge(most))? {
                        let read = sse::read(&event);
                        let Some(data) = read.message() else { continue };
                        if let Some(clock) = clock {
                            clock.heard();
                        }
                        for message in parts(Bytes::copy_from_slice(data)) {
                            match (said(&message, id)?, progress) {
                                (Some(said), _) => return Ok(said),
                                (None, Some(progress)) => drop(progress.notes.send(message).await),
                                (None, None) => {}
                            }
                        }
                    }
                }
                return Err(UpstreamError::Nonsense("the stream ended without an answer".into()));
            }
            let status = response.status();
            let mut body = BytesMut::new();
            while let Some(piece) = response.chunk().await.map_err(|e| unreachable(&e))? {
                if body.len() + piece.len() > most {
                    return Err(UpstreamError::TooLarge(most));
                }
                body.extend_from_slice(&piece);
            }
            let mut found = Ok(None);
            for message in parts(body.freeze()) {
                found = said(&message, id);
                if !matches!(found, Ok(None)) {
                    break;
                }
            }
            match found {
                Ok(Some(said)) => Ok(said),
                // Something before the server says that it is not there.
                _ if matches!(status.as_u16(), 502..=504) => {
                    Err(UpstreamError::Unreachable(format!("HTTP {status}")))
                }
                _ if !status.is_success() => Err(UpstreamError::Nonsense(format!("HTTP {status}"))),
                Ok(None) => Err(UpstreamError::Nonsense("a message that answers nothing".into())),
                Err(error) => Err(error),
            }
        };
        let over = async {
            match clock {
                Some(clock) => clock.over(timeout).await,
                None => tokio::time::sleep(timeout).await,
            }
        };
        tokio::select! {
            answer = read => answer,
            () = over => Err(UpstreamError::TimedOut(timeout)),
        }
    }
}

/// The answer to `id` in this message; `None` for a message that is something else.
fn said(message: &Bytes, id: &[u8]) -> Result<Option<Said>, UpstreamError> {
    let read = wire::read(message).ok_or_else(|| UpstreamError::Nonsense(shorten(message)))?;
    if !read.is_answer() {
        return Ok(None);
    }
    let part = |span: Span| message.slice(span.start..span.end);
    match (read.id, read.result, read.error) {
        // An error without an id answers the only request there is.
        (None, _, Some(error)) => Ok(Some(Said::Error(part(error)))),
        (Some(got), _, _) if !wire::same_id(got.of(message), id) => {
            Err(UpstreamError::Nonsense("an answer to another request".into()))
        }
        (Some(_), Some(result), None) => Ok(Some(Said::Result(part(result)))),
        (Some(_), _, Some(error)) => Ok(Some(Said::Error(part(error)))),
        _ => Err(UpstreamError::Nonsense("an answer without an id".into())),
    }
}

pub(super) fn is_sse(response: &reqwest::Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream")
}

pub(super) fn unreachable(error: &reqwest::Error) -> UpstreamError {
    // Which of its addresses it was is not told.
    if is_exhausted(error, None) {
        return UpstreamError::Exhausted(cause(error));
    }
    UpstreamError::Unreachable(cause(error))
}

pub(super) fn shorten(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
