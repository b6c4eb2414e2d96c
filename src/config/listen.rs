//! The listeners and the accepted hosts and origins.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::diagnostics::NodeRef;
use super::net::IpNetwork;
use super::scalar::url::Url;
use super::scalar::{ScalarValue, scalar};
use super::tls::ListenerTls;

/// The public listener.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// IP address and port; port 0 is one that the system chooses. A change needs a restart.
    #[serde(deserialize_with = "address")]
    #[schemars(with = "SocketAddress")]
    pub address: SocketAddr,
    /// Origins (`https://app.example.com`) of the web pages that may call, or `*`. In lower case. Default: pages
    /// of this machine.
    #[serde(deserialize_with = "texts::<AllowedOrigin, _>")]
    #[schemars(with = "Option<Vec<AllowedOrigin>>")]
    pub allowed_origins: Option<Vec<String>>,
    /// Hosts (`gateway.example.com`, with any port unless one is given) that a request may name, or `*`.
    /// In lower case. Default: the names of this machine.
    #[serde(deserialize_with = "texts::<Host, _>")]
    #[schemars(with = "Option<Vec<Host>>")]
    pub allowed_hosts: Option<Vec<String>>,
    /// Addresses and networks of the trusted proxies: the gateway reads `X-Forwarded-For` only from them.
    pub trusted_proxies: Vec<IpNetwork>,
    /// How clients reach the gateway: `https://gateway.example.com`. With a path where a proxy serves the gateway
    /// under one and removes it: `https://example.com/tools`. Default: `http://`, or `https://` with `tls`, and
    /// the address.
    #[serde(deserialize_with = "public_url")]
    #[schemars(with = "Option<PublicUrl>")]
    pub public_url: Option<String>,
    /// Whether the listener offers HTTP/2 besides HTTP/1.1. With `tls`, ALPN decides; without, a client
    /// begins with HTTP/2 (h2c by prior knowledge). A change needs a restart.
    pub http2: bool,
    /// The Unix socket where a successor asks for the listening sockets (`toolgate run --upgrade`), in a
    /// folder that only this user may write to. A change needs a restart. Default: one per address, in
    /// `$RUNTIME_DIRECTORY`, else in `$XDG_RUNTIME_DIR/toolgate`, else in `/tmp/toolgate-UID`.
    pub upgrade_socket: Option<PathBuf>,
    /// TLS on this listener; without it, plain HTTP. A change of whether there is any needs a restart.
    pub tls: Option<ListenerTls>,
}

/// A separate listener for metrics, health and the admin API. Without it they are on the public listener.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "Admin", deny_unknown_fields)]
pub struct AdminListener {
    /// IP address and port. A change needs a restart.
    #[serde(deserialize_with = "address")]
    #[schemars(with = "SocketAddress")]
    pub address: SocketAddr,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000),
            allowed_origins: None,
            allowed_hosts: None,
            trusted_proxies: Vec::new(),
            public_url: None,
            http2: true,
            upgrade_socket: None,
            tls: None,
        }
    }
}

impl Listen {
    /// The path under which clients reach the gateway, empty for the root; `None` without `public_url`.
    pub fn public_path(&self) -> Option<&str> {
        let (_, rest) = self.public_url.as_ref()?.split_once("://")?;
        Some(rest.find('/').map_or("", |at| &rest[at..]))
    }

    /// How clients reach the gateway: scheme, host, port and perhaps a path, without a slash at the end.
    pub fn base_url(&self) -> String {
        self.public_url.clone().unwrap_or_else(|| self.own_url())
    }

    /// The URL made from the address, even if a proxy has another one.
    pub fn own_url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.address)
    }

    pub(super) fn check(&self, node_ref: &NodeRef<'_>) {
        if let (Some(tls), Some(node_ref)) = (&self.tls, node_ref.child("tls")) {
            tls.check(&node_ref);
        }
    }

    /// Whether the address is that of a trusted proxy.
    pub fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(ip))
    }
}

impl AdminListener {
    /// Reports an address that the public listener already uses.
    pub(super) fn check(&self, listen: &Listen, node_ref: &NodeRef<'_>) {
        let (here, there) = (self.address, listen.address);
        let same = here.ip() == there.ip() || here.ip().is_unspecified() || there.ip().is_unspecified();
        if here.port() == there.port() && here.port() != 0 && same {
            node_ref.reject("port is already used by `listen.address`", "expected another port");
        }
    }
}

