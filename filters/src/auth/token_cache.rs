//! A cache of recently verified tokens: the next request with the same token costs one hash and one look-up.
//!
//! The key is the SHA-256 of the whole token. So two tokens never share an entry, and a core dump reveals no
//! token. An entry ends with its token, after [`MAX_AGE`], and when the keys of its issuer change. Rejections
//! are not cached.
//!
//! Cache crates record each read, which costs every hit time and sometimes memory. Here no entry is ranked.
//! If the cache is full, old entries are dropped and verified again. Only holders of many valid tokens can
//! cause that, and it costs them as much as the gateway.

use std::collections::HashMap;
use std::sync::RwLock;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::request::Caller;

/// How long a token is believed without being verified again.
pub const MAX_AGE: Duration = Duration::from_secs(300);
/// The approximate memory of all entries, in bytes.
const CAPACITY: usize = 64 * 1024 * 1024;
/// A power of two, so that a byte of a digest selects one.
const SHARDS: usize = 16;

pub(super) type TokenDigest = [u8; 32];

pub(super) fn digest(token: &str) -> TokenDigest {
    Sha256::digest(token).into()
}

/// A verified token.
#[derive(Clone)]
pub(super) struct CachedToken {
    pub caller: Caller,
    /// The second from which it is not to be accepted any more.
    pub expires: u64,
    /// Which issuer, and the mark of the keys that it was verified with.
    pub issuer: usize,
    pub keys: u128,
    /// The size of the token in bytes, as a measure for its claims.
    pub size: usize,
}

pub(super) struct TokenCache([RwLock<TokenShard>; SHARDS]);

struct TokenShard {
    entries: HashMap<TokenDigest, (CachedToken, Instant)>,
    bytes: usize,
    swept: Instant,
}

impl TokenCache {
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| RwLock::new(TokenShard::new())))
    }

    pub fn get(&self, digest: &TokenDigest) -> Option<CachedToken> {
        let shard = self.shard(digest).read().expect(UNPOISONED);
        let (entry, started) = shard.entries.get(digest)?;
        // By a monotonic clock.
        (started.elapsed() < MAX_AGE).then(|| entry.clone())
    }

    pub fn insert(&self, digest: TokenDigest, entry: CachedToken) {
        self.shard(&digest).write().expect(UNPOISONED).put(digest, entry, Instant::now());
    }

    pub fn remove(&self, digest: &TokenDigest) {
        self.shard(digest).write().expect(UNPOISONED).remove(digest);
    }

    fn shard(&self, digest: &TokenDigest) -> &RwLock<TokenShard> {
        &self.0[usize::from(digest[0]) % SHARDS]
    }
}

const UNPOISONED: &str = "nothing panics while it holds the lock";

impl TokenShard {
    fn new() -> Self {
        Self { entries: HashMap::new(), bytes: 0, swept: Instant::now() }
    }

    fn put(&mut self, digest: TokenDigest, entry: CachedToken, now: Instant) {
        const ROOM: usize = CAPACITY / SHARDS;
        let weight = weight(&entry);
        self.remove(&digest);
        if self.bytes + weight > ROOM || now.duration_since(self.swept) > MAX_AGE {
            self.sweep(now);
        }
        if self.bytes + weight > ROOM {
            self.entries.clear();
            self.bytes = 0;
        }
        self.bytes += weight;
        self.entries.insert(digest, (entry, now));
    }

    fn remove(&mut self, digest: &TokenDigest) {
        if let Some((entry, _)) = self.entries.remove(digest) {
            self.bytes -= weight(&entry);
        }
    }

    /// Drops expired entries.
    fn sweep(&mut self, now: Instant) {
        self.entries.retain(|_, (_, started)| now.duration_since(*started) < MAX_AGE);
        self.bytes = self.entries.values().map(|(entry, _)| weight(entry)).sum();
        self.swept = now;
    }
}

/// A tree of claims takes a few times the bytes of its text.
fn weight(entry: &CachedToken) -> usize {
    512 + 4 * entry.size
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Identity;

    fn entry(size: usize) -> CachedToken {
        CachedToken { caller: Caller::new(Identity::default()), expires: 1, issuer: 0, keys: 0, size }
    }

    #[test]
    fn what_is_kept_never_takes_more_than_its_room() {
        let mut shard = TokenShard::new();
        for n in 0..20_000u32 {
            shard.put(digest(&n.to_string()), entry(700), Instant::now());
            assert!(shard.bytes <= CAPACITY / SHARDS);
            assert_eq!(shard.bytes, shard.entries.len() * weight(&entry(700)));
        }
        shard.put(digest("0"), entry(10), Instant::now());
        shard.put(digest("0"), entry(20), Instant::now());
        shard.remove(&digest("0"));
        assert_eq!(shard.bytes, shard.entries.len() * weight(&entry(700)));
    }

    #[test]
    fn what_is_old_is_dropped_by_what_comes() {
        let mut shard = TokenShard::new();
        let start = Instant::now();
        shard.put(digest("old"), entry(700), start);
        shard.put(digest("young"), entry(700), start + MAX_AGE);
        shard.put(digest("new"), entry(700), start + MAX_AGE + Duration::from_secs(1));
        assert!(!shard.entries.contains_key(&digest("old")));
        assert_eq!(shard.entries.len(), 2);
    }

    #[test]
    fn what_was_forgotten_is_not_found() {
        let memory = TokenCache::new();
        memory.insert(digest("a"), entry(700));
        assert!(memory.get(&digest("a")).is_some() && memory.get(&digest("b")).is_none());
        memory.remove(&digest("a"));
        assert!(memory.get(&digest("a")).is_none());
    }
}
