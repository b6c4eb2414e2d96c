//! Limits of size, number and time for everything that no server sets itself.
//!
//! Each has a valid range. The lower ends are small enough for tests. A value above the upper end is probably
//! a mistake.

use schemars::JsonSchema;
use serde::Deserialize;

use super::diagnostics::NodeRef;
use super::scalar::duration::ConfigDuration;
use super::scalar::size::ByteSize;

/// The keys of `limits`.
pub(super) const KEYS: &[&str] = &[
    "max_body",
    "max_response",
    "max_header",
    "max_json_depth",
    "max_line",
    "max_sessions",
    "max_sessions_per_caller",
    "max_connections",
    "max_buffered",
    "header_timeout",
    "body_timeout",
    "write_timeout",
    "connect_timeout",
    "call_timeout",
    "stream_idle",
    "sse_keepalive",
    "session_ttl",
    "drain",
];

/// Limits of size, number and time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest body of a request, in bytes: 1KiB to 64MiB.
    pub max_body: ByteSize,
    /// Largest response of a server that is read as a whole, in bytes: 1KiB to 1GiB.
    pub max_response: ByteSize,
    /// Largest head of a request, in bytes: 1KiB to 1MiB.
    pub max_header: ByteSize,
    /// Deepest nesting of a JSON body: 4 to 512.
    #[schemars(range(min = 4, max = 512))]
    pub max_json_depth: u32,
    /// Longest line that a stdio server may write, in bytes: 1KiB to 256MiB.
    pub max_line: ByteSize,
    /// Most sessions at a time: 1 to 10000000.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_sessions: u64,
    /// Most sessions of one caller at a time: 1 to 10000000. Anonymous callers of one address count as one
    /// caller. Default: a tenth of `max_sessions`, but at least 16.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_sessions_per_caller: Option<u64>,
    /// Most connections of clients to a listener at a time: 1 to 10000000. Each concurrent HTTP/2 request of
    /// a connection after the first one counts as a connection. The number is lower if the limit of open
    /// files is.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_connections: u64,
    /// Most bytes of request bodies in memory at a time: 1MiB to 1024GiB. One body up to 64KiB of each
    /// connection does not count.
    pub max_buffered: ByteSize,
    /// Time for a request's head to arrive: 10ms to 10m.
    pub header_timeout: ConfigDuration,
    /// Time for a request's body to arrive: 10ms to 1h.
    pub body_timeout: ConfigDuration,
    /// Time for a client to read the next piece of a response: 10ms to 1h. A slower client is disconnected.
    pub write_timeout: ConfigDuration,
    /// Time to connect to a server: 10ms to 5m.
    pub connect_timeout: ConfigDuration,
    /// Time for a call, unless its server has a `timeout` of its own: 10ms to 1d.
    pub call_timeout: ConfigDuration,
    /// How long a stream may be silent: 10ms to 1d.
    pub stream_idle: ConfigDuration,
    /// Time after which a silent stream to a client gets a comment, so that no proxy closes it: 10ms to 1h.
    pub sse_keepalive: ConfigDuration,
    /// How long an unused session lives: 1s to 30d.
    pub session_ttl: ConfigDuration,
    /// Time for running requests to finish at shutdown: 0s to 1h.
    pub drain: ConfigDuration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: ByteSize::mib(4),
            max_response: ByteSize::mib(32),
            max_header: ByteSize::kib(32),
            max_json_depth: 64,
            max_line: ByteSize::mib(16),
            max_sessions: 100_000,
            max_sessions_per_caller: None,
            max_connections: 20_000,
            max_buffered: ByteSize::mib(512),
            header_timeout: ConfigDuration::secs(10),
            body_timeout: ConfigDuration::secs(30),
            write_timeout: ConfigDuration::secs(60),
            connect_timeout: ConfigDuration::secs(5),
            call_timeout: ConfigDuration::secs(60),
            stream_idle: ConfigDuration::mins(5),
            sse_keepalive: ConfigDuration::secs(15),
            session_ttl: ConfigDuration::hours(1),
            drain: ConfigDuration::secs(20),
        }
    }
}

/// The range of `limits.call_timeout` and of a server's `timeout`.
pub(super) const CALL: (ConfigDuration, ConfigDuration) =
    (ConfigDuration::millis(10), ConfigDuration::hours(24));
