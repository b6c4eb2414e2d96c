//! A rule of the configuration, and the same made ready for judging.

use super::algorithms::{Budget, Meter};
use super::globs::Globs;
use super::key::{Key, KeyPart, Subject};
use super::store::Counters;
use crate::request::Thing;

/// One limit: how many of the calls that match, for each key.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Told to callers that reach the limit. A rule that keeps its name (and kind) keeps its counts on
    /// reload.
    pub name: String,
    /// What is counted apart; nothing means one budget for all.
    pub key: Vec<KeyPart>,
    pub matches: Match,
    pub budget: Budget,
}

/// Which calls a rule counts. Lists without patterns do not ask. Of tools, prompts, resources and servers any
/// may fit what the call touches; on top of that `methods` must fit, and `roles` must fit a role of the
/// caller. Names are federated ones, resources are URIs.
#[derive(Clone, Debug, Default)]
pub struct Match {
    pub tools: Globs,
    pub prompts: Globs,
    pub resources: Globs,
    pub servers: Globs,
    pub methods: Globs,
    pub roles: Globs,
}

impl Match {
    fn asks_aim(&self) -> bool {
        [&self.tools, &self.prompts, &self.resources, &self.servers].iter().any(|list| !list.is_empty())
    }

    fn is_empty(&self) -> bool {
        !self.asks_aim() && self.methods.is_empty() && self.roles.is_empty()
    }
}

/// A rule made ready.
pub(super) struct Limit {
    pub rule: Rule,
    pub meter: Meter,
    /// Hash of name and kind: where the hash of each key begins.
    pub seed: u128,
    /// The one budget of all keys that there is no room for.
    pub crowd: u128,
    asks_all: bool,
    asks_aim: bool,
    pub per_role: bool,
}

impl Limit {
    pub fn new(rule: Rule, counters: &Counters) -> Self {
        let meter = Meter::new(rule.budget);
        let name = counters.hash(|hash| {
            hash.number(meter.kind() as u128);
            hash.text(&rule.name);
        });
        let part = |number: u128| {
            counters.hash(|hash| {
                hash.number(name);
                hash.number(number);
            })
        };
        Self {
            meter,
            seed: part(0),
            crowd: part(1),
            asks_all: rule.matches.is_empty(),
            asks_aim: rule.matches.asks_aim(),
            per_role: rule.key.contains(&KeyPart::Role),
            rule,
        }
    }

    /// Slots are given back when a call ends, and a head is not yet a call.
    pub fn judges_heads(&self) -> bool {
        self.asks_all && self.is_of_address() && !matches!(self.meter, Meter::Slots(_))
    }

    fn is_of_address(&self) -> bool {
        self.rule.key.iter().all(|part| *part == KeyPart::Ip)
    }

    pub fn counts(&self, subject: &Subject<'_>) -> bool {
        if !subject.outside && self.is_of_address() && !self.rule.key.is_empty() {
            // All callers inside would share the budget of one address.
            return false;
        }
        if !subject.runs && matches!(self.meter, Meter::Slots(_)) {
            return false;
        }
        self.asks_all || self.fits(subject)
    }

    fn fits(&self, subject: &Subject<'_>) -> bool {
        let Match { tools, prompts, resources, servers, methods, roles } = &self.rule.matches;
        let aims = || {
            subject.aim.is_some_and(|aim| {
                let list = match aim.thing {
                    Thing::Tool => tools,
                    Thing::Prompt => prompts,
                    Thing::Resource => return resources.fit_uri(aim.name) || servers.fit(aim.server),
                    Thing::Server => return servers.fit(aim.server),
                };
                list.fit(aim.name) || servers.fit(aim.server)
            })
        };
        (!self.asks_aim || aims())
            && (methods.is_empty() || methods.fit(subject.method))
            && (roles.is_empty() || subject.roles().iter().any(|role| roles.fit(role)))
    }

    /// The roles of the caller that have a budget of their own under a rule with `role` in its key.
    pub fn roles<'a>(&'a self, subject: &Subject<'a>) -> impl Iterator<Item = &'a str> {
        let roles = &self.rule.matches.roles;
        subject.roles().iter().map(String::as_str).filter(|role| roles.is_empty() || roles.fit(role))
    }
}
