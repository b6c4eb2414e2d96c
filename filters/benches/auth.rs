//! The cost of authentication: a cached token, a new token, an API key.

use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use criterion::{Criterion, criterion_group, criterion_main};
use filters::auth::{Algorithm, ApiKey, Auth, AuthSettings, ClaimPaths, Issuer, KeySet, StaticKeys};
use filters::{Caller, RequestHead};
use http::{HeaderMap, Method};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;
use sha2::{Digest as _, Sha256};

const ISSUER: &str = "https://id.example.com";
const AUDIENCE: &str = "https://gateway.example.com/mcp";

fn auth() -> Auth {
    Auth::new(AuthSettings {
        certificates: Vec::new(),
        required: true,
        anonymous_roles: vec![],
        required_scopes: vec!["mcp".into()],
        issuers: vec![Issuer {
            issuer: ISSUER.into(),
            audiences: vec![AUDIENCE.into()],
            algorithms: Algorithm::ASYMMETRIC.to_vec(),
            leeway: Duration::from_secs(30),
            claims: ClaimPaths { roles: "realm_access.roles".into(), ..ClaimPaths::default() },
            keys: Arc::new(StaticKeys::new(
                KeySet::from_pem(concat!(
                    include_str!("../tests/keys/rsa-public.pem"),
                    include_str!("../tests/keys/p256-public.pem"),
                    include_str!("../tests/keys/ed25519-public.pem")
                ))
                .expect("fixtures"),
            )),
        }],
        api_keys: (0..100)
            .map(|n| ApiKey {
                id: format!("key-{n}"),
                sha256: Sha256::digest(format!("tg_secret-of-key-{n}")).into(),
                user: format!("user-{n}"),
                roles: vec![],
                tenant: None,
                scopes: vec!["mcp".into()],
            })
            .collect(),
        metadata: None,
    })
}

/// About 700 bytes with RS256, as issuers make them.
fn token(key: &EncodingKey, algorithm: jsonwebtoken::Algorithm, serial: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "5f7c8ec7-23ac-4b1e-8f4c-2d1b0f9f1a33", "exp": now + 86400,
        "iat": now, "jti": serial, "scope": "mcp", "realm_access": {"roles": ["dev", "reader", "offline_access"]}});
    encode(&Header::new(algorithm), &claims, key).expect("a token")
}

fn headers(name: &'static str, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("host", "gateway.example.com".parse().expect("ASCII"));
    headers.insert("content-type", "application/json".parse().expect("ASCII"));
    headers.insert(name, value.parse().expect("ASCII"));
    headers
}

/// Fixed keys never wait, so one poll is enough: no runtime is measured.
fn identify(auth: &Auth, headers: &HeaderMap) -> Caller {
    let head = RequestHead {
        http_method: &Method::POST,
        path: "/mcp",
        headers,
        authority: None,
        peer: None,
        certificate: None,
        is_network: true,
    };
    match pin!(auth.identify(&head)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result.expect("good credentials"),
        Poll::Pending => unreachable!("nothing to wait for"),
    }
}

fn identities(c: &mut Criterion) {
    let rsa = EncodingKey::from_rsa_pem(include_bytes!("../tests/keys/rsa.pem")).expect("a fixture");
    let p256 = EncodingKey::from_ec_pem(include_bytes!("../tests/keys/p256.pem")).expect("a fixture");
    let ed25519 = EncodingKey::from_ed_pem(include_bytes!("../tests/keys/ed25519.pem")).expect("a fixture");
    let mut group = c.benchmark_group("identify");

    let known = auth();
    let rs256 = token(&rsa, jsonwebtoken::Algorithm::RS256, 0);
    let seen = headers("authorization", &format!("Bearer {rs256}"));
    group.bench_function(format!("seen, {} bytes", rs256.len()), |b| {
        b.iter(|| identify(black_box(&known), black_box(&seen)))
    });

    for (name, key, algorithm) in [
        ("new, RS256", &rsa, jsonwebtoken::Algorithm::RS256),
        ("new, ES256", &p256, jsonwebtoken::Algorithm::ES256),
        ("new, EdDSA", &ed25519, jsonwebtoken::Algorithm::EdDSA),
    ] {
        // A gateway with an empty cache for each batch of tokens.
        let fresh: Vec<HeaderMap> = (0..64)
            .map(|n| headers("authorization", &format!("Bearer {}", token(key, algorithm, n))))
            .collect();
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                let mut left = rounds;
                let mut took = Duration::ZERO;
                while left > 0 {
                    let auth = auth();
                    let now = left.min(fresh.len() as u64);
                    let start = std::time::Instant::now();
                    for headers in &fresh[..now as usize] {
                        black_box(identify(&auth, headers));
                    }
                    took += start.elapsed();
                    left -= now;
                }
                took
            })
        });
    }

    let key = headers("x-api-key", "tg_secret-of-key-42");
    group.bench_function("an API key of 100", |b| b.iter(|| identify(black_box(&known), black_box(&key))));
    group.finish();
}

criterion_group!(benches, identities);
criterion_main!(benches);
