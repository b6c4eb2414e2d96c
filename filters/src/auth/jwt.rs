//! JSON Web Tokens (RFC 7519) in compact form, validated by RFC 8725.
//!
//! The crypto library only verifies a signature of a given algorithm with a given key. All other parts that
//! forged tokens have abused are read here, strictly and once: the header, the choice of key and algorithm,
//! the claims. They are read from the same bytes that the signature covers. Headers with keys or references
//! to keys (`jwk`, `jku`, `x5c`, `x5u`) are ignored. Encrypted (JWE), nested, detached and compressed tokens
//! are rejected.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mcp::Reason;
use serde_json::{Map, Value};

use super::Issuer;
use super::algorithm::Algorithm;
use super::key_set::{KeySet, VerificationKey};
use super::strict_json;
use crate::request::Identity;

/// How many keys are tried for a token without a key id.
pub const MAX_TRIES: usize = 8;
/// The year 10000. Later times are most often milliseconds, and would make a token that never expires.
const END_OF_TIME: u64 = 253_402_300_800;

/// What is wrong with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenError {
    Malformed(&'static str),
    Algorithm,
    Issuer,
    UnknownKey,
    Signature,
    Expired,
    NotYetValid,
    Audience,
    Missing(&'static str),
    /// Not an error of the token: the issuer's keys were never read.
    KeysUnavailable,
}

impl TokenError {
    /// The value for metrics.
    pub fn reason(self) -> Reason {
        match self {
            TokenError::Malformed(_) => Reason::TokenMalformed,
            TokenError::Algorithm => Reason::AlgorithmNotAllowed,
            TokenError::Issuer => Reason::WrongIssuer,
            TokenError::UnknownKey => Reason::UnknownKey,
            TokenError::Signature => Reason::BadSignature,
            TokenError::Expired => Reason::TokenExpired,
            TokenError::NotYetValid => Reason::TokenNotYetValid,
            TokenError::Audience => Reason::WrongAudience,
            TokenError::Missing(_) => Reason::MissingClaim,
            TokenError::KeysUnavailable => Reason::KeysUnavailable,
        }
    }

    /// The text for the client. It is general, because a sender of forged tokens also reads it.
    pub fn message(self) -> &'static str {
        match self {
            TokenError::Malformed(what) => what,
            TokenError::Algorithm => "the token is signed with an algorithm that is not allowed",
            TokenError::Issuer => "the token is from an issuer that is not trusted",
            TokenError::UnknownKey => "the token is signed with a key that is not known",
            TokenError::Signature => "the signature of the token is not valid",
            TokenError::Expired => "the token has expired",
            TokenError::NotYetValid => "the token is not valid yet",
            TokenError::Audience => "the token is for another audience",
            TokenError::Missing("exp") => "the token must have the claim exp",
            TokenError::Missing("iss") => "the token must have the claim iss",
            TokenError::Missing("aud") => "the token must have the claim aud",
            TokenError::Missing(_) => "the token does not name its user",
            TokenError::KeysUnavailable => "the keys of the token's issuer are not available yet",
        }
    }
}

/// A token that is parsed but not verified yet.
pub(super) struct UnverifiedToken<'a> {
    pub issuer: String,
    algorithm: Algorithm,
    kid: Option<String>,
    claims: Map<String, Value>,
    signed: &'a str,
    signature: &'a str,
}

/// Parses the three parts.
pub(super) fn read(token: &str) -> Result<UnverifiedToken<'_>, TokenError> {
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::Malformed("the token does not have three parts"));
    };
    let signed = &token[..header.len() + 1 + payload.len()];
    let (algorithm, key) = read_header(&object(header)?)?;
    let claims = object(payload)?;
    if decode(signature)?.is_empty() {
        return Err(TokenError::Signature);
    }
    let issuer = match claims.get("iss") {
        Some(Value::String(issuer)) => issuer.clone(),
        Some(_) => return Err(TokenError::Malformed("the claim iss of the token is not a string")),
        None => return Err(TokenError::Missing("iss")),
    };
    Ok(UnverifiedToken { issuer, algorithm, kid: key, claims, signed, signature })
}

