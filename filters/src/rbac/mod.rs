//! Authorization: roles over tools, prompts, resources, methods and servers, and rules that precede them.
//!
//! The order of a decision:
//! 1. Methods come first. A method that one of the caller's roles denies is denied for any target. So is one
//!    that the roles' lists of methods do not contain.
//! 2. Rules, in their order; the first match decides. So an `allow` rule overrides the roles' denials.
//!    A rule whose evaluation fails matches if it denies, and does not match if it allows.
//! 3. Roles: any `deny` of any role of the caller wins over any `allow`.
//! 4. The default.
//! 5. An allowed call may need scopes too.
//!
//! A hidden target is unknown to the caller: [`RbacConfig::sees`] and [`Decision::NotFound`] follow from one
//! decision without arguments and addresses. A rule that reads these denies openly, because the caller sees
//! the tool in its lists.
//!
//! It does not know the catalog, and writes no response except the rejection.

mod decision_cache;
mod enforce;
mod roles;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cel::{CelContext, Condition, ConditionResult, Dependencies, Fuel};
use crate::request::{CallTarget, Caller, TargetKind};
use crate::uri::{self, AmbiguousUri};

use decision_cache::{DecisionCache, StaticDecision};
pub use enforce::{Denial, not_found, unknown_task};
use roles::{Roles, ScopeRule};

/// Label in metrics and logs.
pub const NAME: &str = "rbac";

/// A decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The call passes.
    Allow,
    /// The call is denied.
    #[default]
    Deny,
}

/// The block `rbac`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RbacSettings {
    /// If no rule and no role matches.
    pub default: Effect,
    pub roles: Vec<Role>,
    pub rules: Vec<Rule>,
    pub scopes: Vec<ScopeNeed>,
}

/// Patterns a kind; `*` is any text, also one with `/`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PatternLists {
    pub tools: Vec<String>,
    pub prompts: Vec<String>,
    pub resources: Vec<String>,
    pub methods: Vec<String>,
    pub servers: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Role {
    pub name: String,
    /// Roles whose lists count for this one too. `admin` is not inherited.
    pub inherits: Vec<String>,
    pub allow: PatternLists,
    pub deny: PatternLists,
    /// May use the gateway's own interfaces.
    pub admin: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub name: String,
    pub when: Condition,
    pub effect: Effect,
    /// The message for a denied caller who sees the tool.
    pub message: Option<String>,
}

/// Additional scopes of a call. Tools, prompts and resources are alternatives; methods and servers must match
/// too if they are listed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScopeNeed {
    pub lists: PatternLists,
    pub require: Vec<String>,
}

/// The kinds of lists that a role has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoleList {
    Tools,
    Prompts,
    Resources,
    Methods,
    Servers,
}

/// What decided. Indices are those of the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecisionReason {
    /// There is no block `rbac`, or nothing is touched and the method passes.
    Open,
    Rule(usize),
    /// The pattern at `glob` of this list of this role, which the caller has or inherits.
    Role {
        role: usize,
        effect: Effect,
        list: RoleList,
        glob: usize,
    },
    /// Roles of the caller list methods, but not this one.
    Unlisted,
    Default,
    /// The rule denies because its condition failed, and how.
    Failed(usize, String),
}

/// The call to decide.
#[derive(Clone, Copy, Debug)]
pub struct AccessQuery<'a> {
    pub method: &'a str,
    pub target: Option<CallTarget<'a>>,
    /// `params.arguments` as they were sent.
    pub arguments: Option<&'a [u8]>,
    pub ip: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allowed(DecisionReason),
    /// Respond as if it did not exist.
    NotFound(DecisionReason),
    /// Denied, although the caller sees it; with the message of the rule.
    Denied(DecisionReason, Option<String>),
    /// The method is not for this caller.
    MethodDenied(DecisionReason),
    /// Allowed, with a token that has more scopes: all those that the call needs.
    MissingScopes(Vec<String>),
    /// There are patterns over resources, and this URI can be read as another one.
    Ambiguous(AmbiguousUri),
}

/// Callers of one class see the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VisibilityClass(ClassKind);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum ClassKind {
    Open,
    /// The roles that count, inherited ones too.
    Roles(Arc<[usize]>),
    /// All names of roles, because a rule reads them.
    Names(Arc<[String]>),
    Caller(u64),
}

/// The policy, compiled.
pub struct Rbac(Option<Policy>);

struct Policy {
    default: Effect,
    roles: Roles,
    rules: Vec<Rule>,
    scopes: Vec<ScopeRule>,
    /// What the rules read of a caller to decide visibility.
    dependencies: Dependencies,
    /// There are roles, scopes or rules about resources.
    names_resources: bool,
    cache: DecisionCache,
}

impl Rbac {
    /// No block `rbac`: everything is allowed, and there is no admin.
    pub fn open() -> Self {
        Self(None)
    }

