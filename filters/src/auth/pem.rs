//! Public keys in PEM: `PUBLIC KEY` (SubjectPublicKeyInfo, RFC 5280 §4.1), `RSA PUBLIC KEY` (RFC 8017 §A.1.1)
//! and the key inside a `CERTIFICATE`.
//!
//! The PEM reader of the JWT library takes the first bit string that it finds, accepts private keys as public
//! ones and ignores the curve. This one follows the structure and rejects the rest. Of a certificate it uses
//! only the key; it checks neither dates nor signature.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::public_key::{KeyError, KeyMaterial};

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// The blocks of a PEM text (RFC 7468): label and content. Text between blocks is explanation.
pub(super) fn blocks(pem: &str) -> Result<Vec<(&str, Vec<u8>)>, KeyError> {
    let mut found = Vec::new();
    let mut rest = pem;
    while let Some((_, after)) = rest.split_once("-----BEGIN ") {
        let (label, after) = after.split_once("-----").ok_or(KeyError::Pem)?;
        let (content, after) = after.split_once(&format!("-----END {label}-----")).ok_or(KeyError::Pem)?;
        let content: String = content.split_ascii_whitespace().collect();
        found.push((label, STANDARD.decode(content).map_err(|_| KeyError::Pem)?));
        rest = after;
    }
    if found.is_empty() { Err(KeyError::Pem) } else { Ok(found) }
}

/// The public key of one block.
pub(super) fn public_key(label: &str, der: &[u8]) -> Result<KeyMaterial, KeyError> {
    match label {
        "PUBLIC KEY" => subject_public_key(der),
        "RSA PUBLIC KEY" => rsa(der),
        "CERTIFICATE" => certificate(der),
        label if label.ends_with("PRIVATE KEY") => Err(KeyError::Private),
        _ => Err(KeyError::Pem),
    }
}

fn certificate(der: &[u8]) -> Result<KeyMaterial, KeyError> {
    let mut outer = DerReader(whole(der, SEQUENCE)?);
    let mut tbs = DerReader(outer.take(SEQUENCE)?);
    if tbs.0.first() == Some(&VERSION) {
        tbs.take(VERSION)?;
    }
    tbs.take(INTEGER)?; // serial number
    for _ in ["signature", "issuer", "validity", "subject"] {
        tbs.take(SEQUENCE)?;
    }
    key_info(tbs.take(SEQUENCE)?)
}

fn subject_public_key(der: &[u8]) -> Result<KeyMaterial, KeyError> {
    key_info(whole(der, SEQUENCE)?)
}

/// The inside of a SubjectPublicKeyInfo.
fn key_info(inside: &[u8]) -> Result<KeyMaterial, KeyError> {
    let mut info = DerReader(inside);
    let mut algorithm = DerReader(info.take(SEQUENCE)?);
    // The first byte of a bit string is the number of unused bits in the last byte.
    let key = info.last(BIT_STRING)?.strip_prefix(&[0]).ok_or(KeyError::Der)?;
    match algorithm.take(OID)? {
        RSA => rsa(key),
        EC => match algorithm.last(OID)? {
            P256 => KeyMaterial::p256(key),
            P384 => KeyMaterial::p384(key),
            _ => Err(KeyError::Unsupported),
        },
        ED25519 if algorithm.0.is_empty() => KeyMaterial::ed25519(key),
        _ => Err(KeyError::Unsupported),
    }
}

fn rsa(der: &[u8]) -> Result<KeyMaterial, KeyError> {
    let mut numbers = DerReader(whole(der, SEQUENCE)?);
    let n = numbers.take(INTEGER)?;
    let e = numbers.last(INTEGER)?;
    if n.first().is_none_or(|b| b & 0x80 != 0) || e.first().is_none_or(|b| b & 0x80 != 0) {
        return Err(KeyError::Der); // empty, or negative
    }
    KeyMaterial::rsa(n, e)
}

/// The content of an element that is all of `der`.
fn whole(der: &[u8], tag: u8) -> Result<&[u8], KeyError> {
    DerReader(der).last(tag)
}

/// The remaining elements.
struct DerReader<'a>(&'a [u8]);

impl<'a> DerReader<'a> {
    /// The content of the next element, which must have this tag.
    fn take(&mut self, tag: u8) -> Result<&'a [u8], KeyError> {
        let [found, length, rest @ ..] = self.0 else { return Err(KeyError::Der) };
        if *found != tag {
            return Err(KeyError::Der);
        }
        let (length, rest) = match length {
            0..=0x7f => (usize::from(*length), rest),
            0x81 | 0x82 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f)).ok_or(KeyError::Der)?;
                (bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
            }
            _ => return Err(KeyError::Der),
        };
        let (content, rest) = rest.split_at_checked(length).ok_or(KeyError::Der)?;
        self.0 = rest;
        Ok(content)
    }

    /// The same, and nothing may follow.
    fn last(&mut self, tag: u8) -> Result<&'a [u8], KeyError> {
        let content = self.take(tag)?;
        if self.0.is_empty() { Ok(content) } else { Err(KeyError::Der) }
    }
}
