//! The time of a line of the log (RFC 3339), of which all but the milliseconds is kept for as long as its second lasts.

use std::fmt::Write as _;
use std::time::SystemTime;

use chrono::{DateTime, Timelike as _, Utc};

/// The time as text, which is the same for a second but for its end.
#[derive(Default)]
pub struct TimestampCache {
    second: Option<i64>,
    text: String,
}

impl TimestampCache {
    pub fn tell(&mut self, out: &mut String, at: SystemTime) {
        let at = DateTime::<Utc>::from(at);
        if self.second.replace(at.timestamp()) != Some(at.timestamp()) {
            self.text.clear();
            let _ = write!(self.text, "{}", at.format("%Y-%m-%dT%H:%M:%S"));
        }
        out.push_str(&self.text);
        let _ = write!(out, ".{:03}Z", at.nanosecond() / 1_000_000 % 1000);
    }
}
