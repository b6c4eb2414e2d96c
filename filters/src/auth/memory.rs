//! Tokens that were verified a moment ago, so that the next request with the same token costs a hash and a look.
//!
//! Kept under the SHA-256 of the whole token: two tokens cannot meet in one entry, nobody can aim at a bucket, and
//! no token lies in memory that a core dump would give away. An entry ends with its token, after [`LONGEST`], and
//! when the keys of its issuer are not those that it was verified with. Refusals are not kept.

use std::time::Duration;

use moka::sync::Cache;
use sha2::{Digest as _, Sha256};

use crate::call::Caller;

/// How long a token is believed without being verified again.
pub const LONGEST: Duration = Duration::from_secs(300);
/// How much memory the entries may take, in bytes, roughly.
pub const CAPACITY: u64 = 64 * 1024 * 1024;

pub(super) type Digest = [u8; 32];

pub(super) fn digest(token: &str) -> Digest {
    Sha256::digest(token).into()
}

/// A verified token.
#[derive(Clone)]
pub(super) struct Entry {
    pub caller: Caller,
    /// The second from which it is not to be accepted any more.
    pub expires: u64,
    /// Which issuer, and the mark of the keys that it was verified with.
    pub issuer: usize,
    pub keys: u128,
    /// Bytes of the token, as a measure of what the claims take.
    pub size: usize,
}

pub(super) struct Memory(Cache<Digest, Entry>);

impl Memory {
    pub fn new() -> Self {
        // A tree of claims takes a few times the bytes of its text.
        let weigh = |_: &Digest, entry: &Entry| u32::try_from(512 + 4 * entry.size).unwrap_or(u32::MAX);
        Self(Cache::builder().max_capacity(CAPACITY).weigher(weigh).time_to_live(LONGEST).build())
    }

    pub fn get(&self, digest: &Digest) -> Option<Entry> {
        self.0.get(digest)
    }

    pub fn put(&self, digest: Digest, entry: Entry) {
        self.0.insert(digest, entry);
    }

    pub fn forget(&self, digest: &Digest) {
        self.0.invalidate(digest);
    }
}
