//! Notes on how a file was read, and on ignored keys. They are collected while reading and reported once.

use std::collections::BTreeMap;

use super::diagnostics::{Diagnostics, NodeRef};
use super::suggest;
use super::translations::{IgnoredKey, Note, Notes};
use super::yaml::source::ByteRange;

impl Diagnostics<'_> {
    /// Another program wrote the file or a part of it, so unknown keys may belong to that program.
    pub(super) fn set_foreign(&self) {
        self.foreign.set(true);
    }

    /// Records how something was read.
    pub(super) fn note(&self, bytes: &ByteRange, text: String, warns: bool) {
        let line = self.source().location(bytes).line;
        let mut notes = self.notes.borrow_mut();
        if !notes.iter().any(|note| note.line == line && note.text == text) {
            notes.push(Note { line, text, warns });
        }
    }

    /// Records an ignored key of the file or of this server.
    pub(super) fn ignore_key(&self, bytes: &ByteRange, key: &str, server: Option<&str>) {
        let (bytes, key, server) = (bytes.clone(), suggest::short(key), server.map(str::to_owned));
        self.ignored.borrow_mut().push(IgnoredKey { bytes, key, server });
    }

    /// Whether an unknown key is ignored, and records it. In a file of another program this holds for keys
    /// that are no typo of ours. In a server, keys about access are never ignored.
    pub(super) fn ignores(&self, name: &str, keys: &[&str], node_ref: &NodeRef<'_>) -> bool {
        let Some(entry) = node_ref.key else { return false };
        let server = match name {
            "Config" => None,
            "Server" => node_ref.path.split('.').nth(1),
            _ => return false,
        };
        let comment = matches!(entry.key.as_str(), "$schema" | "$comment" | "_comment" | "//");
        let foreign = self.foreign.get() && suggest::is_foreign(name, keys, &entry.key);
        if comment || foreign {
            entry.mark_invalid();
        }
        // Inputs are read where a value refers to them.
        if foreign && !comment && entry.key != "inputs" {
            self.ignore_key(&entry.key_bytes, &entry.key, server);
        }
        comment || foreign
    }

    /// All notes. Ignored keys are one note for the file and one for its servers.
    pub(super) fn notes(&self) -> Notes {
        let ignored = self.ignored.take();
        let (root, servers): (Vec<_>, Vec<_>) =
            ignored.into_iter().partition(|ignored| ignored.server.is_none());
        let (access, other): (Vec<_>, Vec<_>) =
            root.into_iter().partition(|ignored| suggest::is_access(&ignored.key));
        let few = |keys: Vec<String>| {
            let more = keys.len().saturating_sub(12);
            let end = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{}{end}", keys.into_iter().take(12).collect::<Vec<_>>().join(", "))
        };
        let keys =
            |list: &[IgnoredKey]| few(list.iter().map(|ignored| format!("`{}`", ignored.key)).collect());
        if let Some(first) = other.first() {
            let text = format!("ignored, since it belongs to another program: {}", keys(&other));
            self.note(&first.bytes, text, true);
        }
        if let Some(first) = access.first() {
            let text = format!(
                "not translated: {}. Use `auth`, `rbac` and a server's `tools` to say what is allowed",
                keys(&access)
            );
            self.note(&first.bytes, text, true);
        }
        let mut by_key: BTreeMap<String, Vec<String>> = Default::default();
        for ignored in &servers {
            by_key.entry(ignored.key.clone()).or_default().extend(ignored.server.clone());
        }
        if let Some(first) = servers.iter().min_by_key(|ignored| ignored.bytes.start) {
            let keys = by_key.into_iter().map(|(key, servers)| format!("`{key}` ({})", servers.join(", ")));
            let text = format!("ignored, since the gateway does not use it: {}", few(keys.collect()));
            self.note(&first.bytes, text, true);
        }
        Notes::new(self.notes.take())
    }
}
