//! Files of variables for `envFile`, one `NAME=value` per line.
//!
//! Values are used as written: `$` in a password starts no variable. Libraries that substitute variables are
//! therefore not used. Quotes follow Node's `--env-file`: `"` knows `\n`, and `"`, `'` and a backtick may
//! span lines.

use std::collections::BTreeMap;

/// Reads the whole file.
///
/// # Errors
/// The number of the first line that is not `NAME=value`, `export NAME=value`, a comment or blank.
pub(in crate::config) fn read(text: &str) -> Result<BTreeMap<String, String>, usize> {
    let mut found = BTreeMap::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut number = 1;
    while !rest.is_empty() {
        let (line, after) = split_line(rest);
        let bare = line.trim_start();
        if bare.trim_end().is_empty() || bare.starts_with('#') {
            (rest, number) = (after, number + 1);
            continue;
        }
        let bare = bare.strip_prefix("export ").unwrap_or(bare);
        let (name, value) = bare.split_once('=').ok_or(number)?;
        let name = name.trim();
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(good) {
            return Err(number);
        }
        let value = value.trim_start_matches([' ', '\t']);
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\'' | '`'));
        // The start of the value in the rest of the file. A quoted value may span lines.
        let start = line.len() - value.len();
        let closed = quote.and_then(|quote| quoted(&rest[start + 1..], quote));
        let (value, end) = match closed {
            Some((value, len)) => (value, start + 1 + len + 1),
            None => (value.split(" #").next().unwrap_or_default().trim().to_owned(), line.len()),
        };
        found.insert(name.to_owned(), value);
        // A comment may follow. Any other text after the quote is dropped, as dotenv readers do.
        let (_, after) = split_line(&rest[end..]);
        number += rest[..rest.len() - after.len()].matches('\n').count();
        rest = after;
    }
    Ok(found)
}

fn split_line(text: &str) -> (&str, &str) {
    match text.split_once('\n') {
        Some((line, after)) => (line.strip_suffix('\r').unwrap_or(line), after),
        None => (text, ""),
    }
}

/// The text before the closing quote and its length as written; `None` without a closing quote.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Some((value.replace("\r\n", "\n"), at)),
            '\\' if quote == '"' => match chars.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                c @ ('"' | '\\') => value.push(c),
                c => value.extend(['\\', c]),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_taken_as_they_stand() {
        let text = "\u{feff}# a comment\r\nA=1\r\n\n  export B = two words # not this\nC='$X #1' # c\nD=\"a\\nb\\\"\"\n\
                    E=\"over\nlines\"\nF=\nG=pa$$w#rd\nH=\"open\nI=`'`\nJ=x";
        let read = read(text).expect("good");
        let read: Vec<_> = read.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(
            read,
            [
                ("A", "1"),
                ("B", "two words"),
                ("C", "$X #1"),
                ("D", "a\nb\""),
                ("E", "over\nlines"),
                ("F", ""),
                ("G", "pa$$w#rd"),
                ("H", "\"open"),
                ("I", "'"),
                ("J", "x"),
            ]
        );
    }

    #[test]
    fn a_line_that_is_no_variable_is_named_by_its_number() {
        for (text, line) in
            [("A=1\nB", 2), ("A=\"x\ny\"\n\n=1", 4), ("1A=x", 1), ("a b=c", 1), ("{\"A\": 1}", 1)]
        {
            assert_eq!(read(text), Err(line), "{text:?}");
        }
    }
}
