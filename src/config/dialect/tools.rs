//! Which tools are shown, in the formats of other programs; and approvals, which a gateway does not have.
//!
//! None of these is dropped silently. Limits on tools are translated. A key that would allow calls without
//! approval gives a warning.

use std::rc::Rc;

use super::draft::{Draft, list, map};
use crate::config::yaml::node::{Entry, Node, NodeValue};

/// Lists of the only shown tools.
const ALLOW: [&str; 8] = [
    "includeTools",
    "include_tools",
    "allowedTools",
    "allowed_tools",
    "enabledTools",
    "enabled_tools",
    "available_tools",
    "includedTools",
];
/// Lists of tools that are not.
const DENY: [&str; 7] = [
    "excludeTools",
    "exclude_tools",
    "excludedTools",
    "excluded_tools",
    "disabledTools",
    "disabled_tools",
    "deniedTools",
];
/// Keys about the user's approval before a call.
const APPROVALS: [&str; 14] = [
    "alwaysAllow",
    "alwaysAllowTools",
    "always_allow",
    "approvalMode",
    "approval_mode",
    "autoApprove",
    "autoApproveAll",
    "auto_approve",
    "default_tools_approval_mode",
    "isTrusted",
    "requireApproval",
    "require_approval",
    "trust",
    "trusted",
];

pub(super) fn translate(draft: &mut Draft<'_, '_>) {
    let mut allow: Option<Entry> = None;
    let mut deny: Option<Entry> = None;
    listed(draft, &mut allow);
    switched(draft, &mut deny);
    for key in ALLOW {
        // An empty list means all tools in Goose and Gemini.
        let Some(entry) = draft.take_list(key) else { continue };
        if entry.node.items().is_empty() && matches!(key, "available_tools" | "includeTools") {
            continue;
        }
        draft.translation.renamed(&entry, "tools.allow", &draft.name);
        if let Some(first) = &allow {
            let message =
                format!("{}.{key}: conflicts with `{}`, which means the same", draft.path(), first.key);
            draft.translation.error(&entry.key_bytes, message, "remove one of the two");
        }
        allow.get_or_insert(entry);
    }
    for key in DENY {
        let Some(entry) = draft.take_list(key) else { continue };
        if entry.node.items().is_empty() {
            continue;
        }
        draft.translation.renamed(&entry, "tools.deny", &draft.name);
        deny = Some(match deny {
            // A tool in any of these lists is hidden.
            Some(before) => {
                let items = before.node.items().iter().chain(entry.node.items()).cloned().collect();
                Entry::new(before.key.clone(), before.key_bytes.clone(), list(&before.node, items))
            }
            None => entry,
        });
    }
    put(draft, "allow", allow);
    put(draft, "deny", deny);
    for key in APPROVALS {
        if let Some(entry) = draft.take(key) {
            draft.translation.approval(&entry, &draft.name);
        }
    }
}

/// `tools: ["*"]`, the shown tools.
fn listed(draft: &mut Draft<'_, '_>, allow: &mut Option<Entry>) {
    if !draft.entry("tools").is_some_and(|entry| matches!(entry.node.value, NodeValue::List(_))) {
        return;
    }
    let Some(entry) = draft.take("tools") else { return };
    draft.translation.renamed(&entry, "tools.allow", &draft.name);
    if !entry.node.items().iter().any(|item| item.raw() == Some("*")) {
        *allow = Some(entry);
    }
}

/// `tools: {delete: false}` and `tools: {delete: {enabled: false}}`: each tool by itself.
fn switched(draft: &mut Draft<'_, '_>, deny: &mut Option<Entry>) {
    let Some(entry) = draft.entry("tools").cloned() else { return };
    let ours = |inner: &Entry| matches!(inner.key.as_str(), "allow" | "deny" | "rename");
    if entry.node.entries().is_empty() || entry.node.entries().iter().any(ours) {
        return;
    }
    let mut off = Vec::new();
    for inner in entry.node.entries() {
        let word = match inner.node.entry("enabled") {
            Some(enabled) => enabled.node.raw(),
            None => inner.node.raw(),
        };
        let approvals = inner.node.entries().iter().filter(|entry| entry.key != "enabled");
        approvals.for_each(|entry| draft.translation.approval(entry, &draft.name));
        match word {
            Some("true") => {}
            Some("false") => off.push(super::draft::scalar_at(&inner.key_bytes, &inner.key)),
            None if !inner.node.entries().is_empty() => {}
            // Neither format: reported as an unknown key.
            _ => return,
        }
    }
    draft.take("tools");
    // The order of a mapping has no meaning.
    off.sort_by(|one, other| one.raw().cmp(&other.raw()));
    if !off.is_empty() {
        draft.translation.renamed(&entry, "tools.deny", &draft.name);
        *deny = Some(Entry::new(entry.key.clone(), entry.key_bytes.clone(), list(&entry.node, off)));
    }
}

/// `tool_configuration: {enabled, allowed_tools}`, of Anthropic's API.
pub(super) fn configuration(draft: &mut Draft<'_, '_>) {
    for key in ["tool_configuration", "toolConfiguration"] {
        let Some(entry) = draft.take_map(key) else { continue };
        for inner in entry.node.entries().iter().filter(|inner| !inner.node.is_null()) {
            draft.put(&inner.key, inner, Rc::clone(&inner.node));
        }
        draft.translation.note(
            &entry.key_bytes,
            format!("the keys of `{key}` are read as keys of the server ({})", draft.name),
        );
    }
}

/// Puts a list under `tools`.
fn put(draft: &mut Draft<'_, '_>, key: &str, from: Option<Entry>) {
    let Some(from) = from else { return };
    let inner = Entry::new(key.to_owned(), from.key_bytes.clone(), Rc::clone(&from.node));
    let tools = draft.take("tools");
    let (mut entries, at): (Vec<Entry>, Rc<Node>) = match &tools {
        Some(tools) => (tools.node.entries().to_vec(), Rc::clone(&tools.node)),
        None => (Vec::new(), Rc::clone(&from.node)),
    };
    if let Some(there) = entries.iter().find(|there| there.key == key) {
        let line = draft.translation.line(&there.key_bytes);
        let message = format!("{}.{}: conflicts with `tools.{key}`", draft.path(), from.key);
        draft.translation.error(
            &from.key_bytes,
            message,
            &format!("merge both into the list on line {line}"),
        );
    } else {
        entries.push(inner);
    }
    let key_bytes = tools.map_or_else(|| from.key_bytes.clone(), |tools| tools.key_bytes);
    draft.entries.push(Entry::new("tools".to_owned(), key_bytes, map(&at, entries)));
}
