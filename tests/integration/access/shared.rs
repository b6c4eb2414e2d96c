//! One budget over several gateways, in a real Redis that comes and goes.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Caller, key};
use crate::harness::{Gateway, Process, free_port};

fn redis(port: u16) -> Process {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    let mut process = Process::start(&mut command);
    process.wait_for("Ready to accept connections");
    process
}

async fn a_redis(port: u16) -> Process {
    tokio::task::spawn_blocking(move || redis(port)).await.expect("Redis starts")
}

/// The deadline for Redis is as long as it may be: on a machine that is busy with other tests an answer may take longer
/// than the usual 50 ms, and what is then counted here is not what is tested.
fn config(port: u16, rule: &str) -> String {
    format!(
        "mcpServers: {{demo: {{builtin: demo}}}}\nlog: {{level: warn}}\nadmin: {{address: \"127.0.0.1:{}\"}}\nauth:\n  api_keys:\n{}\
         redis: {{url: \"redis://127.0.0.1:{port}\"}}\nrate_limits:\n  store: redis\n  timeout: 1s\n  rules:\n    - {rule}\n",
        free_port(),
        key("ann", "")
    )
}

async fn admitted(gateway: &Gateway) -> bool {
    match Caller::new(gateway, "ann").call("demo__echo", json!({"message": "x"})).await.0 {
        200 => true,
        429 => false,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_gateways_share_one_budget_to_the_percent() {
    const RATE: f64 = 60.0;
    const BURST: f64 = 60.0;
    let port = free_port();
    let _redis = a_redis(port).await;
    let text = config(port, "{name: all, key: [user], limit: 60/1s, burst: 60}");
    let mut gateways = Vec::new();
    for _ in 0..3 {
        // Each has an operator's port of its own.
        let text = text.lines().map(|line| match line.strip_prefix("admin:") {
            Some(_) => format!("admin: {{address: \"127.0.0.1:{}\"}}\n", free_port()),
            None => format!("{line}\n"),
        });
        gateways.push(Arc::new(Gateway::start(&text.collect::<String>()).await));
    }
    // The first calls may come before the connection to Redis stands; its budget is not touched by them.
    for gateway in &gateways {
        while !gateway.shares().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let (passed, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    tokio::time::sleep(Duration::from_secs_f64(BURST / RATE)).await;
    let began = Instant::now();
    let mut callers = Vec::new();
    for number in 0..12 {
        let (gateway, passed, refused) = (gateways[number % 3].clone(), passed.clone(), refused.clone());
        callers.push(tokio::spawn(async move {
            let mut last = Duration::ZERO;
            while began.elapsed() < Duration::from_secs(10) {
                last = began.elapsed();
                if admitted(&gateway).await { &passed } else { &refused }.fetch_add(1, Ordering::Relaxed);
            }
            last
        }));
    }
    let mut last = Duration::ZERO;
    for caller in callers {
        last = last.max(caller.await.expect("no caller panics"));
    }
    let (passed, refused) = (passed.load(Ordering::Relaxed) as f64, refused.load(Ordering::Relaxed) as f64);
    let due = BURST + RATE * last.as_secs_f64();
    eprintln!("{passed} of {} calls passed in {last:?}; due were {due:.0}", passed + refused);
    assert!(passed + refused > 4.0 * due, "too few calls to mean anything: {passed} and {refused}");
    assert!((passed - due).abs() <= due * 0.01, "{passed} passed, {due} were due");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_goes_and_comes_back_stops_nobody() {
    let port = free_port();
    let mut store = a_redis(port).await;
    let gateway = Gateway::start(&config(port, "{name: few, key: [user], quota: 5/1d}")).await;
    while !gateway.shares().await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..5 {
        assert!(admitted(&gateway).await);
    }
    assert!(!admitted(&gateway).await, "the budget in Redis is used up");
    store.kill();
    // The local budget stands in, and nobody waits for what is not there.
    let mut passed = 0;
    for _ in 0..20 {
        let asked = Instant::now();
        passed += u32::from(admitted(&gateway).await);
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    }
    assert_eq!(passed, 5, "of a budget of its own");
    let warnings = gateway.process.output().matches("Redis").count();
    assert!((1..=2).contains(&warnings), "told once: {}", gateway.process.output());
    let _store = a_redis(port).await;
    let mut back = 0;
    gateway
        .eventually("the shared budget counts again", async |g| {
            back += u32::from(admitted(g).await);
            g.shares().await
        })
        .await;
    assert!(admitted(&gateway).await, "the new Redis knows of nothing");
    let _ = back;
}
