//! Prints a tree as YAML, for `check --print`.
//!
//! Variables are written as they were, not filled in; comments, anchors and the choice of quotes are lost.

use super::mask_secrets;
use super::node::{Node, NodeValue, Scalar};
use super::parser;
use super::source::{ByteRange, Source};

/// The tree as a YAML file. It does not contain values of the environment, but it does contain the file's own
/// secrets.
pub(crate) fn yaml(root: &Node) -> String {
    let mut out = String::new();
    match &root.value {
        NodeValue::Map(_) | NodeValue::List(_) if !is_empty(root) => block(root, 0, &mut out),
        _ => flow(root, &mut out),
    }
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// The same for an error, which is logged: with secrets masked as `*`, and whether there are any.
pub(crate) fn masked(root: &Node) -> (String, bool) {
    let text = yaml(root);
    let source = Source::new(&text);
    let Ok((Some(tree), _)) = parser::parse(&source, &text, 0) else { return (String::new(), true) };
    let mut masks = mask_secrets::secrets(&tree, &source);
    keys(&tree, &mut masks);
    let masks = mask_secrets::merge(masks);
    let lines = (1..=text.lines().count()).map(|number| mask_secrets::masked_line(&source, number, &masks));
    let shown = lines.collect::<Vec<_>>().join("\n");
    let hides = shown != text.trim_end();
    (shown, hides)
}

/// Arguments that look like keys. Other errors show one line of a file, this one all of it. Some programs
/// take a key as an argument without a flag.
fn keys(node: &Node, masks: &mut Vec<ByteRange>) {
    for entry in node.entries() {
        let items = if entry.key == "args" { entry.node.items() } else { &[] };
        masks.extend(
            items.iter().filter(|item| item.raw().is_some_and(is_key)).map(|item| item.bytes.clone()),
        );
        keys(&entry.node, masks);
    }
    node.items().iter().for_each(|item| keys(item, masks));
}

fn is_key(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"_-=+".contains(&byte);
    text.len() >= 16
        && !text.starts_with('-')
        && text.bytes().all(word)
        && text.bytes().any(|byte| byte.is_ascii_digit())
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

fn is_empty(node: &Node) -> bool {
    node.entries().is_empty() && node.items().is_empty()
}

fn block(node: &Node, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    for entry in node.entries().iter().filter(|entry| !entry.is_dropped()) {
        out.push_str(&indent);
        out.push_str(&word(&entry.key, true));
        out.push(':');
        value(&entry.node, depth + 1, out);
    }
    for item in node.items() {
        out.push_str(&indent);
        out.push('-');
        value(item, depth + 1, out);
    }
}

/// The value after a key or a dash: short lists of scalars stay on the line, the rest goes below.
fn value(node: &Node, depth: usize, out: &mut String) {
    let mut inline = String::new();
    flow(node, &mut inline);
    let nested = node.items().iter().any(|item| !matches!(item.value, NodeValue::Scalar(_)));
    let below = match &node.value {
        NodeValue::Scalar(_) => false,
        NodeValue::List(_) => nested || inline.len() > 100,
        NodeValue::Map(_) => true,
    };
    if below && !is_empty(node) {
        out.push('\n');
        block(node, depth, out);
        return;
    }
    if !inline.is_empty() {
        out.push(' ');
        out.push_str(&inline);
    }
    out.push('\n');
}

fn flow(node: &Node, out: &mut String) {
    match &node.value {
        NodeValue::Scalar(text) => out.push_str(&scalar(text)),
        NodeValue::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                flow(item, out);
            }
            out.push(']');
        }
        NodeValue::Map(entries) => {
            out.push('{');
            for (index, entry) in entries.iter().filter(|entry| !entry.is_dropped()).enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                out.push_str(&word(&entry.key, true));
                out.push_str(": ");
                flow(&entry.node, out);
            }
            out.push('}');
        }
    }
}

fn scalar(scalar: &Scalar) -> String {
    match scalar.is_text() {
        true => word(&scalar.raw, false),
        // A number, a boolean or null is recognizable without quotes.
        false if scalar.raw.is_empty() => "null".into(),
        false => scalar.raw.clone(),
    }
}

