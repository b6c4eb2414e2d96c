//! What a client has set at its servers: the resources that it subscribes to, and its log level. It is sent
//! again in a new upstream session, because the server there does not know it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::upstream::subscriptions::is_within;

/// Resources that a session may subscribe to, and the bytes of their URIs together.
const MAX_SUBSCRIPTIONS: usize = 1024;
const MAX_BYTES: usize = 64 * 1024;

#[derive(Default)]
pub struct ClientState(Mutex<StoredState>);

#[derive(Default)]
struct StoredState {
    /// The params of the last `logging/setLevel`.
    level: Option<Bytes>,
    /// By the name of the server, which outlives its settings.
    subscriptions: HashMap<Arc<str>, BTreeSet<String>>,
    count: usize,
    bytes: usize,
}

/// What a request sets, once its server has confirmed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateChange {
    Subscribe(String),
    Unsubscribe(String),
    /// The params of `logging/setLevel`.
    LogLevel(Bytes),
}

impl ClientState {
    /// Whether another resource may be subscribed to.
    pub fn has_room(&self, server: &str, uri: &str) -> bool {
        let kept = self.lock();
        kept.subscriptions.get(server).is_some_and(|uris| uris.contains(uri))
            || kept.count < MAX_SUBSCRIPTIONS && kept.bytes + uri.len() <= MAX_BYTES
    }

    pub fn apply(&self, server: &Arc<str>, state_change: &StateChange) {
        let mut kept = self.lock();
        match state_change {
            StateChange::LogLevel(params) => kept.level = Some(params.clone()),
            StateChange::Subscribe(uri) => {
                let new = kept.subscriptions.entry(server.clone()).or_default().insert(uri.clone());
                if new {
                    kept.count += 1;
                    kept.bytes += uri.len();
                }
            }
            StateChange::Unsubscribe(uri) => {
                let Some(uris) = kept.subscriptions.get_mut(server) else { return };
                if uris.remove(uri) {
                    if uris.is_empty() {
                        kept.subscriptions.remove(server);
                    }
                    kept.count -= 1;
                    kept.bytes -= uri.len();
                }
            }
        }
    }

    pub fn set_level(&self, params: Bytes) {
        self.lock().level = Some(params);
    }

    /// The params of the last `logging/setLevel`.
    pub fn level(&self) -> Option<Bytes> {
        self.lock().level.clone()
    }

    /// The subscribed resources of a server.
    pub fn subscriptions(&self, server: &str) -> Vec<String> {
        self.lock().subscriptions.get(server).into_iter().flatten().cloned().collect()
    }

    pub fn is_subscribed(&self, server: &str) -> bool {
        self.lock().subscriptions.contains_key(server)
    }

    /// Whether an update of this resource is for the client: it subscribes to it, or to one that it lies within.
    pub fn covers(&self, server: &str, uri: &str) -> bool {
        let kept = self.lock();
        let mut subscribed = kept.subscriptions.get(server).into_iter().flatten();
        subscribed.any(|subscribed| is_within(uri, subscribed))
    }

    /// The server at which a resource is subscribed to, whether it lists that or not.
    pub fn subscribed_servers(&self, uri: &str) -> Option<Arc<str>> {
        let kept = self.lock();
        kept.subscriptions.iter().find(|(_, uris)| uris.contains(uri)).map(|(server, _)| server.clone())
    }

    fn lock(&self) -> MutexGuard<'_, StoredState> {
        self.0.lock().expect("no holder of the lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_are_counted_once_and_bounded() {
        let (state, one): (ClientState, Arc<str>) = (ClientState::default(), "one".into());
        let uri = |number: usize| format!("test://{number}");
        for number in 0..MAX_SUBSCRIPTIONS {
            assert!(state.has_room("one", &uri(number)));
            state.apply(&one, &StateChange::Subscribe(uri(number)));
            state.apply(&one, &StateChange::Subscribe(uri(number)));
        }
        assert!(!state.has_room("one", "test://more") && state.has_room("one", &uri(3)));
        assert_eq!(state.subscribed_servers(&uri(3)), Some(one.clone()));
        for number in 0..MAX_SUBSCRIPTIONS {
            state.apply(&one, &StateChange::Unsubscribe(uri(number)));
            state.apply(&one, &StateChange::Unsubscribe(uri(number)));
        }
        assert!(!state.is_subscribed("one") && state.has_room("one", "test://more"));
        assert!(!state.has_room("one", &"x".repeat(MAX_BYTES + 1)));
    }
}
