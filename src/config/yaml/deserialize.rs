//! A serde deserializer over the tree that reports what is wrong and where, and lets reading go on.
//!
//! Serde gives up at the first error. Here the faulty piece is reported and condemned, and the whole is read
//! once more without it, until nothing new is found: derived types keep their plain look, and a person sees all
//! faults at once. The number of rounds is bounded by the number of faults that are listed.
//!
//! Contract with the types of this module: `deserialize_str` takes the text of any scalar (`8080` as `"8080"`),
//! `deserialize_string`, which derived code uses for `String`, only that of a string. Nothing (`~`, or a key
//! without a value) is an absent option, an empty list and an empty mapping. Floats, bytes, tuples and enums with
//! data are not understood: no part of the config is one.

use std::fmt;

use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};

use super::node::{Entry, Scalar, Value};
use crate::config::diagnostic::MAX_FAULTS;
use crate::config::diagnostics::Spot;
use crate::config::suggest;

/// Reads a value of the tree; `None` if that was not possible, which has then been reported.
pub(in crate::config) fn read<'t, T: Deserialize<'t>>(spot: &Spot<'t>) -> Option<T> {
    // Each round condemns a piece; only faults that were reported elsewhere do so without adding to the list.
    for _ in 0..4 * MAX_FAULTS {
        match T::deserialize(Reader(spot)) {
            Ok(value) => return Some(value),
            Err(_) if spot.node.is_faulty() || spot.inquest.is_full() => return None,
            Err(_) => {}
        }
    }
    None
}

/// Why a piece could not be read.
#[derive(Debug)]
pub(crate) enum Wrong {
    /// Already told, at the piece itself.
    Reported,
    /// A needed key is not there.
    Missing(&'static str),
    /// To be told by the reader that knows the place.
    Value { what: String, expected: String },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Reported => f.write_str("reported"),
            Wrong::Missing(key) => write!(f, "`{key}` is missing"),
            Wrong::Value { what, .. } => f.write_str(what),
        }
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Wrong::Value { what: what.to_string(), expected: String::new() }
    }

    /// Says nothing of the value: it may come out of the environment.
    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Wrong::Value { what: "of another type".into(), expected: format!("expected {expected}") }
    }

    /// `Unexpected::Other` holds the finding of one of our own types.
    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let what = if let Unexpected::Other(what) = found { what } else { "out of range" };
        Wrong::Value { what: what.into(), expected: format!("expected {expected}") }
    }

    fn missing_field(key: &'static str) -> Self {
        Wrong::Missing(key)
    }
}

/// One value, to be read.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a, 't>(pub &'a Spot<'t>);

impl<'t> Reader<'_, 't> {
    /// Reports what a visitor found wrong at this value.
    fn settle<T>(self, read: Result<T, Wrong>) -> Result<T, Wrong> {
        let spot = self.0;
        match read {
            Ok(value) => return Ok(value),
            Err(Wrong::Reported) => {}
            // What is there but faulty has been reported, and so has what was probably meant to be it.
            Err(Wrong::Missing(key))
                if spot.node.entries().iter().any(|entry| suggest::is_meant(key, &entry.key)) =>
            {
                spot.node.condemn();
            }
            Err(Wrong::Missing(key)) if spot.path.is_empty() => {
                spot.node.condemn();
                spot.inquest.whole(format!("`{key}` is missing"), crate::config::MINIMUM);
            }
            Err(Wrong::Missing(key)) => {
                spot.refuse(format!("`{key}` is missing"), format!("expected `{key}` here"))
            }
            Err(Wrong::Value { what, expected }) => {
                let filled = matches!(&spot.node.value, Value::Scalar(scalar) if scalar.is_filled());
                let help = if filled { "the value comes from the environment" } else { "" };
                spot.refuse_with(what, expected, help);
            }
        }
        Err(Wrong::Reported)
    }

    fn refuse<T>(self, expected: &str) -> Result<T, Wrong> {
        let help = if self.0.path.is_empty() { crate::config::MINIMUM } else { "" };
        let what = match self.0.node.kind() {
            "nothing" => "without a value".into(),
            kind => format!("{kind} cannot stand here"),
        };
        self.0.refuse_with(what, format!("expected {expected}"), help);
        Err(Wrong::Reported)
    }

    fn scalar(self, expected: &str) -> Result<&'t Scalar, Wrong> {
        match &self.0.node.value {
            Value::Scalar(scalar) if !self.0.node.is_null() => Ok(scalar),
            _ => self.refuse(expected),
        }
    }

    /// A number or a boolean: unquoted, or from the environment.
    fn plain(self, expected: &str) -> Result<&'t str, Wrong> {
        let scalar = self.scalar(expected)?;
        if scalar.plain || scalar.is_filled() { Ok(scalar.text()) } else { self.refuse(expected) }
    }

    fn whole<N: std::str::FromStr>(self) -> Result<N, Wrong> {
        let text = self.plain("a whole number")?;
        text.parse().map_err(|_| {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            let what = if number { "a number beyond all bounds" } else { "not a whole number" };
            Wrong::Value { what: what.into(), expected: "expected a whole number".into() }
        })
    }
}

macro_rules! whole_numbers {
    ($($deserialize:ident $visit:ident),*) => {$(
        fn $deserialize<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
            let read = self.whole().and_then(|number| visitor.$visit(number));
            self.settle(read)
        }
    )*};
}

impl<'t> de::Deserializer<'t> for Reader<'_, 't> {
    type Error = Wrong;

