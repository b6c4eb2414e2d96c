//! Plays scripts of calls.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use filters::rate_limit::{Counters, OnFailure, Rate, RateRule};

use super::{DAY, HOUR, Hands, MIN, Spoken, now};

/// A script. `alice` passes, `alice*3` does so three times, `!alice=500` is denied with a wait of 500 ms,
/// `!alice` is denied. `+500` advances the clock by 500 ms (`+5us`, `+1d`: by those). `hold:alice` passes and
/// runs until `drop` (the oldest) or `drop*2`. `back:1h` sets the wall clock back; `reload` uses the next
/// plan.
pub fn play(sentence: &str, plans: Vec<Vec<RateRule>>, script: &str) {
    let hands = Hands::new();
    let counters = Arc::new(Counters::new(hands.clone(), 10_000));
    let mut plans = plans.into_iter().map(|rules| Rate::new(rules, counters.clone(), None, OnFailure::Local));
    let mut rate = plans.next().expect("a plan");
    let mut held = VecDeque::new();
    for step in script.split(' ') {
        let place = format!("{sentence}: {step} in {script}");
        if let Some(by) = step.strip_prefix('+') {
            hands.turn(span(by));
            continue;
        }
        if let Some(by) = step.strip_prefix("back:") {
            hands.set_back(span(by));
            continue;
        }
        let (step, wait) = match step.split_once('=') {
            Some((step, wait)) => (step, Some(wait.parse::<u64>().expect(&place))),
            None => (step, None),
        };
        let (step, times) = match step.split_once('*') {
            Some((step, times)) => (step, times.parse::<u32>().expect(&place)),
            None => (step, 1),
        };
        for time in 1..=times {
            if step == "reload" {
                rate = plans.next().expect(&place);
            } else if step == "drop" {
                drop(held.pop_front().expect(&place));
            } else if let Some(who) = step.strip_prefix('!') {
                let rejection = now(Spoken::read(who).knock(&rate)).expect_err(&place);
                let retry_after = rejection.retry_after.expect(&place);
                assert_eq!(rejection.status, 429, "{place}");
                assert!(
                    wait.is_none_or(|wait| retry_after == Duration::from_millis(wait)),
                    "{place}: {retry_after:?}"
                );
            } else {
                let who = step.trim_start_matches("hold:");
                let slots = now(Spoken::read(who).knock(&rate));
                let slots = slots.unwrap_or_else(|rejection| panic!("{place}, time {time}: {rejection:?}"));
                if step.starts_with("hold:") {
                    held.push_back(slots);
                }
            }
        }
    }
}

fn span(text: &str) -> Duration {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let number: u64 = text[..text.len() - unit.len()].parse().expect(text);
    match unit {
        "us" => Duration::from_micros(number),
        "" => Duration::from_millis(number),
        "m" => MIN * number as u32,
        "h" => HOUR * number as u32,
        "d" => DAY * number as u32,
        other => panic!("no unit: {other}"),
    }
}
