//! The place of the servers in another program's file: the key, the depth, and whether a mapping or a list.

use std::rc::Rc;

use crate::config::suggest;
use crate::config::yaml::node::{Entry, Node, NodeValue};

/// The key of the servers in our format.
pub(super) const NATIVE_KEY: &str = "mcpServers";

/// A block of servers.
pub(super) struct Block {
    /// The keys that lead to it, `mcp.servers`.
    pub path: String,
    /// Of which the last.
    pub key: Entry,
    /// The first of them, a top-level key of the file.
    pub root: String,
    pub node: Rc<Node>,
    /// The key is only a typo of a known one.
    pub misspelt: bool,
}

/// The blocks of servers of a file: the top-level ones, else the nested ones.
pub(super) fn blocks(root: &Node) -> Vec<Block> {
    let mut found = Vec::new();
    for entry in root.entries() {
        let block = |path: String, inner: &Entry| Block {
            path,
            key: inner.clone(),
            root: entry.key.clone(),
            node: Rc::clone(&inner.node),
            misspelt: false,
        };
        if entry.key == NATIVE_KEY || is_block(&entry.key, &entry.node) {
            found.push(block(entry.key.clone(), entry));
        } else if matches!(entry.key.as_str(), "mcp" | "experimental") || entry.key.starts_with("mcp.") {
            // The settings of an editor.
            let inner = entry.node.entries().iter().find(|inner| is_block(&inner.key, &inner.node));
            match inner {
                Some(inner) => found.push(block(format!("{}.{}", entry.key, inner.key), inner)),
                // OpenCode and Crush put the servers there straight away.
                None if entry.key == "mcp" && are_servers(&entry.node) => {
                    found.push(block(entry.key.clone(), entry));
                }
                None => {}
            }
        }
    }
    if found.is_empty() {
        for entry in root.entries() {
            deeper(&entry.node, &entry.key, &entry.key, 3, &mut found);
        }
    }
    if found.is_empty()
        && let Some(entry) = root.entries().iter().find(|entry| suggest::is_typo_of(NATIVE_KEY, &entry.key))
    {
        let (path, root, node) = (entry.key.clone(), entry.key.clone(), Rc::clone(&entry.node));
        found.push(Block { path, key: entry.clone(), root, node, misspelt: true });
    }
    found
}

/// `customizations.vscode.mcp.servers`, `projects./home/me.mcpServers` and others.
fn deeper(node: &Node, path: &str, root: &str, depth: usize, found: &mut Vec<Block>) {
    for entry in node.entries() {
        let path = format!("{path}.{}", entry.key);
        let named =
            bare(&entry.key).ends_with("mcpservers") || bare(&entry.key) == "servers" && path.contains("mcp");
        if named && are_servers(&entry.node) {
            let (key, root, node) = (entry.clone(), root.to_owned(), Rc::clone(&entry.node));
            found.push(Block { path, key, root, node, misspelt: false });
        } else if depth > 0 {
            deeper(&entry.node, &path, root, depth - 1, found);
        }
    }
}

fn bare(key: &str) -> String {
    let last = key.rsplit('.').next().unwrap_or(key);
    last.replace(['_', '-'], "").to_ascii_lowercase()
}

/// Whether this key of a file is one of those that programs put their servers under.
fn is_block(key: &str, node: &Node) -> bool {
    let known = ["mcpservers", "servers", "contextservers", "extensions", "modelcontextprotocolservers"];
    let empty =
        matches!(&node.value, NodeValue::Map(entries) if entries.is_empty()) && !key.contains("extensions");
    known.contains(&bare(key).as_str()) && (empty || are_servers(node))
}

/// Whether these look like servers: a mapping or a list of mappings, at least one of which has a transport.
pub(super) fn are_servers(node: &Node) -> bool {
    let entries = node.entries().iter().map(|entry| &entry.node);
    let mut all = entries.chain(node.items());
    all.clone().all(|node| matches!(node.value, NodeValue::Map(_))) && all.any(|node| is_server(node))
}

/// Whether a mapping says how to reach a server.
pub(super) fn is_server(node: &Node) -> bool {
    let has = |key: &str| node.entry(key).is_some_and(|entry| !entry.node.is_null());
    let keys = [
        "command",
        "cmd",
        "url",
        "urls",
        "builtin",
        "serverUrl",
        "server_url",
        "httpUrl",
        "http_url",
        "uri",
        "baseUrl",
        "endpoint",
    ];
    let typed = node.entry("type").or(node.entry("transport"));
    keys.iter().any(|key| has(key))
        || typed.is_some_and(|typed| typed.node.raw().is_none() || super::server::kind(&typed.node).is_some())
        // Only disabled, or provided by an extension.
        || has("enabled") && node.entries().len() == 1
        || has("source") && has("settings")
}
