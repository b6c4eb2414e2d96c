//! The circuit breaker of a server. After so many failures in a row no more calls are sent for a while, then
//! one probe at a time, to see whether the server works again.
//!
//! It only counts what is recorded; the callers decide what is a failure.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Breaker {
    /// Failures in a row that open it.
    failures: u32,
    open_for: Duration,
    started: Instant,
    failed: AtomicU32,
    /// Milliseconds from `started` to when it opened, plus one; 0 while it is closed.
    opened: AtomicU64,
    /// The same of when the last probe was sent; 0 while none is.
    probing: AtomicU64,
}

/// How a call is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Normal,
    /// A probe. Its holder records the result, or releases it by this number.
    Probe(u64),
}

impl Breaker {
    pub fn new(failures: u32, open_for: Duration) -> Self {
        Self {
            failures,
            open_for,
            started: Instant::now(),
            failed: AtomicU32::new(0),
            opened: AtomicU64::new(0),
            probing: AtomicU64::new(0),
        }
    }

    /// Admits a call, or returns how long it is until the next one is admitted.
    pub fn admit(&self) -> Result<Admission, Duration> {
        let Some(open) = self.open_since() else { return Ok(Admission::Normal) };
        let wait = self.open_for.saturating_sub(open);
        if !wait.is_zero() {
            return Err(wait);
        }
        let (now, out) = (self.now() + 1, self.probing.load(Ordering::Acquire));
        // One is in flight already. Its duration is unknown, so that another follows after a while.
        let late = Duration::from_millis(now.saturating_sub(out)) > self.open_for;
        let is_probe = (out == 0 || late)
            && self.probing.compare_exchange(out, now, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if is_probe { Ok(Admission::Probe(now)) } else { Err(Duration::from_secs(1).min(self.open_for)) }
    }

    /// Records the result of a call; returns whether that opened or closed the circuit.
    pub fn record(&self, worked: bool) -> Option<BreakerState> {
        if worked {
            self.failed.store(0, Ordering::Relaxed);
            let was_open = self.opened.swap(0, Ordering::AcqRel) != 0;
            self.probing.store(0, Ordering::Release);
            return was_open.then_some(BreakerState::Closed);
        }
        let failed = self.failed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let tried = self.probing.load(Ordering::Acquire) != 0;
        // Calls that began before it opened are no evidence of the current state.
        if self.open_since().is_some() && !tried {
            return None;
        }
        if failed < self.failures {
            return None;
        }
        let was = self.opened.swap(self.now() + 1, Ordering::AcqRel);
        self.probing.store(0, Ordering::Release);
        (was == 0).then_some(BreakerState::Open)
    }

    /// A probe ended without a result.
    pub fn release_probe(&self, probe: u64) {
        // Another may be in flight by now.
        let _ = self.probing.compare_exchange(probe, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    fn open_since(&self) -> Option<Duration> {
        let opened = self.opened.load(Ordering::Acquire);
        (opened != 0).then(|| Duration::from_millis(self.now().saturating_sub(opened - 1)))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    Open,
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_and_one_probe_closes_it() {
        let breaker = Breaker::new(3, Duration::from_millis(1));
        let probe = || loop {
            match breaker.admit() {
                Ok(Admission::Probe(number)) => return number,
                Ok(Admission::Normal) => panic!("it is closed"),
                Err(_) => std::thread::yield_now(),
            }
        };
        assert_eq!(breaker.record(false), None);
        assert_eq!(breaker.record(false), None);
        // A success between them restarts the count.
        assert_eq!(breaker.record(true), None);
        assert_eq!((breaker.record(false), breaker.record(false)), (None, None));
        assert_eq!(breaker.admit(), Ok(Admission::Normal));
        assert_eq!(breaker.record(false), Some(BreakerState::Open));
        probe();
        // It failed: open again, and the next one may try.
        assert_eq!(breaker.record(false), None);
        let first = probe();
        breaker.release_probe(first);
        // One that takes long does not keep others from trying.
        let (second, third) = (probe(), probe());
        breaker.release_probe(second);
        assert_eq!(breaker.probing.load(Ordering::Relaxed), third, "that is another's");
        assert_eq!(breaker.record(true), Some(BreakerState::Closed));
        assert_eq!(breaker.admit(), Ok(Admission::Normal));
    }

    #[test]
    fn one_probe_goes_out_at_a_time() {
        const OPEN: Duration = Duration::from_millis(50);
        // Repeated if the machine takes so long between two lines that another probe is due.
        for _ in 0..100 {
            let breaker = Breaker::new(1, OPEN);
            assert_eq!(breaker.record(false), Some(BreakerState::Open));
            std::thread::sleep(OPEN * 2);
            let sent = Instant::now();
            let (first, second) = (breaker.admit(), breaker.admit());
            assert!(matches!(first, Ok(Admission::Probe(_))));
            if sent.elapsed() < OPEN {
                return assert!(second.is_err(), "{second:?}");
            }
        }
        panic!("no two looks came close enough to each other");
    }

    #[test]
    fn while_it_is_open_nothing_passes_and_late_failures_do_not_count() {
        let breaker = Breaker::new(1, Duration::from_secs(3600));
        assert_eq!(breaker.record(false), Some(BreakerState::Open));
        let wait = breaker.admit().expect_err("open");
        assert!(wait <= Duration::from_secs(3600) && wait > Duration::from_secs(3590));
        assert_eq!(breaker.record(false), None);
        assert_eq!(breaker.record(true), Some(BreakerState::Closed));
    }
}
