//! What an endpoint answers to the gateway itself, read as a whole: JSON, or the stream that ends with it.
//!
//! Answers to clients do not come this way (`proxy/answer.rs`).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use mcp::Span;

use super::content_coding::Decoder;
use super::retry::retry_after;
use super::{Http, Seat};
use crate::upstream::call_timer::Clock;
use crate::upstream::{Progress, Said, UpstreamError, cause, is_exhausted, safe};
use mcp::jsonrpc::message;
use mcp::sse;
use mcp::sse::Splitter;

/// What is waited for, and how.
pub struct Wanted<'a> {
    /// The id of the request, as written.
    pub id: &'a [u8],
    /// Many messages may come as one.
    pub batches: bool,
    /// Where the gateway asked in a session, and may be asked something on the way.
    pub seat: Option<&'a Seat>,
    /// Takes what is said on the way.
    pub progress: Option<&'a Progress>,
    pub timeout: Duration,
    /// Nothing else was asked where the answer comes from, or only by the gateway in its own name: what names no request is
    /// about this one.
    pub certain: bool,
    /// Set where each message starts the time anew.
    pub clock: Option<&'a Clock>,
}

impl<'a> Wanted<'a> {
    pub fn new(id: &'a str, timeout: Duration) -> Self {
        Self {
            id: id.as_bytes(),
            batches: false,
            seat: None,
            progress: None,
            certain: true,
            timeout,
            clock: None,
        }
    }
}

