//! Escapes of UTF-16 units (`\uXXXX`): surrogate pairs, and unpaired surrogates.

use std::borrow::Cow;

use memchr::{memchr_iter, memmem};

/// The meaning of one escape, or of the pair that begins with it.
pub enum EscapedUnit {
    Char(char),
    Pair(char),
    /// An unpaired surrogate.
    Lone,
}

impl EscapedUnit {
    /// At the backslash of a `\u`; `None` without four hex digits after it.
    pub fn at(text: &[u8]) -> Option<Self> {
        let first = hex4(text.get(2..)?)?;
        if !(0xD800..0xE000).contains(&first) {
            return char::from_u32(first).map(EscapedUnit::Char);
        }
        match text[6..].strip_prefix(br"\u").and_then(hex4) {
            Some(low @ 0xDC00..=0xDFFF) if first < 0xDC00 => {
                char::from_u32(0x10000 + ((first - 0xD800) << 10) + (low - 0xDC00)).map(EscapedUnit::Pair)
            }
            _ => Some(EscapedUnit::Lone),
        }
    }

    /// Bytes of the escape.
    pub fn width(&self) -> usize {
        if matches!(self, EscapedUnit::Pair(_)) { 12 } else { 6 }
    }

    pub fn char(&self) -> char {
        match self {
            EscapedUnit::Char(c) | EscapedUnit::Pair(c) => *c,
            EscapedUnit::Lone => char::REPLACEMENT_CHARACTER,
        }
    }
}

fn hex4(text: &[u8]) -> Option<u32> {
    text.get(..4)?.iter().try_fold(0, |n, b| Some(n * 16 + (*b as char).to_digit(16)?))
}

/// JSON text with U+FFFD for each unpaired surrogate. All places stay the same: both escapes are six bytes
/// long. Invalid JSON stays unchanged.
pub fn replace_lone(text: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Cow::Borrowed(text);
    // Most texts have no surrogates at all.
    if memmem::find(text, br"\ud").or_else(|| memmem::find(text, br"\uD")).is_none() {
        return out;
    }
    let mut next = 0;
    for at in memchr_iter(b'\\', text) {
        if at < next {
            continue;
        }
        next = at + 2;
        if text.get(at + 1) != Some(&b'u') {
            continue;
        }
        if let Some(unit) = EscapedUnit::at(&text[at..]) {
            next = at + unit.width();
            if matches!(unit, EscapedUnit::Lone) {
                out.to_mut()[at..next].copy_from_slice(br"\ufffd");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::reader::{DEPTH_CEILING, JsonErrorKind, JsonReader};

    const ALONE: [(&str, &str); 7] = [
        (r#""\ud83d""#, r#""\ufffd""#),
        (r#""a\uDE00b""#, r#""a\ufffdb""#),
        (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
        (r#""\ud83d\n""#, r#""\ufffd\n""#),
        (r#""\ud83d\u0041""#, r#""\ufffd\u0041""#),
        (r#""\ude00\ud83d""#, r#""\ufffd\ufffd""#),
        (r#"{"\\ud83d":["\\\ud83d\\"]}"#, r#"{"\\ud83d":["\\\ufffd\\"]}"#),
    ];

    #[test]
    fn surrogates_that_stand_alone_are_replaced_in_their_place() {
        for (sent, kept) in ALONE {
            assert_eq!(String::from_utf8_lossy(&replace_lone(sent.as_bytes())), kept);
            assert!(matches!(replace_lone(kept.as_bytes()), Cow::Borrowed(_)), "{kept}");
        }
        for plain in [r#""\ud83d\ude00""#, r#""\\ud83d""#, "", "\\", r"\ud", r#""\ud83"#] {
            assert!(matches!(replace_lone(plain.as_bytes()), Cow::Borrowed(_)), "{plain}");
        }
    }

    #[test]
    fn only_a_lenient_reader_takes_surrogates_that_stand_alone() {
        for (sent, kept) in ALONE {
            let strict = JsonReader::new(sent.as_bytes(), DEPTH_CEILING).and_then(|mut r| r.value());
            assert_eq!(strict.map_err(|error| error.kind), Err(JsonErrorKind::Escape), "{sent}");
            let mut lenient = JsonReader::lenient(sent.as_bytes(), DEPTH_CEILING).expect("a reader");
            assert_eq!(lenient.value().map(|span| span.len()), Ok(sent.len()), "{sent}");
            let read = |text: &str| {
                let string = JsonReader::lenient(text.as_bytes(), 1).and_then(|mut r| r.string()).ok()?;
                Some(string.read(text.as_bytes()).into_owned())
            };
            assert_eq!(read(sent), read(kept), "{sent}");
        }
        for broken in [r#""\ud83""#, r#""\u""#, r#""\uZZZZ""#] {
            let read = JsonReader::lenient(broken.as_bytes(), 1).and_then(|mut r| r.string());
            assert_eq!(read.map_err(|error| error.kind), Err(JsonErrorKind::Escape), "{broken}");
        }
    }
}
