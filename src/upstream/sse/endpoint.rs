//! Where messages are POSTed: the URI in the `endpoint` event (2024-11-05, basic/transports, "HTTP with SSE").
//!
//! The specification says only that it is a URI. Servers send an absolute path, a relative one, a query alone or
//! a full URL. Arguments and credentials are for the configured server: another origin gets nothing.

use reqwest::Url;

/// Largest `endpoint` event that is read.
pub(super) const MAX_ENDPOINT_EVENT: usize = 8 << 10;

/// Why an `endpoint` event cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EndpointError {
    #[error("its `endpoint` event is empty")]
    Empty,
    #[error("its `endpoint` event is not a URI")]
    NotUri,
    /// Without path and query, which may hold secrets.
    #[error(
        "its `endpoint` event names another origin ({named}), where nothing is sent; the `url` has the origin {own}"
    )]
    OtherOrigin { named: String, own: String },
}

/// The URL for POST requests; `base` is the URL of the event stream.
pub(super) fn resolve(base: &Url, data: &str) -> Result<Url, EndpointError> {
    let uri = data.trim();
    if uri.is_empty() {
        return Err(EndpointError::Empty);
    }
    // A URL parser drops line breaks and tabs, and takes JSON for a path.
    if uri.starts_with(['{', '[', '"']) || uri.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(EndpointError::NotUri);
    }
    let mut url = base.join(uri).map_err(|_| EndpointError::NotUri)?;
    if url.origin() != base.origin() {
        let [named, own] = [&url, base].map(|url| url.origin().ascii_serialization());
        return Err(EndpointError::OtherOrigin { named: crate::upstream::client_message(&named), own });
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(EndpointError::NotUri);
    }
    url.set_fragment(None);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(base: &str, data: &str) -> Result<String, EndpointError> {
        resolve(&base.parse().expect("a URL"), data).map(String::from)
    }

    #[test]
    fn every_form_of_a_uri_is_resolved_against_the_url_of_the_stream() {
        for (data, url) in [
            ("/messages?sessionId=7", "http://mcp.example:8080/messages?sessionId=7"),
            ("/messages/?session_id=0af", "http://mcp.example:8080/messages/?session_id=0af"),
            ("/messages", "http://mcp.example:8080/messages"),
            ("messages?id=7", "http://mcp.example:8080/v1/messages?id=7"),
            ("./messages/7", "http://mcp.example:8080/v1/messages/7"),
            ("../messages/7", "http://mcp.example:8080/messages/7"),
            ("?sessionId=7", "http://mcp.example:8080/v1/sse?sessionId=7"),
            ("http://mcp.example:8080/messages?s=7", "http://mcp.example:8080/messages?s=7"),
            ("HTTP://MCP.example:8080/messages", "http://mcp.example:8080/messages"),
            ("//mcp.example:8080/messages", "http://mcp.example:8080/messages"),
            (" /messages#part ", "http://mcp.example:8080/messages"),
        ] {
            assert_eq!(resolved("http://mcp.example:8080/v1/sse?key=1", data).as_deref(), Ok(url), "{data}");
        }
        // The port of a scheme need not be written.
        assert_eq!(
            resolved("https://mcp.example/sse", "https://mcp.example:443/m").as_deref(),
            Ok("https://mcp.example/m")
        );
    }

    #[test]
    fn another_origin_is_refused() {
        for data in [
            "http://evil.example/messages",
            "http://mcp.example:8081/messages",
            "https://mcp.example:8080/messages",
            "http://mcp.example/messages",
            "http://0.0.0.0:8080/messages",
            "http://mcp.example:8080@evil.example/messages",
            "http://mcp.example.evil.example:8080/messages",
            "//evil.example/messages",
            "\\\\evil.example\\messages",
            "/\\evil.example/messages",
            "file:///etc/passwd",
            "data:text/plain,x",
        ] {
            let error = resolved("http://mcp.example:8080/sse", data).expect_err(data);
            assert!(matches!(error, EndpointError::OtherOrigin { .. }), "{data}: {error}");
        }
        let error =
            resolved("https://h.example/sse", "http://h.example/m?secret=1").expect_err("another scheme");
        assert!(error.to_string().contains("(http://h.example)") && !error.to_string().contains("secret"));
    }

    #[test]
    fn what_is_no_uri_is_refused() {
        for (data, error) in [
            ("", EndpointError::Empty),
            ("  ", EndpointError::Empty),
            (r#"{"uri":"/messages"}"#, EndpointError::NotUri),
            (r#""/messages""#, EndpointError::NotUri),
            ("/mess ages", EndpointError::NotUri),
            ("/messages\n?s=1", EndpointError::NotUri),
            ("/messages\u{0}", EndpointError::NotUri),
            ("http://[::1/messages", EndpointError::NotUri),
            ("http://u:p@mcp.example:8080/messages", EndpointError::NotUri),
        ] {
            assert_eq!(resolved("http://mcp.example:8080/sse", data), Err(error), "{data:?}");
        }
    }
}
