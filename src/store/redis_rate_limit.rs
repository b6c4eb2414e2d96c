//! Limits that are counted in Redis, so that all gateways with one Redis share one budget.
//!
//! One script decides about a call in one round trip, on Redis' own clock. The timeout is in the
//! configuration. While Redis is down there is no wait at all: the connection is dropped, one task tries to
//! make a new one each second, and callers get the error at once.
//!
//! The connection is managed here and not by the crate's `ConnectionManager`. That one keeps a connection
//! that is never answered (a lost host, a stopped process) until the kernel gives up.
//!
//! Redis 5 or newer, as one server or behind a proxy; the client does not follow the redirections of a
//! cluster.

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use filters::rate_limit::{Budget, RateLimitStore, StoreOutcome, StoreRequest, StoreUnavailable};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisError, Script};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// The pause between two attempts to reach Redis, and the timeout of one.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Consecutive timeouts after which a connection is dropped. A single one may be a slow moment.
const MAX_TIMEOUTS: u32 = 3;
/// Ticks of the script in a microsecond.
const TICKS: u128 = 16;
/// Beyond this, a double does not represent every integer.
const MAX_TICKS: u128 = 1 << 52;

/// A Redis that counts.
pub struct Redis(Arc<RedisConnection>);

struct RedisConnection {
    client: Client,
    script: Script,
    prefix: String,
    timeout: Duration,
    /// Pingora's runtimes end before the process does; the connection's task needs one that does not.
    runtime: Handle,
    /// None while Redis is down.
    connection: ArcSwapOption<MultiplexedConnection>,
    timeouts: AtomicU32,
    failures: AtomicU64,
}

#[derive(Debug, thiserror::Error)]
enum StoreError {
    #[error("no answer in time")]
    TimedOut,
    #[error(transparent)]
    Redis(#[from] RedisError),
    #[error("an answer that the script cannot give: {0} and {1}")]
    InvalidReply(i64, i64),
}

impl Redis {
    /// Connects in the background; an invalid URL is an error. `timeout` is for one call.
    pub fn new(url: &str, prefix: &str, timeout: Duration, runtime: Handle) -> Result<Self, RedisError> {
        // Without it, small requests wait for the replies to earlier ones.
        let quick = TcpSettings::default().set_nodelay(true);
        let info = url.into_connection_info()?.set_tcp_settings(quick);
        let link = Arc::new(RedisConnection {
            client: Client::open(info)?,
            script: Script::new(include_str!("rate_limit.lua")),
            prefix: prefix.into(),
            timeout,
            runtime,
            connection: ArcSwapOption::empty(),
            timeouts: AtomicU32::new(0),
            failures: AtomicU64::new(0),
        });
        link.runtime.spawn(reconnect(Arc::downgrade(&link), None));
        Ok(Self(link))
    }

    /// Whether Redis answered the last request.
    pub fn is_there(&self) -> bool {
        self.0.connection.load().is_some()
    }

    /// How many calls were not decided by Redis, for a metric.
    pub fn failures(&self) -> u64 {
        self.0.failures.load(Ordering::Relaxed)
    }
}

impl RateLimitStore for Redis {
    fn take<'a>(
        &'a self,
        asks: &'a [StoreRequest],
    ) -> Pin<Box<dyn Future<Output = Result<StoreOutcome, StoreUnavailable>> + Send + 'a>> {
        Box::pin(async move {
            let answer = self.0.take(asks).await;
            if answer.is_err() {
                self.0.failures.fetch_add(1, Ordering::Relaxed);
            }
            answer
        })
    }
}

impl RedisConnection {
    async fn take(self: &Arc<Self>, asks: &[StoreRequest]) -> Result<StoreOutcome, StoreUnavailable> {
        let connection = self.connection.load_full().ok_or(StoreUnavailable)?;
        match self.run_script(&connection, asks, self.timeout).await {
            Ok(answer) => {
                self.timeouts.store(0, Ordering::Relaxed);
                Ok(answer)
            }
            Err(miss) => {
                let is_lost = match miss {
                    StoreError::TimedOut => self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_TIMEOUTS,
                    StoreError::Redis(_) | StoreError::InvalidReply(..) => true,
                };
                if is_lost {
                    self.disconnect(&connection, &miss);
                }
                Err(StoreUnavailable)
            }
        }
    }

