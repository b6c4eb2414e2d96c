//! A serde deserializer over the tree. It reports errors with their places, and continues after an error.
//!
//! Serde stops at the first error. Here an invalid node is reported and marked, and the tree is deserialized
//! again without it, until there are no new errors. So derived types stay simple, and all errors appear at
//! once. The number of rounds is bounded by the number of listed errors.
//!
//! Contract with the types of this module: `deserialize_str` takes the text of any scalar (`8080` as
//! `"8080"`). `deserialize_string`, which derived code uses for `String`, takes only a string. Null (`~`, or
//! a key without a value) is an absent option, an empty list and an empty mapping. Floats, bytes, tuples and
//! enums with data are not supported: no part of the config is one.

use std::fmt;

use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};

use super::node::{Entry, NodeValue, Scalar};
use crate::config::diagnostic::MAX_ERRORS;
use crate::config::diagnostics::NodeRef;
use crate::config::suggest;

/// Reads a value of the tree; `None` if it is invalid, which is already reported.
pub(in crate::config) fn read<'t, T: Deserialize<'t>>(node_ref: &NodeRef<'t>) -> Option<T> {
    // Each round marks a node as invalid. Only errors reported elsewhere do so without growing the list.
    for _ in 0..4 * MAX_ERRORS {
        match T::deserialize(NodeDeserializer(node_ref)) {
            Ok(value) => return Some(value),
            Err(_) if node_ref.node.is_invalid() || node_ref.diagnostics.is_full() => return None,
            Err(_) => {}
        }
    }
    None
}

/// Why a node could not be read.
#[derive(Debug)]
pub(crate) enum DeserializeError {
    /// Already reported at the node itself.
    Reported,
    /// A required key is missing.
    Missing(&'static str),
    /// For the caller that knows the place to report.
    Value { what: String, expected: String },
}

impl fmt::Display for DeserializeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeserializeError::Reported => f.write_str("reported"),
            DeserializeError::Missing(key) => write!(f, "`{key}` is missing"),
            DeserializeError::Value { what, .. } => f.write_str(what),
        }
    }
}

impl std::error::Error for DeserializeError {}

impl de::Error for DeserializeError {
    fn custom<T: fmt::Display>(what: T) -> Self {
        DeserializeError::Value { what: what.to_string(), expected: String::new() }
    }

    /// It never names the value, which may come from the environment.
    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        DeserializeError::Value { what: "invalid type".into(), expected: format!("expected {expected}") }
    }

    /// `Unexpected::Other` holds the message of one of our own types.
    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let what = if let Unexpected::Other(what) = found { what } else { "out of range" };
        DeserializeError::Value { what: what.into(), expected: format!("expected {expected}") }
    }

    fn missing_field(key: &'static str) -> Self {
        DeserializeError::Missing(key)
    }
}

/// One value to deserialize.
#[derive(Clone, Copy)]
pub(super) struct NodeDeserializer<'a, 't>(pub &'a NodeRef<'t>);

