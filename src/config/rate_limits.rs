//! Rate limits: how much each caller may call.

use filters::rate_limit::{Budget, KeyPart, OnFailure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::diagnostics::NodeRef;
use super::limits::within;
use super::rbac::check_names;
use super::references::References;
use super::roles::{Pattern, patterns};
use super::scalar::duration::ConfigDuration;
use super::scalar::globs::GlobList;
use super::scalar::names::Name;
use super::scalar::rate::{MAX_COUNT, RateSpec};
use super::yaml::line::Line;

/// Limits of rate, number and volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// Where the counters are.
    pub store: CounterStore,
    /// What happens while Redis does not respond.
    pub on_failure: OnFailure,
    /// The timeout of Redis.
    pub timeout: ConfigDuration,
    /// All that match a call must let it pass.
    pub rules: Vec<RateRuleConfig>,
}

/// Where counters are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CounterStore {
    /// In this process.
    #[default]
    Local,
    /// In Redis, shared by all gateways that use it.
    Redis,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateRuleConfig {
    /// A unique name for errors, logs and metrics.
    pub name: String,
    /// Calls with equal values share a counter; without any, all calls share one.
    pub key: Vec<KeyPart>,
    /// Which calls it is about.
    pub match_: MatchConfig,
    /// How much.
    pub budget: Budget,
    /// Its line in the file.
    pub line: Line,
}

/// The calls of a limit. If any of `tools`, `prompts`, `resources` and `servers` is set, one of them must
/// match. `methods` must match if set, and so must `roles`. Without any list, all calls match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are the words of the config")]
pub struct MatchConfig {
    pub tools: Vec<Pattern>,
    pub prompts: Vec<Pattern>,
    pub resources: Vec<Pattern>,
    pub methods: Vec<Pattern>,
    pub servers: Vec<Pattern>,
    /// Callers that have one of these roles.
    pub roles: Vec<String>,
}

/// Limits of rate, number and volume.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "RateLimits", default, deny_unknown_fields)]
pub(super) struct RawRateLimits {
    /// Where the counters are: in this process, or in `redis`, shared by all gateways that use it.
    store: CounterStore,
    /// While Redis does not respond: count in this process, allow all calls (`open`) or reject all
    /// (`closed`).
    on_failure: OnFailure,
    /// The timeout of Redis: 1ms to 1s.
    timeout: ConfigDuration,
    /// The limits; all that match a call must let it pass.
    rules: Vec<RawRateRule>,
}

impl Default for RawRateLimits {
    fn default() -> Self {
        let (store, on_failure, rules) = Default::default();
        Self { store, on_failure, timeout: ConfigDuration::millis(50), rules }
    }
}

/// One limit: exactly one of `limit`, `concurrent` and `quota`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "RateRule", deny_unknown_fields)]
#[schemars(
    extend("oneOf" = [{"required": ["limit"]}, {"required": ["concurrent"]}, {"required": ["quota"]}]),
    extend("dependentRequired" = {"burst": ["limit"]})
)]
struct RawRateRule {
    /// A unique name for errors, logs and metrics.
    name: Name,
    /// Calls with equal values of these share a counter. `[]` is one counter for all.
    key: Vec<KeyPart>,
    /// Which calls it is about; all without it.
    #[serde(default, rename = "match")]
    _match: RawMatch,
    /// So many calls in each span of time, refilled all the time: `600/1m`. The time: 100ms to 1d.
    limit: Option<RateSpec>,
    /// With `limit`: the largest burst, 1 to 1000000000. Default: the count of `limit`.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    burst: Option<u64>,
    /// The highest number of concurrent calls: 1 to 1000000.
    #[schemars(range(min = 1, max = 1_000_000))]
    concurrent: Option<u32>,
    /// So many calls in each fixed window, aligned to UTC: `10000/1d`. The window: 1s to 366d.
    quota: Option<RateSpec>,
}

/// The calls of a limit. One of `tools`, `prompts`, `resources` and `servers` must match, if any is set.
/// `methods` and `roles` must match too, if set.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename = "Match", default, deny_unknown_fields)]
struct RawMatch {
    /// Over the federated names of tools.
    #[serde(rename = "tools")]
    _tools: GlobList,
    /// Over the federated names of prompts.
    #[serde(rename = "prompts")]
    _prompts: GlobList,
    /// Over the URIs of resources.
    #[serde(rename = "resources")]
    _resources: GlobList,
    /// Over methods.
    #[serde(rename = "methods")]
    _methods: GlobList,
    /// Over names of servers.
    #[serde(rename = "servers")]
    _servers: GlobList,
    /// Callers that have one of these roles themselves; inherited ones do not count.
    #[serde(rename = "roles")]
    _roles: Vec<Name>,
}