/// A text, in quotes if it could be read as anything else.
fn word(text: &str, key: bool) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./@+%".contains(c);
    let first =
        text.starts_with(|c: char| c.is_ascii_alphanumeric() || "_/.".contains(c)) || text.starts_with("--");
    let yaml_1_1 = ["yes", "no", "on", "off", "y", "n"];
    let safe = first
        && text.chars().all(plain)
        && text.chars().any(|c| c.is_ascii_alphabetic())
        && !yaml_1_1.contains(&text.to_ascii_lowercase().as_str())
        && Scalar::new(text.to_owned(), true).is_text()
        && (key || !text.contains("---"));
    if safe { text.to_owned() } else { serde_json::to_string(&canonical(text)).expect("a string is JSON") }
}

/// Other programs' variables for the environment, in our format.
fn canonical(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let escaped = rest[..at].ends_with('$');
        let (before, from) = rest.split_at(at + 2);
        out.push_str(before);
        let (from, input) = match (from.strip_prefix("env:"), from.strip_prefix("input:")) {
            (Some(from), _) if !escaped => (from, false),
            (_, Some(from)) if !escaped => (from, true),
            _ => (from, false),
        };
        let end = if input { from.find('}').unwrap_or(from.len()) } else { 0 };
        if input {
            let (id, default) = from[..end].split_once(":-").unwrap_or((&from[..end], ""));
            out.push_str(&super::interpolate::input(id));
            out.push_str(if default.is_empty() { "" } else { ":-" });
            out.push_str(default);
        }
        rest = &from[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_as_what_was_read() {
        let text = "a: [1, '2', x, \"y z\", null, true, 'true', ~, '', 'no', --flag, -y, '---']\n\
                    \"b c\": {d: {}, e: [], f: }\ng: [{h: 1}, [2, [3]]]\n\
                    i: \"line\\nbreak\\t\\u00e9\\U0001F600 # ${A:-b} \\\\ \\x07\"\n'1': 0x1F\nj: &j {k: l}\nm: *j\n\
                    n: {<<: *j, o: p}\nq: !!str 5\nr: '${env:X}${input:a-b:-c}$${env:Y}'\n";
        let source = Source::new(text);
        let Ok((Some(tree), _)) = parser::parse(&source, text, 0) else { panic!("not YAML") };
        let written = yaml(&tree);
        let again = Source::new(&written);
        let Ok((Some(second), _)) = parser::parse(&again, &written, 0) else { panic!("not YAML: {written}") };
        let rest = |tree: &Node| yaml(tree);
        assert_eq!(rest(&second), written);
        let shape = |tree: &Node| {
            let mut out = String::new();
            fn walk(node: &Node, out: &mut String) {
                match &node.value {
                    NodeValue::Scalar(scalar) => {
                        *out += &format!("{:?}/{};", canonical(&scalar.raw), scalar.is_text())
                    }
                    _ => {
                        node.entries().iter().for_each(|entry| {
                            *out += &format!("{:?}:", entry.key);
                            walk(&entry.node, out);
                        });
                        node.items().iter().for_each(|item| walk(item, out));
                        *out += "end;";
                    }
                }
            }
            walk(tree, &mut out);
            out.replace("\"~\"/false", "\"\"/false").replace("\"null\"/false", "\"\"/false")
        };
        assert_eq!(shape(&second), shape(&tree), "{written}");
        assert!(written.contains("${X}${INPUT_A_B:-c}$${env:Y}"), "{written}");
    }

    #[test]
    fn an_error_shows_no_secret_of_the_file() {
        let text = "mcpServers: {a: {command: x, env: {KEY: hunter2}, args: [--token, hunter2, b, sk-0hunter2abcdefgh]}}";
        let Ok((Some(tree), _)) = parser::parse(&Source::new(text), text, 0) else { panic!("not YAML") };
        let (shown, hides) = masked(&tree);
        assert!(hides && !shown.contains("hunter2") && shown.contains("command: x"), "{shown}");
    }
}
