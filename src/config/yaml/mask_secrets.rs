//! Masks secrets in the source lines of errors.
//!
//! A config file may hold a plain token. Errors are logged, and shown to people who may not read the file. So
//! any known or likely secret is shown as `*`; a variable keeps its name. In doubt the text is masked.

use super::node::{Node, NodeValue};
use super::source::{ByteRange, Source};

/// Words in a key (or a flag of a command) with a secret value.
const WORDS: [&str; 12] = [
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
    "sha256",
];
/// Keys whose values are all secret.
const SECTIONS: [&str; 6] = ["env", "headers", "envs", "environment", "http_headers", "settings"];
/// Keys that contain such a word, but whose values are known not to be secret.
const NOT_SECRET: [&str; 4] = ["token_endpoint", "detectors", "when", "key"];
/// A block of secrets with names: the other fields of an item are not secret.
const KEYS: (&str, [&str; 5]) = ("api_keys", ["id", "user", "roles", "tenant", "scopes"]);

/// The places of the file's secrets.
pub(crate) fn secrets(root: &Node, source: &Source<'_>) -> Vec<ByteRange> {
    let mut masks = Vec::new();
    walk(root, false, source, &mut masks);
    masks
}

fn walk(node: &Node, secret: bool, source: &Source<'_>, masks: &mut Vec<ByteRange>) {
    match &node.value {
        NodeValue::Map(entries) => {
            for entry in entries {
                // A list of headers, as CORS has it, is one of names.
                let section = SECTIONS.contains(&entry.key.as_str()) && entry.node.items().is_empty();
                match entry.key.as_str() {
                    key if !secret && is_not_secret(key, &entry.node) => {}
                    key if key == KEYS.0 && !secret => walk_keys(&entry.node, source, masks),
                    key => walk(&entry.node, secret || section || is_sensitive_key(key), source, masks),
                }
            }
        }
        NodeValue::List(items) => {
            let mut after_flag = false;
            for item in items {
                walk(item, secret || after_flag, source, masks);
                let NodeValue::Scalar(scalar) = &item.value else { continue };
                // `--token VALUE` is two items, `--token=VALUE` one.
                after_flag = is_sensitive_key(&scalar.raw) && !scalar.raw.contains(['=', ':', ' ']);
            }
        }
        NodeValue::Scalar(_) if secret => masks.push(node.bytes.clone()),
        NodeValue::Scalar(_) => {
            let text = source.slice(&node.bytes);
            if let Some(at) = sensitive_part(text) {
                masks.push(node.bytes.start + at..node.bytes.end);
            }
        }
    }
}

/// The list of API keys: masks an item's secret, and all unknown keys.
fn walk_keys(node: &Node, source: &Source<'_>, masks: &mut Vec<ByteRange>) {
    for item in node.items() {
        let is_public = |entry: &&super::node::Entry| KEYS.1.contains(&entry.key.as_str());
        item.entries()
            .iter()
            .filter(|entry| !is_public(entry))
            .for_each(|entry| walk(&entry.node, true, source, masks));
        if item.entries().is_empty() {
            walk(item, true, source, masks);
        }
    }
    if node.items().is_empty() {
        walk(node, true, source, masks);
    }
}

/// A list of words, one condition or one address. Any other value under such a key is masked.
fn is_not_secret(key: &str, node: &Node) -> bool {
    let listed = matches!(key, "detectors" | "key");
    let scalars = node.items().iter().all(|item| matches!(&item.value, NodeValue::Scalar(_)));
    NOT_SECRET.contains(&key) && scalars && listed == matches!(node.value, NodeValue::List(_))
}

fn is_sensitive_key(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    WORDS.iter().any(|sensitive| word.contains(sensitive))
}

/// The start of the secret part of a value: a URL's password or query, or the text after a sensitive word.
fn sensitive_part(text: &str) -> Option<usize> {
    let url = text.find("://").map(|at| at + 3);
    // A password may wrongly contain `/`.
    let user = url.filter(|from| text[*from..].contains('@'));
    let query = url.and_then(|from| text[from..].find('?').map(|at| from + at + 1));
    let lower = text.to_ascii_lowercase();
    let after = WORDS
        .iter()
        .filter_map(|word| lower.find(word).map(|at| at + word.len()))
        .filter_map(|from| text[from..].find(['=', ':', ' ']).map(|at| from + at + 1))
        .min();
    [user, query, after].into_iter().flatten().min()
}

/// Possible secrets in a line of a file that is not YAML, guessed from its text.
pub(crate) fn guess_secrets(source: &Source<'_>, number: usize) -> Vec<ByteRange> {
    let (bytes, line) = (source.line_bytes(number), source.line(number));
    let value = |from: usize| line[from..].find([':', '=']).map(|at| from + at + 1);
    let lower = line.to_ascii_lowercase();
    let after = WORDS.iter().chain(&SECTIONS).filter_map(|word| lower.find(word).map(|at| at + word.len()));
    let own = after.filter_map(value).min();
    let below = if in_section(source, number) { value(0).or(Some(0)) } else { None };
    own.into_iter().chain(below).chain(sensitive_part(line)).map(|at| bytes.start + at..bytes.end).collect()
}

