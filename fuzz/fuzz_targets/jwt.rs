//! Tokens. As raw bytes: nothing that no issuer signed is accepted. And signed, with any header and any
//! claims: a token is accepted as the user that another reader finds in the claims, for our audience, from
//! the issuer, within its time. Key sets and PEM texts too, which are read as strictly.
#![no_main]

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use filters::auth::{Algorithm, Auth, AuthSettings, ClaimPaths, Issuer, KeySet, StaticKeys};
use filters::{AuthMethod, Caller, RequestHead};
use fuzz::cut;
use fuzz::json::members;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};
use jsonwebtoken::EncodingKey;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const SECRET: &[u8] = b"32 bytes and more that nobody can guess";
const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "mcp";
const NOW: u64 = 1_800_000_000;

static AUTH: LazyLock<Auth> = LazyLock::new(|| {
    let keys = KeySet::from_secret(SECRET).expect("long enough");
    let issuer = Issuer {
        issuer: ISSUER.into(),
        audiences: vec![AUDIENCE.into()],
        algorithms: vec![Algorithm::HS256],
        leeway: Duration::ZERO,
        claims: ClaimPaths::default(),
        keys: Arc::new(StaticKeys::new(keys)),
    };
    let settings = AuthSettings {
        required: true,
        anonymous_roles: Vec::new(),
        required_scopes: Vec::new(),
        issuers: vec![issuer],
        api_keys: Vec::new(),
        certificates: Vec::new(),
        metadata: None,
    };
    Auth::new(settings).with_clock(|| NOW)
});

/// If a valid token were rejected, none of the checks below would ever run.
fn sound_gets_in() {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    let claims = format!(r#"{{"iss":"{ISSUER}","aud":"{AUDIENCE}","sub":"ada","exp":{}}}"#, NOW + 1);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let bearer = format!("Bearer {signed}.{}", sign(&signed));
    let caller = ask(HeaderValue::from_str(&bearer).expect("base64 and dots"));
    assert_eq!(caller.expect("a sound token").user, "ada");
}

fuzz_target!(init: sound_gets_in(), |data: &[u8]| {
    let _ = KeySet::from_jwks(data);
    if let Ok(pem) = std::str::from_utf8(data) {
        let _ = KeySet::from_pem(pem);
    }
    let der = URL_SAFE_NO_PAD.encode(data).replace('-', "+").replace('_', "/");
    for label in ["PUBLIC KEY", "RSA PUBLIC KEY", "CERTIFICATE"] {
        let padding = "=".repeat((4 - der.len() % 4) % 4);
        let _ = KeySet::from_pem(&format!("-----BEGIN {label}-----\n{der}{padding}\n-----END {label}-----"));
    }
    if let Ok(value) = HeaderValue::from_bytes(data) {
        assert!(ask(value).is_none(), "nobody signed this");
    }

    let (header, claims) = cut(data, 0);
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = sign(&signed);
    let bearer = |token: &str| HeaderValue::from_str(&format!("Bearer {token}")).expect("base64 and dots");
    let Some(caller) = ask(bearer(&format!("{signed}.{signature}"))) else { return };

    let header = whole(header);
    assert_eq!(header["alg"], "HS256");
    assert!(["crit", "b64", "enc", "zip", "cty"].iter().all(|name| header.get(name).is_none()));
    let claims = whole(claims);
    assert_eq!(claims["iss"], ISSUER);
    let ours = |audience: &Value| audience == AUDIENCE;
    assert!(ours(&claims["aud"]) || claims["aud"].as_array().is_some_and(|all| all.iter().any(ours)));
    assert!(claims["exp"].as_f64().is_some_and(|end| end > NOW as f64));
    assert!(claims.get("nbf").is_none_or(|from| from.as_f64().is_some_and(|from| from <= NOW as f64)));
    assert_eq!((caller.auth_method, caller.issuer.as_deref()), (AuthMethod::Jwt, Some(ISSUER)));
    assert!(claims["sub"] == caller.user || claims["sub"].to_string() == caller.user);
    assert_eq!(Value::Object(caller.claims.clone()), claims);

    // With one bit of the signed text changed, it must be rejected.
    let at = data.len() % signed.len();
    let mut forged = signed.into_bytes();
    forged[at] ^= 1;
    if let Ok(value) =
        HeaderValue::from_bytes(&[b"Bearer ", &forged[..], b".", signature.as_bytes()].concat())
    {
        assert!(ask(value).is_none());
    }
});

fn sign(signed: &str) -> String {
    let key = EncodingKey::from_secret(SECRET);
    jsonwebtoken::crypto::sign(signed.as_bytes(), &key, jsonwebtoken::Algorithm::HS256)
        .expect("a secret can sign")
}

fn ask(credentials: HeaderValue) -> Option<Caller> {
    let headers = HeaderMap::from_iter([(AUTHORIZATION, credentials)]);
    let head = RequestHead {
        http_method: &Method::POST,
        path: "/mcp",
        headers: &headers,
        authority: None,
        peer: None,
        certificate: None,
        is_network: true,
    };
    // Its keys are loaded: it does not wait.
    match pin!(AUTH.identify(&head)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(known) => known.ok(),
        Poll::Pending => panic!("it waits though its keys are there"),
    }
}

/// The value that another reader reads, without duplicate keys at the top level.
fn whole(text: &[u8]) -> Value {
    let top = members(text).expect("an object");
    assert!(fuzz::json::is_clear(&top), "a key stands twice");
    serde_json::from_slice(text).expect("JSON")
}
