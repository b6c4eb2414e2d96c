//! Roles: their permissions, and the roles that they inherit from.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::diagnostics::NodeRef;
use super::references::References;
use super::scalar::globs::GlobList;
use super::scalar::names::{Name, ServerName};
use super::suggest;
use super::yaml::line::Line;

/// A role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleConfig {
    /// Inherited roles, with their permissions and prohibitions; they exist and form no cycle.
    pub inherits: Vec<String>,
    /// What the role allows.
    pub allow: PatternListsConfig,
    /// What the role denies, even if it is allowed elsewhere.
    pub deny: PatternListsConfig,
    /// Whether the role may use the admin API.
    pub admin: bool,
    /// Its line in the file.
    pub line: Line,
}

/// Patterns over qualified names, URIs of resources, methods and names of servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are the words of the config")]
pub struct PatternListsConfig {
    pub tools: Vec<Pattern>,
    pub prompts: Vec<Pattern>,
    pub resources: Vec<Pattern>,
    pub methods: Vec<Pattern>,
    pub servers: Vec<Pattern>,
    /// Existing toolsets: the tools in them.
    pub toolsets: Vec<ServerName>,
}

/// One valid pattern: see [`GlobList`](super::GlobList).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// As it was raw.
    pub text: String,
    /// Its line in the file.
    pub line: Line,
}

impl PatternListsConfig {
    /// Nothing is singled out.
    pub fn is_empty(&self) -> bool {
        let lists = [&self.tools, &self.prompts, &self.resources, &self.methods, &self.servers];
        lists.iter().all(|list| list.is_empty()) && self.toolsets.is_empty()
    }
}

/// A role.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename = "Role", default, deny_unknown_fields)]
pub(super) struct RawRole {
    /// Inherited roles, with their permissions and prohibitions.
    inherits: Vec<Name>,
    /// What the role allows.
    allow: RawLists,
    /// What the role denies. This wins over every `allow` of any role.
    deny: RawLists,
    /// Whether the role may use the admin API.
    admin: bool,
}

/// What a role allows or denies, by patterns.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename = "Lists", default, deny_unknown_fields)]
struct RawLists {
    /// Over the federated names of tools: `files__read_*`.
    #[serde(rename = "tools")]
    _tools: GlobList,
    /// Over the federated names of prompts.
    #[serde(rename = "prompts")]
    _prompts: GlobList,
    /// Over the URIs of resources.
    #[serde(rename = "resources")]
    _resources: GlobList,
    /// Over methods: `tools/*`. If any role of a caller allows methods, only those that its roles list pass.
    #[serde(rename = "methods")]
    _methods: GlobList,
    /// Over names of servers: everything that these offer.
    #[serde(rename = "servers")]
    _servers: GlobList,
    /// Names of toolsets: the tools that these bundle.
    toolsets: Vec<ServerName>,
}

impl RawRole {
    fn role(self, node_ref: &NodeRef<'_>, references: &References<'_>) -> RoleConfig {
        let lists = |key: &str, raw: RawLists| match node_ref.child(key) {
            Some(node_ref) => PatternListsConfig { toolsets: raw.toolsets, ..lists(&node_ref, references) },
            None => PatternListsConfig::default(),
        };
        RoleConfig {
            inherits: self.inherits.into_iter().map(|name| name.0).collect(),
            allow: lists("allow", self.allow),
            deny: lists("deny", self.deny),
            admin: self.admin,
            line: node_ref.line(),
        }
    }
}

/// The lists of patterns in this mapping, with the places of their items.
pub(super) fn lists(node_ref: &NodeRef<'_>, references: &References<'_>) -> PatternListsConfig {
    let lists = PatternListsConfig {
        tools: patterns(node_ref, "tools"),
        prompts: patterns(node_ref, "prompts"),
        resources: patterns(node_ref, "resources"),
        methods: patterns(node_ref, "methods"),
        servers: patterns(node_ref, "servers"),
        toolsets: Vec::new(),
    };
    references.check_servers(node_ref.child("servers"));
    references.check_toolsets(filled(node_ref, "toolsets"));
    lists
}

/// The patterns under this key.
pub(super) fn patterns(node_ref: &NodeRef<'_>, key: &str) -> Vec<Pattern> {
    let texts = filled(node_ref, key).map(|list| list.texts()).unwrap_or_default().into_iter();
    texts.map(|(node_ref, text)| Pattern { text: text.into(), line: node_ref.line() }).collect()
}

/// The list under this key. An empty list is rejected: it could mean "none" or "all".
pub(super) fn filled<'t>(node_ref: &NodeRef<'t>, key: &str) -> Option<NodeRef<'t>> {
    let list = node_ref.child(key).filter(|_| node_ref.has(key))?;
    if list.node.items().is_empty() {
        list.reject("empty", "add an entry, or remove the key");
    }
    Some(list)
}

/// All roles of the block; reports their errors.
pub(super) fn roles(
    mut raw: BTreeMap<String, RawRole>,
    node_ref: &NodeRef<'_>,
    references: &References<'_>,
) -> BTreeMap<String, RoleConfig> {
    let mut roles = BTreeMap::new();
    for entry in node_ref.node.entries() {
        let Some((name, role)) = raw.remove_entry(&entry.key) else { continue };
        let node_ref = node_ref.under(entry);
        if name.trim() != name || name.is_empty() {
            let message = format!("{}: invalid role name", node_ref.path);
            node_ref.reject_key(message, "expected a name without spaces around it", "");
        }
        roles.insert(name, role.role(&node_ref, references));
    }
    check_inheritance(&roles, node_ref);
    roles
}

/// Every inherited role exists, and no role inherits itself, directly or indirectly.
fn check_inheritance(roles: &BTreeMap<String, RoleConfig>, node_ref: &NodeRef<'_>) {
    let names: Vec<_> = node_ref.node.entries().iter().map(|entry| &*entry.key).collect();
    for entry in node_ref.node.entries() {
        let Some(list) = node_ref.under(entry).child("inherits") else { continue };
        list.check_distinct();
        for (item, parent) in list.texts() {
            if !names.contains(&parent) {
                item.reject("no such role", suggest::did_you_mean(&names, parent, "there are no roles"));
            }
        }
    }
    let mut settled = Vec::new();
    for name in &names {
        let mut trail = Vec::new();
        find_cycle(name, roles, node_ref, &mut trail, &mut settled);
    }
}

/// Walks up from a role; the item that closes a circle is reported.
fn find_cycle<'r>(
    name: &'r str,
    roles: &'r BTreeMap<String, RoleConfig>,
    node_ref: &NodeRef<'_>,
    trail: &mut Vec<&'r str>,
    settled: &mut Vec<&'r str>,
) {
    let Some(role) = roles.get(name).filter(|_| !settled.contains(&name)) else { return };
    trail.push(name);
    for parent in &role.inherits {
        let Some(from) = trail.iter().position(|above| above == parent) else {
            find_cycle(parent, roles, node_ref, trail, settled);
            continue;
        };
        let list = node_ref.child(name).and_then(|role| role.child("inherits"));
        let item = list.iter().flat_map(NodeRef::texts).find(|(_, text)| text == parent);
        if let Some((item, _)) = item {
            let circle = trail[from..].join(" → ");
            item.reject(format!("cyclic inheritance: {circle} → {parent}"), "remove this one");
        }
    }
    trail.pop();
    settled.push(name);
}
