//! Where Redis is. It is not connected to here.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::scalar::{ScalarValue, scalar};

/// The Redis in which several gateways share their counters, and over which they reach each other.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    /// `redis://` or, with TLS, `rediss://`: `[user:password@]host[:port][/database]`.
    pub url: RedisUrl,
    /// The prefix of all keys in Redis.
    #[serde(default = "prefix", deserialize_with = "plain")]
    #[schemars(with = "RedisPrefix")]
    pub prefix: String,
}

/// The URL of a Redis; its password does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl(String);

impl RedisUrl {
    /// All of it, the password too: for the connection, and for nothing that is written down.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is `rediss`.
    pub fn is_tls(&self) -> bool {
        self.0.starts_with("rediss:")
    }

    /// Whether it holds a user or a password.
    pub fn has_password(&self) -> bool {
        self.authority().contains('@')
    }

    /// Whether the host is this machine.
    pub fn is_loopback(&self) -> bool {
        let authority = self.authority();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let host = if host.contains(']') {
            host.rsplit_once(']').map_or(host, |(ip, _)| ip)
        } else {
            host.split(':').next().unwrap_or(host)
        };
        let ip = host.trim_start_matches('[').parse::<std::net::IpAddr>();
        host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
    }

    fn authority(&self) -> &str {
        let rest = self.0.split_once("://").map_or("", |(_, rest)| rest);
        rest.split('/').next().unwrap_or_default()
    }
}

impl ScalarValue for RedisUrl {
    const EXPECTED: &'static str =
        "a URL such as `redis://127.0.0.1:6379` or `rediss://user:password@host:6380/0`";

    fn read(text: &str) -> Result<Self, &'static str> {
        let Some((scheme, rest)) = text.split_once("://") else { return Err("not a URL") };
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "redis" && scheme != "rediss" {
            return Err("URL scheme is neither redis nor rediss");
        }
        if rest.contains(['?', '#']) || rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("URL has more than a host, a port and a database");
        }
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        if database.contains('@') {
            return Err("URL password contains `/`: write it as `%2F`");
        }
        if !database.is_empty() && database.parse::<u16>().is_err() {
            return Err("database in the URL is not a number");
        }
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, Some(port)),
            _ => (host, None),
        };
        if name.is_empty() {
            return Err("URL has no host");
        }
        if port.is_some_and(|port| port.parse::<std::num::NonZeroU16>().is_err()) {
            return Err("URL port is not a number from 1 to 65535");
        }
        let ip = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let fits = match ip {
            Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
            None => name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
        };
        if fits { Ok(Self(format!("{scheme}://{rest}"))) } else { Err("not a URL") }
    }
}

scalar!(RedisUrl);

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.0.split_once("://") else { return f.write_str("***") };
        match rest.rsplit_once('@') {
            Some((_, host)) => write!(f, "{scheme}://***@{host}"),
            None => f.write_str(&self.0),
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl JsonSchema for RedisUrl {
    fn schema_name() -> Cow<'static, str> {
        "RedisUrl".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`redis://[user:password@]host[:port][/database]`, or `rediss://` with TLS.",
            "type": "string",
            "pattern": "^[Rr][Ee][Dd][Ii][Ss]{1,2}://[^/?#]+(/[0-9]*)?$",
        })
    }
}

/// The prefix of all keys.
struct RedisPrefix(String);

impl ScalarValue for RedisPrefix {
    const EXPECTED: &'static str = "at most 64 visible ASCII characters, such as `toolgate:`";

    fn read(text: &str) -> Result<Self, &'static str> {
        let fits = text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text.into())) } else { Err("invalid key prefix") }
    }
}

scalar!(RedisPrefix);

impl JsonSchema for RedisPrefix {
    fn schema_name() -> Cow<'static, str> {
        "RedisPrefix".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "At most 64 visible ASCII characters.",
            "type": "string",
            "pattern": "^[!-~]{0,64}$",
        })
    }
}

fn prefix() -> String {
    "toolgate:".into()
}

fn plain<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    RedisPrefix::deserialize(from).map(|prefix| prefix.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_does_not_show() {
        for (text, shown, loopback) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379", true),
            ("REDISS://u:p%2F@h:1/3", "rediss://***@h:1/3", false),
            ("redis://:p@ss@[::1]:6379/", "redis://***@[::1]:6379/", true),
            ("redis://localhost", "redis://localhost", true),
        ] {
            let url = RedisUrl::read(text).expect(text);
            assert_eq!(format!("{url} {url:?}"), format!("{shown} {shown}"));
            assert_eq!((url.is_loopback(), url.has_password()), (loopback, shown.contains('@')), "{text}");
        }
        assert!(RedisUrl::read("rediss://h").is_ok_and(|url| url.is_tls()));
    }

    #[test]
    fn what_is_no_redis_is_refused() {
        for text in [
            "",
            "127.0.0.1:6379",
            "http://h",
            "unix:///run/redis.sock",
            "redis://",
            "redis://:6379",
            "redis://h:x",
            "redis://h:0",
            "redis://h/a",
            "redis://h?x=y",
            "redis://:a/b@h",
            "redis://h h",
            "redis://[::1",
            "redis://é",
        ] {
            assert!(RedisUrl::read(text).is_err(), "{text}");
        }
    }
}
