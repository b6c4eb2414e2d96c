//! Evicts idle sessions for a new one. Each caller has a share of all sessions. When that share or the total
//! is used up, the caller with the most sessions loses some that it does not use; if it uses all, the next one does
//! that has at least as many as the newcomer. A caller that opens sessions without end so evicts its own, and none of a
//! caller with fewer, even if it uses them all.

use std::sync::Arc;

use dashmap::Entry;

use super::Session;
use super::manager::SessionManager;
use super::session_limits::{OwnerKey, TooManySessions, place};

impl SessionManager {
    /// Counts a session for its owner; evicts others of the same owner if necessary.
    pub(super) fn acquire_share(&self, session: &Arc<Session>, each: usize) -> Result<(), TooManySessions> {
        let now = self.now();
        let mut held = self.by_owner.entry(session.owner_key.clone()).or_default();
        let mut gone = Vec::new();
        if held.sessions.len() >= each {
            let refused = |wait| TooManySessions::PerCaller { most: each, wait };
            if let Some((_, wait)) = held.last_search.filter(|(second, _)| *second == now) {
                return Err(refused(wait));
            }
            gone = held.release(now);
            if held.sessions.len() >= each {
                let wait = held.wait(now);
                held.last_search = Some((now, wait));
                return Err(refused(wait));
            }
        }
        held.sessions.insert(place(session), session.clone());
        drop(held);
        for session in gone {
            self.end(&session);
        }
        Ok(())
    }

    pub(super) fn release_share(&self, session: &Arc<Session>) {
        if let Entry::Occupied(mut held) = self.by_owner.entry(session.owner_key.clone()) {
            held.get_mut().sessions.remove(&place(session));
            if held.get().sessions.is_empty() {
                held.remove();
            }
        }
    }

    /// Ends the least used sessions of the caller with the most that has some, for a session of this newcomer;
    /// returns whether there were any. It scans all callers, and so ends several at once.
    pub(super) fn evict_idle(&self, newcomer: &OwnerKey) -> bool {
        // One scan at a time; a caller that comes meanwhile is rejected.
        let Ok(mut fruitless) = self.eviction.try_lock() else { return false };
        let now = self.now();
        let largest =
            self.by_owner.iter().max_by_key(|held| held.sessions.len()).map(|held| held.key().clone());
        let mut gone = largest.map(|largest| self.release_of(&largest, now)).unwrap_or_default();
        // A whole search costs more than a rejection.
        if gone.is_empty() && *fruitless != Some(now) {
            let own = self.by_owner.get(newcomer).map_or(0, |held| held.sessions.len());
            let mut others: Vec<(usize, OwnerKey)> = self
                .by_owner
                .iter()
                .filter(|held| held.sessions.len() >= own)
                .map(|held| (held.sessions.len(), held.key().clone()))
                .collect();
            others.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
            let released = others.iter().map(|(_, owner_key)| self.release_of(owner_key, now));
            match released.into_iter().find(|gone| !gone.is_empty()) {
                Some(found) => gone = found,
                None => *fruitless = Some(now),
            }
        }
        drop(fruitless);
        for session in &gone {
            self.end(session);
        }
        !gone.is_empty()
    }

