//! A configuration made ready to run: the chain of filters, the servers, the limits. Immutable; a reload makes a
//! new one.

use std::collections::BTreeMap;
use std::sync::Arc;

use filters::agree::Agree;
use filters::auth::{self, ApiKey, Auth, Badge};
use filters::origin::Origin;
use filters::size::Size;
use filters::{Caller, Chain, Identity};

use crate::config::{self, Config};
use crate::protocol::revision;
use crate::server::Server;
use crate::upstream::Bounds;

pub struct Plan {
    pub config: Arc<Config>,
    pub chain: Chain,
    pub servers: BTreeMap<Arc<str>, Arc<Server>>,
}

#[derive(Debug, thiserror::Error)]
#[error("server `{server}`: {why}")]
pub struct PlanError {
    pub server: String,
    pub why: String,
}

impl Plan {
    /// Servers whose settings did not change are taken over from the plan before.
    pub fn new(config: Config, before: Option<&Plan>) -> Result<Arc<Self>, PlanError> {
        let limits = &config.limits;
        let mut servers = BTreeMap::new();
        for (name, settings) in &config.servers {
            let same = before
                .and_then(|plan| plan.servers.get(name.as_str()))
                .filter(|server| server.config == *settings && server.bounds == Bounds::of(settings, limits));
            let server = match same {
                Some(server) => server.clone(),
                None => Server::new(name, settings, limits)
                    .map_err(|why| PlanError { server: name.to_string(), why })?,
            };
            servers.insert(server.name.clone(), server);
        }
        let chain = Chain {
            origin: Origin::new(config.listen.allowed_origins.clone(), config.listen.allowed_hosts.clone()),
            size: Size {
                max_body: limits.max_body.as_usize(),
                max_header: limits.max_header.as_usize(),
                max_depth: limits.max_json_depth as usize,
            },
            auth: config.auth.as_ref().map_or_else(Auth::open, judge),
            agree: Agree { modern: revision::MODERN, legacy: revision::LEGACY },
            anonymous: Caller::new(Identity { user: "anonymous".into(), ..Identity::default() }),
        };
        Ok(Arc::new(Self { config: Arc::new(config), chain, servers }))
    }
}

/// How callers are known; tokens of issuers are not taken yet.
fn judge(config: &config::Auth) -> Auth {
    Auth::new(auth::Settings {
        required: config.required,
        anonymous_roles: config.anonymous.clone(),
        required_scopes: config.required_scopes.clone(),
        issuers: Vec::new(),
        api_keys: config.api_keys.iter().cloned().map(api_key).collect(),
        certificates: config.certificates.iter().map(badge).collect(),
        metadata: None,
    })
}

fn api_key(key: config::ApiKey) -> ApiKey {
    ApiKey {
        id: key.id,
        sha256: key.sha256,
        user: key.user,
        roles: key.roles,
        tenant: key.tenant,
        scopes: key.scopes,
    }
}

fn badge(certificate: &config::Certificate) -> Badge {
    Badge {
        subject: certificate.matcher(),
        user: certificate.user.clone(),
        roles: certificate.roles.clone(),
        tenant: certificate.tenant.clone(),
        scopes: certificate.scopes.clone(),
    }
}
