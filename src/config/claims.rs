//! Claims of a token: its audience, and which claims hold user, roles, scopes and tenant.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::scalar::names::Name;
use super::scalar::{ScalarValue, scalar};

/// The claims that hold these values, as paths of names with dots between.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are the words of the config")]
pub struct Claims {
    pub user: String,
    pub roles: String,
    pub scopes: String,
    pub tenant: Option<String>,
}

/// The claims of a token that hold user, roles, scopes and tenant.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "Claims", default, deny_unknown_fields)]
pub(super) struct RawClaims {
    /// The claim with the user. Default: `sub`.
    user: Claim,
    /// The claim with the roles: a list, or one role. Default: `roles`.
    roles: Claim,
    /// The claim with the scopes: a list, or a text with spaces between them. Default: `scope`.
    scopes: Claim,
    /// The claim with the tenant.
    tenant: Option<Claim>,
}

impl Default for RawClaims {
    fn default() -> Self {
        let claim = |name: &str| Claim(name.into());
        Self { user: claim("sub"), roles: claim("roles"), scopes: claim("scope"), tenant: None }
    }
}

impl RawClaims {
    pub(super) fn claims(self) -> Claims {
        Claims {
            user: self.user.0,
            roles: self.roles.0,
            scopes: self.scopes.0,
            tenant: self.tenant.map(|claim| claim.0),
        }
    }
}

/// One text, or a list of them.
pub(super) struct Audience(pub Vec<String>);

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Audience;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string such as `https://gateway.example.com/mcp`, or a list of them")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Audience, E> {
                let name = Name::read(text)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Other("not an audience"), &self))?;
                Ok(Audience(vec![name.0]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Audience, A::Error> {
                let mut texts = Vec::new();
                while let Some(Name(text)) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Audience(texts))
            }
        }
        from.deserialize_any(Texts)
    }
}

impl JsonSchema for Audience {
    fn schema_name() -> Cow<'static, str> {
        "Audience".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "One text, or a list of them.",
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
            ],
        })
    }
}

/// The path of a claim.
struct Claim(String);

impl ScalarValue for Claim {
    const EXPECTED: &'static str = "the path of a claim such as `sub` or `realm_access.roles`";

    fn read(text: &str) -> Result<Self, &'static str> {
        let fits = Name::read(text).is_ok() && text.split('.').all(|name| !name.is_empty());
        if fits { Ok(Self(text.into())) } else { Err("invalid claim path") }
    }
}

scalar!(Claim);

impl JsonSchema for Claim {
    fn schema_name() -> Cow<'static, str> {
        "Claim".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The path of a claim: names with dots between.",
            "type": "string",
            "pattern": "^[^.]+(\\.[^.]+)*$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_a_path_of_names() {
        for text in ["sub", "realm_access.roles", "https://example.com/roles", "a b.c"] {
            assert!(Claim::read(text).is_ok(), "{text}");
        }
        for text in ["", ".", "a.", ".a", "a..b", " a"] {
            assert!(Claim::read(text).is_err(), "{text}");
        }
    }
}