    /// Whether there are no roles and rules at all.
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    pub fn new(settings: RbacSettings) -> Result<Self, String> {
        let fixed = settings.rules.iter().flat_map(|rule| rule.when.conjuncts());
        let reads = fixed.fold(Dependencies::default(), |all, part| {
            if part.dependencies.is_volatile() { all } else { all | part.dependencies }
        });
        let roles = Roles::new(&settings.roles)?;
        let scopes: Vec<ScopeRule> = settings.scopes.iter().map(ScopeRule::new).collect::<Result<_, _>>()?;
        let names_resources = roles.name_resources()
            || scopes.iter().any(ScopeRule::name_resources)
            || settings.rules.iter().any(|rule| rule.when.dependencies().resource);
        Ok(Self(Some(Policy {
            default: settings.default,
            roles,
            scopes,
            rules: settings.rules,
            dependencies: reads,
            names_resources,
            cache: DecisionCache::default(),
        })))
    }

    /// Whether lists show it: whether any call of it could pass. A rule that reads arguments or the address
    /// is undecided here: as a denial it hides nothing, as a permission it shows.
    pub fn can_see(&self, caller: &Caller, target: &CallTarget<'_>) -> bool {
        let Some(policy) = &self.0 else { return true };
        let Ok(name) = policy.normalized_name(target) else { return false };
        policy
            .static_decision(caller, primary_method(target.kind), Some(CallTarget { name: &name, ..*target }))
            .visible
    }

    /// The same for each name of a list, within the total budget of `fuel`; `None` without enough fuel.
    pub fn sees_within(&self, caller: &Caller, target: &CallTarget<'_>, fuel: &Fuel) -> Option<bool> {
        let Some(policy) = &self.0 else { return Some(true) };
        let Ok(name) = policy.normalized_name(target) else { return Some(false) };
        let target = CallTarget { name: &name, ..*target };
        policy.listed(caller, primary_method(target.kind), Some(target), fuel).map(|prefix| prefix.visible)
    }

    /// False only if everything of the server is denied for sure.
    pub fn can_see_server(&self, caller: &Caller, server: &str) -> bool {
        self.can_see(caller, &CallTarget { kind: TargetKind::Server, name: "", server })
    }

    /// Whether the method is allowed, for any target.
    pub fn allows_method(&self, caller: &Caller, method: &str) -> bool {
        self.0
            .as_ref()
            .is_none_or(|p| p.roles.denies_method(&p.roles.resolve(&caller.roles), method).is_none())
    }

    pub fn decide(&self, caller: &Caller, query: &AccessQuery<'_>) -> Decision {
        let Some(policy) = &self.0 else { return Decision::Allowed(DecisionReason::Open) };
        let Some(target) = query.target else { return policy.decide(caller, query, None) };
        match policy.normalized_name(&target) {
            Ok(name) => policy.decide(
                caller,
                &AccessQuery { target: Some(CallTarget { name: &name, ..target }), ..*query },
                None,
            ),
            Err(error) => Decision::Ambiguous(error),
        }
    }

    /// Whether one of many targets of a single request is allowed; false without enough fuel.
    pub fn allows_within(&self, caller: &Caller, query: &AccessQuery<'_>, fuel: &Fuel) -> bool {
        let (Some(policy), Some(target)) = (&self.0, query.target) else {
            return matches!(self.decide(caller, query), Decision::Allowed(_));
        };
        let Ok(name) = policy.normalized_name(&target) else { return false };
        let query = AccessQuery { target: Some(CallTarget { name: &name, ..target }), ..*query };
        let allowed = matches!(policy.decide(caller, &query, Some(fuel)), Decision::Allowed(_));
        !fuel.take_out() && allowed
    }

    /// The scopes that such a call needs, sorted, each once.
    pub fn needed_scopes(&self, method: &str, target: Option<&CallTarget<'_>>) -> Vec<String> {
        let Some(policy) = &self.0 else { return Vec::new() };
        let name = target.and_then(|target| policy.normalized_name(target).ok());
        let target = target.zip(name.as_deref()).map(|(target, name)| CallTarget { name, ..*target });
        policy.needed_scopes(method, target.as_ref())
    }

    /// Two callers of one class see the same lists.
    pub fn visibility_class(&self, caller: &Caller) -> VisibilityClass {
        VisibilityClass(match &self.0 {
            None => ClassKind::Open,
            Some(policy) if policy.dependencies.person => ClassKind::Caller(caller.id()),
            Some(policy) if policy.dependencies.roles => ClassKind::Names(caller.roles.as_slice().into()),
            Some(policy) => ClassKind::Roles(policy.roles.resolve(&caller.roles).into()),
        })
    }

    /// Whether a role of the caller is an admin's.
    pub fn is_admin(&self, caller: &Caller) -> bool {
        self.0.as_ref().is_some_and(|policy| policy.roles.is_admin(&caller.roles))
    }
}

/// The method that uses such a target; lists show what it would let through.
fn primary_method(kind: TargetKind) -> &'static str {
    match kind {
        TargetKind::Tool => "tools/call",
        TargetKind::Prompt => "prompts/get",
        TargetKind::Resource => "resources/read",
        TargetKind::Server => "",
    }
}

