//! Tests against a real `redis-server` of their own, on a socket in a folder of its own.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use filters::rate_limit::{Budget, Counters, KeyPart, Match, OnFailure, Rate, RateRule};
use futures::FutureExt;
use http::{HeaderMap, Method};
use tempfile::TempDir;

use super::*;

mod answers;

const SEC: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
/// Long, for a busy machine: what takes longer hangs.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// A server that ends when this is dropped.
struct Real {
    folder: TempDir,
    child: Child,
}

impl Real {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let child = spawn(&folder);
        let real = Self { folder, child };
        real.answers().await;
        real
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("s").display())
    }

    async fn answers(&self) {
        let answers = async {
            while self.command(&["PING"]).await.is_err() {
                tokio::time::sleep(10 * MILLI).await;
            }
        };
        timeout(MAX_WAIT, answers).await.expect("redis-server answers");
    }

    async fn command(&self, message: &[&str]) -> Result<redis::Value, RedisError> {
        let client = Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd(message[0]).arg(&message[1..]).query_async(&mut connection).await
    }

    fn kill(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("our own child");
    }

    fn signal(&self, signal: i32) {
        // SAFETY: sends a signal to our own child, which is not reaped yet.
        assert_eq!(unsafe { libc::kill(self.child.id().cast_signed(), signal) }, 0);
    }

    async fn restart(&mut self) {
        self.child = spawn(&self.folder);
        self.answers().await;
    }

    /// One gateway's view of it, once it is connected.
    async fn gateway(&self) -> Arc<Redis> {
        let redis = Arc::new(Redis::new(&self.url(), "t:", MAX_WAIT, Handle::current()).expect("a URL"));
        is_there(&redis).await;
        redis
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &TempDir) -> Child {
    let socket = folder.path().join("s");
    let _ = std::fs::remove_file(&socket);
    Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
        .arg(&socket)
        .arg("--dir")
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server must be on the PATH for this test: run `tests/tools/setup system`")
}

async fn is_there(redis: &Redis) {
    let there = async {
        while !redis.is_there() {
            tokio::time::sleep(10 * MILLI).await;
        }
    };
    timeout(MAX_WAIT, there).await.expect("Redis is reached");
}

fn rate(key: &str, count: u64, per: Duration, burst: u64) -> StoreRequest {
    StoreRequest { key: key.into(), budget: Budget::Rate { count, per, burst } }
}

fn quota(key: &str, count: u64, per: Duration) -> StoreRequest {
    StoreRequest { key: key.into(), budget: Budget::Quota { count, per } }
}

async fn taken(redis: &Redis, asks: &[StoreRequest]) -> bool {
    redis.take(asks).await.expect("an answer") == StoreOutcome::Granted
}

fn seconds_to_window_end(secs: u64) -> u64 {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    secs - now % secs
}

/// Runs one call through limits that use this store.
async fn admitted(limits: &Rate) -> Result<(), u16> {
    let headers = HeaderMap::new();
    let head = filters::RequestHead {
        http_method: &Method::GET,
        path: "/mcp",
        headers: &headers,
        authority: None,
        peer: None,
        certificate: None,
        is_network: true,
    };
    limits.on_head(&head, Some([10, 0, 0, 1].into())).await.map_err(|rejection| rejection.status)
}

fn limits(store: Arc<Redis>, count: u64, on_failure: OnFailure) -> Rate {
    let budget = Budget::Rate { count, per: Duration::from_secs(3600), burst: count };
    let rule = RateRule { name: "ip".into(), key: vec![KeyPart::Ip], matches: Match::default(), budget };
    Rate::new(vec![rule], Arc::new(Counters::default()), Some(store), on_failure)
}

