//! How many requests the client of an HTTP/2 connection may still abort before their responses. Resetting a
//! stream costs a client nothing and frees a slot for the next (CVE-2023-44487). But cancelling long calls
//! or closing streams is normal use.

use std::time::{Duration, Instant};

/// The base budget. Finished requests and elapsed time add to it.
const MAX_RESETS: u32 = 100;
/// The time after which one reset is added again.
const REFILL_INTERVAL: Duration = Duration::from_millis(100);
/// A request that is aborted after this time has cost its client something too.
const LONG_REQUEST: Duration = Duration::from_secs(1);

pub(crate) struct ResetBudget {
    remaining: u32,
    since: Instant,
}

impl ResetBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { remaining: MAX_RESETS, since: now }
    }

    /// The client waited for a response.
    pub(crate) fn waited(&mut self) {
        self.remaining = MAX_RESETS.min(self.remaining + 1);
    }

    /// The client aborted a request of this age.
    pub(crate) fn record_reset(&mut self, age: Duration, now: Instant) {
        let back = now.saturating_duration_since(self.since).as_millis() / REFILL_INTERVAL.as_millis();
        let back = u32::try_from(back).unwrap_or(MAX_RESETS);
        self.since += REFILL_INTERVAL * back;
        self.remaining = MAX_RESETS.min(self.remaining.saturating_add(back));
        if age < LONG_REQUEST {
            self.remaining = self.remaining.saturating_sub(1);
        }
    }

    /// Whether the budget is used up.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.remaining == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many such requests can be aborted, one each `pause`.
    fn count_resets(budget: &mut ResetBudget, count: u32, age: Duration, pause: Duration) -> u32 {
        let start = budget.since;
        (0..count)
            .take_while(|reset| {
                budget.record_reset(age, start + pause * *reset);
                !budget.is_exhausted()
            })
            .count() as u32
    }

    #[test]
    fn who_leaves_all_at_once_is_soon_done() {
        let now = Instant::now();
        assert_eq!(
            count_resets(&mut ResetBudget::new(now), 1000, Duration::ZERO, Duration::ZERO),
            MAX_RESETS - 1
        );
        assert!(
            count_resets(&mut ResetBudget::new(now), 1000, Duration::ZERO, REFILL_INTERVAL / 2)
                < 2 * MAX_RESETS
        );
    }

    #[test]
    fn who_leaves_now_and_then_or_after_long_may_go_on() {
        let now = Instant::now();
        assert_eq!(count_resets(&mut ResetBudget::new(now), 1000, Duration::ZERO, REFILL_INTERVAL), 1000);
        assert_eq!(count_resets(&mut ResetBudget::new(now), 1000, LONG_REQUEST, Duration::ZERO), 1000);
        let mut budget = ResetBudget::new(now);
        for _ in 0..1000 {
            budget.waited();
            budget.record_reset(Duration::ZERO, now);
        }
        assert!(!budget.is_exhausted());
    }
}
