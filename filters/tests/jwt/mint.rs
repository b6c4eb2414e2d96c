//! Makes valid and invalid tokens, and a gateway's settings for them.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use filters::auth::{
    Algorithm, ApiKey, Auth, AuthSettings, ClaimPaths, Issuer, KeySet, KeySource, ResourceMetadata,
    StaticKeys,
};
use filters::{Caller, RequestHead};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jsonwebtoken::{Algorithm as Alg, EncodingKey, jwk::Jwk};
use mcp::Rejection;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The time of all checks.
pub const NOW: u64 = 1_800_000_000;
pub const LEEWAY: u64 = 30;
pub const AUDIENCE: &str = "https://gateway.example/mcp";
/// Has keys of each type in a key set.
pub const ALPHA: &str = "https://alpha.example";
/// Has one RSA key, other than that of [`ALPHA`], with the name `beta`.
pub const BETA: &str = "https://beta.example";
/// Shares a secret.
pub const SHARED: &str = "https://shared.example";
/// Has the RSA key of [`ALPHA`] in PEM, and HS256 allowed by mistake.
pub const MUDDLED: &str = "https://muddled.example";
/// Its keys were never read.
pub const UNREAD: &str = "https://unread.example";

pub const SECRET: &[u8] = b"a secret of 64 bytes, which is enough for HS512 and all the rest";

pub const RSA_PUBLIC: &str = include_str!("../keys/rsa-public.pem");

pub fn rsa() -> EncodingKey {
    EncodingKey::from_rsa_pem(include_bytes!("../keys/rsa.pem")).expect("a fixture")
}
pub fn rsa_other() -> EncodingKey {
    EncodingKey::from_rsa_pem(include_bytes!("../keys/rsa-other.pem")).expect("a fixture")
}
pub fn p256() -> EncodingKey {
    EncodingKey::from_ec_pem(include_bytes!("../keys/p256.pem")).expect("a fixture")
}
pub fn p384() -> EncodingKey {
    EncodingKey::from_ec_pem(include_bytes!("../keys/p384.pem")).expect("a fixture")
}
pub fn ed25519() -> EncodingKey {
    EncodingKey::from_ed_pem(include_bytes!("../keys/ed25519.pem")).expect("a fixture")
}

/// A public key as JSON, with more members or others.
pub fn jwk(key: &EncodingKey, alg: Alg, more: Value) -> Value {
    let jwk = Jwk::from_encoding_key(key, alg).expect("a key of that algorithm");
    let mut jwk = serde_json::to_value(jwk).expect("JSON");
    jwk.as_object_mut().expect("an object").remove("alg");
    merge(jwk, more)
}

pub fn jwks(keys: &[Value]) -> KeySet {
    KeySet::from_jwks(json!({ "keys": keys }).to_string().as_bytes()).expect("a key set")
}

/// Sets members; `null` removes one.
pub fn merge(mut value: Value, more: Value) -> Value {
    let map = value.as_object_mut().expect("an object");
    for (name, value) in more.as_object().expect("an object") {
        if value.is_null() {
            map.remove(name);
        } else {
            map.insert(name.clone(), value.clone());
        }
    }
    value
}

/// Valid claims of a user of [`ALPHA`], with changes.
pub fn claims(more: Value) -> Value {
    let valid_claims = json!({"iss": ALPHA, "sub": "ada", "aud": AUDIENCE, "exp": NOW + 600, "iat": NOW - 10,
        "scope": "mcp", "roles": ["dev"]});
    merge(valid_claims, more)
}

pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token of texts as they are, signed.
pub fn raw(header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>, key: &EncodingKey, alg: Alg) -> String {
    let signed = format!("{}.{}", base64(header), base64(payload));
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), key, alg).expect("a key of that algorithm");
    format!("{signed}.{signature}")
}

pub fn token(header: Value, payload: Value, key: &EncodingKey, alg: Alg) -> String {
    raw(header.to_string(), payload.to_string(), key, alg)
}

