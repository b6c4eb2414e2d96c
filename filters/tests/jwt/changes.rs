//! Time passes and keys change: cached results must not outlive their basis.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use filters::auth::{Algorithm, Auth, AuthSettings, KeySet, KeySource};
use jsonwebtoken::Algorithm as Alg;
use serde_json::json;

use crate::mint::*;

/// Keys that a test changes, now or at the next refresh.
struct Changing {
    current: Mutex<Arc<KeySet>>,
    next: Mutex<Option<KeySet>>,
    refreshes: AtomicUsize,
}

impl Changing {
    fn new(keys: KeySet) -> Arc<Self> {
        Arc::new(Self {
            current: Mutex::new(Arc::new(keys)),
            next: Mutex::new(None),
            refreshes: AtomicUsize::new(0),
        })
    }

    fn set(&self, keys: KeySet) {
        *self.current.lock().expect("not poisoned") = Arc::new(keys);
    }

    fn set_next(&self, keys: KeySet) {
        *self.next.lock().expect("not poisoned") = Some(keys);
    }

    fn refreshes(&self) -> usize {
        self.refreshes.load(Ordering::SeqCst)
    }
}

impl KeySource for Changing {
    fn current(&self) -> Arc<KeySet> {
        self.current.lock().expect("not poisoned").clone()
    }

    fn refresh(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(async {
            tokio::task::yield_now().await;
            self.refreshes.fetch_add(1, Ordering::SeqCst);
            let next = self.next.lock().expect("not poisoned").take();
            let anew = next.is_some();
            next.into_iter().for_each(|keys| self.set(keys));
            anew
        })
    }
}

fn auth_with(keys: &Arc<Changing>, clock: &Arc<AtomicU64>) -> Auth {
    let mut issuer = issuer(ALPHA, &Algorithm::ASYMMETRIC, filters::auth::StaticKeys::new(KeySet::empty()));
    issuer.keys = keys.clone();
    let clock = clock.clone();
    Auth::new(AuthSettings { issuers: vec![issuer], ..settings() })
        .with_clock(move || clock.load(Ordering::SeqCst))
}

fn now() -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(NOW))
}

fn reason(result: Result<filters::Caller, Box<mcp::Rejection>>) -> Option<&'static str> {
    result.err().map(|rejection| rejection.reason.as_str())
}

#[tokio::test]
async fn a_token_that_is_remembered_is_the_same_caller_until_it_expires() {
    let (keys, clock) = (Changing::new(alpha_keys()), now());
    let auth = auth_with(&keys, &clock);
    let token = valid(json!({"exp": NOW + 60}));
    let first = ask(&auth, &token).await.expect("valid");
    let second = ask(&auth, &token).await.expect("valid");
    assert_eq!(first.id(), second.id());
    clock.store(NOW + 60 + LEEWAY - 1, Ordering::SeqCst);
    assert_eq!(ask(&auth, &token).await.expect("within the leeway").id(), first.id());
    clock.store(NOW + 60 + LEEWAY, Ordering::SeqCst);
    assert_eq!(reason(ask(&auth, &token).await), Some("token_expired"));
    // And if the clock is set back, it is verified again.
    clock.store(NOW, Ordering::SeqCst);
    assert_ne!(ask(&auth, &token).await.expect("valid").id(), first.id());
}

#[tokio::test]
async fn a_remembered_token_is_refused_once_its_key_is_gone() {
    let (keys, clock) = (Changing::new(alpha_keys()), now());
    let auth = auth_with(&keys, &clock);
    let token = valid(json!({}));
    let first = ask(&auth, &token).await.expect("valid");
    // The same keys read again are the same keys.
    keys.set(alpha_keys());
    assert_eq!(ask(&auth, &token).await.expect("valid").id(), first.id());
    // Others, with the key: verified again.
    keys.set(jwks(&[jwk(&rsa(), Alg::RS256, json!({"kid": "rsa"}))]));
    assert_ne!(ask(&auth, &token).await.expect("valid").id(), first.id());
    // Others, without it.
    keys.set(jwks(&[jwk(&ed25519(), Alg::EdDSA, json!({"kid": "ed"}))]));
    assert_eq!(reason(ask(&auth, &token).await), Some("unknown_key"));
    // Its name, for another key.
    keys.set(jwks(&[jwk(&rsa_other(), Alg::RS256, json!({"kid": "rsa"}))]));
    assert_eq!(reason(ask(&auth, &token).await), Some("bad_signature"));
    // None at all.
    keys.set(jwks(&[]));
    assert_eq!(reason(ask(&auth, &token).await), Some("unknown_key"));
}

