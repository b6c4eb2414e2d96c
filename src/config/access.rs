//! How serde walks the lists and mappings of the tree.

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};

use super::inquest::Spot;
use super::reader::{Reader, Wrong};
use super::tree::Entry;

/// The items of a list; the faulty ones are passed over.
pub(super) struct Items<'a, 't> {
    spot: &'a Spot<'t>,
    next: usize,
}

impl<'a, 't> Items<'a, 't> {
    pub(super) fn of(spot: &'a Spot<'t>) -> Self {
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
pub(super) struct Entries<'a, 't> {
    spot: &'a Spot<'t>,
    next: usize,
    /// The one whose key was read last.
    open: Option<&'t Entry>,
}

impl<'a, 't> Entries<'a, 't> {
    pub(super) fn of(spot: &'a Spot<'t>) -> Self {
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
pub(super) struct Word(pub &'static str);

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
