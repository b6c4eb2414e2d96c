//! What of a file is not read, and how the rest was: gathered while it is read, told once.

use std::collections::BTreeMap;

use super::diagnostics::{Diagnostics, NodeRef};
use super::suggest;
use super::translations::{IgnoredKey, Note, Notes};
use super::yaml::source::ByteRange;

impl Diagnostics<'_> {
    /// Another program wrote the file, or a part of it: it may say what is not for us.
    pub(super) fn set_foreign(&self) {
        self.foreign.set(true);
    }

    /// How something was read.
    pub(super) fn note(&self, bytes: &ByteRange, text: String, warns: bool) {
        let line = self.source().location(bytes).line;
        let mut notes = self.notes.borrow_mut();
        if !notes.iter().any(|note| note.line == line && note.text == text) {
            notes.push(Note { line, text, warns });
        }
    }

    /// A key of the file, or of this server, is not read.
    pub(super) fn ignore_key(&self, bytes: &ByteRange, key: &str, server: Option<&str>) {
        let (bytes, key, server) = (bytes.clone(), suggest::short(key), server.map(str::to_owned));
        self.ignored.borrow_mut().push(IgnoredKey { bytes, key, server });
    }

    /// Whether an unknown key may be passed over, which is noted then: one of another program's file that no key of ours was
    /// meant by, and in a server none that could say who may do what.
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
        // Inputs were read where a value asks for one.
        if foreign && !comment && entry.key != "inputs" {
            self.ignore_key(&entry.key_bytes, &entry.key, server);
        }
        comment || foreign
    }

    /// All that was noted, what is not read gathered into one note for the file and one for its servers.
    pub(super) fn notes(&self) -> Notes {
        let unread = self.ignored.take();
        let (root, servers): (Vec<_>, Vec<_>) =
            unread.into_iter().partition(|unread| unread.server.is_none());
        let (access, other): (Vec<_>, Vec<_>) =
            root.into_iter().partition(|unread| suggest::is_access(&unread.key));
        let few = |keys: Vec<String>| {
            let more = keys.len().saturating_sub(12);
            let end = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{}{end}", keys.into_iter().take(12).collect::<Vec<_>>().join(", "))
        };
        let keys = |list: &[IgnoredKey]| few(list.iter().map(|unread| format!("`{}`", unread.key)).collect());
        if let Some(first) = other.first() {
            let text = format!("not read, since it is of another program: {}", keys(&other));
            self.note(&first.bytes, text, true);
        }
        if let Some(first) = access.first() {
            let text = format!(
                "not taken over: {}. What they allow or forbid there is said here by `auth`, `rbac` and a server's `tools`",
                keys(&access)
            );
            self.note(&first.bytes, text, true);
        }
        let mut by_key: BTreeMap<String, Vec<String>> = Default::default();
        for unread in &servers {
            by_key.entry(unread.key.clone()).or_default().extend(unread.server.clone());
        }
        if let Some(first) = servers.iter().min_by_key(|unread| unread.bytes.start) {
            let keys = by_key.into_iter().map(|(key, servers)| format!("`{key}` ({})", servers.join(", ")));
            let text = format!("not read, since a gateway has no use for it: {}", few(keys.collect()));
            self.note(&first.bytes, text, true);
        }
        Notes::new(self.notes.take())
    }
}
