//! How one of several endpoints is doing, by what its checks and its calls say.
//!
//! An endpoint is *down* while its checks fail, and *ejected* for a time that grows after calls failed in a row. One
//! that comes back gets few calls at first. It only keeps count: who asks and who logs is `pool.rs`.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How long the first ejection lasts; each that follows is twice as long.
const EJECTION: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(120);
/// The time in which one that came back gets its full share.
const RAMP: Duration = Duration::from_secs(10);
/// A full share.
pub const WHOLE: u64 = 1000;
/// The share that one has at the moment of its return.
const FIRST: u64 = 100;

/// What a call says of an endpoint that it could not be answered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No connection could be made. A check that passes proves the contrary.
    Connect,
    /// It broke off, was silent, or said that it cannot (502, 503, 504).
    Answer,
}

/// News of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Its checks failed.
    Down,
    /// Its calls failed; for so long.
    Ejected(Duration),
    Back,
}

/// Times are milliseconds of the pool's clock, which starts above 0.
#[derive(Debug, Default)]
pub struct Vitals {
    in_flight: AtomicU32,
    /// Calls that failed in a row.
    failed: AtomicU32,
    /// Checks that failed in a row.
    missed: AtomicU32,
    down: AtomicBool,
    /// It answered a check or a call at least once.
    met: AtomicBool,
    /// Until when it is ejected; 0 if it is not, or a success has ended it.
    ejected: AtomicU64,
    /// The ejection came of calls that were not answered, which a check does not prove wrong.
    silent: AtomicBool,
    ejections: AtomicU32,
    /// Since when it is back; 0 if it never was away.
    back: AtomicU64,
}

