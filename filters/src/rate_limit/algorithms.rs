//! The three kinds of budgets and their arithmetic. The whole state of one budget is one word, changed by
//! compare-and-swap. So there is no lock, and two callers never take the same free place. The clock is read
//! after the word, each time. Otherwise a suspended thread would use an old time, and would take a later due
//! time for one out of bounds.
//!
//! - A rate uses the generic cell rate algorithm. The word is the *due time*: when the calls let
//!   through so far would all have come at an even pace. A call passes if its own due time is at most
//!   `burst` paces ahead of now. So no window of length `t` ever holds more than `burst + t / pace` calls.
//! - A quota is a count and the end of its window; windows begin at whole multiples of their length since
//!   1970 (UTC), so those of `1d` at midnight.
//! - Slots are a count of concurrent calls.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::clock::Clock;
use super::key::Digest128;

/// How many a rule lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// `count` calls `per` this time in the long run, and `burst` at once. A burst of 0 lets nothing through.
    Rate { count: u64, per: Duration, burst: u64 },
    /// So many concurrent calls.
    Concurrent(u32),
    /// `count` calls in a fixed window; of whole seconds. Counts beyond 2^32 - 1 are that.
    Quota { count: u64, per: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimiterKind {
    Rate,
    Quota,
    Slots,
    /// Not a budget: a moment until which the shared store is not asked again.
    Backoff,
}

impl LimiterKind {
    pub fn as_str(self) -> &'static str {
        match self {
            LimiterKind::Rate => "rate",
            LimiterKind::Quota => "quota",
            LimiterKind::Slots => "concurrent",
            LimiterKind::Backoff => "shut",
        }
    }

    /// Whether a state equals a fresh one in effect.
    pub fn is_idle(self, state: u64, now: &Now) -> bool {
        match self {
            LimiterKind::Rate | LimiterKind::Backoff => state <= now.nanos,
            LimiterKind::Quota => end_of(state) <= now.unix.as_secs(),
            LimiterKind::Slots => state == 0,
        }
    }
}

/// A moment, by both clocks.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub nanos: u64,
    pub unix: Duration,
}

/// A prepared budget.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limiter {
    Gcra(Gcra),
    Window(Window),
    Slots(u32),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Gcra {
    /// Nanoseconds between two calls; rounded up, which makes rates of millions a second a little lower.
    interval: u64,
    /// How far ahead of now a due time may be.
    tolerance: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    count: u32,
    secs: u64,
}

impl Limiter {
    pub fn new(budget: Budget) -> Self {
        match budget {
            Budget::Rate { count, per, burst } => {
                let every = per.as_nanos().div_ceil(u128::from(count.max(1))).max(1);
                let every = u64::try_from(every).unwrap_or(u64::MAX);
                let burst = if count == 0 { 0 } else { burst };
                Limiter::Gcra(Gcra { interval: every, tolerance: every.saturating_mul(burst) })
            }
            Budget::Quota { count, per } => Limiter::Window(Window {
                count: u32::try_from(count).unwrap_or(u32::MAX),
                secs: per.as_secs().max(1),
            }),
            Budget::Concurrent(max) => Limiter::Slots(max),
        }
    }

    pub fn kind(&self) -> LimiterKind {
        match self {
            Limiter::Gcra(_) => LimiterKind::Rate,
            Limiter::Window(_) => LimiterKind::Quota,
            Limiter::Slots(_) => LimiterKind::Slots,
        }
    }

    /// The numbers, which are part of a key.
    pub fn write(&self, to: &mut Digest128) {
        let (one, other) = match self {
            Limiter::Gcra(pace) => (pace.interval, pace.tolerance),
            Limiter::Window(window) => (window.count.into(), window.secs),
            Limiter::Slots(max) => (u64::from(*max), 0),
        };
        to.number(u128::from(one) << 64 | u128::from(other));
    }

    /// Takes one, or returns the wait until there is one. The returned value is for [`Limiter::give_back`].
    pub fn take(&self, state: &AtomicU64, clock: &dyn Clock) -> Result<u64, Duration> {
        change(state, |seen| self.next(seen, clock))
    }

