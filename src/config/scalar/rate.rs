//! So many in so long: `600/1m`.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::duration::ConfigDuration;
use super::{ScalarValue, scalar};

/// A number of calls and the time that they are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateSpec {
    pub count: u64,
    pub per: ConfigDuration,
}

/// Most calls in one window: past it a number is a slip rather than a wish.
pub(crate) const MAX_COUNT: u64 = 1_000_000_000;

impl ScalarValue for RateSpec {
    const EXPECTED: &'static str = "a number of calls and the time that they are for, such as `600/1m`";

    fn read(text: &str) -> Result<Self, &'static str> {
        let Some((count, per)) = text.split_once('/') else {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            return Err(if digits { "a number of calls without a time" } else { "not a rate" });
        };
        if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("a rate that does not begin with a whole number");
        }
        if matches!(per, "ms" | "s" | "m" | "h" | "d" | "sec" | "second" | "min" | "minute" | "hour" | "day")
        {
            return Err("a rate whose time has no number");
        }
        let per = ConfigDuration::read(per).map_err(|_| match per.parse::<u64>() {
            Ok(_) => "a rate whose time has no unit",
            Err(_) => "a rate whose time is not understood",
        })?;
        let count = count.parse::<u64>().ok().filter(|count| *count <= MAX_COUNT);
        match count.ok_or("a rate of more than 1000000000 calls")? {
            0 => Err("a rate of no calls at all"),
            count => Ok(Self { count, per }),
        }
    }
}

scalar!(RateSpec);

impl fmt::Display for RateSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per)
    }
}

impl fmt::Debug for RateSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl JsonSchema for RateSpec {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of calls and the time that they are for: `600/1m`.",
            "type": "string",
            "pattern": "^[0-9]+/[0-9]+(ms|s|m|h|d)$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_a_number_and_a_time() {
        for (text, count, per) in
            [("600/1m", 600, ConfigDuration::mins(1)), ("1/30s", 1, ConfigDuration::secs(30))]
        {
            assert_eq!(RateSpec::read(text), Ok(RateSpec { count, per }), "{text}");
            assert_eq!(RateSpec { count, per }.to_string(), text);
        }
        for (text, what) in [
            ("", "not a rate"),
            ("many", "not a rate"),
            ("600", "a number of calls without a time"),
            ("600/m", "a rate whose time has no number"),
            ("600/minute", "a rate whose time has no number"),
            ("600/60", "a rate whose time has no unit"),
            ("600/1x", "a rate whose time is not understood"),
            ("600 / 1m", "a rate that does not begin with a whole number"),
            ("/1m", "a rate that does not begin with a whole number"),
            ("-1/1m", "a rate that does not begin with a whole number"),
            ("0/1m", "a rate of no calls at all"),
            ("1000000001/1m", "a rate of more than 1000000000 calls"),
        ] {
            assert_eq!(RateSpec::read(text), Err(what), "{text}");
        }
    }
}
