//! Guarantees of limits: in any order of calls they never let more through than configured. Also their
//! behavior with many threads and without room, and their messages.

mod rate_world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use filters::rate_limit::KeyPart::{Ip, Tenant, Tool, User};
use filters::rate_limit::{Budget, Counters, OnFailure, Rate, RateRule, SystemClock};
use proptest::prelude::*;
use rate_world::*;

fn on_hands(rules: Vec<RateRule>) -> (Arc<Hands>, Rate) {
    let hands = Hands::new();
    let counters = Arc::new(Counters::new(hands.clone(), 10_000));
    (hands, Rate::new(rules, counters, None, OnFailure::Local))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_window_holds_more_than_the_burst_and_the_rate(
        count in 1u64..5000,
        per_ms in 1u64..100_000,
        burst in 1u64..50,
        pauses in prop::collection::vec(0u64..2_000_000_000, 1..300),
        hurry in 1u64..1000,
    ) {
        let (hands, limit) = on_hands(vec![rate(&[User], count, Duration::from_millis(per_ms), burst)]);
        let alice = Spoken::read("alice");
        let mut passed = Vec::new();
        let mut at = 0u64;
        for pause in pauses {
            at += pause / hurry;
            hands.turn(Duration::from_nanos(pause / hurry));
            match now(alice.knock(&limit)) {
                Ok(_) => passed.push(at),
                Err(rejection) => {
                    prop_assert!(rejection.retry_after.is_some_and(|wait| wait > Duration::ZERO));
                }
            }
        }
        for (first, from) in passed.iter().enumerate() {
            for (last, until) in passed.iter().enumerate().skip(first) {
                let max = u128::from(burst)
                    + u128::from(until - from) * u128::from(count) / (u128::from(per_ms) * 1_000_000);
                let slots = (last - first + 1) as u128;
                prop_assert!(slots <= max, "{slots} in {} ns", until - from);
            }
        }
    }

    #[test]
    fn a_caller_passes_after_the_stated_wait_and_no_sooner(
        count in 1u64..100_000,
        per_ms in 1000u64..10_000_000,
        burst in 1u64..20,
        error in 0u64..3_000_000,
    ) {
        let (hands, limit) = on_hands(vec![rate(&[User], count, Duration::from_millis(per_ms), burst)]);
        let alice = Spoken::read("alice");
        hands.turn(Duration::from_nanos(error));
        for _ in 0..burst {
            prop_assert!(now(alice.knock(&limit)).is_ok());
        }
        hands.turn(Duration::from_nanos(error.min(per_ms * 1_000_000 / count - 1)));
        let wait = now(alice.knock(&limit)).expect_err("used up").retry_after.expect("a wait");
        let almost = wait - Duration::from_millis(1);
        hands.turn(almost);
        prop_assert!(now(alice.knock(&limit)).is_err(), "a millisecond less than {wait:?} was enough");
        hands.turn(wait - almost);
        prop_assert!(now(alice.knock(&limit)).is_ok(), "{wait:?} was not enough");
    }

    #[test]
    fn a_quota_is_kept_in_every_window(
        count in 1u64..40,
        secs in 1u64..5000,
        pauses in prop::collection::vec(0u64..2000, 1..400),
    ) {
        let (hands, limit) = on_hands(vec![quota(&[User], count, Duration::from_secs(secs))]);
        let alice = Spoken::read("alice");
        let mut windows = std::collections::HashMap::<u64, u64>::new();
        let mut at = START * 1000;
        for pause in pauses {
            at += pause;
            hands.turn(Duration::from_millis(pause));
            let used = windows.entry(at / 1000 / secs).or_default();
            let has_passed = now(alice.knock(&limit)).is_ok();
            prop_assert_eq!(has_passed, *used < count);
            *used += u64::from(has_passed);
        }
    }
}

/// Calls of `threads` threads for a while: how many passed, and how long it took.
fn hammer(limit: &Rate, message: &[&str], time: Duration) -> (u64, Duration) {
    let passed = AtomicU64::new(0);
    let from = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let passed = &passed;
            scope.spawn(move || {
                let who = Spoken::read(message[thread % message.len()]);
                while from.elapsed() < time {
                    if now(who.knock(limit)).is_ok() {
                        passed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    (passed.into_inner(), from.elapsed())
}

#[test]
fn eight_threads_at_once_get_no_more_than_one() {
    let clock = Arc::new(SystemClock::default());
    for (count, burst) in [(1000, 50), (50_000, 1), (200, 200)] {
        let counters = Arc::new(Counters::new(clock.clone(), 1000));
        let limit = Rate::new(vec![rate(&[User], count, SEC, burst)], counters, None, OnFailure::Local);
        let (passed, took) = hammer(&limit, &["alice"], Duration::from_millis(700));
        let max = burst + (took.as_secs_f64() * count as f64) as u64 + 1;
        assert!(passed <= max, "{passed} of {max}");
        assert!(passed >= burst, "only {passed} of {max}");
    }
}

#[test]
fn a_returned_unit_lets_no_call_through_twice() {
    // Half of the calls take from the shared budget and are then denied by their own.
    let clock = Arc::new(SystemClock::default());
    let counters = Arc::new(Counters::new(clock, 1000));
    let mut own = rate(&[User], 1, HOUR, 1);
    own.name = "own".into();
    own.matches.tools = globs(&["s__*"]);
    let rules = vec![rate(&[Tenant], 2000, SEC, 20), own];
    let limit = Rate::new(rules, counters, None, OnFailure::Local);
    let (passed, took) = hammer(&limit, &["a@x", "b@x>s__x"], Duration::from_millis(700));
    let max = 20 + (took.as_secs_f64() * 2000.0) as u64 + 1;
    assert!(passed <= max, "{passed} of {max}");
    assert!(passed >= 20, "only {passed} of {max}");
}

#[test]
fn a_quota_is_exact_under_eight_threads() {
    let (_hands, limit) = on_hands(vec![quota(&[User], 5000, DAY)]);
    assert_eq!(hammer(&limit, &["alice"], Duration::from_millis(300)).0, 5000);
}

#[test]
fn never_are_more_calls_under_way_than_there_are_slots() {
    let (_hands, limit) = on_hands(vec![concurrent(&[User], 3)]);
    let (under_way, max) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let alice = Spoken::read("alice");
                for _ in 0..4_000 {
                    if let Ok(slot) = now(alice.knock(&limit)) {
                        max.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        under_way.fetch_sub(1, Ordering::SeqCst);
                        drop(slot);
                    }
                }
            });
        }
    });
    assert_eq!(max.into_inner(), 3);
    let alice = Spoken::read("alice");
    let all: Vec<_> = (0..4).map(|_| now(alice.knock(&limit))).collect();
    assert_eq!(all.iter().filter(|slot| slot.is_ok()).count(), 3, "all slots are free again");
}

