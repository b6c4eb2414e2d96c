//! Roles: what their callers may do, and which other roles they bring along.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::diagnostics::Spot;
use super::references::Known;
use super::scalar::globs::Globs;
use super::scalar::names::{Name, ServerName};
use super::suggest;
use super::yaml::line::Line;

/// A role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Roles whose rights and prohibitions it has too; known ones, without cycles.
    pub inherits: Vec<String>,
    /// What it may.
    pub allow: Lists,
    /// What it may not, whatever allows it.
    pub deny: Lists,
    /// It may use the admin API.
    pub admin: bool,
    /// Where it stands.
    pub line: Line,
}

/// What patterns single out: over federated names, URIs of resources, methods and names of servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are the words of the config")]
pub struct Lists {
    pub tools: Vec<Pattern>,
    pub prompts: Vec<Pattern>,
    pub resources: Vec<Pattern>,
    pub methods: Vec<Pattern>,
    pub servers: Vec<Pattern>,
    /// Toolsets, known ones: the tools that they bundle.
    pub toolsets: Vec<ServerName>,
}

/// One pattern, known to be a good one: see [`Globs`](super::Globs).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// As it was written.
    pub text: String,
    /// Where it stands.
    pub line: Line,
}

impl Lists {
    /// Nothing is singled out.
    pub fn is_empty(&self) -> bool {
        let lists = [&self.tools, &self.prompts, &self.resources, &self.methods, &self.servers];
        lists.iter().all(|list| list.is_empty()) && self.toolsets.is_empty()
    }
}

/// A role.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename = "Role", default, deny_unknown_fields)]
pub(super) struct Written {
    /// Roles whose rights and prohibitions it has too.
    inherits: Vec<Name>,
    /// What it may.
    allow: WrittenLists,
    /// What it may not: this wins over every `allow`, of any role.
    deny: WrittenLists,
    /// It may use the admin API.
    admin: bool,
}

/// What is allowed or denied, by patterns.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename = "Lists", default, deny_unknown_fields)]
struct WrittenLists {
    /// Over the federated names of tools: `files__read_*`.
    #[serde(rename = "tools")]
    _tools: Globs,
    /// Over the federated names of prompts.
    #[serde(rename = "prompts")]
    _prompts: Globs,
    /// Over the URIs of resources.
    #[serde(rename = "resources")]
    _resources: Globs,
    /// Over methods: `tools/*`. If any role of a caller allows methods, only those that its roles list pass.
    #[serde(rename = "methods")]
    _methods: Globs,
    /// Over names of servers: everything that these offer.
    #[serde(rename = "servers")]
    _servers: Globs,
    /// Names of toolsets: the tools that these bundle.
    toolsets: Vec<ServerName>,
}

impl Written {
    fn role(self, spot: &Spot<'_>, known: &Known<'_>) -> Role {
        let lists = |key: &str, written: WrittenLists| match spot.child(key) {
            Some(spot) => Lists { toolsets: written.toolsets, ..lists(&spot, known) },
            None => Lists::default(),
        };
        Role {
            inherits: self.inherits.into_iter().map(|name| name.0).collect(),
            allow: lists("allow", self.allow),
            deny: lists("deny", self.deny),
            admin: self.admin,
            line: spot.line(),
        }
    }
}

/// The lists of patterns that stand under this mapping, with the places of their items.
pub(super) fn lists(spot: &Spot<'_>, known: &Known<'_>) -> Lists {
    let lists = Lists {
        tools: patterns(spot, "tools"),
        prompts: patterns(spot, "prompts"),
        resources: patterns(spot, "resources"),
        methods: patterns(spot, "methods"),
        servers: patterns(spot, "servers"),
        toolsets: Vec::new(),
    };
    known.check_servers(spot.child("servers"));
    known.check_toolsets(filled(spot, "toolsets"));
    lists
}

/// The patterns under this key.
pub(super) fn patterns(spot: &Spot<'_>, key: &str) -> Vec<Pattern> {
    let texts = filled(spot, key).map(|list| list.texts()).unwrap_or_default().into_iter();
    texts.map(|(spot, text)| Pattern { text: text.into(), line: spot.line() }).collect()
}

/// The list under this key. One without items is refused: some read it as "none", others as "all".
pub(super) fn filled<'t>(spot: &Spot<'t>, key: &str) -> Option<Spot<'t>> {
    let list = spot.child(key).filter(|_| spot.has(key))?;
    if list.node.items().is_empty() {
        list.refuse("empty", "name some, or remove the key");
    }
    Some(list)
}

/// All roles of the block, with what is wrong among them reported.
pub(super) fn roles(
    mut written: BTreeMap<String, Written>,
    spot: &Spot<'_>,
    known: &Known<'_>,
) -> BTreeMap<String, Role> {
    let mut roles = BTreeMap::new();
    for entry in spot.node.entries() {
        let Some((name, role)) = written.remove_entry(&entry.key) else { continue };
        let spot = spot.under(entry);
        if name.trim() != name || name.is_empty() {
            let message = format!("{}: not the name of a role", spot.path);
            spot.refuse_key(message, "expected a name without blanks around it", "");
        }
        roles.insert(name, role.role(&spot, known));
    }
    check_inheritance(&roles, spot);
    roles
}

/// Every role that is inherited exists, and none inherits itself, be it around corners.
fn check_inheritance(roles: &BTreeMap<String, Role>, spot: &Spot<'_>) {
    let names: Vec<_> = spot.node.entries().iter().map(|entry| &*entry.key).collect();
    for entry in spot.node.entries() {
        let Some(list) = spot.under(entry).child("inherits") else { continue };
        list.check_distinct();
        for (item, parent) in list.texts() {
            if !names.contains(&parent) {
                item.refuse("no such role", suggest::meant(&names, parent, "there are no roles"));
            }
        }
    }
    let mut settled = Vec::new();
    for name in &names {
        let mut trail = Vec::new();
        climb(name, roles, spot, &mut trail, &mut settled);
    }
}

/// Walks up from a role; the item that closes a circle is reported.
fn climb<'r>(
    name: &'r str,
    roles: &'r BTreeMap<String, Role>,
    spot: &Spot<'_>,
    trail: &mut Vec<&'r str>,
    settled: &mut Vec<&'r str>,
) {
    let Some(role) = roles.get(name).filter(|_| !settled.contains(&name)) else { return };
    trail.push(name);
    for parent in &role.inherits {
        let Some(from) = trail.iter().position(|above| above == parent) else {
            climb(parent, roles, spot, trail, settled);
            continue;
        };
        let list = spot.child(name).and_then(|role| role.child("inherits"));
        let item = list.iter().flat_map(Spot::texts).find(|(_, text)| text == parent);
        if let Some((item, _)) = item {
            let circle = trail[from..].join(" → ");
            item.refuse(format!("roles that inherit each other: {circle} → {parent}"), "remove this one");
        }
    }
    trail.pop();
    settled.push(name);
}
