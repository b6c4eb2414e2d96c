//! One budget over several gateways, in a real Redis that starts and stops. No budget is refilled during a
//! test, so the number of passing calls does not depend on speed.

use std::sync::Arc;

use serde_json::json;

use super::{Caller, key};
use crate::harness::{Gateway, a_redis, free_port};

/// A gateway with one budget that is counted in Redis.
struct Shares {
    gateway: Gateway,
    operators: String,
}

impl Shares {
    /// Waits until its connection to Redis is ready: calls before that are counted in the gateway. The
    /// timeout for Redis is the maximum, because the machine may be busy with other tests.
    async fn start(redis: u16, limit: &str) -> Self {
        let admin = format!("127.0.0.1:{}", free_port());
        let gateway = Gateway::start(&format!(
            "mcpServers: {{demo: {{builtin: demo}}}}\nlog: {{level: warn}}\nadmin: {{address: \"{admin}\"}}\n\
             auth:\n  api_keys:\n{}redis: {{url: \"redis://127.0.0.1:{redis}\"}}\n\
             rate_limits:\n  store: redis\n  timeout: 1s\n  rules:\n    - {{name: all, key: [user], {limit}}}\n",
            key("ann", "")
        ))
        .await;
        let shares = Self { gateway, operators: format!("http://{admin}/metrics") };
        shares.gateway.eventually("Redis is there", async |_| shares.store("up").await == 1).await;
        shares
    }

    /// The metrics of the store: whether it is `up`, or its number of `misses`.
    async fn store(&self, what: &str) -> u64 {
        let metrics = self.gateway.http.get(&self.operators).send().await.expect("metrics");
        let metrics = metrics.text().await.expect("a text");
        let name = format!("toolgate_limit_store_{what} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).expect("a number")
    }

    async fn admits(&self) -> bool {
        match Caller::new(&self.gateway, "ann").call("demo__echo", json!({"message": "x"})).await.0 {
            200 => true,
            429 => false,
            other => panic!("{other}"),
        }
    }

    /// Calls until this many calls in a row were rejected; returns how many passed.
    async fn pass(&self, refusals: u32) -> u64 {
        let (mut passed, mut refused) = (0, 0);
        while refused < refusals {
            match self.admits().await {
                true => (passed, refused) = (passed + 1, 0),
                false => refused += 1,
            }
        }
        passed
    }

    fn told(&self) -> usize {
        self.gateway.process.output().matches("limits: Redis is away").count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_gateways_share_one_budget_to_the_call() {
    const BUDGET: u64 = 900;
    let port = free_port();
    let _redis = a_redis(port).await;
    let mut gateways = Vec::new();
    for _ in 0..3 {
        gateways.push(Arc::new(Shares::start(port, &format!("limit: {BUDGET}/1d, burst: {BUDGET}")).await));
    }
    // Twelve callers at once, until each has been rejected many times.
    let callers = gateways.iter().cycle().take(12).cloned();
    let callers: Vec<_> =
        callers.map(|gateway| tokio::spawn(async move { gateway.pass(20).await })).collect();
    let mut passed = Vec::new();
    for caller in callers {
        passed.push(caller.await.expect("no caller panics"));
    }
    let mut misses = 0;
    for gateway in &gateways {
        misses += gateway.store("misses").await;
    }
    // A call that Redis did not decide in time may have been counted in both places, or in one. The budget
    // regains one call in 96 seconds.
    let all: u64 = passed.iter().sum();
    assert!(
        (BUDGET - misses..=BUDGET + misses + 1).contains(&all),
        "{passed:?} passed, {misses} were missed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_goes_and_comes_back_stops_nobody() {
    let port = free_port();
    let mut redis = a_redis(port).await;
    let shares = Shares::start(port, "limit: 5/1d, burst: 5").await;
    let passed = shares.pass(1).await;
    // Timeouts on a busy machine were counted in the gateway.
    let (late, output) = (shares.store("misses").await, shares.told());
    assert!((5 - late.min(5)..=5 + late).contains(&passed), "{passed} passed, {late} were late");
    redis.kill();
    // The local budget replaces it, and no call waits for a store that is down.
    let passed = shares.pass(15).await;
    assert!(passed == 5 || late > 0 && passed <= 5, "{passed} of a budget of its own, {late} were late");
    assert_eq!(shares.store("up").await, 0);
    assert_eq!(shares.store("misses").await, late + passed + 15, "all were judged without it");
    shares.gateway.eventually("it is told", async |_| shares.told() > output).await;
    assert_eq!(shares.told(), output + 1, "once: {}", shares.gateway.process.output());
    let _redis = a_redis(port).await;
    shares.gateway.eventually("Redis is there again", async |_| shares.store("up").await == 1).await;
    assert!(shares.admits().await, "the new Redis knows of nothing");
}
