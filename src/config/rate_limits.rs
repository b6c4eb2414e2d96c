//! How much each caller may ask for.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::diagnostics::Spot;
use super::limits::within;
use super::rbac::check_names;
use super::references::Known;
use super::roles::{Pattern, patterns};
use super::scalar::duration::Span;
use super::scalar::globs::Globs;
use super::scalar::names::Name;
use super::scalar::rate::{MOST, Pace};
use super::yaml::line::Line;

/// Limits of rate, number and volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// Where the counters are.
    pub store: Store,
    /// What is done while Redis does not answer.
    pub on_failure: OnFailure,
    /// How long an answer of Redis is waited for.
    pub timeout: Span,
    /// All that match a call must let it pass.
    pub rules: Vec<RateRule>,
}

/// Where counters are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// In this process.
    #[default]
    Local,
    /// In Redis, shared by all gateways that use it.
    Redis,
}

/// What is done while the shared counters cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Counts in this process.
    #[default]
    Local,
    /// Lets all calls pass.
    Open,
    /// Refuses all calls.
    Closed,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateRule {
    /// For refusals, logs and metrics; no two have the same.
    pub name: String,
    /// What calls must have in common to share a counter; none: all calls share one.
    pub key: Vec<KeyPart>,
    /// Which calls it is about.
    pub match_: Match,
    /// How much.
    pub budget: Budget,
    /// Where it stands.
    pub line: Line,
}

/// A part of what counters are kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "they are the words of the config")]
pub enum KeyPart {
    User,
    Tenant,
    Role,
    Ip,
    ApiKey,
    Server,
    Tool,
    Method,
}

/// Which calls a limit is about. What a call touches fits one of `tools`, `prompts`, `resources` and `servers`, if any
/// of these stands; its method fits `methods`, and a role of its caller `roles`, if they stand. Without any list, all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are the words of the config")]
pub struct Match {
    pub tools: Vec<Pattern>,
    pub prompts: Vec<Pattern>,
    pub resources: Vec<Pattern>,
    pub methods: Vec<Pattern>,
    pub servers: Vec<Pattern>,
    /// Callers that have one of these roles.
    pub roles: Vec<String>,
}

/// How much a limit lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// So many calls in each span of time, refilled all the time.
    Rate {
        /// Calls, at least one.
        count: u64,
        /// The time that they are for.
        per: Duration,
        /// Most calls at once after a pause.
        burst: u64,
    },
    /// So many calls at the same time.
    Concurrent(u32),
    /// So many calls in each fixed window, aligned to UTC.
    Quota {
        /// Calls, at least one.
        count: u64,
        /// The window.
        per: Duration,
    },
}

/// Limits of rate, number and volume.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "RateLimits", default, deny_unknown_fields)]
pub(super) struct Written {
    /// Where the counters are: in this process, or in `redis`, shared by all gateways that use it.
    store: Store,
    /// While Redis does not answer: count in this process, let all pass (`open`) or refuse all (`closed`).
    on_failure: OnFailure,
    /// How long an answer of Redis is waited for: 1ms to 1s.
    timeout: Span,
    /// The limits; all that match a call must let it pass.
    rules: Vec<WrittenRule>,
}

impl Default for Written {
    fn default() -> Self {
        let (store, on_failure, rules) = Default::default();
        Self { store, on_failure, timeout: Span::millis(50), rules }
    }
}

/// One limit: exactly one of `limit`, `concurrent` and `quota`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "RateRule", deny_unknown_fields)]
#[schemars(
    extend("oneOf" = [{"required": ["limit"]}, {"required": ["concurrent"]}, {"required": ["quota"]}]),
    extend("dependentRequired" = {"burst": ["limit"]})
)]
struct WrittenRule {
    /// For refusals, logs and metrics; no two have the same.
    name: Name,
    /// What calls must have in common to share a counter; `[]` is one counter for all.
    key: Vec<KeyPart>,
    /// Which calls it is about; all without it.
    #[serde(default, rename = "match")]
    _match: WrittenMatch,
    /// So many calls in each span of time, refilled all the time: `600/1m`. The time: 100ms to 1d.
    limit: Option<Pace>,
    /// With `limit`: most calls at once after a pause; as many as `limit` says by default.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    burst: Option<u64>,
    /// So many calls at the same time: 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    concurrent: Option<u32>,
    /// So many calls in each fixed window, aligned to UTC: `10000/1d`. The window: 1s to 366d.
    quota: Option<Pace>,
}

