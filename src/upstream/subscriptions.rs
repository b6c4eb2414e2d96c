//! Resource subscriptions at a server whose connection all callers share, in the legacy era. The server has one
//! client. It gets one subscribe request for each resource, from the first subscriber, and one unsubscribe
//! request, from the last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use mcp::jsonrpc::message;
use tokio::sync::Notify;

use super::{RpcOutcome, UpstreamError};

/// URIs that may wait for one session; updates beyond that are lost.
const MAX_URIS: usize = 1024;

#[derive(Default)]
pub struct ResourceSubscriptions {
    by_uri: Mutex<BTreeMap<String, Vec<Arc<UpdateQueue>>>>,
    /// Locked during a request to the server, so that the last unsubscribe arrives before the next first
    /// subscribe.
    pub turn: tokio::sync::Mutex<()>,
}

/// The updated URIs for one session, each once.
#[derive(Default)]
pub struct UpdateQueue {
    changed: Mutex<BTreeSet<String>>,
    news: Notify,
}

impl UpdateQueue {
    pub fn push(&self, uri: &str) {
        let mut changed = self.changed.lock().expect("no holder of the lock panics");
        if changed.len() < MAX_URIS {
            changed.insert(uri.to_owned());
        }
        drop(changed);
        self.news.notify_one();
    }

    /// The URIs that were updated since the last call, once there is one.
    pub async fn next(&self) -> BTreeSet<String> {
        loop {
            let news = self.news.notified();
            let changed = std::mem::take(&mut *self.changed.lock().expect("no holder of the lock panics"));
            if !changed.is_empty() {
                return changed;
            }
            news.await;
        }
    }
}

impl ResourceSubscriptions {
    /// Whether there is a subscriber of this resource.
    pub fn has(&self, uri: &str) -> bool {
        self.all().contains_key(uri)
    }

    /// Subscribes to a resource for one caller; `request` is awaited only if the server must be asked.
    pub async fn subscribe(
        &self,
        uri: &str,
        updates: &Arc<UpdateQueue>,
        request: impl Future<Output = Result<RpcOutcome, UpstreamError>> + Send,
    ) -> Result<RpcOutcome, UpstreamError> {
        let _turn = self.turn.lock().await;
        let outcome = match self.has(uri) {
            true => RpcOutcome::Result(Bytes::from_static(b"{}")),
            false => request.await?,
        };
        if matches!(outcome, RpcOutcome::Result(_)) {
            self.add(uri, updates);
        }
        Ok(outcome)
    }

    /// Unsubscribes that caller from it.
    pub async fn unsubscribe(
        &self,
        uri: &str,
        updates: &Arc<UpdateQueue>,
        request: impl Future<Output = Result<RpcOutcome, UpstreamError>> + Send,
    ) -> Result<RpcOutcome, UpstreamError> {
        let _turn = self.turn.lock().await;
        if !self.remove(uri, updates) {
            return Ok(RpcOutcome::Result(Bytes::from_static(b"{}")));
        }
        request.await
    }

    pub fn add(&self, uri: &str, updates: &Arc<UpdateQueue>) {
        let mut all = self.all();
        let queues = all.entry(uri.to_owned()).or_default();
        if !queues.iter().any(|known| Arc::ptr_eq(known, updates)) {
            queues.push(updates.clone());
        }
    }

    /// Returns whether that was the last subscriber.
    pub fn remove(&self, uri: &str, updates: &Arc<UpdateQueue>) -> bool {
        let mut all = self.all();
        let Some(queues) = all.get_mut(uri) else { return false };
        queues.retain(|known| !Arc::ptr_eq(known, updates));
        let last = queues.is_empty();
        if last {
            all.remove(uri);
        }
        last
    }

    /// All subscribed resources.
    pub fn uris(&self) -> Vec<String> {
        self.all().keys().cloned().collect()
    }