    whole_numbers! {
        deserialize_u8 visit_u8, deserialize_u16 visit_u16, deserialize_u32 visit_u32, deserialize_u64 visit_u64,
        deserialize_i8 visit_i8, deserialize_i16 visit_i16, deserialize_i32 visit_i32, deserialize_i64 visit_i64
    }

    fn deserialize_bool<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let value = match self.plain("true or false")? {
            "true" | "True" | "TRUE" => true,
            "false" | "False" | "FALSE" => false,
            _ => {
                let wrong =
                    Wrong::Value { what: "not a boolean".into(), expected: "expected true or false".into() };
                return self.settle(Err(wrong));
            }
        };
        visitor.visit_bool(value)
    }

    fn deserialize_str<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let expected = (&visitor as &dyn Expected).to_string();
        let read = self.scalar(&expected).and_then(|scalar| visitor.visit_str(scalar.text()));
        self.settle(read)
    }

    fn deserialize_string<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let scalar = self.scalar("a string")?;
        if self.0.node.kind() != "a string" {
            self.0.refuse(
                format!("{} cannot stand here", self.0.node.kind()),
                "expected a string: put it in quotes",
            );
            return Err(Wrong::Reported);
        }
        self.settle(visitor.visit_str(scalar.text()))
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.0.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if !matches!(self.0.node.value, Value::List(_)) && !self.0.node.is_null() {
            return self.refuse("a list");
        }
        self.settle(visitor.visit_seq(Items::of(self.0)))
    }

    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if !matches!(self.0.node.value, Value::Map(_)) && !self.0.node.is_null() {
            return self.refuse("a mapping");
        }
        self.settle(visitor.visit_map(Entries::of(self.0)))
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        name: &'static str,
        keys: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        for entry in self.0.node.entries() {
            if entry.is_faulty() || keys.contains(&entry.key.as_str()) || self.0.inquest.is_full() {
                continue;
            }
            let spot = self.0.under(entry);
            if !self.0.inquest.passes_over(name, keys, &spot) {
                let (message, expected, help) = suggest::unknown_key(name, keys, &entry.key);
                spot.refuse_key(message, expected, help);
            }
        }
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        name: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        let scalar = self.scalar(&suggest::one_of(words))?;
        if let Some(word) = words.iter().find(|word| **word == scalar.text()) {
            return self.settle(visitor.visit_enum(Word(word)));
        }
        let (what, expected) = suggest::unknown_word(name, words, scalar.text());
        self.settle(Err(Wrong::Value { what, expected }))
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    /// For keys that are known and of no use here; their values are not looked at.
    fn deserialize_ignored_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_unit()
    }

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.0.node.value {
            Value::Scalar(_) => self.deserialize_str(visitor),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        <V: Visitor<'t>>
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// The items of a list; the faulty ones are passed over.
struct Items<'a, 't> {
    spot: &'a Spot<'t>,
    next: usize,
}

impl<'a, 't> Items<'a, 't> {
    fn of(spot: &'a Spot<'t>) -> Self {
        Self { spot, next: 0 }
    }
}

impl<'t> SeqAccess<'t> for Items<'_, 't> {
    type Error = Wrong;

    fn next_element_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, Wrong> {
        while let Some(node) = self.spot.node.items().get(self.next) {
            let index = self.next;
            self.next += 1;
            if !node.is_faulty() {
                return seed.deserialize(Reader(&self.spot.item(index, node))).map(Some);
            }
        }
        Ok(None)
    }
}

/// The entries of a mapping; the faulty ones are passed over.
struct Entries<'a, 't> {
    spot: &'a Spot<'t>,
    next: usize,
    /// The one whose key was read last.
    open: Option<&'t Entry>,
}

impl<'a, 't> Entries<'a, 't> {
    fn of(spot: &'a Spot<'t>) -> Self {
        Self { spot, next: 0, open: None }
    }
}

impl<'t> MapAccess<'t> for Entries<'_, 't> {
    type Error = Wrong;

    fn next_key_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, Wrong> {
        while let Some(entry) = self.spot.node.entries().get(self.next) {
            self.next += 1;
            if entry.is_faulty() {
                continue;
            }
            self.open = Some(entry);
            return match seed.deserialize(StrDeserializer::new(&entry.key)) {
                Ok(key) => Ok(Some(key)),
                Err(Wrong::Value { what, expected }) => {
                    let spot = self.spot.under(entry);
                    spot.refuse_key(format!("{}: {what}", spot.path), expected, "");
                    Err(Wrong::Reported)
                }
                Err(other) => Err(other),
            };
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, Wrong> {
        let entry = self.open.take().expect("serde asks for a key first");
        seed.deserialize(Reader(&self.spot.under(entry)))
    }
}

/// One of an enum's words.
struct Word(pub &'static str);

impl<'t> EnumAccess<'t> for Word {
    type Error = Wrong;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'t>>(self, seed: S) -> Result<(S::Value, Self), Wrong> {
        Ok((seed.deserialize(StrDeserializer::new(self.0))?, self))
    }
}

impl<'t> VariantAccess<'t> for Word {
    type Error = Wrong;

    fn unit_variant(self) -> Result<(), Wrong> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'t>>(self, _: S) -> Result<S::Value, Wrong> {
        Err(de::Error::custom("a word takes no value"))
    }

    fn tuple_variant<V: Visitor<'t>>(self, _: usize, _: V) -> Result<V::Value, Wrong> {
        Err(de::Error::custom("a word takes no values"))
    }

    fn struct_variant<V: Visitor<'t>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Wrong> {
        Err(de::Error::custom("a word takes no keys"))
    }
}
