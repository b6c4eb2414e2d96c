//! Reloads without a pause, under load of all kinds: nothing fails, nothing is cut, nothing is left behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::events::Events;
use crate::harness::{Gateway, PATIENCE, a_fixture, legacy_call, read, stdio_fixture};
use crate::procs;

/// How long the file is rewritten, and how often.
const TIME: Duration = Duration::from_secs(20);
const PACE: Duration = Duration::from_millis(200);

/// What the load shares.
struct Run {
    gateway: Gateway,
    stop: AtomicBool,
    done: [AtomicUsize; 4],
}

impl Run {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, kind: usize) {
        self.done[kind].fetch_add(1, Ordering::Relaxed);
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().read_timeout(PATIENCE).build().expect("a client")
}

/// Calls answered with JSON, and lists, in both eras, of an HTTP, a stdio and a built-in server.
async fn calls(run: Arc<Run>, number: usize, session: String) {
    let own = client();
    let mut turn = number;
    while run.goes_on() {
        turn += 1;
        let tool = ["demo__echo", "fix__echo", "pipe__echo"][turn % 3];
        let words = format!("{number}-{turn}");
        // Many call in one session, which knows a call by its id.
        let id = number * 1_000_000 + turn;
        let lists = turn.is_multiple_of(5);
        let request = match (turn.is_multiple_of(2), lists) {
            (true, true) => run.gateway.modern_request("/mcp", "tools/list", json!({})),
            (true, false) => {
                let params = json!({"name": tool, "arguments": {"message": words}});
                run.gateway.modern_request("/mcp", "tools/call", params)
            }
            (false, true) => {
                let list = json!({"jsonrpc": "2.0", "id": id, "method": "tools/list"});
                run.gateway.post("/mcp", Some(&session), &list)
            }
            (false, false) => {
                run.gateway.post("/mcp", Some(&session), &legacy_call(id, tool, json!({"message": words})))
            }
        };
        let response = own.execute(request.build().expect("a request")).await;
        let (status, answer) = read(response.unwrap_or_else(|error| panic!("{tool}: {error:?}"))).await;
        assert_eq!(status, 200, "{tool}: {answer}");
        if lists {
            let tools = answer["result"]["tools"].as_array().unwrap_or_else(|| panic!("no list: {answer}"));
            let names: BTreeSet<&str> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
            for name in ["demo__echo", "fix__echo", "pipe__echo"] {
                assert!(names.contains(name), "{name} is missing in {names:?}");
            }
            run.count(1);
        } else {
            assert_eq!(answer["result"]["content"][0]["text"], json!(words), "{tool}: {answer}");
            run.count(0);
        }
    }
}

/// Calls answered with streams; each step must be there.
async fn streams(run: Arc<Run>) {
    let session = run.gateway.initialize("/mcp").await;
    while run.goes_on() {
        let mut call = legacy_call("s", "fix__stream", json!({"n": 60, "interval_ms": 10}));
        call["params"]["_meta"] = json!({"progressToken": "p"});
        let mut events = Events::open(run.gateway.post("/mcp", Some(&session), &call)).await;
        let mut steps = 0;
        loop {
            let note = events.next().await.unwrap_or_else(|| panic!("a stream was cut at step {steps}"));
            if note["id"] == "s" {
                assert!(note["error"].is_null(), "{note}");
                break;
            }
            if note["method"] == "notifications/progress" {
                steps += 1;
                assert_eq!(note["params"]["progress"], f64::from(steps), "one step is missing");
            }
        }
        assert_eq!(steps, 60);
        run.count(2);
    }
}

