//! Whether a call is tried again, and when.
//!
//! What could not have reached a server is tried at another address without being asked. Everything else needs the
//! server's settings, a call that only reads, time, and a budget: retries must not multiply the load of a server
//! that is in trouble.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use prometheus::IntCounter;

use crate::config::{self, RetryOn};
use crate::telemetry::Metrics;

/// What a call puts into the budget and what a retry takes out: at most one retry for five calls.
const DEPOSIT: u32 = 1;
const PRICE: u32 = 5;
/// What the budget holds at most, and at first: this many retries may come in a row.
const RESERVE: u32 = 50 * PRICE;
/// The pause before the first retry where the call went is at most this, before the next twice that.
const PAUSE: Duration = Duration::from_millis(25);
/// No server makes a call wait longer than this.
const LONGEST: Duration = Duration::from_secs(2);
/// Most addresses that a call is tried at for want of a connection.
const CONNECTS: u32 = 5;

/// Most times that any call is tried.
pub const MOST: usize = 8;

/// Why a call may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Connect,
    Reset,
    BadGateway,
    Unavailable,
    GatewayTimeout,
}

impl Reason {
    pub fn of_status(status: u16) -> Option<Self> {
        match status {
            502 => Some(Reason::BadGateway),
            503 => Some(Reason::Unavailable),
            504 => Some(Reason::GatewayTimeout),
            _ => None,
        }
    }

    /// The label of the metric: the word of the config.
    fn word(self) -> &'static str {
        match self {
            Reason::Connect => "connect",
            Reason::Reset => "reset",
            Reason::BadGateway => "502",
            Reason::Unavailable => "503",
            Reason::GatewayTimeout => "504",
        }
    }
}

/// What happened to a call.
#[derive(Clone, Copy, Debug)]
pub struct Mishap {
    pub reason: Reason,
    /// The call may be sent twice.
    pub safe: bool,
    /// There is another endpoint or address that it was not tried at.
    pub elsewhere: bool,
    /// The connection had been used before: the server may have closed it just then.
    pub reused: bool,
    /// What the server asked for, by `Retry-After`.
    pub after: Option<Duration>,
}

/// What was tried so far of one call.
#[derive(Debug)]
pub struct Tries {
    pub made: u32,
    /// The endpoints that failed, a bit each.
    pub failed: u64,
    /// Connections of HTTP/2 that were at their end before anything was sent.
    pub stale: u32,
    /// To be waited before the next.
    pub wait: Duration,
    pub began: Option<Instant>,
}

impl Default for Tries {
    fn default() -> Self {
        Self { made: 1, failed: 0, stale: 0, wait: Duration::ZERO, began: None }
    }
}

impl Tries {
    /// What is left of the time of the call.
    pub fn left(&mut self, timeout: Duration) -> Duration {
        match self.began {
            Some(began) => timeout.saturating_sub(began.elapsed()),
            None => {
                self.began = Some(Instant::now());
                timeout
            }
        }
    }
}

/// A server's policy, and its budget.
pub struct Retry {
    attempts: u32,
    on: Vec<RetryOn>,
    /// Tools that call themselves idempotent are believed.
    pub idempotent: bool,
    budget: AtomicU32,
    counters: [OnceLock<IntCounter>; 5],
}

impl Retry {
    pub fn new(settings: Option<&config::Retry>) -> Self {
        Self {
            attempts: settings.map_or(1, |retry| retry.attempts),
            on: settings.map_or(Vec::new(), |retry| retry.on.clone()),
            idempotent: settings.is_some_and(|retry| retry.idempotent),
            budget: AtomicU32::new(RESERVE),
            counters: Default::default(),
        }
    }

    /// A call begins.
    pub fn begin(&self) {
        // Nearly always full: then nothing is written that other cores read.
        if !self.on.is_empty() && self.budget.load(Ordering::Relaxed) < RESERVE {
            self.budget.fetch_add(DEPOSIT, Ordering::Relaxed);
        }
    }