impl<'t> NodeDeserializer<'_, 't> {
    /// Reports a visitor's error at this value.
    fn report<T>(self, read: Result<T, DeserializeError>) -> Result<T, DeserializeError> {
        let node_ref = self.0;
        match read {
            Ok(value) => return Ok(value),
            Err(DeserializeError::Reported) => {}
            // An invalid value or a probable typo of the key is already reported.
            Err(DeserializeError::Missing(key))
                if node_ref.node.entries().iter().any(|entry| suggest::is_typo_of(key, &entry.key)) =>
            {
                node_ref.node.mark_invalid();
            }
            Err(DeserializeError::Missing(key)) if node_ref.path.is_empty() => {
                node_ref.node.mark_invalid();
                node_ref.diagnostics.file_error(format!("`{key}` is missing"), crate::config::MINIMUM);
            }
            Err(DeserializeError::Missing(key)) => {
                node_ref.reject(format!("`{key}` is missing"), format!("expected `{key}` here"))
            }
            Err(DeserializeError::Value { what, expected }) => {
                let filled = matches!(&node_ref.node.value, NodeValue::Scalar(scalar) if scalar.is_filled());
                let help = if filled { "the value comes from the environment" } else { "" };
                node_ref.reject_with(what, expected, help);
            }
        }
        Err(DeserializeError::Reported)
    }

    fn reject<T>(self, expected: &str) -> Result<T, DeserializeError> {
        let help = if self.0.path.is_empty() { crate::config::MINIMUM } else { "" };
        let what = match self.0.node.kind() {
            "nothing" => "missing value".into(),
            kind => format!("invalid type: {}", kind.trim_start_matches("a ")),
        };
        self.0.reject_with(what, format!("expected {expected}"), help);
        Err(DeserializeError::Reported)
    }

    fn scalar(self, expected: &str) -> Result<&'t Scalar, DeserializeError> {
        match &self.0.node.value {
            NodeValue::Scalar(scalar) if !self.0.node.is_null() => Ok(scalar),
            _ => self.reject(expected),
        }
    }

    /// A number or a boolean: unquoted, or from the environment.
    fn plain(self, expected: &str) -> Result<&'t str, DeserializeError> {
        let scalar = self.scalar(expected)?;
        if scalar.plain || scalar.is_filled() { Ok(scalar.text()) } else { self.reject(expected) }
    }

    fn whole<N: std::str::FromStr>(self) -> Result<N, DeserializeError> {
        let text = self.plain("a whole number")?;
        text.parse().map_err(|_| {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let what = if number { "number out of range" } else { "not a whole number" };
            DeserializeError::Value { what: what.into(), expected: "expected a whole number".into() }
        })
    }
}

macro_rules! whole_numbers {
    ($($deserialize:ident $visit:ident),*) => {$(
        fn $deserialize<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
            let read = self.whole().and_then(|number| visitor.$visit(number));
            self.report(read)
        }
    )*};
}

impl<'t> de::Deserializer<'t> for NodeDeserializer<'_, 't> {
    type Error = DeserializeError;

    whole_numbers! {
        deserialize_u8 visit_u8, deserialize_u16 visit_u16, deserialize_u32 visit_u32, deserialize_u64 visit_u64,
        deserialize_i8 visit_i8, deserialize_i16 visit_i16, deserialize_i32 visit_i32, deserialize_i64 visit_i64
    }

