//! How many requests the client of a connection of HTTP/2 may still leave before their answers. Resetting a stream costs
//! a client nothing, and makes room for the next (CVE-2023-44487); but whoever stops calls that take long, or closes
//! streams, means no harm.

use std::time::{Duration, Instant};

/// As many, beside those that it has waited for and those that come back with time.
const MOST: u32 = 100;
/// How long it takes until one comes back.
const BACK: Duration = Duration::from_millis(100);
/// A request that is left after this time has cost its client something too.
const LONG: Duration = Duration::from_secs(1);

pub(crate) struct Leaves {
    left: u32,
    since: Instant,
}

impl Leaves {
    pub(crate) fn new(now: Instant) -> Self {
        Self { left: MOST, since: now }
    }

    /// A request was waited for.
    pub(crate) fn waited(&mut self) {
        self.left = MOST.min(self.left + 1);
    }

    /// A request was left that had been there for so long.
    pub(crate) fn left(&mut self, age: Duration, now: Instant) {
        let back = now.saturating_duration_since(self.since).as_millis() / BACK.as_millis();
        let back = u32::try_from(back).unwrap_or(MOST);
        self.since += BACK * back;
        self.left = MOST.min(self.left.saturating_add(back));
        if age < LONG {
            self.left = self.left.saturating_sub(1);
        }
    }

    /// Whether the last one is gone.
    pub(crate) fn are_gone(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these can be left, one each `pause`.
    fn leave(leaves: &mut Leaves, count: u32, age: Duration, pause: Duration) -> u32 {
        let start = leaves.since;
        (0..count)
            .take_while(|turn| {
                leaves.left(age, start + pause * *turn);
                !leaves.are_gone()
            })
            .count() as u32
    }

    #[test]
    fn who_leaves_all_at_once_is_soon_done() {
        let now = Instant::now();
        assert_eq!(leave(&mut Leaves::new(now), 1000, Duration::ZERO, Duration::ZERO), MOST - 1);
        assert!(leave(&mut Leaves::new(now), 1000, Duration::ZERO, BACK / 2) < 2 * MOST);
    }

    #[test]
    fn who_leaves_now_and_then_or_after_long_may_go_on() {
        let now = Instant::now();
        assert_eq!(leave(&mut Leaves::new(now), 1000, Duration::ZERO, BACK), 1000);
        assert_eq!(leave(&mut Leaves::new(now), 1000, LONG, Duration::ZERO), 1000);
        let mut leaves = Leaves::new(now);
        for _ in 0..1000 {
            leaves.waited();
            leaves.left(Duration::ZERO, now);
        }
        assert!(!leaves.are_gone());
    }
}
