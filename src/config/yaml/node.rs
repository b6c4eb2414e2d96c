//! The YAML file as a tree of nodes with their places.
//!
//! Serde alone stops at the first error, and a later check of a value no longer knows its line. The tree
//! keeps the bytes of every key and value. It remembers the invalid nodes, so that each is reported once and
//! then skipped.
//!
//! It has no knowledge of the config and resolves no types: a scalar is its text. `yaml/parser.rs` builds it.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use super::source::ByteRange;

/// A value and its place.
#[derive(Debug)]
pub(crate) struct Node {
    pub bytes: ByteRange,
    pub value: NodeValue,
    /// How many values it is, aliased ones counted each time.
    pub weight: usize,
    invalid: Cell<bool>,
}

#[derive(Debug)]
pub(crate) enum NodeValue {
    Scalar(Scalar),
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

/// A scalar as written, and with its variables substituted.
#[derive(Debug)]
pub(crate) struct Scalar {
    pub raw: String,
    /// Without quotes: it may be a number, a boolean or null.
    pub plain: bool,
    /// The text with its variables filled in, if it had any.
    pub filled: OnceCell<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub key_bytes: ByteRange,
    pub node: Rc<Node>,
    invalid: Cell<bool>,
}

impl Node {
    /// A node that counts as one value.
    pub(crate) fn new(bytes: ByteRange, value: NodeValue) -> Self {
        Self { bytes, value, weight: 1, invalid: Cell::new(false) }
    }

    /// Invalid unless `valid`: it is skipped then.
    pub(crate) fn valid_if(self, valid: bool) -> Self {
        self.invalid.set(!valid);
        self
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        if let NodeValue::Map(entries) = &self.value { entries } else { &[] }
    }

    pub(crate) fn items(&self) -> &[Rc<Node>] {
        if let NodeValue::List(items) = &self.value { items } else { &[] }
    }

    /// The entry with this key, valid or not.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|entry| entry.key == key)
    }

    /// The text of a scalar, with its variables as they were written.
    pub(crate) fn raw(&self) -> Option<&str> {
        if let NodeValue::Scalar(scalar) = &self.value { Some(&scalar.raw) } else { None }
    }

    /// Its kind, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            NodeValue::List(_) => "a list",
            NodeValue::Map(_) => "a mapping",
            NodeValue::Scalar(scalar) => scalar.kind(),
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        self.kind() == "nothing"
    }

    /// Reported, and not to be read again.
    pub(crate) fn is_invalid(&self) -> bool {
        self.invalid.get()
    }

    pub(crate) fn mark_invalid(&self) {
        self.invalid.set(true);
    }
}

impl Entry {
    pub(crate) fn new(key: String, key_bytes: ByteRange, node: Rc<Node>) -> Self {
        Self { key, key_bytes, node, invalid: Cell::new(false) }
    }

    pub(crate) fn is_invalid(&self) -> bool {
        self.invalid.get() || self.node.is_invalid()
    }

    /// The key itself is not to be read, whatever its value.
    pub(crate) fn is_dropped(&self) -> bool {
        self.invalid.get()
    }

    pub(crate) fn mark_invalid(&self) {
        self.invalid.set(true);
    }
}

impl Scalar {
    pub(crate) fn new(raw: String, plain: bool) -> Self {
        Self { raw, plain, filled: OnceCell::new() }
    }

    /// The text that counts.
    pub(crate) fn text(&self) -> &str {
        self.filled.get().unwrap_or(&self.raw)
    }

    pub(crate) fn is_filled(&self) -> bool {
        self.filled.get().is_some()
    }

    /// Neither a number, a boolean nor nothing.
    pub(crate) fn is_text(&self) -> bool {
        self.kind() == "a string"
    }

    /// By the core schema of YAML 1.2: `yes`, `no`, `on` and `off` are strings.
    fn kind(&self) -> &'static str {
        if !self.plain || self.is_filled() {
            return "a string";
        }
        match self.raw.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => "nothing",
            "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => "a boolean",
            text if is_number(text) => "a number",
            _ => "a string",
        }
    }
}

fn is_number(text: &str) -> bool {
    let digits = |text: &str, ok: fn(&char) -> bool| !text.is_empty() && text.chars().all(|c| ok(&c));
    if let Some(rest) = text.strip_prefix("0x") {
        return digits(rest, char::is_ascii_hexdigit);
    }
    if let Some(rest) = text.strip_prefix("0o") {
        return digits(rest, |c| ('0'..='7').contains(c));
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    // `inf` and `nan` are numbers to Rust and strings to YAML.
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') && unsigned.parse::<f64>().is_ok()
}

/// Levels of nesting that a file may have.
pub(crate) const MAX_DEPTH: usize = 64;

/// Something wrong with the YAML itself.
pub(crate) struct YamlError {
    pub bytes: ByteRange,
    pub message: String,
    pub expected: String,
    pub help: &'static str,
}

impl YamlError {
    pub(crate) fn new(bytes: ByteRange, message: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { bytes, message: message.into(), expected: expected.into(), help: "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalar_kinds_follow_yaml_1_2() {
        for (text, kind) in [
            ("", "nothing"),
            ("~", "nothing"),
            ("null", "nothing"),
            ("true", "a boolean"),
            ("FALSE", "a boolean"),
            ("yes", "a string"),
            ("NO", "a string"),
            ("on", "a string"),
            ("12", "a number"),
            ("-1.5e3", "a number"),
            (".5", "a number"),
            ("0x1F", "a number"),
            ("0o17", "a number"),
            (".inf", "a number"),
            ("inf", "a string"),
            ("nan", "a string"),
            ("1.2.3", "a string"),
            ("60s", "a string"),
            ("-", "a string"),
        ] {
            assert_eq!(Scalar::new(text.into(), true).kind(), kind, "{text:?}");
            assert_eq!(Scalar::new(text.into(), false).kind(), "a string", "{text:?} in quotes");
        }
    }
}
