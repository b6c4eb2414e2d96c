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

/// Most calls in one window: a larger number is probably a mistake.
pub(crate) const MAX_COUNT: u64 = 1_000_000_000;

impl ScalarValue for RateSpec {
    const EXPECTED: &'static str = "a number of calls and a time window, such as `600/1m`";

    fn read(text: &str) -> Result<Self, &'static str> {
        let Some((count, per)) = text.split_once('/') else {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            return Err(if digits { "missing time window" } else { "not a rate" });
        };
        if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("rate does not begin with a whole number");
        }
        if matches!(per, "ms" | "s" | "m" | "h" | "d" | "sec" | "second" | "min" | "minute" | "hour" | "day")
        {
            return Err("time window has no number");
        }
        let per = ConfigDuration::read(per).map_err(|_| match per.parse::<u64>() {
            Ok(_) => "time window has no unit",
            Err(_) => "invalid time window",
        })?;
        let count = count.parse::<u64>().ok().filter(|count| *count <= MAX_COUNT);
        match count.ok_or("rate of more than 1000000000 calls")? {
            0 => Err("rate of zero calls"),
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
            ("600", "missing time window"),
            ("600/m", "time window has no number"),
            ("600/minute", "time window has no number"),
            ("600/60", "time window has no unit"),
            ("600/1x", "invalid time window"),
            ("600 / 1m", "rate does not begin with a whole number"),
            ("/1m", "rate does not begin with a whole number"),
            ("-1/1m", "rate does not begin with a whole number"),
            ("0/1m", "rate of zero calls"),
            ("1000000001/1m", "rate of more than 1000000000 calls"),
        ] {
            assert_eq!(RateSpec::read(text), Err(what), "{text}");
        }
    }
}
