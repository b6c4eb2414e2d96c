//! Tasks that the gateway offers for calls of a server that has none.

use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::{about, about_as, call, declared, listen, request, send, task_of, until};
use crate::bridge::{able, accepted, modern_call};
use crate::events::Events;
use crate::harness::Gateway;
use crate::mock_server::{MockReply, MockServer, answer, tools};

/// A server of one era whose tool `report` answers when it is told to.
pub struct SlowServer {
    pub server: MockServer,
    pub answers: broadcast::Sender<Value>,
}

impl SlowServer {
    /// How many calls it has got.
    pub fn calls(&self) -> usize {
        self.server.count("tools/call")
    }

    /// Answers one of its calls, by its number.
    pub fn answer_one(&self, number: usize, message: &Value) {
        let calls: Vec<_> =
            self.server.calls().into_iter().filter(|seen| seen.method() == "tools/call").collect();
        let mut message = message.clone();
        message["for"] = calls[number].body["id"].clone();
        self.answers.send(message).expect("it runs");
    }
}

/// The answer goes out on `answers`, to the call with the id in `for`, or to all; the id of the request is put in.
pub async fn slow_server(modern: bool) -> SlowServer {
    let answers = broadcast::channel::<Value>(8).0;
    let ready = answers.clone();
    let server = MockServer::start(move |seen| match seen.method() {
        // A client's answer.
        "" if seen.http_method == "POST" => MockReply::Say(crate::mock_server::http("202 Accepted", &[], "")),
        "tools/list" => {
            MockReply::Say(crate::mock_server::json_answer(&answer(seen, &tools(&["report", "other"]))))
        }
        "initialize" if modern => {
            let error =
                json!({"jsonrpc": "2.0", "id": seen.body["id"], "error": {"code": -32601, "message": "?"}});
            MockReply::Say(crate::mock_server::http(
                "404 Not Found",
                &["Content-Type: application/json"],
                &error.to_string(),
            ))
        }
        "server/discover" if !modern => {
            let error =
                json!({"jsonrpc": "2.0", "id": seen.body["id"], "error": {"code": -32601, "message": "?"}});
            MockReply::Say(crate::mock_server::http(
                "404 Not Found",
                &["Content-Type: application/json"],
                &error.to_string(),
            ))
        }
        "tools/call" if seen.tool() == "report" => {
            let (mut given, id) = (ready.subscribe(), seen.body["id"].clone());
            let (out, pieces) = tokio::sync::mpsc::unbounded_channel();
            tokio::spawn(async move {
                while let Ok(mut message) = given.recv().await {
                    if message.get("for").is_some_and(|of| *of != id) {
                        continue;
                    }
                    message.as_object_mut().expect("a message").remove("for");
                    // Its answer ends the stream.
                    let is_answer = message.get("method").is_none();
                    if is_answer {
                        message["id"] = id.clone();
                    }
                    if out.send(format!("data: {message}\n\n").into_bytes()).is_err() || is_answer {
                        return;
                    }
                }
            });
            MockReply::Pour(pieces)
        }
        _ => MockReply::Good,
    })
    .await;
    SlowServer { server, answers }
}

pub fn settings(url: &str, after: &str) -> Value {
    json!({"url": url, "health": {"interval": "1h"}, "tasks": {"tools": ["*__report"], "after": after}})
}

async fn start(slow: &SlowServer, after: &str) -> Gateway {
    let servers = json!({"s": settings(&slow.server.url, after)});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    gateway
        .eventually("its tools are shown", async |g| {
            g.modern("/mcp", "tools/list", json!({})).await.1.to_string().contains("s__report")
        })
        .await;
    gateway
}

