//! The messages for a caller who has reached a limit: sentences that a model can act on.

use std::time::Duration;

use super::algorithms::Budget;
use super::rule::RateRule;
use mcp::{Reason, Rejection};

pub(super) fn limit_reached(rule: &RateRule, wait: Duration) -> Box<Rejection> {
    let wait = whole_millis(wait);
    let name = &rule.name;
    let (reason, message) = match rule.budget {
        Budget::Rate { count, per, burst } => {
            let at_once = if burst == count { String::new() } else { format!(", {burst} at once") };
            let message = format!(
                "Rate limit `{name}` reached: at most {} in {}{at_once}. Wait {}, then try this call again; \
                 do not repeat it sooner.",
                calls(count),
                short_duration(per),
                long_duration(wait)
            );
            (Reason::RateLimited, message)
        }
        Budget::Quota { count, per } => {
            let message = format!(
                "Quota `{name}` is used up: at most {} in {}. It begins anew in {}; until then no call under \
                 it will pass, so do not repeat this one.",
                calls(count),
                short_duration(per),
                long_duration(wait)
            );
            (Reason::QuotaExceeded, message)
        }
        Budget::Concurrent(max) => {
            let message = format!(
                "Limit `{name}` reached: {} under way at once, and no more are allowed. Wait for one of them \
                 to end, then try this call again.",
                calls(max.into())
            );
            (Reason::TooManyAtOnce, message)
        }
    };
    let limit = serde_json::Value::from(name.as_str());
    let data = format!(r#"{{"retry_after_ms":{},"limit":{limit}}}"#, wait.as_millis());
    Box::new(Rejection::http(429, reason, message).with_data(data).retry_after(wait))
}

/// For a failed store with `on_failure: closed`.
pub(super) fn unavailable() -> Box<Rejection> {
    let wait = Duration::from_secs(1);
    let message = "The limits of this gateway cannot be judged at the moment. Wait 1 second, then try this \
                   call again.";
    let data = format!(r#"{{"retry_after_ms":{}}}"#, wait.as_millis());
    Box::new(Rejection::http(503, Reason::LimitsUnavailable, message).with_data(data).retry_after(wait))
}

/// Rounded up: a caller who waits exactly that long passes.
fn whole_millis(wait: Duration) -> Duration {
    let millis = wait.as_nanos().div_ceil(1_000_000).max(1);
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

fn calls(count: u64) -> String {
    if count == 1 { "1 call".into() } else { format!("{count} calls") }
}

/// As it is written in the configuration: `1m`, `30d`, `90s`.
fn short_duration(per: Duration) -> String {
    let millis = per.as_millis().max(1);
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let unit = units.iter().find(|(_, size)| millis.is_multiple_of(*size));
    let (unit, size) = unit.copied().unwrap_or(("ms", 1));
    format!("{}{unit}", millis / size)
}

/// As text, rounded up. In seconds up to a plausible waiting time.
fn long_duration(wait: Duration) -> String {
    let many = |count: u128, unit: &str| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    let tenths = wait.as_millis().div_ceil(100);
    if tenths < 6000 {
        return match tenths % 10 {
            0 => many(tenths / 10, "second"),
            rest => format!("{}.{rest} seconds", tenths / 10),
        };
    }
    let minutes = tenths.div_ceil(600);
    match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
        (0, 0, minutes) => many(minutes, "minute"),
        (0, hours, minutes) => format!("{} {}", many(hours, "hour"), many(minutes, "minute")),
        (days, hours, _) => format!("{} {}", many(days, "day"), many(hours + 1, "hour")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_written_as_text_and_never_too_short() {
        for (millis, message) in [
            (1, "0.1 seconds"),
            (1000, "1 second"),
            (1900, "1.9 seconds"),
            (1901, "2 seconds"),
            (599_900, "599.9 seconds"),
            (600_000, "10 minutes"),
            (600_001, "11 minutes"),
            (3_600_000, "1 hour 0 minutes"),
            (11_520_000, "3 hours 12 minutes"),
            (90_000_000, "1 day 2 hours"),
        ] {
            assert_eq!(long_duration(Duration::from_millis(millis)), message, "{millis}");
        }
    }

    #[test]
    fn spans_are_displayed_as_written() {
        for (millis, message) in
            [(60_000, "1m"), (1000, "1s"), (86_400_000, "1d"), (90_000, "90s"), (1500, "1500ms")]
        {
            assert_eq!(short_duration(Duration::from_millis(millis)), message);
        }
    }
}