    fn release_of(&self, owner_key: &OwnerKey, now: u64) -> Vec<Arc<Session>> {
        self.by_owner.get_mut(owner_key).map(|mut held| held.release(now)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use bytes::Bytes;
    use filters::Caller;
    use filters::request::{AuthMethod, Identity};
    use tokio::runtime::Handle;

    use super::*;
    use crate::session::session_limits::{MIN_IDLE_SECS, SessionLimits};
    use crate::telemetry::Metrics;

    const PATH: &str = "/mcp";

    fn open(sessions: &SessionManager, owner: &Caller, max: usize) -> Option<Arc<Session>> {
        let limits = SessionLimits { total: max, per_caller: usize::MAX };
        open_in(sessions, OwnerKey::new(owner.clone(), None), limits).ok()
    }

    fn open_in(
        sessions: &SessionManager,
        owner_key: OwnerKey,
        limits: SessionLimits,
    ) -> Result<Arc<Session>, TooManySessions> {
        let none = Bytes::from_static(b"{}");
        sessions.open(owner_key, &Arc::from(PATH), "2025-11-25", none.clone(), none, limits)
    }

    fn anonymous(address: &str) -> OwnerKey {
        OwnerKey::new(caller("anonymous"), Some(address.parse().expect("an address")))
    }

    /// As if the second had passed in which nothing was found.
    fn a_second_later(sessions: &SessionManager) {
        sessions.by_owner.iter_mut().for_each(|mut held| held.last_search = None);
    }

    fn caller(user: &str) -> Caller {
        Caller::new(Identity { user: user.to_owned(), ..Identity::default() })
    }

    #[tokio::test]
    async fn no_caller_holds_more_than_its_share_even_if_it_uses_all() {
        let sessions = SessionManager::new(Metrics::new(), Handle::current());
        let limits = SessionLimits { total: 20, per_caller: 4 };
        let greedy = OwnerKey::new(caller("greedy"), None);
        let mut theirs = Vec::new();
        for _ in 0..4 {
            let session = open_in(&sessions, greedy.clone(), limits).expect("the limit is not reached");
            sessions.get(&session.id, PATH, greedy.owner()).expect("it is there");
            theirs.push(session);
        }
        for _ in 0..20 {
            let full = open_in(&sessions, greedy.clone(), limits).err().expect("its share is used up");
            let TooManySessions::PerCaller { most: 4, wait } = full else { panic!("{full:?}") };
            assert!(
                (Duration::from_secs(1)..=Duration::from_secs(MIN_IDLE_SECS)).contains(&wait),
                "{wait:?}"
            );
        }
        assert!(
            open_in(&sessions, OwnerKey::new(caller("good"), None), limits).is_ok(),
            "others have their own"
        );
        // An unused session is evicted for a new one.
        theirs[1].unused.store(true, Ordering::Relaxed);
        a_second_later(&sessions);
        assert!(open_in(&sessions, greedy.clone(), limits).is_ok());
        assert!(sessions.get(&theirs[1].id, PATH, greedy.owner()).is_none(), "the one that was not used");
        for at in [0, 2, 3] {
            assert!(sessions.get(&theirs[at].id, PATH, greedy.owner()).is_some());
        }
        sessions.end(&theirs[0]);
        assert!(open_in(&sessions, greedy, limits).is_ok(), "one that was ended counts no more");
    }

    #[tokio::test]
    async fn anonymous_callers_share_by_address() {
        let sessions = SessionManager::new(Metrics::new(), Handle::current());
        let limits = SessionLimits { total: 20, per_caller: 1 };
        let mut all = Vec::new();
        for (address, opens) in [
            ("192.0.2.1", true),
            ("192.0.2.2", true),
            ("::ffff:192.0.2.1", false),
            ("2001:db8:0:1::1", true),
            ("2001:db8:0:1:ffff::2", false),
            ("2001:db8:0:2::1", true),
        ] {
            a_second_later(&sessions);
            let session = open_in(&sessions, anonymous(address), limits);
            assert_eq!(session.is_ok(), opens, "{address}");
            let Ok(session) = session else { continue };
            sessions.get(&session.id, PATH, anonymous(address).owner()).expect("it is used");
            all.push(session);
        }
        // An authenticated caller is the same from any address.
        let known =
            Caller::new(Identity { user: "ann".into(), auth_method: AuthMethod::Jwt, ..Identity::default() });
        let at = |address: &str| OwnerKey::new(known.clone(), address.parse().ok());
        assert!(at("192.0.2.1") == at("192.0.2.2"));
        sessions.close().await;
        assert!(sessions.by_owner.is_empty());
    }

    #[tokio::test]
    async fn a_caller_that_opens_sessions_without_end_evicts_its_own() {
        let sessions = SessionManager::new(Metrics::new(), Handle::current());
        let (good, greedy) = (caller("good"), caller("greedy"));
        let theirs: Vec<_> = (0..4).filter_map(|_| open(&sessions, &good, 20)).collect();
        let used = open(&sessions, &greedy, 20).expect("the limit is not reached");
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
    async fn an_idle_session_of_any_caller_with_as_many_makes_room_for_a_newcomer() {
        let sessions = SessionManager::new(Metrics::new(), Handle::current());
        let users: Vec<Caller> = (0..8).map(|number| caller(&format!("user{number}"))).collect();
        let all: Vec<_> = users.iter().filter_map(|user| open(&sessions, user, 8)).collect();
        // One was never used.
        for (session, user) in all.iter().zip(&users).filter(|(_, user)| *user.user != *"user5") {
            sessions.get(&session.id, PATH, user).expect("it is there");
        }
        let new = caller("new");
        let opened = open(&sessions, &new, 8).expect("there is room");
        sessions.get(&opened.id, PATH, &new).expect("it is there");
        assert!(sessions.get(&all[5].id, PATH, &users[5]).is_none(), "the idle one has gone");
        assert!(open(&sessions, &new, 8).is_none(), "all others are in use");
        let held =
            all.iter().zip(&users).filter(|(session, user)| sessions.get(&session.id, PATH, user).is_some());
        assert_eq!(held.count(), 7);
    }

    #[tokio::test]
    async fn sessions_in_use_are_not_evicted() {
        let sessions = SessionManager::new(Metrics::new(), Handle::current());
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
