//! Spans of time: `250ms`, `30s`, `5m`, `1h`, `7d`.
//!
//! A number alone is rejected: some programs use seconds and some milliseconds.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::{ScalarValue, scalar};

/// A span of time, in whole milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConfigDuration(u64);

/// With their milliseconds, largest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl ConfigDuration {
    /// This many milliseconds.
    pub const fn millis(count: u64) -> Self {
        Self(count)
    }

    /// This many seconds.
    pub const fn secs(count: u64) -> Self {
        Self(count * 1_000)
    }

    /// This many minutes.
    pub const fn mins(count: u64) -> Self {
        Self(count * 60_000)
    }

    /// This many hours.
    pub const fn hours(count: u64) -> Self {
        Self(count * 3_600_000)
    }

    /// As the standard library has it.
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl From<ConfigDuration> for Duration {
    fn from(span: ConfigDuration) -> Self {
        span.get()
    }
}

impl ScalarValue for ConfigDuration {
    const EXPECTED: &'static str = "a duration such as `250ms`, `30s`, `5m`, `1h` or `7d`";

    fn read(text: &str) -> Result<Self, &'static str> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        if number.is_empty() {
            return Err("not a duration");
        }
        if unit.is_empty() {
            return Err("missing unit");
        }
        let millis = UNITS.iter().find(|(name, _)| *name == unit).ok_or("not a duration")?.1;
        let span = number.parse::<u64>().ok().and_then(|number| number.checked_mul(millis));
        span.map(Self).ok_or("duration too large")
    }
}

scalar!(ConfigDuration);

impl From<Duration> for ConfigDuration {
    /// Cut to milliseconds.
    fn from(time: Duration) -> Self {
        Self(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for ConfigDuration {
    /// In the largest unit without a remainder.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, millis)| self.0 >= *millis && self.0.is_multiple_of(*millis)) {
            Some((unit, millis)) => write!(f, "{}{unit}", self.0 / millis),
            None => f.write_str("0s"),
        }
    }
}

impl fmt::Debug for ConfigDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As written in the file, for the defaults in the schema.
impl Serialize for ConfigDuration {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl JsonSchema for ConfigDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A span of time, as one number with its unit: `250ms`, `30s`, `90m`, `1h`, `7d`.",
            "type": "string",
            "pattern": "^[0-9]+(ms|s|m|h|d)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written() {
        for (text, millis, shown) in [
            ("0s", 0, "0s"),
            ("250ms", 250, "250ms"),
            ("1000ms", 1_000, "1s"),
            ("30s", 30_000, "30s"),
            ("90s", 90_000, "90s"),
            ("5m", 300_000, "5m"),
            ("1h", 3_600_000, "1h"),
            ("7d", 604_800_000, "7d"),
        ] {
            let span = ConfigDuration::read(text).expect(text);
            assert_eq!(span.get(), Duration::from_millis(millis), "{text}");
            assert_eq!(span.to_string(), shown);
        }
    }

    #[test]
    fn what_is_not_a_span_is_refused() {
        for (text, what) in [
            ("", "not a duration"),
            ("s", "not a duration"),
            ("-5s", "not a duration"),
            ("1.5s", "not a duration"),
            ("5 s", "not a duration"),
            ("5S", "not a duration"),
            ("1h30m", "not a duration"),
            ("60", "missing unit"),
            ("99999999999999999999s", "duration too large"),
            ("9999999999999999999d", "duration too large"),
        ] {
            assert_eq!(ConfigDuration::read(text), Err(what), "{text:?}");
        }
    }
}
