//! Signs tokens that the gateway itself accepts: for development and CI, where no identity provider runs.
//!
//! The claims are at the issuer's `claims` paths, so that a signed token is read as a real one.

use std::path::Path;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Map, Value, json};

use crate::config::read_file;
use crate::config::{AuthConfig, IssuerConfig, KeyLocation};

/// The content of the token.
pub struct TokenSpec {
    pub user: String,
    pub roles: Vec<String>,
    pub scopes: Vec<String>,
    pub tenant: Option<String>,
    pub lifetime: Duration,
    /// The issuer, if tokens can be signed for several.
    pub issuer: Option<String>,
}

/// A signed token; error messages are for the configuration's author. `now` in seconds since 1970.
pub fn sign(auth: &AuthConfig, spec: &TokenSpec, now: u64) -> Result<String, String> {
    let can_sign = |issuer: &&IssuerConfig| {
        matches!(issuer.keys, KeyLocation::Secret(_)) || issuer.signing_key.is_some()
    };
    let issuer = match &spec.issuer {
        Some(name) => {
            let named = auth.jwt.iter().find(|issuer| issuer.issuer == *name);
            let named = named.ok_or_else(|| format!("auth.jwt has no issuer {name}; {}", known_issuers(auth)))?;
            Some(named).filter(can_sign).ok_or_else(|| {
                format!("the issuer {name} has no key to sign with: give it a `signing_key` (a PEM file)")
            })?
        }
        None if auth.jwt.is_empty() => return Err("auth.jwt is empty, so no tokens are taken, only keys".into()),
        None => auth.jwt.iter().find(can_sign).ok_or(
            "no issuer of auth.jwt has a key to sign with: give one a `secret` or a `signing_key` (a PEM file)",
        )?,
    };
    let (algorithm, key) = signing(issuer)?;
    let mut claims = Map::new();
    claims.insert("iss".into(), json!(issuer.issuer));
    claims.insert("aud".into(), json!(issuer.audience.first()));
    claims.insert("iat".into(), json!(now));
    claims.insert("exp".into(), json!(now.saturating_add(spec.lifetime.as_secs())));
    put(&mut claims, &issuer.claims.user, json!(spec.user))?;
    put(&mut claims, &issuer.claims.roles, json!(spec.roles))?;
    put(&mut claims, &issuer.claims.scopes, json!(spec.scopes.join(" ")))?;
    match (&spec.tenant, &issuer.claims.tenant) {
        (Some(tenant), Some(path)) => put(&mut claims, path, json!(tenant))?,
        (Some(_), None) => return Err(format!("the issuer {} has no claims.tenant", issuer.issuer)),
        (None, _) => {}
    }
    encode(&Header::new(algorithm), &claims, &key).map_err(|error| format!("cannot sign: {error}"))
}

fn known_issuers(auth: &AuthConfig) -> String {
    let names: Vec<&str> = auth.jwt.iter().map(|issuer| &*issuer.issuer).collect();
    if names.is_empty() { "it is empty".into() } else { format!("it has {}", names.join(", ")) }
}

/// The first of the issuer's algorithms that its key can sign with.
fn signing(issuer: &IssuerConfig) -> Result<(Algorithm, EncodingKey), String> {
    let pem = match (&issuer.keys, &issuer.signing_key) {
        (KeyLocation::Secret(secret), _) => {
            let key = EncodingKey::from_secret(secret.expose().as_bytes());
            let algorithm = known(issuer).next().ok_or("the issuer allows no algorithm")?;
            return Ok((algorithm, key));
        }
        (_, Some(file)) => read_file::read(file, read_file::MAX)
            .map_err(|error| format!("cannot read {}: {error}", file.display()))?,
        (_, None) => return Err("the issuer has no key to sign with".into()),
    };
    let load = |algorithm| {
        let key = match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(&pem),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(&pem),
            _ => EncodingKey::from_rsa_pem(&pem),
        };
        // A key of another curve loads, but does not sign.
        let key = key.ok()?;
        encode(&Header::new(algorithm), &json!({}), &key).ok()?;
        Some((algorithm, key))
    };
    known(issuer).find_map(load).ok_or_else(|| unusable(&pem, issuer))
}

/// Why a key cannot sign, and what to do instead.
fn unusable(pem: &[u8], issuer: &IssuerConfig) -> String {
    let file = issuer.signing_key.as_deref().unwrap_or(Path::new("signing_key")).display();
    let has = |label: &str| String::from_utf8_lossy(pem).contains(&format!("-----BEGIN {label}-----"));
    if has("EC PRIVATE KEY") {
        return format!("{file} is in an older format; write it anew: openssl pkey -in {file} -out NEW.pem");
    }
    if has("ENCRYPTED PRIVATE KEY") {
        return format!("{file} is encrypted; write it in the open: openssl pkey -in {file} -out NEW.pem");
    }
    if !has("PRIVATE KEY") && !has("RSA PRIVATE KEY") {
        return format!("{file} holds no private key in PEM (-----BEGIN PRIVATE KEY-----)");
    }
    let words: Vec<&str> = issuer.algorithms.iter().map(|algorithm| algorithm.as_str()).collect();
    format!("the key in {file} fits none of the issuer's algorithms: {}", words.join(", "))
}

fn known(issuer: &IssuerConfig) -> impl Iterator<Item = Algorithm> {
    issuer.algorithms.iter().filter_map(|algorithm| algorithm.as_str().parse().ok())
}

/// Sets a claim at a dotted path.
fn put(claims: &mut Map<String, Value>, path: &str, value: Value) -> Result<(), String> {
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    let mut place = claims;
    for part in parents.split('.').filter(|part| !part.is_empty()) {
        let next = place.entry(part).or_insert_with(|| json!({}));
        place =
            next.as_object_mut().ok_or_else(|| format!("the claim path `{path}` leads through a value"))?;
    }
    place.insert(last.to_owned(), value);
    Ok(())
}
