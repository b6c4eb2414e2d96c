//! A configuration made ready to run: the chain of filters, the servers, the limits. Immutable; a reload makes a
//! new one.

pub mod filter_chain;
pub mod jwks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use filters::Chain;
use filters::guard::Redactor;
use tokio::runtime::Handle;

use crate::config::{self, Config};
use crate::server::Server;
use crate::upstream::Bounds;
use crate::upstream::http::tls;
use crate::upstream::token_exchange::{Endpoint, Exchange};
use filter_chain::Lasting;

/// Time for a token endpoint to answer.
const EXCHANGE: Duration = Duration::from_secs(5);

pub struct Plan {
    pub config: Arc<Config>,
    pub chain: Chain,
    pub servers: BTreeMap<Arc<str>, Arc<Server>>,
    /// Where callers' tokens are exchanged.
    pub exchange: Option<Arc<Exchange>>,
    pub lasting: Lasting,
    /// What is searched for secrets, if any server wants that.
    pub redactor: Option<Arc<Redactor>>,
}

/// Why a sound configuration cannot run.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PlanError(String);

impl Plan {
    /// The servers whose files of `tls` are not what they were.
    pub fn stale(&self) -> Vec<&str> {
        let differ = |server: &&Arc<Server>| server.print != tls::print(&server.config);
        self.servers.values().filter(differ).map(|server| &*server.name).collect()
    }

    /// Servers whose settings did not change are taken over from the plan before, as are counters, keys and
    /// connections. `core` is the runtime that outlives the listeners.
    pub fn new(config: Config, before: Option<&Plan>, core: &Handle) -> Result<Arc<Self>, PlanError> {
        let limits = &config.limits;
        let mut servers = BTreeMap::new();
        for (name, settings) in &config.servers {
            let same = before
                .and_then(|plan| plan.servers.get(name.as_str()))
                .filter(|server| server.config == *settings && server.bounds == Bounds::of(settings, limits))
                .filter(|server| server.print == tls::print(settings));
            let server = match same {
                Some(server) => server.clone(),
                None => Server::new(
                    name,
                    settings,
                    limits,
                    before.and_then(|plan| plan.servers.get(name.as_str()).map(AsRef::as_ref)),
                )
                .map_err(|why| PlanError(format!("server `{name}`: {why}")))?,
            };
            servers.insert(server.name.clone(), server);
        }
        let none = Lasting::default();
        let lasting = before.map_or(&none, |plan| &plan.lasting);
        let (chain, lasting) = filter_chain::chain(&config, lasting, core).map_err(PlanError)?;
        let exchange = config.auth.as_ref().and_then(|auth| auth.exchange.as_ref());
        let exchange = exchange
            .map(|settings| exchange_of(settings, before, core))
            .transpose()
            .map_err(|why| PlanError(format!("auth.exchange: {why}")))?;
        let wanted = config.servers.values().any(|server| server.redact != config::Redact::default());
        let redactor =
            wanted.then(|| filter_chain::redactor(&config.guard)).transpose().map_err(PlanError)?;
        Ok(Arc::new(Self { config: Arc::new(config), chain, servers, exchange, lasting, redactor }))
    }
}

fn exchange_of(
    settings: &config::Exchange,
    before: Option<&Plan>,
    core: &Handle,
) -> Result<Arc<Exchange>, String> {
    let endpoint = Endpoint {
        url: settings.token_endpoint.uri().to_string(),
        client_id: settings.client_id.clone(),
        client_secret: settings.client_secret.clone(),
        timeout: EXCHANGE,
    };
    let same = before.and_then(|plan| plan.exchange.as_ref()).filter(|e| *e.endpoint() == endpoint);
    match same {
        Some(exchange) => Ok(exchange.clone()),
        None => Exchange::new(endpoint, core.clone()).map(Arc::new),
    }
}
