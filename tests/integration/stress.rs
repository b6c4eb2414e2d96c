//! Continuous reloads, under load of all kinds, with servers that are added, removed and changed: nothing
//! fails, nothing is cut off, nothing is leaked.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Gateway, a_fixture, stdio_fixture};
use crate::load::{KINDS, Load, Tools};
use crate::process;

/// Files before the baseline is measured, and after.
const FIRST: usize = 100;
const ALL: usize = 160;
/// Allowed growth of idle memory.
const GROWTH: u64 = 8 * 1024;

/// `other` has other settings in each file; `extra` and `passing` are in some.
const TOOLS: Tools = Tools {
    stay: &["demo__echo", "fix__echo", "pipe__echo", "other__echo"],
    pass: &["extra__echo", "passing__echo"],
    replaced: false,
};

const OK: &str = "toolgate_config_reloads_total{result=\"ok\"}";

/// What an idle gateway holds: the minimum over a time in which idle connections end, and each server is
/// checked.
async fn at_rest(gateway: &Gateway) -> (usize, u64) {
    let pid = gateway.process.id();
    gateway.eventually("all streams end", async |g| g.metric("toolgate_streams").await == 0.0).await;
    let (mut least, mut look) = ((usize::MAX, u64::MAX), tokio::time::interval(Duration::from_millis(200)));
    for _ in 0..60 {
        look.tick().await;
        least = (least.0.min(process::descriptors(pid)), least.1.min(process::memory(pid)));
    }
    least
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_reloads_under_load_are_not_noticed_and_leave_nothing_behind() {
    let (_fixture, url) = a_fixture().await;
    let pipe = stdio_fixture();
    let config = |round: usize| {
        let extra = if round.is_multiple_of(2) { "extra: {builtin: demo}, " } else { "" };
        let passing = if round % 10 < 3 { format!("passing: {pipe}, ") } else { String::new() };
        let other = format!("other: {{url: \"{url}\", timeout: {}s}}", 30 + round % 7);
        format!(
            "mcpServers: {{{extra}{passing}demo: {{builtin: demo}}, fix: {{url: \"{url}\"}}, pipe: {pipe}, {other}}}\n\
             limits: {{max_body: {}KiB}}\nlog: {{level: error}}\n",
            4096 - round
        )
    };
    let gateway = Arc::new(Gateway::start(&config(0)).await);
    let rest = "\"servers\":4,\"connected\":4";
    gateway
        .eventually("all are connected", async |g| {
            g.get("/health").await.contains("\"servers\":6,\"connected\":6")
        })
        .await;
    let pid = gateway.process.id();
    let mut written = 0;
    let mut before = None;
    for last in [FIRST, ALL] {
        let load = Load::start(&gateway, TOOLS);
        while written < last {
            written += 1;
            gateway.rewrite(&config(written));
            gateway
                .eventually("each file is taken", async |g| {
                    load.is_well() && g.metric(OK).await == written as f64
                })
                .await;
        }
        load.more(1000).await;
        // The permanent servers, and none of the temporary ones.
        written += 1;
        gateway.rewrite(&config(last + 5));
        gateway.eventually("the last file runs", async |g| g.get("/health").await.contains(rest)).await;
        let done = load.end().await;
        println!("{written} files; {KINDS:?}: {done:?}");
        assert!(done.iter().all(|count| *count > 0), "some kind of load did nothing: {KINDS:?} {done:?}");
        gateway
            .eventually("no process is left", async |_| process::children_running(pid, "--stdio").len() == 1)
            .await;
        let now = at_rest(&gateway).await;
        println!("at rest: {} descriptors, {} KiB", now.0, now.1);
        let Some(before) = before.replace(now) else { continue };
        let (descriptors, memory): (usize, u64) = before;
        assert!(now.0 <= descriptors + 4, "{descriptors} descriptors became {}", now.0);
        assert!(now.1 <= memory + GROWTH, "{memory} KiB became {} KiB", now.1);
    }
    assert_eq!(gateway.metric(OK).await, written as f64);
    assert_eq!(gateway.metric("toolgate_config_reloads_total{result=\"failed\"}").await, 0.0);
    let _: Value = serde_json::from_str(&gateway.get("/health").await).expect("it is well");
}