impl RawRateLimits {
    /// `redis` tells whether there is a block `redis`.
    pub(super) fn limits(
        self,
        node_ref: &NodeRef<'_>,
        references: &References<'_>,
        redis: bool,
    ) -> RateLimits {
        within(node_ref, "timeout", self.timeout, (ConfigDuration::millis(1), ConfigDuration::secs(1)));
        if let Some(node_ref) =
            node_ref.child("store").filter(|_| self.store == CounterStore::Redis && !redis)
        {
            let expected = "add `redis: {url: \"redis://127.0.0.1:6379\"}` to the file";
            node_ref.reject("requires the block `redis`", expected);
        }
        let items = node_ref.valid_items("rules");
        check_names(&items);
        let rules =
            items.iter().zip(self.rules).filter_map(|(node_ref, rule)| rule.rule(node_ref, references));
        RateLimits {
            store: self.store,
            on_failure: self.on_failure,
            timeout: self.timeout,
            rules: rules.collect(),
        }
    }
}

impl RawRateRule {
    fn rule(self, node_ref: &NodeRef<'_>, references: &References<'_>) -> Option<RateRuleConfig> {
        if let Some(key) = node_ref.child("key") {
            key.check_distinct();
        }
        let match_ =
            node_ref.child("match").map(|node_ref| matches(&node_ref, references)).unwrap_or_default();
        let budget = self.budget(node_ref)?;
        Some(RateRuleConfig { name: self.name.0, key: self.key, match_, budget, line: node_ref.line() })
    }

    /// Its only budget; `None` if an error was reported.
    fn budget(&self, node_ref: &NodeRef<'_>) -> Option<Budget> {
        const KINDS: [&str; 3] = ["limit", "concurrent", "quota"];
        let mut kinds = KINDS.iter().filter(|kind| node_ref.has(kind));
        let Some(kind) = kinds.next() else {
            if !node_ref.node.entries().iter().any(|entry| entry.is_invalid()) {
                let expected = "expected one of `limit: 600/1m`, `concurrent: 16` or `quota: 10000/1d`";
                node_ref.reject("missing `limit`, `concurrent` or `quota`", expected);
            }
            return None;
        };
        for other in kinds.filter_map(|other| node_ref.child(other)) {
            let message = format!("{}: conflicts with `{kind}`", other.path);
            other.reject_key(message, "a rule is only one of `limit`, `concurrent` and `quota`", "");
        }
        if let Some(burst) = self.burst {
            within(node_ref, "burst", burst, (1, MAX_COUNT));
        }
        if let Some(burst) = node_ref.child("burst").filter(|_| *kind != "limit" && node_ref.has("burst")) {
            let message = format!("{}: not allowed with `{kind}`", burst.path);
            burst.reject_key(message, "`burst` requires `limit`", "");
        }
        match (self.limit, self.concurrent, self.quota) {
            (Some(RateSpec { count, per }), None, None) => {
                period(node_ref, "limit", per, (ConfigDuration::millis(100), ConfigDuration::hours(24)));
                Some(Budget::Rate { count, per: per.get(), burst: self.burst.unwrap_or(count) })
            }
            (None, Some(concurrent), None) => {
                within(node_ref, "concurrent", concurrent, (1, 1_000_000));
                Some(Budget::Concurrent(concurrent))
            }
            (None, None, Some(RateSpec { count, per })) => {
                period(node_ref, "quota", per, (ConfigDuration::secs(1), ConfigDuration::hours(366 * 24)));
                Some(Budget::Quota { count, per: per.get() })
            }
            // Several, or an invalid one: already reported.
            _ => None,
        }
    }
}

/// Reports a rate whose time window is out of range.
fn period(
    node_ref: &NodeRef<'_>,
    key: &str,
    per: ConfigDuration,
    (least, max): (ConfigDuration, ConfigDuration),
) {
    let Some(node_ref) = node_ref.child(key).filter(|_| per < least || per > max) else { return };
    let what = if per < least { "time window too short" } else { "time window too long" };
    node_ref.reject(what, format!("expected a time window of {least} to {max}"));
}

fn matches(node_ref: &NodeRef<'_>, references: &References<'_>) -> MatchConfig {
    let matches = MatchConfig {
        tools: patterns(node_ref, "tools"),
        prompts: patterns(node_ref, "prompts"),
        resources: patterns(node_ref, "resources"),
        methods: patterns(node_ref, "methods"),
        servers: patterns(node_ref, "servers"),
        roles: patterns(node_ref, "roles").into_iter().map(|role| role.text).collect(),
    };
    references.check_servers(node_ref.child("servers"));
    references.check_roles(node_ref.child("roles"));
    matches
}
