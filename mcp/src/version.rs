//! The supported versions of MCP, and the negotiation of client and server.

/// Stateless revisions (`_meta` in each request), newest first.
pub const MODERN: &[&str] = &["2026-07-28"];
/// Revisions that open with `initialize`, newest first.
pub const LEGACY: &[&str] = &["2025-11-25", "2025-06-18", "2025-03-26"];

/// The revision of the HTTP+SSE transport, which opens with `initialize` too. Servers may negotiate it there;
/// over Streamable HTTP it does not exist.
pub const HTTP_SSE: &str = "2024-11-05";

/// The newest modern version: the gateway's own requests to modern servers use it.
pub const NEWEST_MODERN: &str = MODERN[0];
/// The newest legacy version: the gateway offers it to legacy servers.
pub const NEWEST_LEGACY: &str = LEGACY[0];

/// Whether a server over HTTP+SSE may negotiate this revision.
pub fn is_of_http_sse(version: &str) -> bool {
    version == HTTP_SSE || LEGACY.contains(&version)
}

/// Whether clients of this revision may send many messages at once.
pub fn has_batches(version: &str) -> bool {
    version == "2025-03-26"
}

/// The version in the response to `initialize`: the requested one if supported, else the newest.
pub fn negotiate(asked: &str) -> &'static str {
    LEGACY.iter().find(|served| **served == asked).unwrap_or(&NEWEST_LEGACY)
}
