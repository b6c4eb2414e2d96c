//! The resources of modern servers that a legacy client subscribes to. Servers of that era know no session: the
//! bridge holds one `subscriptions/listen` for all resources of the session at a server.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use tokio_util::task::AbortOnDropHandle;

/// By the names of servers, which outlive their settings.
#[derive(Default)]
pub struct BridgedListens(Mutex<HashMap<Arc<str>, Arc<tokio::sync::Mutex<BridgedListen>>>>);

/// What a session subscribes to at one server. Locked while that changes.
#[derive(Default)]
pub struct BridgedListen {
    uris: BTreeSet<String>,
    /// It reads the updates of these resources, or of some more.
    reader: Option<AbortOnDropHandle<()>>,
}

impl BridgedListens {
    pub fn at(&self, server: &Arc<str>) -> Arc<tokio::sync::Mutex<BridgedListen>> {
        self.0.lock().expect("no holder of the lock panics").entry(server.clone()).or_default().clone()
    }

    /// Whether anything was subscribed to at this server through the bridge.
    pub fn has(&self, server: &str) -> bool {
        self.0.lock().expect("no holder of the lock panics").contains_key(server)
    }
}

impl BridgedListen {
    /// The union after another subscription; `None` if the server sends these updates already.
    pub fn with(&mut self, uri: &str) -> Option<BTreeSet<String>> {
        if self.reader.as_ref().is_none_or(AbortOnDropHandle::is_finished) {
            // The server has ended the subscription, and gave no other.
            *self = Self::default();
        }
        (!self.uris.contains(uri)).then(|| self.uris.iter().cloned().chain([uri.to_owned()]).collect())
    }

    /// The union without a resource; `None` if it was not in it.
    pub fn without(&mut self, uri: &str) -> Option<BTreeSet<String>> {
        self.uris.remove(uri).then(|| self.uris.clone())
    }

    /// Another reader, which takes the place of the former one.
    pub fn set(&mut self, uris: BTreeSet<String>, reader: Option<AbortOnDropHandle<()>>) {
        *self = Self { uris, reader };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(uris: &[&str]) -> BTreeSet<String> {
        uris.iter().map(|uri| (*uri).to_owned()).collect()
    }

    fn reader() -> Option<AbortOnDropHandle<()>> {
        Some(AbortOnDropHandle::new(tokio::spawn(std::future::pending())))
    }

    #[tokio::test]
    async fn the_union_changes_with_each_resource_and_only_then() {
        let mut listen = BridgedListen::default();
        assert_eq!(listen.with("a:1"), Some(set(&["a:1"])));
        listen.set(set(&["a:1"]), reader());
        assert_eq!(listen.with("a:1"), None, "it is in the union");
        let union = listen.with("a:2").expect("another one");
        assert_eq!(union, set(&["a:1", "a:2"]));
        listen.set(union, reader());
        assert_eq!(listen.without("a:3"), None, "it never was");
        assert_eq!(listen.without("a:1"), Some(set(&["a:2"])));
        assert_eq!(listen.without("a:1"), None);
        assert_eq!(listen.without("a:2"), Some(set(&[])));
    }

    #[tokio::test]
    async fn what_the_server_has_ended_is_subscribed_to_again() {
        let mut listen = BridgedListen::default();
        let ended = tokio::spawn(async {});
        let ended = AbortOnDropHandle::new(ended);
        while !ended.is_finished() {
            tokio::task::yield_now().await;
        }
        listen.set(set(&["a:1"]), Some(ended));
        assert_eq!(listen.with("a:1"), Some(set(&["a:1"])));
    }

    #[tokio::test]
    async fn a_reader_ends_with_the_next_one() {
        let mut listen = BridgedListen::default();
        let (alive, mut gone) = tokio::sync::oneshot::channel::<()>();
        let first = tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop(alive);
        });
        listen.set(set(&["a:1"]), Some(AbortOnDropHandle::new(first)));
        assert!(gone.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty));
        listen.set(set(&["a:2"]), reader());
        assert!(gone.await.is_err(), "it was aborted");
    }
}
