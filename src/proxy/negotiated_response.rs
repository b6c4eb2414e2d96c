//! A response in the type that its client accepts, if the server sent the other one. Of a stream only the
//! final response remains, as JSON; JSON becomes a stream of one event. The gateway's own client sends such
//! calls (`relay`), because the head must wait for the body.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use mcp::Era;
use mcp::rejection::code;
use pingora::http::ResponseHeader;

use super::accept_header::AcceptedTypes;
use crate::dispatch::Dispatcher;
use crate::session::id_map;
use crate::session::{ClientAnswer, Session};
use crate::upstream::UpstreamError;
use mcp::jsonrpc::message;
use mcp::sse;
use mcp::sse::EventSplitter;

pub enum NegotiatedResponse {
    Unchanged,
    /// The final response alone; the other messages of the stream are not for this client.
    Alone(EventSplitter),
    /// The bytes so far, which become one event.
    Event(BytesMut),
}

impl NegotiatedResponse {
    /// How a response with this head is converted for a client that accepts these types; changes the head
    /// accordingly.
    pub fn of(takes: AcceptedTypes, max: usize, head: &mut ResponseHeader) -> pingora::Result<Self> {
        let kind =
            head.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes).to_ascii_lowercase();
        if kind.starts_with(b"text/event-stream") && !takes.events {
            head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
            head.remove_header(&CACHE_CONTROL);
            return Ok(Self::Alone(EventSplitter::new(max)));
        }
        // HTTP errors are JSON for every client: no client reads them as a stream.
        if head.status.is_success() && !takes.json && !kind.starts_with(b"text/event-stream") {
            head.insert_header(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))?;
            head.insert_header(CACHE_CONTROL, HeaderValue::from_static("no-cache"))?;
            return Ok(Self::Event(BytesMut::new()));
        }
        Ok(Self::Unchanged)
    }

    pub fn is_as_it_came(&self) -> bool {
        matches!(self, Self::Unchanged)
    }

    /// Takes the bytes that would go out. Returns the converted bytes and whether they are the end. A
    /// server's request goes to `ask`.
    pub fn take(
        &mut self,
        piece: Bytes,
        end: bool,
        mut ask: impl FnMut(&[u8]),
    ) -> Result<(Bytes, bool), UpstreamError> {
        match self {
            Self::Unchanged => Ok((piece, end)),
            Self::Event(held) => {
                held.extend_from_slice(&piece);
                Ok(if end { (sse::message(held), true) } else { (Bytes::new(), false) })
            }
            Self::Alone(splitter) => {
                splitter.push(&piece);
                let long = |sse::EventTooLong(max)| UpstreamError::TooLarge(max);
                while let Some(event) = splitter.event().map_err(long)? {
                    let read = sse::read(&event);
                    let Some(message) = read.message() else { continue };
                    match message::read(message) {
                        Some(read) if read.is_response() => {
                            return Ok((Bytes::copy_from_slice(message), true));
                        }
                        Some(read) if read.is_request() => ask(message),
                        _ => {}
                    }
                }
                if end {
                    let text = "its stream ended before the answer, to be gone on with; that takes a client with `Accept: text/event-stream`";
                    return Err(UpstreamError::ClientCaused(text.into()));
                }
                Ok((Bytes::new(), false))
            }
        }
    }
}

/// Rejects a server's request for a client that accepts no stream and so never receives it. Otherwise the
/// server and the call would wait.
pub fn decline(dispatcher: &Dispatcher, session: &Arc<Session>, question: &[u8]) {
    let Some(read) = message::read(question).filter(message::ServerMessage::is_request) else { return };
    let Some((number, raw)) = read.id.and_then(|id| id_map::parse_request_id(id.of(question))) else {
        return;
    };
    let Some((_, upstream_session)) = session.upstream_session_by_id(number) else { return };
    let Some(mut answering) = ClientAnswer::begin(session, number, raw.as_bytes()) else { return };
    answering.sent();
    let is_ping = read.method.is_some_and(|method| method.is(question, "ping"));
    let answer = if is_ping {
        message::result(raw.as_bytes(), b"{}")
    } else {
        let message =
            "the client of this call takes no stream (Accept: application/json), so it cannot be asked";
        let error = format!(r#"{{"code":{},"message":"{message}"}}"#, code::METHOD_NOT_FOUND);
        message::error_response(raw.as_bytes(), error.as_bytes())
    };
    dispatcher.runtime.spawn(async move {
        let Some(endpoint) = upstream_session.endpoint.upgrade() else { return };
        if let Err(error) = endpoint.forward(Era::Legacy, Some(&upstream_session), answer).await {
            tracing::debug!(%error, "a server's request could not be rejected");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, kind: &str) -> ResponseHeader {
        let mut head = ResponseHeader::build(status, None).expect("a head");
        head.insert_header(CONTENT_TYPE, kind.to_owned()).expect("a header");
        head
    }

    const JSON: AcceptedTypes = AcceptedTypes { json: true, events: false };
    const EVENTS: AcceptedTypes = AcceptedTypes { json: false, events: true };

    #[test]
    fn of_a_stream_the_answer_alone_is_given() {
        let mut head = head(200, "Text/Event-Stream; charset=utf-8");
        let mut given = NegotiatedResponse::of(JSON, 1000, &mut head).expect("a head");
        assert_eq!(head.headers[CONTENT_TYPE], "application/json");
        let note = sse::message(br#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#);
        let question = sse::message(br#"{"jsonrpc":"2.0","id":"tg:1:5","method":"roots/list"}"#);
        let answer = br#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
        let stream = [b": hello\n\n", &note[..], &question, &sse::message(answer), b"data: more"].concat();
        let (mut asked, mut out, mut over) = (Vec::new(), Vec::new(), false);
        for piece in stream.chunks(11) {
            if over {
                break;
            }
            let taken =
                given.take(Bytes::copy_from_slice(piece), false, |question| asked.push(question.to_vec()));
            let (piece, last) = taken.expect("sound");
            out.extend_from_slice(&piece);
            over = last;
        }
        assert!(over);
        assert_eq!((asked.len(), &out[..]), (1, &answer[..]));
        let mut given =
            NegotiatedResponse::of(JSON, 1000, &mut self::head(200, "text/event-stream")).expect("a head");
        assert!(given.take(note, true, |_| {}).is_err(), "it ends without an answer");
    }

    #[test]
    fn json_becomes_one_event_and_errors_stay() {
        let mut head = head(200, "application/json");
        let mut given = NegotiatedResponse::of(EVENTS, 1000, &mut head).expect("a head");
        assert_eq!(head.headers[CONTENT_TYPE], "text/event-stream");
        assert_eq!(given.take("{\"a\":\n".into(), false, |_| {}).expect("sound"), (Bytes::new(), false));
        let (event, over) = given.take("1}".into(), true, |_| {}).expect("sound");
        assert_eq!((&event[..], over), (&b"event: message\ndata: {\"a\":\ndata: 1}\n\n"[..], true));
        for (status, kind, takes) in [
            (404, "application/json", EVENTS),
            (200, "application/json", JSON),
            (200, "text/event-stream", EVENTS),
        ] {
            let mut head = self::head(status, kind);
            assert!(NegotiatedResponse::of(takes, 1000, &mut head).expect("a head").is_as_it_came());
            assert_eq!(head.headers[CONTENT_TYPE], kind);
        }
    }
}
