//! The revisions of MCP that are served, and what a client and a server agree on.

/// Stateless revisions (`_meta` in each request), newest first.
pub const MODERN: &[&str] = &["2026-07-28"];
/// Revisions that open with `initialize`, newest first.
pub const LEGACY: &[&str] = &["2025-11-25", "2025-06-18", "2025-03-26"];

/// The newest modern revision: what the gateway speaks to modern servers in its own name.
pub const NEWEST_MODERN: &str = MODERN[0];
/// The newest legacy revision: what the gateway offers to legacy servers in its own name.
pub const NEWEST_LEGACY: &str = LEGACY[0];

/// Whether clients of this revision may send many messages at once.
pub fn has_batches(version: &str) -> bool {
    version == "2025-03-26"
}

/// The revision that `initialize` answers with: the one asked for if it is served, else the newest.
pub fn negotiate(asked: &str) -> &'static str {
    LEGACY.iter().find(|served| **served == asked).unwrap_or(&NEWEST_LEGACY)
}
