//! The health of one of several endpoints: the results of its checks and its calls (outlier ejection).
//!
//! An endpoint is *down* while its checks fail, and *ejected* for a growing time after calls failed in a row.
//! After its return it gets few calls at first (slow start). This module only keeps the state; `pool.rs` runs
//! the checks and logs.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How long the first ejection lasts; each that follows is twice as long.
const BASE_EJECTION: Duration = Duration::from_secs(5);
const MAX_EJECTION: Duration = Duration::from_secs(120);
/// The time after a return until an endpoint gets its full share.
const SLOW_START: Duration = Duration::from_secs(10);
/// A full share.
pub const FULL_WEIGHT: u64 = 1000;
/// The share of an endpoint at the moment of its return.
const INITIAL_WEIGHT: u64 = 100;

/// How a call failed at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointFault {
    /// No connection could be made. A check that passes proves the contrary.
    Connect,
    /// It broke off, was silent, or answered 502, 503 or 504.
    Response,
}

/// A change of the health of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthChange {
    /// Its checks failed.
    Down,
    /// Its calls failed; it is ejected for this long.
    Ejected(Duration),
    Back,
}

/// Times are milliseconds of the pool's clock, which starts above 0.
#[derive(Debug, Default)]
pub struct EndpointHealth {
    in_flight: AtomicU32,
    /// Calls that failed in a row.
    failed: AtomicU32,
    /// Checks that failed in a row.
    missed: AtomicU32,
    down: AtomicBool,
    /// It answered a check or a call at least once.
    ever_up: AtomicBool,
    /// Until when it is ejected; 0 if it is not, or a success has ended it.
    ejected: AtomicU64,
    /// The ejection was caused by calls without a response, which a check does not disprove.
    silent: AtomicBool,
    ejections: AtomicU32,
    /// Since when it is back; 0 if it was always available.
    back: AtomicU64,
}

