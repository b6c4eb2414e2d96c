//! Credentials, good and forged: every way to forge a token that RFC 8725 and the history of JWT libraries know of,
//! as tables of (what, token, outcome), and what surrounds them: headers, API keys, scopes, keys that change, memory.

mod around;
mod cases;
mod changes;
mod claim_cases;
mod frugal;
mod keys;
mod mint;