    /// The resources of this subscriber.
    pub fn of(&self, updates: &Arc<UpdateQueue>) -> Vec<String> {
        let all = self.all();
        let theirs = all.iter().filter(|(_, queues)| queues.iter().any(|known| Arc::ptr_eq(known, updates)));
        theirs.map(|(uri, _)| uri.clone()).collect()
    }

    /// A resource has changed.
    pub fn notify(&self, uri: &str) {
        let all = self.all();
        let around = all.iter().filter(|(followed, _)| is_within(uri, followed));
        for updates in around.flat_map(|(_, queues)| queues) {
            updates.push(uri);
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Arc<UpdateQueue>>>> {
        self.by_uri.lock().expect("no holder of the lock panics")
    }
}

/// Whether a resource is a subscribed one or lies within it (2025-11-25, server/resources, "Subscriptions").
pub fn is_within(uri: &str, subscribed: &str) -> bool {
    let rest = uri.strip_prefix(subscribed);
    rest.is_some_and(|rest| rest.is_empty() || subscribed.ends_with('/') || rest.starts_with(['/', '#', '?']))
}

/// The resource of an update notification.
pub fn updated(message: &[u8]) -> Option<String> {
    let read = message::read(message)?;
    let params = read.params.filter(|_| read.id.is_none())?.of(message);
    let about = read.method?.is(message, "notifications/resources/updated");
    let uri = message::member(params, "uri").filter(|_| about)?;
    message::string(uri.of(params))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn the_server_is_asked_by_the_first_subscriber_and_by_the_last() {
        let (followers, one, two) =
            (ResourceSubscriptions::default(), Arc::<UpdateQueue>::default(), Arc::<UpdateQueue>::default());
        let asked = AtomicUsize::new(0);
        let request = |outcome: Result<RpcOutcome, UpstreamError>| async {
            asked.fetch_add(1, Ordering::Relaxed);
            outcome
        };
        let done = || Ok(RpcOutcome::Result(Bytes::from_static(b"{}")));
        let no = || Ok(RpcOutcome::Error(Bytes::from_static(b"{}")));
        let counted = || asked.load(Ordering::Relaxed);
        let lost = Err(UpstreamError::SessionClosed);
        assert!(followers.subscribe("test://a", &one, request(lost)).await.is_err());
        let refused = followers.subscribe("test://a", &one, request(no())).await.expect("an answer");
        assert!(matches!(refused, RpcOutcome::Error(_)) && !followers.has("test://a"));
        for (updates, count) in [(&one, 3), (&one, 3), (&two, 3)] {
            followers.subscribe("test://a", updates, request(done())).await.expect("an answer");
            assert_eq!(counted(), count);
        }
        for (updates, count) in [(&one, 3), (&one, 3), (&two, 4), (&two, 4)] {
            followers.unsubscribe("test://a", updates, request(done())).await.expect("an answer");
            assert_eq!(counted(), count);
        }
        assert!(!followers.has("test://a"));
    }

    #[tokio::test]
    async fn each_queue_gets_its_own_updates_and_the_last_is_known() {
        let (followers, one, two) =
            (ResourceSubscriptions::default(), Arc::<UpdateQueue>::default(), Arc::<UpdateQueue>::default());
        for updates in [&one, &one, &two] {
            followers.add("test://a", updates);
        }
        followers.add("test://b", &two);
        for uri in ["test://a/deep", "test://a", "test://ab", "test://c", "test://a"] {
            followers.notify(uri);
        }
        followers.notify("test://b");
        let updated = |uris: &[&str]| uris.iter().map(|uri| (*uri).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(one.next().await, updated(&["test://a", "test://a/deep"]));
        assert_eq!(two.next().await, updated(&["test://a", "test://a/deep", "test://b"]));
        assert_eq!((followers.of(&two), followers.of(&one).len()), (followers.uris(), 1));
        assert!(!followers.remove("test://a", &two) && followers.has("test://a"));
        assert!(followers.remove("test://a", &one) && !followers.has("test://a"));
        assert!(!followers.remove("test://a", &one), "it was gone already");
        followers.notify("test://a");
        assert!(futures::poll!(Box::pin(one.next())).is_pending());
    }
}
