//! Reads a TOML file into the same tree as a YAML file.

use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::yaml::node::{Entry, Node, NodeValue, Scalar};
use crate::config::yaml::node::{MAX_DEPTH, YamlError};
use crate::config::yaml::source::ByteRange;

/// Whether a file with this name is TOML.
pub(in crate::config) fn is_named(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, end)| end.eq_ignore_ascii_case("toml"))
}

/// Reads the file; `Ok(None)` if it has no value.
pub(in crate::config) fn parse(text: &str) -> Result<Option<Rc<Node>>, YamlError> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().unwrap_or(0..0);
        // The message names what the grammar expects, not what was found.
        YamlError::new(at, format!("not valid TOML: {}", error.message()), "")
    })?;
    let bytes = table.span();
    let root = map(table.get_ref(), bytes, 0)?;
    Ok((!root.entries().is_empty()).then(|| Rc::new(root)))
}

fn map(table: &DeTable<'_>, bytes: ByteRange, depth: usize) -> Result<Node, YamlError> {
    if depth > MAX_DEPTH {
        return Err(YamlError::new(bytes, format!("nested more than {MAX_DEPTH} levels deep"), ""));
    }
    let mut entries = Vec::with_capacity(table.len());
    for (key, value) in table.iter() {
        let node = node(value, depth + 1)?;
        entries.push(Entry::new(key.get_ref().clone().into_owned(), key.span(), Rc::new(node)));
    }
    // The crate sorts them by name.
    entries.sort_by_key(|entry| entry.key_bytes.start);
    Ok(Node::new(bytes, NodeValue::Map(entries)))
}

fn node(value: &Spanned<DeValue<'_>>, depth: usize) -> Result<Node, YamlError> {
    let bytes = value.span();
    let scalar =
        |text: String, plain| Ok(Node::new(value.span(), NodeValue::Scalar(Scalar::new(text, plain))));
    match value.get_ref() {
        DeValue::String(text) => scalar(text.clone().into_owned(), false),
        DeValue::Integer(number) => scalar(number.to_string(), true),
        DeValue::Float(number) => scalar(number.to_string(), true),
        DeValue::Boolean(word) => scalar(word.to_string(), true),
        DeValue::Datetime(time) => scalar(time.to_string(), false),
        DeValue::Array(items) => {
            if depth > MAX_DEPTH {
                return Err(YamlError::new(bytes, format!("nested more than {MAX_DEPTH} levels deep"), ""));
            }
            let items = items.iter().map(|item| node(item, depth + 1).map(Rc::new));
            Ok(Node::new(bytes, NodeValue::List(items.collect::<Result<_, _>>()?)))
        }
        DeValue::Table(table) => map(table, bytes, depth),
    }
}
