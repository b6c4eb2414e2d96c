//! Who may do what: roles (`roles.rs`), scopes that some calls need, and rules.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::diagnostics::Spot;
use super::references::Known;
use super::roles::{self, Lists, Role};
use super::scalar::globs::Globs;
use super::scalar::names::{Name, Scope};
use super::yaml::line::Line;

/// Who may do what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rbac {
    /// For what no role of a caller speaks of.
    pub default: Effect,
    /// The roles by name; names of others mean nothing.
    pub roles: BTreeMap<String, Role>,
    /// Scopes that some calls need beside.
    pub scopes: Vec<ScopeNeed>,
    /// Conditions, looked at in this order and before the roles: the first that holds decides.
    pub rules: Vec<Rule>,
}

/// What is decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It passes.
    Allow,
    /// It does not.
    #[default]
    Deny,
}

/// Scopes that calls need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeNeed {
    /// Which calls: those that fit one of tools, prompts and resources, and methods and servers beside; never empty,
    /// and without toolsets.
    pub matches: Lists,
    /// The scopes: all of them, at least one.
    pub require: Vec<String>,
    /// Where it stands.
    pub line: Line,
}

/// A condition and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// For the log and for `explain`; no two have the same.
    pub name: String,
    /// A condition in CEL.
    pub when: String,
    /// What follows if it holds.
    pub effect: Effect,
    /// What a caller is told who is refused.
    pub message: Option<String>,
    /// Where it stands.
    pub line: Line,
}

/// Who may do what.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename = "Rbac", default, deny_unknown_fields)]
pub(super) struct Written {
    /// For what no role of a caller speaks of.
    default: Effect,
    /// The roles, by name.
    roles: BTreeMap<String, roles::Written>,
    /// Scopes that some calls need beside: without them such a call is refused, but its tool stays visible.
    scopes: Vec<WrittenNeed>,
    /// Conditions in CEL, looked at in this order and before the roles: the first that holds decides.
    rules: Vec<WrittenRule>,
}

/// Calls, and the scopes that they need: calls that touch what one of `tools`, `prompts` and `resources` fits, and that
/// fit `methods` and `servers` beside.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "ScopeNeed", deny_unknown_fields)]
#[schemars(extend("minProperties" = 2))]
struct WrittenNeed {
    /// Over the federated names of tools.
    #[serde(default, rename = "tools")]
    _tools: Globs,
    /// Over the federated names of prompts.
    #[serde(default, rename = "prompts")]
    _prompts: Globs,
    /// Over the URIs of resources.
    #[serde(default, rename = "resources")]
    _resources: Globs,
    /// Over methods.
    #[serde(default, rename = "methods")]
    _methods: Globs,
    /// Over names of servers.
    #[serde(default, rename = "servers")]
    _servers: Globs,
    /// The scopes, all of which are needed.
    #[schemars(extend("minItems" = 1))]
    require: Vec<Scope>,
}

/// A condition and what follows from it.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "RbacRule", deny_unknown_fields)]
struct WrittenRule {
    /// Names it in the log; no two have the same.
    name: Name,
    /// A condition in CEL over `caller`, `call` and `server`.
    #[schemars(extend("minLength" = 1))]
    when: String,
    /// What follows if it holds.
    effect: Effect,
    /// What a caller is told who is refused.
    message: Option<Name>,
}

impl Written {
    pub(super) fn rbac(self, spot: &Spot<'_>, known: &Known<'_>) -> Rbac {
        let roles = spot.child("roles");
        let (needs, rules) = (spot.sound_items("scopes"), spot.sound_items("rules"));
        check_names(&rules, "rule");
        Rbac {
            default: self.default,
            roles: roles.map(|spot| roles::roles(self.roles, &spot, known)).unwrap_or_default(),
            scopes: needs.iter().zip(self.scopes).map(|(spot, need)| need.need(spot, known)).collect(),
            rules: rules.iter().zip(self.rules).map(|(spot, rule)| rule.rule(spot)).collect(),
        }
    }
}

impl WrittenNeed {
    fn need(self, spot: &Spot<'_>, known: &Known<'_>) -> ScopeNeed {
        if let Some(spot) = spot.child("require").filter(|require| require.node.items().is_empty()) {
            spot.refuse("empty", "expected at least one scope");
        }
        const LISTS: [&str; 5] = ["tools", "prompts", "resources", "methods", "servers"];
        let misspelt = spot.node.entries().iter().any(|entry| entry.is_faulty());
        if !misspelt && !LISTS.iter().any(|list| spot.has(list)) {
            let expected = "expected one of `tools`, `prompts`, `resources`, `methods` or `servers`";
            spot.refuse("says of no call that it needs them", expected);
        }
        let require = self.require.into_iter().map(|scope| scope.0).collect();
        ScopeNeed { matches: roles::lists(spot, known), require, line: spot.line() }
    }
}

impl WrittenRule {
    fn rule(self, spot: &Spot<'_>) -> Rule {
        if let Some(spot) = spot.child("when") {
            if self.when.trim().is_empty() {
                spot.refuse("empty", "expected a condition such as `call.tool == \"files__write\"`");
            } else if let Err((piece, what, expected)) = check_condition(&self.when) {
                spot.refuse_piece(piece, what, expected);
            }
        }
        if let Some(message) = spot.child("message").filter(|_| spot.has("message"))
            && self.effect == Effect::Allow
        {
            let what = format!("{}: of no use beside `effect: allow`", message.path);
            message.refuse_key(what, "who is refused gets to read it: remove it", "");
        }
        Rule {
            name: self.name.0,
            when: self.when,
            effect: self.effect,
            message: self.message.map(|message| message.0),
            line: spot.line(),
        }
    }
}

/// Reports each item whose name an earlier one has.
pub(super) fn check_names(items: &[Spot<'_>], noun: &str) {
    let mut seen = HashMap::new();
    for item in items {
        let Some(name) = item.child("name") else { continue };
        let super::yaml::node::Value::Scalar(scalar) = &name.node.value else { continue };
        match seen.get(scalar.text()) {
            Some(line) => name.refuse(
                format!("another {noun} has this name too"),
                format!("expected a name of its own; the other stands on line {line}"),
            ),
            None => drop(seen.insert(scalar.text(), item.line())),
        }
    }
}

/// Whether the condition can be compiled; else which bytes of it are wrong, what is, and what was expected.
fn check_condition(text: &str) -> Result<(), (Range<usize>, String, String)> {
    let compiled = filters::cel::Condition::compile(text);
    let expected = |words: String| match words.as_str() {
        "" => words,
        text if text.starts_with("expected") || text.starts_with("did you mean") => words,
        text => format!("expected {text}"),
    };
    compiled.map(drop).map_err(|flaw| (flaw.bytes, flaw.what, expected(flaw.expected)))
}
