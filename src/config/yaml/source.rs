//! The text of a config file; maps bytes to lines and columns.
//!
//! It has no knowledge of YAML.

use std::ops::Range;

/// A stretch of the file, in bytes.
pub(crate) type ByteRange = Range<usize>;

/// A file's text with the start of each line.
pub(crate) struct Source<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

/// A place for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// In characters, at least 1, never past the end of the line.
    pub len: usize,
}

impl<'t> Source<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        // A CR by itself ends a line too (YAML 1.2 §5.4), and the parser counts it so.
        let bytes = text.as_bytes();
        let ends = |at: &usize| bytes[*at] == b'\n' || bytes.get(at + 1) != Some(&b'\n');
        let ends = memchr::memchr2_iter(b'\n', b'\r', bytes).filter(ends);
        let starts = std::iter::once(0).chain(ends.map(|at| at + 1)).collect();
        Self { text, starts }
    }

    /// The text of these bytes; empty if they are outside of the file.
    pub(crate) fn slice(&self, bytes: &ByteRange) -> &'t str {
        self.text.get(bytes.clone()).unwrap_or_default()
    }

    /// The line with this number (from 1), without its line break.
    pub(crate) fn line(&self, number: usize) -> &'t str {
        let bytes = self.line_bytes(number);
        self.slice(&bytes).trim_end_matches(['\n', '\r'])
    }

    /// The bytes of the line with this number (from 1), with its line break.
    pub(crate) fn line_bytes(&self, number: usize) -> ByteRange {
        let from = self.starts.get(number.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let to = self.starts.get(number).copied().unwrap_or(self.text.len());
        from..to
    }

    /// Line, column and length of these bytes; the length stops at the end of the line.
    pub(crate) fn location(&self, bytes: &ByteRange) -> Location {
        let line = self.starts.partition_point(|start| *start <= bytes.start).max(1);
        let from = self.line_bytes(line).start;
        let here = self.line(line).chars().count();
        // A place within a line break of two characters counts as the end of the line.
        let before = self.slice(&(from..bytes.start)).chars().count().min(here);
        let wanted =
            self.slice(bytes).split(['\n', '\r']).next().unwrap_or_default().trim_end().chars().count();
        Location { line, column: before + 1, len: wanted.min(here.saturating_sub(before)).max(1) }
    }

    /// The byte at this character of this line (both from 1).
    pub(crate) fn byte(&self, line: usize, column: usize) -> usize {
        let bytes = self.line_bytes(line);
        let within =
            self.slice(&bytes).char_indices().nth(column.saturating_sub(1)).map(|(at, _)| bytes.start + at);
        within.unwrap_or(bytes.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters_from_one() {
        let source = Source::new("a: é\n  bé: [1,\n 2]\r\n\nend");
        for (needle, line, column, len) in [
            ("a", 1, 1, 1),
            ("é", 1, 4, 1),
            ("bé", 2, 3, 2),
            ("[1,\n 2]", 2, 7, 3),
            ("2]", 3, 2, 2),
            ("end", 5, 1, 3),
        ] {
            let at = source.text.find(needle).expect("the needle is in the text");
            assert_eq!(
                source.location(&(at..at + needle.len())),
                Location { line, column, len },
                "{needle:?}"
            );
        }
        assert_eq!(source.location(&(22..22)), Location { line: 4, column: 1, len: 1 });
        assert_eq!(source.line(3), " 2]");
        assert_eq!(source.line(99), "");
        assert_eq!(source.byte(2, 4), 9);
    }

    #[test]
    fn each_way_to_end_a_line_ends_one() {
        let source = Source::new("a\rb\r\nc\n\rd: [x\r y]");
        assert_eq!((1..=6).map(|n| source.line(n)).collect::<Vec<_>>(), ["a", "b", "c", "", "d: [x", " y]"]);
        assert_eq!(source.location(&(11..16)), Location { line: 5, column: 4, len: 2 });
        for end in [3, 4] {
            assert_eq!(source.location(&(end..end)), Location { line: 2, column: 2, len: 1 }, "byte {end}");
        }
    }
}
