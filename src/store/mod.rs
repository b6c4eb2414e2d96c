//! What several gateways share. Only this folder names a concrete store.
//!
//! The gateway starts without a store, and waits for one no longer than the configuration says. A store
//! that is down is a normal state, which is reported to the caller.

pub mod parking;
pub mod process_messages;
pub mod redis_rate_limit;
pub mod sealing;
pub mod task_records;
