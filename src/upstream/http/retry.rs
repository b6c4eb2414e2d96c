//! Whether a call is retried, and when.
//!
//! A call that cannot have reached a server is tried at another address without further conditions.
//! Everything else requires the server's settings, a call that only reads, time, and a budget: retries must
//! not multiply the load of a server that is in trouble.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use prometheus::IntCounter;

use crate::config::{self, RetryOn};
use crate::telemetry::Metrics;

/// What a call puts into the budget and what a retry takes out: at most one retry for five calls.
const BUDGET_DEPOSIT: u32 = 1;
const BUDGET_COST: u32 = 5;
/// The maximum of the budget, and its start value: this many retries may come in a row.
const BUDGET_RESERVE: u32 = 50 * BUDGET_COST;
/// The longest pause before the first retry at the same place; it doubles for each further one.
const MIN_BACKOFF: Duration = Duration::from_millis(25);
/// No server makes a call wait longer than this.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// Most addresses that a call is tried at after failed connections.
const MAX_CONNECTS: u32 = 5;

/// Most attempts of any call.
pub const MAX_ATTEMPTS: usize = 8;

/// Why a call may be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryReason {
    Connect,
    Reset,
    BadGateway,
    Unavailable,
    GatewayTimeout,
}

impl RetryReason {
    pub fn of_status(status: u16) -> Option<Self> {
        match status {
            502 => Some(RetryReason::BadGateway),
            503 => Some(RetryReason::Unavailable),
            504 => Some(RetryReason::GatewayTimeout),
            _ => None,
        }
    }

    /// The label of the metric: the word of the config.
    fn label(self) -> &'static str {
        match self {
            RetryReason::Connect => "connect",
            RetryReason::Reset => "reset",
            RetryReason::BadGateway => "502",
            RetryReason::Unavailable => "503",
            RetryReason::GatewayTimeout => "504",
        }
    }
}

/// How a call failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    pub reason: RetryReason,
    /// The call may be sent twice.
    pub idempotent: bool,
    /// There is another endpoint or address that it was not tried at.
    pub has_alternative: bool,
    /// The connection had been used before: the server may have closed it just then.
    pub reused: bool,
    /// The server's `Retry-After`.
    pub after: Option<Duration>,
}

/// The attempts of one call.
#[derive(Debug)]
pub struct Attempts {
    pub made: u32,
    /// The endpoints that failed, a bit each.
    pub failed: u64,
    /// HTTP/2 connections that were closed before anything was sent.
    pub stale: u32,
    /// The pause before the next attempt.
    pub wait: Duration,
    pub began: Option<Instant>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { made: 1, failed: 0, stale: 0, wait: Duration::ZERO, began: None }
    }
}

impl Attempts {
    /// The remaining time of the call.
    pub fn remaining(&mut self, timeout: Duration) -> Duration {
        match self.began {
            Some(started) => timeout.saturating_sub(started.elapsed()),
            None => {
                self.began = Some(Instant::now());
                timeout
            }
        }
    }
}

/// A server's retry policy, and its budget.
pub struct Retry {
    attempts: u32,
    on: Vec<RetryOn>,
    /// Tools that declare themselves idempotent are trusted.
    pub idempotent: bool,
    budget: AtomicU32,
    counters: [OnceLock<IntCounter>; 5],
}

impl Retry {
    pub fn new(settings: Option<&config::RetryPolicy>) -> Self {
        Self {
            attempts: settings.map_or(1, |retry| retry.attempts),
            on: settings.map_or(Vec::new(), |retry| retry.on.clone()),
            idempotent: settings.is_some_and(|retry| retry.idempotent),
            budget: AtomicU32::new(BUDGET_RESERVE),
            counters: Default::default(),
        }
    }

    /// Counts the start of a call.
    pub fn begin(&self) {
        // Nearly always full: then nothing is written that other cores read.
        if !self.on.is_empty() && self.budget.load(Ordering::Relaxed) < BUDGET_RESERVE {
            self.budget.fetch_add(BUDGET_DEPOSIT, Ordering::Relaxed);
        }
    }

    /// Whether the call is retried; `attempts` then has the pause. `timeout` is the time of the whole call.
    pub fn should_retry(&self, attempts: &mut Attempts, failure: Failure, timeout: Duration) -> bool {
        let Failure { reason, idempotent: safe, has_alternative: elsewhere, reused, after } = failure;
        let wanted = self.on.contains(&match reason {
            RetryReason::Connect => RetryOn::Connect,
            RetryReason::Reset => RetryOn::Reset,
            RetryReason::BadGateway => RetryOn::BadGateway,
            RetryReason::Unavailable => RetryOn::Unavailable,
            RetryReason::GatewayTimeout => RetryOn::GatewayTimeout,
        });
        let paid = wanted && attempts.made < self.attempts && (safe || reason == RetryReason::Connect);
        // The server has read nothing of the call; such a retry adds no load.
        let free = match reason {
            RetryReason::Connect => elsewhere && attempts.made < MAX_CONNECTS,
            RetryReason::Reset => safe && reused && attempts.made < 3,
            _ => false,
        };
        let wait = match after {
            // If the server demands too long a wait, the call only goes to another endpoint.
            Some(after) if after > MAX_BACKOFF && !elsewhere => return false,
            Some(after) if !elsewhere => after,
            _ if free => Duration::ZERO,
            _ => backoff(attempts.made),
        };
        if !(free || paid) || wait >= attempts.remaining(timeout) || !(free || self.withdraw()) {
            return false;
        }
        attempts.made += 1;
        attempts.wait = wait;
        true
    }

