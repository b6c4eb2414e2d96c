//! Blots out secrets in the source lines that faults show.
//!
//! A config file may hold a token as it is. Faults are logged and shown to people who may not read the file, so
//! what is, or looks like, a secret is shown as `*`; a variable keeps its name. It errs on the side of blots.

use super::source::{Bytes, Source};
use super::tree::{Node, Value};

/// Words in a key (or a flag of a command) whose value is not for everyone.
const WORDS: [&str; 11] = [
    "authorization",
    "token",
    "secret",
    "password",
    "passwd",
    "apikey",
    "api_key",
    "api-key",
    "cookie",
    "private",
    "bearer",
];
/// Keys all of whose values are secret.
const SECTIONS: [&str; 2] = ["env", "headers"];

/// Where the file's secrets stand.
pub(super) fn secrets(root: &Node, source: &Source<'_>) -> Vec<Bytes> {
    let mut blots = Vec::new();
    walk(root, false, source, &mut blots);
    blots
}

fn walk(node: &Node, secret: bool, source: &Source<'_>, blots: &mut Vec<Bytes>) {
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                // A list of headers, as CORS has it, is one of names.
                let section = SECTIONS.contains(&entry.key.as_str()) && entry.node.items().is_empty();
                let secret = secret || section || is_telling(&entry.key);
                walk(&entry.node, secret, source, blots);
            }
        }
        Value::List(items) => {
            let mut after_flag = false;
            for item in items {
                walk(item, secret || after_flag, source, blots);
                let Value::Scalar(scalar) = &item.value else { continue };
                // `--token VALUE` is two items, `--token=VALUE` one.
                after_flag = is_telling(&scalar.raw) && !scalar.raw.contains(['=', ':', ' ']);
            }
        }
        Value::Scalar(_) if secret => blots.push(node.bytes.clone()),
        Value::Scalar(_) => {
            let text = source.slice(&node.bytes);
            if let Some(at) = telling_part(text) {
                blots.push(node.bytes.start + at..node.bytes.end);
            }
        }
    }
}

fn is_telling(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    WORDS.iter().any(|telling| word.contains(telling))
}

/// Where the secret part of a value begins: a URL's password or query, or what follows a telling word.
fn telling_part(text: &str) -> Option<usize> {
    let url = text.find("://").map(|at| at + 3);
    let user = url.filter(|from| text[*from..].split('/').next().is_some_and(|host| host.contains('@')));
    let query = url.and_then(|from| text[from..].find('?').map(|at| from + at + 1));
    let lower = text.to_ascii_lowercase();
    let after = WORDS
        .iter()
        .filter_map(|word| lower.find(word).map(|at| at + word.len()))
        .filter_map(|from| text[from..].find(['=', ':', ' ']).map(|at| from + at + 1))
        .min();
    [user, query, after].into_iter().flatten().min()
}

/// What may be secret in a line of a file that is not YAML, so that only its look can be gone by.
pub(super) fn guess(source: &Source<'_>, number: usize) -> Vec<Bytes> {
    let (bytes, line) = (source.line_bytes(number), source.line(number));
    let value = |from: usize| line[from..].find([':', '=']).map(|at| from + at + 1);
    let lower = line.to_ascii_lowercase();
    let words = WORDS.iter().chain(&SECTIONS).filter_map(|word| lower.find(word).map(|at| at + word.len()));
    let own = words.filter_map(value).min();
    let below = if in_section(source, number) { value(0).or(Some(0)) } else { None };
    own.into_iter().chain(below).chain(telling_part(line)).map(|at| bytes.start + at..bytes.end).collect()
}

/// Whether a line before this one opens `env:` or `headers:` and nothing has closed it, by indentation.
fn in_section(source: &Source<'_>, number: usize) -> bool {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut depth = indent(source.line(number));
    for number in (1..number).rev() {
        let line = source.line(number);
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') || indent(line) >= depth {
            continue;
        }
        depth = indent(line);
        if SECTIONS.iter().any(|section| text.trim_start_matches('"').starts_with(section)) {
            return true;
        }
    }
    false
}

/// In order and apart, as [`line`] takes them.
pub(super) fn merge(mut blots: Vec<Bytes>) -> Vec<Bytes> {
    blots.sort_by_key(|blot| (blot.start, blot.end));
    let mut apart: Vec<Bytes> = Vec::with_capacity(blots.len());
    for blot in blots {
        match apart.last_mut() {
            Some(last) if blot.start < last.end => last.end = last.end.max(blot.end),
            _ => apart.push(blot),
        }
    }
    apart
}

/// A line as it may be shown: as long as it was, in characters.
pub(super) fn line(source: &Source<'_>, number: usize, blots: &[Bytes]) -> String {
    let (start, line) = (source.line_bytes(number).start, source.line(number));
    let mut next = blots.partition_point(|blot| blot.end <= start);
    let mut shown = String::with_capacity(line.len());
    let mut name = false;
    for (at, c) in line.char_indices() {
        // The name of a variable is no secret, its default may be one.
        name = line[at..].starts_with("${") || name && c != ':' && c != '}';
        let at = start + at;
        while blots.get(next).is_some_and(|blot| blot.end <= at) {
            next += 1;
        }
        let blot = blots.get(next).filter(|blot| blot.contains(&at));
        let quote =
            blot.is_some_and(|blot| matches!(c, '"' | '\'') && (blot.start == at || blot.end == at + 1));
        let hidden = blot.is_some() && !name && !quote && !" {}[],".contains(c);
        shown.push(if hidden { '*' } else { c });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plant;

    #[test]
    fn what_looks_like_a_secret_is_blotted_out_and_columns_stay() {
        for (line, shown) in [
            (
                "headers: {Authorization: \"Bearer abc\", X: 1}",
                "headers: {Authorization: \"****** ***\", X: *}",
            ),
            ("headers: {A: \"Bearer ${TOKEN}\"}", "headers: {A: \"****** ${TOKEN}\"}"),
            ("headers: {A: \"${TOKEN:-abc}\"}", "headers: {A: \"${TOKEN*****}\"}"),
            ("env: {LOG: \"1\", E: 'é'}", "env: {LOG: \"*\", E: '*'}"),
            ("args: [--port, 80, --token, abc, x]", "args: [--port, 80, --token, ***, x]"),
            (
                "args: [--api-key=abc, \"Authorization: Bearer abc\"]",
                "args: [--api-key=***, \"Authorization: ****** ***\"]",
            ),
            ("url: https://u:p@h/mcp", "url: https://*********"),
            ("url: \"https://h/mcp?key=abc\"", "url: \"https://h/mcp?*******\""),
            ("max_body: 4MiB", "max_body: 4MiB"),
            ("client_secret: abc", "client_secret: ***"),
        ] {
            let source = Source::new(line);
            let Ok((Some(root), _)) = plant::plant(&source, line) else { panic!("not YAML: {line}") };
            assert_eq!(super::line(&source, 1, &merge(secrets(&root, &source))), shown);
        }
    }

    #[test]
    fn in_a_file_that_is_not_yaml_secrets_are_guessed() {
        let text = "a:\n  env:\n    # c\n    X: 'abc\n  url: x: y\nauthorization: a: b\nenv: {A: b}}\n";
        let source = Source::new(text);
        let shown = |number| super::line(&source, number, &merge(guess(&source, number)));
        assert_eq!(shown(4), "    X: ****");
        assert_eq!(shown(5), "  url: x: y");
        assert_eq!(shown(6), "authorization: ** *");
        assert_eq!(shown(7), "env: {** *}}");
    }
}
