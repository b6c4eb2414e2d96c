//! The limits of sessions, their owners, and which of an owner's sessions are used least.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use filters::Caller;
use filters::rate_limit::subnet;
use filters::request::AuthMethod;
use mcp::{Reason, Rejection};

use super::Session;

/// Seconds after the last use until a session may be evicted; one that was never used may be at once.
pub(super) const MIN_IDLE_SECS: u64 = 60;

/// How many sessions may be open.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    pub total: usize,
    /// Of one caller.
    pub per_caller: usize,
}

impl SessionLimits {
    pub const UNLIMITED: Self = Self { total: usize::MAX, per_caller: usize::MAX };
}

/// Why none was opened.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooManySessions {
    #[error("as many sessions are open as limits.max_sessions allows ({0})")]
    Total(usize),
    #[error(
        "you have as many sessions as limits.max_sessions_per_caller allows ({most}), all in use: end some (DELETE), or wait"
    )]
    PerCaller { most: usize, wait: Duration },
}

impl TooManySessions {
    /// The rejection of the request that needs a session.
    pub fn rejection(&self) -> Rejection {
        match self {
            Self::Total(_) => Rejection::http(503, Reason::TooManySessions, self.to_string()),
            Self::PerCaller { wait, .. } => {
                Rejection::http(429, Reason::TooManySessionsOfCaller, self.to_string()).retry_after(*wait)
            }
        }
    }
}

/// The caller whose sessions are counted together; for anonymous callers those of one address (of IPv6 one
/// /64).
#[derive(Clone, Debug)]
pub struct OwnerKey {
    owner: Caller,
    from: Option<IpAddr>,
}

impl OwnerKey {
    pub fn new(owner: Caller, from: Option<IpAddr>) -> Self {
        let from = from.filter(|_| owner.auth_method == AuthMethod::Anonymous).map(subnet);
        Self { owner, from }
    }

    /// A number for it, which only this process knows.
    pub(super) fn number(&self) -> u64 {
        static STATE: OnceLock<RandomState> = OnceLock::new();
        STATE.get_or_init(RandomState::new).hash_one(self)
    }

    pub(super) fn owner(&self) -> &Caller {
        &self.owner
    }
}

impl PartialEq for OwnerKey {
    fn eq(&self, other: &Self) -> bool {
        self.from == other.from && self.owner.same_principal(&other.owner)
    }
}

impl Eq for OwnerKey {}

impl Hash for OwnerKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let owner = &self.owner;
        (owner.auth_method, &owner.issuer, &owner.tenant, &owner.user, self.from).hash(state);
    }
}

/// The sessions of one owner, by their addresses in memory.
#[derive(Default)]
pub(super) struct OwnerSessions {
    pub(super) sessions: HashMap<usize, Arc<Session>>,
    /// When nothing was found to evict, and how long that stays so: a search costs more than a rejection.
    pub(super) last_search: Option<(u64, Duration)>,
}

impl OwnerSessions {
    /// Removes the least used sessions; none if all are in use.
    pub(super) fn release(&mut self, now: u64) -> Vec<Arc<Session>> {
        let some = (self.sessions.len() / 8).max(1);
        let oldest = now.saturating_sub(MIN_IDLE_SECS);
        let may_go = |session: &&Arc<Session>| {
            session.is_idle(now) && (session.is_unused() || session.used() < oldest)
        };
        let mut least: Vec<_> = self.sessions.values().filter(may_go).cloned().collect();
        least.sort_by_key(|session| (!session.is_unused(), session.used()));
        least.truncate(some);
        for session in &least {
            self.sessions.remove(&place(session));
        }
        least
    }

    /// Time until one of them may be evicted, if nothing uses it.
    pub(super) fn wait(&self, now: u64) -> Duration {
        let oldest = self.sessions.values().map(|session| session.used()).min().unwrap_or(now);
        Duration::from_secs((oldest + MIN_IDLE_SECS + 1).saturating_sub(now).clamp(1, MIN_IDLE_SECS))
    }
}

pub(super) fn place(session: &Arc<Session>) -> usize {
    Arc::as_ptr(session) as usize
}

impl Session {
    /// No request is in flight and no stream is open.
    pub(super) fn is_idle(&self, now: u64) -> bool {
        // A call may take longer than a session may be idle.
        !self.in_flight.any(now, None) && !self.outbox.is_open()
    }

    /// No message came in it since it was opened.
    fn is_unused(&self) -> bool {
        self.unused.load(Ordering::Relaxed)
    }

    fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}