#[tokio::test]
async fn a_burst_passes_and_then_waits_are_told() {
    let real = Real::start().await;
    let redis = real.gateway().await;
    // One in three seconds and a third.
    let request = |key: &str| [rate(key, 3, 10 * SEC, 3)];
    let from = Instant::now();
    for _ in 0..3 {
        assert!(taken(&redis, &request("a")).await);
    }
    let Ok(StoreOutcome::Denied { ask: 0, wait }) = redis.take(&request("a")).await else {
        panic!("a fourth");
    };
    let pace = Duration::from_micros(3_333_334);
    assert!(wait <= pace && wait + from.elapsed() + MILLI > pace, "{wait:?}");
    tokio::time::sleep(wait + MILLI).await;
    assert!(taken(&redis, &request("a")).await);
    assert!(!taken(&redis, &request("a")).await);
    assert!(taken(&redis, &request("b")).await, "another key");
}

#[tokio::test]
async fn all_is_taken_or_nothing_and_the_longest_wait_is_told() {
    let real = Real::start().await;
    let redis = real.gateway().await;
    let wide = rate("wide", 1, 3600 * SEC, 3);
    let short = rate("short", 1, 60 * SEC, 1);
    let long = quota("long", 0, 86_400 * SEC);
    assert!(taken(&redis, &[wide.clone(), short.clone()]).await);
    for _ in 0..9 {
        let answer = redis.take(&[wide.clone(), short.clone()]).await;
        assert!(matches!(answer, Ok(StoreOutcome::Denied { ask: 1, .. })), "{answer:?}");
    }
    if seconds_to_window_end(86_400) > 60 {
        let answer = redis.take(&[long, wide.clone(), short]).await;
        assert!(matches!(answer, Ok(StoreOutcome::Denied { ask: 0, .. })), "{answer:?}");
    }
    assert!(taken(&redis, std::slice::from_ref(&wide)).await);
    assert!(taken(&redis, std::slice::from_ref(&wide)).await);
    assert!(!taken(&redis, &[wide]).await);
}

#[tokio::test]
async fn a_quota_ends_with_its_window_and_keys_do_not_stay() {
    let real = Real::start().await;
    let redis = real.gateway().await;
    // From the beginning of a window, so that it does not end before it is used up.
    while seconds_to_window_end(6) < 6 {
        tokio::time::sleep(20 * MILLI).await;
    }
    let request = quota("q", 2, 6 * SEC);
    assert!(
        taken(&redis, std::slice::from_ref(&request)).await
            && taken(&redis, std::slice::from_ref(&request)).await
    );
    let Ok(StoreOutcome::Denied { ask: 0, wait }) = redis.take(std::slice::from_ref(&request)).await else {
        panic!("a third");
    };
    assert!(wait <= 6 * SEC, "{wait:?}");
    assert!(!taken(&redis, &[quota("q", 2, 3600 * SEC)]).await, "a longer window counts what was used");
    assert!(!taken(&redis, std::slice::from_ref(&request)).await, "and so does a shorter one");
    tokio::time::sleep(wait + MILLI).await;
    assert!(taken(&redis, &[request]).await);
    assert!(taken(&redis, &[rate("r", 100, SEC, 100)]).await);
    // Redis removes expired keys at its own time; a key without an expiry would stay forever.
    let gone = async {
        while real.command(&["DBSIZE"]).await.expect("a count") != redis::Value::Int(0) {
            tokio::time::sleep(20 * MILLI).await;
        }
    };
    let gone = timeout(MAX_WAIT, gone).await;
    assert!(gone.is_ok(), "every key has a life that ends when it says nothing any more");
}

#[tokio::test]
async fn other_numbers_keep_the_count() {
    let real = Real::start().await;
    let redis = real.gateway().await;
    for _ in 0..100 {
        assert!(taken(&redis, &[rate("a", 1, 60 * SEC, 100)]).await);
    }
    // Stricter: no caller waits for longer than the current rule allows.
    let answer = redis.take(&[rate("a", 10, SEC, 2)]).await;
    let Ok(StoreOutcome::Denied { wait, .. }) = answer else { panic!("{answer:?}") };
    assert!(wait <= 100 * MILLI, "{wait:?}");
    tokio::time::sleep(wait + MILLI).await;
    assert!(taken(&redis, &[rate("a", 10, SEC, 2)]).await);
    assert!(!taken(&redis, &[rate("none", 10, SEC, 0)]).await);
    assert!(!taken(&redis, &[rate("none", 0, SEC, 9)]).await);
}

