//! Ids of the gateway's own for requests to HTTP servers.
//!
//! Clients choose their ids alone, and most begin with 1. A response that a server sends twice, late or on
//! the wrong connection would then match the next caller's request (RFC 9112 §9.2). So each request goes out
//! under an id that no other request of this process has, and the caller's own is put back into its response.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::http::mix;

/// Each id has this prefix and 16 digits: no server takes it for a number.
const PREFIX: &[u8; 4] = b"\"tg-";
const LENGTH: usize = PREFIX.len() + 16 + 1;

/// A JSON string, with its quotes: the id of one request, and its progress token if its caller requested
/// progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireId([u8; LENGTH]);

impl WireId {
    /// An id that no other request of this process has. Without the keys another id cannot be computed from
    /// it, which takes more than one round since each can be inverted.
    pub fn next() -> Self {
        static KEYS: LazyLock<[u64; 2]> =
            LazyLock::new(|| [(); 2].map(|()| getrandom::u64().expect("the system gives random bytes")));
        static THREADS: AtomicU64 = AtomicU64::new(0);
        thread_local! {
            // Each thread counts for itself: a common counter would be written by every core.
            static NEXT: Cell<u64> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) << 40);
        }
        let number = NEXT.get();
        NEXT.set(number + 1);
        let [first, second] = *KEYS;
        Self::of(mix(mix(number ^ first) ^ second))
    }

    fn of(bits: u64) -> Self {
        let mut id = [b'"'; LENGTH];
        id[..PREFIX.len()].copy_from_slice(PREFIX);
        for (at, digit) in id[PREFIX.len()..LENGTH - 1].iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(bits >> (60 - 4 * at)) as usize & 0xf];
        }
        Self(id)
    }

    /// Whether an id, as written, looks like one of these: of this request, of another, or of another
    /// gateway.
    pub fn is_one(raw: &[u8]) -> bool {
        raw.len() == LENGTH && raw.starts_with(PREFIX)
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("it is made of ASCII")
    }
}

impl Deref for WireId {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_requests_have_the_same_id_on_any_thread() {
        let rows: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..10_000).map(|_| WireId::next().0).collect::<Vec<_>>()))
            .collect();
        let all: Vec<_> = rows.into_iter().flat_map(|row| row.join().expect("it ends")).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 40_000);
        assert!(all.iter().all(|id| WireId::is_one(id)));
    }

    #[test]
    fn an_id_is_a_json_string_and_no_number() {
        let id = WireId::of(0x0123_4567_89ab_cdef);
        assert_eq!(id.as_str(), "\"tg-0123456789abcdef\"");
        assert_eq!(serde_json::from_slice::<String>(&id).expect("a string"), "tg-0123456789abcdef");
        assert!(
            !WireId::is_one(b"1")
                && !WireId::is_one(b"\"tg-1\"")
                && !WireId::is_one(b"\"tg:7:aaaaaaaaaaaaa\"")
        );
    }
}
