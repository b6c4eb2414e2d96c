//! What servers asked a client and have no answer to yet: only that can be answered, and only once.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;

use crate::protocol::wire;

/// Questions that may wait for an answer; of more, the oldest is given up.
const MOST: usize = 256;

/// By the server's serial and its own id as written.
#[derive(Default)]
pub struct Asked(Mutex<VecDeque<(u64, Bytes)>>);

impl Asked {
    pub fn note(&self, serial: u64, id: &[u8]) {
        let mut asked = self.all();
        // Said again on a stream that was gone on with, it is one question all the same.
        if asked.iter().any(|(of, known)| *of == serial && wire::same_id(known, id)) {
            return;
        }
        if asked.len() >= MOST {
            asked.pop_front();
        }
        asked.push_back((serial, Bytes::copy_from_slice(id)));
    }

    /// Whether this waited for an answer; from now on it does not.
    pub fn take(&self, serial: u64, id: &[u8]) -> bool {
        let mut asked = self.all();
        let place = asked.iter().position(|(of, known)| *of == serial && wire::same_id(known, id));
        place.and_then(|place| asked.remove(place)).is_some()
    }

    fn all(&self) -> MutexGuard<'_, VecDeque<(u64, Bytes)>> {
        self.0.lock().expect("no holder of the lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_is_answered_once_and_by_its_own_id() {
        let asked = Asked::default();
        asked.note(1, b"7");
        asked.note(1, b"7");
        asked.note(2, b"\"a\\/b\"");
        for (serial, id) in [(2, &b"7"[..]), (1, b"\"7\""), (1, b"8"), (3, b"7")] {
            assert!(!asked.take(serial, id));
        }
        assert!(asked.take(1, b"7") && !asked.take(1, b"7"));
        assert!(asked.take(2, b"\"a/b\""), "the same string in other escapes");
    }

    #[test]
    fn a_server_that_asks_without_end_is_bounded() {
        let asked = Asked::default();
        for id in 0..=MOST {
            asked.note(1, id.to_string().as_bytes());
        }
        assert!(!asked.take(1, b"0") && asked.take(1, b"1"));
    }
}
