//! Who may do what: roles over tools, prompts, resources, methods and servers, and rules in front of them.
//!
//! The order of a judgement:
//! 1. Methods are a gate of their own: a method that is denied to one of the caller's roles, or left out where a
//!    role lists methods, is refused whatever it touches.
//! 2. Rules, in their order; the first that matches decides. So an `allow` rule overrides what roles deny.
//!    A rule whose evaluation fails matches if it denies and does not if it allows.
//! 3. Roles: any `deny` of any role of the caller wins over any `allow`.
//! 4. The default.
//! 5. What is allowed may need scopes too.
//!
//! What a caller may not see is unknown to it: [`RbacConfig::sees`] and [`Decision::Hidden`] are two sides of one
//! decision, which is made without looking at arguments or addresses. A rule that does look at them refuses
//! in plain words, because the caller sees the tool in its lists.
//!
//! It deliberately knows no catalog and writes no answer but the refusal.

mod decision_cache;
mod enforce;
mod roles;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use crate::cel::{CelContext, Condition, ConditionResult, Dependencies, Fuel};
use crate::request::{CallTarget, Caller, TargetKind};
use crate::uri::{self, AmbiguousUri};

use decision_cache::{DecisionCache, StaticDecision};
pub use enforce::{Denial, not_found};
use roles::{Roles, ScopeRule};

/// Label in metrics and logs.
pub const NAME: &str = "rbac";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Effect {
    Allow,
    #[default]
    Deny,
}

/// The block `rbac`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RbacSettings {
    /// For what no rule and no role speaks of.
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
    /// Roles whose lists count for this one too. `admin` is not among what is inherited.
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
    /// What a caller is told that sees the tool.
    pub message: Option<String>,
}

/// Scopes that a call needs on top. Tools, prompts and resources are alternatives; methods and servers, where they
/// are listed, must fit as well.
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
    /// Roles of the caller list methods, and none of them this one.
    Unlisted,
    Default,
    /// The rule denies because its condition failed, and how.
    Failed(usize, String),
}

/// What is asked of a call.
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
    /// Answer as if it did not exist.
    NotFound(DecisionReason),
    /// The caller sees it, but may not do this; with the words of the rule.
    Denied(DecisionReason, Option<String>),
    /// The method is not for this caller.
    MethodDenied(DecisionReason),
    /// Allowed, with a token that has more scopes: all those that the call needs.
    MissingScopes(Vec<String>),
    /// Patterns speak of resources, and this one's URI can be read as that of another.
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
    /// What the rules read of a caller to tell what it sees.
    dependencies: Dependencies,
    /// Roles, scopes or rules speak of resources.
    names_resources: bool,
    cache: DecisionCache,
}

impl Rbac {
    /// No block `rbac`: everything passes, and nobody is an admin.
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

    /// Whether lists show it: whether any call of it could pass. A rule that reads arguments or the address is
    /// undecided here; if it denies it hides nothing, if it allows it shows.
    pub fn can_see(&self, caller: &Caller, target: &CallTarget<'_>) -> bool {
        let Some(policy) = &self.0 else { return true };
        let Ok(name) = policy.normalized_name(target) else { return false };
        policy
            .static_decision(caller, primary_method(target.kind), Some(CallTarget { name: &name, ..*target }))
            .visible
    }

    /// The same for each name of a list, which costs no more than there is of `fuel` for all of them; none if it
    /// cannot be told for want of it.
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

    /// Whether the method passes the gate, whatever it touches.
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

    /// Whether one of many uses that a single request asks for is allowed; false if there is too little fuel for them.
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

/// The method by which a thing is used; what lists show is what it would let through.
fn primary_method(thing: TargetKind) -> &'static str {
    match thing {
        TargetKind::Tool => "tools/call",
        TargetKind::Prompt => "prompts/get",
        TargetKind::Resource => "resources/read",
        TargetKind::Server => "",
    }
}

impl Policy {
    /// What patterns and rules see of a thing's name: of a URI its normal form.
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
        if let Some(target) = query.target {
            let first = primary_method(target.kind);
            if first == query.method {
                if !prefix.visible {
                    return Decision::NotFound(prefix.fallback.clone());
                }
            } else {
                // What a caller does not see it cannot touch by another method either.
                let Some(shown) = known(first) else { return Decision::NotFound(DecisionReason::Default) };
                if !shown.visible {
                    return Decision::NotFound(shown.fallback.clone());
                }
            }
        }
        let (allowed, reason) = match self.evaluate_deferred(caller, query, &prefix, fuel) {
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

    /// Asks the rules that were left undecided, in their order.
    fn evaluate_deferred(
        &self,
        caller: &Caller,
        query: &AccessQuery<'_>,
        prefix: &StaticDecision,
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
            let said = rule.when.evaluate(&context, |part| part.dependencies.is_volatile());
            rule_decision(rule, undecided.rule, said.and(undecided.so_far.clone()))
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

/// What a rule decides whose condition says this; a failure denies and never allows.
fn rule_decision(rule: &Rule, index: usize, said: ConditionResult) -> Option<(Effect, DecisionReason)> {
    match (said, rule.effect) {
        (ConditionResult::True, effect) => Some((effect, DecisionReason::Rule(index))),
        (ConditionResult::Failed(why), Effect::Deny) => {
            Some((Effect::Deny, DecisionReason::Failed(index, why)))
        }
        (ConditionResult::False, _) | (ConditionResult::Failed(_), Effect::Allow) => None,
    }
}
