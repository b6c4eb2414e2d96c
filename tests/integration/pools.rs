//! A server with several equal endpoints: if one dies, hangs or reports an error, reading clients do not
//! notice it, no call is ever made twice, and sessions continue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Gateway, Process, fixture, free_port, legacy_call, read};
use crate::mock_server::{MockReply, MockServer, RecordedRequest, answer, good, http, json_answer};

/// One server with these endpoints; checks are frequent, because the tests wait for them.
fn pool(mocks: &[&MockServer], more: &str) -> String {
    let urls: Vec<String> = mocks.iter().map(|mock| mock.url.clone()).collect();
    format!("mcpServers: {{up: {{urls: {}, health: {{interval: 200ms}}{more}}}}}\n", json!(urls))
}

/// A valid response of a server with a tool and a prompt, which only a call can tell apart.
fn sound(seen: &RecordedRequest) -> Vec<u8> {
    let result = match seen.method() {
        "server/discover" => {
            json!({"supportedVersions": ["2026-07-28"], "resultType": "complete", "ttlMs": 0,
            "cacheScope": "private", "capabilities": {"tools": {}, "prompts": {}}})
        }
        "tools/list" => json!({"tools": [{"name": "tool", "inputSchema": {"type": "object"},
            "annotations": {"idempotentHint": true}}], "resultType": "complete"}),
        "prompts/list" => json!({"prompts": [{"name": "ask"}], "resultType": "complete"}),
        "prompts/get" => json!({"messages": [], "resultType": "complete"}),
        _ => return good(seen),
    };
    json_answer(&answer(seen, &result))
}

fn metric(mock: &MockServer) -> String {
    let label = mock.url.trim_start_matches("http://");
    format!("toolgate_upstream_endpoint_up{{endpoint=\"{label}\",server=\"up\"}}")
}

async fn is_up(gateway: &Gateway, mock: &MockServer, up: bool) {
    let value = if up { 1.0 } else { 0.0 };
    gateway.eventually("the endpoint is seen", async |g| g.has_metric(&metric(mock), value).await).await;
}

