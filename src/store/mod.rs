//! What several gateways share. Nobody but this folder names a store.
//!
//! Nothing here is needed to start, and nothing here is waited for longer than the configuration says: a
//! store that is away is a fact like any other, told to whoever asks.

pub mod redis_rate_limit;
