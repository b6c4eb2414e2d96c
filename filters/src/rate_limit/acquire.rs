//! Taking from all budgets of a call, or from none.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use smallvec::SmallVec;

use super::algorithms::{Kind, Meter, release};
use super::key::{Digest128, KeyPart, Spelled, Subject};
use super::messages;
use super::rule::Limit;
use super::store::Counters;
use mcp::rejection::Refusal;

/// What a call wants. More than eight rules (or roles) at once are allowed and cost an allocation.
pub(super) type Wants<'a> = SmallVec<[Want<'a>; 8]>;

/// One call from one budget.
#[derive(Clone, Copy)]
pub(super) struct Want<'a> {
    pub limit: &'a Limit,
    pub role: &'a str,
    pub key: u128,
}

impl Want<'_> {
    pub fn is_slot(&self) -> bool {
        matches!(self.limit.meter, Meter::Slots(_))
    }

    /// Takes one; gives the key under which it was counted, and what giving it back needs.
    fn take(&self, counters: &Counters) -> Result<(u128, u64), Duration> {
        let meter = &self.limit.meter;
        counters.with(meter.kind(), self.key, self.limit.crowd, |key, state| {
            meter.take(state, counters.clock()).map(|taken| (key, taken))
        })
    }

    fn wait(&self, counters: &Counters) -> Duration {
        counters.known(self.key, |state| self.limit.meter.wait(state, counters.clock())).unwrap_or_default()
    }

    /// The key for a shared store.
    pub fn spell(&self, subject: &Subject<'_>) -> String {
        let mut to = Spelled::new(self.limit.meter.kind().word(), &self.limit.rule.name);
        for part in &self.limit.rule.key {
            subject.write(*part, self.role, &mut to);
        }
        to.finish()
    }
}

/// Everything that the limits want of a call, in the order of the rules.
pub(super) fn wants<'a>(limits: &'a [Limit], subject: &Subject<'a>, counters: &Counters) -> Wants<'a> {
    // Most rules have the user in their key, whose name may be long: it is hashed once.
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
    let mut wants = Wants::new();
    for limit in limits.iter().filter(|limit| limit.counts(subject)) {
        let before = wants.len();
        if limit.per_role {
            wants.extend(limit.roles(subject).map(|role| Want { limit, role, key: hash(limit, role) }));
        }
        if wants.len() == before {
            wants.push(Want { limit, role: "", key: hash(limit, "") });
        }
    }
    wants
}

/// Takes from the counters of this process.
pub(super) fn local(counters: &Arc<Counters>, wants: &[Want<'_>]) -> Result<Held, Box<Refusal>> {
    let mut held = Held::default();
    let mut taken = SmallVec::<[(u128, u64); 8]>::new();
    for (at, want) in wants.iter().enumerate() {
        match want.take(counters) {
            Ok((key, _)) if want.is_slot() => held.hold(counters, key),
            Ok(took) => taken.push(took),
            Err(wait) => {
                give_back(counters, &wants[..at], &taken);
                let later = wants[at + 1..].iter().map(|want| (want, want.wait(counters)));
                let (want, wait) = later.fold((want, wait), longer);
                return Err(messages::refusal(&want.limit.rule, wait));
            }
        }
    }
    Ok(held)
}

/// That which keeps the call away for longer; of two, the one that comes first in the configuration.
fn longer<'w, 'a>(
    one: (&'w Want<'a>, Duration),
    other: (&'w Want<'a>, Duration),
) -> (&'w Want<'a>, Duration) {
    if other.1 > one.1 { other } else { one }
}

fn give_back(counters: &Counters, wants: &[Want<'_>], taken: &[(u128, u64)]) {
    for (want, (key, taken)) in wants.iter().filter(|want| !want.is_slot()).zip(taken) {
        // A state that is not there any more said nothing any more.
        counters.known(*key, |state| want.limit.meter.give_back(state, *taken, counters.clock()));
    }
}

/// Slots of `concurrent` limits; they are free again when this is dropped.
#[derive(Default)]
#[must_use = "the slots are free again when this is dropped"]
pub struct Held {
    /// None where there are no slots, so that most calls touch no shared count.
    counters: Option<Arc<Counters>>,
    keys: SmallVec<[u128; 2]>,
}

impl Held {
    /// How many slots.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn hold(&mut self, counters: &Arc<Counters>, key: u128) {
        self.counters.get_or_insert_with(|| counters.clone());
        self.keys.push(key);
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Held({})", self.keys.len())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(counters) = &self.counters else { return };
        for key in &self.keys {
            // It is there: a state that counts a slot is not idle.
            counters.known(*key, release);
        }
    }
}

/// Longer waits are not remembered: an operator who resets a count in the store wants it to be so at once.
const MAX_SHUT: Duration = Duration::from_secs(10);

/// A moment before which the shared store is known to refuse, kept like a budget.
pub(super) struct Shut(u128);

impl Shut {
    /// Made of the budget too: with other numbers the store may say something else.
    pub fn of(want: &Want<'_>, counters: &Counters) -> Self {
        Self(counters.hash(|to| {
            to.number(want.key);
            want.limit.meter.write(to);
        }))
    }

    /// How much longer, if it is.
    pub fn wait(&self, counters: &Counters, now: u64) -> Option<Duration> {
        let until = counters.known(self.0, |state| state.load(Ordering::Relaxed))?;
        until.checked_sub(now).filter(|left| *left > 0).map(Duration::from_nanos)
    }

    pub fn set(&self, counters: &Counters, asked: u64, wait: Duration) {
        if wait > MAX_SHUT {
            return;
        }
        let until = asked.saturating_add(wait.as_nanos() as u64);
        counters.remember(Kind::Shut, self.0, until);
    }
}
