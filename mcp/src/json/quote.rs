//! Writes JSON strings (RFC 8259 §7).

/// `word` as a JSON string.
pub fn quote(word: &str) -> String {
    let mut out = String::with_capacity(word.len() + 2);
    quote_to(&mut out, word);
    out
}

/// Appends `word` as a JSON string.
pub fn quote_to(out: &mut String, word: &str) {
    out.push('"');
    let mut rest = word;
    // Text without escapes is copied at once: nearly always all of it.
    while let Some(at) = rest.bytes().position(|b| b < 0x20 || b == b'"' || b == b'\\') {
        out.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            control => out.push_str(&format!("\\u{control:04x}")),
        }
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}