    fn deserialize_bool<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        let value = match self.plain("true or false")? {
            "true" | "True" | "TRUE" => true,
            "false" | "False" | "FALSE" => false,
            _ => {
                let error = DeserializeError::Value {
                    what: "not a boolean".into(),
                    expected: "expected true or false".into(),
                };
                return self.report(Err(error));
            }
        };
        visitor.visit_bool(value)
    }

    fn deserialize_str<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        let expected = (&visitor as &dyn Expected).to_string();
        let read = self.scalar(&expected).and_then(|scalar| visitor.visit_str(scalar.text()));
        self.report(read)
    }

    fn deserialize_string<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        let scalar = self.scalar("a string")?;
        if self.0.node.kind() != "a string" {
            self.0.reject(
                format!("invalid type: {}", self.0.node.kind().trim_start_matches("a ")),
                "expected a string: put it in quotes",
            );
            return Err(DeserializeError::Reported);
        }
        self.report(visitor.visit_str(scalar.text()))
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        if self.0.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        if !matches!(self.0.node.value, NodeValue::List(_)) && !self.0.node.is_null() {
            return self.reject("a list");
        }
        self.report(visitor.visit_seq(ItemAccess::of(self.0)))
    }

    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        if !matches!(self.0.node.value, NodeValue::Map(_)) && !self.0.node.is_null() {
            return self.reject("a mapping");
        }
        self.report(visitor.visit_map(EntryAccess::of(self.0)))
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        name: &'static str,
        keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeserializeError> {
        for entry in self.0.node.entries() {
            if entry.is_invalid() || keys.contains(&entry.key.as_str()) || self.0.diagnostics.is_full() {
                continue;
            }
            let node_ref = self.0.under(entry);
            if !self.0.diagnostics.ignores(name, keys, &node_ref) {
                let (message, expected, help) = suggest::unknown_key(name, keys, &entry.key);
                node_ref.reject_key(message, expected, help);
            }
        }
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        name: &'static str,
        choices: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeserializeError> {
        let scalar = self.scalar(&suggest::one_of(choices))?;
        if let Some(word) = choices.iter().find(|word| **word == scalar.text()) {
            return self.report(visitor.visit_enum(WordAccess(word)));
        }
        let (what, expected) = suggest::unknown_value(name, choices, scalar.text());
        self.report(Err(DeserializeError::Value { what, expected }))
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DeserializeError> {
        visitor.visit_newtype_struct(self)
    }

    /// For known keys that are ignored; their values are not read.
    fn deserialize_ignored_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        visitor.visit_unit()
    }

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, DeserializeError> {
        match &self.0.node.value {
            NodeValue::Scalar(_) => self.deserialize_str(visitor),
            NodeValue::List(_) => self.deserialize_seq(visitor),
            NodeValue::Map(_) => self.deserialize_map(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        <V: Visitor<'t>>
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// The items of a list, without the invalid ones.
struct ItemAccess<'a, 't> {
    node_ref: &'a NodeRef<'t>,
    next: usize,
}

impl<'a, 't> ItemAccess<'a, 't> {
    fn of(node_ref: &'a NodeRef<'t>) -> Self {
        Self { node_ref, next: 0 }
    }
}

impl<'t> SeqAccess<'t> for ItemAccess<'_, 't> {
    type Error = DeserializeError;

    fn next_element_seed<S: DeserializeSeed<'t>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DeserializeError> {
        while let Some(node) = self.node_ref.node.items().get(self.next) {
            let index = self.next;
            self.next += 1;
            if !node.is_invalid() {
                return seed.deserialize(NodeDeserializer(&self.node_ref.item(index, node))).map(Some);
            }
        }
        Ok(None)
    }
}

/// The entries of a mapping, without the invalid ones.
struct EntryAccess<'a, 't> {
    node_ref: &'a NodeRef<'t>,
    next: usize,
    /// The entry whose key was read last.
    open: Option<&'t Entry>,
}

impl<'a, 't> EntryAccess<'a, 't> {
    fn of(node_ref: &'a NodeRef<'t>) -> Self {
        Self { node_ref, next: 0, open: None }
    }
}

impl<'t> MapAccess<'t> for EntryAccess<'_, 't> {
    type Error = DeserializeError;

    fn next_key_seed<S: DeserializeSeed<'t>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DeserializeError> {
        while let Some(entry) = self.node_ref.node.entries().get(self.next) {
            self.next += 1;
            if entry.is_invalid() {
                continue;
            }
            self.open = Some(entry);
            return match seed.deserialize(StrDeserializer::new(&entry.key)) {
                Ok(key) => Ok(Some(key)),
                Err(DeserializeError::Value { what, expected }) => {
                    let node_ref = self.node_ref.under(entry);
                    node_ref.reject_key(format!("{}: {what}", node_ref.path), expected, "");
                    Err(DeserializeError::Reported)
                }
                Err(other) => Err(other),
            };
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, DeserializeError> {
        let entry = self.open.take().expect("serde asks for a key first");
        seed.deserialize(NodeDeserializer(&self.node_ref.under(entry)))
    }
}

/// One value of an enum.
struct WordAccess(pub &'static str);

impl<'t> EnumAccess<'t> for WordAccess {
    type Error = DeserializeError;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<(S::Value, Self), DeserializeError> {
        Ok((seed.deserialize(StrDeserializer::new(self.0))?, self))
    }
}

impl<'t> VariantAccess<'t> for WordAccess {
    type Error = DeserializeError;

    fn unit_variant(self) -> Result<(), DeserializeError> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'t>>(self, _: S) -> Result<S::Value, DeserializeError> {
        Err(de::Error::custom("a word takes no value"))
    }

    fn tuple_variant<V: Visitor<'t>>(self, _: usize, _: V) -> Result<V::Value, DeserializeError> {
        Err(de::Error::custom("a word takes no values"))
    }

    fn struct_variant<V: Visitor<'t>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, DeserializeError> {
        Err(de::Error::custom("a word takes no keys"))
    }
}
