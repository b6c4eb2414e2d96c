//! The stored state of a server and its changes: an era or a list is removed only if the server clearly
//! says so, and its updates are applied.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::harness::{Gateway, TEST_TIMEOUT, initialize};
use crate::mock_server::{
    MockReply, MockServer, RecordedRequest, acknowledged, answer, good, http, json_answer, tools,
};

const JSON: &[&str] = &["Content-Type: application/json"];

fn says(seen: &RecordedRequest, result: &Value) -> MockReply {
    MockReply::Say(json_answer(&answer(seen, result)))
}

fn error(seen: &RecordedRequest, status: &str, code: i64) -> MockReply {
    let error = json!({"jsonrpc": "2.0", "id": seen.body["id"], "error": {"code": code, "message": "no"}});
    MockReply::Say(http(status, JSON, &error.to_string()))
}

fn config(mock: &MockServer, more: &str) -> String {
    format!("mcpServers: {{p: {{url: \"{}\"{more}}}}}\n", mock.url)
}

async fn modern(gateway: &Gateway) -> Vec<String> {
    let (_, list) = gateway.modern("/mcp", "tools/list", json!({})).await;
    names(&list)
}

/// Opens a legacy session, as soon as the server is ready for one.
async fn open(gateway: &Gateway) -> String {
    let open = initialize(json!({}));
    gateway
        .eventually("it is there for old clients", async |g| {
            g.post("/mcp", None, &open).send().await.expect("an answer").status() == 200
        })
        .await;
    gateway.initialize("/mcp").await
}

async fn legacy(gateway: &Gateway, session: &str) -> Vec<String> {
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    names(&gateway.say("/mcp", session, &list).await.1)
}

fn names(list: &Value) -> Vec<String> {
    let tools = list["result"]["tools"].as_array().into_iter().flatten();
    tools.map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect()
}

/// A step that a test sets and a mock server reads.
#[derive(Clone, Default)]
struct Step(Arc<AtomicUsize>);

impl Step {
    fn now(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    fn to(&self, step: usize) {
        self.0.store(step, Ordering::SeqCst);
    }

    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

#[tokio::test]
async fn one_that_had_no_time_to_be_greeted_is_greeted_again() {
    for busy in ["429 Too Many Requests", "503 Service Unavailable", "200 OK"] {
        let asked = Step::default();
        let mock = MockServer::start(move |seen| match seen.method() {
            "server/discover" if asked.next() == 0 => match busy {
                "200 OK" => MockReply::Say(http(busy, &["Content-Type: text/html"], "<p>Back soon.</p>")),
                _ => error(seen, busy, -32603),
            },
            _ => MockReply::Good,
        })
        .await;
        let gateway = Gateway::start(&config(&mock, "")).await;
        let session = open(&gateway).await;
        gateway
            .eventually("the other era is there", async |g| legacy(g, &session).await == ["p__tool"])
            .await;
        gateway.eventually(busy, async |g| modern(g).await == ["p__tool"]).await;
    }
}

#[tokio::test]
async fn an_era_stays_while_the_server_has_no_time_to_be_greeted_in_it() {
    let (step, refused) = (Step::default(), Step::default());
    let (state, count) = (step.clone(), refused.clone());
    let mock = MockServer::start(move |seen| match (state.now(), seen.method()) {
        (1, "ping") => MockReply::Say(http("500 Internal Server Error", &[], "")),
        (1, "initialize") => {
            count.next();
            error(seen, "503 Service Unavailable", -32000)
        }
        (2, "initialize") => error(seen, "400 Bad Request", -32022),
        _ => MockReply::Good,
    })
    .await;
    let settings = ", bridge: off, health: {interval: 100ms, unhealthy_after: 1}";
    let gateway = Gateway::start(&config(&mock, settings)).await;
    let session = open(&gateway).await;
    gateway.eventually("it is connected", async |g| legacy(g, &session).await == ["p__tool"]).await;
    step.to(1);
    gateway.eventually("its handshake fails", async |_| refused.now() >= 3).await;
    assert_eq!(legacy(&gateway, &session).await, ["p__tool"]);
    assert_eq!(modern(&gateway).await, ["p__tool"]);
    step.to(2);
    gateway.eventually("its word ends the era", async |g| legacy(g, &session).await.is_empty()).await;
    assert_eq!(modern(&gateway).await, ["p__tool"]);
}

#[tokio::test]
async fn an_old_server_that_answers_everything_is_there_in_its_own_era() {
    let mock = MockServer::start(|seen| match seen.method() {
        "server/discover" => says(seen, &json!({"ok": true})),
        _ => MockReply::Good,
    })
    .await;
    let gateway = Gateway::start(&config(&mock, "")).await;
    let session = open(&gateway).await;
    gateway.eventually("it is connected", async |g| legacy(g, &session).await == ["p__tool"]).await;
}

/// Reports a change on the stream that the gateway reads.
fn changed(kind: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": format!("notifications/{kind}/list_changed"), "params": {
        "_meta": {"io.modelcontextprotocol/subscriptionId": "1"}}})
}

