//! A fragment of a file: servers without their outer key, or one server without a name.
//!
//! The gateway does not guess that the fragment is complete: the error shows the complete file.

use std::rc::Rc;

use super::outer_keys::{NATIVE_KEY, are_servers, is_server};
use super::slug;
use crate::config::yaml::node::{Entry, Node, NodeValue};
use crate::config::yaml::print;

/// The kind of fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Bare {
    /// Servers by their names, or a list of them.
    Block,
    /// One server.
    Server,
}

impl Bare {
    /// Message and help; `root` is the file as it should be.
    pub(in crate::config) fn message_and_help(self, root: &Node) -> (String, String) {
        let message = match self {
            Bare::Block => format!("servers without the outer key `{NATIVE_KEY}`"),
            Bare::Server => format!("a server without a name and without the outer key `{NATIVE_KEY}`"),
        };
        let (file, hides) = print::masked(root);
        let lines: Vec<&str> = file.lines().take(60).collect();
        let more = if file.lines().count() > lines.len() { "\n…" } else { "" };
        let whole = if hides { "\n`toolgate check --print` shows what is hidden here" } else { "" };
        (message, format!("the file as it should be:\n{}{more}{whole}", lines.join("\n")))
    }
}

/// The complete file around the fragment, or the file unchanged.
pub(super) fn wrap(root: &Rc<Node>) -> (Rc<Node>, Option<Bare>) {
    let under = |key: &str, node: &Rc<Node>| {
        let start = node.bytes.start;
        Entry::new(key.to_owned(), start..start, Rc::clone(node))
    };
    let map = |entry: Entry| Rc::new(Node::new(root.bytes.clone(), NodeValue::Map(vec![entry])));
    if root.entry(NATIVE_KEY).is_some() || !super::outer_keys::blocks(root).is_empty() {
        return (Rc::clone(root), None);
    }
    if is_server(root) && !root.entries().is_empty() {
        let named = map(under(&name(root), root));
        return (map(under(NATIVE_KEY, &named)), Some(Bare::Server));
    }
    let some = !root.entries().is_empty() || !root.items().is_empty();
    if some && are_servers(root) {
        (map(under(NATIVE_KEY, root)), Some(Bare::Block))
    } else {
        (Rc::clone(root), None)
    }
}

/// A name for a server without one: from its program or its host.
pub(super) fn name(server: &Node) -> String {
    let text = |key: &str| server.entry(key).and_then(|entry| entry.node.raw());
    let url = ["url", "serverUrl", "httpUrl", "uri"].into_iter().find_map(text);
    let host = url.and_then(|url| url.split("://").nth(1)).map(|rest| {
        let host = rest.split(['/', ':', '?', '@']).next().unwrap_or_default();
        host.trim_start_matches("mcp.").trim_start_matches("www.").split('.').next().unwrap_or_default()
    });
    let args = server.entry("args").map(|entry| entry.node.items()).unwrap_or_default();
    let package = args.iter().filter_map(|arg| arg.raw()).find(|arg| !arg.starts_with('-'));
    let program = package.or_else(|| text("command")).map(|program| {
        let last = program.rsplit(['/', '\\']).next().unwrap_or_default();
        last.split('@').next().unwrap_or_default()
    });
    let name = host.or(program).filter(|name| !name.is_empty() && !name.contains('$')).unwrap_or("server");
    slug::slug(name)
}