/// Whether it is a request about the task of a call. The call was decided with its arguments, which such a
/// request does not repeat: what counts is whether the tool is still the caller's.
fn is_of_task(query: &AccessQuery<'_>) -> bool {
    query.method.starts_with("tasks/") && query.target.is_some_and(|target| target.kind == TargetKind::Tool)
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allowed(_))
    }
}

impl Policy {
    /// The name that patterns and rules see: of a URI its normal form.
    fn normalized_name<'a>(&self, target: &CallTarget<'a>) -> Result<Cow<'a, str>, AmbiguousUri> {
        if target.kind == TargetKind::Resource && self.names_resources {
            uri::normalize(target.name)
        } else {
            Ok(Cow::Borrowed(target.name))
        }
    }

    fn decide(&self, caller: &Caller, query: &AccessQuery<'_>, fuel: Option<&Fuel>) -> Decision {
        let known = |method| match fuel {
            None => Some(self.static_decision(caller, method, query.target)),
            Some(fuel) => self.listed(caller, method, query.target, fuel),
        };
        let Some(prefix) = known(query.method) else { return Decision::NotFound(DecisionReason::Default) };
        if let Some(reason) = &prefix.method_denied {
            return Decision::MethodDenied(reason.clone());
        }
        let is_of_task = is_of_task(query);
        let as_call = AccessQuery { method: primary_method(TargetKind::Tool), ..*query };
        let (query, prefix) = match is_of_task {
            false => (query, prefix),
            true => match known(as_call.method) {
                Some(prefix) => (&as_call, prefix),
                None => return Decision::NotFound(DecisionReason::Default),
            },
        };
        if let Some(target) = query.target {
            let first = primary_method(target.kind);
            if first == query.method {
                if !prefix.visible {
                    return Decision::NotFound(prefix.fallback.clone());
                }
            } else {
                // A target that a caller does not see is not accessible by another method either.
                let Some(shown) = known(first) else { return Decision::NotFound(DecisionReason::Default) };
                if !shown.visible {
                    return Decision::NotFound(shown.fallback.clone());
                }
            }
        }
        let (allowed, reason) = match self.evaluate_deferred(caller, query, &prefix, is_of_task, fuel) {
            Some((effect, reason)) => (effect == Effect::Allow, reason),
            None => (prefix.allowed, prefix.fallback.clone()),
        };
        if !allowed {
            let message = match &reason {
                DecisionReason::Rule(rule) | DecisionReason::Failed(rule, _) => {
                    self.rules[*rule].message.clone()
                }
                _ => None,
            };
            return Decision::Denied(reason, message);
        }
        match &prefix.missing_scopes {
            Some(scopes) => Decision::MissingScopes(scopes.clone()),
            None => Decision::Allowed(reason),
        }
    }

    /// Evaluates the deferred rules, in their order.
    fn evaluate_deferred(
        &self,
        caller: &Caller,
        query: &AccessQuery<'_>,
        prefix: &StaticDecision,
        is_of_task: bool,
        fuel: Option<&Fuel>,
    ) -> Option<(Effect, DecisionReason)> {
        if prefix.deferred.is_empty() {
            return None;
        }
        let context = CelContext::new(caller, query.method, query.target)
            .with_request(query.arguments, query.ip)
            .fuelled(fuel);
        prefix.deferred.iter().find_map(|undecided| {
            let rule = &self.rules[undecided.rule];
            if is_of_task && rule.when.dependencies().args {
                // What it says of the arguments was decided for the call.
                let rest =
                    rule.when.evaluate(&context, |part| part.dependencies.ip && !part.dependencies.args);
                let allows = rule.effect == Effect::Allow && rest == ConditionResult::True;
                return allows.then_some((Effect::Allow, DecisionReason::Rule(undecided.rule)));
            }
            let result = rule.when.evaluate(&context, |part| part.dependencies.is_volatile());
            rule_decision(rule, undecided.rule, result.and(undecided.so_far.clone()))
        })
    }

    fn needed_scopes(&self, method: &str, target: Option<&CallTarget<'_>>) -> Vec<String> {
        let fits = self.scopes.iter().filter(|needs| needs.matches(method, target));
        let mut scopes: Vec<String> = fits.flat_map(|needs| needs.require.iter().cloned()).collect();
        scopes.sort_unstable();
        scopes.dedup();
        scopes
    }
}

/// The effect of a rule with this result; a failure denies and never allows.
fn rule_decision(rule: &Rule, index: usize, result: ConditionResult) -> Option<(Effect, DecisionReason)> {
    match (result, rule.effect) {
        (ConditionResult::True, effect) => Some((effect, DecisionReason::Rule(index))),
        (ConditionResult::Failed(why), Effect::Deny) => {
            Some((Effect::Deny, DecisionReason::Failed(index, why)))
        }
        (ConditionResult::False, _) | (ConditionResult::Failed(_), Effect::Allow) => None,
    }
}
