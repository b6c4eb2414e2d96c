//! A legacy server asks on its notification stream (GET), as the SDKs do where a tool asks by the session: the client
//! is asked in its call, if it has only one there.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::{able, accepted, modern_call, question, retry, send, text};
use crate::access::key;
use crate::harness::{Gateway, TEST_TIMEOUT};
use crate::mock_server::{MockReply, MockServer, RecordedRequest, answer, http, json_answer, tools};

/// The server: `asks` asks on the notification stream, `waits` does not. Both answer when the client has.
struct Asker {
    outside: broadcast::Sender<Value>,
    /// The streams of the calls, by the tool.
    calls: [(&'static str, broadcast::Sender<Value>); 2],
    /// The tools and the ids of the calls that wait.
    waiting: Mutex<Vec<(String, Value)>>,
    /// What was said to its questions.
    answers: Mutex<Vec<Value>>,
}

impl Asker {
    fn reply(&self, seen: &RecordedRequest) -> MockReply {
        let session = seen.header("mcp-session-id").unwrap_or_default();
        match (seen.http_method.as_str(), seen.method()) {
            ("GET", _) if session == "of-client" => MockReply::Stream(Vec::new(), self.outside.subscribe()),
            (_, "initialize") => {
                let is_client = seen.body["params"]["clientInfo"]["name"] == "test";
                let result = json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                    "serverInfo": {"name": "mock", "version": "1"}});
                let session = format!("Mcp-Session-Id: {}", if is_client { "of-client" } else { "own" });
                let headers = ["Content-Type: application/json", &*session];
                MockReply::Say(http("200 OK", &headers, &answer(seen, &result)))
            }
            (_, "tools/list") => MockReply::Say(json_answer(&answer(seen, &tools(&["asks", "waits"])))),
            (_, "tools/call") => {
                let tool = seen.tool();
                let (_, stream) = self.calls.iter().find(|(name, _)| *name == tool).expect("a tool");
                let stream = MockReply::Stream(Vec::new(), stream.subscribe());
                let call = (tool.to_owned(), seen.body["id"].clone());
                self.waiting.lock().expect("no holder panics").push(call);
                if tool == "asks" {
                    let form = json!({"type": "object", "properties": {"username": {"type": "string"}}});
                    let ask = json!({"jsonrpc": "2.0", "id": 7, "method": "elicitation/create",
                        "params": {"message": "who?", "requestedSchema": form}});
                    self.outside.send(ask).expect("the gateway reads the notification stream");
                }
                stream
            }
            ("POST", "") => {
                self.answers.lock().expect("no holder panics").push(seen.body.clone());
                for (tool, id) in std::mem::take(&mut *self.waiting.lock().expect("no holder panics")) {
                    let (_, stream) = self.calls.iter().find(|(name, _)| *name == tool).expect("a tool");
                    let result = json!({"content": [{"type": "text", "text": seen.body.to_string()}]});
                    let _ = stream.send(json!({"jsonrpc": "2.0", "id": id, "result": result}));
                    let _ = stream.send(Value::Null);
                }
                MockReply::Say(http("202 Accepted", &[], ""))
            }
            _ => MockReply::Good,
        }
    }
}

async fn start() -> (Gateway, MockServer, Arc<Asker>) {
    let stream = || broadcast::channel(8).0;
    let asker = Arc::new(Asker {
        outside: stream(),
        calls: [("asks", stream()), ("waits", stream())],
        waiting: Mutex::default(),
        answers: Mutex::default(),
    });
    let server = asker.clone();
    let mock = MockServer::start(move |seen| server.reply(seen)).await;
    let config = format!(
        "mcpServers: {{s: {{url: \"{}\", era: legacy}}}}\nauth:\n  api_keys:\n{}",
        mock.url,
        key("ann", "")
    );
    (Gateway::start(&config).await, mock, asker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_on_the_notification_stream_is_asked_in_the_only_call() {
    let (gateway, _mock, _asker) = start().await;
    // The second call finds the stream open.
    for round in [1, 3] {
        let call = modern_call(round, "s__asks", json!({}), &able());
        let (_, asked) = send(&gateway, "/mcp", "ann-key", &call).await;
        let (key, form) = question(&asked);
        assert_eq!(form["params"]["message"], "who?", "{asked}");
        let again = retry(&call, round + 1, &asked, json!({key: accepted("ann")}));
        let (status, said) = send(&gateway, "/mcp", "ann-key", &again).await;
        let reached: Value = serde_json::from_str(text(&said)).unwrap_or_default();
        assert_eq!((status, &reached["id"]), (200, &json!(7)), "{said}");
        assert_eq!(reached["result"]["content"]["username"], "ann", "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_could_be_of_two_calls_is_declined_with_the_reason() {
    let (gateway, mock, asker) = start().await;
    let waits = modern_call(1, "s__waits", json!({}), &able());
    let asks = modern_call(2, "s__asks", json!({}), &able());
    let begun = async {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while mock.count("tools/call") == 0 {
            assert!(Instant::now() < deadline, "the first call never came");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        send(&gateway, "/mcp", "ann-key", &asks).await
    };
    let ((_, first), (_, second)) = tokio::join!(send(&gateway, "/mcp", "ann-key", &waits), begun);
    for said in [first, second] {
        assert_eq!(said["result"]["resultType"], "complete", "{said}");
    }
    let heard = asker.answers.lock().expect("no holder panics").clone();
    let why = heard[0]["error"]["message"].as_str().unwrap_or_default();
    assert!(heard.len() == 1 && why.contains("several calls"), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_cannot_be_asked_opens_no_notification_stream() {
    let (gateway, mock, _asker) = start().await;
    let call = modern_call(1, "s__waits", json!({}), &json!({}));
    let ((), _) = tokio::join!(
        async {
            let deadline = Instant::now() + TEST_TIMEOUT;
            while mock.count("tools/call") == 0 {
                assert!(Instant::now() < deadline, "the call never came");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let streams = mock.all().into_iter().filter(|seen| {
                seen.http_method == "GET" && seen.header("mcp-session-id") == Some("of-client")
            });
            assert_eq!(streams.count(), 0);
            // Any answer ends the call.
            let answer = json!({"jsonrpc": "2.0", "id": 7, "result": {}});
            gateway.http.post(&mock.url).body(answer.to_string()).send().await.expect("an answer");
        },
        send(&gateway, "/mcp", "ann-key", &call)
    );
}
