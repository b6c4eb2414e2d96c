//! The supported versions of MCP, and the negotiation of client and server.

/// Stateless revisions (`_meta` in each request), newest first.
pub const MODERN: &[&str] = &["2026-07-28"];
/// Revisions that open with `initialize`, newest first.
pub const LEGACY: &[&str] = &["2025-11-25", "2025-06-18", "2025-03-26"];

/// The revision of the HTTP+SSE transport, which opens with `initialize` too. Servers and clients may negotiate it
/// there; over Streamable HTTP it does not exist.
pub const HTTP_SSE: &str = "2024-11-05";

/// The newest modern version: the gateway's own requests to modern servers use it.
pub const NEWEST_MODERN: &str = MODERN[0];
/// The newest legacy version: the gateway offers it to legacy servers.
pub const NEWEST_LEGACY: &str = LEGACY[0];

/// Whether this revision may be negotiated over HTTP+SSE.
pub fn is_of_http_sse(version: &str) -> bool {
    version == HTTP_SSE || LEGACY.contains(&version)
}

/// The version to offer to a server over Streamable HTTP for a client of this one: the nearest that exists there.
pub fn over_streamable_http(version: &'static str) -> &'static str {
    if version == HTTP_SSE { LEGACY[LEGACY.len() - 1] } else { version }
}

/// Whether clients of this revision may send many messages at once.
pub fn has_batches(version: &str) -> bool {
    version == "2025-03-26"
}

/// The version in the response to `initialize`: the requested one if supported, else the newest.
pub fn negotiate(asked: &str) -> &'static str {
    LEGACY.iter().find(|served| **served == asked).unwrap_or(&NEWEST_LEGACY)
}

/// The same for a client over HTTP+SSE. One that asks for a version from before Streamable HTTP reads no newer one.
pub fn negotiate_http_sse(asked: &str) -> &'static str {
    if asked < LEGACY[LEGACY.len() - 1] { HTTP_SSE } else { negotiate(asked) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_over_http_sse_gets_its_own_version_or_one_that_it_can_read() {
        for (asked, gets) in [
            ("2024-11-05", "2024-11-05"),
            ("2024-10-07", "2024-11-05"),
            ("", "2024-11-05"),
            ("2025-03-26", "2025-03-26"),
            ("2025-06-18", "2025-06-18"),
            ("2025-11-25", "2025-11-25"),
            ("2026-07-28", "2025-11-25"),
            ("x", "2025-11-25"),
        ] {
            assert_eq!(negotiate_http_sse(asked), gets, "{asked}");
            assert!(is_of_http_sse(gets));
        }
        assert_eq!(negotiate("2024-11-05"), NEWEST_LEGACY, "over Streamable HTTP");
        assert_eq!(over_streamable_http(HTTP_SSE), "2025-03-26");
        assert_eq!(LEGACY.iter().map(|version| over_streamable_http(version)).collect::<Vec<_>>(), LEGACY);
    }
}