    /// Whether the call is tried again; `tries` then says when. `timeout` is the time of the whole call.
    pub fn again(&self, tries: &mut Tries, mishap: Mishap, timeout: Duration) -> bool {
        let Mishap { reason, safe, elsewhere, reused, after } = mishap;
        let wanted = self.on.contains(&match reason {
            Reason::Connect => RetryOn::Connect,
            Reason::Reset => RetryOn::Reset,
            Reason::BadGateway => RetryOn::BadGateway,
            Reason::Unavailable => RetryOn::Unavailable,
            Reason::GatewayTimeout => RetryOn::GatewayTimeout,
        });
        let paid = wanted && tries.made < self.attempts && (safe || reason == Reason::Connect);
        // Nothing was sent, or was read that the server can have read; no load comes of these.
        let free = match reason {
            Reason::Connect => elsewhere && tries.made < CONNECTS,
            Reason::Reset => safe && reused && tries.made < 3,
            _ => false,
        };
        let wait = match after {
            // Where it was told to wait too long, it goes only elsewhere.
            Some(after) if after > LONGEST && !elsewhere => return false,
            Some(after) if !elsewhere => after,
            _ if free => Duration::ZERO,
            _ => pause(tries.made),
        };
        if !(free || paid) || wait >= tries.left(timeout) || !(free || self.pay()) {
            return false;
        }
        tries.made += 1;
        tries.wait = wait;
        true
    }

    /// Counts a retry.
    pub fn count(&self, metrics: &Metrics, server: &str, reason: Reason) {
        let make = || metrics.retries(server, reason.word());
        self.counters[reason as usize].get_or_init(make).inc();
    }

    fn pay(&self) -> bool {
        let take = |held: u32| held.checked_sub(PRICE);
        self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// A pause of random length, so that calls that failed together do not come back together.
fn pause(made: u32) -> Duration {
    let most = PAUSE * 2u32.saturating_pow(made.saturating_sub(1).min(8));
    // Without randomness, the whole of it.
    most.mul_f64(getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX)))
}

/// What a server asks for by `Retry-After`, in seconds; a date is not read, since clocks differ.
pub fn retry_after(headers: &http::HeaderMap) -> Option<Duration> {
    let value = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(60);

    fn retry(on: &[RetryOn]) -> Retry {
        Retry::new(Some(&config::Retry { attempts: 3, on: on.to_vec(), idempotent: false }))
    }

    fn mishap(reason: Reason, safe: bool, elsewhere: bool) -> Mishap {
        Mishap { reason, safe, elsewhere, reused: false, after: None }
    }

    #[test]
    fn only_what_is_safe_is_tried_again() {
        use Reason::{BadGateway, Connect, GatewayTimeout, Reset, Unavailable};
        use RetryOn as On;
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
            let told = retry(on).again(&mut Tries::default(), mishap(reason, safe, elsewhere), TIME);
            assert_eq!(told, again, "{on:?} {reason:?} {safe} {elsewhere}");
        }
        let reused = Mishap { reused: true, ..mishap(Reset, true, false) };
        assert!(retry(&[]).again(&mut Tries::default(), reused, TIME));
        assert!(!retry(&[]).again(&mut Tries::default(), Mishap { safe: false, ..reused }, TIME));
    }

    #[test]
    fn attempts_are_counted_and_end() {
        let retry = retry(&[RetryOn::Unavailable]);
        let mut tries = Tries::default();
        let busy = mishap(Reason::Unavailable, true, false);
        assert!(retry.again(&mut tries, busy, TIME) && retry.again(&mut tries, busy, TIME));
        assert!(!retry.again(&mut tries, busy, TIME));
        // Nor is there one that the call has no time for.
        assert!(!retry.again(&mut Tries::default(), busy, Duration::ZERO));
    }

    #[test]
    fn what_the_server_asks_for_is_kept_to() {
        let retry = retry(&[RetryOn::Unavailable]);
        let asked = |seconds, elsewhere| {
            let mut tries = Tries::default();
            let after = Some(Duration::from_secs(seconds));
            let busy = Mishap { after, ..mishap(Reason::Unavailable, true, elsewhere) };
            retry.again(&mut tries, busy, TIME).then_some(tries.wait)
        };
        assert_eq!(asked(1, false), Some(Duration::from_secs(1)));
        assert_eq!(asked(60, false), None);
        assert!(asked(60, true).is_some_and(|wait| wait <= PAUSE));
    }

    #[test]
    fn a_budget_keeps_retries_from_multiplying_the_load() {
        let retry = retry(&[RetryOn::Unavailable]);
        let busy = mishap(Reason::Unavailable, true, false);
        let try_once = || retry.again(&mut Tries::default(), busy, TIME);
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
        // Connections elsewhere cost nothing.
        assert!(retry.again(&mut Tries::default(), mishap(Reason::Connect, false, true), TIME));
    }
}
