//! Finds ambiguous keys of an object: duplicates, and lookalikes of known keys.

use super::{MAX_MEMBERS, ParseErrorKind, Parser};
use crate::json::reader::Text;

/// The keys seen so far in one object, and its known keys.
pub(super) struct KeyChecker<'a> {
    body: &'a [u8],
    known: &'static [&'static str],
    seen: SeenKeys,
}

/// The first keys without an allocation; messages seldom have more.
struct SeenKeys {
    few: [Option<Text>; 12],
    count: usize,
    many: Vec<Text>,
}

impl<'a> KeyChecker<'a> {
    pub fn new(body: &'a [u8], known: &'static [&'static str]) -> Self {
        Self { body, known, seen: SeenKeys { few: [None; 12], count: 0, many: Vec::new() } }
    }

    /// Checks one more key: is it a duplicate, or a lookalike of a known key?
    pub fn check(&mut self, key: Text, parser: &mut Parser) {
        if self.seen.count >= MAX_MEMBERS {
            return parser.fail(ParseErrorKind::TooManyMembers);
        }
        let word = key.bytes(self.body);
        if self.seen.iter().any(|seen| seen.bytes(self.body) == word) {
            parser.fail(ParseErrorKind::DuplicateKey(key.read(self.body).into_owned()));
        } else if !self.known.iter().any(|known| known.as_bytes() == &*word) {
            let word = key.read(self.body);
            if let Some(known) = self.known.iter().find(|known| is_lookalike(&word, known)) {
                parser.fail(ParseErrorKind::LookalikeKey(word.into_owned(), known));
            }
        }
        self.seen.push(key);
    }
}

impl SeenKeys {
    fn iter(&self) -> impl Iterator<Item = &Text> {
        self.few.iter().flatten().chain(&self.many)
    }

    fn push(&mut self, key: Text) {
        match self.few.get_mut(self.count) {
            Some(place) => *place = Some(key),
            None => self.many.push(key),
        }
        self.count += 1;
    }
}

/// Equal except for case, also by foldings outside of ASCII. By Unicode's full mappings `ß` is `SS`, and one
/// letter may equal two or three. Some readers also take the Turkish dotless and dotted i for an i: those
/// that compare in upper or lower case letter by letter, as Java's `equalsIgnoreCase` does.
fn is_lookalike(word: &str, known: &str) -> bool {
    // Such letters have at most three bytes each, and no fewer than their equivalents. So the length alone
    // excludes most words.
    word.len() >= known.len()
        && word.len() <= known.len() * 3
        && if word.is_ascii() {
            word.eq_ignore_ascii_case(known)
        } else {
            word.chars().flat_map(folded).eq(known.chars().map(|c| c.to_ascii_lowercase()))
        }
}

fn folded(c: char) -> impl Iterator<Item = char> {
    let upper = match c {
        'ı' | 'İ' => 'I',
        '\u{212A}' => 'K',
        'ẞ' => 'ß',
        c => c,
    };
    upper.to_uppercase().map(|c| c.to_ascii_lowercase())
}