#[tokio::test]
async fn a_list_that_gives_an_error_stays_as_it_was_until_it_can_be_read() {
    let (step, (word, _)) = (Step::default(), broadcast::channel(8));
    let (state, message) = (step.clone(), word.clone());
    let mock = MockServer::start(move |seen| {
        match (seen.method(), seen.body["params"].get("cursor"), state.now()) {
            ("initialize", ..) => MockReply::Say(http("405 Method Not Allowed", &[], "")),
            ("subscriptions/listen", ..) => MockReply::Stream(
                vec![acknowledged(seen, &json!({"toolsListChanged": true}))],
                message.subscribe(),
            ),
            ("tools/list", None, 2) => error(seen, "200 OK", -32603),
            ("tools/list", None, _) => {
                let mut first = tools(&["a"]);
                first["nextCursor"] = json!("2");
                says(seen, &first)
            }
            ("tools/list", Some(_), 1) => error(seen, "200 OK", -32603),
            ("tools/list", Some(_), 3) => says(seen, &tools(&["b", "c"])),
            ("tools/list", Some(_), _) => says(seen, &tools(&["b"])),
            _ => MockReply::Good,
        }
    })
    .await;
    let mut gateway = Gateway::start(&config(&mock, ", health: {interval: 1h}")).await;
    gateway.eventually("it is connected", async |g| modern(g).await == ["p__a", "p__b"]).await;
    for (at, why) in [(1, "on its second page"), (2, "on its first")] {
        step.to(at);
        let before = mock.count("tools/list");
        gateway
            .eventually("it is read again", async |_| {
                let _ = word.send(changed("tools"));
                mock.count("tools/list") >= before + 3
            })
            .await;
        assert_eq!(modern(&gateway).await, ["p__a", "p__b"], "{why}");
    }
    gateway.process.wait_for("the last good one stays");
    // No notification says that the list is valid again.
    step.to(3);
    gateway.eventually("it is whole", async |g| modern(g).await == ["p__a", "p__b", "p__c"]).await;
}