    /// The wait until there is one; takes none.
    pub fn wait(&self, state: &AtomicU64, clock: &dyn Clock) -> Duration {
        match self.next(state.load(Ordering::Acquire), clock) {
            Transition::Taken(_) => Duration::ZERO,
            Transition::Denied { wait, .. } => wait,
        }
    }

    /// Undoes a [`Limiter::take`] that returned `taken`, after another rule denied the call. In between,
    /// other calls may have been denied although there was room. No call was let through without room.
    pub fn undo(&self, state: &AtomicU64, taken: u64, clock: &dyn Clock) {
        let _ = match self {
            // After that due time others may have counted from now on, not from it. Then the word no longer
            // contains the taken one, and subtracting it would let one call too many through.
            Limiter::Gcra(pace) => change(state, |seen| match taken > clock.nanos() {
                true => Transition::Taken(seen.saturating_sub(pace.interval)),
                false => Transition::Denied { wait: Duration::ZERO, state: seen },
            }),
            // The same, where a new window has begun meanwhile.
            Limiter::Window(_) => change(state, |seen| match used_of(seen) {
                used if used > 0 && end_of(seen) == end_of(taken) => Transition::Taken(seen - 1),
                _ => Transition::Denied { wait: Duration::ZERO, state: seen },
            }),
            Limiter::Slots(_) => {
                release(state);
                Ok(0)
            }
        };
    }

    fn next(&self, seen: u64, clock: &dyn Clock) -> Transition {
        match self {
            Limiter::Gcra(pace) => pace.next(seen, clock.nanos()),
            Limiter::Window(window) => window.next(seen, clock.unix()),
            Limiter::Slots(max) if seen < u64::from(*max) => Transition::Taken(seen + 1),
            // The end of a call is unknown.
            Limiter::Slots(_) => Transition::Denied { wait: Duration::from_secs(1), state: seen },
        }
    }
}

/// Frees a slot.
pub(super) fn release(state: &AtomicU64) {
    state.fetch_sub(1, Ordering::Release);
}

enum Transition {
    Taken(u64),
    Denied { wait: Duration, state: u64 },
}

fn change(state: &AtomicU64, next: impl Fn(u64) -> Transition) -> Result<u64, Duration> {
    let mut seen = state.load(Ordering::Acquire);
    loop {
        let (to, outcome) = match next(seen) {
            Transition::Taken(to) => (to, Ok(to)),
            Transition::Denied { wait, state } if state == seen => return Err(wait),
            Transition::Denied { wait, state } => (state, Err(wait)),
        };
        match state.compare_exchange_weak(seen, to, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return outcome,
            Err(other) => seen = other,
        }
    }
}

impl Gcra {
    fn next(&self, due: u64, now: u64) -> Transition {
        // After a rule became stricter, an old due time may exceed its new depth. No caller waits longer than
        // one who has just used up the new burst.
        let due = due.clamp(now, now.saturating_add(self.tolerance)).saturating_add(self.interval);
        match (due - now).checked_sub(self.tolerance) {
            None | Some(0) => Transition::Taken(due),
            Some(early) => {
                Transition::Denied { wait: Duration::from_nanos(early), state: due - self.interval }
            }
        }
    }
}

impl Window {
    fn next(&self, state: u64, unix: Duration) -> Transition {
        let now = unix.as_secs();
        let end = (now / self.secs + 1).saturating_mul(self.secs).min(u64::from(u32::MAX));
        // The count of an unfinished window stays, even if the window length changed or the clock was set
        // back: a reload must not give a second quota.
        let used = if end_of(state) > now { used_of(state) } else { 0 };
        if used < self.count {
            Transition::Taken(end << 32 | u64::from(used + 1))
        } else {
            let wait = Duration::from_secs(end).saturating_sub(unix);
            Transition::Denied { wait, state: end << 32 | u64::from(used) }
        }
    }
}

/// When the window of a quota's state ends, in seconds since 1970 (until 2106).
fn end_of(state: u64) -> u64 {
    state >> 32
}

fn used_of(state: u64) -> u32 {
    state as u32
}