#[tokio::test]
async fn an_unknown_key_asks_for_one_refresh_and_passes_if_it_came() {
    let (keys, clock) = (Changing::new(jwks(&[])), now());
    let auth = auth_with(&keys, &clock);
    let token = valid(json!({}));
    assert_eq!(reason(ask(&auth, &token).await), Some("unknown_key"));
    assert_eq!(keys.refreshes(), 1);
    keys.set_next(alpha_keys());
    ask(&auth, &token).await.expect("its key has come");
    assert_eq!(keys.refreshes(), 2);
    ask(&auth, &token).await.expect("remembered");
    ask(&auth, &valid(json!({"sub": "eve"}))).await.expect("a key that is known");
    assert_eq!(keys.refreshes(), 2);
    // A refresh that does not contain the key does not cause a second one.
    keys.set_next(jwks(&[]));
    let other = token_named("elsewhere");
    assert_eq!(reason(ask(&auth, &other).await), Some("unknown_key"));
    assert_eq!(keys.refreshes(), 3);
}

fn token_named(kid: &str) -> String {
    headed(json!({ "kid": kid }))
}

#[tokio::test]
async fn nothing_but_an_unknown_key_asks_for_a_refresh() {
    let (keys, clock) = (Changing::new(alpha_keys()), now());
    let auth = auth_with(&keys, &clock);
    let forged = token(json!({"alg": "RS256", "kid": "rsa"}), claims(json!({})), &rsa_other(), Alg::RS256);
    for (token, expected) in [
        (forged, "bad_signature"),
        (valid(json!({"exp": 0})), "token_expired"),
        (valid(json!({"iss": BETA})), "wrong_issuer"),
        (headed(json!({"alg": "HS256"})), "algorithm_not_allowed"),
        ("a.b.c".into(), "token_malformed"),
    ] {
        assert_eq!(reason(ask(&auth, &token).await), Some(expected));
    }
    assert_eq!(keys.refreshes(), 0);
}

#[tokio::test]
async fn a_token_without_kid_may_be_of_a_key_that_is_new() {
    let (keys, clock) = (Changing::new(jwks(&[jwk(&rsa_other(), Alg::RS256, json!({}))])), now());
    let auth = auth_with(&keys, &clock);
    keys.set_next(jwks(&[jwk(&rsa(), Alg::RS256, json!({}))]));
    ask(&auth, &headed(json!({"kid": null}))).await.expect("its key has come");
    assert_eq!(keys.refreshes(), 1);
}

#[tokio::test]
async fn unread_keys_are_an_error_of_the_gateway() {
    let (keys, clock) = (Changing::new(KeySet::empty()), now());
    let auth = auth_with(&keys, &clock);
    let rejection = ask(&auth, &valid(json!({}))).await.expect_err("no keys");
    assert_eq!(
        (rejection.status, rejection.reason.as_str(), rejection.challenge.as_ref()),
        (503, "keys_unavailable", None)
    );
    assert!(rejection.retry_after.is_some());
    keys.set_next(alpha_keys());
    ask(&auth, &valid(json!({}))).await.expect("its keys have come");
}

#[tokio::test]
async fn at_most_eight_keys_are_tried_for_a_token_that_names_none() {
    // Many wrong keys for the algorithm; the right one comes after them.
    let error =
        |n: u8| json!({"kty": "RSA", "e": "AQAB", "n": base64([&[0xff, n][..], &[0xff; 254]].concat())});
    let right = jwk(&rsa(), Alg::RS256, json!({}));
    for (before, expected) in [(7, None), (8, Some("bad_signature"))] {
        let list: Vec<_> = (0..before).map(error).chain([right.clone()]).collect();
        let auth = auth_with(&Changing::new(jwks(&list)), &now());
        assert_eq!(reason(ask(&auth, &headed(json!({"kid": null}))).await), expected, "{before}");
    }
}