/// Whether a line before this one opens `env:`, `headers:` or `api_keys:` and nothing has closed it, by
/// indentation.
fn in_section(source: &Source<'_>, number: usize) -> bool {
    // The items of a list may have the indentation of its key.
    let indent = |line: &str| {
        let text = line.trim_start();
        line.len() - text.len() + usize::from(text.starts_with('-'))
    };
    let mut depth = indent(source.line(number));
    for number in (1..number).rev() {
        let line = source.line(number);
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') || indent(line) >= depth {
            continue;
        }
        depth = indent(line);
        if SECTIONS.iter().chain([&KEYS.0]).any(|section| text.trim_start_matches('"').starts_with(section)) {
            return true;
        }
    }
    false
}

/// Sorted and disjoint, as [`masked_line`] requires.
pub(crate) fn merge(mut masks: Vec<ByteRange>) -> Vec<ByteRange> {
    masks.sort_by_key(|mask| (mask.start, mask.end));
    let mut apart: Vec<ByteRange> = Vec::with_capacity(masks.len());
    for mask in masks {
        match apart.last_mut() {
            Some(last) if mask.start < last.end => last.end = last.end.max(mask.end),
            _ => apart.push(mask),
        }
    }
    apart
}

/// A masked line of the same length, in characters.
pub(crate) fn masked_line(source: &Source<'_>, number: usize, masks: &[ByteRange]) -> String {
    let (start, line) = (source.line_bytes(number).start, source.line(number));
    let mut next = masks.partition_point(|mask| mask.end <= start);
    let mut shown = String::with_capacity(line.len());
    let mut names = 0;
    for (at, c) in line.char_indices() {
        // The name of a variable is not secret, its default may be.
        if let Some(inside) = line[at..].strip_prefix("${") {
            let kind =
                ["env:", "input:"].into_iter().find(|kind| inside.starts_with(kind)).map_or(0, str::len);
            let end = inside[kind..].find([':', '}']).map_or(line.len(), |end| at + 2 + kind + end);
            names = end.max(names);
        }
        let name = at < names;
        let at = start + at;
        while masks.get(next).is_some_and(|mask| mask.end <= at) {
            next += 1;
        }
        let mask = masks.get(next).filter(|mask| mask.contains(&at));
        let quote =
            mask.is_some_and(|mask| matches!(c, '"' | '\'') && (mask.start == at || mask.end == at + 1));
        let hidden = mask.is_some() && !name && !quote && !" {}[],".contains(c);
        shown.push(if hidden { '*' } else { c });
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml::parser;

    #[test]
    fn likely_secrets_are_masked_and_columns_stay() {
        for (line, shown) in [
            (
                "headers: {Authorization: \"Bearer abc\", X: 1}",
                "headers: {Authorization: \"****** ***\", X: *}",
            ),
            ("headers: {A: \"Bearer ${TOKEN}\"}", "headers: {A: \"****** ${TOKEN}\"}"),
            ("headers: {A: \"${TOKEN:-abc}\"}", "headers: {A: \"${TOKEN*****}\"}"),
            (
                "headers: {A: \"${env:TOKEN}${input:a-b:-c}\"}",
                "headers: {A: \"${env:TOKEN}${input:a-b***}\"}",
            ),
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
            ("redis: {url: \"redis://:p/s@h\"}", "redis: {url: \"redis://******\"}"),
            (
                "api_keys: [{id: ci, sha256: abc, roles: [a]}]",
                "api_keys: [{id: ci, sha256: ***, roles: [a]}]",
            ),
            ("api_keys: [{id: ci, key: abc}, tk_abc]", "api_keys: [{id: ci, key: ***}, ******]"),
            ("headers: {api_keys: [{id: abc}]}", "headers: {api_keys: [{id: ***}]}"),
            ("detectors: [private_key, api_key, iban]", "detectors: [private_key, api_key, iban]"),
            ("key: [api_key, tool]", "key: [api_key, tool]"),
            ("key: \"token: abc\"", "key: \"token: ***\""),
            ("when: '\"secret\" in caller.roles'", "when: '\"secret\" in caller.roles'"),
            ("token_endpoint: https://id/token", "token_endpoint: https://id/token"),
        ] {
            let source = Source::new(line);
            let Ok((Some(root), _)) = parser::parse(&source, line, 0) else { panic!("not YAML: {line}") };
            assert_eq!(super::masked_line(&source, 1, &merge(secrets(&root, &source))), shown);
        }
    }

    #[test]
    fn in_a_file_that_is_not_yaml_secrets_are_guessed() {
        let text = "a:\n  env:\n    # c\n    X: 'abc\n  url: x: y\nauthorization: a: b\nenv: {A: b}}\n";
        let source = Source::new(text);
        let shown = |number| super::masked_line(&source, number, &merge(guess_secrets(&source, number)));
        assert_eq!(shown(4), "    X: ****");
        assert_eq!(shown(5), "  url: x: y");
        assert_eq!(shown(6), "authorization: ** *");
        assert_eq!(shown(7), "env: {** *}}");
        let source = Source::new("auth:\n  api_keys:\n  - {id: a}\n  - {id: abc}}\n");
        assert_eq!(super::masked_line(&source, 4, &merge(guess_secrets(&source, 4))), "  - {id: ***}}");
    }
}
