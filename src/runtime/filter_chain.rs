//! Builds the filter chain from the configuration.
//!
//! What must outlive a reload is taken over from the former configuration: counters, key sets that are read
//! over the network, the connection to Redis.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use filters::Chain;
use filters::auth::{self, Auth, KeySet, KeySource, StaticKeys};
use filters::cel::Condition;
use filters::guard::Redactor;
use filters::header_match::HeaderMatch;
use filters::origin::Origin;
use filters::rate_limit;
use filters::rate_limit::{Counters, Rate};
use filters::rbac::{self, Rbac};
use filters::size_limits::Size;
use tokio::runtime::Handle;

use super::jwks::JwksFetcher;
use crate::config::read_file;
use crate::config::{self, Config, Pattern};
use crate::store::redis_rate_limit::Redis;

/// What outlives a reload.
#[derive(Clone, Default)]
pub struct ReloadState {
    pub counters: Arc<Counters>,
    redis: Option<(config::RedisConfig, Duration, Arc<Redis>)>,
    /// Key sets by URL and by refresh interval.
    jwks: BTreeMap<(String, Duration), Arc<JwksFetcher>>,
}

impl ReloadState {
    /// The store that several gateways share, if it is used.
    pub fn redis(&self) -> Option<&Arc<Redis>> {
        self.redis.as_ref().map(|(.., redis)| redis)
    }
}

/// The chain of a configuration.
///
/// # Errors
///
/// A message for the author of the configuration.
pub fn build_chain(
    config: &Config,
    before: &ReloadState,
    runtime: &Handle,
) -> Result<(Chain, ReloadState), String> {
    let mut reload_state = ReloadState { counters: before.counters.clone(), ..ReloadState::default() };
    let limits = &config.limits;
    let chain = Chain {
        origin: Origin::new(config.listen.allowed_origins.clone(), config.listen.allowed_hosts.clone()),
        size: Size {
            max_body: limits.max_body.as_usize(),
            max_header: limits.max_header.as_usize(),
            max_depth: limits.max_json_depth as usize,
        },
        auth: match &config.auth {
            Some(auth) => build_auth(auth, config, before, &mut reload_state, runtime)?,
            None => Auth::open(),
        },
        header_match: HeaderMatch,
        rate: match &config.rate_limits {
            Some(limits) => build_rate_limits(limits, config, before, &mut reload_state, runtime)?,
            None => Rate::none(),
        },
        rbac: match &config.rbac {
            Some(rbac) => build_rbac(rbac, config)?,
            None => Rbac::open(),
        },
    };
    Ok((chain, reload_state))
}

fn build_auth(
    auth: &config::AuthConfig,
    config: &Config,
    before: &ReloadState,
    reload_state: &mut ReloadState,
    runtime: &Handle,
) -> Result<Auth, String> {
    let mut issuers = Vec::new();
    for issuer in &auth.jwt {
        let keys = build_keys(issuer, before, reload_state, runtime)
            .map_err(|why| format!("auth.jwt: the keys of {}: {why}", issuer.issuer))?;
        issuers.push(auth::Issuer {
            issuer: issuer.issuer.clone(),
            audiences: issuer.audience.clone(),
            algorithms: issuer.algorithms.clone(),
            leeway: issuer.leeway.get(),
            claims: auth::ClaimPaths {
                user: issuer.claims.user.clone(),
                roles: issuer.claims.roles.clone(),
                scopes: issuer.claims.scopes.clone(),
                tenant: issuer.claims.tenant.clone(),
            },
            keys,
        });
    }
    let public_url = config.listen.base_url();
    let key = |key: &config::ApiKeyConfig| auth::ApiKey {
        id: key.id.clone(),
        sha256: key.sha256,
        user: key.user.clone(),
        roles: key.roles.clone(),
        tenant: key.tenant.clone(),
        scopes: key.scopes.clone(),
    };
    let metadata = auth.resource_metadata.as_ref().map(|metadata| auth::ResourceMetadata {
        resource: metadata.resource.clone().unwrap_or_else(|| format!("{public_url}/mcp")),
        authorization_servers: metadata.authorization_servers.clone(),
        scopes_supported: metadata.scopes_supported.clone(),
        public_url,
    });
    Ok(Auth::new(auth::AuthSettings {
        required: auth.required,
        anonymous_roles: auth.anonymous.clone(),
        required_scopes: auth.required_scopes.clone(),
        issuers,
        api_keys: auth.api_keys.iter().map(key).collect(),
        certificates: auth.certificates.iter().map(client_cert).collect(),
        metadata,
    }))
}

fn client_cert(certificate: &config::ClientCertRule) -> auth::ClientCertMapping {
    auth::ClientCertMapping {
        subject: certificate.matcher(),
        user: certificate.user.clone(),
        roles: certificate.roles.clone(),
        tenant: certificate.tenant.clone(),
        scopes: certificate.scopes.clone(),
    }
}

