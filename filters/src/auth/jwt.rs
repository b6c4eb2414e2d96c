//! JSON Web Tokens (RFC 7519) in compact form, judged by RFC 8725.
//!
//! The library below checks one thing only: that a signature of a given algorithm fits a given key. Everything
//! that tokens have been forged with, the header, the choice of key and algorithm, the claims, is read here,
//! strictly and once, from the same bytes that the signature is over. Headers that bring or point to keys (`jwk`,
//! `jku`, `x5c`, `x5u`) are never looked at; encrypted (JWE), nested, detached and compressed tokens are refused.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::Issuer;
use super::algorithm::Algorithm;
use super::key_set::{Key, KeySet};
use super::strict_json;
use crate::request::Identity;

/// How many keys are tried for a token that does not name one.
pub const MAX_TRIES: usize = 8;
/// The year 10000. Later times are most often milliseconds, and would make a token that never expires.
const END_OF_TIME: u64 = 253_402_300_800;

/// What is wrong with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    Malformed(&'static str),
    Algorithm,
    Issuer,
    UnknownKey,
    Signature,
    Expired,
    NotYet,
    Audience,
    Missing(&'static str),
    /// Not the token's fault: the issuer's keys were never read.
    KeysUnread,
}

impl Wrong {
    /// The word for metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Wrong::Malformed(_) => "token_malformed",
            Wrong::Algorithm => "algorithm_not_allowed",
            Wrong::Issuer => "wrong_issuer",
            Wrong::UnknownKey => "unknown_key",
            Wrong::Signature => "bad_signature",
            Wrong::Expired => "token_expired",
            Wrong::NotYet => "token_not_yet_valid",
            Wrong::Audience => "wrong_audience",
            Wrong::Missing(_) => "missing_claim",
            Wrong::KeysUnread => "keys_unavailable",
        }
    }

    /// The words for the client: general, since whoever sends a forged token reads them too.
    pub fn words(self) -> &'static str {
        match self {
            Wrong::Malformed(what) => what,
            Wrong::Algorithm => "the token is signed with an algorithm that is not allowed",
            Wrong::Issuer => "the token is from an issuer that is not trusted",
            Wrong::UnknownKey => "the token is signed with a key that is not known",
            Wrong::Signature => "the signature of the token is not valid",
            Wrong::Expired => "the token has expired",
            Wrong::NotYet => "the token is not valid yet",
            Wrong::Audience => "the token is for another audience",
            Wrong::Missing("exp") => "the token must have the claim exp",
            Wrong::Missing("iss") => "the token must have the claim iss",
            Wrong::Missing("aud") => "the token must have the claim aud",
            Wrong::Missing(_) => "the token does not name its user",
            Wrong::KeysUnread => "the keys of the token's issuer are not available yet",
        }
    }
}

/// A token that was read and is not believed yet.
pub(super) struct Unverified<'a> {
    pub issuer: String,
    algorithm: Algorithm,
    key: Option<String>,
    claims: Map<String, Value>,
    signed: &'a str,
    signature: &'a str,
}

/// Reads the three parts.
pub(super) fn read(token: &str) -> Result<Unverified<'_>, Wrong> {
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Wrong::Malformed("the token does not have three parts"));
    };
    let signed = &token[..header.len() + 1 + payload.len()];
    let (algorithm, key) = read_header(&object(header)?)?;
    let claims = object(payload)?;
    if decode(signature)?.is_empty() {
        return Err(Wrong::Signature);
    }
    let issuer = match claims.get("iss") {
        Some(Value::String(issuer)) => issuer.clone(),
        Some(_) => return Err(Wrong::Malformed("the claim iss of the token is not a string")),
        None => return Err(Wrong::Missing("iss")),
    };
    Ok(Unverified { issuer, algorithm, key, claims, signed, signature })
}

fn read_header(header: &Map<String, Value>) -> Result<(Algorithm, Option<String>), Wrong> {
    // An extension that must be understood (`crit`, RFC 7515 §4.1.11) is not; `b64`, `enc` and `zip` would make
    // the parts mean something else.
    if ["crit", "b64", "enc", "zip"].iter().any(|name| header.contains_key(*name)) {
        return Err(Wrong::Malformed("the header of the token has parameters that are not supported"));
    }
    let text = |name: &str| match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(Wrong::Malformed("a parameter of the token's header is not a string")),
    };
    // Tokens of other kinds (logout+jwt, dpop+jwt, secevent+jwt) have types of their own so that nobody takes
    // them for access tokens (RFC 8725 §3.11).
    if let Some(typ) = text("typ")? {
        let typ = typ.to_ascii_lowercase();
        if !matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt") {
            return Err(Wrong::Malformed("the token is not an access token by its type"));
        }
    }
    if text("cty")?.is_some() {
        return Err(Wrong::Malformed("nested tokens are not supported"));
    }
    let algorithm = text("alg")?.ok_or(Wrong::Malformed("the header of the token names no algorithm"))?;
    let algorithm = algorithm.parse().map_err(|_| Wrong::Algorithm)?;
    Ok((algorithm, text("kid")?.map(str::to_owned)))
}