struct SocketAddress(SocketAddr);

impl ScalarValue for SocketAddress {
    const EXPECTED: &'static str = "an IP address and a port such as `127.0.0.1:8000` or `[::]:8000`";

    fn read(text: &str) -> Result<Self, &'static str> {
        text.parse().map(Self).map_err(|_| match text.rsplit_once(':') {
            Some(("", _)) => "missing IP address",
            Some((host, _)) if host.contains(|c: char| c.is_ascii_alphabetic()) && !host.contains(':') => {
                "host name instead of an IP address"
            }
            None if text.parse::<IpAddr>().is_ok() => "missing port",
            _ => "not an address",
        })
    }
}

scalar!(SocketAddress);

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    SocketAddress::deserialize(from).map(|address| address.0)
}

/// `scheme://host[:port]` as a browser sends it, or `*`.
pub(super) struct AllowedOrigin(String);

impl ScalarValue for AllowedOrigin {
    const EXPECTED: &'static str = "an origin such as `https://app.example.com`, or `*`";

    fn read(text: &str) -> Result<Self, &'static str> {
        if text == "*" {
            return Ok(Self(text.into()));
        }
        let Some((scheme, host)) = text.split_once("://") else { return Err("not an origin") };
        let scheme_fits = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        if host.contains('*') {
            return Err("`*` inside an origin is not supported, only `*` alone");
        }
        if host.contains(['/', '?', '#']) {
            return Err("origin has a path: an origin ends with the host or its port");
        }
        if !scheme_fits || !is_host(host) {
            return Err("not an origin");
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

scalar!(AllowedOrigin);

/// `host[:port]`, or `*`.
struct Host(String);

impl ScalarValue for Host {
    const EXPECTED: &'static str =
        "a host such as `gateway.example.com` or `gateway.example.com:8443`, or `*`";

    fn read(text: &str) -> Result<Self, &'static str> {
        if text.contains("://") {
            return Err("URL instead of a host");
        }
        if text != "*" && text.contains('*') {
            return Err("`*` inside a host is not supported, only `*` alone");
        }
        if text == "*" || is_host(text) { Ok(Self(text.to_ascii_lowercase())) } else { Err("not a host") }
    }
}

scalar!(Host);

/// `http://` or `https://`, `host[:port]` in lower case, and perhaps a path.
struct PublicUrl(String);

impl ScalarValue for PublicUrl {
    const EXPECTED: &'static str =
        "a URL such as `https://gateway.example.com` or `https://example.com/tools`";

    fn read(text: &str) -> Result<Self, &'static str> {
        let url = Url::read(text)?;
        let path = url.path_and_query();
        let path = path.strip_suffix('/').unwrap_or(path);
        if ["/mcp", "/sse", "/messages"].iter().any(|own| path.ends_with(own)) {
            return Err("URL ends with the path of an endpoint: the gateway adds its own");
        }
        // Clients get the path as a part of others. Each resolves it: nothing in it may have a meaning.
        let is_plain = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
        };
        if !path.split('/').skip(1).all(is_plain) {
            return Err("URL path has more than letters, digits, `-`, `.`, `_`, `~` between its slashes");
        }
        let authority =
            text.split_once("://").and_then(|(_, rest)| rest.split('/').next()).unwrap_or_default();
        let scheme = if url.is_tls() { "https" } else { "http" };
        Ok(Self(format!("{scheme}://{}{path}", authority.to_ascii_lowercase())))
    }
}

scalar!(PublicUrl);

fn public_url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<PublicUrl>::deserialize(from)?.map(|url| url.0))
}

fn is_host(text: &str) -> bool {
    let name_fits = |name: &str| {
        let inside = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        match inside {
            Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
        }
    };
    match text.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name_fits(name) && port.parse::<u16>().is_ok(),
        _ => name_fits(text),
    }
}

impl From<AllowedOrigin> for String {
    fn from(origin: AllowedOrigin) -> Self {
        origin.0
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.0
    }
}

