//! JSON as serde_json reads it, with nothing lost: members in their order, keys that stand twice, values as written.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of one object.
pub struct Members<'a>(pub Vec<(String, &'a RawValue)>);

/// Reads an object and does not look into its values; `None` for all else.
pub fn members(text: &[u8]) -> Option<Members<'_>> {
    serde_json::from_slice(text).ok()
}

/// Whether this is JSON; unlike the gateway it takes unpaired surrogates and any depth.
pub fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(text).is_ok()
}

/// The value of a member, decoded, if it is a string.
pub fn text(members: &Members<'_>, key: &str) -> Option<String> {
    serde_json::from_str(members.get(key)?).ok()
}

/// No reader takes another member for one of these, be it lax about case or about keys that stand twice.
pub fn lax(members: &Members<'_>, known: &[&str]) {
    for (at, (key, _)) in members.0.iter().enumerate() {
        assert!(members.0[..at].iter().all(|(before, _)| before != key), "{key:?} stands twice");
        let like = |word: &&&str| {
            key.to_lowercase() == word.to_lowercase() || key.to_uppercase() == word.to_uppercase()
        };
        if let Some(word) = known.iter().find(like) {
            assert_eq!(key, word);
        }
    }
}

impl<'a> Members<'a> {
    /// The value of a member as written.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.get())
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(member) = from.next_entry::<String, &RawValue>()? {
                    all.push(member);
                }
                Ok(Members(all))
            }
        }
        from.deserialize_map(All)
    }
}
