//! What the head of a server's answer may hold. Pingora takes up to 1 MiB and the gateway's own client 400 KiB; no server
//! of MCP has a reason for a tenth of it, and each call in flight keeps its own.

use http::HeaderMap;

use super::UpstreamError;

/// Names and values together.
const BYTES: usize = 64 * 1024;
/// Lines; Pingora takes no more.
pub const LINES: usize = 256;

/// Whether the head of an answer is one that the gateway goes on with.
pub fn fits(headers: &HeaderMap) -> Result<(), UpstreamError> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > BYTES {
        return Err(too_large());
    }
    Ok(())
}

/// The server's answer has a head that is too long, or of too many lines.
pub fn too_large() -> UpstreamError {
    UpstreamError::Nonsense(format!("its head has more than {LINES} lines or {} KiB", BYTES / 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_count_together() {
        let mut headers = HeaderMap::new();
        headers.insert("x-long", "x".repeat(BYTES - 6).parse().expect("a value"));
        assert_eq!(fits(&headers), Ok(()));
        headers.append("a", "".parse().expect("a value"));
        assert_eq!(fits(&headers), Err(too_large()));
    }
}
