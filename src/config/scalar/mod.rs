//! Values that are one scalar with its own format: a size, a duration, an address.
//!
//! The trait defines how each type is parsed and what it expects; `scalar!` implements serde for it.

pub mod duration;
pub mod globs;
pub mod names;
pub mod rate;
pub mod secret;
pub mod sha256;
pub mod size;
pub mod url;

/// A value that is read from one scalar.
pub(super) trait ScalarValue: Sized {
    /// The expectation with an example, to follow the word "expected".
    const EXPECTED: &'static str;

    /// # Errors
    /// What is wrong with the text. It must not repeat the text, which may be a secret of the environment.
    fn read(text: &str) -> Result<Self, &'static str>;
}

/// `Deserialize` and `FromStr` by [`ScalarValue`].
macro_rules! scalar {
    ($type:ty) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(<$type as $crate::config::scalar::ScalarValue>::EXPECTED)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        <$type as $crate::config::scalar::ScalarValue>::read(text)
                            .map_err(|what| E::invalid_value(serde::de::Unexpected::Other(what), &self))
                    }
                }
                from.deserialize_str(Text)
            }
        }

        impl std::str::FromStr for $type {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                <$type as $crate::config::scalar::ScalarValue>::read(text)
            }
        }
    };
}

pub(super) use scalar;
