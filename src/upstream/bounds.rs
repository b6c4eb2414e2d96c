//! The limits that hold for one server: its own settings where it has any, else those for all.

use std::time::Duration;

use crate::config;

/// The limits that hold for one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub timeout: Duration,
    pub connect_timeout: Duration,
    /// How long a stream of announcements may be silent before it is opened anew.
    pub stream_idle: Duration,
    pub max_response: usize,
    pub max_line: usize,
}

impl Bounds {
    /// Its own settings where it has any, else those for all.
    pub fn of(config: &config::Server, limits: &config::Limits) -> Self {
        Self {
            timeout: config.call_timeout(limits),
            connect_timeout: limits.connect_timeout.get(),
            stream_idle: limits.stream_idle.get(),
            max_response: config.response_limit(limits),
            max_line: limits.max_line.as_usize(),
        }
    }
}
