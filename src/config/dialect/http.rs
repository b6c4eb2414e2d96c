//! What is sent to a server at a URL: headers and credentials.

use std::rc::Rc;

use super::draft::{Draft, scalar};
use crate::config::yaml::interpolate;
use crate::config::yaml::node::{Entry, Node, NodeValue};

/// Headers that programs write though their HTTP client sets them, as the gateway does.
const USUAL: [&str; 2] = ["accept", "content-type"];

/// Logins in person, which this version does not have.
const LOGINS: [&str; 9] = [
    "oauth",
    "oauth_client_id",
    "oauth_resource",
    "authProviderType",
    "oauthClientId",
    "scopes",
    "requiresOAuth",
    "auth",
    "targetAudience",
];

pub(super) fn translate(draft: &mut Draft<'_, '_>) {
    if let Some(options) = draft.take_map("requestOptions") {
        // Continue's; what else it says is told of as unknown.
        for inner in options.node.entries().iter().filter(|inner| !inner.node.is_null()) {
            match inner.key.as_str() {
                "headers" => draft.merge("headers", inner, inner.node.entries().to_vec()),
                _ => draft.put(&inner.key, inner, Rc::clone(&inner.node)),
            }
        }
        draft.reading.note(
            &options.key_bytes,
            format!("`requestOptions` is read with what stands in it ({})", draft.name),
        );
    }
    if let Some(entry) = draft.take_map("env_http_headers") {
        let headers = entry.node.entries().iter().map(|header| variable(header, "")).collect();
        draft.reading.renamed(&entry, "headers", &draft.name);
        draft.merge("headers", &entry, headers);
    }
    if let Some(entry) = draft.take("bearer_token_env_var") {
        let header = variable(
            &Entry::new("Authorization".into(), entry.key_bytes.clone(), Rc::clone(&entry.node)),
            "Bearer ",
        );
        draft.reading.renamed(&entry, "headers.Authorization", &draft.name);
        draft.merge("headers", &entry, vec![header]);
    }
    for key in ["authorization_token", "bearerToken", "bearer_token"] {
        let Some(entry) = draft.take(key) else { continue };
        let token = format!("Bearer {}", entry.node.raw().unwrap_or_default());
        draft.reading.renamed(&entry, "headers.Authorization", &draft.name);
        let header =
            Entry::new("Authorization".into(), entry.key_bytes.clone(), scalar(&entry.node, token, false));
        draft.merge("headers", &entry, vec![header]);
    }
    for key in LOGINS {
        let Some(entry) = draft.take(key) else { continue };
        if entry.node.raw() == Some("false") {
            continue;
        }
        let name = &draft.name;
        draft.reading.warn(
            &entry.key_bytes,
            format!("`{key}` is not read: nobody logs in at {name} by browser; give it `headers`, or `credentials: exchange`"),
        );
    }
    usual_headers(draft);
}

/// A header from a variable that is named beside it.
fn variable(header: &Entry, before: &str) -> Entry {
    let name = header.node.raw().unwrap_or_default();
    // What is no name becomes a fault where variables are filled in.
    let node = scalar(&header.node, format!("{before}${{{name}}}"), false);
    Entry::new(header.key.clone(), header.key_bytes.clone(), node)
}

/// `Accept` and `Content-Type`, as long as they say what is sent anyway.
fn usual_headers(draft: &mut Draft<'_, '_>) {
    let Some(headers) = draft.entry("headers").cloned() else { return };
    let sent = |header: &Entry| {
        let text = header.node.raw().unwrap_or_default();
        let types = |text: &str| {
            text.split(',').all(|part| {
                let part = part.split(';').next().unwrap_or_default().trim();
                ["application/json", "text/event-stream", "*/*"].contains(&part)
            })
        };
        USUAL.contains(&header.key.to_ascii_lowercase().as_str()) && types(text)
    };
    let (dropped, kept): (Vec<Entry>, Vec<Entry>) = headers.node.entries().iter().cloned().partition(sent);
    for header in &dropped {
        let message =
            format!("the header `{}` is not read: the gateway sets it itself ({})", header.key, draft.name);
        draft.reading.warn(&header.key_bytes, message);
    }
    if !dropped.is_empty() {
        draft.take("headers");
        if !kept.is_empty() {
            let node = Node::new(headers.node.bytes.clone(), NodeValue::Map(kept));
            draft.put("headers", &headers, Rc::new(node));
        }
    }
}

/// Whether a text is the name of a variable.
pub(super) fn is_variable(name: &str) -> bool {
    interpolate::is_name(name)
}
