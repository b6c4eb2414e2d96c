//! The kind of a server: a program or a URL. Also the keys that only other programs use.

use std::rc::Rc;

use super::draft::{Draft, list, map, scalar};
use crate::config::yaml::node::{Entry, Node, NodeValue};

/// Keys that are another name for one of ours.
const SAME: [(&str, &str); 18] = [
    ("cmd", "command"),
    ("executable", "command"),
    ("arguments", "args"),
    ("envs", "env"),
    ("environment", "env"),
    ("env_vars", "env_pass"),
    ("env_keys", "env_pass"),
    ("workingDirectory", "cwd"),
    ("working_directory", "cwd"),
    ("working_dir", "cwd"),
    ("workdir", "cwd"),
    ("env_file", "envFile"),
    ("serverUrl", "url"),
    ("server_url", "url"),
    ("uri", "url"),
    ("endpoint", "url"),
    ("baseUrl", "url"),
    ("http_headers", "headers"),
];

/// Keys for display, or for the program that wrote the file. None of them is about access.
pub(super) const IGNORED: [&str; 52] = [
    "$comment",
    "//",
    "_comment",
    "author",
    "bundled",
    "category",
    "chatMenu",
    "comment",
    "createdAt",
    "customUserVars",
    "custom_instructions",
    "dev",
    "disabledReason",
    "displayName",
    "display_name",
    "documentation",
    "dxtPath",
    "examples",
    "fromGalleryId",
    "gallery",
    "homepage",
    "iconPath",
    "iconUrl",
    "id",
    "installSource",
    "installedAt",
    "instructions",
    "isPreset",
    "label",
    "license",
    "logoUrl",
    "longRunning",
    "metadata",
    "note",
    "notes",
    "order",
    "provider",
    "providerUrl",
    "publisher",
    "repository",
    "searchKey",
    "serverInstructions",
    "settings",
    "shouldConfig",
    "source",
    "startup",
    "supports_parallel_tool_calls",
    "tags",
    "title",
    "updatedAt",
    "vendor",
    "version",
];

/// The transport of a server, as another program names it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerAccess {
    Stdio,
    Http,
    Sse,
    /// Built into the program that wrote the file.
    Inside,
}

/// The transport of a word.
pub(super) fn kind(node: &Node) -> Option<ServerAccess> {
    let word = node.raw()?.replace(['_', '-', ' ', '+'], "").to_ascii_lowercase();
    match word.as_str() {
        "stdio" | "local" | "command" | "process" => Some(ServerAccess::Stdio),
        "http" | "https" | "url" | "remote" | "streamablehttp" | "streamable" | "httpstream"
        | "streaminghttp" => Some(ServerAccess::Http),
        "sse" | "httpsse" | "ssehttp" => Some(ServerAccess::Sse),
        "builtin" | "platform" | "frontend" | "inlinepython" | "inmemory" => Some(ServerAccess::Inside),
        _ => None,
    }
}

/// Translates all but tools, times and texts.
pub(super) fn translate(draft: &mut Draft<'_, '_>) {
    nested(draft);
    super::tools::configuration(draft);
    for (from, to) in SAME {
        draft.rename(from, to);
    }
    url(draft);
    command(draft);
    env(draft);
    transport(draft);
    switch(draft);
    super::http::translate(draft);
    for key in IGNORED {
        if let Some(entry) = draft.take(key)
            && !(key == "settings" && entry.node.entries().is_empty())
        {
            draft.translation.ignore(&entry, &draft.name);
        }
    }
}

/// Zed's older `command: {path, args, env}`, Continue's older `transport: {type, command, args}`.
fn nested(draft: &mut Draft<'_, '_>) {
    for outer in ["command", "transport"] {
        let nested = draft.entry(outer).is_some_and(|entry| matches!(entry.node.value, NodeValue::Map(_)));
        let Some(entry) = nested.then(|| draft.take(outer)).flatten() else { continue };
        for inner in entry.node.entries().iter().filter(|inner| !inner.node.is_null()) {
            let key = if outer == "command" && inner.key == "path" { "command" } else { inner.key.as_str() };
            draft.put(key, inner, Rc::clone(&inner.node));
        }
        draft.translation.note(
            &entry.key_bytes,
            format!("the keys of `{outer}` are read as keys of the server ({})", draft.name),
        );
    }
}

