//! A client of 2025-11-25 over Streamable HTTP.

use reqwest::{Client as Http, RequestBuilder};
use serde_json::{Value, json};

use super::{Answer, Client, Messages, is_answer, reply};
use crate::bridge::able;
use crate::events::Events;
use crate::harness::Gateway;

pub struct Legacy {
    http: Http,
    url: String,
    session: String,
    id: u64,
    stream: Option<Events>,
}

impl Legacy {
    fn head(&self, request: RequestBuilder) -> RequestBuilder {
        request.header("mcp-session-id", &self.session).header("mcp-protocol-version", "2025-11-25")
    }

    fn post(&self, body: &Value) -> RequestBuilder {
        let post = self.http.post(&self.url).header("accept", "application/json, text/event-stream");
        self.head(post).header("content-type", "application/json").body(body.to_string())
    }

    fn get(&self) -> RequestBuilder {
        self.head(self.http.get(&self.url).header("accept", "text/event-stream"))
    }

    fn body(&mut self, method: &str, params: Value) -> Value {
        self.id += 1;
        json!({"jsonrpc": "2.0", "id": self.id, "method": method, "params": params})
    }

    async fn tell(&self, body: &Value) {
        let response = self.post(body).send().await.expect("an answer");
        assert_eq!(response.status(), 202, "{body}: {}", response.text().await.unwrap_or_default());
    }

    /// Reads up to the answer of the last request.
    async fn read(&self, mut messages: Messages, mut answer: Answer) -> Answer {
        loop {
            let message = messages.next().await;
            if is_answer(&message, self.id) {
                answer.message = message;
                return answer;
            }
            if message.get("id").is_none() {
                answer.events.push(message);
                continue;
            }
            self.tell(&json!({"jsonrpc": "2.0", "id": message["id"], "result": reply(&message)})).await;
            answer.asked.push(message);
        }
    }
}

impl Client for Legacy {
    const NAME: &str = "legacy";

    async fn open(gateway: &Gateway, path: &str) -> Self {
        let session = gateway.initialize_with(path, able()).await;
        Self { http: gateway.http.clone(), url: gateway.url(path), session, id: 0, stream: None }
    }

    async fn request(&mut self, method: &str, params: Value) -> Answer {
        let body = self.body(method, params);
        let messages = Messages::of(self.post(&body)).await;
        self.read(messages, Answer::default()).await
    }

    async fn begin(&mut self, method: &str, params: Value) {
        let body = self.body(method, params);
        tokio::spawn(self.post(&body).send());
    }

    async fn cancel(&mut self) {
        let params = json!({"requestId": self.id});
        self.tell(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})).await;
    }

    async fn leave(self) {
        let end = self.head(self.http.delete(&self.url)).send().await.expect("an answer");
        assert_eq!(end.status(), 204);
    }

    async fn log_level(&mut self, level: &str) {
        let answer = self.request("logging/setLevel", json!({"level": level})).await;
        assert_eq!(answer.message["result"], json!({}), "{}", answer.message);
    }

    async fn listen(&mut self, uri: Option<&str>) {
        if let Some(uri) = uri {
            let answer = self.request("resources/subscribe", json!({"uri": uri})).await;
            assert_eq!(answer.message["result"], json!({}), "{}", answer.message);
        }
        self.stream = Some(Events::open(self.get()).await);
    }

    async fn heard(&mut self, method: &str) -> Value {
        self.stream.as_mut().expect("it listens").method(method).await
    }

    async fn broken(&mut self, method: &str, params: Value) -> Answer {
        let body = self.body(method, params);
        let mut messages = Messages::of(self.post(&body)).await;
        let first = messages.next().await;
        let last = messages.last_id();
        drop(messages);
        let rest = Messages::of(self.get().header("last-event-id", last)).await;
        self.read(rest, Answer { events: vec![first], ..Answer::default() }).await
    }
}
