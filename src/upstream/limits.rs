//! The limits that hold for one server: its own settings where it has any, else those for all.

use std::time::Duration;

use crate::config;

/// Bytes of all events of one answer, if the server has no bound of its own.
const MAX_STREAM: usize = 64 << 20;

/// The limits that hold for one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamLimits {
    pub timeout: Duration,
    /// For a start, from the first greeting on.
    pub startup: Duration,
    pub connect_timeout: Duration,
    /// How long a stream of announcements may be silent before it is opened anew.
    pub stream_idle: Duration,
    pub max_response: usize,
    /// Bytes of all events of one answer together.
    pub max_stream: usize,
    /// Failures in a row that open the circuit, and how long it stays open.
    pub breaker: Option<(u32, Duration)>,
    pub max_line: usize,
}

impl UpstreamLimits {
    /// Whether a connection that was made under these serves under the others too.
    pub fn same_connection(&self, other: &Self) -> bool {
        (self.connect_timeout, self.max_line) == (other.connect_timeout, other.max_line)
    }

    /// Its own settings where it has any, else those for all.
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
