//! Tasks of the gateway at several processes with one Redis and one key: begun at one, they are read, answered,
//! cancelled and followed at others.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::offered::{SlowServer, result, settings, slow_server};
use super::passed::{ANN, BOB, CALLERS};
use super::{about, about_as, call, declared, listen, request, send, task_of, until};
use crate::bridge::{able, accepted, modern_call};
use crate::events::Events;
use crate::harness::{Gateway, Process, a_redis, free_port};

const KEY: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";

/// Anybody reads the metrics.
const REST: &str = r#"  required: false
  anonymous: {roles: [all]}
rbac: {roles: {all: {admin: true, allow: {tools: ["*"]}}}}
"#;

/// Gateways A, B and C in front of one server.
struct Fleet {
    gateways: Vec<Gateway>,
    slow: SlowServer,
    redis: Process,
    port: u16,
}

impl Fleet {
    async fn start(modern: bool, count: usize) -> Self {
        let slow = slow_server(modern).await;
        let port = free_port();
        let redis = a_redis(port).await;
        let mut gateways = Vec::new();
        for _ in 0..count {
            let servers = json!({"s": settings(&slow.server.url, "100ms")});
            let gateway = Gateway::start(&format!(
                "mcpServers: {servers}\nredis: {{url: \"redis://127.0.0.1:{port}\"}}\nsecrets: {{key: \"{KEY}\"}}\n\
                 {CALLERS}{REST}"
            ))
            .await;
            gateway.eventually("its tools are shown", async |g| super::passed::shown(g).await).await;
            is_connected(&gateway, true).await;
            gateways.push(gateway);
        }
        Self { gateways, slow, redis, port }
    }

    fn all(&self) -> [&Gateway; 3] {
        [&self.gateways[0], &self.gateways[1], &self.gateways[2]]
    }
}

async fn is_connected(gateway: &Gateway, up: bool) {
    let value = f64::from(u8::from(up));
    gateway
        .eventually("the channel is as it should be", async |gateway| {
            gateway.has_metric("toolgate_process_channel_up", value).await
        })
        .await;
}

/// A task that was begun at this gateway.
async fn begun(gateway: &Gateway, capabilities: &Value) -> String {
    let mut capabilities = capabilities.clone();
    capabilities["extensions"] = declared()["extensions"].clone();
    let body = modern_call(3, "s__report", json!({"a": 1}), &capabilities);
    let (status, created) = send(gateway, "/mcp", ANN, &body).await;
    assert_eq!(status, 200, "{created}");
    task_of(&created)
}

async fn accepts(gateway: &Gateway, body: &Value) {
    let (status, done) = send(gateway, "/mcp", ANN, body).await;
    assert_eq!((status, &done["result"]), (200, &json!({"resultType": "complete"})), "{done}");
}