/// Three gateways and twice as many calls as the budget allows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_have_one_budget_between_them() {
    let real = Real::start().await;
    let request = rate("shared", 1, 3600 * SEC, 3000);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let gateway = real.gateway().await;
        for _ in 0..10 {
            let (gateway, request) = (gateway.clone(), request.clone());
            calls.spawn(async move {
                let mut passed = 0;
                for _ in 0..200 {
                    passed += u64::from(taken(&gateway, std::slice::from_ref(&request)).await);
                }
                passed
            });
        }
    }
    assert_eq!(calls.join_all().await.into_iter().sum::<u64>(), 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_rate_lets_more_through_than_it_says() {
    let real = Real::start().await;
    let gateways = [real.gateway().await, real.gateway().await];
    let mut keys = tokio::task::JoinSet::new();
    let cases =
        [(7, 1, 1), (7, 1, 7), (100, 1, 1), (333, 2, 5), (1000, 3, 40), (1, 1, 9), (60, 60, 60), (900, 7, 2)];
    for (case, (count, secs, burst)) in cases.into_iter().enumerate() {
        let gateways = gateways.clone();
        keys.spawn(async move {
            let request = [rate(&format!("case{case}"), count, secs * SEC, burst)];
            let (from, mut passed) = (Instant::now(), 0u64);
            while from.elapsed() < 3 * SEC {
                // Odd pauses of 0 to 9 ms, and concurrent calls between them.
                let now = from.elapsed().as_micros() as u64;
                tokio::time::sleep(MILLI * (now % 10) as u32).await;
                let both = gateways.each_ref().map(|gateway| gateway.take(&request));
                for answer in futures::future::join_all(both).await {
                    passed += u64::from(answer.expect("an answer") == StoreOutcome::Granted);
                }
            }
            let max = burst as f64 + from.elapsed().as_secs_f64() * count as f64 / f64::from(secs);
            (case, passed, burst, max)
        });
    }
    for (case, passed, burst, max) in keys.join_all().await {
        assert!(passed as f64 <= max, "case {case}: {passed} of {max}");
        println!("case {case}: {passed} of {max}");
        assert!(passed >= burst.min(2), "case {case}: {passed} of {max}");
    }
}

#[tokio::test]
async fn a_server_that_forgot_the_script_is_given_it_again() {
    let real = Real::start().await;
    let redis = real.gateway().await;
    for forget in [&["SCRIPT", "FLUSH"][..], &["FLUSHALL"]] {
        assert!(taken(&redis, &[rate("a", 1, SEC, 1000)]).await);
        real.command(forget).await.expect("done");
    }
    assert!(taken(&redis, &[rate("a", 1, SEC, 1)]).await, "a flushed server counts from nothing");
    assert_eq!(redis.failures(), 0);
}

#[tokio::test]
async fn a_server_that_dies_is_missed_at_once_and_found_when_it_is_back() {
    let mut real = Real::start().await;
    let redis = real.gateway().await;
    let local = limits(redis.clone(), 3, OnFailure::Local);
    let closed = limits(redis.clone(), 1000, OnFailure::Closed);
    let open = limits(redis.clone(), 1, OnFailure::Open);
    assert_eq!(admitted(&local).await, Ok(()));
    real.kill();
    let from = Instant::now();
    let passed = [(); 5].map(|()| admitted(&local));
    let mut results = Vec::new();
    for one in passed {
        results.push(one.await);
    }
    assert_eq!(results, [Ok(()), Ok(()), Ok(()), Err(429), Err(429)], "the whole budget, here");
    assert_eq!(admitted(&closed).await, Err(503));
    for _ in 0..9 {
        assert_eq!(admitted(&open).await, Ok(()));
    }
    assert!(from.elapsed() < MAX_WAIT, "a closed socket is not waited for: {:?}", from.elapsed());
    // A Redis that is known to be down is not awaited at all.
    assert_eq!(admitted(&open).now_or_never(), Some(Ok(())));
    assert!(!redis.is_there() && redis.failures() >= 10);
    real.restart().await;
    is_there(&redis).await;
    assert_eq!(admitted(&closed).await, Ok(()));
    assert!(taken(&redis, &[rate("a", 1, SEC, 1)]).await);
}

#[tokio::test]
async fn a_server_that_stops_answering_is_not_waited_for_for_long() {
    let real = Real::start().await;
    let timeout = 30 * MILLI;
    let redis = Arc::new(Redis::new(&real.url(), "t:", timeout, Handle::current()).expect("a URL"));
    is_there(&redis).await;
    let limits = limits(redis.clone(), 1000, OnFailure::Local);
    real.signal(libc::SIGSTOP);
    for _ in 0..MAX_TIMEOUTS {
        let from = Instant::now();
        assert_eq!(admitted(&limits).await, Ok(()));
        assert!(from.elapsed() >= timeout);
    }
    assert!(!redis.is_there());
    for _ in 0..10 {
        assert_eq!(admitted(&limits).now_or_never(), Some(Ok(())), "it is not waited for any more");
    }
    real.signal(libc::SIGCONT);
    is_there(&redis).await;
    assert_eq!(admitted(&limits).await, Ok(()));
}

#[tokio::test]
async fn a_port_where_nobody_ever_answers_holds_up_nothing() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("redis://{}", silent.local_addr().expect("an address"));
    let redis = Arc::new(Redis::new(&url, "t:", 50 * MILLI, Handle::current()).expect("a URL"));
    let limits = limits(redis.clone(), 1000, OnFailure::Local);
    for _ in 0..100 {
        assert_eq!(admitted(&limits).now_or_never(), Some(Ok(())), "the first of them included");
    }
    assert_eq!((redis.is_there(), redis.failures()), (false, 100));
}

