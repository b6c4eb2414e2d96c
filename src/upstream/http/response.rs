//! Responses of an endpoint to the gateway itself, read as a whole: JSON, or a stream up to the response.
//!
//! Responses to clients do not come this way (`proxy/response_messages.rs`).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use mcp::Span;

use super::content_coding::Decoder;
use super::retry::retry_after;
use super::{HttpEndpoint, UpstreamSession};
use crate::upstream::call_timer::CallTimer;
use crate::upstream::{Progress, RpcOutcome, UpstreamError, cause, client_message, is_exhausted};
use mcp::jsonrpc::message;
use mcp::sse;
use mcp::sse::EventSplitter;

/// Which response is read, and how.
pub struct ReadOptions<'a> {
    /// The id of the request, as written.
    pub id: &'a [u8],
    /// Many messages may come as one.
    pub batches: bool,
    /// Set for the gateway's own request in a session, where the server may send requests before the
    /// response.
    pub upstream_session: Option<&'a UpstreamSession>,
    /// Receives the messages before the response.
    pub progress: Option<&'a Progress>,
    pub timeout: Duration,
    /// The connection carried no other request, or only the gateway's own: a message that names no request
    /// belongs to this one.
    pub certain: bool,
    /// Set if each message restarts the timeout.
    pub timer: Option<&'a CallTimer>,
}

impl<'a> ReadOptions<'a> {
    pub fn new(id: &'a str, timeout: Duration) -> Self {
        Self {
            id: id.as_bytes(),
            batches: false,
            upstream_session: None,
            progress: None,
            certain: true,
            timeout,
            timer: None,
        }
    }
}

impl HttpEndpoint {
    /// Reads the response to a request, from JSON or from a stream.
    pub async fn read_response(
        &self,
        response: reqwest::Response,
        wanted: ReadOptions<'_>,
    ) -> Result<RpcOutcome, UpstreamError> {
        let max = self.limits().max_response;
        let streams = is_sse(&response);
        let (status, later) = (response.status(), retry_after(response.headers()));
        let mut body = ResponseBody::of(response, max)?;
        let ReadOptions { id, batches, upstream_session, progress, certain, timeout, timer } = wanted;
        // One message, or those of a batch.
        let parts = |message: Bytes| {
            let parts = if batches { message::batch(&message) } else { None };
            parts.unwrap_or_else(|| vec![message])
        };
        let read = async {
            if streams {
                let mut splitter = EventSplitter::new(max);
                let mut ended = false;
                while !ended {
                    match body.chunk().await? {
                        Some(piece) => splitter.push(&piece),
                        None => {
                            splitter.finish();
                            ended = true;
                        }
                    }
                    while let Some(event) = splitter.event().map_err(|_| UpstreamError::TooLarge(max))? {
                        let read = sse::read(&event);
                        let Some(data) = read.message() else { continue };
                        if let Some(timer) = timer {
                            timer.activity();
                        }
                        for message in parts(Bytes::copy_from_slice(data)) {
                            match (match_response(&message, id, certain)?, progress) {
                                (Some(outcome), _) => return Ok(outcome),
                                (None, _)
                                    if let (Some(upstream_session), Some(me)) =
                                        (upstream_session, self.me.upgrade()) =>
                                {
                                    me.handle(upstream_session, &message);
                                }
                                (None, Some(progress)) => drop(progress.notes.send(message).await),
                                (None, None) => {}
                            }
                        }
                    }
                }
                return Err(UpstreamError::InvalidResponse("the stream ended without an answer".into()));
            }
            let mut whole = BytesMut::new();
            while let Some(piece) = body.chunk().await? {
                if whole.len() + piece.len() > max {
                    return Err(UpstreamError::TooLarge(max));
                }
                whole.extend_from_slice(&piece);
            }
            let mut found = Ok(None);
            for message in parts(whole.freeze()) {
                found = match_response(&message, id, certain);
                if !matches!(found, Ok(None)) {
                    break;
                }
            }
            match found {
                Ok(Some(outcome)) => Ok(outcome),
                _ if later.is_some() && matches!(status.as_u16(), 429 | 503) => {
                    Err(UpstreamError::RetryLater(status.as_u16(), later))
                }
                // A proxy before the server reports that it is not there.
                _ if matches!(status.as_u16(), 502..=504) => {
                    Err(UpstreamError::Unreachable(format!("HTTP {status}")))
                }
                _ if !status.is_success() => Err(UpstreamError::InvalidResponse(format!("HTTP {status}"))),
                Ok(None) => Err(UpstreamError::InvalidResponse("a message that answers nothing".into())),
                Err(error) => Err(error),
            }
        };
        let over = async {
            match timer {
                Some(timer) => timer.expired(timeout).await,
                None => tokio::time::sleep(timeout).await,
            }
        };
        tokio::select! {
            answer = read => answer,
            () = over => Err(UpstreamError::TimedOut(timeout)),
        }
    }
}

