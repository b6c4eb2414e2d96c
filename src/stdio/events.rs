//! The messages of a stream of events, one by one, and where the stream can be resumed.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use mcp::jsonrpc::message;
use mcp::sse;
use mcp::sse::EventSplitter;

/// Maximum `retry` time that a server may request.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

pub struct Events {
    response: reqwest::Response,
    splitter: EventSplitter,
    ready: VecDeque<Bytes>,
    /// The id of the last event, for `Last-Event-ID`.
    pub last: Option<HeaderValue>,
    pub retry: Option<Duration>,
}

impl Events {
    /// `max` bounds one event, in bytes.
    pub fn of(response: reqwest::Response, max: usize) -> Self {
        let splitter = EventSplitter::new(max);
        Self { response, splitter, ready: VecDeque::new(), last: None, retry: None }
    }

    /// The next message; `None` at the end, an error if the stream broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            if let Some(event) = self.splitter.event().map_err(|error| error.to_string())? {
                self.read(&event);
                continue;
            }
            match self.response.chunk().await {
                Ok(Some(piece)) => self.splitter.push(&piece),
                Ok(None) => return Ok(None),
                Err(error) => return Err(super::transport::cause(&error)),
            }
        }
    }

    fn read(&mut self, event: &[u8]) {
        let read = sse::read(event);
        if let Some(id) = &read.id {
            self.last = HeaderValue::from_str(id).ok().filter(|id| !id.is_empty());
        }
        if let Some(retry) = read.retry.as_ref().and_then(|retry| retry.parse().ok()) {
            self.retry = Some(Duration::from_millis(retry).min(LONGEST_RETRY));
        }
        if let Some(data) = read.message() {
            self.ready.push_back(Bytes::copy_from_slice(data));
        }
    }
}

pub fn is_stream(response: &reqwest::Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream")
}

/// Whether this is the response that the client waits for. Any other valid message goes to the client
/// unchanged.
#[derive(Debug, PartialEq, Eq)]
pub enum EventKind {
    Response,
    /// A notification or a request of the server.
    Message,
    /// Neither: it is dropped.
    Invalid,
}

/// What a message is to the request `id`; `None` without a waiting request.
pub fn classify(message: &[u8], id: Option<&[u8]>) -> EventKind {
    let Some(read) = message::read(message) else { return EventKind::Invalid };
    if read.method.is_some() {
        return EventKind::Message;
    }
    let theirs = match (read.id, id) {
        (Some(theirs), Some(id)) => message::same_id(theirs.of(message), id),
        _ => false,
    };
    if read.is_response() && theirs { EventKind::Response } else { EventKind::Invalid }
}