/// The range of `limits.max_response` and of a server's `max_response`.
pub(super) const RESPONSE: (ByteSize, ByteSize) = (ByteSize::kib(1), ByteSize::mib(1024));

/// The range of a server's `max_stream`.
pub(super) const STREAM: (ByteSize, ByteSize) = (ByteSize::kib(1), ByteSize::mib(1 << 20));

impl Limits {
    /// Reports each value that lies outside of its range.
    pub(super) fn check(&self, node_ref: &NodeRef<'_>) {
        let ms = ConfigDuration::millis;
        within(node_ref, "max_body", self.max_body, (ByteSize::kib(1), ByteSize::mib(64)));
        within(node_ref, "max_response", self.max_response, RESPONSE);
        within(node_ref, "max_header", self.max_header, (ByteSize::kib(1), ByteSize::mib(1)));
        within(node_ref, "max_json_depth", self.max_json_depth, (4, 512));
        within(node_ref, "max_line", self.max_line, (ByteSize::kib(1), ByteSize::mib(256)));
        within(node_ref, "max_sessions", self.max_sessions, (1, 10_000_000));
        if let Some(share) = self.max_sessions_per_caller {
            within(node_ref, "max_sessions_per_caller", share, (1, 10_000_000));
        }
        within(node_ref, "max_connections", self.max_connections, (1, 10_000_000));
        within(node_ref, "max_buffered", self.max_buffered, (ByteSize::mib(1), ByteSize::mib(1 << 20)));
        within(node_ref, "header_timeout", self.header_timeout, (ms(10), ConfigDuration::mins(10)));
        within(node_ref, "body_timeout", self.body_timeout, (ms(10), ConfigDuration::hours(1)));
        within(node_ref, "write_timeout", self.write_timeout, (ms(10), ConfigDuration::hours(1)));
        within(node_ref, "connect_timeout", self.connect_timeout, (ms(10), ConfigDuration::mins(5)));
        within(node_ref, "call_timeout", self.call_timeout, CALL);
        within(node_ref, "stream_idle", self.stream_idle, (ms(10), ConfigDuration::hours(24)));
        within(node_ref, "sse_keepalive", self.sse_keepalive, (ms(10), ConfigDuration::hours(1)));
        within(
            node_ref,
            "session_ttl",
            self.session_ttl,
            (ConfigDuration::secs(1), ConfigDuration::hours(720)),
        );
        within(node_ref, "drain", self.drain, (ms(0), ConfigDuration::hours(1)));
    }

    /// How many sessions one caller may have.
    pub fn share(&self) -> u64 {
        self.max_sessions_per_caller.unwrap_or((self.max_sessions / 10).max(16)).min(self.max_sessions)
    }

    /// Each key with its value as text, for the log of changes.
    pub(super) fn values(&self) -> [(&'static str, String); KEYS.len()] {
        [
            ("max_body", self.max_body.to_string()),
            ("max_response", self.max_response.to_string()),
            ("max_header", self.max_header.to_string()),
            ("max_json_depth", self.max_json_depth.to_string()),
            ("max_line", self.max_line.to_string()),
            ("max_sessions", self.max_sessions.to_string()),
            ("max_sessions_per_caller", self.share().to_string()),
            ("max_connections", self.max_connections.to_string()),
            ("max_buffered", self.max_buffered.to_string()),
            ("header_timeout", self.header_timeout.to_string()),
            ("body_timeout", self.body_timeout.to_string()),
            ("write_timeout", self.write_timeout.to_string()),
            ("connect_timeout", self.connect_timeout.to_string()),
            ("call_timeout", self.call_timeout.to_string()),
            ("stream_idle", self.stream_idle.to_string()),
            ("sse_keepalive", self.sse_keepalive.to_string()),
            ("session_ttl", self.session_ttl.to_string()),
            ("drain", self.drain.to_string()),
        ]
    }
}

/// Reports the value under this key if it is out of range. An absent key is not checked.
pub(super) fn within<T: PartialOrd + std::fmt::Display>(
    node_ref: &NodeRef<'_>,
    key: &str,
    value: T,
    range: (T, T),
) {
    let (least, max) = range;
    let Some(node_ref) = node_ref.child(key) else { return };
    if value < least {
        node_ref.reject("too small", format!("expected {least} to {max}"));
    } else if value > max {
        node_ref.reject("too large", format!("expected {least} to {max}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_value() {
        assert_eq!(Limits::default().values().map(|(key, _)| key), KEYS);
    }
}
