//! Minting tokens that the gateway itself takes: for development and CI, where no identity provider runs.
//!
//! The claims stand where the issuer's `claims` paths look for them, so that a minted token is read as a real one.

use std::fs;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Map, Value, json};

use crate::config::{Auth, Issuer, Keys};
use crate::plan::judges::algorithm_of;

/// What the token shall say.
pub struct Wish {
    pub user: String,
    pub roles: Vec<String>,
    pub scopes: Vec<String>,
    pub tenant: Option<String>,
    pub lives: Duration,
    /// Of which issuer, where several can be signed for.
    pub issuer: Option<String>,
}

/// A signed token; the words of a failure are for the configuration's author. `now` in seconds since 1970.
pub fn mint(auth: &Auth, wish: &Wish, now: u64) -> Result<String, String> {
    let can_sign = |issuer: &&Issuer| matches!(issuer.keys, Keys::Secret(_)) || issuer.signing_key.is_some();
    let issuer = match &wish.issuer {
        Some(name) => auth.jwt.iter().find(|issuer| issuer.issuer == *name).filter(can_sign),
        None => auth.jwt.iter().find(can_sign),
    };
    let issuer = issuer.ok_or_else(|| {
        let advice = "give it a `secret` or a `signing_key` (a PEM file)";
        match &wish.issuer {
            Some(name) if auth.jwt.iter().any(|issuer| issuer.issuer == *name) => {
                format!("the issuer {name} has no key to sign with: {advice}")
            }
            Some(name) => format!("auth.jwt has no issuer {name}"),
            None => format!("no issuer of auth.jwt has a key to sign with: {advice}"),
        }
    })?;
    let (algorithm, key) = signing(issuer)?;
    let mut claims = Map::new();
    claims.insert("iss".into(), json!(issuer.issuer));
    claims.insert("aud".into(), json!(issuer.audience.first()));
    claims.insert("iat".into(), json!(now));
    claims.insert("exp".into(), json!(now.saturating_add(wish.lives.as_secs())));
    put(&mut claims, &issuer.claims.user, json!(wish.user))?;
    put(&mut claims, &issuer.claims.roles, json!(wish.roles))?;
    put(&mut claims, &issuer.claims.scopes, json!(wish.scopes.join(" ")))?;
    match (&wish.tenant, &issuer.claims.tenant) {
        (Some(tenant), Some(path)) => put(&mut claims, path, json!(tenant))?,
        (Some(_), None) => return Err(format!("the issuer {} has no claims.tenant", issuer.issuer)),
        (None, _) => {}
    }
    encode(&Header::new(algorithm), &claims, &key).map_err(|error| format!("cannot sign: {error}"))
}

/// The first of the issuer's algorithms that its key can sign with.
fn signing(issuer: &Issuer) -> Result<(Algorithm, EncodingKey), String> {
    let pem = match (&issuer.keys, &issuer.signing_key) {
        (Keys::Secret(secret), _) => {
            let key = EncodingKey::from_secret(secret.expose().as_bytes());
            let algorithm = known(issuer).next().ok_or("the issuer allows no algorithm")?;
            return Ok((algorithm, key));
        }
        (_, Some(file)) => {
            fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?
        }
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
    known(issuer).find_map(load).ok_or_else(|| "signing_key fits none of the issuer's algorithms".into())
}

fn known(issuer: &Issuer) -> impl Iterator<Item = Algorithm> {
    issuer.algorithms.iter().filter_map(|algorithm| algorithm_of(*algorithm).word().parse().ok())
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
