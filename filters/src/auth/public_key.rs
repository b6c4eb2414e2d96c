//! One validated public key, and the reasons to reject one.

use jsonwebtoken::DecodingKey;
use sha2::{Digest as _, Sha256};

use super::algorithm::Algorithm;
use super::strict_json::StrictJsonError;

const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Why a key or a set of keys is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("not a PEM text with a PUBLIC KEY or CERTIFICATE")]
    Pem,
    #[error("the content of the PEM text is not a public key")]
    Der,
    #[error("a private key stands where a public one should: it must be known to the issuer alone")]
    Private,
    #[error("this type of key is not supported: RSA, P-256, P-384 and Ed25519 are")]
    Unsupported,
    #[error("an RSA key must have 2048 to 8192 bits")]
    RsaSize,
    #[error("the exponent or modulus of an RSA key is invalid")]
    RsaNumbers,
    #[error("a coordinate of the key is missing, not base64url or of the wrong length")]
    Coordinates,
    #[error("the key is not meant for checking signatures (its `use` or `key_ops`)")]
    NotForSignatures,
    #[error("`alg` of the key does not fit its type")]
    AlgorithmMismatch,
    #[error("a symmetric key has no place in a key set that is published")]
    Symmetric,
    #[error("`kid` must be a string")]
    Name,
    #[error("a secret must have at least 32 bytes")]
    ShortSecret,
    #[error("a PEM text cannot be a shared secret: use public_key")]
    PemAsSecret,
    #[error("a key set may have at most 512 KiB and 256 keys")]
    TooLarge,
    #[error("not a JSON Web Key Set: {0}")]
    NotJson(#[from] StrictJsonError),
    #[error("not a JSON Web Key Set: `keys` must be a list of objects")]
    NoKeys,
}

/// The numbers of one public key, checked.
pub(super) struct KeyMaterial {
    pub(super) key: DecodingKey,
    pub(super) algorithms: &'static [Algorithm],
    pub(super) fingerprint: [u8; 32],
}

impl KeyMaterial {
    pub(super) fn rsa(n: &[u8], e: &[u8]) -> Result<Self, KeyError> {
        use Algorithm::*;
        let (n, e) = (without_zeros(n), without_zeros(e));
        let bits = n.len() * 8 - n.first().map_or(0, |b| b.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            return Err(KeyError::RsaSize);
        }
        // With an exponent of 1 every message is its own signature. An even or huge exponent is invalid, and
        // only costs time.
        let is_odd = |number: &[u8]| number.last().is_some_and(|b| b & 1 == 1);
        if !is_odd(n) || !is_odd(e) || e == [1] || e.len() > 4 {
            return Err(KeyError::RsaNumbers);
        }
        let key = DecodingKey::from_rsa_raw_components(n, e);
        Ok(Self {
            key,
            algorithms: &[RS256, RS384, RS512, PS256, PS384, PS512],
            fingerprint: key_fingerprint(&[b"rsa", n, e]),
        })
    }

    /// `point` is uncompressed: 4, x, y (SEC 1 §2.3.3).
    pub(super) fn p256(point: &[u8]) -> Result<Self, KeyError> {
        Self::ec(point, 65, &[Algorithm::ES256])
    }

    pub(super) fn p384(point: &[u8]) -> Result<Self, KeyError> {
        Self::ec(point, 97, &[Algorithm::ES384])
    }

    fn ec(point: &[u8], length: usize, algorithms: &'static [Algorithm]) -> Result<Self, KeyError> {
        if point.len() != length || point[0] != 4 {
            return Err(KeyError::Coordinates);
        }
        Ok(Self {
            key: DecodingKey::from_ec_der(point),
            algorithms,
            fingerprint: key_fingerprint(&[b"ec", point]),
        })
    }

    pub(super) fn ed25519(x: &[u8]) -> Result<Self, KeyError> {
        if x.len() != 32 {
            return Err(KeyError::Coordinates);
        }
        Ok(Self {
            key: DecodingKey::from_ed_der(x),
            algorithms: &[Algorithm::EdDSA],
            fingerprint: key_fingerprint(&[b"ed", x]),
        })
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|b| **b == 0).count()..]
}

pub(super) fn key_fingerprint(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}
