//! A rule of the configuration, and its prepared form.

use super::algorithms::{Budget, Limiter};
use super::globs::Globs;
use super::key::{KeyPart, KeyWriter, Subject};
use super::store::Counters;
use crate::request::TargetKind;

/// One limit: how many of the calls that match, for each key.
#[derive(Clone, Debug)]
pub struct RateRule {
    /// Appears in messages to callers over the limit. A rule with the same name (and kind) keeps its counts
    /// on reload.
    pub name: String,
    /// The key of its counters; without parts there is one budget for all.
    pub key: Vec<KeyPart>,
    pub matches: Match,
    pub budget: Budget,
}

/// The calls that a rule counts. Empty lists do not restrict. One of tools, prompts, resources and servers
/// must match the target; `methods` must match too, and `roles` must contain a role of the caller. Names are
/// qualified, resources are URIs.
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
    fn has_target(&self) -> bool {
        [&self.tools, &self.prompts, &self.resources, &self.servers].iter().any(|list| !list.is_empty())
    }

    fn is_empty(&self) -> bool {
        !self.has_target() && self.methods.is_empty() && self.roles.is_empty()
    }
}

/// A prepared rule.
pub(super) struct Limit {
    pub rule: RateRule,
    pub limiter: Limiter,
    /// Hash of name and kind: the initial value for the hash of each key.
    pub seed: u128,
    /// The one budget of all keys without room.
    pub overflow: u128,
    matches_all: bool,
    matches_target: bool,
    pub per_role: bool,
}

impl Limit {
    pub fn new(rule: RateRule, counters: &Counters) -> Self {
        let limiter = Limiter::new(rule.budget);
        let name = counters.hash(|hash| {
            hash.number(limiter.kind() as u128);
            hash.text(&rule.name);
        });
        let part = |number: u128| {
            counters.hash(|hash| {
                hash.number(name);
                hash.number(number);
            })
        };
        Self {
            limiter,
            seed: part(0),
            overflow: part(1),
            matches_all: rule.matches.is_empty(),
            matches_target: rule.matches.has_target(),
            per_role: rule.key.contains(&KeyPart::Role),
            rule,
        }
    }

    /// Slots are given back when a call ends, and a head is not yet a call.
    pub fn applies_to_head(&self) -> bool {
        self.matches_all && self.is_keyed_by_address() && !matches!(self.limiter, Limiter::Slots(_))
    }

    fn is_keyed_by_address(&self) -> bool {
        self.rule.key.iter().all(|part| *part == KeyPart::Ip)
    }

    pub fn counts(&self, subject: &Subject<'_>) -> bool {
        if !subject.is_network && self.is_keyed_by_address() && !self.rule.key.is_empty() {
            // All callers inside would share the budget of one address.
            return false;
        }
        if !subject.is_request && matches!(self.limiter, Limiter::Slots(_)) {
            return false;
        }
        self.matches_all || self.matches(subject)
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        let Match { tools, prompts, resources, servers, methods, roles } = &self.rule.matches;
        let aims = || {
            subject.target.is_some_and(|target| {
                let list = match target.kind {
                    TargetKind::Tool => tools,
                    TargetKind::Prompt => prompts,
                    TargetKind::Resource => {
                        return resources.is_match_uri(target.name) || servers.is_match(target.server);
                    }
                    TargetKind::Server => return servers.is_match(target.server),
                };
                list.is_match(target.name) || servers.is_match(target.server)
            })
        };
        (!self.matches_target || aims())
            && (methods.is_empty() || methods.is_match(subject.method))
            && (roles.is_empty() || subject.roles().iter().any(|role| roles.is_match(role)))
    }

    /// The roles of the caller that have a budget of their own under a rule with `role` in its key.
    pub fn roles<'a>(&'a self, subject: &Subject<'a>) -> impl Iterator<Item = &'a str> {
        let roles = &self.rule.matches.roles;
        subject.roles().iter().map(String::as_str).filter(|role| roles.is_empty() || roles.is_match(role))
    }
}
