//! Protection against foreign web pages: `Origin` (the sending page) and `Host` (DNS rebinding). MCP
//! 2025-03-26 and later, transports, "Security Warning": servers must validate `Origin`.

use http::header::{HOST, ORIGIN};

use crate::filter::Filter;
use crate::request::RequestHead;
use mcp::{Reason, Rejection};

/// Allowed origins and hosts. Loopback names are the default for both, and are then allowed with any port.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    origins: Allowed,
    hosts: Allowed,
}

#[derive(Clone, Debug, Default)]
enum Allowed {
    #[default]
    Loopback,
    Any,
    These(Vec<String>),
}

impl Allowed {
    fn from(list: Option<Vec<String>>) -> Self {
        match list {
            None => Allowed::Loopback,
            Some(list) if list.iter().any(|item| item == "*") => Allowed::Any,
            Some(list) => Allowed::These(list.into_iter().map(|item| item.to_ascii_lowercase()).collect()),
        }
    }
}

impl Origin {
    /// `None` means loopback only; a `*` in a list allows all. An origin is `scheme://host[:port]`, a host is
    /// `host[:port]`; a host without a port is allowed with any.
    pub fn new(origins: Option<Vec<String>>, hosts: Option<Vec<String>>) -> Self {
        Self { origins: Allowed::from(origins), hosts: Allowed::from(hosts) }
    }

    fn is_host_allowed(&self, host: &str) -> bool {
        match &self.hosts {
            Allowed::Any => true,
            Allowed::Loopback => is_loopback(without_port(host)),
            Allowed::These(list) => list.iter().any(|allowed| {
                allowed.eq_ignore_ascii_case(host) || allowed.eq_ignore_ascii_case(without_port(host))
            }),
        }
    }

    /// Whether a page of this origin may call the gateway (also used for CORS).
    pub fn is_origin_allowed(&self, origin: &str) -> bool {
        match &self.origins {
            Allowed::Any => true,
            Allowed::Loopback => ["http://", "https://"]
                .iter()
                .filter_map(|scheme| origin.strip_prefix(scheme))
                .any(|host| is_loopback(without_port(host))),
            Allowed::These(list) => list.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)),
        }
    }
}

impl Filter for Origin {
    const NAME: &'static str = "origin";

    async fn on_head(&self, head: &RequestHead<'_>) -> Result<(), Box<Rejection>> {
        if !head.is_network {
            return Ok(());
        }
        let host = match (head.single(&HOST), head.authority) {
            (Ok(Some(host)), None) => host,
            (Ok(None), Some(authority)) => authority,
            (Ok(Some(host)), Some(authority)) if host.eq_ignore_ascii_case(authority) => host,
            _ => {
                return Err(Box::new(Rejection::http(
                    400,
                    Reason::HostMissing,
                    "the request must name one Host (RFC 9112 §3.2)",
                )));
            }
        };
        if !self.is_host_allowed(host) {
            return Err(Box::new(Rejection::http(
                403,
                Reason::HostNotAllowed,
                "this Host is not one that the gateway serves; add it to listen.allowed_hosts",
            )));
        }
        match head.single(&ORIGIN) {
            Ok(None) => Ok(()),
            Ok(Some(origin)) if self.is_origin_allowed(origin) => Ok(()),
            _ => Err(Box::new(Rejection::http(
                403,
                Reason::OriginNotAllowed,
                "pages of this Origin may not call the gateway; add it to listen.allowed_origins",
            ))),
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // `[::1]` has colons of its own.
        Some((name, port)) if !port.contains(']') && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host == "[::1]"
        || host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_distinguished_from_similar_names() {
        let guard = Origin::new(None, None);
        for host in ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "127.9.9.9", "[::1]:80", "[::1]"] {
            assert!(guard.is_host_allowed(host), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil", "0.0.0.0", "", "[::2]", "::1:80x"]
        {
            assert!(!guard.is_host_allowed(host), "{host}");
        }
        assert!(guard.is_origin_allowed("http://localhost:5173"));
        for origin in ["null", "file://localhost", "https://evil.example", "http://localhost@evil.example"] {
            assert!(!guard.is_origin_allowed(origin), "{origin}");
        }
    }

    #[test]
    fn a_list_replaces_loopback() {
        let guard = Origin::new(Some(vec!["https://App.example".into()]), Some(vec!["gw.example".into()]));
        assert!(guard.is_host_allowed("gw.example:8443"));
        assert!(!guard.is_host_allowed("localhost"));
        assert!(guard.is_origin_allowed("https://app.example"));
        assert!(!guard.is_origin_allowed("https://app.example:444"));
    }
}
