//! The address of an HTTP server as Pingora wants it: resolved, with its TLS name and its fixed headers.
//!
//! `HttpPeer::new` resolves names blockingly and panics when it cannot, so names are resolved here, in the
//! background, and a request only reads the newest result.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{HeaderMap, HeaderValue};
use pingora::upstreams::peer::HttpPeer;

use super::UpstreamError;

/// How long a connection to a server may lie unused. Less than the 5 seconds after which Node's and uvicorn's servers close
/// theirs: a call that is sent into the closing cannot be sent again, since the server may have taken it.
pub const IDLE: Duration = Duration::from_secs(4);

pub struct Peer {
    host: String,
    port: u16,
    tls: bool,
    /// For the `Host` header: with the port unless it is the scheme's own.
    pub authority: HeaderValue,
    /// Path and query of the MCP endpoint.
    pub path: String,
    /// Sent with each request; secrets.
    pub headers: HeaderMap,
    connect_timeout: Duration,
    resolved: ArcSwapOption<HttpPeer>,
}

impl Peer {
    /// `url` must be http or https and have a host.
    pub fn new(url: &reqwest::Url, headers: HeaderMap, connect_timeout: Duration) -> Result<Self, String> {
        let host = url.host_str().ok_or("the URL has no host")?.to_owned();
        let tls = url.scheme() == "https";
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.clone(),
        };
        let mut path = url.path().to_owned();
        if let Some(query) = url.query() {
            path.push('?');
            path.push_str(query);
        }
        let peer = Self {
            port: url.port_or_known_default().ok_or("the URL has no port")?,
            tls,
            authority: HeaderValue::try_from(authority).map_err(|e| e.to_string())?,
            path,
            headers,
            connect_timeout,
            resolved: ArcSwapOption::empty(),
            host: host.trim_matches(['[', ']']).to_owned(),
        };
        if let Ok(ip) = peer.host.parse() {
            peer.resolved.store(Some(Arc::new(peer.at(SocketAddr::new(ip, peer.port)))));
        }
        Ok(peer)
    }

    /// Looks the name up again; the last good address stays when that fails.
    pub async fn resolve(&self) -> Result<(), UpstreamError> {
        let unreachable =
            |why: String| UpstreamError::Unreachable(format!("cannot resolve {}: {why}", self.host));
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let mut all: Vec<SocketAddr> = found.map_err(|e| unreachable(e.to_string()))?.collect();
        // IPv4 first: servers on `localhost` often listen there only.
        all.sort_by_key(SocketAddr::is_ipv6);
        let first = *all.first().ok_or_else(|| unreachable("no address".into()))?;
        let known = self.resolved.load();
        if known.as_ref().is_none_or(|peer| peer._address.as_inet() != Some(&first)) {
            self.resolved.store(Some(Arc::new(self.at(first))));
        }
        Ok(())
    }

    /// The newest resolved peer.
    pub fn now(&self) -> Option<Box<HttpPeer>> {
        self.resolved.load().as_ref().map(|peer| Box::new(HttpPeer::clone(peer)))
    }

    fn at(&self, address: SocketAddr) -> HttpPeer {
        let sni = if self.tls { self.host.clone() } else { String::new() };
        let mut peer = HttpPeer::new(address, self.tls, sni);
        peer.options.connection_timeout = Some(self.connect_timeout);
        peer.options.total_connection_timeout = Some(self.connect_timeout * 2);
        peer.options.idle_timeout = Some(IDLE);
        peer
    }
}
