//! The part of a judgement that is the same for every call of one caller to one thing by one method: made once,
//! remembered, and all that lists need.
//!
//! A rule is decided here as far as its parts go that read neither arguments nor address. If one of those is
//! false the rule is out; if all there are say yes it decides; else it is left for the call.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;

use super::{DecisionReason, Effect, Policy, Rule, primary_method, rule_decision};
use crate::cel::{CelContext, ConditionResult, Dependencies, Fuel};
use crate::request::{CallTarget, Caller, TargetKind};

/// Most prefixes that are remembered, of a few hundred bytes each.
const MAX_DECISIONS: u64 = 16_384;

pub(super) struct StaticDecision {
    /// The method is not for this caller.
    pub method_denied: Option<DecisionReason>,
    /// Rules that come before the end and need to look at the call.
    pub deferred: Vec<DeferredRule>,
    /// What decides if none of them does.
    pub fallback: DecisionReason,
    pub allowed: bool,
    /// Some call could pass, as far as rules and roles go.
    pub visible: bool,
    /// The scopes that are needed, if the caller lacks one.
    pub missing_scopes: Option<Vec<String>>,
}

pub(super) struct DeferredRule {
    pub rule: usize,
    /// What the other parts of its condition say: true, or a failure.
    pub so_far: ConditionResult,
}

/// The caller's serial, and two keyed hashes of everything else: together too long to be met by chance, and a
/// client that chooses names does not know the keys.
type DecisionKey = (u64, u64, u64);

pub(super) struct DecisionCache {
    decisions: moka::sync::Cache<DecisionKey, Arc<StaticDecision>>,
    keys: [RandomState; 2],
}

impl Default for DecisionCache {
    fn default() -> Self {
        Self {
            decisions: moka::sync::Cache::new(MAX_DECISIONS),
            keys: [RandomState::new(), RandomState::new()],
        }
    }
}

impl DecisionCache {
    fn key(&self, caller: &Caller, method: &str, target: Option<CallTarget<'_>>) -> DecisionKey {
        let hash = |state: &RandomState| {
            let mut hasher = state.build_hasher();
            method.hash(&mut hasher);
            target.map(|target| (target.kind, target.name, target.server)).hash(&mut hasher);
            hasher.finish()
        };
        (caller.id(), hash(&self.keys[0]), hash(&self.keys[1]))
    }
}

impl Policy {
    pub(super) fn static_decision(
        &self,
        caller: &Caller,
        method: &str,
        target: Option<CallTarget<'_>>,
    ) -> Arc<StaticDecision> {
        let key = self.cache.key(caller, method, target);
        if let Some(known) = self.cache.decisions.get(&key) {
            return known;
        }
        let made = Arc::new(self.evaluate(caller, method, target, None));
        self.cache.decisions.insert(key, Arc::clone(&made));
        made
    }

    /// The same for a name in a list; none if there is too little fuel. What was judged for want of it is not
    /// remembered: a call of that name has steps of its own.
    pub(super) fn listed(
        &self,
        caller: &Caller,
        method: &str,
        target: Option<CallTarget<'_>>,
        fuel: &Fuel,
    ) -> Option<Arc<StaticDecision>> {
        let key = self.cache.key(caller, method, target);
        if let Some(known) = self.cache.decisions.get(&key) {
            return Some(known);
        }
        let made = Arc::new(self.evaluate(caller, method, target, Some(fuel)));
        if fuel.take_out() {
            return None;
        }
        self.cache.decisions.insert(key, Arc::clone(&made));
        Some(made)
    }