    async fn run_script(
        &self,
        connection: &MultiplexedConnection,
        asks: &[StoreRequest],
        call_timeout: Duration,
    ) -> Result<StoreOutcome, StoreError> {
        let mut call = self.script.prepare_invoke();
        for ask in asks {
            call.key(format!("{}{}", self.prefix, ask.key));
            let (kind, one, two) = numbers(&ask.budget);
            call.arg(kind).arg(one).arg(two);
        }
        // A restarted or flushed server does not know the script: it is loaded, and the call is repeated.
        let mut connection = connection.clone();
        // Read as signed integers: for an unsigned type the crate turns -1 into a huge number.
        let answer = call.invoke_async::<(i64, i64)>(&mut connection);
        let (worst, micros) = timeout(call_timeout, answer).await.map_err(|_| StoreError::TimedOut)??;
        parse_reply(asks, worst, micros).ok_or(StoreError::InvalidReply(worst, micros))
    }

    /// Drops a connection, once, and starts a reconnect.
    fn disconnect(self: &Arc<Self>, connection: &Arc<MultiplexedConnection>, why: &StoreError) {
        let before = self.connection.compare_and_swap(connection, None);
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, connection)) {
            tracing::warn!(error = %why, "limits: Redis is away");
            self.runtime.spawn(reconnect(Arc::downgrade(self), Some(Instant::now())));
        }
    }

    /// A connection that is proven by an acquisition from a budget. A server that answers but is not ready,
    /// or is read-only, does not count.
    async fn connect(&self) -> Result<MultiplexedConnection, StoreError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(RECONNECT_PAUSE))
            .set_response_timeout(None);
        let connection =
            timeout(RECONNECT_PAUSE, self.client.get_multiplexed_async_connection_with_config(&config));
        let connection = connection.await.map_err(|_| StoreError::TimedOut)??;
        let budget = Budget::Rate { count: 1, per: Duration::from_secs(1), burst: 1 };
        let probe = StoreRequest { key: "{limits}:probe".into(), budget };
        self.run_script(&connection, &[probe], RECONNECT_PAUSE).await?;
        Ok(connection)
    }
}

/// Tries until Redis is connected, or no owner is left. `since`: when it was lost, if that was logged.
async fn reconnect(link: Weak<RedisConnection>, mut since: Option<Instant>) {
    if since.is_some() {
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
    loop {
        let Some(link) = link.upgrade() else { return };
        match link.connect().await {
            Ok(connection) => {
                link.timeouts.store(0, Ordering::Relaxed);
                link.connection.store(Some(Arc::new(connection)));
                if let Some(since) = since {
                    tracing::info!(away = ?since.elapsed(), "limits: Redis is back");
                }
                return;
            }
            Err(why) if since.is_none() => {
                tracing::warn!(error = %why, "limits: Redis is away");
                since = Some(Instant::now());
            }
            Err(_) => {}
        }
        drop(link);
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// Parses the script's two numbers. A wait longer than the budget's own period would block it for nothing.
fn parse_reply(asks: &[StoreRequest], worst: i64, micros: i64) -> Option<StoreOutcome> {
    let Some(ask) = usize::try_from(worst).ok()?.checked_sub(1) else {
        return (micros == 0).then_some(StoreOutcome::Granted);
    };
    let longest = match numbers(&asks.get(ask)?.budget) {
        ("r", pace, _) => Duration::from_micros(pace / TICKS as u64 + 1),
        (_, _, window) => Duration::from_secs(window),
    };
    let wait = Duration::from_micros(u64::try_from(micros).ok().filter(|micros| *micros > 0)?);
    (wait <= longest).then_some(StoreOutcome::Denied { ask, wait })
}

/// A budget as arguments of the script.
fn numbers(budget: &Budget) -> (&'static str, u64, u64) {
    match *budget {
        Budget::Rate { count, per, burst } => {
            let ticks =
                (per.as_nanos() * TICKS).div_ceil(1000 * u128::from(count.max(1))).clamp(1, MAX_TICKS);
            let burst = if count == 0 { 0 } else { u128::from(burst) };
            ("r", ticks as u64, (ticks * burst).min(MAX_TICKS) as u64)
        }
        Budget::Quota { count, per } => ("q", count, per.as_secs().max(1)),
        // They are counted in the process; this value is never requested.
        Budget::Concurrent(max) => ("q", max.into(), 1),
    }
}

#[cfg(test)]
mod tests;
