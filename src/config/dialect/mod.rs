//! Files in the formats of other programs: VS Code, Cursor, Codex, Gemini, Zed, Goose, OpenCode and similar
//! ones.
//!
//! The tree of the file is translated to our format before anything is read from it. Translated nodes keep
//! their places, so that errors point into the original file. Each translation is noted, and no key about
//! access is dropped silently. A file in our format stays unchanged.
//!
//! The translation looks at single keys, not at the program that wrote the file. Users edit such files, and
//! programs copy from each other. Only an ambiguous key (a time without unit) depends on the program.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

mod bare_servers;
mod dotenv;
mod draft;
mod http;
mod json;
mod keys;
mod outer_keys;
mod report;
mod server;
mod slug;
mod times;
mod toml;
mod tools;

pub(super) use bare_servers::Bare;
use draft::Draft;
use outer_keys::{Block, NATIVE_KEY};
use report::ByKey;
use times::Unit;

use super::diagnostics::Diagnostics;
use super::suggest;
use super::yaml::interpolate::Environment;
use super::yaml::node::{Entry, Node, NodeValue};
use super::yaml::source::ByteRange;

pub(super) use self::dotenv::read as dotenv;
pub(super) use self::json::{is_bare, loose, plain, scan};
pub(super) use self::toml::{is_named as is_toml, parse as parse_toml};

/// Top-level keys without meaning for servers. One of them shows that another program wrote the file.
const FOREIGN: [&str; 12] = [
    "$schema",
    "darkMode",
    "globalShortcut",
    "inputs",
    "name",
    "numStartups",
    "preferences",
    "scale",
    "schema",
    "theme",
    "userID",
    "version",
];

/// The context and the results of translating the servers of a file.
pub(super) struct Translation<'i> {
    diagnostics: &'i Diagnostics<'i>,
    environment: &'i Environment<'i>,
    /// The folder of the file.
    folder: Option<String>,
    /// The unit of a number without one.
    unit: Option<Unit>,
    /// `$VAR` is a variable to the program that wrote the file.
    expands: bool,
    /// So is `{env:VAR}`.
    curly: bool,
    /// Inputs that VS Code would ask the user for, with their default values.
    inputs: Vec<(String, Option<String>)>,
    renamed: ByKey<(String, String)>,
    approvals: ByKey<String>,
    foreign: Cell<bool>,
}

/// The tree in our format, and the kind of fragment if the file was one. A program wrote a `json` file, most
/// often another program.
pub(super) fn translate(
    root: &Rc<Node>,
    diagnostics: &Diagnostics<'_>,
    environment: &Environment<'_>,
    folder: Option<String>,
    json: bool,
) -> (Rc<Node>, Option<Bare>) {
    let (whole, bare) = bare_servers::wrap(root);
    let blocks = outer_keys::blocks(&whole);
    let servers: Vec<&Node> = blocks.iter().flat_map(|block| maps(&block.node)).collect();
    let unit = blocks.first().and_then(|block| times::unit(&block.path, &servers));
    let any = |keys: &[&str]| servers.iter().any(|node| keys.iter().any(|key| node.entry(key).is_some()));
    let listed = servers.iter().filter_map(|node| node.entry("tools"));
    let copilot = listed.into_iter().any(|tools| matches!(tools.node.value, NodeValue::List(_)));
    let crush = blocks.iter().any(|block| block.path == "mcp");
    let translation = Translation {
        diagnostics,
        environment,
        folder,
        unit,
        expands: copilot || crush || any(&["httpUrl", "trust", "includeTools", "excludeTools"]),
        curly: crush,
        inputs: inputs(&whole),
        renamed: RefCell::default(),
        approvals: RefCell::default(),
        foreign: Cell::new(json),
    };
    let translated = translation.file(&whole, &blocks);
    translation.report();
    (translated.unwrap_or(whole), bare)
}

/// The servers of a block.
fn maps(block: &Node) -> impl Iterator<Item = &Node> {
    let entries = block.entries().iter().map(|entry| &*entry.node);
    entries.chain(block.items().iter().map(|item| &**item))
}

/// `inputs: [{id, default}]` of VS Code.
fn inputs(root: &Node) -> Vec<(String, Option<String>)> {
    let inner = root.entry("mcp").and_then(|mcp| mcp.node.entry("inputs"));
    let Some(inputs) = root.entry("inputs").or(inner) else { return Vec::new() };
    let input = |item: &Rc<Node>| {
        let default = item.entry("default").and_then(|entry| entry.node.raw());
        let default = default.filter(|default| !default.contains(['}', '$']));
        Some((item.entry("id")?.node.raw()?.to_owned(), default.map(str::to_owned)))
    };
    inputs.node.items().iter().filter_map(input).collect()
}