#[tokio::test]
async fn a_server_that_may_only_be_read_from_does_not_count() {
    let real = Real::start().await;
    real.command(&["REPLICAOF", "127.0.0.1", "1"]).await.expect("done");
    let redis = Redis::new(&real.url(), "t:", MAX_WAIT, Handle::current()).expect("a URL");
    tokio::time::sleep(300 * MILLI).await;
    assert!(!redis.is_there());
    real.command(&["REPLICAOF", "NO", "ONE"]).await.expect("done");
    is_there(&redis).await;
}

#[test]
fn the_connection_outlives_the_runtime_of_a_call() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("one");
    let (_real, redis) = runtime.block_on(async {
        let real = Real::start().await;
        let redis = real.gateway().await;
        (real, redis)
    });
    for _ in 0..3 {
        let brief = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        assert!(brief.block_on(taken(&redis, &[rate("a", 1, SEC, 100)])));
    }
    assert_eq!(redis.failures(), 0);
}

#[tokio::test]
async fn a_store_that_nobody_wants_any_more_is_not_sought() {
    let redis = Redis::new("redis://127.0.0.1:1", "t:", MAX_WAIT, Handle::current()).expect("a URL");
    let link = Arc::downgrade(&redis.0);
    drop(redis);
    // One attempt may be in flight.
    let forgotten = async {
        while link.strong_count() > 0 {
            tokio::time::sleep(10 * MILLI).await;
        }
    };
    timeout(MAX_WAIT, forgotten).await.expect("it is forgotten");
    assert!(Redis::new("no url", "t:", MAX_WAIT, Handle::current()).is_err());
}
