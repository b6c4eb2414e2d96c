//! Who follows which resources of a process that serves all callers, in the legacy era: the process knows one client, and
//! is asked once for each resource, by the first who follows it, and told by the last.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

/// Addresses that may wait for one session to be told of them; of more, the rest is not told.
const MAX_URIS: usize = 1024;

#[derive(Default)]
pub struct ResourceSubscriptions {
    by_uri: Mutex<BTreeMap<String, Vec<Arc<UpdateQueue>>>>,
    /// Held while the process is asked, so that it hears of the last before the next first.
    pub turn: tokio::sync::Mutex<()>,
}

/// What one session is to be told of, each address once.
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

    /// What changed since the last time, once anything has.
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
    /// Whether anybody follows this.
    pub fn has(&self, uri: &str) -> bool {
        self.all().contains_key(uri)
    }

    pub fn add(&self, uri: &str, updates: &Arc<UpdateQueue>) {
        let mut all = self.all();
        let ears = all.entry(uri.to_owned()).or_default();
        if !ears.iter().any(|known| Arc::ptr_eq(known, updates)) {
            ears.push(updates.clone());
        }
    }

    /// Gives whether that was the last who followed it.
    pub fn remove(&self, uri: &str, updates: &Arc<UpdateQueue>) -> bool {
        let mut all = self.all();
        let Some(ears) = all.get_mut(uri) else { return false };
        ears.retain(|known| !Arc::ptr_eq(known, updates));
        let last = ears.is_empty();
        if last {
            all.remove(uri);
        }
        last
    }

    /// What anybody follows.
    pub fn uris(&self) -> Vec<String> {
        self.all().keys().cloned().collect()
    }

    /// What this one follows.
    pub fn of(&self, updates: &Arc<UpdateQueue>) -> Vec<String> {
        let all = self.all();
        let theirs = all.iter().filter(|(_, ears)| ears.iter().any(|known| Arc::ptr_eq(known, updates)));
        theirs.map(|(uri, _)| uri.clone()).collect()
    }

    /// A resource has changed; it may lie within one that is followed (2025-11-25, server/resources, "Subscriptions").
    pub fn notify(&self, uri: &str) {
        let all = self.all();
        let around = all.iter().filter(|(followed, _)| {
            let rest = uri.strip_prefix(followed.as_str());
            rest.is_some_and(|rest| {
                rest.is_empty() || followed.ends_with('/') || rest.starts_with(['/', '#', '?'])
            })
        });
        for updates in around.flat_map(|(_, ears)| ears) {
            updates.push(uri);
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Arc<UpdateQueue>>>> {
        self.by_uri.lock().expect("no holder of the lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_hears_of_what_it_follows_and_the_last_is_known() {
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
        let heard = |uris: &[&str]| uris.iter().map(|uri| (*uri).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(one.next().await, heard(&["test://a", "test://a/deep"]));
        assert_eq!(two.next().await, heard(&["test://a", "test://a/deep", "test://b"]));
        assert_eq!((followers.of(&two), followers.of(&one).len()), (followers.uris(), 1));
        assert!(!followers.remove("test://a", &two) && followers.has("test://a"));
        assert!(followers.remove("test://a", &one) && !followers.has("test://a"));
        assert!(!followers.remove("test://a", &one), "it was gone already");
        followers.notify("test://a");
        assert!(futures::poll!(Box::pin(one.next())).is_pending());
    }
}