impl EndpointHealth {
    pub fn begin_call(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub fn end_call(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it gets calls.
    pub fn is_eligible(&self, now: u64) -> bool {
        !self.down.load(Ordering::Relaxed) && self.ejected.load(Ordering::Relaxed) <= now
    }

    /// Whether its checks fail.
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// The part of a full share that it gets: 1 to [`FULL_WEIGHT`]; the full share if it is called although
    /// it is not eligible.
    pub fn weight(&self, now: u64) -> u64 {
        let back = self.back.load(Ordering::Relaxed);
        if back == 0 || !self.is_eligible(now) {
            return FULL_WEIGHT;
        }
        let (started, ramp) = (now.saturating_sub(back), SLOW_START.as_millis() as u64);
        (INITIAL_WEIGHT + started * (FULL_WEIGHT - INITIAL_WEIGHT) / ramp).min(FULL_WEIGHT)
    }

    /// A call was answered.
    pub fn call_succeeded(&self, now: u64) -> Option<HealthChange> {
        // Read first: on the path of every call, and nearly always 0.
        if self.failed.load(Ordering::Relaxed) != 0 {
            self.failed.store(0, Ordering::Relaxed);
        }
        if !self.ever_up.load(Ordering::Relaxed) {
            self.ever_up.store(true, Ordering::Relaxed);
        }
        self.readmit(now)
    }

    /// A call failed; `limit` in a row eject the endpoint, if `may_eject`.
    pub fn call_failed(
        &self,
        fault: EndpointFault,
        limit: u32,
        may_eject: bool,
        now: u64,
    ) -> Option<HealthChange> {
        let failed = self.failed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        // Calls that were in flight when it was ejected are no new evidence.
        if failed < limit || !may_eject || self.ejected.load(Ordering::Relaxed) > now {
            return None;
        }
        // After a long time without ejection the count restarts.
        let before = match self.back.load(Ordering::Relaxed) {
            back if back != 0 && now.saturating_sub(back) < MAX_EJECTION.as_millis() as u64 => {
                self.ejections.load(Ordering::Relaxed)
            }
            _ => 0,
        };
        self.ejections.store(before.saturating_add(1), Ordering::Relaxed);
        let rest = (BASE_EJECTION * 2u32.saturating_pow(before.min(10))).min(MAX_EJECTION);
        let until = now + rest.as_millis() as u64;
        self.silent.store(fault == EndpointFault::Response, Ordering::Relaxed);
        self.back.store(until, Ordering::Relaxed);
        self.ejected.store(until, Ordering::Relaxed);
        Some(HealthChange::Ejected(rest))
    }

    /// A check passed.
    pub fn check_passed(&self, now: u64) -> Option<HealthChange> {
        self.missed.store(0, Ordering::Relaxed);
        self.ever_up.store(true, Ordering::Relaxed);
        let was_down = self.down.swap(false, Ordering::Relaxed);
        if was_down {
            self.back.store(now, Ordering::Relaxed);
        }
        let lifted = !self.silent.load(Ordering::Relaxed) && self.readmit(now).is_some();
        (was_down || lifted).then_some(HealthChange::Back)
    }

    /// A check failed. `limit` in a row take the endpoint down, or the first one if it never worked.
    pub fn check_failed(&self, limit: u32) -> Option<HealthChange> {
        let missed = self.missed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if missed < limit && self.ever_up.load(Ordering::Relaxed) {
            return None;
        }
        (!self.down.swap(true, Ordering::Relaxed)).then_some(HealthChange::Down)
    }

    /// Ends an ejection.
    fn readmit(&self, now: u64) -> Option<HealthChange> {
        if self.ejected.load(Ordering::Relaxed) == 0 || self.ejected.swap(0, Ordering::Relaxed) == 0 {
            return None;
        }
        self.failed.store(0, Ordering::Relaxed);
        // It may have come back before its time.
        self.back.fetch_min(now, Ordering::Relaxed);
        Some(HealthChange::Back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ejected(health: &EndpointHealth, now: u64) -> Option<HealthChange> {
        health.call_failed(EndpointFault::Response, 3, true, now)
    }

    #[test]
    fn calls_that_fail_in_a_row_eject_for_a_time_that_grows() {
        let health = EndpointHealth::default();
        assert_eq!((ejected(&health, 1), ejected(&health, 1)), (None, None));
        health.call_succeeded(1);
        assert_eq!((ejected(&health, 1), ejected(&health, 1)), (None, None), "counted anew");
        assert_eq!(ejected(&health, 1), Some(HealthChange::Ejected(BASE_EJECTION)));
        assert!(!health.is_eligible(5000) && health.is_eligible(5001));
        assert_eq!(ejected(&health, 1), None, "it is out already");
        // Back on trial: one more is enough.
        assert_eq!(ejected(&health, 6000), Some(HealthChange::Ejected(BASE_EJECTION * 2)));
        assert_eq!(ejected(&health, 16_000), Some(HealthChange::Ejected(BASE_EJECTION * 4)));
        assert_eq!(health.call_succeeded(40_000), Some(HealthChange::Back));
        assert_eq!(health.call_succeeded(40_000), None);
        // Long after, the count restarts.
        for now in [400_000, 400_001] {
            assert_eq!(ejected(&health, now), None);
        }
        assert_eq!(ejected(&health, 400_002), Some(HealthChange::Ejected(BASE_EJECTION)));
    }

    #[test]
    fn one_that_must_not_be_ejected_stays() {
        let health = EndpointHealth::default();
        for _ in 0..10 {
            assert_eq!(health.call_failed(EndpointFault::Connect, 3, false, 1), None);
        }
        assert!(health.is_eligible(1));
    }

    #[test]
    fn checks_take_it_out_and_bring_it_back_with_a_small_share() {
        let health = EndpointHealth::default();
        assert_eq!(health.check_passed(1), None);
        assert_eq!((health.check_failed(2), health.is_eligible(1)), (None, true));
        assert_eq!((health.check_failed(2), health.is_eligible(1)), (Some(HealthChange::Down), false));
        assert_eq!((health.check_failed(2), health.weight(1)), (None, FULL_WEIGHT));
        assert_eq!((health.check_passed(1000), health.is_eligible(1000)), (Some(HealthChange::Back), true));
        assert_eq!(
            [health.weight(1000), health.weight(6000), health.weight(11_000)],
            [INITIAL_WEIGHT, 550, FULL_WEIGHT]
        );
        // An endpoint that never worked is down at once.
        assert_eq!(EndpointHealth::default().check_failed(3), Some(HealthChange::Down));
    }

    #[test]
    fn a_check_lifts_an_ejection_only_if_it_proves_the_contrary() {
        for (fault, lifted) in [(EndpointFault::Connect, true), (EndpointFault::Response, false)] {
            let health = EndpointHealth::default();
            assert!(health.call_failed(fault, 1, true, 1).is_some());
            assert_eq!(health.check_passed(2).is_some(), lifted, "{fault:?}");
            assert_eq!(
                (health.is_eligible(2), health.weight(2) == INITIAL_WEIGHT),
                (lifted, lifted),
                "{fault:?}"
            );
        }
    }
}
