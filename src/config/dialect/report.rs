//! Notes and errors of the translation. The same note for several servers appears once.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::Translation;
use crate::config::yaml::node::{Entry, NodeValue};
use crate::config::yaml::source::ByteRange;

/// Where a key was first met, and the servers that have it.
pub(super) type ByKey<K> = RefCell<BTreeMap<K, (ByteRange, Vec<String>)>>;

impl Translation<'_> {
    pub(super) fn note(&self, bytes: &ByteRange, text: String) {
        self.diagnostics.note(bytes, text, false);
    }

    pub(super) fn warn(&self, bytes: &ByteRange, text: String) {
        self.diagnostics.note(bytes, text, true);
    }

    pub(super) fn error(&self, bytes: &ByteRange, message: String, expected: &str) {
        self.error_with(bytes, message, expected, "");
    }

    pub(super) fn error_with(&self, bytes: &ByteRange, message: String, expected: &str, help: &str) {
        self.diagnostics.add(bytes, message, expected.to_owned(), help.to_owned());
    }

    pub(super) fn line(&self, bytes: &ByteRange) -> usize {
        self.diagnostics.source().location(bytes).line
    }

    /// Records a key that was read as another one.
    pub(super) fn renamed(&self, entry: &Entry, to: &str, server: &str) {
        let mut renamed = self.renamed.borrow_mut();
        let key = (entry.key.clone(), to.to_owned());
        renamed.entry(key).or_insert_with(|| (entry.key_bytes.clone(), Vec::new())).1.push(server.to_owned());
    }

    /// Records a key that the gateway does not use.
    pub(super) fn ignore(&self, entry: &Entry, server: &str) {
        self.foreign.set(true);
        self.diagnostics.ignore_key(&entry.key_bytes, &entry.key, Some(server));
    }

    /// Records a key about the user's approval of calls.
    pub(super) fn approval(&self, entry: &Entry, server: &str) {
        self.foreign.set(true);
        let empty = match &entry.node.value {
            NodeValue::Scalar(scalar) => scalar.raw == "false",
            NodeValue::List(items) => items.is_empty(),
            NodeValue::Map(entries) => entries.is_empty(),
        };
        if empty {
            let text = format!(
                "`{}` is ignored ({server}): the gateway never asks the user before a call",
                entry.key
            );
            return self.note(&entry.key_bytes, text);
        }
        let mut approvals = self.approvals.borrow_mut();
        let reported =
            approvals.entry(entry.key.clone()).or_insert_with(|| (entry.key_bytes.clone(), Vec::new()));
        reported.1.push(server.to_owned());
    }

    /// Reports the notes collected over all servers.
    pub(super) fn report(&self) {
        for ((from, to), (bytes, servers)) in self.renamed.take() {
            self.note(&bytes, format!("`{from}` is read as `{to}` ({})", servers.join(", ")));
        }
        let approvals = self.approvals.take();
        let Some((_, (first, _))) = approvals.iter().min_by_key(|(_, (bytes, _))| bytes.start) else {
            return;
        };
        let keys = approvals.iter().map(|(key, (_, servers))| format!("`{key}` ({})", servers.join(", ")));
        let text = format!(
            "not translated: {}. The client decides whether to ask the user before a call; use `rbac` to say who \
             may call what",
            keys.collect::<Vec<_>>().join(", ")
        );
        self.warn(first, text);
    }
}
