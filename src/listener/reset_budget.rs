//! How many requests the client of a connection of HTTP/2 may still leave before their answers. Resetting a stream costs
//! a client nothing, and makes room for the next (CVE-2023-44487); but whoever stops calls that take long, or closes
//! streams, means no harm.

use std::time::{Duration, Instant};

/// As many, beside those that it has waited for and those that come back with time.
const MAX_RESETS: u32 = 100;
/// How long it takes until one comes back.
const REFILL_INTERVAL: Duration = Duration::from_millis(100);
/// A request that is left after this time has cost its client something too.
const LONG_REQUEST: Duration = Duration::from_secs(1);

pub(crate) struct ResetBudget {
    remaining: u32,
    since: Instant,
}

impl ResetBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { remaining: MAX_RESETS, since: now }
    }

    /// A request was waited for.
    pub(crate) fn waited(&mut self) {
        self.remaining = MAX_RESETS.min(self.remaining + 1);
    }

    /// A request was left that had been there for so long.
    pub(crate) fn record_reset(&mut self, age: Duration, now: Instant) {
        let back = now.saturating_duration_since(self.since).as_millis() / REFILL_INTERVAL.as_millis();
        let back = u32::try_from(back).unwrap_or(MAX_RESETS);
        self.since += REFILL_INTERVAL * back;
        self.remaining = MAX_RESETS.min(self.remaining.saturating_add(back));
        if age < LONG_REQUEST {
            self.remaining = self.remaining.saturating_sub(1);
        }
    }

    /// Whether the last one is gone.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.remaining == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these can be left, one each `pause`.
    fn leave(leaves: &mut ResetBudget, count: u32, age: Duration, pause: Duration) -> u32 {
        let start = leaves.since;
        (0..count)
            .take_while(|turn| {
                leaves.record_reset(age, start + pause * *turn);
                !leaves.is_exhausted()
            })
            .count() as u32
    }

    #[test]
    fn who_leaves_all_at_once_is_soon_done() {
        let now = Instant::now();
        assert_eq!(leave(&mut ResetBudget::new(now), 1000, Duration::ZERO, Duration::ZERO), MAX_RESETS - 1);
        assert!(
            leave(&mut ResetBudget::new(now), 1000, Duration::ZERO, REFILL_INTERVAL / 2) < 2 * MAX_RESETS
        );
    }

    #[test]
    fn who_leaves_now_and_then_or_after_long_may_go_on() {
        let now = Instant::now();
        assert_eq!(leave(&mut ResetBudget::new(now), 1000, Duration::ZERO, REFILL_INTERVAL), 1000);
        assert_eq!(leave(&mut ResetBudget::new(now), 1000, LONG_REQUEST, Duration::ZERO), 1000);
        let mut leaves = ResetBudget::new(now);
        for _ in 0..1000 {
            leaves.waited();
            leaves.record_reset(Duration::ZERO, now);
        }
        assert!(!leaves.is_exhausted());
    }
}
