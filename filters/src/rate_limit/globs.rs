//! Patterns over names: `search__*`, `get_?`, `{get,list}_*`.
//!
//! They are matched on every call. So patterns without need for an engine (a plain name, or a prefix with a
//! final `*`) are compared as text; only the others use `globset`. A test checks that both ways give the same
//! result.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::uri;

/// Patterns that are matched together. An empty list matches nothing.
#[derive(Clone, Debug, Default)]
pub struct Globs {
    whole: Vec<Box<str>>,
    beginnings: Vec<Box<str>>,
    others: GlobSet,
}

impl Globs {
    pub fn new<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, globset::Error> {
        let mut globs = Self::default();
        let mut others = GlobSetBuilder::new();
        for pattern in patterns {
            let pattern = pattern.as_ref();
            let beginning = pattern.strip_suffix('*');
            if !is_plain(beginning.unwrap_or(pattern)) {
                others.add(GlobBuilder::new(pattern).build()?);
            } else if let Some(beginning) = beginning {
                globs.beginnings.push(beginning.into());
            } else {
                globs.whole.push(pattern.into());
            }
        }
        globs.others = others.build()?;
        Ok(globs)
    }

    /// Patterns over the URIs of resources, compared in [normal form](crate::uri).
    pub fn of_uris<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, globset::Error> {
        Self::new(patterns.into_iter().map(|pattern| uri::normalize_pattern(pattern.as_ref())))
    }

    /// Whether any of the patterns matches a URI; an ambiguous URI matches each of them.
    pub fn is_match_uri(&self, name: &str) -> bool {
        !self.is_empty() && uri::normalize(name).map_or(true, |name| self.is_match(&name))
    }

    /// Whether any of the patterns matches the whole name.
    pub fn is_match(&self, name: &str) -> bool {
        self.beginnings.iter().any(|beginning| name.starts_with(&**beginning))
            || self.whole.iter().any(|whole| **whole == *name)
            || (!self.others.is_empty() && self.others.is_match(name))
    }

    pub fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.beginnings.is_empty() && self.others.is_empty()
    }
}

fn is_plain(text: &str) -> bool {
    !text.bytes().any(|b| matches!(b, b'*' | b'?' | b'[' | b']' | b'{' | b'}' | b'\\' | b'!'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_and_the_engine_mean_the_same() {
        let patterns = [
            "*",
            "a*",
            "a/*",
            "a",
            "",
            "a_b",
            "*a",
            "a*b",
            "a**",
            "**",
            "/**",
            "a/**",
            "?",
            "a?*",
            "[ab]*",
            "{a,b}*",
            "{a,b}",
            "a\\*",
            "A*",
            ".*",
            "file:///*",
            "é*",
            "a!*",
        ];
        let names = [
            "",
            "a",
            "A",
            "ab",
            "a/b",
            "a/",
            "/a",
            "b",
            "a*",
            "a_b",
            ".a",
            "file:///x/y",
            "é",
            "éa",
            "a\nb",
            "a!b",
            "a.",
            "..",
            "a//b",
        ];
        for pattern in patterns {
            let engine = GlobSetBuilder::new()
                .add(GlobBuilder::new(pattern).build().expect(pattern))
                .build()
                .expect(pattern);
            let globs = Globs::new([pattern]).expect(pattern);
            for name in names {
                assert_eq!(globs.is_match(name), engine.is_match(name), "{pattern:?} {name:?}");
            }
        }
    }

    #[test]
    fn an_empty_list_matches_nothing_and_an_invalid_pattern_is_reported() {
        assert!(Globs::default().is_empty() && !Globs::default().is_match(""));
        assert!(Globs::new(["ok", "a["]).is_err());
    }
}
