//! Keys that verify signatures: read and checked once, then immutable.
//!
//! A key's type, curve and `alg` decide its algorithms; the header of a token does not (RFC 8725 §3.1).
//! Nothing here fetches keys: the reader of a `jwks_url` implements [`KeySource`].

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::algorithm::Algorithm;
use super::pem;
use super::public_key::{KeyError, KeyMaterial, key_fingerprint};
use super::strict_json;

/// Largest key set, in bytes. Real ones have 1 to 20 KiB.
pub const MAX_JWKS: usize = 512 * 1024;
/// Most keys in one set.
pub const MAX_KEYS: usize = 256;
/// Shortest secret, in bytes (RFC 7518 §3.2: as long as the hash).
pub const MIN_SECRET: usize = 32;

/// The source of an issuer's keys.
pub trait KeySource: Send + Sync {
    /// The keys as they are now. Called for each request: must be cheap and must not wait.
    fn current(&self) -> Arc<KeySet>;

    /// Requests a refresh, because a token names an unknown key. It is ready after the refresh, or when
    /// waiting is not useful; true if keys were read. It must limit its real reads: any sender can name an
    /// unknown key.
    fn refresh(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;
}

/// Keys that never change: files, PEM texts, secrets.
#[derive(Debug)]
pub struct StaticKeys(Arc<KeySet>);

impl StaticKeys {
    pub fn new(keys: KeySet) -> Self {
        Self(Arc::new(keys))
    }
}

impl KeySource for StaticKeys {
    fn current(&self) -> Arc<KeySet> {
        self.0.clone()
    }

    fn refresh(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(std::future::ready(false))
    }
}

/// The keys of one issuer at one time.
#[derive(Clone)]
pub struct KeySet {
    keys: Vec<VerificationKey>,
    skipped: Vec<(usize, KeyError)>,
    is_loaded: bool,
    /// The operator gave the key itself, so the key id in a token has no effect.
    ignores_kid: bool,
    fingerprint: u128,
}

#[derive(Clone)]
pub(super) struct VerificationKey {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    pub(super) material: DecodingKey,
}

impl KeySet {
    /// The set before the first read.
    pub fn empty() -> Self {
        Self::of(Vec::new(), Vec::new(), false, false)
    }

    /// A JSON Web Key Set (RFC 7517 §5). Unusable keys are skipped, as the RFC asks. A set without any usable
    /// key is valid, since an issuer may have withdrawn its keys.
    pub fn from_jwks(text: &[u8]) -> Result<Self, KeyError> {
        if text.len() > MAX_JWKS {
            return Err(KeyError::TooLarge);
        }
        let set = strict_json::object(text)?;
        let Some(Value::Array(list)) = set.get("keys") else { return Err(KeyError::NoKeys) };
        if list.len() > MAX_KEYS {
            return Err(KeyError::TooLarge);
        }
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for (place, jwk) in list.iter().enumerate() {
            match jwk.as_object().ok_or(KeyError::NoKeys).and_then(read_jwk) {
                Ok(key) => keys.push(key),
                Err(why) => skipped.push((place, why)),
            }
        }
        Ok(Self::of(keys, skipped, true, false))
    }

    /// One or several public keys in PEM. They have no names, so the `kid` of a token is ignored.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let blocks = pem::blocks(pem)?;
        if blocks.len() > MAX_KEYS {
            return Err(KeyError::TooLarge);
        }
        let keys: Result<Vec<_>, KeyError> = blocks
            .iter()
            .map(|(label, der)| {
                let KeyMaterial { key, algorithms, fingerprint: mark } = pem::public_key(label, der)?;
                Ok((VerificationKey { kid: None, algorithms: algorithms.to_vec(), material: key }, mark))
            })
            .collect();
        Ok(Self::of(keys?, Vec::new(), true, true))
    }

    /// A secret shared by issuer and gateway. It serves the algorithms whose hash is not longer than the
    /// secret (RFC 7518 §3.2).
    pub fn from_secret(secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < MIN_SECRET {
            return Err(KeyError::ShortSecret);
        }
        if secret.starts_with(b"-----BEGIN ") {
            return Err(KeyError::PemAsSecret);
        }
        let mut algorithms = vec![Algorithm::HS256];
        algorithms.extend((secret.len() >= 48).then_some(Algorithm::HS384));
        algorithms.extend((secret.len() >= 64).then_some(Algorithm::HS512));
        let key = VerificationKey { kid: None, algorithms, material: DecodingKey::from_secret(secret) };
        Ok(Self::of(vec![(key, key_fingerprint(&[b"oct", secret]))], Vec::new(), true, true))
    }

