//! The event stream of a server: the `endpoint` event, then messages.
//!
//! A silent stream stays open: many servers send no comments. The health check and TCP keepalive notice a dead
//! one.

use bytes::Bytes;
use mcp::sse;
use mcp::sse::EventSplitter;

use super::endpoint::MAX_ENDPOINT_EVENT;
use crate::upstream::UpstreamError;
use crate::upstream::http::response::ResponseBody;
use crate::upstream::shared_connection::SharedConnection;
use crate::upstream::shared_connection::codec::{HEAD, LogQuota, OversizeScan};

pub(super) struct EventStream {
    body: ResponseBody,
    splitter: EventSplitter,
}

impl EventStream {
    /// `max` bounds what one chunk becomes when it is decoded.
    pub fn of(response: reqwest::Response, max: usize) -> Result<Self, UpstreamError> {
        let splitter = EventSplitter::new(MAX_ENDPOINT_EVENT);
        Ok(Self { body: ResponseBody::of(response, max)?, splitter })
    }

    /// The data of the `endpoint` event, which must be the first. Comments may come before it.
    pub async fn endpoint(&mut self) -> Result<String, UpstreamError> {
        let invalid = |why: String| UpstreamError::InvalidResponse(why);
        loop {
            let event = self.splitter.event();
            let too_long = |_| invalid(format!("its first event is longer than {MAX_ENDPOINT_EVENT} bytes"));
            if let Some(event) = event.map_err(too_long)? {
                let event = sse::read(&event);
                match (event.name.as_deref(), event.data.as_deref()) {
                    (Some("endpoint"), data) => {
                        return Ok(String::from_utf8_lossy(data.unwrap_or_default()).into_owned());
                    }
                    (_, None) => continue,
                    _ => return Err(invalid("its first event is not `endpoint`".into())),
                }
            }
            match self.body.chunk().await? {
                Some(piece) => self.splitter.push(&piece),
                None => return Err(invalid("its stream ended before an `endpoint` event".into())),
            }
        }
    }

    /// Hands all messages over until the stream ends; returns why it ended. `max` is the current bound of an
    /// event: the call that a longer one answers fails, and no other.
    pub async fn read(mut self, connection: &SharedConnection, max: impl Fn() -> usize) -> String {
        let mut log = LogQuota::new();
        let mut long: Option<(Bytes, OversizeScan)> = None;
        loop {
            let max = max();
            self.splitter.set_max(max);
            loop {
                if long.is_none() {
                    match self.splitter.event() {
                        Ok(Some(event)) => hand_over(connection, &event, &mut log),
                        Ok(None) => break,
                        Err(_) => long = Some((Bytes::new(), OversizeScan::default())),
                    }
                }
                let Some((head, scan)) = &mut long else { continue };
                let (part, ended) = self.splitter.skip();
                // The id may come last. What is before the message is no JSON.
                let mut text = &part[..];
                if head.is_empty() {
                    let start = memchr::memchr(b'{', text).unwrap_or(text.len());
                    text = &text[start..];
                    *head = Bytes::copy_from_slice(&text[..text.len().min(HEAD)]);
                }
                text.split(|byte| matches!(byte, b'\n' | b'\r')).for_each(|line| scan.feed(line));
                if !ended {
                    break;
                }
                connection.too_long(head, scan.id(), max, &mut log);
                long = None;
            }
            match self.body.chunk().await {
                Ok(Some(piece)) => self.splitter.push(&piece),
                Ok(None) => return "the server ended it".into(),
                Err(UpstreamError::Unreachable(why)) => return why,
                Err(error) => return error.to_string(),
            }
        }
    }
}

fn hand_over(connection: &SharedConnection, event: &[u8], log: &mut LogQuota) {
    let event = sse::read(event);
    if let Some(message) = event.message() {
        connection.on_line(&Bytes::copy_from_slice(message), log);
    }
}