/// A stream of announcements, which must not end before the test does.
async fn listens(run: Arc<Run>, modern: bool) {
    let mut events = if modern {
        let wanted = json!({"notifications": {"toolsListChanged": true}});
        let own = run.gateway.modern_request("/mcp", "subscriptions/listen", wanted);
        Events::open(own).await
    } else {
        let session = run.gateway.initialize("/mcp").await;
        Events::of_session(&run.gateway, "/mcp", &session).await
    };
    loop {
        let next = tokio::time::timeout(Duration::from_secs(1), events.next()).await;
        match next {
            Ok(Some(_)) => run.count(3),
            Ok(None) => panic!("a stream of announcements was cut"),
            Err(_) if run.goes_on() => {}
            Err(_) => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_reloads_under_load_are_not_noticed_and_leave_nothing_behind() {
    let (_fixture, url) = a_fixture().await;
    let pipe = stdio_fixture();
    let config = |round: usize| {
        // Always there; something of each kind comes, goes or changes beside.
        let extra = if round.is_multiple_of(2) { "extra: {builtin: demo}, " } else { "" };
        let passing = if round % 10 < 2 { format!("passing: {pipe}, ") } else { String::new() };
        let other = format!("other: {{url: \"{url}\", timeout: {}s}}", 30 + round % 7);
        format!(
            "mcpServers: {{{extra}{passing}demo: {{builtin: demo}}, fix: {{url: \"{url}\"}}, pipe: {pipe}, {other}}}\n\
             limits: {{max_body: {}KiB}}\nlog: {{level: error}}\n",
            4096 - round
        )
    };
    let gateway = Gateway::start(&config(1)).await;
    gateway
        .eventually("all are connected", async |g| {
            let health = g.get("/health").await;
            health.contains("\"servers\":5,\"connected\":5")
        })
        .await;
    let pid = gateway.process.id();
    let ok = "toolgate_config_reloads_total{result=\"ok\"}";
    let run = Arc::new(Run { gateway, stop: AtomicBool::new(false), done: Default::default() });
    let session = run.gateway.initialize("/mcp").await;
    // 64 connections: 48 that call and list, 8 whose calls are answered with streams, 8 that only listen.
    let mut tasks = Vec::new();
    for number in 0..48 {
        tasks.push(tokio::spawn(calls(run.clone(), number, session.clone())));
    }
    for _ in 0..8 {
        tasks.push(tokio::spawn(streams(run.clone())));
    }
    for number in 0..8 {
        tasks.push(tokio::spawn(listens(run.clone(), number % 2 == 0)));
    }
    let begun = Instant::now();
    let (mut round, mut early) = (1, None);
    let mut pace = tokio::time::interval(PACE);
    while begun.elapsed() < TIME {
        pace.tick().await;
        round += 1;
        run.gateway.rewrite(&config(round));
        if begun.elapsed() > TIME / 4 && early.is_none() {
            early = Some((procs::memory(pid), procs::descriptors(pid)));
        }
        assert!(!tasks.iter().any(tokio::task::JoinHandle::is_finished), "one has failed");
    }
    let (memory, descriptors) = early.expect("a quarter of the time is over");
    // The last file has what was there all the time, and nothing that came by.
    run.gateway.rewrite(&config(3));
    run.gateway
        .eventually("the last file runs", async |g| {
            g.get("/health").await.contains("\"servers\":4,\"connected\":4")
        })
        .await;
    let under_load = procs::memory(pid);
    run.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("no call failed and no stream was cut");
    }
    let done: Vec<usize> = run.done.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    let reloads = run.gateway.metric(ok).await;
    println!("{round} files, {reloads} reloads; calls, lists, streams, announcements: {done:?}");
    assert!(reloads >= 10.0, "{reloads} of {round} files were taken");
    assert!(done.iter().all(|count| *count > 0), "some kind of load did nothing: {done:?}");
    assert_eq!(run.gateway.metric("toolgate_config_reloads_total{result=\"failed\"}").await, 0.0);
    // What came by is gone: the two processes of the one server that stays are left.
    run.gateway
        .eventually("no process is left over", async |_| procs::children_running(pid, "--stdio").len() == 2)
        .await;
    run.gateway
        .eventually("no descriptor is left over", async |_| procs::descriptors(pid) <= descriptors + 16)
        .await;
    println!("memory after a quarter {memory} KiB, at the end under load {under_load} KiB");
    assert!(under_load <= memory + memory / 4 + 8 * 1024, "{memory} KiB became {under_load} KiB");
    let _: Value = serde_json::from_str(&run.gateway.get("/health").await).expect("it is well");
}
