//! What a server was warned of, so that it is not said again each time that its lists are read.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Mutex;

use ahash::RandomState;

/// What is remembered of one server. One that lists something else each time is not heard for ever.
const MOST: usize = 2_000;

#[derive(Default)]
pub struct Once {
    told: Mutex<HashSet<u64>>,
    keys: RandomState,
}

/// Whether something is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    New,
    /// It is, and nothing after it.
    Last,
    Known,
}

impl Once {
    pub fn tells(&self, what: impl Hash) -> Telling {
        let print = self.keys.hash_one(what);
        let mut told = self.told.lock().expect("nobody panics with the lock");
        match told.len() {
            MOST.. => Telling::Known,
            _ if !told.insert(print) => Telling::Known,
            size if size + 1 == MOST => Telling::Last,
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
        let told: Vec<Telling> = (0..3 * MOST).map(|n| once.tells(n)).collect();
        assert_eq!(told.iter().filter(|told| **told != Telling::Known).count(), MOST - 2);
        assert_eq!(told.iter().position(|told| *told == Telling::Last), Some(MOST - 3));
    }
}
