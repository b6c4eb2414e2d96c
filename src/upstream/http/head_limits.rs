//! Limits of the head of a server's response. Pingora accepts up to 1 MiB and the gateway's own client 400
//! KiB. No MCP server has a reason for a tenth of it, and each call in flight keeps its own.

use http::header::TRANSFER_ENCODING;
use http::{HeaderMap, HeaderValue};

use crate::upstream::UpstreamError;

/// Names and values together.
const MAX_BYTES: usize = 64 * 1024;
/// Header lines; Pingora accepts no more.
pub const MAX_LINES: usize = 256;

/// Whether the head of a response is within the limits.
pub fn fits(headers: &HeaderMap) -> Result<(), UpstreamError> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > MAX_BYTES {
        return Err(too_large());
    }
    // Between the server and the gateway, and the only one that the gateway requests (RFC 9112 §7).
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some_and(|first| !is_chunked(first)) || codings.next().is_some() {
        return Err(UpstreamError::InvalidResponse("its Transfer-Encoding is another than chunked".into()));
    }
    Ok(())
}

/// The head of the server's response is too long, or has too many lines.
pub fn too_large() -> UpstreamError {
    UpstreamError::InvalidResponse(format!(
        "its head has more than {MAX_LINES} lines or {} KiB",
        MAX_BYTES / 1024
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_comes_in_chunks_or_by_its_length() {
        for (lines, goes) in [
            (&["chunked"][..], true),
            (&["Chunked"], true),
            (&[], true),
            (&["identity"], false),
            (&["gzip, chunked"], false),
            (&["chunked, chunked"], false),
            (&["chunked", "chunked"], false),
            (&[""], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(TRANSFER_ENCODING, HeaderValue::from_static(line));
            }
            assert_eq!(fits(&headers).is_ok(), goes, "{lines:?}");
        }
    }

    #[test]
    fn names_and_values_count_together() {
        let mut headers = HeaderMap::new();
        headers.insert("x-long", "x".repeat(MAX_BYTES - 6).parse().expect("a value"));
        assert_eq!(fits(&headers), Ok(()));
        headers.append("a", "".parse().expect("a value"));
        assert_eq!(fits(&headers), Err(too_large()));
    }
}
