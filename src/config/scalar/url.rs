//! The address of an HTTP server.
//!
//! It is checked for parts that would not work or would leak. It is not resolved. The config decides which
//! hosts the gateway contacts.

use std::borrow::Cow;
use std::fmt;

use http::Uri;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{ScalarValue, scalar};

/// An absolute `http` or `https` URL without user and fragment. Its query, which may hold a key, is not
/// displayed.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(Uri);

impl Url {
    /// All of it, the query too.
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// The host as written; an IPv6 address keeps its brackets.
    pub fn host(&self) -> &str {
        self.0.host().expect("checked when it was read")
    }

    /// The port; by default that of the scheme.
    pub fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(if self.is_tls() { 443 } else { 80 })
    }

    /// Whether it is `https`.
    pub fn is_tls(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// The part after the host: path and query, at least `/`.
    pub fn path_and_query(&self) -> &str {
        self.0.path_and_query().map_or("/", |path| path.as_str())
    }

    /// Whether the host is this machine.
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
    }
}

impl ScalarValue for Url {
    const EXPECTED: &'static str = "a URL such as `https://mcp.example.com/mcp`";

    fn read(text: &str) -> Result<Self, &'static str> {
        let Some((scheme, rest)) = text.split_once("://") else { return Err("not a URL") };
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err("URL scheme is neither http nor https");
        }
        if text.contains('#') {
            return Err("URL has a fragment, which is never sent to a server");
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("URL contains a user: credentials belong in `headers`");
        }
        if authority.is_empty() || authority.starts_with(':') {
            return Err("URL has no host");
        }
        let after_host = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
        if let Some((_, port)) = after_host.rsplit_once(':')
            && port.parse::<std::num::NonZeroU16>().is_err()
        {
            return Err("URL port is not a number from 1 to 65535");
        }
        // A path is never empty on the wire (RFC 9110 §4.2.3).
        let slash = if path.starts_with('/') { "" } else { "/" };
        let uri = format!("{scheme}://{authority}{slash}{path}").parse::<Uri>().map_err(|_| "not a URL")?;
        if !text.is_ascii() || uri.host().is_none_or(str::is_empty) {
            return Err("not a URL");
        }
        Ok(Self(uri))
    }
}

scalar!(Url);

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.0.authority().map_or("", |authority| authority.as_str());
        write!(f, "{}://{authority}{}", self.0.scheme_str().unwrap_or_default(), self.0.path())?;
        if self.0.query().is_some() { f.write_str("?***") } else { Ok(()) }
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl JsonSchema for Url {
    fn schema_name() -> Cow<'static, str> {
        "Url".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An absolute http or https URL without user and fragment.",
            "type": "string",
            "pattern": "^[Hh][Tt][Tt][Pp][Ss]?://[^/?#@]+([/?][^#]*)?$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (text, host, port, tls, path) in [
            ("https://mcp.example.com/mcp", "mcp.example.com", 443, true, "/mcp"),
            ("http://127.0.0.1:9000", "127.0.0.1", 9000, false, "/"),
            ("HTTP://localhost/a?b=c", "localhost", 80, false, "/a?b=c"),
            ("HTTPS://LocalHost", "LocalHost", 443, true, "/"),
            ("http://[::1]:8080/x@y", "[::1]", 8080, false, "/x@y"),
            ("https://h?k=v", "h", 443, true, "/?k=v"),
        ] {
            let url = Url::read(text).expect(text);
            let parts = (url.host(), url.port(), url.is_tls(), url.path_and_query());
            assert_eq!(parts, (host, port, tls, path), "{text}");
        }
    }

    #[test]
    fn bad_urls_are_refused() {
        for text in [
            "",
            "mcp.example.com",
            "/mcp",
            "ftp://h",
            "http://",
            "http:///mcp",
            "http://:80/",
            "http://h:/",
            "http://h:x/",
            "http://h:99999/",
            "http://h:0/",
            "http://u:p@h/",
            "http://h/#f",
            "http://h/a b",
            "http://h\n/",
            "http://[::1/",
            "http://ho st/",
            "http://é/",
        ] {
            assert!(Url::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_query_does_not_show() {
        let url = Url::read("https://h:1/mcp?key=abc").expect("a URL");
        assert_eq!(format!("{url} {url:?}"), "https://h:1/mcp?*** https://h:1/mcp?***");
        assert!(!url.is_loopback() && Url::read("http://[::1]/").is_ok_and(|url| url.is_loopback()));
    }
}