#[tokio::test]
async fn what_a_server_says_of_itself_anew_is_seen() {
    let step = Step::default();
    let state = step.clone();
    let mock = MockServer::start(move |seen| match (seen.method(), state.now()) {
        ("server/discover", step) => {
            let capabilities =
                if step == 0 { json!({"tools": {}}) } else { json!({"tools": {}, "prompts": {}}) };
            says(
                seen,
                &json!({"supportedVersions": ["2026-07-28"], "capabilities": capabilities, "instructions":
                format!("step {step}"), "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}),
            )
        }
        ("prompts/list", _) => says(seen, &json!({"prompts": [{"name": "new"}], "resultType": "complete"})),
        _ => MockReply::Good,
    })
    .await;
    let gateway = Gateway::start(&config(&mock, ", health: {interval: 100ms}")).await;
    let prompts =
        async |g: &Gateway| g.modern("/mcp", "prompts/list", json!({})).await.1["result"]["prompts"].clone();
    gateway.eventually("it is connected", async |g| modern(g).await == ["p__tool"]).await;
    assert_eq!(prompts(&gateway).await, json!([]));
    step.to(1);
    gateway
        .eventually("its prompts are listed", async |g| prompts(g).await == json!([{"name": "p__new"}]))
        .await;
    let (_, discovered) = gateway.modern("/servers/p/mcp", "server/discover", json!({})).await;
    assert_eq!(discovered["result"]["instructions"], "step 1", "{discovered}");
}

#[tokio::test]
async fn streams_that_end_at_once_are_opened_again_and_no_change_is_lost_between_them() {
    let (step, opened, (word, _)) = (Step::default(), Step::default(), broadcast::channel::<Value>(8));
    let (state, count, message) = (step.clone(), opened.clone(), word.clone());
    let mock = MockServer::start(move |seen| match (seen.http_method.as_str(), seen.method()) {
        ("GET", _) if count.next() < 3 => {
            // It changes while no client listens.
            state.to(1);
            MockReply::Cut(http("200 OK", &["Content-Type: text/event-stream"], ""))
        }
        ("GET", _) => MockReply::Stream(Vec::new(), message.subscribe()),
        (_, "server/discover") => error(seen, "404 Not Found", -32601),
        (_, "tools/list") => says(seen, &tools(&[["tool", "new", "newest"][state.now()]])),
        _ => MockReply::Good,
    })
    .await;
    let gateway = Gateway::start(&config(&mock, ", health: {interval: 1h}")).await;
    let session = open(&gateway).await;
    gateway.eventually("the change is seen", async |g| legacy(g, &session).await == ["p__new"]).await;
    gateway.eventually("a stream stands", async |_| opened.now() > 3).await;
    step.to(2);
    gateway
        .eventually("it is told", async |g| {
            let _ = word.send(changed("tools"));
            legacy(g, &session).await == ["p__newest"]
        })
        .await;
}

#[tokio::test]
async fn whoever_reads_that_a_server_is_there_can_call_it_at_once() {
    for path in ["/ready", "/health"] {
        let step = Step::default();
        let now = step.clone();
        let mock = MockServer::start(move |seen| match now.now() {
            0 => MockReply::Say(http("503 Service Unavailable", &[], "")),
            _ => MockReply::Say(good(seen)),
        })
        .await;
        let gateway = Gateway::start(&config(&mock, ", required: true")).await;
        step.to(1);
        // Without a pause, so that the call comes as early as possible.
        let there = async {
            loop {
                let output = gateway.get(path).await;
                if output.contains("\"ready\":true") || output.contains("\"connected\":1") {
                    return gateway.call("p__tool", json!({})).await;
                }
            }
        };
        let (status, answer) = tokio::time::timeout(TEST_TIMEOUT, there).await.expect("it comes");
        assert_eq!(status, 200, "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_fit_the_schema_of_now_has_the_list_read_again() {
    let mock = MockServer::start(|seen| match seen.method() {
        "tools/call" => error(seen, "400 Bad Request", -32020),
        _ => MockReply::Good,
    })
    .await;
    let gateway = Gateway::start(&config(&mock, ", health: {interval: 1h}")).await;
    gateway.eventually("it is connected", async |g| modern(g).await == ["p__tool"]).await;
    let before = mock.count("tools/list");
    assert_eq!(gateway.call("p__tool", json!({})).await.1["error"]["code"], -32020);
    gateway.eventually("it is read again", async |_| mock.count("tools/list") > before).await;
}

#[tokio::test]
async fn a_list_that_never_holds_still_is_read_less_and_less_often() {
    let reads = Step::default();
    let (count, times) = (reads.clone(), Arc::new(Mutex::new(Vec::new())));
    let note = format!("data: {}\n\n", changed("tools"));
    let clock = times.clone();
    let mock = MockServer::start(move |seen| match seen.method() {
        "subscriptions/listen" => MockReply::Repeat(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n".to_vec(),
            note.clone().into_bytes(),
            std::time::Duration::from_millis(10),
        ),
        "initialize" => MockReply::Say(http("405 Method Not Allowed", &[], "")),
        "tools/list" => {
            clock.lock().expect("nobody panics with it").push(std::time::Instant::now());
            let tool = format!("t{}", count.next());
            says(seen, &tools(&[&tool]))
        }
        _ => MockReply::Say(good(seen)),
    })
    .await;
    let gateway = Gateway::start(&config(&mock, ", health: {interval: 1h}")).await;
    gateway.eventually("it is read some times", async |_| reads.now() >= 9).await;
    let times = times.lock().expect("nobody panics with it");
    let took = times[8] - times[5];
    assert!(took > std::time::Duration::from_secs(1), "{took:?}");
}
