//! The address of an HTTP server as Pingora needs it: resolved, with its TLS name and its fixed headers.
//!
//! `HttpPeer::new` resolves names synchronously and panics on failure. So names are resolved here, in the
//! background, and a request only reads the newest result. A name may have many addresses. Requests that
//! belong to no session are spread over those of the first family. The other family, and an address that
//! could not be connected to, are used as a last resort. A session stays at the first address, since
//! processes behind one name may not share sessions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use pingora::protocols::TcpKeepalive;
use pingora::upstreams::peer::{HttpPeer, Peer as _};
use tokio::sync::Notify;

use super::tls::UpstreamTls;
use crate::upstream::{UpstreamError, UpstreamLimits};

/// For `Accept-Encoding`: a compressed stream is delayed on the way, and searched content must be decoded
/// first.
pub const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
/// For `Accept`: the gateway is the client of its servers, and accepts both forms of a response, whatever its
/// own clients accept (2026-07-28 and 2025-11-25, streamable-http: a client must list both).
pub const BOTH_FORMS: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");

/// How long an address is skipped after a failed connection.
const COOLDOWN: Duration = Duration::from_secs(30);
/// How long a server gets connections that serve one request each, after an error that named none.
const DOUBT_PERIOD: Duration = Duration::from_secs(60);
/// Timeout of name resolution.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection to a server may be idle. Less than the 5 seconds after which Node's and uvicorn's
/// servers close theirs. A call that is sent while the server closes cannot be sent again, since the server
/// may have read it.
pub const IDLE: Duration = Duration::from_secs(4);

/// TCP keepalive: the idle time before the first probe, the number of probes, and the least time that bytes
/// may stay unacknowledged or unread. So a dead connection is detected, and a busy one is kept.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: usize = 3;
const MIN_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// The keepalive of a connection with this timeout for the other side.
pub fn with_probes(timeout: Duration) -> TcpKeepalive {
    TcpKeepalive {
        idle: KEEPALIVE_IDLE,
        interval: KEEPALIVE_IDLE / 3,
        count: KEEPALIVE_PROBES,
        #[cfg(target_os = "linux")]
        user_timeout: timeout.max(MIN_USER_TIMEOUT),
    }
}

pub struct Peer {
    host: String,
    port: u16,
    tls: bool,
    /// For the `Host` header: with the port unless it is the scheme's own.
    pub authority: HeaderValue,
    /// Path and query of the MCP endpoint.
    pub path: Uri,
    /// Sent with each request; secrets.
    pub headers: HeaderMap,
    /// Headers that are the same in each message: host, type, accepted forms, and `headers`.
    pub static_headers: Vec<(HeaderName, HeaderValue)>,
    connect_timeout: Duration,
    call_timeout: Duration,
    upstream_tls: Arc<UpstreamTls>,
    resolved: ArcSwapOption<Addresses>,
    /// Notified when its name should be resolved early.
    pub stale: Notify,
    started: Instant,
    /// The server speaks HTTP/2: one connection serves all.
    streams: AtomicBool,
    /// Milliseconds from its start until which each request gets a connection of its own.
    doubtful: AtomicU64,
}

/// The addresses of a name: sorted, IPv4 first, since servers on `localhost` often listen there only.
struct Addresses {
    all: Box<[Address]>,
    turn: AtomicUsize,
}

struct Address {
    peer: HttpPeer,
    at: SocketAddr,
    /// Milliseconds from the peer's start until which it is skipped.
    cooldown: AtomicU64,
}

impl Peer {
    /// `url` must be http or https and have a host.
    pub fn new(
        url: &reqwest::Url,
        headers: HeaderMap,
        limits: &UpstreamLimits,
        trust: Arc<UpstreamTls>,
    ) -> Result<Self, String> {
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
        let authority = HeaderValue::try_from(authority).map_err(|e| e.to_string())?;
        let json = HeaderValue::from_static("application/json");
        let mut static_headers = vec![
            (HOST, authority.clone()),
            (CONTENT_TYPE, json),
            (ACCEPT, BOTH_FORMS),
            (ACCEPT_ENCODING, IDENTITY),
        ];
        static_headers.extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        let peer = Self {
            port: url.port_or_known_default().ok_or("the URL has no port")?,
            tls,
            authority,
            path: path.try_into().map_err(|e: http::uri::InvalidUri| e.to_string())?,
            headers,
            static_headers,
            connect_timeout: limits.connect_timeout,
            call_timeout: limits.timeout,
            upstream_tls: trust,
            resolved: ArcSwapOption::empty(),
            stale: Notify::new(),
            started: Instant::now(),
            streams: AtomicBool::new(false),
            doubtful: AtomicU64::new(0),
            host: host.trim_matches(['[', ']']).to_owned(),
        };
        if let Ok(ip) = peer.host.parse() {
            peer.apply_addresses(vec![SocketAddr::new(ip, peer.port)]);
        }
        Ok(peer)
    }

