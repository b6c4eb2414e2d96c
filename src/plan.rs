//! A configuration made ready to run: the chain of filters, the servers, the limits. Immutable; a reload makes a
//! new one.

use std::collections::BTreeMap;
use std::sync::Arc;

use filters::agree::Agree;
use filters::origin::Origin;
use filters::size::Size;
use filters::{Caller, Chain, Identity};

use crate::config::Config;
use crate::protocol::revision;
use crate::server::Server;
use crate::upstream::Bounds;
use crate::upstream::exchange::Exchange;

pub struct Plan {
    pub config: Arc<Config>,
    pub chain: Chain,
    pub servers: BTreeMap<Arc<str>, Arc<Server>>,
    /// Where callers' tokens are exchanged.
    pub exchange: Option<Arc<Exchange>>,
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
            agree: Agree { modern: revision::MODERN, legacy: revision::LEGACY },
            anonymous: Caller::new(Identity { user: "anonymous".into(), ..Identity::default() }),
        };
        Ok(Arc::new(Self { config: Arc::new(config), chain, servers, exchange: None }))
    }
}
