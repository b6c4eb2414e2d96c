//! What the head of a server's answer may hold. Pingora takes up to 1 MiB and the gateway's own client 400 KiB; no server
//! of MCP has a reason for a tenth of it, and each call in flight keeps its own.

use http::header::TRANSFER_ENCODING;
use http::{HeaderMap, HeaderValue};

use crate::upstream::UpstreamError;

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
    // Between the server and the gateway, and the only one that the gateway asks for (RFC 9112 §7).
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some_and(|first| !is_chunked(first)) || codings.next().is_some() {
        return Err(UpstreamError::InvalidResponse("its Transfer-Encoding is another than chunked".into()));
    }
    Ok(())
}

/// The server's answer has a head that is too long, or of too many lines.
pub fn too_large() -> UpstreamError {
    UpstreamError::InvalidResponse(format!("its head has more than {LINES} lines or {} KiB", BYTES / 1024))
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
        headers.insert("x-long", "x".repeat(BYTES - 6).parse().expect("a value"));
        assert_eq!(fits(&headers), Ok(()));
        headers.append("a", "".parse().expect("a value"));
        assert_eq!(fits(&headers), Err(too_large()));
    }
}
