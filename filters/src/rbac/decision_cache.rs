//! The part of a decision that is the same for every call of one caller to one target by one method. It is
//! made once and cached, and it is all that lists need.
//!
//! Here only the conjuncts that read neither arguments nor address are evaluated. If one of them is false,
//! the rule does not match. If there are no others and all are true, it decides. Otherwise it is deferred to
//! the call.

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
    /// Deferred rules before the end, which need the call.
    pub deferred: Vec<DeferredRule>,
    /// The decision if none of them matches.
    pub fallback: DecisionReason,
    pub allowed: bool,
    /// Some call could pass, by rules and roles.
    pub visible: bool,
    /// The required scopes, if the caller lacks one.
    pub missing_scopes: Option<Vec<String>>,
}

pub(super) struct DeferredRule {
    pub rule: usize,
    /// The result of the other conjuncts: true, or a failure.
    pub so_far: ConditionResult,
}

/// The caller's serial, and two keyed hashes of the rest. Together they are too long for random collisions,
/// and clients that choose names do not know the keys.
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

    /// The same for a name in a list; `None` without enough fuel. A result of too little fuel is not cached:
    /// a call of that name has its own steps.
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
                // Whatever the other conjuncts are, the whole is a failure or false.
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
        // A conjunct about a server as such has the same result for every call to it.
        let lasting = |reads: Dependencies| !reads.is_volatile() && !reads.is_of_call();
        for rule in &self.rules {
            let result = rule.when.evaluate(&context, |part| lasting(part.dependencies));
            match (rule.effect, result) {
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

/// Whether a rule applies to a call. Without a target (tool, prompt or resource), a rule about one would
/// match by its absence (`!call.tool.startsWith("a")`) or fail for lack of an argument. Then not even a
/// session could start. So calls to a whole server use only rules about methods, servers and callers, and
/// calls without a target use rules about methods. Unknown names are not evaluated: the response to them must
/// equal that to a hidden name.
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
        .any(|kind| primary_method(kind) == method)
        || ["resources/subscribe", "resources/unsubscribe", "completion/complete"].contains(&method)
}