/// Which calls a limit is about: they touch what one of `tools`, `prompts`, `resources` and `servers` fits, and fit
/// `methods` and `roles` beside.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename = "Match", default, deny_unknown_fields)]
struct WrittenMatch {
    /// Over the federated names of tools.
    #[serde(rename = "tools")]
    _tools: Globs,
    /// Over the federated names of prompts.
    #[serde(rename = "prompts")]
    _prompts: Globs,
    /// Over the URIs of resources.
    #[serde(rename = "resources")]
    _resources: Globs,
    /// Over methods.
    #[serde(rename = "methods")]
    _methods: Globs,
    /// Over names of servers.
    #[serde(rename = "servers")]
    _servers: Globs,
    /// Callers that have one of these roles themselves; inherited ones do not count.
    #[serde(rename = "roles")]
    _roles: Vec<Name>,
}

impl Written {
    /// `redis` tells whether there is a block of that name.
    pub(super) fn limits(self, spot: &Spot<'_>, known: &Known<'_>, redis: bool) -> RateLimits {
        within(spot, "timeout", self.timeout, (Span::millis(1), Span::secs(1)));
        if let Some(spot) = spot.child("store").filter(|_| self.store == Store::Redis && !redis) {
            let expected = "add `redis: {url: \"redis://127.0.0.1:6379\"}` to the file";
            spot.refuse("there is no block `redis` that says where it is", expected);
        }
        let spots = spot.sound_items("rules");
        check_names(&spots, "rule");
        let rules = spots.iter().zip(self.rules).filter_map(|(spot, rule)| rule.rule(spot, known));
        RateLimits {
            store: self.store,
            on_failure: self.on_failure,
            timeout: self.timeout,
            rules: rules.collect(),
        }
    }
}

impl WrittenRule {
    fn rule(self, spot: &Spot<'_>, known: &Known<'_>) -> Option<RateRule> {
        if let Some(key) = spot.child("key") {
            key.check_distinct();
        }
        let match_ = spot.child("match").map(|spot| matches(&spot, known)).unwrap_or_default();
        let budget = self.budget(spot)?;
        Some(RateRule { name: self.name.0, key: self.key, match_, budget, line: spot.line() })
    }

    /// The one budget that it has, `None` if that was reported.
    fn budget(&self, spot: &Spot<'_>) -> Option<Budget> {
        const KINDS: [&str; 3] = ["limit", "concurrent", "quota"];
        let mut kinds = KINDS.iter().filter(|kind| spot.has(kind));
        let Some(kind) = kinds.next() else {
            if !spot.node.entries().iter().any(|entry| entry.is_faulty()) {
                let expected = "expected one of `limit: 600/1m`, `concurrent: 16` or `quota: 10000/1d`";
                spot.refuse("does not say how much", expected);
            }
            return None;
        };
        for other in kinds.filter_map(|other| spot.child(other)) {
            let message = format!("{}: cannot stand beside `{kind}`", other.path);
            other.refuse_key(message, "a rule is only one of `limit`, `concurrent` and `quota`", "");
        }
        if let Some(burst) = self.burst {
            within(spot, "burst", burst, (1, MOST));
        }
        if let Some(burst) = spot.child("burst").filter(|_| *kind != "limit" && spot.has("burst")) {
            let message = format!("{}: of no use beside `{kind}`", burst.path);
            burst.refuse_key(message, "`burst` goes with `limit`", "");
        }
        match (self.limit, self.concurrent, self.quota) {
            (Some(Pace { count, per }), None, None) => {
                period(spot, "limit", per, (Span::millis(100), Span::hours(24)));
                Some(Budget::Rate { count, per: per.get(), burst: self.burst.unwrap_or(count) })
            }
            (None, Some(concurrent), None) => {
                within(spot, "concurrent", concurrent, (1, 1_000_000));
                Some(Budget::Concurrent(concurrent))
            }
            (None, None, Some(Pace { count, per })) => {
                period(spot, "quota", per, (Span::secs(1), Span::hours(366 * 24)));
                Some(Budget::Quota { count, per: per.get() })
            }
            // Several, or one that could not be read: reported.
            _ => None,
        }
    }
}

/// Reports a rate whose time lies outside of the range.
fn period(spot: &Spot<'_>, key: &str, per: Span, (least, most): (Span, Span)) {
    let Some(spot) = spot.child(key).filter(|_| per < least || per > most) else { return };
    let what = if per < least { "its time is too short" } else { "its time is too long" };
    spot.refuse(what, format!("expected a time of {least} to {most}"));
}

fn matches(spot: &Spot<'_>, known: &Known<'_>) -> Match {
    let matches = Match {
        tools: patterns(spot, "tools"),
        prompts: patterns(spot, "prompts"),
        resources: patterns(spot, "resources"),
        methods: patterns(spot, "methods"),
        servers: patterns(spot, "servers"),
        roles: patterns(spot, "roles").into_iter().map(|role| role.text).collect(),
    };
    known.check_servers(spot.child("servers"));
    known.check_roles(spot.child("roles"));
    matches
}
