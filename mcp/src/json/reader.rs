//! A strict JSON reader that reads the bytes once and returns places, not values.
//!
//! The gateway needs the *places* of a few members (to forward the same bytes), a depth limit, and checks for
//! duplicate keys at some levels. JSON crates have one or two of these and need two or three passes. The
//! reader accepts what RFC 8259 allows and no more: `tests/differential.rs` compares it with `serde_json`.
//!
//! It builds no tree, decodes no number and keeps nothing of skipped values.

use std::borrow::Cow;

use super::string_scan::plain_run;
pub use super::surrogates::EscapedUnit;
pub use super::surrogates::replace_lone;

/// The highest depth limit of a [`JsonReader`].
pub const DEPTH_CEILING: usize = 512;

/// A half-open range of bytes in the read text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    /// The bytes of this place.
    pub fn of<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        &text[self.start..self.end]
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// A string in the text: its place *with* the quotes, and whether it holds escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    pub span: Span,
    escaped: bool,
}

impl Text {
    /// The decoded string; borrowed unless it holds escapes.
    pub fn read<'a>(&self, text: &'a [u8]) -> Cow<'a, str> {
        let checked = "the reader checked each string as UTF-8";
        match self.bytes(text) {
            Cow::Borrowed(said) => Cow::Borrowed(std::str::from_utf8(said).expect(checked)),
            Cow::Owned(said) => Cow::Owned(String::from_utf8(said).expect(checked)),
        }
    }

    /// The UTF-8 of the decoded string without a second check, for comparisons.
    pub fn bytes<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        let inner = &text[self.span.start + 1..self.span.end - 1];
        if self.escaped { Cow::Owned(unescape(inner)) } else { Cow::Borrowed(inner) }
    }

    /// Whether the string equals `word`, without allocating in the common case.
    pub fn is(&self, text: &[u8], word: &str) -> bool {
        *self.bytes(text) == *word.as_bytes()
    }
}

/// Why a text is not JSON, and where. The text is not worth reading further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at byte {at}")]
pub struct JsonError {
    pub kind: JsonErrorKind,
    /// Offset in bytes from the start of the text.
    pub at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonErrorKind {
    #[error("the text ends too early")]
    Truncated,
    #[error("unexpected character")]
    Unexpected,
    #[error("not UTF-8")]
    Encoding,
    #[error("bad escape in a string")]
    Escape,
    #[error("bad number")]
    Number,
    #[error("nested too deep")]
    Depth,
    #[error("more text after the end of the value")]
    Trailing,
}

type Read<T> = Result<T, JsonError>;

/// Reads one JSON text, front to back.
pub struct JsonReader<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
    max_depth: usize,
    /// Accepts escapes of unpaired surrogates.
    lenient: bool,
    /// One bit a level: set for an object, clear for an array.
    objects: [u64; DEPTH_CEILING / 64],
}

impl<'a> JsonReader<'a> {
    /// Starts at the first byte; `max_depth` levels of nesting are followed, at most [`DEPTH_CEILING`].
    pub fn new(text: &'a [u8], max_depth: usize) -> Read<Self> {
        let max_depth = max_depth.min(DEPTH_CEILING);
        Ok(Self { text, at: 0, depth: 0, max_depth, lenient: false, objects: [0; DEPTH_CEILING / 64] })
    }

    /// The same for servers' messages. RFC 8259 §8.2 allows the escape of an unpaired surrogate, and servers
    /// that cut texts by UTF-16 units write such. It reads as U+FFFD. Clients' messages are not read so:
    /// another reader may take such a string for a different one.
    pub fn lenient(text: &'a [u8], max_depth: usize) -> Read<Self> {
        Ok(Self { lenient: true, ..Self::new(text, max_depth)? })
    }

    /// The next byte that is not white space, without taking it.
    pub fn peek(&mut self) -> Read<u8> {
        while let Some(b) = self.text.get(self.at) {
            if !matches!(b, b' ' | b'\n' | b'\r' | b'\t') {
                return Ok(*b);
            }
            self.at += 1;
        }
        self.error(JsonErrorKind::Truncated)
    }

    /// Steps over one value of any kind, checking all of it.
    pub fn value(&mut self) -> Read<Span> {
        let first = self.peek()?;
        let start = self.at;
        let floor = self.depth;
        let mut next = first;
        loop {
            let opened = match next {
                b'{' => {
                    self.open(true)?;
                    if self.peek()? == b'}' {
                        self.close();
                        false
                    } else {
                        self.key()?;
                        true
                    }
                }
                b'[' => {
                    self.open(false)?;
                    if self.peek()? == b']' {
                        self.close();
                        false
                    } else {
                        true
                    }
                }
                _ => {
                    self.scalar(next)?;
                    false
                }
            };
            if !opened {
                loop {
                    if self.depth == floor {
                        return Ok(Span { start, end: self.at });
                    }
                    let object = self.in_object();
                    match (self.peek()?, object) {
                        (b',', true) => {
                            self.at += 1;
                            self.key()?;
                            break;
                        }
                        (b',', false) => {
                            self.at += 1;
                            break;
                        }
                        (b'}', true) | (b']', false) => self.close(),
                        _ => return self.error(JsonErrorKind::Unexpected),
                    }
                }
            }
            next = self.peek()?;
        }
    }