    /// The target of a redirection of a request for `from`, if it has the same origin.
    pub fn redirected(&self, from: &Uri, location: &str) -> Option<Uri> {
        let scheme = if self.tls { "https" } else { "http" };
        let from = format!("{scheme}://{}{from}", self.authority.to_str().ok()?);
        let from: reqwest::Url = from.parse().ok()?;
        let to = from.join(location).ok().filter(|to| to.origin() == from.origin())?;
        match to.query() {
            Some(query) => format!("{}?{query}", to.path()).parse().ok(),
            None => to.path().parse().ok(),
        }
    }

    /// Resolves the name again; the last good addresses stay when that fails.
    pub async fn resolve(&self) -> Result<(), UpstreamError> {
        let unreachable =
            |why: String| UpstreamError::Unreachable(format!("cannot resolve {}: {why}", self.host));
        let looking = tokio::net::lookup_host((self.host.as_str(), self.port));
        let found = match tokio::time::timeout(RESOLVE_TIMEOUT, looking).await {
            Ok(found) => found.map_err(|e| unreachable(e.to_string()))?,
            Err(_) => return Err(unreachable("the resolver does not answer".into())),
        };
        let all: Vec<SocketAddr> = found.collect();
        if all.is_empty() {
            return Err(unreachable("no address".into()));
        }
        self.apply_addresses(all);
        Ok(())
    }

    /// Applies the current addresses of a name; the state of addresses that stay is kept.
    fn apply_addresses(&self, mut all: Vec<SocketAddr>) {
        // Resolvers rotate the order; here it must be stable for sessions.
        all.sort_by_key(|address| (address.is_ipv6(), *address));
        all.dedup();
        let known = self.resolved.load();
        let known: &[Address] = known.as_ref().map_or(&[], |known| &known.all);
        if known.iter().map(|address| address.at).eq(all.iter().copied()) {
            return;
        }
        let resting = |at: &SocketAddr| known.iter().find(|old| old.at == *at).map(Address::resting);
        let all = all.iter().map(|at| Address {
            peer: self.at(*at),
            at: *at,
            cooldown: AtomicU64::new(resting(at).unwrap_or(0)),
        });
        self.resolved.store(Some(Arc::new(Addresses { all: all.collect(), turn: AtomicUsize::new(0) })));
    }

    /// Whether its host is an IP address.
    pub fn is_literal(&self) -> bool {
        self.host.parse::<std::net::IpAddr>().is_ok()
    }

    /// Whether its name was ever resolved.
    pub fn is_resolved(&self) -> bool {
        self.resolved.load().is_some()
    }

