//! What a client has set at its servers: which resources it follows, and how much it wants to be told. It is said again
//! where a seat is taken anew, for the server there knows nothing of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

/// Resources that a session may follow, and bytes of their addresses together.
const MOST: usize = 1024;
const BYTES: usize = 64 * 1024;

#[derive(Default)]
pub struct Memory(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// The params of the last `logging/setLevel`.
    level: Option<Bytes>,
    /// By the name of the server, which outlives its settings.
    followed: HashMap<Arc<str>, BTreeSet<String>>,
    count: usize,
    bytes: usize,
}

/// What a request sets, once its server has answered that it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    Follow(String),
    Unfollow(String),
    /// The params of `logging/setLevel`.
    Level(Bytes),
}

impl Memory {
    /// Whether another resource may be followed.
    pub fn has_room(&self, server: &str, uri: &str) -> bool {
        let kept = self.kept();
        kept.followed.get(server).is_some_and(|uris| uris.contains(uri))
            || kept.count < MOST && kept.bytes + uri.len() <= BYTES
    }

    pub fn note(&self, server: &Arc<str>, deed: &Deed) {
        let mut kept = self.kept();
        match deed {
            Deed::Level(params) => kept.level = Some(params.clone()),
            Deed::Follow(uri) => {
                let new = kept.followed.entry(server.clone()).or_default().insert(uri.clone());
                if new {
                    kept.count += 1;
                    kept.bytes += uri.len();
                }
            }
            Deed::Unfollow(uri) => {
                let Some(uris) = kept.followed.get_mut(server) else { return };
                if uris.remove(uri) {
                    if uris.is_empty() {
                        kept.followed.remove(server);
                    }
                    kept.count -= 1;
                    kept.bytes -= uri.len();
                }
            }
        }
    }

    pub fn set_level(&self, params: Bytes) {
        self.kept().level = Some(params);
    }

    /// The params of the last `logging/setLevel`.
    pub fn level(&self) -> Option<Bytes> {
        self.kept().level.clone()
    }

    /// The resources of a server that are followed.
    pub fn followed(&self, server: &str) -> Vec<String> {
        self.kept().followed.get(server).into_iter().flatten().cloned().collect()
    }

    pub fn follows(&self, server: &str) -> bool {
        self.kept().followed.contains_key(server)
    }

    /// The server at which a resource is followed, whether it lists that or not.
    pub fn where_followed(&self, uri: &str) -> Option<Arc<str>> {
        let kept = self.kept();
        kept.followed.iter().find(|(_, uris)| uris.contains(uri)).map(|(server, _)| server.clone())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("no holder of the lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_followed_is_counted_once_and_bounded() {
        let (memory, one): (Memory, Arc<str>) = (Memory::default(), "one".into());
        let uri = |number: usize| format!("test://{number}");
        for number in 0..MOST {
            assert!(memory.has_room("one", &uri(number)));
            memory.note(&one, &Deed::Follow(uri(number)));
            memory.note(&one, &Deed::Follow(uri(number)));
        }
        assert!(!memory.has_room("one", "test://more") && memory.has_room("one", &uri(3)));
        assert_eq!(memory.where_followed(&uri(3)), Some(one.clone()));
        for number in 0..MOST {
            memory.note(&one, &Deed::Unfollow(uri(number)));
            memory.note(&one, &Deed::Unfollow(uri(number)));
        }
        assert!(!memory.follows("one") && memory.has_room("one", "test://more"));
        assert!(!memory.has_room("one", &"x".repeat(BYTES + 1)));
    }
}
