//! Patterns over tool names: `read_*`, `search__*`, `get_?`, `{get,list}_*`.
//!
//! Tool names have no parts that a `*` should stop at, so it matches all there is.

use std::borrow::Cow;
use std::fmt;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::{ScalarValue, scalar};

/// Longest pattern, in bytes; it bounds what compiling one costs.
const MAX_PATTERN: usize = 256;

/// One pattern, known to be a good one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(String);

/// Patterns that are asked together. Compares and shows as its patterns.
#[derive(Clone)]
pub struct Globs {
    patterns: Vec<String>,
    set: GlobSet,
}

impl Globs {
    /// Whether any of the patterns fits the whole name.
    pub fn is_match(&self, name: &str) -> bool {
        self.set.is_match(name)
    }

    /// The patterns as they were written.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// No pattern, which fits nothing.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// One pattern alone; `None` if it is none.
    pub(crate) fn of(pattern: &str) -> Option<Self> {
        Self::compile(vec![pattern.to_owned()]).ok()
    }

    fn compile(patterns: Vec<String>) -> Result<Self, globset::Error> {
        let mut set = GlobSetBuilder::new();
        for pattern in &patterns {
            set.add(GlobBuilder::new(pattern).build()?);
        }
        Ok(Self { set: set.build()?, patterns })
    }
}

impl Default for Globs {
    fn default() -> Self {
        Self { patterns: Vec::new(), set: GlobSet::empty() }
    }
}

impl PartialEq for Globs {
    fn eq(&self, other: &Self) -> bool {
        self.patterns == other.patterns
    }
}

impl fmt::Debug for Globs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.patterns.fmt(f)
    }
}

impl ScalarValue for Glob {
    const EXPECTED: &'static str = "a pattern such as `read_*`";

    fn read(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("an empty pattern, which fits nothing");
        }
        if text.len() > MAX_PATTERN {
            return Err("a pattern of more than 256 bytes");
        }
        use globset::ErrorKind::{
            DanglingEscape, InvalidRange, UnclosedAlternates, UnclosedClass, UnopenedAlternates,
        };
        GlobSetBuilder::new()
            .add(GlobBuilder::new(text).build().map_err(|error| match error.kind() {
                UnclosedClass => "a pattern with `[` but no `]`",
                UnclosedAlternates => "a pattern with `{` but no `}`",
                UnopenedAlternates => "a pattern with `}` but no `{`",
                InvalidRange(..) => "a pattern with a range that runs backwards",
                DanglingEscape => "a pattern that ends in `\\`",
                _ => "not a pattern",
            })?)
            .build()
            .map_err(|_| "a pattern that is too large")?;
        Ok(Self(text.into()))
    }
}

scalar!(Glob);

impl Glob {
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

impl<'de> Deserialize<'de> for Globs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let patterns = Vec::<Glob>::deserialize(from)?.into_iter().map(|glob| glob.0).collect();
        Self::compile(patterns).map_err(|_| serde::de::Error::custom("patterns that are too large together"))
    }
}

impl JsonSchema for Globs {
    fn schema_name() -> Cow<'static, str> {
        "Patterns".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Patterns over names: `*` is any text, `?` any one letter, `{a,b}` either.",
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": MAX_PATTERN},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, name, fits) in [
            ("read_*", "read_file", true),
            ("read_*", "read_", true),
            ("read_*", "pread_file", false),
            ("*", "a/b.c", true),
            ("get_?", "get_a", true),
            ("get_?", "get_ab", false),
            ("{get,list}_*", "list_x", true),
            ("Read", "read", false),
            ("search__*", "search__web", true),
        ] {
            let globs = Globs::compile(vec![pattern.into()]).expect(pattern);
            assert_eq!(globs.is_match(name), fits, "{pattern} {name}");
        }
        assert!(!Globs::default().is_match("x"));
    }

    #[test]
    fn bad_patterns_are_named() {
        for (pattern, what) in [
            ("", "an empty pattern, which fits nothing"),
            ("a[", "a pattern with `[` but no `]`"),
            ("{a", "a pattern with `{` but no `}`"),
            ("a}", "a pattern with `}` but no `{`"),
            ("[z-a]", "a pattern with a range that runs backwards"),
            ("a\\", "a pattern that ends in `\\`"),
        ] {
            assert_eq!(Glob::read(pattern), Err(what), "{pattern}");
        }
        assert!(Glob::read(&"x".repeat(257)).is_err());
    }
}