    /// The address to use now; `spread` for a request that any of them can answer.
    pub fn now(&self, spread: bool) -> Option<Box<HttpPeer>> {
        let resolved = self.resolved.load();
        let resolved = resolved.as_ref()?;
        let all = &resolved.all;
        if let [only] = &**all {
            return Some(Box::new(only.peer.clone()));
        }
        let now = self.clock();
        let fresh = |address: &&Address| address.resting() <= now;
        let Some(first) = all.iter().find(fresh) else {
            return all.first().map(|address| Box::new(address.peer.clone()));
        };
        let family = |address: &&Address| address.at.is_ipv6() == first.at.is_ipv6();
        let turn = if spread { resolved.turn.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let count = all.iter().filter(fresh).filter(family).count();
        let chosen = all.iter().filter(fresh).filter(family).nth(turn % count.max(1)).unwrap_or(first);
        Some(Box::new(chosen.peer.clone()))
    }

    /// Records a failed connection to an address; returns whether there is another to try.
    pub fn failed(&self, peer: &HttpPeer) -> bool {
        self.stale.notify_one();
        let resolved = self.resolved.load();
        let Some(resolved) = resolved.as_ref() else { return false };
        let (now, at) = (self.clock(), peer.address().as_inet());
        for address in resolved.all.iter().filter(|address| Some(&address.at) == at) {
            address.cooldown.store(now + COOLDOWN.as_millis() as u64, Ordering::Relaxed);
        }
        resolved.all.iter().any(|address| address.resting() <= now)
    }

    /// The addresses in the order in which the gateway's own client tries them.
    fn order(&self) -> Vec<SocketAddr> {
        let resolved = self.resolved.load();
        let Some(resolved) = resolved.as_ref() else { return Vec::new() };
        let now = self.clock();
        let (fresh, resting): (Vec<&Address>, Vec<&Address>) =
            resolved.all.iter().partition(|address| address.resting() <= now);
        fresh.into_iter().chain(resting).map(|address| address.at).collect()
    }

    /// Records which HTTP version it speaks.
    pub fn has_http2(&self, version: http::Version) {
        let streams = version == http::Version::HTTP_2;
        // Nearly always unchanged: then nothing is written that other cores read.
        if self.has_streams() != streams {
            self.streams.store(streams, Ordering::Relaxed);
        }
    }

    /// Whether its last connection was one of HTTP/2.
    pub fn has_streams(&self) -> bool {
        self.streams.load(Ordering::Relaxed)
    }

    /// Records an error that names no request, on a connection that was used for others.
    pub fn doubt(&self) {
        self.doubtful.store(self.clock() + DOUBT_PERIOD.as_millis() as u64, Ordering::Relaxed);
    }

    /// Whether each request must have a connection of its own, so that an error without an id certainly
    /// belongs to it.
    pub fn is_doubtful(&self) -> bool {
        let until = self.doubtful.load(Ordering::Relaxed);
        until > 0 && self.clock() < until
    }

    fn clock(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn at(&self, address: SocketAddr) -> HttpPeer {
        let sni = if self.tls { self.upstream_tls.name(&self.host).to_owned() } else { String::new() };
        let mut peer = HttpPeer::new(address, self.tls, sni);
        peer.options.connection_timeout = Some(self.connect_timeout);
        peer.options.total_connection_timeout = Some(self.connect_timeout * 2);
        peer.options.idle_timeout = Some(IDLE);
        peer.options.tcp_keepalive = Some(with_probes(self.call_timeout));
        self.upstream_tls.apply(&mut peer, self.tls);
        peer
    }
}

impl Address {
    fn resting(&self) -> u64 {
        self.cooldown.load(Ordering::Relaxed)
    }
}

/// Gives the gateway's own client the same addresses, in a stable order: Pingora uses the sessions that it
/// opens too.
pub struct PeerResolver(pub Arc<Peer>);

impl reqwest::dns::Resolve for PeerResolver {
    fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let peer = self.0.clone();
        Box::pin(async move {
            if !peer.is_resolved() {
                peer.resolve().await?;
            }
            Ok(Box::new(peer.order().into_iter()) as reqwest::dns::Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(addresses: &[&str]) -> Peer {
        let url = "http://name.invalid:80/mcp".parse().expect("a URL");
        let config =
            crate::config::parse("c", "mcpServers: {s: {url: \"http://name.invalid/mcp\"}}", &|_| None);
        let config = config.expect("a good config");
        let limits = UpstreamLimits::of(&config.servers["s"], &config.limits);
        let peer = Peer::new(&url, HeaderMap::new(), &limits, Arc::default()).expect("a peer");
        peer.apply_addresses(addresses.iter().map(|at| at.parse().expect("an address")).collect());
        peer
    }

    fn chosen(peer: &Peer, spread: bool) -> String {
        peer.now(spread).expect("an address").address().to_string()
    }

    #[test]
    fn requests_are_spread_and_sessions_stay() {
        let peer = peer(&["10.0.0.2:80", "[::1]:80", "10.0.0.1:80"]);
        let spread: Vec<String> = (0..4).map(|_| chosen(&peer, true)).collect();
        assert_eq!(spread, ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80"]);
        assert_eq!([chosen(&peer, false), chosen(&peer, false)], ["10.0.0.1:80", "10.0.0.1:80"]);
    }

    #[test]
    fn a_redirection_is_followed_within_the_origin_only() {
        let peer = peer(&[]);
        let from: Uri = "/mcp?a=1".parse().expect("a path");
        for (location, to) in [
            ("/mcp/", Some("/mcp/")),
            ("http://name.invalid/v2/mcp?b=2#c", Some("/v2/mcp?b=2")),
            ("HTTP://NAME.invalid:80/mcp", Some("/mcp")),
            ("mcp/", Some("/mcp/")),
            ("https://name.invalid/mcp", None),
            ("http://name.invalid:81/mcp", None),
            ("http://name.invalid.evil.example/mcp", None),
            ("http://name.invalid@evil.example/mcp", None),
            ("//evil.example/mcp", None),
            ("\\\\evil.example/mcp", None),
            ("http://[", None),
        ] {
            let found = peer.redirected(&from, location);
            assert_eq!(found.map(|uri| uri.to_string()).as_deref(), to, "{location}");
        }
    }

    #[test]
    fn an_unreachable_address_is_skipped_and_the_other_family_comes_last() {
        let peer = peer(&["[::1]:80", "10.0.0.1:80", "10.0.0.2:80"]);
        for (next, more) in [("10.0.0.2:80", true), ("[::1]:80", true)] {
            assert_eq!(peer.failed(&peer.now(false).expect("an address")), more);
            assert_eq!([chosen(&peer, true), chosen(&peer, false)], [next, next]);
        }
        assert!(!peer.failed(&peer.now(false).expect("an address")), "none is left");
        // Then any address is used.
        assert_eq!(chosen(&peer, true), "10.0.0.1:80");
    }

    #[test]
    fn what_is_known_of_an_address_outlives_a_look_at_its_name() {
        let peer = peer(&["10.0.0.1:80", "10.0.0.2:80"]);
        peer.failed(&peer.now(false).expect("an address"));
        peer.apply_addresses(vec![
            "10.0.0.3:80".parse().expect("an address"),
            "10.0.0.1:80".parse().expect("an address"),
        ]);
        assert_eq!(chosen(&peer, false), "10.0.0.3:80");
    }

    #[tokio::test]
    async fn a_name_that_is_not_there_is_an_error_and_the_last_good_addresses_stay() {
        let peer = peer(&["10.0.0.1:80"]);
        assert!(matches!(peer.resolve().await, Err(UpstreamError::Unreachable(_))));
        assert_eq!(chosen(&peer, true), "10.0.0.1:80");
    }
}