    fn of(
        keys: Vec<(VerificationKey, [u8; 32])>,
        skipped: Vec<(usize, KeyError)>,
        read: bool,
        nameless: bool,
    ) -> Self {
        let mut digest = Sha256::new();
        for (key, mark) in &keys {
            let name = key.kid.as_deref().unwrap_or_default();
            digest.update([u8::from(key.kid.is_some()), key.algorithms.len() as u8]);
            digest.update((name.len() as u64).to_be_bytes());
            digest.update(name);
            key.algorithms.iter().for_each(|a| digest.update(a.as_str()));
            digest.update(mark);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let mark = u128::from_be_bytes(digest[..16].try_into().expect("16 of 32 bytes"));
        Self {
            keys: keys.into_iter().map(|(key, _)| key).collect(),
            skipped,
            is_loaded: read,
            ignores_kid: nameless,
            fingerprint: mark,
        }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Skipped keys: their places in the list, and the reasons.
    pub fn skipped(&self) -> &[(usize, KeyError)] {
        &self.skipped
    }

    /// Whether some key can check signatures of this algorithm.
    pub fn serves(&self, algorithm: Algorithm) -> bool {
        self.keys.iter().any(|key| key.algorithms.contains(&algorithm))
    }

    /// Whether this set was read at all, unlike [`KeySet::empty`].
    pub fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// Equal for sets with the same keys, and only for them.
    pub fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    /// Candidate keys for a token with this `kid`. Names are compared byte by byte and have no other meaning:
    /// no path, no query (RFC 8725 §3.10).
    pub(super) fn candidates<'a>(
        &'a self,
        name: Option<&'a str>,
    ) -> impl Iterator<Item = &'a VerificationKey> {
        self.keys.iter().filter(move |key| self.ignores_kid || name.is_none() || key.kid.as_deref() == name)
    }
}

impl VerificationKey {
    pub(super) fn serves(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.keys.iter().map(|key| key.kid.as_deref().unwrap_or("-"));
        f.debug_list().entries(names).finish()
    }
}

/// One JSON Web Key (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
fn read_jwk(jwk: &Map<String, Value>) -> Result<(VerificationKey, [u8; 32]), KeyError> {
    let member = |name: &str| jwk.get(name).and_then(Value::as_str);
    let number = |name: &str| {
        let text = member(name).ok_or(KeyError::Coordinates)?;
        URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::Coordinates)
    };
    if jwk.contains_key("d") {
        return Err(KeyError::Private);
    }
    if jwk.get("use").is_some_and(|u| u != "sig") {
        return Err(KeyError::NotForSignatures);
    }
    let verifies = |ops: &Value| ops.as_array().is_some_and(|ops| ops.iter().any(|op| op == "verify"));
    if jwk.get("key_ops").is_some_and(|ops| !verifies(ops)) {
        return Err(KeyError::NotForSignatures);
    }
    let KeyMaterial { key, algorithms, fingerprint: mark } = match (member("kty"), member("crv")) {
        (Some("RSA"), _) => KeyMaterial::rsa(&number("n")?, &number("e")?)?,
        (Some("EC"), Some(curve @ ("P-256" | "P-384"))) => {
            let length = if curve == "P-256" { 32 } else { 48 };
            let (x, y) = (number("x")?, number("y")?);
            if x.len() != length || y.len() != length {
                return Err(KeyError::Coordinates);
            }
            let point = [&[4][..], &x, &y].concat();
            if length == 32 { KeyMaterial::p256(&point)? } else { KeyMaterial::p384(&point)? }
        }
        (Some("OKP"), Some("Ed25519")) => KeyMaterial::ed25519(&number("x")?)?,
        (Some("oct"), _) => return Err(KeyError::Symmetric),
        _ => return Err(KeyError::Unsupported),
    };
    let algorithms = match jwk.get("alg") {
        None => algorithms.to_vec(),
        Some(alg) => {
            let alg = alg.as_str().and_then(|alg| alg.parse().ok()).ok_or(KeyError::AlgorithmMismatch)?;
            if !algorithms.contains(&alg) {
                return Err(KeyError::AlgorithmMismatch);
            }
            vec![alg]
        }
    };
    let name = match jwk.get("kid") {
        None => None,
        Some(Value::String(name)) => Some(name.clone()),
        Some(_) => return Err(KeyError::Name),
    };
    Ok((VerificationKey { kid: name, algorithms, material: key }, mark))
}