/// The response to `id` in this message; `None` for any other message.
fn match_response(message: &Bytes, id: &[u8], certain: bool) -> Result<Option<RpcOutcome>, UpstreamError> {
    let invalid = || UpstreamError::InvalidResponse(shorten(message));
    let read =
        message::read(message).ok_or_else(|| if certain { invalid() } else { UpstreamError::Nameless })?;
    if !read.is_response() {
        return Ok(None);
    }
    let part = |span: Span| message.slice(span.start..span.end);
    match (read.id, read.result, read.error) {
        (None, _, Some(_)) if !certain => Err(UpstreamError::Nameless),
        (Some(got), _, Some(_)) if !certain && got.of(message) == b"null" => Err(UpstreamError::Nameless),
        // An error without an id answers the only request there is.
        (None, _, Some(error)) => Ok(Some(RpcOutcome::Error(part(error)))),
        (Some(got), _, Some(error)) if got.of(message) == b"null" => Ok(Some(RpcOutcome::Error(part(error)))),
        (Some(got), _, _) if !message::same_id(got.of(message), id) => Err(UpstreamError::UnexpectedServer),
        (Some(_), Some(result), None) => Ok(Some(RpcOutcome::Result(part(result)))),
        (Some(_), _, Some(error)) => Ok(Some(RpcOutcome::Error(part(error)))),
        _ => Err(UpstreamError::InvalidResponse("an answer without an id".into())),
    }
}

/// The body of a response as it arrives, decoded.
pub(crate) struct ResponseBody {
    response: reqwest::Response,
    decoder: Option<Decoder>,
    /// The decoded limit of a chunk.
    max: usize,
}

impl ResponseBody {
    pub fn of(response: reqwest::Response, max: usize) -> Result<Self, UpstreamError> {
        let decoder = Decoder::of(response.headers())?;
        Ok(Self { response, decoder, max })
    }

    /// The next chunk, which may be empty; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let piece = self.response.chunk().await.map_err(|error| unreachable(&error))?;
        let (Some(decoder), max) = (&mut self.decoder, self.max) else { return Ok(piece) };
        let Some(piece) = piece else { return decoder.finish().map(|()| None) };
        let mut out = BytesMut::new();
        decoder.decode(&piece, |text| {
            if out.len() + text.len() > max {
                return Err(UpstreamError::TooLarge(max));
            }
            out.extend_from_slice(text);
            Ok(())
        })?;
        Ok(Some(out.freeze()))
    }
}

/// How much of a rejection is read, and its timeout.
const MAX_ERROR_BODY: usize = 4096;
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(2);

/// The server's message with a rejection, shortened.
pub(crate) async fn error_text(response: reqwest::Response) -> String {
    let kind = kind_of(response.headers());
    let Ok(mut body) = ResponseBody::of(response, MAX_ERROR_BODY) else { return String::new() };
    let mut text = BytesMut::new();
    let read = async {
        while let Ok(Some(piece)) = body.chunk().await {
            text.extend_from_slice(&piece);
            if text.len() >= MAX_ERROR_BODY {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(ERROR_BODY_TIMEOUT, read).await;
    rejection_text(&kind, &text)
}

/// The message in the body of a rejection: that of an error, or a text for people; empty for an HTML page.
pub fn rejection_text(kind: &str, body: &[u8]) -> String {
    let body = &body[..body.len().min(MAX_ERROR_BODY)];
    if kind.contains("html") {
        return String::new();
    }
    let inner = |json: &[u8], name: &str| {
        let place = message::member(json, name)?;
        message::string(place.of(json))
    };
    let error = message::member(body, "error").and_then(|place| inner(place.of(body), "message"));
    let error_message = error.or_else(|| inner(body, "message")).or_else(|| inner(body, "error"));
    client_message(&error_message.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned()))
}

/// The media type of a response, without parameters and in lower case.
pub fn kind_of(headers: &http::HeaderMap) -> String {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(crate) fn is_sse(response: &reqwest::Response) -> bool {
    kind_of(response.headers()) == "text/event-stream"
}

pub(crate) fn unreachable(error: &reqwest::Error) -> UpstreamError {
    // The address is not named.
    if is_exhausted(error, None) {
        return UpstreamError::Exhausted(cause(error));
    }
    UpstreamError::Unreachable(cause(error))
}

pub(crate) fn shorten(bytes: &[u8]) -> String {
    client_message(&String::from_utf8_lossy(&bytes[..bytes.len().min(400)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_rejection_is_extracted() {
        for (kind, body, error_message) in [
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
            assert_eq!(rejection_text(kind, body.as_bytes()), error_message, "{body}");
        }
        let long = rejection_text("text/plain", &[b'x'; 10_000]);
        assert!(long.chars().count() <= 200 && long.ends_with('…'), "{long}");
    }
}
