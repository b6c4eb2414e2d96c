//! Remembers the warnings about a server, so that they are not repeated each time its lists are read.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Mutex;

use ahash::RandomState;

/// Maximum number of remembered warnings per server. A server whose lists always change is not logged
/// forever.
const MAX_REMEMBERED: usize = 2_000;

#[derive(Default)]
pub struct Once {
    seen: Mutex<HashSet<u64>>,
    keys: RandomState,
}

/// Whether a warning is to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    New,
    /// Yes, and nothing after it.
    Last,
    Known,
}

impl Once {
    pub fn tells(&self, what: impl Hash) -> Telling {
        let digest = self.keys.hash_one(what);
        let mut seen = self.seen.lock().expect("nobody panics with the lock");
        match seen.len() {
            MAX_REMEMBERED.. => Telling::Known,
            _ if !seen.insert(digest) => Telling::Known,
            size if size + 1 == MAX_REMEMBERED => Telling::Last,
            _ => Telling::New,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_and_not_without_end() {
        let once = Once::default();
        assert_eq!(once.tells(("tool", "a")), Telling::New);
        assert_eq!(once.tells(("tool", "b")), Telling::New);
        assert_eq!(once.tells(("tool", "a")), Telling::Known);
        let seen: Vec<Telling> = (0..3 * MAX_REMEMBERED).map(|n| once.tells(n)).collect();
        assert_eq!(seen.iter().filter(|seen| **seen != Telling::Known).count(), MAX_REMEMBERED - 2);
        assert_eq!(seen.iter().position(|seen| *seen == Telling::Last), Some(MAX_REMEMBERED - 3));
    }
}
