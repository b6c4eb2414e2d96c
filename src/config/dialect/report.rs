//! What is said of a file while it is translated; the same of several servers is said once.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::Translation;
use crate::config::yaml::node::{Entry, NodeValue};
use crate::config::yaml::source::ByteRange;

/// Where a key was first met, and the servers that have it.
pub(super) type ByKey<K> = RefCell<BTreeMap<K, (ByteRange, Vec<String>)>>;

impl Translation<'_> {
    pub(super) fn note(&self, bytes: &ByteRange, text: String) {
        self.inquest.note(bytes, text, false);
    }

    pub(super) fn warn(&self, bytes: &ByteRange, text: String) {
        self.inquest.note(bytes, text, true);
    }

    pub(super) fn fault(&self, bytes: &ByteRange, message: String, expected: &str) {
        self.fault_with(bytes, message, expected, "");
    }

    pub(super) fn fault_with(&self, bytes: &ByteRange, message: String, expected: &str, help: &str) {
        self.inquest.add(bytes, message, expected.to_owned(), help.to_owned());
    }

    pub(super) fn line(&self, bytes: &ByteRange) -> usize {
        self.inquest.source().location(bytes).line
    }

    /// A key that was read as another; the same of several servers is one note.
    pub(super) fn renamed(&self, entry: &Entry, to: &str, server: &str) {
        let mut renamed = self.renamed.borrow_mut();
        let key = (entry.key.clone(), to.to_owned());
        renamed.entry(key).or_insert_with(|| (entry.key_bytes.clone(), Vec::new())).1.push(server.to_owned());
    }

    /// A key that nobody here has a use for.
    pub(super) fn unread(&self, entry: &Entry, server: &str) {
        self.foreign.set(true);
        self.inquest.ignore_key(&entry.key_bytes, &entry.key, Some(server));
    }

    /// A key that says whether a person is asked before a call.
    pub(super) fn approval(&self, entry: &Entry, server: &str) {
        self.foreign.set(true);
        let empty = match &entry.node.value {
            NodeValue::Scalar(scalar) => scalar.raw == "false",
            NodeValue::List(items) => items.is_empty(),
            NodeValue::Map(entries) => entries.is_empty(),
        };
        if empty {
            let text = format!("`{}` is not read ({server}): nobody is asked here before a call", entry.key);
            return self.note(&entry.key_bytes, text);
        }
        let mut approvals = self.approvals.borrow_mut();
        let reported =
            approvals.entry(entry.key.clone()).or_insert_with(|| (entry.key_bytes.clone(), Vec::new()));
        reported.1.push(server.to_owned());
    }

    /// Says what was gathered over all servers.
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
            "not taken over: {}. Whether a person is asked before a call is decided in the client; who may call what here is \
             said by `rbac`",
            keys.collect::<Vec<_>>().join(", ")
        );
        self.warn(first, text);
    }
}
