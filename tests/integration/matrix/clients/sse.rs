//! A client of 2024-11-05 over HTTP+SSE.

use std::mem;

use serde_json::{Value, json};

use super::{Answer, Client, is_answer, reply};
use crate::harness::Gateway;
use crate::sse_front::SseClient;

pub struct Sse {
    client: SseClient,
    id: u64,
    /// Notifications that came before an answer.
    kept: Vec<Value>,
}

impl Sse {
    async fn send(&mut self, method: &str, params: Value) {
        self.id += 1;
        self.client.send(&json!({"jsonrpc": "2.0", "id": self.id, "method": method, "params": params})).await;
    }

    async fn next(&mut self) -> Value {
        self.client.events.next().await.expect("the stream goes on")
    }
}

impl Client for Sse {
    const NAME: &str = "sse";

    async fn open(gateway: &Gateway, path: &str) -> Self {
        let mut client = SseClient::open(gateway, &path.replace("/mcp", "/sse")).await;
        // All that the revision has.
        let begun = client.initialize("2024-11-05", json!({"sampling": {}, "roots": {}})).await;
        assert_eq!(begun["result"]["protocolVersion"], "2024-11-05");
        Self { client, id: 0, kept: Vec::new() }
    }

    async fn request(&mut self, method: &str, params: Value) -> Answer {
        self.send(method, params).await;
        let mut answer = Answer::default();
        loop {
            let message = self.next().await;
            if is_answer(&message, self.id) {
                answer.message = message;
                return answer;
            }
            if message.get("id").is_none() {
                self.kept.push(message.clone());
                answer.events.push(message);
            } else if message.get("method").is_some() {
                let said = json!({"jsonrpc": "2.0", "id": message["id"], "result": reply(&message)});
                self.client.send(&said).await;
                answer.asked.push(message);
            }
        }
    }

    async fn begin(&mut self, method: &str, params: Value) {
        self.send(method, params).await;
    }

    async fn cancel(&mut self) {
        let params = json!({"requestId": self.id});
        let note = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
        self.client.send(&note).await;
    }

    async fn leave(self) {}

    async fn log_level(&mut self, level: &str) {
        let answer = self.request("logging/setLevel", json!({"level": level})).await;
        assert_eq!(answer.message["result"], json!({}), "{}", answer.message);
    }

    async fn listen(&mut self, uri: Option<&str>) {
        if let Some(uri) = uri {
            let answer = self.request("resources/subscribe", json!({"uri": uri})).await;
            assert_eq!(answer.message["result"], json!({}), "{}", answer.message);
        }
        self.kept.clear();
    }

    async fn heard(&mut self, method: &str) -> Value {
        let mut kept = mem::take(&mut self.kept).into_iter();
        let found = kept.find(|message| message["method"] == method);
        self.kept = kept.collect();
        if let Some(message) = found {
            return message;
        }
        loop {
            let message = self.next().await;
            if message["method"] == method {
                return message;
            }
        }
    }

    async fn broken(&mut self, method: &str, params: Value) -> Answer {
        self.send(method, params).await;
        self.next().await;
        panic!("after {:?} there are no events with ids", self.client.events.last_id);
    }
}
