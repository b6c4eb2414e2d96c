//! What cannot come through, and why: a closed list. A cell that fails otherwise is a fault, and so is a cell of this
//! list that passes.

use super::Table;
use super::features::Feature::{self, *};
use super::servers::Upstream;

pub struct Reason {
    /// The word in the table.
    pub word: &'static str,
    /// The sentence in the page; empty if an item before has it.
    pub text: &'static str,
    /// What the failure says, one of these.
    said: &'static [&'static str],
    clients: &'static [&'static str],
    servers: &'static [Upstream],
    features: &'static [Feature],
}

const ALL: &[Upstream] = &super::UPSTREAMS;
const BOTH_LEGACY: &[&str] = &["legacy", "sse"];
const EVERY: &[&str] = &super::CLIENTS;

/// The first reason that fits counts.
pub const REASONS: &[Reason] = &[
    Reason {
        word: "built-in",
        text: "The built-in server has tools and nothing else: no structured results, no progress, no log \
            messages, no questions, no prompts and no resources. Its lists do not change, and it ends with the gateway.",
        said: &["Unknown", "unknown", "not found", "no process", "no resources to follow", "acknowledged"],
        clients: EVERY,
        servers: &[Upstream::Builtin],
        features: &[
            Structured,
            Progress,
            Log,
            ElicitationForm,
            ElicitationUrl,
            Sampling,
            Roots,
            ListChange,
            Subscription,
            Completion,
            Reconnect,
        ],
    },
    Reason {
        word: "revision",
        text: "2024-11-05 has no elicitation. The server learns that the client cannot be asked.",
        said: &["elicitation"],
        clients: &["sse"],
        servers: ALL,
        features: &[ElicitationForm, ElicitationUrl],
    },
    Reason {
        word: "shared",
        text: "All callers share the connection, and the message of the server does not say which call it belongs to.",
        said: &["does not support", "log messages"],
        clients: EVERY,
        servers: &[Upstream::Sse],
        features: &[Log, ElicitationForm, ElicitationUrl, Sampling, Roots],
    },
    Reason {
        word: "shared",
        text: "",
        said: &["log messages"],
        clients: EVERY,
        servers: &[Upstream::ModernStdio],
        features: &[Log],
    },
    Reason {
        word: "leaves",
        text: "A modern client over HTTP has no message for it: it closes the response stream (2026-07-28, cancellation).",
        said: &["does not cancel"],
        clients: &["modern"],
        servers: ALL,
        features: &[CancelByMessage],
    },
    Reason {
        word: "no resumption",
        text: "HTTP+SSE has no resumption. Over Streamable HTTP, the events of a legacy HTTP server have ids; other \
            servers give none, and the gateway keeps no events. The client makes the call again.",
        said: &["events with ids"],
        clients: BOTH_LEGACY,
        servers: ALL,
        features: &[Resume],
    },
];

/// Why a feature cannot come through, if it cannot.
pub fn reason(client: &str, server: &str, feature: Feature) -> Option<&'static Reason> {
    if (client, server, feature) == ("legacy", Upstream::LegacyHttp.name(), Resume) {
        return None;
    }
    REASONS.iter().find(|reason| {
        reason.clients.contains(&client)
            && reason.servers.iter().any(|up| up.name() == server)
            && reason.features.contains(&feature)
    })
}

/// The cells that are not as the list says.
pub fn faults(table: &Table) -> Vec<String> {
    let fault = |((client, server, feature), outcome): (&(&str, &str, Feature), &Result<(), String>)| {
        let cell = format!("{client} client, {server}, {feature:?}");
        match (outcome, reason(client, server, *feature)) {
            (Ok(()), None) => None,
            (Err(said), Some(reason)) if reason.said.iter().any(|words| said.contains(words)) => None,
            (Ok(()), Some(reason)) => Some(format!("{cell}: passes, but should not: {}", reason.word)),
            (Err(said), Some(reason)) => Some(format!("{cell}: not for the reason {}: {said}", reason.word)),
            (Err(said), None) => Some(format!("{cell}: {said}")),
        }
    };
    table.iter().filter_map(fault).collect()
}