async fn get_prompt(gateway: &Gateway) -> (u16, Value) {
    gateway.modern("/mcp", "prompts/get", json!({"name": "up__ask"})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_breaks_off_fails_no_read_and_no_call_is_made_twice() {
    let sick = Arc::new(AtomicBool::new(false));
    let breaks = sick.clone();
    let play = move |seen: &RecordedRequest| {
        if breaks.load(Ordering::SeqCst) { MockReply::Reset(Vec::new()) } else { MockReply::Say(sound(seen)) }
    };
    let mocks = [
        MockServer::start(|seen| MockReply::Say(sound(seen))).await,
        MockServer::start(play).await,
        MockServer::start(|seen| MockReply::Say(sound(seen))).await,
    ];
    let all: Vec<&MockServer> = mocks.iter().collect();
    let gateway = Gateway::start(&pool(&all, ", retry: {attempts: 3, on: [connect, reset, \"503\"]}")).await;
    for mock in &mocks {
        is_up(&gateway, mock, true).await;
    }
    let mut made = 0;
    let mut lost = 0;
    for round in 0..12 {
        if round == 3 {
            sick.store(true, Ordering::SeqCst);
        }
        let calls = (0..6).map(|_| {
            made += 1;
            gateway.call("up__tool", json!({"n": made}))
        });
        let calls: Vec<_> = calls.collect();
        let (calls, reads) = tokio::join!(
            futures::future::join_all(calls),
            futures::future::join_all((0..6).map(|_| get_prompt(&gateway)))
        );
        for (status, answer) in reads {
            assert_eq!(status, 200, "a read failed: {answer}\n{}", gateway.process.story());
        }
        for (status, answer) in calls {
            assert!(status == 200 || status == 502, "{status} {answer}");
            lost += usize::from(status == 502);
        }
    }
    assert!(lost > 0, "some call must have reached the endpoint as it broke");
    for n in 1..=made {
        let calls = mocks.iter().flat_map(MockServer::calls);
        let times = calls.filter(|seen| seen.body["params"]["arguments"]["n"] == n).count();
        assert_eq!(times, 1, "call {n} of {made}");
    }
    assert!(gateway.metric("toolgate_retries_total{reason=\"reset\",server=\"up\"}").await > 0.0);
    // It gets no more calls, and then all of them succeed; the server was never down.
    is_up(&gateway, &mocks[1], false).await;
    for _ in 0..10 {
        let (status, answer) = gateway.call("up__tool", json!({})).await;
        assert_eq!(status, 200, "{answer}");
    }
    assert!(gateway.has_metric("toolgate_upstream_up{server=\"up\"}", 1.0).await);
    sick.store(false, Ordering::SeqCst);
    is_up(&gateway, &mocks[1], true).await;
    let before = mocks[1].calls().len();
    gateway
        .eventually("it is called again", async |g| {
            assert_eq!(g.call("up__tool", json!({})).await.0, 200);
            mocks[1].calls().len() > before
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_calls_itself_idempotent_is_believed_only_where_the_settings_say_so() {
    for (settings, times) in [("", 1), (", idempotent: true", 2)] {
        let calls = Arc::new(AtomicUsize::new(0));
        let count = calls.clone();
        let mock = MockServer::start(move |seen| {
            if seen.method() == "tools/call" && count.fetch_add(1, Ordering::SeqCst) == 0 {
                return MockReply::Say(http(
                    "503 Service Unavailable",
                    &["Content-Type: text/html"],
                    "<p>no</p>",
                ));
            }
            MockReply::Say(sound(seen))
        })
        .await;
        let more = format!(", retry: {{attempts: 2, on: [\"503\"]{settings}}}");
        let gateway = Gateway::start(&pool(&[&mock], &more)).await;
        gateway
            .eventually("the tool is there", async |g| {
                g.modern("/mcp", "tools/list", json!({})).await.1.to_string().contains("up__tool")
            })
            .await;
        let (status, answer) = gateway.call("up__tool", json!({})).await;
        assert_eq!((status == 200, mock.count("tools/call")), (times == 2, times), "{status} {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_time_gets_it() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let mock = MockServer::start(move |seen| {
        if seen.method() == "prompts/get" && count.fetch_add(1, Ordering::SeqCst) == 0 {
            let headers = ["Content-Type: text/plain", "Retry-After: 1"];
            return MockReply::Say(http("503 Service Unavailable", &headers, "later"));
        }
        MockReply::Say(sound(seen))
    })
    .await;
    let gateway = Gateway::start(&pool(&[&mock], ", retry: {on: [\"503\"]}")).await;
    gateway
        .eventually("the prompt is there", async |g| {
            g.modern("/mcp", "prompts/list", json!({})).await.1.to_string().contains("up__ask")
        })
        .await;
    let start = Instant::now();
    let (status, answer) = get_prompt(&gateway).await;
    assert_eq!((status, asked.load(Ordering::SeqCst)), (200, 2), "{answer}");
    assert!(start.elapsed() >= Duration::from_secs(1), "it was not waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_accepts_and_never_answers_gets_no_more_calls() {
    // Its checks pass: only calls show the fault.
    let hangs = MockServer::start(|seen| match seen.method() {
        "tools/call" => MockReply::Hang(Vec::new()),
        _ => MockReply::Say(sound(seen)),
    })
    .await;
    let works = MockServer::start(|seen| MockReply::Say(sound(seen))).await;
    let gateway = Gateway::start(&pool(&[&hangs, &works], ", timeout: 300ms")).await;
    is_up(&gateway, &hangs, true).await;
    is_up(&gateway, &works, true).await;
    gateway
        .eventually("it is found out", async |g| {
            let (status, answer) = g.call("up__tool", json!({})).await;
            assert!(status == 200 || status == 504, "{status} {answer}");
            g.has_metric(&metric(&hangs), 0.0).await
        })
        .await;
    let hung = hangs.count("tools/call");
    for _ in 0..10 {
        assert_eq!(gateway.call("up__tool", json!({})).await.0, 200);
    }
    assert_eq!(hangs.count("tools/call"), hung);
    assert!(gateway.has_metric("toolgate_upstream_up{server=\"up\"}", 1.0).await);
}

/// The mock server that has answered a tool call.
fn called<'p>(mocks: &[&'p MockServer]) -> &'p MockServer {
    let mut called = mocks.iter().filter(|mock| mock.count("tools/call") > 0);
    let first = called.next().expect("one was called");
    assert!(called.next().is_none(), "a session stays at one endpoint");
    first
}

/// How often a client's own session was opened there, not the gateway's.
fn opened(mock: &MockServer) -> usize {
    let clients = |seen: &RecordedRequest| seen.body["params"]["clientInfo"]["name"] == "test";
    mock.all().iter().filter(|seen| seen.method() == "initialize" && clients(seen)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_stays_at_its_endpoint_and_outlives_it() {
    let mut mocks = vec![
        MockServer::start(|_| MockReply::Good).await,
        MockServer::start(|_| MockReply::Good).await,
        MockServer::start(|_| MockReply::Good).await,
    ];
    let gateway = Gateway::start(&pool(&mocks.iter().collect::<Vec<_>>(), "")).await;
    let session = gateway.initialize("/mcp").await;
    for n in 0..6 {
        let (status, answer) = gateway.say("/mcp", &session, &legacy_call(n, "up__tool", json!({}))).await;
        assert_eq!(status, 200, "{answer}");
    }
    let current = called(&mocks.iter().collect::<Vec<_>>()).url.clone();
    let index = mocks.iter().position(|mock| mock.url == current).expect("one of them");
    assert_eq!((mocks[index].count("tools/call"), opened(&mocks[index])), (6, 1));
    mocks.remove(index).close().await;
    for n in 6..9 {
        let (status, answer) = gateway.say("/mcp", &session, &legacy_call(n, "up__tool", json!({}))).await;
        assert_eq!(status, 200, "{answer}\n{}", gateway.process.story());
    }
    let new = called(&mocks.iter().collect::<Vec<_>>());
    assert_eq!((new.count("tools/call"), opened(new)), (3, 1), "it has opened a session there, once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_changes_the_endpoints_keeps_sessions_where_they_are() {
    let mocks = [
        MockServer::start(|_| MockReply::Good).await,
        MockServer::start(|_| MockReply::Good).await,
        MockServer::start(|_| MockReply::Good).await,
    ];
    let gateway = Gateway::start(&pool(&[&mocks[0], &mocks[1]], "")).await;
    let session = gateway.initialize("/mcp").await;
    let (status, answer) = gateway.say("/mcp", &session, &legacy_call(1, "up__tool", json!({}))).await;
    assert_eq!(status, 200, "{answer}");
    let current = called(&[&mocks[0], &mocks[1]]);
    gateway.rewrite(&pool(&[&mocks[2], current], ""));
    is_up(&gateway, &mocks[2], true).await;
    for n in 2..5 {
        let (status, answer) = gateway.say("/mcp", &session, &legacy_call(n, "up__tool", json!({}))).await;
        assert_eq!(status, 200, "{answer}");
    }
    assert_eq!((current.count("tools/call"), opened(current)), (4, 1));
    // If its endpoint is removed, a session continues at another.
    gateway.rewrite(&pool(&[&mocks[2]], ""));
    gateway
        .eventually("it has moved", async |g| {
            let (status, answer) = g.say("/mcp", &session, &legacy_call(9, "up__tool", json!({}))).await;
            assert_eq!(status, 200, "{answer}");
            mocks[2].count("tools/call") > 0
        })
        .await;
    assert_eq!(opened(&mocks[2]), 1);
}

async fn start(port: u16) -> Process {
    tokio::task::spawn_blocking(move || fixture(port).0).await.expect("the fixture starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_is_not_missed_and_all_killed_are_and_come_back() {
    let ports = [free_port(), free_port(), free_port()];
    let mut processes = futures::future::join_all(ports.map(start)).await;
    let urls = ports.map(|port| format!("http://127.0.0.1:{port}/mcp"));
    let gateway = Gateway::start(&format!(
        "mcpServers: {{fix: {{urls: {}, health: {{interval: 200ms}}, retry: {{attempts: 3, on: [connect, reset]}}}}}}\n",
        json!(urls)
    ))
    .await;
    let up = |index: usize| {
        format!("toolgate_upstream_endpoint_up{{endpoint=\"127.0.0.1:{}/mcp\",server=\"fix\"}}", ports[index])
    };
    for index in 0..3 {
        gateway.eventually("all are well", async |g| g.has_metric(&up(index), 1.0).await).await;
    }
    // Reads and calls, repeatedly, while one is killed.
    let stop = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let prompt = gateway.modern_request("/mcp", "prompts/get", json!({"name": "fix__test_simple_prompt"}));
    let echo = json!({"name": "fix__echo", "arguments": {"message": "hi"}});
    let tool = gateway.modern_request("/mcp", "tools/call", echo);
    let load = [(&prompt, true), (&tool, false), (&prompt, true), (&tool, false)].map(|(request, reads)| {
        let (request, stop, done) =
            (request.try_clone().expect("a body of bytes"), stop.clone(), done.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let sent = request.try_clone().expect("a body of bytes").send().await;
                let (status, answer) = read(sent.map_err(|error| error.to_string())?).await;
                if status != 200 && (reads || status != 502) {
                    return Err(format!("{status} {answer}"));
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
    });
    let more = async |calls: usize| {
        let goal = done.load(Ordering::Relaxed) + calls;
        gateway.eventually("the load goes on", async |_| done.load(Ordering::Relaxed) >= goal).await;
    };
    more(40).await;
    processes[1].kill();
    gateway.eventually("it is missed", async |g| g.has_metric(&up(1), 0.0).await).await;
    more(40).await;
    assert!(gateway.has_metric("toolgate_upstream_up{server=\"fix\"}", 1.0).await);
    processes[1] = start(ports[1]).await;
    gateway.eventually("it is back", async |g| g.has_metric(&up(1), 1.0).await).await;
    more(40).await;
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.expect("no panic").expect("no read fails");
    }
    // All of them: this is reported at once, and ends by itself.
    processes.clear();
    let (status, answer) = gateway.call("fix__echo", json!({"message": "x"})).await;
    assert_eq!((status, &answer["error"]["data"]["server"]), (502, &json!("fix")), "{answer}");
    gateway
        .eventually("the server is down", async |g| {
            g.has_metric("toolgate_upstream_up{server=\"fix\"}", 0.0).await
        })
        .await;
    processes.push(start(ports[2]).await);
    gateway
        .eventually("it answers again", async |g| g.call("fix__echo", json!({"message": "x"})).await.0 == 200)
        .await;
    gateway
        .eventually("it is up again", async |g| {
            g.has_metric("toolgate_upstream_up{server=\"fix\"}", 1.0).await
        })
        .await;
}

/// A server with numbered sessions, which answers 400 in unknown sessions.
async fn forgetful() -> (MockServer, Arc<AtomicUsize>) {
    let session = Arc::new(AtomicUsize::new(0));
    let now = session.clone();
    let mock = MockServer::start(move |seen| {
        let known = now.load(Ordering::SeqCst).to_string();
        match (seen.method(), seen.header("mcp-session-id")) {
            ("server/discover", _) => MockReply::Say(http("404 Not Found", &[], "")),
            ("initialize", _) => {
                let id = format!("Mcp-Session-Id: {known}");
                let result = json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                    "serverInfo": {"name": "mock", "version": "1"}});
                MockReply::Say(http(
                    "200 OK",
                    &["Content-Type: application/json", &id],
                    &answer(seen, &result),
                ))
            }
            (_, Some(id)) if id == known => MockReply::Good,
            (_, _) if known.ends_with('1') => {
                MockReply::Say(http("400 Bad Request", &["Content-Type: text/plain"], "no such session"))
            }
            _ => {
                let error = json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32000,
                    "message": "Bad Request: No valid session ID provided"}});
                MockReply::Say(http(
                    "400 Bad Request",
                    &["Content-Type: application/json"],
                    &error.to_string(),
                ))
            }
        }
    })
    .await;
    (mock, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_loses_its_sessions_and_says_so_by_400_gets_a_new_one() {
    let ((first, session), (second, _)) = (forgetful().await, forgetful().await);
    let gateway = Gateway::start(&pool(&[&first, &second], "")).await;
    is_up(&gateway, &first, true).await;
    is_up(&gateway, &second, true).await;
    for number in 1..=2 {
        let opened = first.count("initialize");
        session.store(number, Ordering::SeqCst);
        gateway.eventually("a new one is opened", async |_| first.count("initialize") > opened).await;
        let checked = first.count("ping");
        gateway.eventually("it is checked on", async |_| first.count("ping") > checked + 4).await;
        assert!(gateway.has_metric(&metric(&first), 1.0).await);
    }
    let output = gateway.process.output();
    assert!(!output.contains("endpoint is down"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_greet_and_list_slowly_are_waited_for() {
    let slow = |seen: &RecordedRequest| match seen.method() {
        "server/discover" | "tools/list" => MockReply::Pause(Vec::new(), Duration::from_secs(6), sound(seen)),
        "initialize" => MockReply::Say(http("400 Bad Request", &[], "")),
        _ => MockReply::Say(sound(seen)),
    };
    let mocks = [MockServer::start(slow).await, MockServer::start(slow).await];
    let urls = mocks.each_ref().map(|mock| mock.url.clone());
    let gateway = Gateway::start(&format!(
        "mcpServers: {{up: {{urls: {}, era: modern, timeout: 30s}}}}\n",
        json!(urls)
    ))
    .await;
    gateway
        .eventually("its tools are there", async |g| {
            g.modern("/mcp", "tools/list", json!({})).await.1.to_string().contains("up__tool")
        })
        .await;
    for mock in &mocks {
        is_up(&gateway, mock, true).await;
    }
    let output = gateway.process.output();
    assert!(!output.contains("gets no calls for a while"), "{output}");
    assert!(gateway.has_metric("toolgate_upstream_up{server=\"up\"}", 1.0).await);
}