impl Vitals {
    pub fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub fn exit(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it gets calls.
    pub fn is_in(&self, now: u64) -> bool {
        !self.down.load(Ordering::Relaxed) && self.ejected.load(Ordering::Relaxed) <= now
    }

    /// Whether its checks fail.
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// The part of a full share that it gets: 1 to [`WHOLE`]; the whole of it where it is called although it is out.
    pub fn share(&self, now: u64) -> u64 {
        let back = self.back.load(Ordering::Relaxed);
        if back == 0 || !self.is_in(now) {
            return WHOLE;
        }
        let (since, ramp) = (now.saturating_sub(back), RAMP.as_millis() as u64);
        (FIRST + since * (WHOLE - FIRST) / ramp).min(WHOLE)
    }

    /// A call was answered.
    pub fn answered(&self, now: u64) -> Option<News> {
        // Read first: on the path of every call, and nearly always 0.
        if self.failed.load(Ordering::Relaxed) != 0 {
            self.failed.store(0, Ordering::Relaxed);
        }
        if !self.met.load(Ordering::Relaxed) {
            self.met.store(true, Ordering::Relaxed);
        }
        self.let_in(now)
    }

    /// A call failed; `limit` in a row eject, if `may_eject`.
    pub fn failed(&self, fault: Fault, limit: u32, may_eject: bool, now: u64) -> Option<News> {
        let failed = self.failed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        // Calls that were under way when it was ejected say nothing new.
        if failed < limit || !may_eject || self.ejected.load(Ordering::Relaxed) > now {
            return None;
        }
        // One that has held out for long is forgiven what was before.
        let before = match self.back.load(Ordering::Relaxed) {
            back if back != 0 && now.saturating_sub(back) < LONGEST.as_millis() as u64 => {
                self.ejections.load(Ordering::Relaxed)
            }
            _ => 0,
        };
        self.ejections.store(before.saturating_add(1), Ordering::Relaxed);
        let rest = (EJECTION * 2u32.saturating_pow(before.min(10))).min(LONGEST);
        let until = now + rest.as_millis() as u64;
        self.silent.store(fault == Fault::Answer, Ordering::Relaxed);
        self.back.store(until, Ordering::Relaxed);
        self.ejected.store(until, Ordering::Relaxed);
        Some(News::Ejected(rest))
    }

    /// A check passed.
    pub fn passed(&self, now: u64) -> Option<News> {
        self.missed.store(0, Ordering::Relaxed);
        self.met.store(true, Ordering::Relaxed);
        let was_down = self.down.swap(false, Ordering::Relaxed);
        if was_down {
            self.back.store(now, Ordering::Relaxed);
        }
        let lifted = !self.silent.load(Ordering::Relaxed) && self.let_in(now).is_some();
        (was_down || lifted).then_some(News::Back)
    }

    /// A check failed; `limit` in a row take it out, or the first one if it never worked.
    pub fn missed(&self, limit: u32) -> Option<News> {
        let missed = self.missed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if missed < limit && self.met.load(Ordering::Relaxed) {
            return None;
        }
        (!self.down.swap(true, Ordering::Relaxed)).then_some(News::Down)
    }

    /// Ends an ejection.
    fn let_in(&self, now: u64) -> Option<News> {
        if self.ejected.load(Ordering::Relaxed) == 0 || self.ejected.swap(0, Ordering::Relaxed) == 0 {
            return None;
        }
        self.failed.store(0, Ordering::Relaxed);
        // It may have come back before its time.
        self.back.fetch_min(now, Ordering::Relaxed);
        Some(News::Back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ejected(vitals: &Vitals, now: u64) -> Option<News> {
        vitals.failed(Fault::Answer, 3, true, now)
    }

    #[test]
    fn calls_that_fail_in_a_row_eject_for_a_time_that_grows() {
        let vitals = Vitals::default();
        assert_eq!((ejected(&vitals, 1), ejected(&vitals, 1)), (None, None));
        vitals.answered(1);
        assert_eq!((ejected(&vitals, 1), ejected(&vitals, 1)), (None, None), "counted anew");
        assert_eq!(ejected(&vitals, 1), Some(News::Ejected(EJECTION)));
        assert!(!vitals.is_in(5000) && vitals.is_in(5001));
        assert_eq!(ejected(&vitals, 1), None, "it is out already");
        // Back on trial: one more is enough.
        assert_eq!(ejected(&vitals, 6000), Some(News::Ejected(EJECTION * 2)));
        assert_eq!(ejected(&vitals, 16_000), Some(News::Ejected(EJECTION * 4)));
        assert_eq!(vitals.answered(40_000), Some(News::Back));
        assert_eq!(vitals.answered(40_000), None);
        // Long after, it begins anew.
        for now in [400_000, 400_001] {
            assert_eq!(ejected(&vitals, now), None);
        }
        assert_eq!(ejected(&vitals, 400_002), Some(News::Ejected(EJECTION)));
    }

    #[test]
    fn one_that_must_not_be_ejected_stays() {
        let vitals = Vitals::default();
        for _ in 0..10 {
            assert_eq!(vitals.failed(Fault::Connect, 3, false, 1), None);
        }
        assert!(vitals.is_in(1));
    }

    #[test]
    fn checks_take_it_out_and_bring_it_back_with_a_small_share() {
        let vitals = Vitals::default();
        assert_eq!(vitals.passed(1), None);
        assert_eq!((vitals.missed(2), vitals.is_in(1)), (None, true));
        assert_eq!((vitals.missed(2), vitals.is_in(1)), (Some(News::Down), false));
        assert_eq!((vitals.missed(2), vitals.share(1)), (None, WHOLE));
        assert_eq!((vitals.passed(1000), vitals.is_in(1000)), (Some(News::Back), true));
        assert_eq!([vitals.share(1000), vitals.share(6000), vitals.share(11_000)], [FIRST, 550, WHOLE]);
        // One that never worked is out at once.
        assert_eq!(Vitals::default().missed(3), Some(News::Down));
    }

    #[test]
    fn a_check_lifts_an_ejection_only_if_it_proves_the_contrary() {
        for (fault, lifted) in [(Fault::Connect, true), (Fault::Answer, false)] {
            let vitals = Vitals::default();
            assert!(vitals.failed(fault, 1, true, 1).is_some());
            assert_eq!(vitals.passed(2).is_some(), lifted, "{fault:?}");
            assert_eq!((vitals.is_in(2), vitals.share(2) == FIRST), (lifted, lifted), "{fault:?}");
        }
    }
}