fn read_header(header: &Map<String, Value>) -> Result<(Algorithm, Option<String>), TokenError> {
    // An unsupported critical extension (`crit`, RFC 7515 §4.1.11); `b64`, `enc` and `zip` would change the
    // meaning of the parts.
    if ["crit", "b64", "enc", "zip"].iter().any(|name| header.contains_key(*name)) {
        return Err(TokenError::Malformed("the header of the token has parameters that are not supported"));
    }
    let text = |name: &str| match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(TokenError::Malformed("a parameter of the token's header is not a string")),
    };
    // Tokens of other kinds (logout+jwt, dpop+jwt, secevent+jwt) have their own types, so that they cannot be
    // used as access tokens (RFC 8725 §3.11).
    if let Some(typ) = text("typ")? {
        let typ = typ.to_ascii_lowercase();
        if !matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt") {
            return Err(TokenError::Malformed("the token is not an access token by its type"));
        }
    }
    if text("cty")?.is_some() {
        return Err(TokenError::Malformed("nested tokens are not supported"));
    }
    let algorithm =
        text("alg")?.ok_or(TokenError::Malformed("the header of the token names no algorithm"))?;
    let algorithm = algorithm.parse().map_err(|_| TokenError::Algorithm)?;
    Ok((algorithm, text("kid")?.map(str::to_owned)))
}

impl UnverifiedToken<'_> {
    /// Whether the token is signed with one of these keys.
    pub fn verify_signature(&self, issuer: &Issuer, keys: &KeySet) -> Result<(), TokenError> {
        if !issuer.algorithms.contains(&self.algorithm) {
            return Err(TokenError::Algorithm);
        }
        if !keys.is_loaded() {
            return Err(TokenError::KeysUnavailable);
        }
        let mut named = keys.candidates(self.kid.as_deref()).peekable();
        if named.peek().is_none() {
            return Err(TokenError::UnknownKey);
        }
        let mut fit = named.filter(|key| key.serves(self.algorithm)).take(MAX_TRIES).peekable();
        if fit.peek().is_none() {
            return Err(TokenError::Algorithm);
        }
        if fit.any(|key| self.is_signed_with(key)) { Ok(()) } else { Err(TokenError::Signature) }
    }

    /// Whether newly read keys could change the result.
    pub fn needs_key_refresh(&self, error: TokenError) -> bool {
        match error {
            TokenError::UnknownKey | TokenError::KeysUnavailable => true,
            TokenError::Signature => self.kid.is_none(),
            _ => false,
        }
    }

    fn is_signed_with(&self, key: &VerificationKey) -> bool {
        let algorithm = self.algorithm.verifier();
        // The error is a key of another family, which `serves` has excluded, or invalid base64.
        jsonwebtoken::crypto::verify(self.signature, self.signed.as_bytes(), &key.material, algorithm)
            .unwrap_or(false)
    }

    /// Validates the claims; only after the signature is verified. Returns the second from which the token is
    /// no longer accepted.
    pub fn validate_claims(self, issuer: &Issuer, now: u64) -> Result<(Identity, u64), TokenError> {
        let leeway = issuer.leeway.as_secs();
        let claims = self.claims;
        let expires = time(&claims, "exp")?.ok_or(TokenError::Missing("exp"))?.0 + leeway;
        if now >= expires {
            return Err(TokenError::Expired);
        }
        if time(&claims, "nbf")?.is_some_and(|nbf| nbf.1 > now + leeway)
            || time(&claims, "iat")?.is_some_and(|iat| iat.0 > now + leeway)
        {
            return Err(TokenError::NotYetValid);
        }
        match claims.get("aud") {
            None => return Err(TokenError::Missing("aud")),
            Some(Value::String(one)) => is_for(issuer, &[one])?,
            Some(Value::Array(list)) => {
                let list: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
                is_for(issuer, &list.ok_or(TokenError::Malformed(AUD))?)?;
            }
            Some(_) => return Err(TokenError::Malformed(AUD)),
        }
        // Security events (RFC 8417 §2.2), such as logout tokens of issuers that do not set `typ`.
        if claims.contains_key("events") {
            return Err(TokenError::Malformed("the token is a security event, not an access token"));
        }
        Ok((issuer.claims.read(&issuer.issuer, claims)?, expires))
    }
}

const AUD: &str = "the claim aud of the token is neither a string nor a list of strings";

fn is_for(issuer: &Issuer, audiences: &[&str]) -> Result<(), TokenError> {
    let ours = |audience: &&str| issuer.audiences.iter().any(|ours| ours == audience);
    if audiences.iter().any(ours) { Ok(()) } else { Err(TokenError::Audience) }
}

/// A NumericDate (RFC 7519 §2), which may have a fraction: the whole second before it and the one after it.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<(u64, u64)>, TokenError> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    match value.as_f64() {
        Some(seconds) if (0.0..END_OF_TIME as f64).contains(&seconds) => {
            Ok(Some((seconds.floor() as u64, seconds.ceil() as u64)))
        }
        _ => Err(TokenError::Malformed("a time in the token is not a number of seconds that makes sense")),
    }
}

fn object(part: &str) -> Result<Map<String, Value>, TokenError> {
    strict_json::object(&decode(part)?)
        .map_err(|_| TokenError::Malformed("a part of the token is not a JSON object without duplicate keys"))
}

/// base64url without padding, in its one canonical form.
fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed("a part of the token is not base64url"))
}
