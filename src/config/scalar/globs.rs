//! Patterns over tool names: `read_*`, `search__*`, `get_?`, `{get,list}_*`.
//!
//! Tool names have no separators, so `*` matches any characters.

use std::borrow::Cow;
use std::fmt;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer};

use super::{ScalarValue, scalar};

/// Longest pattern, in bytes; it limits the cost of compiling one.
const MAX_PATTERN: usize = 256;

/// One valid pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(String);

/// Patterns that are matched together. Equality and debug output use only the patterns.
#[derive(Clone)]
pub struct GlobList {
    patterns: Vec<String>,
    set: GlobSet,
}

impl GlobList {
    /// Whether any of the patterns matches the whole name.
    pub fn is_match(&self, name: &str) -> bool {
        self.set.is_match(name)
    }

    /// The patterns as they were written.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// No pattern, which matches nothing.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// One pattern alone; `None` if it is invalid.
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

impl Default for GlobList {
    fn default() -> Self {
        Self { patterns: Vec::new(), set: GlobSet::empty() }
    }
}

impl PartialEq for GlobList {
    fn eq(&self, other: &Self) -> bool {
        self.patterns == other.patterns
    }
}

impl fmt::Debug for GlobList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.patterns.fmt(f)
    }
}

impl ScalarValue for Glob {
    const EXPECTED: &'static str = "a pattern such as `read_*`";

    fn read(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Err("empty pattern matches nothing");
        }
        if text.len() > MAX_PATTERN {
            return Err("pattern is longer than 256 bytes");
        }
        use globset::ErrorKind::{
            DanglingEscape, InvalidRange, UnclosedAlternates, UnclosedClass, UnopenedAlternates,
        };
        GlobSetBuilder::new()
            .add(GlobBuilder::new(text).build().map_err(|error| match error.kind() {
                UnclosedClass => "unclosed `[` in pattern",
                UnclosedAlternates => "unclosed `{` in pattern",
                UnopenedAlternates => "unexpected `}` in pattern",
                InvalidRange(..) => "invalid range in pattern: it runs backwards",
                DanglingEscape => "pattern ends with `\\`",
                _ => "not a pattern",
            })?)
            .build()
            .map_err(|_| "pattern too large")?;
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

impl<'de> Deserialize<'de> for GlobList {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let patterns = Vec::<Glob>::deserialize(from)?.into_iter().map(|glob| glob.0).collect();
        Self::compile(patterns).map_err(|_| serde::de::Error::custom("patterns are too large together"))
    }
}

impl JsonSchema for GlobList {
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
            let globs = GlobList::compile(vec![pattern.into()]).expect(pattern);
            assert_eq!(globs.is_match(name), fits, "{pattern} {name}");
        }
        assert!(!GlobList::default().is_match("x"));
    }

    #[test]
    fn bad_patterns_are_named() {
        for (pattern, what) in [
            ("", "empty pattern matches nothing"),
            ("a[", "unclosed `[` in pattern"),
            ("{a", "unclosed `{` in pattern"),
            ("a}", "unexpected `}` in pattern"),
            ("[z-a]", "invalid range in pattern: it runs backwards"),
            ("a\\", "pattern ends with `\\`"),
        ] {
            assert_eq!(Glob::read(pattern), Err(what), "{pattern}");
        }
        assert!(Glob::read(&"x".repeat(257)).is_err());
    }
}
