//! The part of a judgement that is the same for every call of one caller to one thing by one method: made once,
//! remembered, and all that lists need.
//!
//! A rule is decided here as far as its parts go that read neither arguments nor address. If one of those is
//! false the rule is out; if all there are say yes it decides; else it is left for the call.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;

use super::{Effect, Ground, Policy, Rule, first_method, matched};
use crate::cel::{Fuel, Outcome, Reads, Scene};
use crate::request::{Aim, Caller, Thing};

/// Most prefixes that are remembered, of a few hundred bytes each.
const MAX_PREFIXES: u64 = 16_384;

pub(super) struct Prefix {
    /// The method is not for this caller.
    pub barred: Option<Ground>,
    /// Rules that come before the end and need to look at the call.
    pub undecided: Vec<Undecided>,
    /// What decides if none of them does.
    pub end: Ground,
    pub allowed: bool,
    /// Some call could pass, as far as rules and roles go.
    pub seen: bool,
    /// The scopes that are needed, if the caller lacks one.
    pub missing: Option<Vec<String>>,
}

pub(super) struct Undecided {
    pub rule: usize,
    /// What the other parts of its condition say: true, or a failure.
    pub so_far: Outcome,
}

/// The caller's serial, and two keyed hashes of everything else: together too long to be met by chance, and a
/// client that chooses names does not know the keys.
type Key = (u64, u64, u64);

pub(super) struct Cache {
    prefixes: moka::sync::Cache<Key, Arc<Prefix>>,
    keys: [RandomState; 2],
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            prefixes: moka::sync::Cache::new(MAX_PREFIXES),
            keys: [RandomState::new(), RandomState::new()],
        }
    }
}

impl Cache {
    fn key(&self, caller: &Caller, method: &str, aim: Option<Aim<'_>>) -> Key {
        let hash = |state: &RandomState| {
            let mut hasher = state.build_hasher();
            method.hash(&mut hasher);
            aim.map(|aim| (aim.thing, aim.name, aim.server)).hash(&mut hasher);
            hasher.finish()
        };
        (caller.serial(), hash(&self.keys[0]), hash(&self.keys[1]))
    }
}

impl Policy {
    pub(super) fn prefix(&self, caller: &Caller, method: &str, aim: Option<Aim<'_>>) -> Arc<Prefix> {
        let key = self.cache.key(caller, method, aim);
        if let Some(known) = self.cache.prefixes.get(&key) {
            return known;
        }
        let made = Arc::new(self.make(caller, method, aim, None));
        self.cache.prefixes.insert(key, Arc::clone(&made));
        made
    }

    /// The same for a name in a list; none if there is too little fuel. What was judged for want of it is not
    /// remembered: a call of that name has steps of its own.
    pub(super) fn listed(
        &self,
        caller: &Caller,
        method: &str,
        aim: Option<Aim<'_>>,
        fuel: &Fuel,
    ) -> Option<Arc<Prefix>> {
        let key = self.cache.key(caller, method, aim);
        if let Some(known) = self.cache.prefixes.get(&key) {
            return Some(known);
        }
        let made = Arc::new(self.make(caller, method, aim, Some(fuel)));
        if fuel.take_out() {
            return None;
        }
        self.cache.prefixes.insert(key, Arc::clone(&made));
        Some(made)
    }

    fn make(&self, caller: &Caller, method: &str, aim: Option<Aim<'_>>, fuel: Option<&Fuel>) -> Prefix {
        let roles = self.roles.of(&caller.roles);
        let scene = Scene::new(caller, method, aim).fuelled(fuel);
        let mut undecided = Vec::new();
        let mut decided = None;
        for (index, rule) in self.rules.iter().enumerate() {
            if !speaks_of(rule, method, aim) {
                continue;
            }
            let so_far = rule.when.ask(&scene, |part| !part.reads.is_volatile());
            if !rule.when.reads().is_volatile() {
                decided = matched(rule, index, so_far);
                if decided.is_some() {
                    break;
                }
            } else if match so_far {
                Outcome::True => true,
                Outcome::False => false,
                // Whatever the rest says, the whole is a failure or false.
                Outcome::Failed(_) => rule.effect == Effect::Deny,
            } {
                undecided.push(Undecided { rule: index, so_far });
            }
        }
        let (effect, end) = decided.unwrap_or_else(|| match aim {
            Some(aim) => self.roles.judge(&roles, &aim).unwrap_or((self.default, Ground::Default)),
            None => (Effect::Allow, Ground::Open),
        });
        let allowed = effect == Effect::Allow;
        let scopes = self.needed_scopes(method, aim.as_ref());
        let lacks = scopes.iter().any(|scope| !caller.scopes.contains(scope));
        let seen = match aim {
            Some(Aim { thing: Thing::Server, server, .. }) => self.sees_any(caller, &roles, server, fuel),
            _ => allowed || undecided.iter().any(|u| self.rules[u.rule].effect == Effect::Allow),
        };
        Prefix {
            barred: self.roles.bars(&roles, method),
            undecided,
            end,
            allowed,
            seen,
            missing: lacks.then_some(scopes),
        }
    }

    /// Whether anything of a server could be allowed.
    fn sees_any(&self, caller: &Caller, roles: &[usize], server: &str, fuel: Option<&Fuel>) -> bool {
        let aim = Aim { thing: Thing::Server, name: "", server };
        let scene = Scene::new(caller, "", Some(aim)).fuelled(fuel);
        // What a part says of the server as such it says of every call to it.
        let lasting = |reads: Reads| !reads.is_volatile() && !reads.is_of_call();
        for rule in &self.rules {
            let said = rule.when.ask(&scene, |part| lasting(part.reads));
            match (rule.effect, said) {
                (Effect::Allow, Outcome::True) => return true,
                (Effect::Deny, Outcome::True | Outcome::Failed(_)) if lasting(rule.when.reads()) => {
                    return false;
                }
                _ => {}
            }
        }
        self.roles.judge(roles, &aim).map_or(self.default, |(effect, _)| effect) == Effect::Allow
    }
}

/// Whether a rule is asked about a call. Where a call touches no tool, prompt or resource, a rule that speaks of
/// one would match by what is not there (`!call.tool.startsWith("a")`) or fail for want of an argument, and a
/// session could not even begin. So calls to a server as a whole are judged by rules that speak of methods, or of
/// servers and callers only, and calls that touch nothing by rules that speak of methods. Names that nobody knows
/// are not judged: the answer to them must not differ from that to a hidden one.
fn speaks_of(rule: &Rule, method: &str, aim: Option<Aim<'_>>) -> bool {
    let reads = rule.when.reads();
    match aim.map(|aim| aim.thing) {
        Some(Thing::Tool | Thing::Prompt | Thing::Resource) => true,
        Some(Thing::Server) => reads.method || !reads.is_of_call(),
        None => reads.method && !names_a_thing(method),
    }
}

fn names_a_thing(method: &str) -> bool {
    [Thing::Tool, Thing::Prompt, Thing::Resource].into_iter().any(|thing| first_method(thing) == method)
        || ["resources/subscribe", "resources/unsubscribe", "completion/complete"].contains(&method)
}
