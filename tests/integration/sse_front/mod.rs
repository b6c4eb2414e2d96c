//! Clients over HTTP+SSE, the transport of 2024-11-05: `GET /sse` and `POST /messages/`.

mod callers;
mod ends;
mod limits;
mod messages;
mod paths;
mod sdks;

use reqwest::{Client, Response, Url};
use serde_json::{Value, json};

use crate::events::Events;
use crate::harness::Gateway;

/// A client of that time, message by message.
pub struct SseClient {
    http: Client,
    pub events: Events,
    /// Where its messages go, as its first event says.
    pub uri: Url,
    key: Option<String>,
}

impl SseClient {
    pub async fn open(gateway: &Gateway, path: &str) -> Self {
        Self::open_at(&gateway.http, &gateway.url(path), None).await
    }

    /// With an API key.
    pub async fn open_at(http: &Client, url: &str, key: Option<&str>) -> Self {
        let mut request = http.get(url).header("accept", "text/event-stream");
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.expect("an answer");
        let url = response.url().clone();
        let mut events = Events::read(response).await;
        let (name, data) = events.try_event().await.expect("no break").expect("a first event");
        assert_eq!(name, "endpoint", "{data}");
        let uri = url.join(&data).expect("a URI");
        Self { http: http.clone(), events, uri, key: key.map(str::to_owned) }
    }

    /// The same with a session of the newest of its versions.
    pub async fn ready(gateway: &Gateway, path: &str) -> Self {
        let mut client = Self::open(gateway, path).await;
        client.initialize("2025-11-25", json!({})).await;
        client
    }

    pub async fn post_text(&self, body: impl Into<String>) -> Response {
        // As the SDKs send it: `Accept` is whatever their HTTP client sends.
        let mut request = self.http.post(self.uri.clone()).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        request.body(body.into()).send().await.expect("an answer")
    }

    pub async fn post(&self, body: &Value) -> u16 {
        self.post_text(body.to_string()).await.status().as_u16()
    }

    /// Sends a request, which must be accepted.
    pub async fn send(&self, body: &Value) {
        let response = self.post_text(body.to_string()).await;
        let status = response.status();
        assert_eq!(status, 202, "{body}: {}", response.text().await.unwrap_or_default());
    }

    /// Sends a request and reads up to its response.
    pub async fn say(&mut self, body: &Value) -> Value {
        self.send(body).await;
        self.answer(&body["id"]).await
    }

    /// Reads up to the response of this id.
    pub async fn answer(&mut self, id: &Value) -> Value {
        loop {
            let message = self.events.next().await.expect("the stream goes on");
            if message["id"] == *id && message.get("method").is_none() {
                return message;
            }
        }
    }

    pub async fn initialize(&mut self, version: &str, capabilities: Value) -> Value {
        let mut body = crate::harness::initialize(capabilities);
        body["params"]["protocolVersion"] = json!(version);
        let begun = self.say(&body).await;
        assert!(begun["result"]["protocolVersion"].is_string(), "{begun}");
        self.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        begun
    }
}

/// A request without params.
pub fn request(id: u64, method: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method})
}

/// The text of a tool's result.
pub fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {answer}"))
}
