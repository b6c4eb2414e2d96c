//! What is sent to a server at a URL: headers and credentials.

use std::rc::Rc;

use super::draft::{Draft, scalar};
use crate::config::yaml::interpolate;
use crate::config::yaml::node::{Entry, Node, NodeValue};

/// Headers that programs write though their HTTP client sets them, as the gateway does.
const SET_BY_GATEWAY: [&str; 2] = ["accept", "content-type"];

/// Interactive logins, which this version does not support.
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
        // The format of Continue. Other keys in it are reported as unknown.
        for inner in options.node.entries().iter().filter(|inner| !inner.node.is_null()) {
            match inner.key.as_str() {
                "headers" => draft.merge("headers", inner, inner.node.entries().to_vec()),
                _ => draft.put(&inner.key, inner, Rc::clone(&inner.node)),
            }
        }
        draft.translation.note(
            &options.key_bytes,
            format!("the keys of `requestOptions` are read as keys of the server ({})", draft.name),
        );
    }
    if let Some(entry) = draft.take_map("env_http_headers") {
        let headers = entry.node.entries().iter().map(|header| variable(header, "")).collect();
        draft.translation.renamed(&entry, "headers", &draft.name);
        draft.merge("headers", &entry, headers);
    }
    if let Some(entry) = draft.take("bearer_token_env_var") {
        let header = variable(
            &Entry::new("Authorization".into(), entry.key_bytes.clone(), Rc::clone(&entry.node)),
            "Bearer ",
        );
        draft.translation.renamed(&entry, "headers.Authorization", &draft.name);
        draft.merge("headers", &entry, vec![header]);
    }
    for key in ["authorization_token", "bearerToken", "bearer_token"] {
        let Some(entry) = draft.take(key) else { continue };
        let token = format!("Bearer {}", entry.node.raw().unwrap_or_default());
        draft.translation.renamed(&entry, "headers.Authorization", &draft.name);
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
        draft.translation.warn(
            &entry.key_bytes,
            format!("`{key}` is ignored: the gateway does not log in at {name} by browser; use `headers` or `credentials: exchange`"),
        );
    }
    usual_headers(draft);
}

/// A header from the variable that its value names.
fn variable(header: &Entry, before: &str) -> Entry {
    let name = header.node.raw().unwrap_or_default();
    // An invalid name becomes an error at interpolation.
    let node = scalar(&header.node, format!("{before}${{{name}}}"), false);
    Entry::new(header.key.clone(), header.key_bytes.clone(), node)
}

/// `Accept` and `Content-Type`, if their values equal what the gateway sends.
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
        SET_BY_GATEWAY.contains(&header.key.to_ascii_lowercase().as_str()) && types(text)
    };
    let (dropped, kept): (Vec<Entry>, Vec<Entry>) = headers.node.entries().iter().cloned().partition(sent);
    for header in &dropped {
        let message =
            format!("the header `{}` is ignored: the gateway sets it itself ({})", header.key, draft.name);
        draft.translation.warn(&header.key_bytes, message);
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
