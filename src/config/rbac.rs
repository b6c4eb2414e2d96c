//! Authorization: roles (`roles.rs`), scopes that some calls require, and rules.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use filters::rbac::Effect;
use schemars::JsonSchema;
use serde::Deserialize;

use super::diagnostics::NodeRef;
use super::references::References;
use super::roles::{self, PatternListsConfig, RoleConfig};
use super::scalar::globs::GlobList;
use super::scalar::names::{Name, ScopeName};
use super::yaml::line::Line;

/// Authorization settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RbacConfig {
    /// The decision where no rule and no role matches.
    pub default: Effect,
    /// The roles by name. Other role names have no effect.
    pub roles: BTreeMap<String, RoleConfig>,
    /// Scopes that some calls require in addition.
    pub scopes: Vec<ScopeNeedConfig>,
    /// Conditions, evaluated in this order and before the roles: the first true one decides.
    pub rules: Vec<RuleConfig>,
}

/// Scopes that calls need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeNeedConfig {
    /// The calls: those that match one of tools, prompts and resources, and also methods and servers. Never
    /// empty, and without toolsets.
    pub matches: PatternListsConfig,
    /// The scopes: all of them, at least one.
    pub require: Vec<String>,
    /// Its line in the file.
    pub line: Line,
}

/// A condition and its effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleConfig {
    /// For the log and for `explain`; no two have the same.
    pub name: String,
    /// A condition in CEL.
    pub when: String,
    /// The decision if the condition is true.
    pub effect: Effect,
    /// The error message for a denied caller.
    pub message: Option<String>,
    /// Its line in the file.
    pub line: Line,
}

/// Who may do what.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename = "Rbac", default, deny_unknown_fields)]
pub(super) struct RawRbac {
    /// The decision where no rule and no role matches.
    default: Effect,
    /// The roles, by name.
    roles: BTreeMap<String, roles::RawRole>,
    /// Scopes that some calls require in addition. Without them such a call is denied, but its tool stays
    /// visible.
    scopes: Vec<RawScopeNeed>,
    /// Conditions in CEL, evaluated in this order and before the roles: the first true one decides.
    rules: Vec<RawRule>,
}

/// Calls, and the scopes that they require. A call must match one of `tools`, `prompts` and `resources`, if
/// any is set, and also `methods` and `servers`, if set.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "ScopeNeed", deny_unknown_fields)]
#[schemars(extend("minProperties" = 2))]
struct RawScopeNeed {
    /// Over the federated names of tools.
    #[serde(default, rename = "tools")]
    _tools: GlobList,
    /// Over the federated names of prompts.
    #[serde(default, rename = "prompts")]
    _prompts: GlobList,
    /// Over the URIs of resources.
    #[serde(default, rename = "resources")]
    _resources: GlobList,
    /// Over methods.
    #[serde(default, rename = "methods")]
    _methods: GlobList,
    /// Over names of servers.
    #[serde(default, rename = "servers")]
    _servers: GlobList,
    /// The scopes, all of which are needed.
    #[schemars(extend("minItems" = 1))]
    require: Vec<ScopeName>,
}

/// A condition and its effect.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "RbacRule", deny_unknown_fields)]
struct RawRule {
    /// A unique name, which the log shows.
    name: Name,
    /// A condition in CEL over `caller`, `call` and `server`.
    #[schemars(extend("minLength" = 1))]
    when: String,
    /// The decision if the condition is true.
    effect: Effect,
    /// The error message for a denied caller.
    message: Option<Name>,
}

impl RawRbac {
    pub(super) fn rbac(self, node_ref: &NodeRef<'_>, references: &References<'_>) -> RbacConfig {
        let roles = node_ref.child("roles");
        let (needs, rules) = (node_ref.valid_items("scopes"), node_ref.valid_items("rules"));
        check_names(&rules);
        RbacConfig {
            default: self.default,
            roles: roles.map(|node_ref| roles::roles(self.roles, &node_ref, references)).unwrap_or_default(),
            scopes: needs
                .iter()
                .zip(self.scopes)
                .map(|(node_ref, need)| need.need(node_ref, references))
                .collect(),
            rules: rules.iter().zip(self.rules).map(|(node_ref, rule)| rule.rule(node_ref)).collect(),
        }
    }
}

impl RawScopeNeed {
    fn need(self, node_ref: &NodeRef<'_>, references: &References<'_>) -> ScopeNeedConfig {
        if let Some(node_ref) = node_ref.child("require").filter(|require| require.node.items().is_empty()) {
            node_ref.reject("empty", "expected at least one scope");
        }
        const LISTS: [&str; 5] = ["tools", "prompts", "resources", "methods", "servers"];
        let misspelt = node_ref.node.entries().iter().any(|entry| entry.is_invalid());
        if !misspelt && !LISTS.iter().any(|list| node_ref.has(list)) {
            let expected = "set one of `tools`, `prompts`, `resources`, `methods` or `servers`";
            node_ref.reject("matches nothing", expected);
        }
        let require = self.require.into_iter().map(|scope| scope.0).collect();
        ScopeNeedConfig { matches: roles::lists(node_ref, references), require, line: node_ref.line() }
    }
}

impl RawRule {
    fn rule(self, node_ref: &NodeRef<'_>) -> RuleConfig {
        if let Some(node_ref) = node_ref.child("when") {
            if self.when.trim().is_empty() {
                node_ref.reject("empty", "expected a condition such as `call.tool == \"files__write\"`");
            } else if let Err((piece, what, expected)) = check_condition(&self.when) {
                node_ref.reject_part(piece, what, expected);
            }
        }
        if let Some(message) = node_ref.child("message").filter(|_| node_ref.has("message"))
            && self.effect == Effect::Allow
        {
            let what = format!("{}: not allowed with `effect: allow`", message.path);
            message.reject_key(what, "only denied callers receive a message: remove it", "");
        }
        RuleConfig {
            name: self.name.0,
            when: self.when,
            effect: self.effect,
            message: self.message.map(|message| message.0),
            line: node_ref.line(),
        }
    }
}

/// Reports each item with the name of an earlier item.
pub(super) fn check_names(items: &[NodeRef<'_>]) {
    let mut seen = HashMap::new();
    for item in items {
        let Some(name) = item.child("name") else { continue };
        let super::yaml::node::NodeValue::Scalar(scalar) = &name.node.value else { continue };
        match seen.get(scalar.text()) {
            Some(line) => {
                name.reject("duplicate name", format!("expected a unique name; first used on line {line}"))
            }
            None => drop(seen.insert(scalar.text(), item.line())),
        }
    }
}

/// Compiles the condition. An error holds the wrong bytes, what is wrong, and what was expected.
fn check_condition(text: &str) -> Result<(), (Range<usize>, String, String)> {
    let compiled = filters::cel::Condition::compile(text);
    let expected = |message: String| match message.as_str() {
        "" => message,
        text if text.starts_with("expected") || text.starts_with("did you mean") => message,
        text => format!("expected {text}"),
    };
    compiled.map(drop).map_err(|flaw| (flaw.bytes, flaw.what, expected(flaw.expected)))
}