/// Signed by the RSA key of [`ALPHA`], with changes to the claims.
pub fn valid(more: Value) -> String {
    token(json!({"alg": "RS256", "kid": "rsa"}), claims(more), &rsa(), Alg::RS256)
}

/// The same, with changes to the header.
pub fn headed(more: Value) -> String {
    let header = merge(json!({"alg": "RS256", "kid": "rsa"}), more);
    token(header, claims(json!({})), &rsa(), Alg::RS256)
}

pub fn alpha_keys() -> KeySet {
    jwks(&[
        jwk(&rsa(), Alg::RS256, json!({"kid": "rsa", "use": "sig"})),
        jwk(&p256(), Alg::ES256, json!({"kid": "p256", "alg": "ES256"})),
        jwk(&p384(), Alg::ES384, json!({"kid": "p384"})),
        jwk(&ed25519(), Alg::EdDSA, json!({"kid": "ed"})),
        jwk(&rsa(), Alg::PS256, json!({"kid": "pss-only", "alg": "PS256"})),
        jwk(&rsa_other(), Alg::RS256, json!({"kid": "encryption", "use": "enc"})),
    ])
}

pub fn issuer(name: &str, algorithms: &[Algorithm], keys: impl KeySource + 'static) -> Issuer {
    Issuer {
        issuer: name.into(),
        audiences: vec!["https://gateway.example/other".into(), AUDIENCE.into()],
        algorithms: algorithms.to_vec(),
        leeway: Duration::from_secs(LEEWAY),
        claims: ClaimPaths::default(),
        keys: Arc::new(keys),
    }
}

pub fn settings() -> AuthSettings {
    use Algorithm::*;
    AuthSettings {
        certificates: Vec::new(),
        required: true,
        anonymous_roles: vec!["guest".into()],
        required_scopes: vec![],
        issuers: vec![
            issuer(ALPHA, &[RS256, PS256, ES256, ES384, EdDSA], StaticKeys::new(alpha_keys())),
            issuer(
                BETA,
                &[RS256],
                StaticKeys::new(jwks(&[jwk(&rsa_other(), Alg::RS256, json!({"kid": "beta"}))])),
            ),
            issuer(SHARED, &[HS256], StaticKeys::new(KeySet::from_secret(SECRET).expect("long enough"))),
            issuer(
                MUDDLED,
                &[RS256, HS256],
                StaticKeys::new(KeySet::from_pem(RSA_PUBLIC).expect("a fixture")),
            ),
            issuer(UNREAD, &[RS256], StaticKeys::new(KeySet::empty())),
        ],
        api_keys: vec![ApiKey {
            id: "ci".into(),
            sha256: Sha256::digest("tg_key-of-ci").into(),
            user: "ci-bot".into(),
            roles: vec!["robot".into()],
            tenant: Some("acme".into()),
            scopes: vec!["mcp".into()],
        }],
        metadata: Some(ResourceMetadata {
            resource: AUDIENCE.into(),
            authorization_servers: vec![ALPHA.into()],
            scopes_supported: vec!["mcp".into(), "offline_access".into()],
            public_url: "https://gateway.example".into(),
        }),
    }
}

pub fn auth() -> Auth {
    Auth::new(settings()).with_clock(|| NOW)
}

/// Sends these headers.
pub async fn ask_with(auth: &Auth, headers: &[(&str, &str)]) -> Result<Caller, Box<Rejection>> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a name");
        map.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
    }
    let head = RequestHead {
        http_method: &Method::POST,
        path: "/mcp",
        headers: &map,
        authority: None,
        peer: None,
        certificate: None,
        is_network: true,
    };
    auth.identify(&head).await
}

/// Sends this bearer token.
pub async fn ask(auth: &Auth, token: &str) -> Result<Caller, Box<Rejection>> {
    ask_with(auth, &[("authorization", &format!("Bearer {token}"))]).await
}