/// Gemini's `httpUrl`, which takes precedence over its `url`.
fn url(draft: &mut Draft<'_, '_>) {
    for key in ["httpUrl", "http_url"] {
        if draft.has(key)
            && let Some(other) = draft.take("url")
        {
            let name = &draft.name;
            draft
                .translation
                .warn(&other.key_bytes, format!("`url` is ignored, since `{key}` is set ({name})"));
        }
        draft.rename(key, "url");
    }
}

/// A command that is a list has its arguments in it.
fn command(draft: &mut Draft<'_, '_>) {
    let Some(entry) = draft.entry("command").filter(|entry| !entry.node.items().is_empty()).cloned() else {
        return;
    };
    draft.take("command");
    let mut items = entry.node.items().to_vec();
    let first = items.remove(0);
    draft.put("command", &entry, first);
    if let Some(args) = draft.take_list("args") {
        items.extend(args.node.items().iter().cloned());
    }
    if !items.is_empty() {
        draft.put("args", &entry, list(&entry.node, items));
    }
    draft
        .translation
        .note(&entry.key_bytes, format!("`command` is read as `command` and `args` ({})", draft.name));
}

/// `env: ["A=b"]`, as Compose has it.
fn env(draft: &mut Draft<'_, '_>) {
    let Some(entry) = draft.entry("env").filter(|entry| !entry.node.items().is_empty()).cloned() else {
        return;
    };
    let pairs = entry.node.items().iter().map(|item| {
        // A name must not contain a variable.
        let (name, value) = item.raw()?.split_once('=').filter(|(name, _)| !name.contains('$'))?;
        Some(Entry::new(name.to_owned(), item.bytes.clone(), scalar(item, value, false)))
    });
    let Some(pairs) = pairs.collect::<Option<Vec<_>>>() else { return };
    draft.take("env");
    draft.put("env", &entry, map(&entry.node, pairs));
}

/// Disables a server that is built into the program that wrote the file.
fn leave_out(draft: &mut Draft<'_, '_>, entry: &Entry) {
    let name = &draft.name;
    let text = format!("{name} is built into the program that wrote the file: it is left out");
    draft.translation.warn(&entry.node.bytes, text);
    draft.entries = vec![off(entry)];
    draft.changed = true;
}

fn transport(draft: &mut Draft<'_, '_>) {
    let inside = draft.text("source") == Some("extension") && !draft.has("command") && !draft.has("url");
    if let Some(entry) = draft.entry("source").filter(|_| inside).cloned() {
        return leave_out(draft, &entry);
    }
    for key in ["transport", "transportType", "transport_type"] {
        draft.rename(key, "type");
    }
    let Some(entry) = draft.entry("type").cloned() else { return };
    let word = entry.node.raw().unwrap_or_default();
    match kind(&entry.node) {
        Some(ServerAccess::Stdio) if word != "stdio" => become_type(draft, &entry, "stdio"),
        Some(ServerAccess::Http) if !["http", "streamable-http", "streamableHttp"].contains(&word) => {
            become_type(draft, &entry, "http");
        }
        Some(ServerAccess::Sse) if word != "sse" => become_type(draft, &entry, "sse"),
        Some(ServerAccess::Inside) => leave_out(draft, &entry),
        _ => {}
    }
}

fn become_type(draft: &mut Draft<'_, '_>, entry: &Entry, word: &str) {
    draft.take("type");
    draft.put("type", entry, scalar(&entry.node, word, true));
    let was = entry.node.raw().unwrap_or_default();
    draft
        .translation
        .note(&entry.node.bytes, format!("the type `{was}` is read as `{word}` ({})", draft.name));
}

/// Other keys that enable or disable a server.
fn switch(draft: &mut Draft<'_, '_>) {
    for key in ["enabled", "isActive", "active"] {
        let Some(entry) = draft.take(key) else { continue };
        match entry.node.raw().map(str::to_ascii_lowercase).as_deref() {
            Some("true") => {}
            Some("false") => {
                draft.take("disabled");
                draft.put("disabled", &entry, scalar(&entry.node, "true", true));
            }
            _ => {
                let message = format!("{}.{key}: not a boolean", draft.path());
                draft.translation.error(
                    &entry.node.bytes,
                    message,
                    "expected true or false, or use `disabled`",
                );
            }
        }
    }
}

fn off(entry: &Entry) -> Entry {
    Entry::new("disabled".to_owned(), entry.key_bytes.clone(), scalar(&entry.node, "true", true))
}
