//! The timestamp of a log line (RFC 3339). All but the milliseconds is cached for its second.

use std::fmt::Write as _;
use std::time::SystemTime;

use chrono::{DateTime, Timelike as _, Utc};

/// The timestamp as text; within a second only its end changes.
#[derive(Default)]
pub struct TimestampCache {
    second: Option<i64>,
    text: String,
}

impl TimestampCache {
    pub fn write(&mut self, out: &mut String, at: SystemTime) {
        let at = DateTime::<Utc>::from(at);
        if self.second.replace(at.timestamp()) != Some(at.timestamp()) {
            self.text.clear();
            let _ = write!(self.text, "{}", at.format("%Y-%m-%dT%H:%M:%S"));
        }
        out.push_str(&self.text);
        let _ = write!(out, ".{:03}Z", at.nanosecond() / 1_000_000 % 1000);
    }
}
