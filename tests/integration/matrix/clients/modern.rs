//! A client of 2026-07-28 over Streamable HTTP, with an API key.

use reqwest::{Client as Http, RequestBuilder};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Answer, Client, Messages, is_answer, reply};
use crate::bridge::able;
use crate::events::Events;
use crate::harness::Gateway;

const META: &str = "io.modelcontextprotocol";

pub struct Modern {
    http: Http,
    url: String,
    id: u64,
    level: Option<String>,
    running: Option<JoinHandle<()>>,
    stream: Option<Events>,
}

impl Modern {
    fn body(&mut self, method: &str, mut params: Value) -> Value {
        self.id += 1;
        let meta = &mut params["_meta"];
        meta[format!("{META}/protocolVersion")] = json!("2026-07-28");
        meta[format!("{META}/clientInfo")] = json!({"name": "test", "version": "1"});
        meta[format!("{META}/clientCapabilities")] = able();
        if let Some(level) = &self.level {
            meta[format!("{META}/logLevel")] = json!(level);
        }
        json!({"jsonrpc": "2.0", "id": self.id, "method": method, "params": params})
    }

    fn post(&self, body: &Value) -> RequestBuilder {
        let post = self.http.post(&self.url).header("accept", "application/json, text/event-stream");
        let post = post.header("content-type", "application/json").bearer_auth("modern-key");
        let method = body["method"].as_str().expect("a method");
        let mut post = post.header("mcp-protocol-version", "2026-07-28").header("mcp-method", method);
        if let Some(name) = body["params"]["name"].as_str() {
            post = post.header("mcp-name", name);
        }
        post.body(body.to_string())
    }
}

impl Client for Modern {
    const NAME: &str = "modern";

    async fn open(gateway: &Gateway, path: &str) -> Self {
        let (http, url) = (gateway.http.clone(), gateway.url(path));
        let mut client = Self { http, url, id: 0, level: None, running: None, stream: None };
        let found = client.request("server/discover", json!({})).await.message;
        let versions = found["result"]["supportedVersions"].as_array().expect("versions");
        assert!(versions.contains(&json!("2026-07-28")), "{found}");
        client
    }

    async fn request(&mut self, method: &str, params: Value) -> Answer {
        let (mut answer, mut now) = (Answer::default(), params.clone());
        loop {
            let body = self.body(method, now);
            let mut messages = Messages::of(self.post(&body)).await;
            let message = loop {
                let message = messages.next().await;
                if is_answer(&message, self.id) {
                    break message;
                }
                assert!(message.get("id").is_none(), "no requests in this era: {message}");
                answer.events.push(message);
            };
            if message["result"]["resultType"] != "input_required" {
                answer.message = message;
                return answer;
            }
            now = params.clone();
            now["requestState"] = message["result"]["requestState"].clone();
            let asked = message["result"]["inputRequests"].as_object().expect("questions");
            for (key, question) in asked {
                now["inputResponses"][key] = reply(question);
                answer.asked.push(question.clone());
            }
        }
    }

    async fn begin(&mut self, method: &str, params: Value) {
        let body = self.body(method, params);
        let post = self.post(&body);
        self.running = Some(tokio::spawn(async move {
            if let Ok(response) = post.send().await {
                let _ = response.text().await;
            }
        }));
    }

    async fn cancel(&mut self) {
        let note = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": self.id,
            "_meta": {format!("{META}/protocolVersion"): "2026-07-28", format!("{META}/clientCapabilities"): {}}}});
        let response = self.post(&note).send().await.expect("an answer");
        let (status, text) = (response.status(), response.text().await.expect("a body"));
        assert_eq!(status, 202, "{text}");
        // What was sent before the next answer has had its effect.
        self.request("server/discover", json!({})).await;
        let running = self.running.take().expect("a request runs");
        let goes_on = !running.is_finished();
        running.abort();
        assert!(!goes_on, "the message does not cancel");
    }

    async fn leave(mut self) {
        self.running.take().expect("a request runs").abort();
    }

    async fn log_level(&mut self, level: &str) {
        self.level = Some(level.to_owned());
    }

    async fn listen(&mut self, uri: Option<&str>) {
        let mut wanted = json!({"toolsListChanged": true});
        if let Some(uri) = uri {
            wanted["resourceSubscriptions"] = json!([uri]);
        }
        let body = self.body("subscriptions/listen", json!({"notifications": wanted}));
        let mut stream = Events::open(self.post(&body)).await;
        let first = stream.next().await.expect("a first message");
        assert_eq!(first["method"], "notifications/subscriptions/acknowledged", "{first}");
        assert_eq!(first["params"]["notifications"], wanted, "acknowledged");
        self.stream = Some(stream);
    }

    async fn heard(&mut self, method: &str) -> Value {
        self.stream.as_mut().expect("it listens").method(method).await
    }

    /// The revision has no resumption: a client makes the call again (2026-07-28, changelog, "Streamable HTTP").
    async fn broken(&mut self, method: &str, params: Value) -> Answer {
        let body = self.body(method, params.clone());
        let mut messages = Messages::of(self.post(&body)).await;
        messages.next().await;
        drop(messages);
        self.request(method, params).await
    }
}