    /// Reads an object. `member` gets each key and must read the value (by [`Self::value`], [`Self::string`]
    /// or [`Self::object`]).
    pub fn object(&mut self, mut member: impl FnMut(&mut Self, Text) -> Read<()>) -> Read<Span> {
        if self.peek()? != b'{' {
            return self.error(JsonErrorKind::Unexpected);
        }
        let start = self.at;
        self.open(true)?;
        if self.peek()? == b'}' {
            self.close();
            return Ok(Span { start, end: self.at });
        }
        loop {
            let key = self.key()?;
            member(self, key)?;
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.close();
                    return Ok(Span { start, end: self.at });
                }
                _ => return self.error(JsonErrorKind::Unexpected),
            }
        }
    }

    /// Reads an array; `element` must read each value.
    pub fn array(&mut self, mut element: impl FnMut(&mut Self) -> Read<()>) -> Read<Span> {
        if self.peek()? != b'[' {
            return self.error(JsonErrorKind::Unexpected);
        }
        let start = self.at;
        self.open(false)?;
        if self.peek()? == b']' {
            self.close();
            return Ok(Span { start, end: self.at });
        }
        loop {
            element(self)?;
            match self.peek()? {
                b',' => self.at += 1,
                b']' => {
                    self.close();
                    return Ok(Span { start, end: self.at });
                }
                _ => return self.error(JsonErrorKind::Unexpected),
            }
        }
    }

    /// Reads a string.
    pub fn string(&mut self) -> Read<Text> {
        if self.peek()? != b'"' {
            return self.error(JsonErrorKind::Unexpected);
        }
        let start = self.at;
        self.at += 1;
        let (mut escaped, mut wide) = (false, false);
        loop {
            let run = plain_run(&self.text[self.at..]);
            self.at += run.len;
            wide |= run.wide;
            match self.text.get(self.at) {
                Some(b'"') => {
                    if wide {
                        self.is_utf8(start + 1)?;
                    }
                    self.at += 1;
                    return Ok(Text { span: Span { start, end: self.at }, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.error(JsonErrorKind::Unexpected),
                None => return self.error(JsonErrorKind::Truncated),
            }
        }
    }

    /// Checks that only white space is left.
    pub fn end(&mut self) -> Read<()> {
        match self.peek() {
            Ok(_) => self.error(JsonErrorKind::Trailing),
            Err(_) => Ok(()),
        }
    }

    /// Only strings can hold non-ASCII text, and few do. So they are checked one by one.
    fn is_utf8(&self, start: usize) -> Read<()> {
        let checked = std::str::from_utf8(&self.text[start..self.at]);
        checked
            .map(drop)
            .map_err(|error| JsonError { kind: JsonErrorKind::Encoding, at: start + error.valid_up_to() })
    }

    fn error<T>(&self, what: JsonErrorKind) -> Read<T> {
        Err(JsonError { kind: what, at: self.at })
    }

    fn open(&mut self, object: bool) -> Read<()> {
        if self.depth == self.max_depth {
            return self.error(JsonErrorKind::Depth);
        }
        let bit = 1 << (self.depth % 64);
        if object {
            self.objects[self.depth / 64] |= bit;
        } else {
            self.objects[self.depth / 64] &= !bit;
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.at += 1;
    }

    fn in_object(&self) -> bool {
        let level = self.depth - 1;
        self.objects[level / 64] & (1 << (level % 64)) != 0
    }

    fn key(&mut self) -> Read<Text> {
        let key = self.string()?;
        if self.peek()? != b':' {
            return self.error(JsonErrorKind::Unexpected);
        }
        self.at += 1;
        Ok(key)
    }

    fn scalar(&mut self, first: u8) -> Read<()> {
        match first {
            b'"' => self.string().map(drop),
            b't' => self.literal(b"true"),
            b'f' => self.literal(b"false"),
            b'n' => self.literal(b"null"),
            b'-' | b'0'..=b'9' => self.number(),
            _ => self.error(JsonErrorKind::Unexpected),
        }
    }

    fn literal(&mut self, word: &[u8]) -> Read<()> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(());
        }
        self.error(if word.starts_with(&self.text[self.at..]) {
            JsonErrorKind::Truncated
        } else {
            JsonErrorKind::Unexpected
        })
    }

    fn number(&mut self) -> Read<()> {
        if self.text[self.at] == b'-' {
            self.at += 1;
        }
        match self.text.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return self.error(JsonErrorKind::Number),
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.text.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Read<()> {
        let run = self.text[self.at..].iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += run;
        if run == 0 { self.error(JsonErrorKind::Number) } else { Ok(()) }
    }

    /// At a backslash: one escape. A surrogate must come as a pair, high before low (RFC 8259 §8.2 warns of
    /// unpaired ones), unless the reader is [`Self::lenient`].
    fn escape(&mut self) -> Read<()> {
        match self.text.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => match EscapedUnit::at(&self.text[self.at..]) {
                Some(EscapedUnit::Lone) if !self.lenient => self.error(JsonErrorKind::Escape),
                Some(unit) => {
                    self.at += unit.width();
                    Ok(())
                }
                None => self.error(JsonErrorKind::Escape),
            },
            Some(_) => self.error(JsonErrorKind::Escape),
            None => self.error(JsonErrorKind::Truncated),
        }
    }
}

/// Decodes the inside of a string that [`JsonReader::string`] has validated.
fn unescape(inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let mut width = 2;
        match rest[at + 1] {
            b'b' => out.push(8),
            b'f' => out.push(12),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => {
                let unit = EscapedUnit::at(&rest[at..]).expect("the reader checked each escape");
                width = unit.width();
                out.extend_from_slice(unit.char().encode_utf8(&mut [0; 4]).as_bytes());
            }
            plain => out.push(plain),
        }
        rest = &rest[at + width..];
    }
    out.extend_from_slice(rest);
    out
}
