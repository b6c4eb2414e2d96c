//! Limits with a shared store: the requests to it, the checks of its responses, and the fallback without it.

mod rate_world;

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use filters::rate_limit::KeyPart::{Ip, Role, Tenant, Tool, User};
use filters::rate_limit::{
    Budget, Counters, OnFailure, Rate, RateLimitStore, RateRule, StoreOutcome, StoreRequest, StoreUnavailable,
};
use rate_world::*;

/// A scripted store that records its requests.
#[derive(Default)]
struct Oracle {
    says: Mutex<Option<Result<StoreOutcome, StoreUnavailable>>>,
    asked: Mutex<Vec<Vec<StoreRequest>>>,
}

impl RateLimitStore for Oracle {
    fn take<'a>(
        &'a self,
        asks: &'a [StoreRequest],
    ) -> Pin<Box<dyn Future<Output = Result<StoreOutcome, StoreUnavailable>> + Send + 'a>> {
        self.asked.lock().expect("no panic").push(asks.to_vec());
        let answer = self.says.lock().expect("no panic").unwrap_or(Ok(StoreOutcome::Granted));
        Box::pin(std::future::ready(answer))
    }
}

impl Oracle {
    fn respond(&self, answer: Result<StoreOutcome, StoreUnavailable>) {
        *self.says.lock().expect("no panic") = Some(answer);
    }

    fn asked(&self) -> Vec<Vec<StoreRequest>> {
        std::mem::take(&mut self.asked.lock().expect("no panic"))
    }
}

fn behind(rules: Vec<RateRule>, on_failure: OnFailure) -> (Arc<Hands>, Arc<Oracle>, Rate) {
    let (hands, oracle) = (Hands::new(), Arc::new(Oracle::default()));
    let counters = Arc::new(Counters::new(hands.clone(), 10_000));
    let limit = Rate::new(rules, counters, Some(oracle.clone()), on_failure);
    (hands, oracle, limit)
}

#[test]
fn a_store_is_asked_once_for_all_that_a_call_wants() {
    let rules = vec![
        rate(&[User, Tool], 30, MIN, 5),
        concurrent(&[User], 1),
        rate(&[Role], 9, SEC, 9),
        quota(&[Tenant, Ip], 100, DAY),
    ];
    let (_hands, oracle, limit) = behind(rules, OnFailure::Local);
    let long = format!("a&https://id.example.com@acme#dev,ops>s__{}%2001:db8::7:1", "x".repeat(500));
    drop(now(Spoken::read(&long.replace("&https://", "&")).knock(&limit)).expect("granted"));
    let asked = oracle.asked();
    assert_eq!(asked.len(), 1);
    let keys: Vec<&str> = asked[0].iter().map(|ask| ask.key.as_str()).collect();
    assert_eq!(keys[0].rsplit_once(':').expect("parts").0, "{limits}:rate:limit:jwt:id.example.com:acme:a");
    assert!(keys[0].len() < 120 && keys[0].contains(":~"), "{}", keys[0]);
    assert_eq!(keys[1], "{limits}:rate:limit:dev");
    assert_eq!(keys[2], "{limits}:rate:limit:ops");
    assert_eq!(keys[3], "{limits}:quota:quota:acme:[2001:db8::]");
    assert_eq!(asked[0][0].budget, Budget::Rate { count: 30, per: MIN, burst: 5 });
}

#[test]
fn odd_names_cannot_make_the_key_of_another() {
    let (_hands, oracle, limit) = behind(vec![rate(&[Tenant, User], 1, SEC, 1)], OnFailure::Local);
    let mut keys = std::collections::HashSet::new();
    for word in ["b@a", "a:b@", "@a:b", "b:c@a", "c@a:b", "~x@", "é@", "*@", "b@a", " @"] {
        drop(now(Spoken::read(word).knock(&limit)));
        keys.insert(oracle.asked()[0][0].key.clone());
    }
    assert_eq!(keys.len(), 9);
    assert!(keys.iter().all(|key| key.bytes().all(|b| b.is_ascii_graphic())));
}

#[test]
fn what_the_store_refuses_is_refused_without_it_until_then() {
    let (hands, oracle, limit) =
        behind(vec![rate(&[User], 1, SEC, 1), concurrent(&[User], 1)], OnFailure::Local);
    let (alice, bob) = (Spoken::read("alice"), Spoken::read("bob"));
    oracle.respond(Ok(StoreOutcome::Denied { ask: 0, wait: Duration::from_millis(700) }));
    assert_eq!(now(alice.knock(&limit)).expect_err("short").retry_after, Some(Duration::from_millis(700)));
    hands.turn(Duration::from_millis(699));
    assert_eq!(now(alice.knock(&limit)).expect_err("short").retry_after, Some(Duration::from_millis(1)));
    assert_eq!(oracle.asked().len(), 1);
    oracle.respond(Ok(StoreOutcome::Granted));
    assert!(now(bob.knock(&limit)).is_ok());
    assert!(now(alice.knock(&limit)).is_err());
    hands.turn(Duration::from_millis(1));
    assert!(now(alice.knock(&limit)).is_ok(), "and its slot was given back each time");
    // A quota that an operator may reset is requested again.
    oracle.respond(Ok(StoreOutcome::Denied { ask: 0, wait: HOUR }));
    assert!(now(alice.knock(&limit)).is_err());
    oracle.respond(Ok(StoreOutcome::Granted));
    assert!(now(alice.knock(&limit)).is_ok());
}

#[test]
fn without_a_store_that_can_be_understood_the_configuration_decides() {
    let rules = || vec![rate(&[User], 1, SEC, 2), concurrent(&[User], 3)];
    let failures = [Err(StoreUnavailable), Ok(StoreOutcome::Denied { ask: 7, wait: SEC })];
    let choices = [(OnFailure::Local, 2), (OnFailure::Open, 3), (OnFailure::Closed, 0)];
    for ((on_failure, pass), failure) in choices.iter().flat_map(|c| failures.map(|failure| (*c, failure))) {
        let (_hands, oracle, limit) = behind(rules(), on_failure);
        oracle.respond(failure);
        let all: Vec<_> = (0..9).map(|_| now(Spoken::read("alice").knock(&limit))).collect();
        assert_eq!(all.iter().filter(|slots| slots.is_ok()).count(), pass, "{on_failure:?}");
        if let (OnFailure::Closed, Some(Err(rejection))) = (on_failure, all.last()) {
            assert_eq!((rejection.status, rejection.reason.as_str()), (503, "limits_unavailable"));
            assert_eq!(rejection.retry_after, Some(SEC));
            assert_eq!(rejection.data.as_deref(), Some(r#"{"retry_after_ms":1000}"#));
        }
        drop(all);
        oracle.respond(Ok(StoreOutcome::Granted));
        let again: Vec<_> = (0..3).map(|_| now(Spoken::read("alice").knock(&limit))).collect();
        assert!(again.iter().all(Result::is_ok), "the store is back: {on_failure:?}");
    }
}
