//! JSON as editors write it: with comments, trailing commas and tabs.
//!
//! YAML reads JSON, but not its comments, and rejects some tabs. Both are replaced by spaces, byte by byte,
//! so that all places stay the same. Only certain JSON is changed: a file with an unquoted word is YAML,
//! where `//` is part of a URL.

/// The text without comments and tabs outside of strings; `None` if nothing changed or if it is not JSON.
pub(in crate::config) fn plain(text: &str) -> Option<String> {
    scan(text).filter(|(_, changed)| *changed).map(|(plain, _)| plain)
}

/// The same, and whether anything changed; `None` only if its tokens are not JSON.
pub(in crate::config) fn scan(text: &str) -> Option<(String, bool)> {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let (mut at, mut changed, mut first) = (0, false, true);
    while let Some(byte) = bytes.get(at) {
        let rest = &bytes[at..];
        let len = match byte {
            b' ' | b'\n' | b'\r' => 1,
            b'\t' => blank(&mut out[at..=at], &mut changed),
            b'/' if rest.starts_with(b"//") => {
                let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                blank(&mut out[at..at + end], &mut changed)
            }
            b'/' if rest.starts_with(b"/*") => {
                let end = memchr::memmem::find(&rest[2..], b"*/")? + 4;
                blank(&mut out[at..at + end], &mut changed)
            }
            // A YAML comment may precede the JSON.
            b'#' if first => memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len()),
            b'{' | b'[' | b'"' if first => {
                first = false;
                if *byte == b'"' { string(rest)? } else { 1 }
            }
            _ if first => return None,
            b'{' | b'}' | b'[' | b']' | b':' | b',' => 1,
            b'"' => string(rest)?,
            _ => word(rest)?,
        };
        at += len;
    }
    let out = String::from_utf8(out).expect("whole comments and tabs became blanks");
    (!first).then_some((out, changed))
}

/// The text of a mapping in braces without JSON comments. It is for a file that is neither YAML nor JSON as
/// written, such as JSON5 with comments. `//` in a URL is no comment.
pub(in crate::config) fn loose(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let (mut at, mut changed, mut before, mut first) = (0, false, b' ', true);
    while let Some(byte) = bytes.get(at) {
        let rest = &bytes[at..];
        if first && *byte == b'#' {
            // A YAML comment may precede the JSON.
            at += memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
            continue;
        }
        let apart = before.is_ascii_whitespace() || b"{}[],".contains(&before);
        let len = match byte {
            b'/' if apart && rest.starts_with(b"//") => {
                let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
                blank(&mut out[at..at + end], &mut changed)
            }
            b'/' if apart && rest.starts_with(b"/*") => {
                let end = memchr::memmem::find(&rest[2..], b"*/")? + 4;
                blank(&mut out[at..at + end], &mut changed)
            }
            b'"' => string(rest)?,
            b'\'' => 2 + memchr::memchr(b'\'', &rest[1..])?,
            _ => 1,
        };
        before = out[at + len - 1];
        at += len;
        if first && !before.is_ascii_whitespace() {
            first = false;
            if before != b'{' {
                return None;
            }
        }
    }
    let out = String::from_utf8(out).expect("whole comments became blanks");
    (changed && !first).then_some(out)
}

/// Whether the text begins as a list of JSON members does, without a brace around them.
pub(in crate::config) fn is_bare(text: &str) -> bool {
    let mut lines =
        text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.next().is_some_and(|line| line.starts_with('"'))
}

/// Overwrites all but line breaks; the number of lines and their widths stay the same.
fn blank(bytes: &mut [u8], changed: &mut bool) -> usize {
    bytes.iter_mut().filter(|byte| !matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    *changed = true;
    bytes.len()
}

/// The length of the string that begins here.
fn string(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            b'\n' | b'\r' => return None,
            _ => at += 1,
        }
    }
}

/// The length of a number, or of `true`, `false` or `null`.
fn word(bytes: &[u8]) -> Option<usize> {
    let end = bytes.iter().position(|byte| !(byte.is_ascii_alphanumeric() || b"+-._".contains(byte)));
    let word = &bytes[..end.unwrap_or(bytes.len())];
    let number = word.first().is_some_and(|byte| byte.is_ascii_digit() || *byte == b'-');
    (number || [&b"true"[..], b"false", b"null"].contains(&word)).then_some(word.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_tabs_of_json_become_blanks_of_the_same_width() {
        for (text, wanted) in [
            ("// a\n{\"b\": 1} // c", "    \n{\"b\": 1}     "),
            ("{/* a\n é */\"b\": \"//\"}", "{    \n      \"b\": \"//\"}"),
            (
                "{\"a\": \"\\\"//\", // x\r\n\t\"b\": [1, -2.5e3,]}",
                "{\"a\": \"\\\"//\",     \r\n \"b\": [1, -2.5e3,]}",
            ),
            ("\"a\": {}, // b", "\"a\": {},     "),
            ("# a //\n{\"b\": 1} // c", "# a //\n{\"b\": 1}     "),
        ] {
            let plain = plain(text).expect(text);
            assert_eq!((plain.as_str(), plain.len()), (wanted, text.len()), "{text:?}");
        }
    }

    #[test]
    fn comments_in_loose_json_are_distinguished_from_urls() {
        let text = "// c\n{a: 'b // c', d: http://e/f, /* g */ h: i // it's j\n}";
        let wanted = "    \n{a: 'b // c', d: http://e/f,         h: i          \n}";
        assert_eq!(loose(text).as_deref(), Some(wanted));
        assert_eq!(loose("# it's //\n{a: b // c\n}").as_deref(), Some("# it's //\n{a: b     \n}"));
        for text in ["a: b // c", "{a: http://b}", "{a: 'b // c\n}", "{a: b /* c\n}"] {
            assert_eq!(loose(text), None, "{text}");
        }
    }

    #[test]
    fn what_may_be_yaml_is_left_alone() {
        for text in [
            "{\"a\": 1}",
            "{a: http://b/c, // d\n}",
            "{\"a\": http://b}",
            "{'a': \"b\"} // c",
            "a: 1 // b",
            "{\"a\": \"b // c",
            "{\"a\": 1} /* b",
            "// a",
            "",
        ] {
            assert_eq!(plain(text), None, "{text:?}");
        }
    }
}
