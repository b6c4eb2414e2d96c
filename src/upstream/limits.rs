//! The limits of one server: its own settings if it has any, else those for all.

use std::time::Duration;

use crate::config;

/// Bytes of all events of one response, if the server has no limit of its own.
const MAX_STREAM: usize = 64 << 20;

/// The limits of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamLimits {
    pub timeout: Duration,
    /// For a start, from the first handshake on.
    pub startup: Duration,
    pub connect_timeout: Duration,
    /// How long a notification stream may be silent before it is opened again.
    pub stream_idle: Duration,
    pub max_response: usize,
    /// Bytes of all events of one response together.
    pub max_stream: usize,
    /// Failures in a row that open the circuit, and how long it stays open.
    pub breaker: Option<(u32, Duration)>,
    pub max_line: usize,
}

impl UpstreamLimits {
    /// Whether a connection that was made under these limits is valid under the others too.
    pub fn same_connection(&self, other: &Self) -> bool {
        (self.connect_timeout, self.max_line) == (other.connect_timeout, other.max_line)
    }

    /// Its own settings if it has any, else those for all.
    pub fn of(config: &config::ServerConfig, limits: &config::Limits) -> Self {
        Self {
            timeout: config.call_timeout(limits),
            startup: config.startup(),
            connect_timeout: limits.connect_timeout.get(),
            stream_idle: limits.stream_idle.get(),
            max_response: config.response_limit(limits),
            max_stream: config.max_stream.map_or(MAX_STREAM, config::ByteSize::as_usize),
            breaker: config.circuit_breaker.map(|breaker| (breaker.failures, breaker.open_for.get())),
            max_line: limits.max_line.as_usize(),
        }
    }
}
