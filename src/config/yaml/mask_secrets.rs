//! Blots out secrets in the source lines that faults show.
//!
//! A config file may hold a token as it is. Faults are logged and shown to people who may not read the file, so
//! what is, or looks like, a secret is shown as `*`; a variable keeps its name. It errs on the side of blots.

use super::node::{Node, NodeValue};
use super::source::{ByteRange, Source};

/// Words in a key (or a flag of a command) whose value is not for everyone.
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
/// Keys all of whose values are secret.
const SECTIONS: [&str; 6] = ["env", "headers", "envs", "environment", "http_headers", "settings"];
/// Keys with a telling word whose values, and all below them, are known not to be secret, or to be words and
/// conditions that speak of secrets.
const NOT_SECRET: [&str; 4] = ["token_endpoint", "detectors", "when", "key"];
/// A block of secrets with names: what each item has beside its secret is for everyone.
const KEYS: (&str, [&str; 5]) = ("api_keys", ["id", "user", "roles", "tenant", "scopes"]);

/// Where the file's secrets stand.
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

/// The list of API keys: an item's secret is blotted out, and so is what nobody knows there.
fn walk_keys(node: &Node, source: &Source<'_>, masks: &mut Vec<ByteRange>) {
    for item in node.items() {
        let references = |entry: &&super::node::Entry| KEYS.1.contains(&entry.key.as_str());
        item.entries()
            .iter()
            .filter(|entry| !references(entry))
            .for_each(|entry| walk(&entry.node, true, source, masks));
        if item.entries().is_empty() {
            walk(item, true, source, masks);
        }
    }
    if node.items().is_empty() {
        walk(node, true, source, masks);
    }
}

/// A list of words, one condition, one address; not a text that only stands under such a key by mistake.
fn is_not_secret(key: &str, node: &Node) -> bool {
    let listed = matches!(key, "detectors" | "key");
    let message = node.items().iter().all(|item| matches!(&item.value, NodeValue::Scalar(_)));
    NOT_SECRET.contains(&key) && message && listed == matches!(node.value, NodeValue::List(_))
}

fn is_sensitive_key(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    WORDS.iter().any(|telling| word.contains(telling))
}

/// Where the secret part of a value begins: a URL's password or query, or what follows a telling word.
fn sensitive_part(text: &str) -> Option<usize> {
    let url = text.find("://").map(|at| at + 3);
    // A password may hold a `/` where it should not.
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

/// What may be secret in a line of a file that is not YAML, so that only its look can be gone by.
pub(crate) fn guess_secrets(source: &Source<'_>, number: usize) -> Vec<ByteRange> {
    let (bytes, line) = (source.line_bytes(number), source.line(number));
    let value = |from: usize| line[from..].find([':', '=']).map(|at| from + at + 1);
    let lower = line.to_ascii_lowercase();
    let message = WORDS.iter().chain(&SECTIONS).filter_map(|word| lower.find(word).map(|at| at + word.len()));
    let own = message.filter_map(value).min();
    let below = if in_section(source, number) { value(0).or(Some(0)) } else { None };
    own.into_iter().chain(below).chain(sensitive_part(line)).map(|at| bytes.start + at..bytes.end).collect()
}

/// Whether a line before this one opens `env:`, `headers:` or `api_keys:` and nothing has closed it, by indentation.
fn in_section(source: &Source<'_>, number: usize) -> bool {
    // The items of a list may stand as far left as its key.
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

/// In order and apart, as [`line`] takes them.
pub(crate) fn merge(mut masks: Vec<ByteRange>) -> Vec<ByteRange> {
    masks.sort_by_key(|blot| (blot.start, blot.end));
    let mut apart: Vec<ByteRange> = Vec::with_capacity(masks.len());
    for blot in masks {
        match apart.last_mut() {
            Some(last) if blot.start < last.end => last.end = last.end.max(blot.end),
            _ => apart.push(blot),
        }
    }
    apart
}

/// A line as it may be shown: as long as it was, in characters.
pub(crate) fn masked_line(source: &Source<'_>, number: usize, masks: &[ByteRange]) -> String {
    let (start, line) = (source.line_bytes(number).start, source.line(number));
    let mut next = masks.partition_point(|blot| blot.end <= start);
    let mut shown = String::with_capacity(line.len());
    let mut names = 0;
    for (at, c) in line.char_indices() {
        // The name of a variable is no secret, its default may be one.
        if let Some(inside) = line[at..].strip_prefix("${") {
            let kind =
                ["env:", "input:"].into_iter().find(|kind| inside.starts_with(kind)).map_or(0, str::len);
            let end = inside[kind..].find([':', '}']).map_or(line.len(), |end| at + 2 + kind + end);
            names = end.max(names);
        }
        let name = at < names;
        let at = start + at;
        while masks.get(next).is_some_and(|blot| blot.end <= at) {
            next += 1;
        }
        let blot = masks.get(next).filter(|blot| blot.contains(&at));
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
    use crate::config::yaml::parser;

    #[test]
    fn what_looks_like_a_secret_is_blotted_out_and_columns_stay() {
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