impl Unverified<'_> {
    /// Whether the token is signed with one of these keys.
    pub fn check(&self, issuer: &Issuer, keys: &KeySet) -> Result<(), Wrong> {
        if !issuer.algorithms.contains(&self.algorithm) {
            return Err(Wrong::Algorithm);
        }
        if !keys.was_read() {
            return Err(Wrong::KeysUnread);
        }
        let mut named = keys.named(self.key.as_deref()).peekable();
        if named.peek().is_none() {
            return Err(Wrong::UnknownKey);
        }
        let mut fit = named.filter(|key| key.serves(self.algorithm)).take(MAX_TRIES).peekable();
        if fit.peek().is_none() {
            return Err(Wrong::Algorithm);
        }
        if fit.any(|key| self.is_signed_with(key)) { Ok(()) } else { Err(Wrong::Signature) }
    }

    /// Whether keys that are read anew could change that judgement.
    pub fn may_pass_later(&self, wrong: Wrong) -> bool {
        match wrong {
            Wrong::UnknownKey | Wrong::KeysUnread => true,
            Wrong::Signature => self.key.is_none(),
            _ => false,
        }
    }

    fn is_signed_with(&self, key: &Key) -> bool {
        let algorithm = self.algorithm.verifier();
        // An error is a key of another family, which `serves` has ruled out, or broken base64.
        jsonwebtoken::crypto::verify(self.signature, self.signed.as_bytes(), &key.material, algorithm)
            .unwrap_or(false)
    }

    /// Judges the claims; to be called once the signature is known to be good. Gives the second from which the
    /// token is not to be accepted any more.
    pub fn judge(self, issuer: &Issuer, now: u64) -> Result<(Identity, u64), Wrong> {
        let leeway = issuer.leeway.as_secs();
        let claims = self.claims;
        let expires = time(&claims, "exp")?.ok_or(Wrong::Missing("exp"))?.0 + leeway;
        if now >= expires {
            return Err(Wrong::Expired);
        }
        if time(&claims, "nbf")?.is_some_and(|nbf| nbf.1 > now + leeway)
            || time(&claims, "iat")?.is_some_and(|iat| iat.0 > now + leeway)
        {
            return Err(Wrong::NotYet);
        }
        match claims.get("aud") {
            None => return Err(Wrong::Missing("aud")),
            Some(Value::String(one)) => is_for(issuer, &[one])?,
            Some(Value::Array(list)) => {
                let list: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
                is_for(issuer, &list.ok_or(Wrong::Malformed(AUD))?)?;
            }
            Some(_) => return Err(Wrong::Malformed(AUD)),
        }
        // Security events (RFC 8417 §2.2), such as logout tokens of issuers that do not set `typ`.
        if claims.contains_key("events") {
            return Err(Wrong::Malformed("the token is a security event, not an access token"));
        }
        Ok((issuer.claims.read(&issuer.issuer, claims)?, expires))
    }
}

const AUD: &str = "the claim aud of the token is neither a string nor a list of strings";

fn is_for(issuer: &Issuer, audiences: &[&str]) -> Result<(), Wrong> {
    let ours = |audience: &&str| issuer.audiences.iter().any(|ours| ours == audience);
    if audiences.iter().any(ours) { Ok(()) } else { Err(Wrong::Audience) }
}

/// A NumericDate (RFC 7519 §2), which may have a fraction: the whole second before it and the one after it.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<(u64, u64)>, Wrong> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    match value.as_f64() {
        Some(seconds) if (0.0..END_OF_TIME as f64).contains(&seconds) => {
            Ok(Some((seconds.floor() as u64, seconds.ceil() as u64)))
        }
        _ => Err(Wrong::Malformed("a time in the token is not a number of seconds that makes sense")),
    }
}

fn object(part: &str) -> Result<Map<String, Value>, Wrong> {
    strict_json::object(&decode(part)?)
        .map_err(|_| Wrong::Malformed("a part of the token is not a JSON object without duplicate keys"))
}

/// base64url without padding, in its one canonical form.
fn decode(part: &str) -> Result<Vec<u8>, Wrong> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Wrong::Malformed("a part of the token is not base64url"))
}