pub fn result(text: &str) -> Value {
    json!({"jsonrpc": "2.0", "result": {"resultType": "complete", "content": [{"type": "text", "text": text}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_call_becomes_a_task_and_its_result_is_kept() {
    for modern in [true, false] {
        let slow = slow_server(modern).await;
        let gateway = start(&slow, "100ms").await;
        let (status, created) = send(&gateway, "/mcp", "", &call(3, "s__report", json!({}))).await;
        assert_eq!((status, &created["id"]), (200, &json!(3)), "{created}");
        let task = task_of(&created);
        assert_eq!(created["result"]["status"], "working");
        let working = until(&gateway, "/mcp", "", &task, "working").await;
        assert!(working["ttlMs"].as_u64().expect("a time") >= 3_600_000, "{working}");
        let mut stream = Events::open(request(&gateway, "/mcp", "", &listen(&[&task], &declared()))).await;
        let ack = stream.method("notifications/subscriptions/acknowledged").await;
        assert_eq!(ack["params"]["notifications"], json!({"taskIds": [&task]}));
        assert_eq!(stream.method("notifications/tasks").await["params"]["status"], "working");
        slow.answers.send(result("the report")).expect("it runs");
        let change = stream.method("notifications/tasks").await;
        assert_eq!(change["params"]["taskId"], *task, "{change}");
        assert_eq!(change["params"]["result"]["content"][0]["text"], "the report", "{change}");
        let done = until(&gateway, "/mcp", "", &task, "completed").await;
        assert_eq!(done["result"]["content"][0]["text"], "the report", "modern: {modern}");
        // Too late: the result stays.
        let (status, _) = send(&gateway, "/mcp", "", &about("tasks/cancel", &task)).await;
        assert_eq!(status, 200);
        until(&gateway, "/mcp", "", &task, "completed").await;
        assert_eq!(slow.server.count("notifications/cancelled"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_calls_stay_calls() {
    let slow = slow_server(true).await;
    let gateway = start(&slow, "1h").await;
    // Quick, or of a client that has no tasks, or of a tool that is not named.
    for body in [call(1, "s__other", json!({})), modern_call(2, "s__other", json!({}), &json!({}))] {
        let (_, done) = send(&gateway, "/mcp", "", &body).await;
        assert_eq!(done["result"]["content"][0]["text"], "done", "{done}");
    }
    for body in [call(3, "s__report", json!({})), modern_call(4, "s__report", json!({}), &json!({}))] {
        let seen = slow.server.count("tools/call");
        let asked = tokio::spawn({
            let request = request(&gateway, "/mcp", "", &body);
            async move { crate::harness::read(request.send().await.expect("an answer")).await }
        });
        gateway.eventually("the server has it", async |_| slow.server.count("tools/call") > seen).await;
        gateway
            .eventually("it answers", async |_| {
                let _ = slow.answers.send(result("in time"));
                asked.is_finished()
            })
            .await;
        let (_, done) = asked.await.expect("it ends");
        assert_eq!(done["result"]["content"][0]["text"], "in time", "{done}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_failures_and_tool_errors_are_results() {
    let slow = slow_server(true).await;
    let gateway = start(&slow, "100ms").await;
    let failed = json!({"jsonrpc": "2.0", "error": {"code": -32050, "message": "no luck", "data": {"x": 1}}});
    let broken =
        json!({"jsonrpc": "2.0", "result": {"resultType": "complete", "isError": true, "content": []}});
    let strange =
        json!({"jsonrpc": "2.0", "result": {"resultType": "task", "taskId": "raw", "status": "working"}});
    for (said, status, place) in [
        (failed, "failed", "/error/code"),
        (broken, "completed", "/result/isError"),
        (strange, "failed", "/error/code"),
    ] {
        let (_, created) = send(&gateway, "/mcp", "", &call(3, "s__report", json!({}))).await;
        let task = task_of(&created);
        slow.answers.send(said.clone()).expect("it runs");
        let got = until(&gateway, "/mcp", "", &task, status).await;
        assert!(got.pointer(place).is_some(), "{got}");
        if said.get("error").is_some() {
            assert_eq!(got["error"], said["error"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_cancels_the_call_at_its_server() {
    for modern in [true, false] {
        let slow = slow_server(modern).await;
        let gateway = start(&slow, "100ms").await;
        let (_, created) = send(&gateway, "/mcp", "", &call(3, "s__report", json!({}))).await;
        let task = task_of(&created);
        let (status, done) = send(&gateway, "/mcp", "", &about("tasks/cancel", &task)).await;
        assert_eq!((status, &done["result"]), (200, &json!({"resultType": "complete"})), "{done}");
        until(&gateway, "/mcp", "", &task, "cancelled").await;
        if modern {
            gateway
                .eventually("its stream is closed", async |_| slow.answers.send(result("late")).is_err())
                .await;
        } else {
            gateway
                .eventually("the server hears of it", async |_| {
                    slow.server.count("notifications/cancelled") == 1
                })
                .await;
        }
        let _ = slow.answers.send(result("late"));
        let got = until(&gateway, "/mcp", "", &task, "cancelled").await;
        assert!(got.get("result").is_none(), "{got}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_before_the_task_cancels_and_who_leaves_after_does_not() {
    let slow = slow_server(false).await;
    let gateway = start(&slow, "1h").await;
    let body = call(3, "s__report", json!({}));
    let left = tokio::spawn(request(&gateway, "/mcp", "", &body).send());
    gateway.eventually("the server has it", async |_| slow.server.count("tools/call") == 1).await;
    left.abort();
    gateway.eventually("it is cancelled", async |_| slow.server.count("notifications/cancelled") == 1).await;

    let slow = slow_server(false).await;
    let gateway = start(&slow, "100ms").await;
    // This client's connections are gone with its answer.
    let (_, created) = send(&gateway, "/mcp", "", &body).await;
    let task = task_of(&created);
    slow.answers.send(result("kept")).expect("it runs");
    let done = until(&gateway, "/mcp", "", &task, "completed").await;
    assert_eq!(done["result"]["content"][0]["text"], "kept");
    assert_eq!(slow.server.count("notifications/cancelled"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_of_the_server_is_answered_by_an_update() {
    let asks = json!({"message": "who?", "mode": "form",
        "requestedSchema": {"type": "object", "properties": {"username": {"type": "string"}}}});
    for modern in [true, false] {
        let slow = slow_server(modern).await;
        let gateway = start(&slow, "100ms").await;
        let mut able = able();
        able["extensions"] = declared()["extensions"].clone();
        let body = modern_call(3, "s__report", json!({"a": 1}), &able);
        let (_, created) = send(&gateway, "/mcp", "", &body).await;
        let task = task_of(&created);
        let question = if modern {
            json!({"jsonrpc": "2.0", "result": {"resultType": "input_required", "requestState": "opaque",
                "inputRequests": {"name": {"method": "elicitation/create", "params": asks}}}})
        } else {
            json!({"jsonrpc": "2.0", "id": 99, "method": "elicitation/create", "params": asks})
        };
        slow.answers.send(question).expect("it runs");
        let asked = until(&gateway, "/mcp", "", &task, "input_required").await;
        let requests = asked["inputRequests"].as_object().expect("questions");
        let (key, request) = requests.iter().next().expect("a question");
        assert_eq!(
            (&request["method"], &request["params"]["message"]),
            (&json!("elicitation/create"), &json!("who?"))
        );
        // An unknown key changes nothing.
        let update =
            |answers: Value| about_as("tasks/update", &task, &able, json!({"inputResponses": answers}));
        for answers in
            [json!({"other": accepted("eve")}), json!({key: accepted("ann")}), json!({key: accepted("eve")})]
        {
            let (status, done) = send(&gateway, "/mcp", "", &update(answers)).await;
            assert_eq!((status, &done["result"]), (200, &json!({"resultType": "complete"})), "{done}");
        }
        let heard = |seen: &crate::mock_server::RecordedRequest| {
            let answer =
                if modern { &seen.body["params"]["inputResponses"]["name"] } else { &seen.body["result"] };
            answer["content"]["username"].as_str().map(str::to_owned)
        };
        let all = || slow.server.all().iter().filter_map(heard).collect::<Vec<_>>();
        gateway.eventually("the server has the answer", async |_| !all().is_empty()).await;
        gateway
            .eventually("it answers", async |g| {
                let _ = slow.answers.send(result("hello ann"));
                let (_, got) = send(g, "/mcp", "", &about("tasks/get", &task)).await;
                assert_ne!(got["result"]["status"], "failed", "{got}");
                got["result"]["status"] == "completed"
            })
            .await;
        let done = until(&gateway, "/mcp", "", &task, "completed").await;
        assert_eq!(done["result"]["content"][0]["text"], "hello ann", "modern: {modern}");
        assert_eq!(all(), ["ann"], "one answer, once");
        if modern {
            let calls = slow.server.calls();
            let retry = calls.iter().rev().find(|seen| seen.method() == "tools/call").expect("a retry");
            assert_eq!(retry.body["params"]["requestState"], "opaque");
            assert_eq!((retry.tool(), &retry.body["params"]["arguments"]), ("report", &json!({"a": 1})));
        }
    }
}