    /// Counts a retry.
    pub fn count(&self, metrics: &Metrics, server: &str, reason: RetryReason) {
        let make = || metrics.retries(server, reason.label());
        self.counters[reason as usize].get_or_init(make).inc();
    }

    fn withdraw(&self) -> bool {
        let take = |held: u32| held.checked_sub(BUDGET_COST);
        self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// A pause of random length, so that calls that failed together do not come back together.
fn backoff(made: u32) -> Duration {
    let max = MIN_BACKOFF * 2u32.saturating_pow(made.saturating_sub(1).min(8));
    // Without randomness, the whole of it.
    max.mul_f64(getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX)))
}

/// The server's `Retry-After` in seconds; a date is ignored, since clocks differ.
pub fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let value = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(60);

    fn retry(on: &[RetryOn]) -> Retry {
        Retry::new(Some(&config::RetryPolicy { attempts: 3, on: on.to_vec(), idempotent: false }))
    }

    fn failure_of(reason: RetryReason, safe: bool, elsewhere: bool) -> Failure {
        Failure { reason, idempotent: safe, has_alternative: elsewhere, reused: false, after: None }
    }

    #[test]
    fn only_what_is_safe_is_tried_again() {
        use RetryOn as On;
        use RetryReason::{BadGateway, Connect, GatewayTimeout, Reset, Unavailable};
        let all = [On::Connect, On::Reset, On::BadGateway, On::Unavailable, On::GatewayTimeout];
        for (on, reason, safe, elsewhere, again) in [
            (&all[..], Connect, false, false, true),
            (&[], Connect, false, true, true),
            (&[], Connect, false, false, false),
            (&all, Reset, false, true, false),
            (&all, BadGateway, false, true, false),
            (&all, Unavailable, false, true, false),
            (&all, GatewayTimeout, false, true, false),
            (&all, Reset, true, false, true),
            (&all, Unavailable, true, false, true),
            (&[], Reset, true, true, false),
            (&[On::Connect], Unavailable, true, true, false),
        ] {
            let decided =
                retry(on).should_retry(&mut Attempts::default(), failure_of(reason, safe, elsewhere), TIME);
            assert_eq!(decided, again, "{on:?} {reason:?} {safe} {elsewhere}");
        }
        let reused = Failure { reused: true, ..failure_of(Reset, true, false) };
        assert!(retry(&[]).should_retry(&mut Attempts::default(), reused, TIME));
        assert!(!retry(&[]).should_retry(
            &mut Attempts::default(),
            Failure { idempotent: false, ..reused },
            TIME
        ));
    }

    #[test]
    fn attempts_are_counted_and_end() {
        let retry = retry(&[RetryOn::Unavailable]);
        let mut attempts = Attempts::default();
        let busy = failure_of(RetryReason::Unavailable, true, false);
        assert!(
            retry.should_retry(&mut attempts, busy, TIME) && retry.should_retry(&mut attempts, busy, TIME)
        );
        assert!(!retry.should_retry(&mut attempts, busy, TIME));
        // No retry either without remaining time.
        assert!(!retry.should_retry(&mut Attempts::default(), busy, Duration::ZERO));
    }

    #[test]
    fn retry_after_is_respected() {
        let retry = retry(&[RetryOn::Unavailable]);
        let asked = |seconds, elsewhere| {
            let mut attempts = Attempts::default();
            let after = Some(Duration::from_secs(seconds));
            let busy = Failure { after, ..failure_of(RetryReason::Unavailable, true, elsewhere) };
            retry.should_retry(&mut attempts, busy, TIME).then_some(attempts.wait)
        };
        assert_eq!(asked(1, false), Some(Duration::from_secs(1)));
        assert_eq!(asked(60, false), None);
        assert!(asked(60, true).is_some_and(|wait| wait <= MIN_BACKOFF));
    }

    #[test]
    fn a_budget_keeps_retries_from_multiplying_the_load() {
        let retry = retry(&[RetryOn::Unavailable]);
        let busy = failure_of(RetryReason::Unavailable, true, false);
        let try_once = || retry.should_retry(&mut Attempts::default(), busy, TIME);
        let reserve = (0..1000).filter(|_| try_once()).count();
        assert_eq!(reserve, 50);
        let calls = 1000;
        let retried = (0..calls)
            .filter(|_| {
                retry.begin();
                try_once()
            })
            .count();
        assert_eq!(retried, calls / 5);
        // Connections to other endpoints cost nothing.
        assert!(retry.should_retry(
            &mut Attempts::default(),
            failure_of(RetryReason::Connect, false, true),
            TIME
        ));
    }
}