impl Http {
    /// Reads the answer to a request, from JSON or from a stream.
    pub async fn answer(
        &self,
        response: reqwest::Response,
        wanted: Wanted<'_>,
    ) -> Result<Said, UpstreamError> {
        let most = self.bounds().max_response;
        let streams = is_sse(&response);
        let (status, later) = (response.status(), retry_after(response.headers()));
        let mut body = Body::of(response, most)?;
        let Wanted { id, batches, seat, progress, certain, timeout, clock } = wanted;
        // One message, or those of a batch.
        let parts = |message: Bytes| {
            let parts = if batches { message::batch(&message) } else { None };
            parts.unwrap_or_else(|| vec![message])
        };
        let read = async {
            if streams {
                let mut splitter = Splitter::new(most);
                let mut ended = false;
                while !ended {
                    match body.chunk().await? {
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
                            match (said(&message, id, certain)?, progress) {
                                (Some(said), _) => return Ok(said),
                                (None, _) if let (Some(seat), Some(me)) = (seat, self.me.upgrade()) => {
                                    me.heed(seat, &message);
                                }
                                (None, Some(progress)) => drop(progress.notes.send(message).await),
                                (None, None) => {}
                            }
                        }
                    }
                }
                return Err(UpstreamError::Nonsense("the stream ended without an answer".into()));
            }
            let mut whole = BytesMut::new();
            while let Some(piece) = body.chunk().await? {
                if whole.len() + piece.len() > most {
                    return Err(UpstreamError::TooLarge(most));
                }
                whole.extend_from_slice(&piece);
            }
            let mut found = Ok(None);
            for message in parts(whole.freeze()) {
                found = said(&message, id, certain);
                if !matches!(found, Ok(None)) {
                    break;
                }
            }
            match found {
                Ok(Some(said)) => Ok(said),
                _ if later.is_some() && matches!(status.as_u16(), 429 | 503) => {
                    Err(UpstreamError::Later(status.as_u16(), later))
                }
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
fn said(message: &Bytes, id: &[u8], certain: bool) -> Result<Option<Said>, UpstreamError> {
    let nonsense = || UpstreamError::Nonsense(shorten(message));
    let read =
        message::read(message).ok_or_else(|| if certain { nonsense() } else { UpstreamError::Nameless })?;
    if !read.is_answer() {
        return Ok(None);
    }
    let part = |span: Span| message.slice(span.start..span.end);
    match (read.id, read.result, read.error) {
        (None, _, Some(_)) if !certain => Err(UpstreamError::Nameless),
        (Some(got), _, Some(_)) if !certain && got.of(message) == b"null" => Err(UpstreamError::Nameless),
        // An error without an id answers the only request there is.
        (None, _, Some(error)) => Ok(Some(Said::Error(part(error)))),
        (Some(got), _, Some(error)) if got.of(message) == b"null" => Ok(Some(Said::Error(part(error)))),
        (Some(got), _, _) if !message::same_id(got.of(message), id) => Err(UpstreamError::Foreign),
        (Some(_), Some(result), None) => Ok(Some(Said::Result(part(result)))),
        (Some(_), _, Some(error)) => Ok(Some(Said::Error(part(error)))),
        _ => Err(UpstreamError::Nonsense("an answer without an id".into())),
    }
}

/// The body of an answer as it comes, decoded.
pub(crate) struct Body {
    response: reqwest::Response,
    decoder: Option<Decoder>,
    /// What a piece may stand for.
    most: usize,
}

impl Body {
    pub fn of(response: reqwest::Response, most: usize) -> Result<Self, UpstreamError> {
        let decoder = Decoder::of(response.headers())?;
        Ok(Self { response, decoder, most })
    }

    /// The next piece, which may be empty; none at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let piece = self.response.chunk().await.map_err(|error| unreachable(&error))?;
        let (Some(decoder), most) = (&mut self.decoder, self.most) else { return Ok(piece) };
        let Some(piece) = piece else { return decoder.finish().map(|()| None) };
        let mut out = BytesMut::new();
        decoder.decode(&piece, |text| {
            if out.len() + text.len() > most {
                return Err(UpstreamError::TooLarge(most));
            }
            out.extend_from_slice(text);
            Ok(())
        })?;
        Ok(Some(out.freeze()))
    }
}

/// How much of a refusal is read, and for how long it is waited.
const REFUSAL: usize = 4096;
const MOMENT: Duration = Duration::from_secs(2);

/// What a server says with a refusal, in few words.
pub(crate) async fn words(response: reqwest::Response) -> String {
    let kind = kind_of(response.headers());
    let Ok(mut body) = Body::of(response, REFUSAL) else { return String::new() };
    let mut text = BytesMut::new();
    let read = async {
        while let Ok(Some(piece)) = body.chunk().await {
            text.extend_from_slice(&piece);
            if text.len() >= REFUSAL {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(MOMENT, read).await;
    refusal_words(&kind, &text)
}

/// The same of its body: the message of an error, or a text for people; of a page nothing.
pub fn refusal_words(kind: &str, body: &[u8]) -> String {
    let body = &body[..body.len().min(REFUSAL)];
    if kind.contains("html") {
        return String::new();
    }
    let inner = |json: &[u8], name: &str| {
        let place = message::member(json, name)?;
        message::string(place.of(json))
    };
    let error = message::member(body, "error").and_then(|place| inner(place.of(body), "message"));
    let told = error.or_else(|| inner(body, "message")).or_else(|| inner(body, "error"));
    safe(&told.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned()))
}

/// The media type of an answer, without parameters and in lower case.
pub fn kind_of(headers: &http::HeaderMap) -> String {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(crate) fn is_sse(response: &reqwest::Response) -> bool {
    kind_of(response.headers()) == "text/event-stream"
}

pub(crate) fn unreachable(error: &reqwest::Error) -> UpstreamError {
    // Which of its addresses it was is not told.
    if is_exhausted(error, None) {
        return UpstreamError::Exhausted(cause(error));
    }
    UpstreamError::Unreachable(cause(error))
}

pub(crate) fn shorten(bytes: &[u8]) -> String {
    safe(&String::from_utf8_lossy(&bytes[..bytes.len().min(400)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_refusal_the_words_for_people_are_told() {
        for (kind, body, told) in [
            (
                "text/plain",
                "Access is only allowed at localhost:8931\r\n",
                "Access is only allowed at localhost:8931",
            ),
            (
                "application/json",
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no\u001b[31m!"}}"#,
                "no [31m!",
            ),
            ("application/json", r#"{"message":"Forbidden"}"#, "Forbidden"),
            ("application/json", r#"{"error":"invalid_host"}"#, "invalid_host"),
            ("", "\u{1b}[2Jcleared\nand \u{202e}turned", "[2Jcleared and turned"),
            ("text/html", "<html><h1>403</h1>", ""),
            ("text/plain", "", ""),
        ] {
            assert_eq!(refusal_words(kind, body.as_bytes()), told, "{body}");
        }
        let long = refusal_words("text/plain", &[b'x'; 10_000]);
        assert!(long.chars().count() <= 200 && long.ends_with('…'), "{long}");
    }
}
