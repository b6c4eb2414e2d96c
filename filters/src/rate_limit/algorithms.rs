//! What a budget is, and the arithmetic of its three kinds. The whole state of one budget is one word,
//! changed by compare-and-swap: no lock, and no moment at which two callers see the same room. The clock is
//! read after the word, each time: a thread that is put to sleep in between would else judge the present by a
//! time long past, and take a due time that is only later for one that is out of bounds.
//!
//! - A rate is judged by the generic cell rate algorithm. The word is the *due time*: when the calls let
//!   through so far would all have come at the even pace. A call passes if its own due time is no more than
//!   `burst` paces ahead of now. So no window of length `t` ever holds more than `burst + t / pace` calls.
//! - A quota is a count and the end of its window; windows begin at whole multiples of their length since
//!   1970 (UTC), so those of `1d` at midnight.
//! - Slots are a count of calls under way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::clock::Clock;
use super::key::Digest128;

/// How many a rule lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// `count` calls `per` so much time on the long run, and `burst` at once. A burst of 0 lets nothing
    /// through.
    Rate { count: u64, per: Duration, burst: u64 },
    /// So many calls under way at once.
    Concurrent(u32),
    /// `count` calls in a fixed window; of whole seconds. Counts beyond 2^32 - 1 are that.
    Quota { count: u64, per: Duration },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Rate,
    Quota,
    Slots,
    /// Not a budget: a moment before which a shared store need not be asked again.
    Shut,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Rate => "rate",
            Kind::Quota => "quota",
            Kind::Slots => "concurrent",
            Kind::Shut => "shut",
        }
    }

    /// Whether a state says nothing more than a fresh one would.
    pub fn is_idle(self, state: u64, now: &Now) -> bool {
        match self {
            Kind::Rate | Kind::Shut => state <= now.nanos,
            Kind::Quota => end_of(state) <= now.unix.as_secs(),
            Kind::Slots => state == 0,
        }
    }
}

/// A moment, by both clocks.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub nanos: u64,
    pub unix: Duration,
}

/// A budget made ready.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meter {
    Pace(Pace),
    Window(Window),
    Slots(u32),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Nanoseconds between two calls; rounded up, which makes rates of millions a second a little lower.
    every: u64,
    /// How far ahead of now a due time may be.
    depth: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    count: u32,
    secs: u64,
}

impl Meter {
    pub fn new(budget: Budget) -> Self {
        match budget {
            Budget::Rate { count, per, burst } => {
                let every = per.as_nanos().div_ceil(u128::from(count.max(1))).max(1);
                let every = u64::try_from(every).unwrap_or(u64::MAX);
                let burst = if count == 0 { 0 } else { burst };
                Meter::Pace(Pace { every, depth: every.saturating_mul(burst) })
            }
            Budget::Quota { count, per } => Meter::Window(Window {
                count: u32::try_from(count).unwrap_or(u32::MAX),
                secs: per.as_secs().max(1),
            }),
            Budget::Concurrent(most) => Meter::Slots(most),
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Meter::Pace(_) => Kind::Rate,
            Meter::Window(_) => Kind::Quota,
            Meter::Slots(_) => Kind::Slots,
        }
    }

    /// The numbers, for a key of which they are a part.
    pub fn write(&self, to: &mut Digest128) {
        let (one, other) = match self {
            Meter::Pace(pace) => (pace.every, pace.depth),
            Meter::Window(window) => (window.count.into(), window.secs),
            Meter::Slots(most) => (u64::from(*most), 0),
        };
        to.number(u128::from(one) << 64 | u128::from(other));
    }

    /// Takes one, or says after what time there would be one. Gives what [`Meter::give_back`] needs.
    pub fn take(&self, state: &AtomicU64, clock: &dyn Clock) -> Result<u64, Duration> {
        change(state, |seen| self.next(seen, clock))
    }

    /// After what time there would be one; takes none.
    pub fn wait(&self, state: &AtomicU64, clock: &dyn Clock) -> Duration {
        match self.next(state.load(Ordering::Acquire), clock) {
            Next::Taken(_) => Duration::ZERO,
            Next::Short { wait, .. } => wait,
        }
    }

    /// Undoes a [`Meter::take`] that gave `taken`, for a call that another rule refused. In between, others
    /// may have been refused that would have had room; never was one let through that had none.
    pub fn give_back(&self, state: &AtomicU64, taken: u64, clock: &dyn Clock) {
        let _ = match self {
            // Once that due time is past, others may have counted from now on, not from it: what was taken
            // is no longer in the word, and taking it off would let one through too many.
            Meter::Pace(pace) => change(state, |seen| match taken > clock.nanos() {
                true => Next::Taken(seen.saturating_sub(pace.every)),
                false => Next::Short { wait: Duration::ZERO, state: seen },
            }),
            // The same, where a new window has begun meanwhile.
            Meter::Window(_) => change(state, |seen| match used_of(seen) {
                used if used > 0 && end_of(seen) == end_of(taken) => Next::Taken(seen - 1),
                _ => Next::Short { wait: Duration::ZERO, state: seen },
            }),
            Meter::Slots(_) => {
                release(state);
                Ok(0)
            }
        };
    }

    fn next(&self, seen: u64, clock: &dyn Clock) -> Next {
        match self {
            Meter::Pace(pace) => pace.next(seen, clock.nanos()),
            Meter::Window(window) => window.next(seen, clock.unix()),
            Meter::Slots(most) if seen < u64::from(*most) => Next::Taken(seen + 1),
            // Nobody knows when a call will end.
            Meter::Slots(_) => Next::Short { wait: Duration::from_secs(1), state: seen },
        }
    }
}

/// Frees a slot.
pub(super) fn release(state: &AtomicU64) {
    state.fetch_sub(1, Ordering::Release);
}

enum Next {
    Taken(u64),
    Short { wait: Duration, state: u64 },
}

fn change(state: &AtomicU64, next: impl Fn(u64) -> Next) -> Result<u64, Duration> {
    let mut seen = state.load(Ordering::Acquire);
    loop {
        let (to, outcome) = match next(seen) {
            Next::Taken(to) => (to, Ok(to)),
            Next::Short { wait, state } if state == seen => return Err(wait),
            Next::Short { wait, state } => (state, Err(wait)),
        };
        match state.compare_exchange_weak(seen, to, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return outcome,
            Err(other) => seen = other,
        }
    }
}

impl Pace {
    fn next(&self, due: u64, now: u64) -> Next {
        // Under a rule that has become stricter an old due time may lie beyond its depth: nobody shall wait
        // for longer than one who has just used up the burst of today.
        let due = due.clamp(now, now.saturating_add(self.depth)).saturating_add(self.every);
        match (due - now).checked_sub(self.depth) {
            None | Some(0) => Next::Taken(due),
            Some(early) => Next::Short { wait: Duration::from_nanos(early), state: due - self.every },
        }
    }
}

impl Window {
    fn next(&self, state: u64, unix: Duration) -> Next {
        let now = unix.as_secs();
        let end = (now / self.secs + 1).saturating_mul(self.secs).min(u64::from(u32::MAX));
        // What was counted in a window that is not over stays, even if the length of windows has changed or
        // the clock was set back: it shall not take a reload to get a second quota.
        let used = if end_of(state) > now { used_of(state) } else { 0 };
        if used < self.count {
            Next::Taken(end << 32 | u64::from(used + 1))
        } else {
            let wait = Duration::from_secs(end).saturating_sub(unix);
            Next::Short { wait, state: end << 32 | u64::from(used) }
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
