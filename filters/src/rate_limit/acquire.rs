//! Acquires from all budgets of a call, or from none.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use smallvec::SmallVec;

use super::algorithms::{Limiter, LimiterKind, release};
use super::key::{Digest128, KeyPart, StoreKey, Subject};
use super::messages;
use super::rule::Limit;
use super::store::Counters;
use mcp::rejection::Rejection;

/// The acquisitions of a call. More than eight rules (or roles) at once are allowed and cost an allocation.
pub(super) type Acquisitions<'a> = SmallVec<[Acquisition<'a>; 8]>;

/// One call from one budget.
#[derive(Clone, Copy)]
pub(super) struct Acquisition<'a> {
    pub limit: &'a Limit,
    pub role: &'a str,
    pub key: u128,
}

impl Acquisition<'_> {
    pub fn is_slot(&self) -> bool {
        matches!(self.limit.limiter, Limiter::Slots(_))
    }

    /// Acquires one; returns the key of its counter, and the value needed to release it.
    fn take(&self, counters: &Counters) -> Result<(u128, u64), Duration> {
        let limiter = &self.limit.limiter;
        counters.with_state(limiter.kind(), self.key, self.limit.overflow, |key, state| {
            limiter.take(state, counters.clock()).map(|taken| (key, taken))
        })
    }

    fn wait(&self, counters: &Counters) -> Duration {
        counters
            .with_existing(self.key, |state| self.limit.limiter.wait(state, counters.clock()))
            .unwrap_or_default()
    }

    /// The key for a shared store.
    pub fn store_key(&self, subject: &Subject<'_>) -> String {
        let mut to = StoreKey::new(self.limit.limiter.kind().as_str(), &self.limit.rule.name);
        for part in &self.limit.rule.key {
            subject.write(*part, self.role, &mut to);
        }
        to.finish()
    }
}

/// All acquisitions of a call, in the order of the rules.
pub(super) fn acquisitions<'a>(
    limits: &'a [Limit],
    subject: &Subject<'a>,
    counters: &Counters,
) -> Acquisitions<'a> {
    // Most rules have the user in their key. Its name may be long, so it is hashed only once.
    let mut user = None;
    let mut hash = |limit: &Limit, role: &str| {
        counters.hash(|to: &mut Digest128| {
            to.number(limit.seed);
            for part in &limit.rule.key {
                match part {
                    KeyPart::User => to.number(*user.get_or_insert_with(|| {
                        counters.hash(|to: &mut Digest128| subject.write(KeyPart::User, "", to))
                    })),
                    part => subject.write(*part, role, to),
                }
            }
        })
    };
    let mut acquisitions = Acquisitions::new();
    for limit in limits.iter().filter(|limit| limit.counts(subject)) {
        let before = acquisitions.len();
        if limit.per_role {
            acquisitions.extend(limit.roles(subject).map(|role| Acquisition {
                limit,
                role,
                key: hash(limit, role),
            }));
        }
        if acquisitions.len() == before {
            acquisitions.push(Acquisition { limit, role: "", key: hash(limit, "") });
        }
    }
    acquisitions
}

/// Acquires from the counters of this process.
pub(super) fn acquire_local(
    counters: &Arc<Counters>,
    acquisitions: &[Acquisition<'_>],
) -> Result<Slots, Box<Rejection>> {
    let mut slots = Slots::default();
    let mut taken = SmallVec::<[(u128, u64); 8]>::new();
    for (at, acquisition) in acquisitions.iter().enumerate() {
        match acquisition.take(counters) {
            Ok((key, _)) if acquisition.is_slot() => slots.add(counters, key),
            Ok(took) => taken.push(took),
            Err(wait) => {
                undo(counters, &acquisitions[..at], &taken);
                let later = acquisitions[at + 1..]
                    .iter()
                    .map(|acquisition| (acquisition, acquisition.wait(counters)));
                let (acquisition, wait) = later.fold((acquisition, wait), longer_wait);
                return Err(messages::limit_reached(&acquisition.limit.rule, wait));
            }
        }
    }
    Ok(slots)
}

/// The denial with the longest wait; of two equal ones, the first in the configuration.
fn longer_wait<'w, 'a>(
    one: (&'w Acquisition<'a>, Duration),
    other: (&'w Acquisition<'a>, Duration),
) -> (&'w Acquisition<'a>, Duration) {
    if other.1 > one.1 { other } else { one }
}

fn undo(counters: &Counters, acquisitions: &[Acquisition<'_>], taken: &[(u128, u64)]) {
    for (acquisition, (key, taken)) in
        acquisitions.iter().filter(|acquisition| !acquisition.is_slot()).zip(taken)
    {
        // A dropped state had no effect any more.
        counters.with_existing(*key, |state| acquisition.limit.limiter.undo(state, *taken, counters.clock()));
    }
}

/// Slots of `concurrent` limits; they are free again when this is dropped.
#[derive(Default)]
#[must_use = "the slots are free again when this is dropped"]
pub struct Slots {
    /// `None` without slots, so that most calls touch no shared count.
    counters: Option<Arc<Counters>>,
    keys: SmallVec<[u128; 2]>,
}

impl Slots {
    /// How many slots.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn add(&mut self, counters: &Arc<Counters>, key: u128) {
        self.counters.get_or_insert_with(|| counters.clone());
        self.keys.push(key);
    }
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Held({})", self.keys.len())
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        let Some(counters) = &self.counters else { return };
        for key in &self.keys {
            // It is there: a state that counts a slot is not idle.
            counters.with_existing(*key, release);
        }
    }
}

/// Longer waits are not cached: a reset of a count in the store must take effect at once.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// A moment until which the shared store is known to deny, stored like a budget.
pub(super) struct StoreBackoff(u128);

impl StoreBackoff {
    /// The budget is part of the key: with other numbers the store may decide otherwise.
    pub fn of(acquisition: &Acquisition<'_>, counters: &Counters) -> Self {
        Self(counters.hash(|to| {
            to.number(acquisition.key);
            acquisition.limit.limiter.write(to);
        }))
    }

    /// How much longer, if it is.
    pub fn wait(&self, counters: &Counters, now: u64) -> Option<Duration> {
        let until = counters.with_existing(self.0, |state| state.load(Ordering::Relaxed))?;
        until.checked_sub(now).filter(|left| *left > 0).map(Duration::from_nanos)
    }

    pub fn set(&self, counters: &Counters, asked: u64, wait: Duration) {
        if wait > MAX_BACKOFF {
            return;
        }
        let until = asked.saturating_add(wait.as_nanos() as u64);
        counters.remember(LimiterKind::Backoff, self.0, until);
    }
}