fn build_keys(
    issuer: &config::IssuerConfig,
    before: &ReloadState,
    reload_state: &mut ReloadState,
    runtime: &Handle,
) -> Result<Arc<dyn KeySource>, String> {
    let read = |path: &Path| {
        read_file::read_text(path, read_file::MAX)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let set = match &issuer.keys {
        config::KeyLocation::JwksUrl(url) => {
            let place = (url.uri().to_string(), issuer.refresh.get());
            let remote = match before.jwks.get(&place).or_else(|| reload_state.jwks.get(&place)) {
                Some(remote) => remote.clone(),
                None => JwksFetcher::start(&place.0, place.1, runtime)?,
            };
            reload_state.jwks.insert(place, remote.clone());
            return Ok(remote);
        }
        config::KeyLocation::JwksFile(path) => KeySet::from_jwks(read(path)?.as_bytes()),
        config::KeyLocation::PublicKey(text) if text.trim_start().starts_with("-----BEGIN") => {
            KeySet::from_pem(text)
        }
        config::KeyLocation::PublicKey(path) => KeySet::from_pem(&read(Path::new(path))?),
        config::KeyLocation::Secret(secret) => KeySet::from_secret(secret.expose().as_bytes()),
    };
    let set = set.map_err(|error| error.to_string())?;
    if let Some((at, why)) = set.skipped().first().filter(|_| set.is_empty()) {
        return Err(format!("there is no key among them that can be used; number {}: {why}", at + 1));
    }
    if !issuer.algorithms.iter().any(|algorithm| set.serves(*algorithm)) {
        let message: Vec<&str> = issuer.algorithms.iter().map(|algorithm| algorithm.as_str()).collect();
        return Err(format!("the key is of no use for {}", message.join(", ")));
    }
    Ok(Arc::new(StaticKeys::new(set)))
}

fn build_rbac(rbac: &config::RbacConfig, config: &Config) -> Result<Rbac, String> {
    let lists = |lists: &config::PatternListsConfig| {
        let mut tools = pattern_texts(&lists.tools);
        for toolset in lists.toolsets.iter().filter_map(|name| config.toolsets.get(name)) {
            tools.extend(toolset.tools.patterns().iter().cloned());
        }
        rbac::PatternLists {
            tools,
            prompts: pattern_texts(&lists.prompts),
            resources: pattern_texts(&lists.resources),
            methods: pattern_texts(&lists.methods),
            servers: pattern_texts(&lists.servers),
        }
    };
    let mut rules = Vec::new();
    for rule in &rbac.rules {
        rules.push(rbac::Rule {
            name: rule.name.clone(),
            when: Condition::compile(&rule.when)
                .map_err(|flaw| format!("rbac.rules: `{}`: {}", rule.name, flaw.what))?,
            effect: rule.effect,
            message: rule.message.clone(),
        });
    }
    Rbac::new(rbac::RbacSettings {
        default: rbac.default,
        roles: rbac
            .roles
            .iter()
            .map(|(name, role)| rbac::Role {
                name: name.clone(),
                inherits: role.inherits.clone(),
                allow: lists(&role.allow),
                deny: lists(&role.deny),
                admin: role.admin,
            })
            .collect(),
        rules,
        scopes: rbac
            .scopes
            .iter()
            .map(|need| rbac::ScopeNeed { lists: lists(&need.matches), require: need.require.clone() })
            .collect(),
    })
}

fn pattern_texts(patterns: &[Pattern]) -> Vec<String> {
    patterns.iter().map(|pattern| pattern.text.clone()).collect()
}

fn build_rate_limits(
    limits: &config::RateLimits,
    config: &Config,
    before: &ReloadState,
    reload_state: &mut ReloadState,
    runtime: &Handle,
) -> Result<Rate, String> {
    let globs = |patterns: &[Pattern]| {
        rate_limit::Globs::new(patterns.iter().map(|p| &p.text))
            .map_err(|error| format!("rate_limits: {error}"))
    };
    let mut rules = Vec::new();
    for rule in &limits.rules {
        let matches = &rule.match_;
        rules.push(rate_limit::RateRule {
            name: rule.name.clone(),
            key: rule.key.clone(),
            matches: rate_limit::Match {
                tools: globs(&matches.tools)?,
                prompts: globs(&matches.prompts)?,
                resources: rate_limit::Globs::of_uris(matches.resources.iter().map(|p| &p.text))
                    .map_err(|error| format!("rate_limits: {error}"))?,
                methods: globs(&matches.methods)?,
                servers: globs(&matches.servers)?,
                roles: rate_limit::Globs::new(&matches.roles)
                    .map_err(|error| format!("rate_limits: {error}"))?,
            },
            budget: rule.budget,
        });
    }
    let shared = match (limits.store, &config.redis) {
        (config::CounterStore::Redis, Some(settings)) => {
            let timeout = limits.timeout.get();
            let same = before.redis.as_ref().filter(|(s, t, _)| s == settings && *t == timeout);
            let redis = match same {
                Some((.., redis)) => redis.clone(),
                None => Redis::new(settings.url.expose(), &settings.prefix, timeout, runtime.clone())
                    .map(Arc::new)
                    .map_err(|error| format!("redis: {error}"))?,
            };
            reload_state.redis = Some((settings.clone(), timeout, redis.clone()));
            Some(redis as Arc<dyn rate_limit::RateLimitStore>)
        }
        _ => None,
    };
    Ok(Rate::new(rules, reload_state.counters.clone(), shared, limits.on_failure))
}

/// The secret detection that the configuration describes.
pub fn redactor(guard: &config::GuardConfig) -> Result<Arc<Redactor>, String> {
    let custom: Vec<(String, String)> =
        guard.patterns.iter().map(|pattern| (pattern.name.clone(), pattern.regex.clone())).collect();
    Redactor::new(&guard.detectors, &custom).map(Arc::new).map_err(|flaw| format!("guard.patterns: {flaw}"))
}
