//! A stream of events as a client reads it, message by message.

use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use serde_json::Value;

use crate::harness::Gateway;

const MAX_WAIT: Duration = Duration::from_secs(60);

pub struct Events {
    response: Response,
    held: Vec<u8>,
    /// The last `id` of an event.
    pub last_id: Option<String>,
}

impl Events {
    /// Sends a request whose response must be a stream.
    pub async fn open(request: RequestBuilder) -> Self {
        Self::read(request.send().await.expect("an answer")).await
    }

    /// Reads a response, which must be a stream.
    pub async fn read(response: Response) -> Self {
        let status = response.status();
        let kind = response.headers().get("content-type").cloned();
        if kind.as_ref().is_none_or(|kind| kind != "text/event-stream") {
            panic!("no stream but {status} {kind:?}: {}", response.text().await.unwrap_or_default());
        }
        Self { response, held: Vec::new(), last_id: None }
    }

    /// The GET stream of a legacy session.
    pub async fn of_session(gateway: &Gateway, path: &str, session: &str) -> Self {
        let request = gateway.http.get(gateway.url(path)).header("accept", "text/event-stream");
        let request = request.header("mcp-session-id", session);
        Self::open(request.header("mcp-protocol-version", "2025-11-25")).await
    }

    /// The next message; `None` when the stream has ended cleanly.
    pub async fn next(&mut self) -> Option<Value> {
        // Comments keep a stream open for ever.
        let next = tokio::time::timeout(crate::harness::TEST_TIMEOUT, self.try_next()).await;
        next.expect("something comes in time").expect("the stream does not break")
    }

    /// The next message; an error when the stream broke.
    pub async fn try_next(&mut self) -> Result<Option<Value>, String> {
        let event = self.try_event().await?;
        Ok(event.map(|(_, data)| serde_json::from_str(&data).expect("an event is a JSON message")))
    }

    /// The name and the data of the next event that has data.
    pub async fn try_event(&mut self) -> Result<Option<(String, String)>, String> {
        loop {
            while let Some(event) = self.event() {
                let field = |name: &str| {
                    let lines = event.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                    lines.map(str::trim_start).collect::<Vec<_>>()
                };
                if let Some(id) = field("id").last() {
                    self.last_id = Some((*id).to_owned());
                }
                let data = field("data").join("\n");
                if !data.is_empty() {
                    return Ok(Some((field("event").concat(), data)));
                }
            }
            let chunk = tokio::time::timeout(MAX_WAIT, self.response.chunk()).await;
            match chunk.expect("something comes in time") {
                Ok(Some(chunk)) => self.held.extend(chunk.iter().filter(|byte| **byte != b'\r')),
                Ok(None) => return Ok(None),
                Err(error) => return Err(format!("{error:?}")),
            }
        }
    }

    /// Takes out the first whole event.
    fn event(&mut self) -> Option<String> {
        let end = self.held.windows(2).position(|two| two == b"\n\n")? + 2;
        let event: Vec<u8> = self.held.drain(..end).collect();
        Some(String::from_utf8(event).expect("events are UTF-8"))
    }

    /// Reads until a message of this method, and returns it.
    pub async fn method(&mut self, method: &str) -> Value {
        loop {
            let message = self.next().await.unwrap_or_else(|| panic!("the stream ended before {method}"));
            if message["method"] == method {
                return message;
            }
        }
    }

    /// All messages to the end.
    pub async fn rest(&mut self) -> Vec<Value> {
        let mut all = Vec::new();
        while let Some(message) = self.next().await {
            all.push(message);
        }
        all
    }
}