    fn evaluate(
        &self,
        caller: &Caller,
        method: &str,
        target: Option<CallTarget<'_>>,
        fuel: Option<&Fuel>,
    ) -> StaticDecision {
        let roles = self.roles.resolve(&caller.roles);
        let context = CelContext::new(caller, method, target).fuelled(fuel);
        let mut undecided = Vec::new();
        let mut decided = None;
        for (index, rule) in self.rules.iter().enumerate() {
            if !applies_to(rule, method, target) {
                continue;
            }
            let so_far = rule.when.evaluate(&context, |part| !part.dependencies.is_volatile());
            if !rule.when.dependencies().is_volatile() {
                decided = rule_decision(rule, index, so_far);
                if decided.is_some() {
                    break;
                }
            } else if match so_far {
                ConditionResult::True => true,
                ConditionResult::False => false,
                // Whatever the rest says, the whole is a failure or false.
                ConditionResult::Failed(_) => rule.effect == Effect::Deny,
            } {
                undecided.push(DeferredRule { rule: index, so_far });
            }
        }
        let (effect, end) = decided.unwrap_or_else(|| match target {
            Some(target) => {
                self.roles.decide(&roles, &target).unwrap_or((self.default, DecisionReason::Default))
            }
            None => (Effect::Allow, DecisionReason::Open),
        });
        let allowed = effect == Effect::Allow;
        let scopes = self.needed_scopes(method, target.as_ref());
        let lacks = scopes.iter().any(|scope| !caller.scopes.contains(scope));
        let seen = match target {
            Some(CallTarget { kind: TargetKind::Server, server, .. }) => {
                self.can_see_any(caller, &roles, server, fuel)
            }
            _ => allowed || undecided.iter().any(|u| self.rules[u.rule].effect == Effect::Allow),
        };
        StaticDecision {
            method_denied: self.roles.denies_method(&roles, method),
            deferred: undecided,
            fallback: end,
            allowed,
            visible: seen,
            missing_scopes: lacks.then_some(scopes),
        }
    }

    /// Whether anything of a server could be allowed.
    fn can_see_any(&self, caller: &Caller, roles: &[usize], server: &str, fuel: Option<&Fuel>) -> bool {
        let target = CallTarget { kind: TargetKind::Server, name: "", server };
        let context = CelContext::new(caller, "", Some(target)).fuelled(fuel);
        // What a part says of the server as such it says of every call to it.
        let lasting = |reads: Dependencies| !reads.is_volatile() && !reads.is_of_call();
        for rule in &self.rules {
            let said = rule.when.evaluate(&context, |part| lasting(part.dependencies));
            match (rule.effect, said) {
                (Effect::Allow, ConditionResult::True) => return true,
                (Effect::Deny, ConditionResult::True | ConditionResult::Failed(_))
                    if lasting(rule.when.dependencies()) =>
                {
                    return false;
                }
                _ => {}
            }
        }
        self.roles.decide(roles, &target).map_or(self.default, |(effect, _)| effect) == Effect::Allow
    }
}

/// Whether a rule is asked about a call. Where a call touches no tool, prompt or resource, a rule that speaks of
/// one would match by what is not there (`!call.tool.startsWith("a")`) or fail for want of an argument, and a
/// session could not even begin. So calls to a server as a whole are judged by rules that speak of methods, or of
/// servers and callers only, and calls that touch nothing by rules that speak of methods. Names that nobody knows
/// are not judged: the answer to them must not differ from that to a hidden one.
fn applies_to(rule: &Rule, method: &str, target: Option<CallTarget<'_>>) -> bool {
    let reads = rule.when.dependencies();
    match target.map(|target| target.kind) {
        Some(TargetKind::Tool | TargetKind::Prompt | TargetKind::Resource) => true,
        Some(TargetKind::Server) => reads.method || !reads.is_of_call(),
        None => reads.method && !has_named_target(method),
    }
}

fn has_named_target(method: &str) -> bool {
    [TargetKind::Tool, TargetKind::Prompt, TargetKind::Resource]
        .into_iter()
        .any(|thing| primary_method(thing) == method)
        || ["resources/subscribe", "resources/unsubscribe", "completion/complete"].contains(&method)
}
