//! The clock as a trait, so that tests can set it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub trait Clock: Send + Sync {
    /// Nanoseconds since some moment in the past; monotonic.
    fn nanos(&self) -> u64;

    /// Time since 1970 (UTC), for windows that begin at midnight. May be set by hand, and backwards.
    fn unix(&self) -> Duration;
}

/// The clocks of the machine.
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn nanos(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn unix(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}