impl Translation<'_> {
    /// The file in our format; `None` if it was already.
    fn file(&self, root: &Rc<Node>, blocks: &[Block]) -> Option<Rc<Node>> {
        let mut servers: Vec<Entry> = Vec::new();
        let mut changed = false;
        if let [first, second, ..] = blocks
            && first.path.contains('.')
            && first.root == second.root
        {
            let message =
                format!("servers in several places: `{}`, `{}`", shown(&first.path), shown(&second.path));
            self.error(&second.key.key_bytes, message, "move the block that you want into a separate file");
        }
        for block in blocks {
            if block.misspelt {
                let message = format!("unknown key `{}`", block.path);
                self.error(&block.key.key_bytes, message, &format!("did you mean `{NATIVE_KEY}`?"));
            }
            let inside = block.root != block.path || block.key.key != NATIVE_KEY;
            changed |= block.misspelt;
            if !block.misspelt && (inside || !block.node.items().is_empty()) {
                self.foreign.set(true);
                changed = true;
                let list = if block.node.items().is_empty() { "" } else { ", a list," };
                if inside {
                    self.note(
                        &block.key.key_bytes,
                        format!("`{}`{list} is read as `{NATIVE_KEY}`", block.path),
                    );
                } else {
                    self.note(
                        &block.key.key_bytes,
                        format!("the list `{NATIVE_KEY}` is read as a mapping of names to servers"),
                    );
                }
            }
            for (name, key_bytes, node) in self.named(block) {
                let written = name.clone();
                let (name, node, other) = self.server(name, &key_bytes, &node);
                changed |= other;
                if let Some(first) = servers.iter().find(|server| server.key == name) {
                    let line = self.line(&first.key_bytes);
                    let message = match written == name {
                        true => format!("duplicate key `{name}`"),
                        false => {
                            format!(
                                "`{}` is renamed to `{name}`, a name that is already used",
                                shown(&written)
                            )
                        }
                    };
                    self.error(&key_bytes, message, &format!("first set on line {line}"));
                    continue;
                }
                servers.push(Entry::new(name, key_bytes, node));
            }
        }
        self.switches(root, &mut servers, &mut changed);
        let foreign = root.entries().iter().any(|entry| FOREIGN.contains(&entry.key.as_str()));
        if self.foreign.get() || !blocks.is_empty() && foreign {
            self.diagnostics.set_foreign();
        }
        let block = blocks.first().filter(|_| changed)?;
        let bytes = block.node.bytes.clone();
        let node = Rc::new(Node::new(bytes, NodeValue::Map(servers)));
        let ours = Entry::new(NATIVE_KEY.to_owned(), block.key.key_bytes.clone(), node);
        let mut entries = Vec::new();
        for entry in root.entries() {
            let first = blocks.iter().position(|block| block.root == entry.key);
            match first {
                Some(0) => entries.push(ours.clone()),
                Some(_) => {}
                None => entries.push(entry.clone()),
            }
        }
        Some(Rc::new(Node::new(root.bytes.clone(), NodeValue::Map(entries))))
    }

    /// The servers of a block by their names, which in a list are among their keys.
    fn named(&self, block: &Block) -> Vec<(String, ByteRange, Rc<Node>)> {
        let entries = block.node.entries().iter();
        let mut named: Vec<_> = entries
            .map(|entry| (entry.key.clone(), entry.key_bytes.clone(), Rc::clone(&entry.node)))
            .collect();
        for item in block.node.items() {
            let keys = ["name", "id", "title"].into_iter();
            let name = keys.filter_map(|key| item.entry(key)).find_map(|entry| entry.node.raw());
            let name = name.map_or_else(|| bare_servers::name(item), str::to_owned);
            let entries = item.entries().iter().filter(|entry| entry.key != "name").cloned().collect();
            named.push((
                name,
                item.bytes.clone(),
                Rc::new(Node::new(item.bytes.clone(), NodeValue::Map(entries))),
            ));
        }
        named
    }

    /// A server in our format, its name, and whether anything changed.
    fn server(&self, name: String, bytes: &ByteRange, node: &Rc<Node>) -> (String, Rc<Node>, bool) {
        let slug = slug::slug(&name);
        let other = slug != name;
        if other {
            self.warn(
                bytes,
                format!(
                    "the server `{}` is renamed to `{slug}`: names are letters, digits, `_` and `-`",
                    shown(&name)
                ),
            );
        }
        if !matches!(node.value, NodeValue::Map(_)) {
            return (slug, Rc::clone(node), other);
        }
        let mut draft =
            Draft { translation: self, name: slug, entries: node.entries().to_vec(), changed: false };
        if draft.entry("name").is_some_and(|label| label.node.raw().is_some()) {
            draft.take("name");
        }
        server::translate(&mut draft);
        tools::translate(&mut draft);
        times::translate(&mut draft);
        if draft.changed {
            self.foreign.set(true);
        }
        keys::translate(&mut draft);
        let Draft { name, entries, changed, .. } = draft;
        match changed {
            true => (name, Rc::new(Node::new(node.bytes.clone(), NodeValue::Map(entries))), true),
            false => (name, Rc::clone(node), other),
        }
    }

    /// Gemini's `mcp: {allowed, excluded}`, which enables and disables servers.
    fn switches(&self, root: &Node, servers: &mut [Entry], changed: &mut bool) {
        let Some(mcp) = root.entry("mcp").filter(|_| root.entry(NATIVE_KEY).is_some()) else { return };
        let names = |key: &str| {
            let list = mcp.node.entry(key).filter(|entry| matches!(entry.node.value, NodeValue::List(_)))?;
            Some(list.node.items().iter().filter_map(|item| item.raw()).collect::<Vec<_>>())
        };
        let (allowed, excluded) = (names("allowed"), names("excluded").unwrap_or_default());
        for server in servers {
            let out = allowed.as_ref().is_some_and(|allowed| !allowed.contains(&server.key.as_str()))
                || excluded.contains(&server.key.as_str());
            if out {
                let off = Entry::new(
                    "disabled".into(),
                    mcp.key_bytes.clone(),
                    draft::scalar(&mcp.node, "true", true),
                );
                let others = server.node.entries().iter().filter(|entry| entry.key != "disabled").cloned();
                let entries = others.chain([off]).collect();
                let node = Rc::new(Node::new(server.node.bytes.clone(), NodeValue::Map(entries)));
                *server = Entry::new(server.key.clone(), server.key_bytes.clone(), node);
                *changed = true;
                self.foreign.set(true);
            }
        }
    }
}

/// A name for display.
fn shown(name: &str) -> String {
    suggest::short(name)
}
