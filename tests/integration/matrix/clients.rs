//! The clients of the matrix, as messages on the wire: one for each era, and one over HTTP+SSE.

mod legacy;
mod modern;
mod sse;

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::events::Events;
use crate::harness::Gateway;

pub use legacy::Legacy;
pub use modern::Modern;
pub use sse::Sse;

/// What a request came to.
#[derive(Debug, Default)]
pub struct Answer {
    pub message: Value,
    /// The notifications before it.
    pub events: Vec<Value>,
    /// What the client was asked meanwhile.
    pub asked: Vec<Value>,
}

impl Answer {
    pub fn text(&self) -> &str {
        let text = self.message["result"]["content"][0]["text"].as_str();
        text.unwrap_or_else(|| panic!("no text: {}", self.message))
    }

    /// The params of the notifications of this method.
    pub fn notes(&self, method: &str) -> Vec<&Value> {
        let notes = self.events.iter().filter(|event| event["method"] == method);
        notes.map(|event| &event["params"]).collect()
    }
}

/// What each client can do, in the way of its transport and era.
pub trait Client: Sized {
    const NAME: &str;

    async fn open(gateway: &Gateway, path: &str) -> Self;

    /// Sends a request, and answers what the client is asked.
    async fn request(&mut self, method: &str, params: Value) -> Answer;

    /// Sends a request and does not read its answer.
    async fn begin(&mut self, method: &str, params: Value);

    /// Cancels the request that `begin` sent, by a message.
    async fn cancel(&mut self);

    /// Goes away, as a client of this kind does.
    async fn leave(self);

    async fn log_level(&mut self, level: &str);

    /// Begins to follow the lists, and this resource.
    async fn listen(&mut self, uri: Option<&str>);

    /// The next notification of this method that `listen` brings.
    async fn heard(&mut self, method: &str) -> Value;

    /// Sends a request, breaks the connection after the first notification, and gets what is missing in the
    /// way of the client's revision.
    async fn broken(&mut self, method: &str, params: Value) -> Answer;

    async fn call(&mut self, tool: &str, arguments: Value) -> Answer {
        self.request("tools/call", json!({"name": tool, "arguments": arguments})).await
    }
}

/// The client's answer to a question.
fn reply(question: &Value) -> Value {
    let params = &question["params"];
    match question["method"].as_str().expect("a method") {
        "elicitation/create" if params["mode"] == "url" => json!({"action": "accept"}),
        "elicitation/create" => {
            let names = params["requestedSchema"]["properties"].as_object().expect("properties");
            let content: serde_json::Map<_, _> =
                names.keys().map(|name| (name.clone(), json!(format!("my {name}")))).collect();
            json!({"action": "accept", "content": content})
        }
        "sampling/createMessage" => {
            let said = format!("said to {}", params["messages"][0]["content"]["text"]);
            json!({"role": "assistant", "content": {"type": "text", "text": said}, "model": "none"})
        }
        "roots/list" => json!({"roots": [{"uri": "file:///root", "name": "root"}]}),
        other => panic!("nobody may ask for {other}"),
    }
}

fn is_answer(message: &Value, id: u64) -> bool {
    message["id"] == id && message.get("method").is_none()
}

/// The messages of a response: one as JSON, or those of a stream.
enum Messages {
    Whole(Option<Value>),
    Stream(Events),
}

impl Messages {
    async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        if response.headers().get("content-type").is_some_and(|kind| kind == "text/event-stream") {
            return Self::Stream(Events::read(response).await);
        }
        let (status, text) = (response.status(), response.text().await.expect("a body"));
        let message = serde_json::from_str(&text);
        Self::Whole(Some(message.unwrap_or_else(|_| panic!("no message but {status}: {text}"))))
    }

    async fn next(&mut self) -> Value {
        let next = match self {
            Self::Whole(message) => message.take(),
            Self::Stream(events) => events.next().await,
        };
        next.expect("the answer comes before the end")
    }

    /// The id of the last event.
    fn last_id(&self) -> String {
        let id = match self {
            Self::Whole(_) => None,
            Self::Stream(events) => events.last_id.clone(),
        };
        id.expect("events with ids")
    }
}
