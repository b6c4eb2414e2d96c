//! Escapes untrusted text that people read: servers and clients choose names, paths, messages and what
//! programs write to standard error, and a terminal interprets control characters. So characters that move
//! the cursor, change colors, or hide or rearrange text are written as escapes.

use std::fmt::{self, Write};

/// Whether a character does more than appear in the text.
pub fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Writes a text with such characters escaped.
pub fn escape_to(out: &mut impl Write, text: &str) -> fmt::Result {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return out.write_str(text);
    }
    text.chars().try_for_each(|c| {
        if is_control(c) { write!(out, "{}", c.escape_default()) } else { out.write_char(c) }
    })
}

/// Passes a text on with escapes. Line ends and tabs, which the gateway's own longer messages have, stay
/// only if this is set.
pub struct EscapingWriter<'a, W> {
    pub out: &'a mut W,
    pub lines: bool,
}

impl<W: Write> Write for EscapingWriter<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !self.lines {
            return escape_to(self.out, text);
        }
        text.split_inclusive(['\n', '\t']).try_for_each(|part| {
            let line = part.trim_end_matches(['\n', '\t']);
            escape_to(self.out, line)?;
            self.out.write_str(&part[line.len()..])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_escaped() {
        for (text, escaped) in [
            ("plain words", "plain words"),
            ("überall 東京 ✓", "überall 東京 ✓"),
            ("a\r\nb\tc", r"a\r\nb\tc"),
            ("\u{1b}[2J\u{7}\u{8}\u{7f}", r"\u{1b}[2J\u{7}\u{8}\u{7f}"),
            ("\u{9b}31m", r"\u{9b}31m"),
            (
                "abc\u{202e}cba\u{2066}\u{200b}\u{feff}\u{e0041}",
                r"abc\u{202e}cba\u{2066}\u{200b}\u{feff}\u{e0041}",
            ),
        ] {
            let mut out = String::new();
            escape_to(&mut out, text).expect("memory");
            assert_eq!(out, escaped);
        }
        let mut out = String::new();
        write!(EscapingWriter { out: &mut out, lines: true }, "one\n\ttwo \r\u{1b}").expect("memory");
        assert_eq!(out, "one\n\ttwo \\r\\u{1b}");
    }
}
