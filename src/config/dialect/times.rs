//! Times without a unit: milliseconds to some programs, seconds to others.
//!
//! A number is read if the program or the key decides the unit; else the error shows both readings.

use super::draft::{Draft, scalar};
use crate::config::scalar::duration::ConfigDuration;
use crate::config::yaml::node::{Entry, Node};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Millis,
}

/// Keys that name their unit, and their equivalents.
const NAMED: [(&str, &str, Unit); 11] = [
    ("tool_timeout_sec", "timeout", Unit::Seconds),
    ("timeout_sec", "timeout", Unit::Seconds),
    ("timeout_seconds", "timeout", Unit::Seconds),
    ("timeoutSeconds", "timeout", Unit::Seconds),
    ("timeout_ms", "timeout", Unit::Millis),
    ("timeoutMs", "timeout", Unit::Millis),
    ("startup_timeout_sec", START, Unit::Seconds),
    ("startup_timeout_ms", START, Unit::Millis),
    ("initTimeout", START, Unit::Millis),
    ("connectionTimeout", START, Unit::Millis),
    ("init_timeout", START, Unit::Seconds),
];

/// Times of a start.
const START: &str = "startup_timeout";

/// Timeouts that the gateway does not have.
const UNREAD: [&str; 4] = ["sseReadTimeout", "sse_read_timeout", "readTimeout", "idleTimeout"];

pub(super) fn translate(draft: &mut Draft<'_, '_>) {
    // OpenCode's is only for the lists of a start.
    let opencode = draft.translation.curly && draft.translation.unit == Some(Unit::Millis);
    if opencode
        && let Some(count) = draft.entry("timeout").and_then(|entry| number(&entry.node))
        && let Some(entry) = draft.take("timeout")
    {
        match draft.has("command") {
            true => put(draft, START, &entry, count, Unit::Millis),
            false => draft.translation.ignore(&entry, &draft.name),
        }
    }
    if let Some(entry) = draft.entry("timeout").cloned()
        && let Some(count) = number(&entry.node)
    {
        // More than a day in seconds would be out of range.
        let only = (count > 86_400).then_some(Unit::Millis);
        match only.or(draft.translation.unit.filter(|unit| fits(*unit, count))) {
            Some(unit) => {
                draft.take("timeout");
                put(draft, "timeout", &entry, count, unit);
            }
            None => {
                let message = format!("{}.timeout: missing unit", draft.path());
                let expected = format!("write `{count}s` if seconds are meant, `{count}ms` if milliseconds");
                draft.translation.error(&entry.node.bytes, message, &expected);
                entry.node.mark_invalid();
            }
        }
    }
    for (key, to, unit) in NAMED {
        let Some(entry) = draft.take(key) else { continue };
        match number(&entry.node) {
            // The gateway retries the start of a server at a URL without a time limit.
            _ if to == START && !draft.has("command") => draft.translation.ignore(&entry, &draft.name),
            Some(count) => put(draft, to, &entry, count, unit),
            None => {
                let message = format!("{}.{key}: not a whole number", draft.path());
                draft.translation.error(
                    &entry.node.bytes,
                    message,
                    &format!("expected a whole number, or use `{to}: 30s`"),
                );
            }
        }
    }
    for key in UNREAD {
        if let Some(entry) = draft.take(key) {
            draft.translation.ignore(&entry, &draft.name);
        }
    }
}

fn put(draft: &mut Draft<'_, '_>, to: &str, entry: &Entry, count: u64, unit: Unit) {
    let millis = match unit {
        Unit::Seconds => count.saturating_mul(1_000),
        Unit::Millis => count,
    };
    let text = ConfigDuration::millis(millis).to_string();
    draft.translation.note(
        &entry.key_bytes,
        format!("`{}: {count}` is read as `{to}: {text}` ({})", entry.key, draft.name),
    );
    draft.put(to, entry, scalar(&entry.node, text, true));
}

/// A whole number without a unit. Some TOML says `20.0`.
fn number(node: &Node) -> Option<u64> {
    let raw = node.raw()?;
    raw.strip_suffix(".0").unwrap_or(raw).parse().ok()
}

/// Whether this is a plausible timeout in this unit.
fn fits(unit: Unit, count: u64) -> bool {
    match unit {
        Unit::Seconds => count <= 3_600,
        Unit::Millis => count >= 1_000,
    }
}

/// The unit of the program that wrote the file, by the keys of its servers.
pub(super) fn unit(block: &str, servers: &[&Node]) -> Option<Unit> {
    let any = |keys: &[&str]| servers.iter().any(|node| keys.iter().any(|key| node.entry(key).is_some()));
    let typed = |words: &[&str]| {
        let types = servers.iter().filter_map(|node| node.entry("type")?.node.raw());
        types.into_iter().any(|word| words.contains(&word))
    };
    let goose = block == "extensions" && any(&["cmd", "uri", "envs", "bundled"]);
    let crush = block == "mcp" && typed(&["stdio", "http", "sse"]);
    // Cline and Roo use seconds, at most an hour. Other programs with these keys use milliseconds.
    let cline =
        any(&["transportType", "watchPaths"]) || any(&["autoApprove", "alwaysAllow"]) && !any(&["trust"]);
    let opencode = block == "mcp" && typed(&["local", "remote"]);
    let gemini = any(&["httpUrl", "trust", "includeTools", "excludeTools", "authProviderType"]);
    let librechat = any(&[
        "initTimeout",
        "serverInstructions",
        "customUserVars",
        "chatMenu",
        "iconPath",
        "requiresOAuth",
    ]);
    let seconds = goose || crush || cline;
    let millis = opencode || gemini || librechat;
    match (seconds, millis) {
        (true, false) => Some(Unit::Seconds),
        (false, true) => Some(Unit::Millis),
        _ => None,
    }
}
