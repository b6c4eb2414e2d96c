//! Notes: what was read under another name, and what was ignored.
//!
//! Notes name keys, servers and variables, never values.

use std::fmt;

use super::yaml::source::ByteRange;

/// One note on how a file was read.
#[derive(Clone, Debug)]
pub struct Note {
    /// From 1; 0 if it concerns the whole file.
    pub line: usize,
    /// In one sentence.
    pub text: String,
    /// Some part of the file has no effect here, or another meaning than in its origin.
    pub warns: bool,
}

/// An ignored key and its server; `None` is the file itself.
pub(super) struct IgnoredKey {
    pub(super) bytes: ByteRange,
    pub(super) key: String,
    pub(super) server: Option<String>,
}

/// All notes of a file, in its order.
///
/// Any two are equal, as with [`Line`](super::Line): the same settings are no change, however a file spells
/// them.
#[derive(Clone, Debug, Default)]
pub struct Notes(Vec<Note>);

impl Notes {
    pub(super) fn new(mut notes: Vec<Note>) -> Self {
        notes.sort_by_key(|note| note.line);
        Self(notes)
    }

    /// What was read under another name.
    pub fn readings(&self) -> impl Iterator<Item = &Note> {
        self.0.iter().filter(|note| !note.warns)
    }

    /// What was ignored, or may surprise.
    pub fn warnings(&self) -> impl Iterator<Item = &Note> {
        self.0.iter().filter(|note| note.warns)
    }
}

impl PartialEq for Notes {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        f.write_str(&self.text)
    }
}
