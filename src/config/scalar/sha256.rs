//! SHA-256 hashes as they are written: 64 hexadecimal digits.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{ScalarValue, scalar};

/// The 32 bytes of a SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sha256Digest(pub [u8; 32]);

impl ScalarValue for Sha256Digest {
    const EXPECTED: &'static str = "64 hexadecimal digits";

    fn read(text: &str) -> Result<Self, &'static str> {
        if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("not a SHA-256");
        }
        match text.len() {
            0..64 => return Err("too short for a SHA-256"),
            64 => {}
            _ => return Err("too long for a SHA-256"),
        }
        let mut bytes = [0; 32];
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).expect("two hexadecimal digits");
        }
        Ok(Self(bytes))
    }
}

scalar!(Sha256Digest);

impl JsonSchema for Sha256Digest {
    fn schema_name() -> Cow<'static, str> {
        "Sha256".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The 64 hexadecimal digits of a SHA-256.",
            "type": "string",
            "pattern": "^[0-9A-Fa-f]{64}$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_hexadecimal_digits() {
        let digest = Sha256Digest::read(&"0aFf".repeat(16)).expect("64 digits");
        assert_eq!(digest.0[..4], [0x0a, 0xff, 0x0a, 0xff]);
        for (text, what) in [
            ("", "too short for a SHA-256"),
            ("abc", "too short for a SHA-256"),
            (&"a".repeat(65), "too long for a SHA-256"),
            (&"g".repeat(64), "not a SHA-256"),
            (&"é".repeat(32), "not a SHA-256"),
        ] {
            assert_eq!(Sha256Digest::read(text), Err(what), "{text}");
        }
    }
}
