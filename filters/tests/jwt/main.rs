//! Valid and forged credentials: every way to forge a token in RFC 8725 and in the history of JWT libraries,
//! as tables of (what, token, outcome). Also headers, API keys, scopes, changing keys and memory.

mod around;
mod cases;
mod changes;
mod claim_cases;
mod frugal;
mod keys;
mod mint;
