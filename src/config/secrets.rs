//! The keys that seal what leaves the gateway and must come back unread and unchanged.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::diagnostics::NodeRef;
use super::scalar::{ScalarValue, scalar};

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

/// The keys, the newest first. Empty: the process makes one for itself.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SecretsConfig {
    pub keys: Vec<[u8; KEY_LEN]>,
}

impl fmt::Debug for SecretsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretsConfig({} keys)", self.keys.len())
    }
}

/// The keys that seal `requestState`. Gateway processes with the same key know each other's.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(rename = "Secrets", default, deny_unknown_fields)]
pub(super) struct RawSecrets {
    /// The key that seals: 32 random bytes in base64 or as 64 hexadecimal digits, such as `openssl rand -base64
    /// 32` prints. Without it the process makes one for itself, which ends with it.
    key: Option<SecretKey>,
    /// Former keys, which still open what they have sealed.
    old_keys: Vec<SecretKey>,
}

impl RawSecrets {
    pub fn check(self, node_ref: &NodeRef<'_>) -> SecretsConfig {
        let key = self.key.and_then(|key| key.0);
        let old = self.old_keys.into_iter().filter_map(|key| key.0);
        let keys: Vec<_> = key.into_iter().chain(old).collect();
        if key.is_none() && !keys.is_empty() {
            let old_keys = node_ref.child("old_keys").unwrap_or_else(|| node_ref.clone());
            old_keys.reject("without `key` nothing is sealed by a key of this file", "add `key`");
        }
        SecretsConfig { keys }
    }
}

/// A key; empty where `${NAME:-}` of a file is not set.
#[derive(Clone, Copy, PartialEq, Eq)]
struct SecretKey(Option<[u8; KEY_LEN]>);

/// Base64 with or without padding.
fn base64(alphabet: &Alphabet, text: &str) -> Option<Vec<u8>> {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, lenient).decode(text).ok()
}

impl ScalarValue for SecretKey {
    const EXPECTED: &'static str =
        "32 bytes in base64, as `openssl rand -base64 32` prints, or 64 hexadecimal digits";

    fn read(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let is_hex = text.len() == 2 * KEY_LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bytes = if is_hex {
            let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default() as u8;
            text.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
        } else {
            base64(&STANDARD, text).or_else(|| base64(&URL_SAFE, text)).ok_or("not base64")?
        };
        let key = <[u8; KEY_LEN]>::try_from(bytes).map_err(|_| "not 32 bytes")?;
        // A key of one repeated byte is a placeholder.
        if key.iter().all(|byte| *byte == key[0]) {
            return Err("not random");
        }
        Ok(Self(Some(key)))
    }
}

scalar!(SecretKey);

impl JsonSchema for SecretKey {
    fn schema_name() -> Cow<'static, str> {
        "SecretKey".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "32 bytes in base64, or 64 hexadecimal digits. Empty is none.",
            "type": "string",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_in_the_forms_that_tools_print() {
        let raw: [u8; KEY_LEN] = std::array::from_fn(|at| 0xf0 ^ at as u8);
        let hex: String = raw.iter().map(|byte| format!("{byte:02X}")).collect();
        let standard = base64::engine::general_purpose::STANDARD.encode(raw);
        let url_safe = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(raw);
        assert!(standard.contains(['+', '/']) && standard.ends_with('='));
        for text in [&hex, &standard, &url_safe] {
            assert_eq!(SecretKey::read(text).ok().and_then(|key| key.0), Some(raw), "{text}");
        }
        assert!(SecretKey::read("").is_ok_and(|key| key.0.is_none()));
        for text in
            ["x", "too short", &standard[1..], &format!("{standard}AAAA"), &"A".repeat(43), &"0".repeat(64)]
        {
            assert!(SecretKey::read(text).is_err(), "{text}");
        }
    }
}
