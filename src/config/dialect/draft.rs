//! A server during the translation from another program's format to ours: its entries, and operations on
//! them.
//!
//! Keys and values keep their places in the file, so that later errors point there.

use std::rc::Rc;

use super::Translation;
use crate::config::yaml::node::{Entry, Node, NodeValue, Scalar};
use crate::config::yaml::source::ByteRange;

pub(super) struct Draft<'r, 'i> {
    pub translation: &'r Translation<'i>,
    /// As it will be called.
    pub name: String,
    pub entries: Vec<Entry>,
    pub changed: bool,
}

impl Draft<'_, '_> {
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key && !entry.node.is_null())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// The plain text under a key.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.entry(key)?.node.raw()
    }

    /// Removes an entry; an entry without a value counts as absent.
    pub(super) fn take(&mut self, key: &str) -> Option<Entry> {
        let at = self.entries.iter().position(|entry| entry.key == key)?;
        self.changed = true;
        let entry = self.entries.remove(at);
        (!entry.node.is_null()).then_some(entry)
    }

    /// Puts a value under a key, with the place of its source. A different value already there is an error.
    pub(super) fn put(&mut self, key: &str, from: &Entry, node: Rc<Node>) {
        self.changed = true;
        if let Some(there) = self.entry(key) {
            if same(&there.node, &node) {
                return;
            }
            let message =
                format!("{}.{}: conflicts with `{key}`, which means the same", self.path(), from.key);
            self.translation.error(&from.key_bytes, message, "remove one of the two");
            return;
        }
        self.entries.retain(|entry| entry.key != key);
        self.entries.push(Entry::new(key.to_owned(), from.key_bytes.clone(), node));
    }

    /// Removes a mapping. Any other value stays, and is reported as an unknown key.
    pub(super) fn take_map(&mut self, key: &str) -> Option<Entry> {
        let is_map = matches!(self.entry(key)?.node.value, NodeValue::Map(_));
        if is_map { self.take(key) } else { None }
    }

    /// Removes a list; any other value is an error.
    pub(super) fn take_list(&mut self, key: &str) -> Option<Entry> {
        let entry = self.take(key)?;
        if matches!(entry.node.value, NodeValue::List(_)) {
            return Some(entry);
        }
        let message =
            format!("{}.{key}: invalid type: {}", self.path(), entry.node.kind().trim_start_matches("a "));
        self.translation.error(&entry.node.bytes, message, "expected a list");
        None
    }

    /// Adds entries to the mapping under a key. An entry that exists already is an error.
    pub(super) fn merge(&mut self, key: &str, from: &Entry, more: Vec<Entry>) {
        self.changed = true;
        let old = self.take(key);
        let (mut entries, key_bytes, bytes) = match &old {
            Some(old) if matches!(old.node.value, NodeValue::Map(_)) => {
                (old.node.entries().to_vec(), old.key_bytes.clone(), old.node.bytes.clone())
            }
            Some(old) => return self.put(key, from, Rc::clone(&old.node)),
            None => (Vec::new(), from.key_bytes.clone(), from.node.bytes.clone()),
        };
        for entry in more {
            if entries.iter().any(|there| there.key.eq_ignore_ascii_case(&entry.key)) {
                let message = format!("{}.{}: `{key}` has `{}` too", self.path(), from.key, entry.key);
                self.translation.error(&from.key_bytes, message, "remove one of the two");
            } else {
                entries.push(entry);
            }
        }
        let node = Rc::new(Node::new(bytes, NodeValue::Map(entries)));
        self.entries.push(Entry::new(key.to_owned(), key_bytes, node));
    }

    /// `from` is another name for `to`.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> bool {
        let Some(entry) = self.take(from) else { return false };
        self.translation.renamed(&entry, to, &self.name);
        self.put(to, &entry, Rc::clone(&entry.node));
        true
    }

    /// Its path, as in errors.
    pub(super) fn path(&self) -> String {
        format!("mcpServers.{}", self.name)
    }
}

/// A new scalar in the place of a value.
pub(super) fn scalar(at: &Node, text: impl Into<String>, plain: bool) -> Rc<Node> {
    Rc::new(Node::new(at.bytes.clone(), NodeValue::Scalar(Scalar::new(text.into(), plain))))
}

/// A text for these bytes, for example those of a key.
pub(super) fn scalar_at(bytes: &ByteRange, text: &str) -> Rc<Node> {
    Rc::new(Node::new(bytes.clone(), NodeValue::Scalar(Scalar::new(text.to_owned(), false))))
}

pub(super) fn list(at: &Node, items: Vec<Rc<Node>>) -> Rc<Node> {
    Rc::new(Node::new(at.bytes.clone(), NodeValue::List(items)))
}

pub(super) fn map(at: &Node, entries: Vec<Entry>) -> Rc<Node> {
    Rc::new(Node::new(at.bytes.clone(), NodeValue::Map(entries)))
}

fn same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (NodeValue::Scalar(a), NodeValue::Scalar(b)) => a.raw == b.raw,
        (NodeValue::List(a), NodeValue::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (NodeValue::Map(a), NodeValue::Map(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.key == b.key && same(&a.node, &b.node))
        }
        _ => false,
    }
}