#[test]
fn a_refusal_tells_a_model_what_to_do() {
    let say = |rule: RateRule, word: &str| {
        let (_hands, limit) = on_hands(vec![rule]);
        let slots: Vec<_> = (0..30).map(|_| now(Spoken::read(word).knock(&limit))).collect();
        *slots.into_iter().find_map(Result::err).expect("one too many")
    };
    let mut rule = rate(&[User, Tool], 30, MIN, 30);
    (rule.name, rule.budget) = ("per-user-tool".into(), Budget::Rate { count: 30, per: MIN, burst: 1 });
    let rejection = say(rule.clone(), "alice>s__x");
    assert_eq!(
        (rejection.status, rejection.code, rejection.reason.as_str(), rejection.close),
        (429, 429, "rate_limited", false)
    );
    assert_eq!(
        rejection.message,
        "Rate limit `per-user-tool` reached: at most 30 calls in 1m, 1 at once. Wait 2 seconds, then try \
         this call again; do not repeat it sooner."
    );
    assert_eq!(rejection.data.as_deref(), Some(r#"{"retry_after_ms":2000,"limit":"per-user-tool"}"#));
    assert_eq!(rejection.retry_after, Some(Duration::from_secs(2)));

    let rejection = say(quota(&[User], 10, DAY), "alice");
    assert_eq!((rejection.status, rejection.code, rejection.reason.as_str()), (429, 429, "quota_exceeded"));
    assert_eq!(
        rejection.message,
        "Quota `quota` is used up: at most 10 calls in 1d. It begins anew in 10 hours 46 minutes; until then \
         no call under it will pass, so do not repeat this one."
    );
    let rejection = say(concurrent(&[User], 16), "alice");
    assert_eq!((rejection.status, rejection.code, rejection.reason.as_str()), (429, 429, "too_many_at_once"));
    assert_eq!(
        rejection.message,
        "Limit `parallel` reached: 16 calls under way at once, and no more are allowed. Wait for one of them \
         to end, then try this call again."
    );
    rule.name = "a \"b\"".into();
    let data = say(rule, "alice").data.expect("data");
    assert!(serde_json::from_str::<serde_json::Value>(&data).is_ok(), "{data}");
}

#[test]
fn states_without_effect_are_dropped() {
    let hands = Hands::new();
    let counters = Arc::new(Counters::new(hands.clone(), 100_000));
    let rules = vec![rate(&[Ip], 10, SEC, 10), quota(&[User], 1000, MIN), concurrent(&[User], 10)];
    let limit = Rate::new(rules, counters.clone(), None, OnFailure::Local);
    let held = now(Spoken::read("kept%10.0.0.1").knock(&limit)).expect("a slot");
    for number in 0..100_000u32 {
        hands.turn(Duration::from_millis(10));
        let word = format!("u{number}%{}", std::net::Ipv4Addr::from(number));
        drop(now(Spoken::read(&word).knock(&limit)).expect("a new caller"));
    }
    // In use: those of the last 0.1 s, and the quotas of at most 60 s; up to twice that stays until a sweep.
    assert!(counters.len() < 30_000, "{}", counters.len());
    drop(held);
    let slots: Vec<_> = (0..11).map(|_| now(Spoken::read("kept").knock(&limit))).collect();
    assert_eq!(slots.iter().filter(|slot| slot.is_ok()).count(), 10, "its slot was counted all the time");
}

#[test]
fn where_there_is_no_room_new_keys_share_one_budget() {
    let hands = Hands::new();
    let counters = Arc::new(Counters::new(hands.clone(), 6400));
    let limit = Rate::new(vec![rate(&[Ip], 1, HOUR, 2)], counters.clone(), None, OnFailure::Local);
    let first = Spoken::read("a%10.0.0.1");
    assert!(now(first.knock(&limit)).is_ok());
    let flood = (0..100_000u32)
        .filter(|number| {
            now(Spoken::read(&format!("a%{}", std::net::Ipv4Addr::from(*number))).knock(&limit)).is_ok()
        })
        .count();
    assert!(counters.len() <= 6401, "{}", counters.len());
    assert!((6000..=6402).contains(&flood), "{flood}: one each, and two for the overflow bucket");
    assert!(now(first.knock(&limit)).is_ok(), "who is known already has a budget of its own");
    assert!(now(first.knock(&limit)).is_err());
    hands.turn(HOUR * 3);
    assert!(now(Spoken::read("a%99.9.9.9").knock(&limit)).is_ok(), "there is room again");
}