/// Deserializes a list and keeps the texts of its items.
pub(super) fn texts<'de, T, D>(from: D) -> Result<Option<Vec<String>>, D::Error>
where
    T: Deserialize<'de> + Into<String>,
    D: Deserializer<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(from)?.map(|list| list.into_iter().map(Into::into).collect()))
}

macro_rules! text_schema {
    ($type:ty, $name:literal, $pattern:literal, $description:literal) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"description": $description, "type": "string", "pattern": $pattern})
            }
        }
    };
}

text_schema!(
    SocketAddress,
    "Address",
    "^(\\[[^\\]]+\\]|[0-9.]+):[0-9]+$",
    "An IP address and a port: `127.0.0.1:8000`."
);
text_schema!(
    AllowedOrigin,
    "Origin",
    "^(\\*|[A-Za-z][A-Za-z0-9+.-]*://[^/?#*]+)$",
    "`scheme://host[:port]`, or `*`."
);
text_schema!(PublicUrl, "PublicUrl", "^[Hh][Tt][Tt][Pp][Ss]?://[^/?#@]+/?$", "`http[s]://host[:port]`.");
text_schema!(Host, "Host", "^(\\*|[^/*]+)$", "`host[:port]`, or `*`.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_an_ip_and_a_port() {
        for (text, wanted) in [
            ("127.0.0.1:8000", None),
            ("[::]:0", None),
            (":8000", Some("missing IP address")),
            ("localhost:8000", Some("host name instead of an IP address")),
            ("127.0.0.1", Some("missing port")),
            ("::1", Some("not an address")),
            ("127.0.0.1:99999", Some("not an address")),
            ("8000", Some("not an address")),
        ] {
            assert_eq!(SocketAddress::read(text).err(), wanted, "{text}");
        }
    }

    #[test]
    fn a_public_url_ends_with_the_host_or_its_port_or_a_plain_path() {
        for (text, wanted, path) in [
            ("https://GW.example", "https://gw.example", ""),
            ("https://gw.example:8443/", "https://gw.example:8443", ""),
            ("http://[::1]:8000", "http://[::1]:8000", ""),
            ("HTTPS://GW.example/Tools/v1.2/", "https://gw.example/Tools/v1.2", "/Tools/v1.2"),
            ("https://gw/mcp-tools", "https://gw/mcp-tools", "/mcp-tools"),
        ] {
            assert_eq!(PublicUrl::read(text).map(|url| url.0), Ok(wanted.into()));
            let listen = Listen { public_url: Some(wanted.into()), ..Listen::default() };
            assert_eq!(listen.public_path(), Some(path));
        }
        for bad in [
            "",
            "gw.example",
            "ftp://gw",
            "https://gw/mcp",
            "https://gw/a/sse/",
            "https://gw/?a",
            "https://gw?a",
            "https://gw/a?b",
            "https://u@gw",
            "https://gw//",
            "https://gw/a//b",
            "https://gw/../a",
            "https://gw/a%2fb",
            "https://gw/a b",
        ] {
            assert!(PublicUrl::read(bad).is_err(), "{bad}");
        }
        assert_eq!(Listen::default().base_url(), "http://127.0.0.1:8000");
        assert_eq!(Listen::default().public_path(), None);
    }

    #[test]
    fn origins_and_hosts_are_taken_as_browsers_send_them() {
        for good in
            ["*", "https://App.example", "http://localhost:5173", "vscode-webview://abc", "http://[::1]:1"]
        {
            assert_eq!(AllowedOrigin::read(good).map(String::from), Ok(good.to_ascii_lowercase()));
        }
        for bad in
            ["", "null", "app.example", "https://", "https://a/", "https://*.a", "https://a:x", "https://a b"]
        {
            assert!(AllowedOrigin::read(bad).is_err(), "{bad}");
        }
        for good in ["*", "GW.example", "gw.example:8443", "127.0.0.1", "[::1]", "[::1]:80"] {
            assert_eq!(Host::read(good).map(String::from), Ok(good.to_ascii_lowercase()));
        }
        for bad in ["", "https://a", "a/b", "*.a", "a:x", "a:99999", "[::1", "a b"] {
            assert!(Host::read(bad).is_err(), "{bad}");
        }
    }
}
