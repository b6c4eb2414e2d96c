//! Room for another session when as many are open as may be: the caller that has most gives up some that it does not use.
//! Who opens sessions without end so takes the place of its own, and of nobody else's.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Session;
use super::table::Sessions;

/// Seconds since its last use after which a session may have to go; one that was never used may at once.
const IDLE: u64 = 60;

impl Sessions {
    /// Ends what the caller with the most sessions uses least; gives whether that was anything. It looks at all
    /// sessions, and so ends several at once.
    pub(super) fn make_room(&self) -> bool {
        // One look at a time; who comes meanwhile is refused.
        let Ok(_only) = self.room.try_lock() else { return false };
        let mut callers: HashMap<_, Vec<Arc<Session>>> = HashMap::new();
        for session in &self.open {
            let owner = &session.owner;
            let who = (owner.means, owner.issuer.clone(), owner.tenant.clone(), owner.user.clone());
            callers.entry(who).or_default().push(session.clone());
        }
        let Some(mut most) = callers.into_values().max_by_key(Vec::len) else { return false };
        let some = (most.len() / 8).max(1);
        let now = self.now();
        let oldest = now.saturating_sub(IDLE);
        most.retain(|session| session.is_idle(now) && (session.is_unused() || session.used() < oldest));
        most.sort_by_key(|session| (!session.is_unused(), session.used()));
        most.truncate(some);
        for session in &most {
            self.end(session);
        }
        !most.is_empty()
    }
}

impl Session {
    /// Nothing runs in it and nobody listens.
    pub(super) fn is_idle(&self, now: u64) -> bool {
        // A call may take longer than a session may be idle.
        !self.runs.any(now, None) && !self.outbox.is_open()
    }

    /// No message came in it since it was opened.
    fn is_unused(&self) -> bool {
        self.unused.load(Ordering::Relaxed)
    }

    fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use filters::Caller;
    use filters::call::Identity;
    use tokio::runtime::Handle;

    use super::*;
    use crate::telemetry::Metrics;

    const PATH: &str = "/mcp";

    fn open(sessions: &Sessions, owner: &Caller, max: usize) -> Option<Arc<Session>> {
        let none = Bytes::from_static(b"{}");
        sessions.open(owner.clone(), &Arc::from(PATH), "2025-11-25", none.clone(), none, max).ok()
    }

    fn caller(user: &str) -> Caller {
        Caller::new(Identity { user: user.to_owned(), ..Identity::default() })
    }

    #[tokio::test]
    async fn who_opens_sessions_without_end_takes_the_place_of_its_own() {
        let sessions = Sessions::new(Metrics::new(), Handle::current());
        let (good, greedy) = (caller("good"), caller("greedy"));
        let theirs: Vec<_> = (0..4).filter_map(|_| open(&sessions, &good, 20)).collect();
        let used = open(&sessions, &greedy, 20).expect("there is room");
        sessions.get(&used.id, PATH, &greedy).expect("it is there");
        for _ in 0..100 {
            open(&sessions, &greedy, 20).expect("it takes one of its own");
        }
        assert!(sessions.open.len() <= 20);
        for session in &theirs {
            assert!(sessions.get(&session.id, PATH, &good).is_some(), "others keep theirs, used or not");
        }
        assert!(sessions.get(&used.id, PATH, &greedy).is_some(), "and what is used stays");
        assert!(open(&sessions, &good, 20).is_some());
    }

    #[tokio::test]
    async fn what_is_in_use_is_not_taken() {
        let sessions = Sessions::new(Metrics::new(), Handle::current());
        let owner = caller("one");
        let all: Vec<_> = (0..4).filter_map(|_| open(&sessions, &owner, 4)).collect();
        for session in &all {
            sessions.get(&session.id, PATH, &owner).expect("it is there");
        }
        assert!(open(&sessions, &owner, 4).is_none(), "all were used just now");
        all[2].used.store(0, Ordering::Relaxed);
        all[3].used.store(0, Ordering::Relaxed);
        let _stream = all[3].attach(Duration::from_secs(1)).expect("somebody listens");
        assert!(open(&sessions, &owner, 4).is_none(), "a minute has not passed");
    }
}
