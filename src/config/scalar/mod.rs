//! Values that are one word of text with a form of its own: a size, a span of time, an address.
//!
//! One trait, so that each says once how it is read and what is expected instead; `scalar!` gives it to serde.

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
    /// What is expected, with an example; follows the word "expected".
    const EXPECTED: &'static str;

    /// # Errors
    /// What the text is not. It must not repeat the text, which may be a secret of the environment.
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