fn followed(gateway: &Gateway, task: &str) -> impl Future<Output = Events> {
    Events::open(request(gateway, "/mcp", ANN, &listen(&[task], &declared())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_one_process_is_read_and_followed_at_the_others_by_its_caller_only() {
    let fleet = Fleet::start(true, 3).await;
    let [a, b, c] = fleet.all();
    let task = begun(a, &json!({})).await;
    // At once: the record is there before the client has the id.
    let (status, got) = send(b, "/mcp", ANN, &about("tasks/get", &task)).await;
    assert_eq!((status, &got["result"]["status"]), (200, &json!("working")), "{got}");
    for gateway in [a, b, c] {
        for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
            let body = about_as(method, &task, &declared(), json!({"inputResponses": {}}));
            let (_, refused) = send(gateway, "/mcp", BOB, &body).await;
            assert_eq!(refused["error"]["code"], -32602, "{method}: {refused}");
            let (_, refused) = send(gateway, "/servers/s/mcp", ANN, &body).await;
            assert_eq!(refused["error"]["code"], -32602, "{method}: {refused}");
        }
    }
    let mut stream = followed(c, &task).await;
    let ack = stream.method("notifications/subscriptions/acknowledged").await;
    assert_eq!(ack["params"]["notifications"], json!({"taskIds": [&task]}));
    assert_eq!(stream.method("notifications/tasks").await["params"]["status"], "working");
    fleet.slow.answers.send(result("the report")).expect("it runs");
    let change = stream.method("notifications/tasks").await;
    assert_eq!(change["params"]["taskId"], *task, "{change}");
    assert_eq!(change["params"]["result"]["content"][0]["text"], "the report", "{change}");
    let all = [a, b, c].map(|gateway| until(gateway, "/mcp", ANN, &task, "completed"));
    let all = futures::future::join_all(all).await;
    for done in &all {
        assert_eq!(done, &all[0], "the same at all");
    }
    assert_eq!(all[0]["result"]["content"][0]["text"], "the report");
    // Nothing in Redis can be read.
    let mut redis = tokio::net::TcpStream::connect(("127.0.0.1", fleet.port)).await.expect("it listens");
    let kept = resp(&mut redis, &["KEYS", "toolgate:task:*"]).await;
    let key = kept.lines().find(|line| line.starts_with("toolgate:task:")).expect("a record").to_owned();
    let record = resp(&mut redis, &["GET", &key]).await;
    assert!(record.len() > 100 && !record.contains("report"), "{record}");
    let lasts = resp(&mut redis, &["PTTL", &key]).await;
    let lasts: i64 = lasts.trim().trim_start_matches(':').parse().expect("a number");
    assert!((3_000_000..=3_600_000).contains(&lasts), "{lasts}");
}

/// What Redis answers.
async fn resp(redis: &mut tokio::net::TcpStream, words: &[&str]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    let command = format!("*{}\r\n{words}", words.matches('$').count());
    redis.write_all(command.as_bytes()).await.expect("it reads");
    let mut answer = vec![0; 64 * 1024];
    let length = redis.read(&mut answer).await.expect("it answers");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_cancelled_at_another_process() {
    for modern in [true, false] {
        let fleet = Fleet::start(modern, 3).await;
        let [a, b, c] = fleet.all();
        let task = begun(a, &json!({})).await;
        let mut stream = followed(b, &task).await;
        assert_eq!(stream.method("notifications/tasks").await["params"]["status"], "working");
        accepts(c, &about("tasks/cancel", &task)).await;
        // The record says so before the answer does.
        for gateway in [c, b, a] {
            let (_, got) = send(gateway, "/mcp", ANN, &about("tasks/get", &task)).await;
            assert_eq!(got["result"]["status"], "cancelled", "{got}");
        }
        assert_eq!(stream.method("notifications/tasks").await["params"]["status"], "cancelled");
        if modern {
            let closed = async |_: &Gateway| fleet.slow.answers.send(result("late")).is_err();
            c.eventually("its stream is closed", closed).await;
        } else {
            let heard = async |_: &Gateway| fleet.slow.server.count("notifications/cancelled") == 1;
            c.eventually("the server hears of it", heard).await;
        }
        // Once more, and too late: nothing.
        accepts(b, &about("tasks/cancel", &task)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_once_at_any_process() {
    for modern in [true, false] {
        let fleet = Fleet::start(modern, 3).await;
        let [a, b, c] = fleet.all();
        let task = begun(a, &able()).await;
        let mut streams = [followed(a, &task).await, followed(c, &task).await];
        fleet.slow.answers.send(asks(modern)).expect("it runs");
        let asked = until(b, "/mcp", ANN, &task, "input_required").await;
        let (key, question) =
            asked["inputRequests"].as_object().and_then(|all| all.iter().next()).expect("one");
        assert_eq!(question["params"]["message"], "who?");
        // The same answer at all of them at once: the server hears one.
        let mut capabilities = able();
        capabilities["extensions"] = declared()["extensions"].clone();
        let answers = json!({"inputResponses": {key: accepted("ann")}});
        let update = about_as("tasks/update", &task, &capabilities, answers);
        futures::future::join_all([b, c, a].map(|gateway| accepts(gateway, &update))).await;
        let heard = |seen: &crate::mock_server::RecordedRequest| {
            let answer =
                if modern { &seen.body["params"]["inputResponses"]["name"] } else { &seen.body["result"] };
            answer["content"]["username"].as_str().map(str::to_owned)
        };
        let all = || fleet.slow.server.all().iter().filter_map(heard).collect::<Vec<_>>();
        b.eventually("the server has the answer", async |_| !all().is_empty()).await;
        b.eventually("it answers", async |g| {
            let _ = fleet.slow.answers.send(result("hello ann"));
            let (_, got) = send(g, "/mcp", ANN, &about("tasks/get", &task)).await;
            assert_ne!(got["result"]["status"], "failed", "{got}");
            got["result"]["status"] == "completed"
        })
        .await;
        for gateway in [a, b, c] {
            let done = until(gateway, "/mcp", ANN, &task, "completed").await;
            assert_eq!(done["result"]["content"][0]["text"], "hello ann", "modern: {modern}");
        }
        // Who has followed it from the beginning sees the end, wherever the task has gone.
        for stream in &mut streams {
            loop {
                let change = stream.method("notifications/tasks").await;
                if change["params"]["status"] == "completed" {
                    break;
                }
            }
        }
        assert_eq!(all(), ["ann"], "one answer, once");
    }
}

fn asks(modern: bool) -> Value {
    let asks = json!({"message": "who?", "mode": "form",
        "requestedSchema": {"type": "object", "properties": {"username": {"type": "string"}}}});
    match modern {
        true => json!({"jsonrpc": "2.0", "result": {"resultType": "input_required", "requestState": "opaque",
            "inputRequests": {"name": {"method": "elicitation/create", "params": asks}}}}),
        false => json!({"jsonrpc": "2.0", "id": 99, "method": "elicitation/create", "params": asks}),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_process_that_runs_a_task_is_told_in_time() {
    let mut fleet = Fleet::start(true, 3).await;
    let working = begun(&fleet.gateways[0], &json!({})).await;
    let asked = begun(&fleet.gateways[0], &able()).await;
    let done = begun(&fleet.gateways[0], &json!({})).await;
    fleet.slow.answer_one(2, &result("kept"));
    until(&fleet.gateways[1], "/mcp", ANN, &done, "completed").await;
    fleet.slow.answer_one(1, &asks(true));
    until(&fleet.gateways[1], "/mcp", ANN, &asked, "input_required").await;
    let mut stream = followed(&fleet.gateways[2], &working).await;
    assert_eq!(stream.method("notifications/tasks").await["params"]["status"], "working");
    fleet.gateways[0].process.kill();
    let killed = Instant::now();
    for task in [&working, &asked] {
        let failed = until(&fleet.gateways[1], "/mcp", ANN, task, "failed").await;
        assert_eq!(failed["error"]["code"], -32603, "{failed}");
        let why = failed["error"]["message"].as_str().expect("a message");
        assert!(why.contains("the gateway process that ran this task has ended"), "{why}");
    }
    // 20 s by the lease; the rest is for a busy machine.
    assert!(killed.elapsed() < Duration::from_secs(45), "{:?}", killed.elapsed());
    let change = stream.method("notifications/tasks").await;
    assert_eq!(
        (&change["params"]["status"], &change["params"]["error"]["code"]),
        (&json!("failed"), &json!(-32603))
    );
    // It stays so, for who cancels and answers too; what had ended before is kept.
    for gateway in &fleet.gateways[1..] {
        accepts(gateway, &about("tasks/cancel", &working)).await;
        accepts(
            gateway,
            &about_as(
                "tasks/update",
                &asked,
                &declared(),
                json!({"inputResponses": {"1-name": accepted("ann")}}),
            ),
        )
        .await;
        until(gateway, "/mcp", ANN, &working, "failed").await;
        until(gateway, "/mcp", ANN, &asked, "failed").await;
        let done = until(gateway, "/mcp", ANN, &done, "completed").await;
        assert_eq!(done["result"]["content"][0]["text"], "kept");
    }
    let counted = async |gateway: &Gateway| gateway.metric("toolgate_tasks_lost_total").await;
    assert_eq!(counted(&fleet.gateways[1]).await + counted(&fleet.gateways[2]).await, 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_only_stopped_does_not_change_the_end_that_was_told() {
    let fleet = Fleet::start(true, 3).await;
    let [a, b, c] = fleet.all();
    let task = begun(a, &json!({})).await;
    a.process.signal(libc::SIGSTOP);
    until(b, "/mcp", ANN, &task, "failed").await;
    a.process.signal(libc::SIGCONT);
    let closed = async |_: &Gateway| fleet.slow.answers.send(result("late")).is_err();
    c.eventually("its call ends", closed).await;
    a.eventually("it learns of it once it is connected again", async |a| {
        let (_, got) = send(a, "/mcp", ANN, &about("tasks/get", &task)).await;
        got["result"]["status"] == "failed"
    })
    .await;
    for gateway in [a, b, c] {
        let (_, got) = send(gateway, "/mcp", ANN, &about("tasks/get", &task)).await;
        assert_eq!(got["result"]["status"], "failed", "{got}");
    }
    // It runs other tasks as before.
    let task = begun(a, &json!({})).await;
    fleet.slow.answers.send(result("again")).expect("it runs");
    until(b, "/mcp", ANN, &task, "completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_others_say_so_and_afterwards_all_is_there_again() {
    let mut fleet = Fleet::start(true, 3).await;
    let (running, ended) =
        (begun(&fleet.gateways[0], &json!({})).await, begun(&fleet.gateways[0], &json!({})).await);
    fleet.slow.answer_one(1, &result("kept"));
    until(&fleet.gateways[1], "/mcp", ANN, &ended, "completed").await;
    fleet.redis.kill();
    for gateway in &fleet.gateways {
        is_connected(gateway, false).await;
    }
    // The process of the task knows it; another one says why it does not.
    until(&fleet.gateways[0], "/mcp", ANN, &running, "working").await;
    for method in ["tasks/get", "tasks/cancel"] {
        let (status, refused) = send(&fleet.gateways[1], "/mcp", ANN, &about(method, &running)).await;
        let why = refused["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 503 && why.contains("Redis is down"), "{refused}");
    }
    // A call stays a call until Redis is there: others could not know the task.
    let body = call(5, "s__report", json!({}));
    let late = tokio::spawn({
        let request = request(&fleet.gateways[0], "/mcp", ANN, &body);
        async move { crate::harness::read(request.send().await.expect("an answer")).await }
    });
    fleet.gateways[0].eventually("the server has it", async |_| fleet.slow.calls() == 3).await;
    // Redis has forgotten everything.
    fleet.redis = a_redis(fleet.port).await;
    let (_, created) = late.await.expect("it is answered");
    let late = task_of(&created);
    for gateway in &fleet.gateways {
        gateway
            .eventually("the tasks are there again", async |gateway| {
                let mut statuses = Vec::new();
                for task in [&running, &ended, &late] {
                    let (code, got) = send(gateway, "/mcp", ANN, &about("tasks/get", task)).await;
                    assert!(code == 200 || code == 503, "never unknown: {got}");
                    statuses.push(got["result"]["status"].clone());
                }
                statuses == ["working", "completed", "working"]
            })
            .await;
    }
    fleet.slow.answer_one(0, &result("after all"));
    let done = until(&fleet.gateways[2], "/mcp", ANN, &running, "completed").await;
    assert_eq!(done["result"]["content"][0]["text"], "after all");
    accepts(&fleet.gateways[1], &about("tasks/cancel", &late)).await;
    until(&fleet.gateways[0], "/mcp", ANN, &late, "cancelled").await;
}
