//! A configuration made ready to run: the filter chain, the servers, the limits. Immutable; a reload makes a
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
use crate::upstream::UpstreamLimits;
use crate::upstream::http::tls;
use crate::upstream::token_exchange::{TokenEndpoint, TokenExchange};
use filter_chain::ReloadState;

/// Timeout of a token endpoint.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);

pub struct RuntimeConfig {
    pub config: Arc<Config>,
    pub chain: Chain,
    pub servers: BTreeMap<Arc<str>, Arc<Server>>,
    /// Exchanges callers' tokens.
    pub exchange: Option<Arc<TokenExchange>>,
    pub reload_state: ReloadState,
    /// Detects secrets, if any server needs that.
    pub redactor: Option<Arc<Redactor>>,
}

/// Why a valid configuration cannot run.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RuntimeConfigError(String);

impl RuntimeConfig {
    /// The servers whose `tls` files have changed.
    pub fn stale(&self) -> Vec<&str> {
        let differ = |server: &&Arc<Server>| server.tls_fingerprint != tls::fingerprint(&server.config);
        self.servers.values().filter(differ).map(|server| &*server.name).collect()
    }

    /// Servers whose settings did not change are taken over from `before`, as are counters, keys and
    /// connections. `runtime` outlives the listeners.
    pub fn new(
        config: Config,
        before: Option<&RuntimeConfig>,
        runtime: &Handle,
    ) -> Result<Arc<Self>, RuntimeConfigError> {
        let limits = &config.limits;
        let mut servers = BTreeMap::new();
        for (name, settings) in &config.servers {
            let same = before
                .and_then(|runtime_config| runtime_config.servers.get(name.as_str()))
                .filter(|server| {
                    server.config == *settings && server.limits == UpstreamLimits::of(settings, limits)
                })
                .filter(|server| server.tls_fingerprint == tls::fingerprint(settings));
            let server = match same {
                Some(server) => server.clone(),
                None => Server::new(
                    name,
                    settings,
                    limits,
                    before.and_then(|runtime_config| {
                        runtime_config.servers.get(name.as_str()).map(AsRef::as_ref)
                    }),
                )
                .map_err(|why| RuntimeConfigError(format!("server `{name}`: {why}")))?,
            };
            servers.insert(server.name.clone(), server);
        }
        let none = ReloadState::default();
        let reload_state = before.map_or(&none, |runtime_config| &runtime_config.reload_state);
        let (chain, reload_state) =
            filter_chain::build_chain(&config, reload_state, runtime).map_err(RuntimeConfigError)?;
        let exchange = config.auth.as_ref().and_then(|auth| auth.exchange.as_ref());
        let exchange = exchange
            .map(|settings| build_token_exchange(settings, before, runtime))
            .transpose()
            .map_err(|why| RuntimeConfigError(format!("auth.exchange: {why}")))?;
        let wanted = config.servers.values().any(|server| server.redact != config::Redact::default());
        let redactor =
            wanted.then(|| filter_chain::redactor(&config.guard)).transpose().map_err(RuntimeConfigError)?;
        Ok(Arc::new(Self { config: Arc::new(config), chain, servers, exchange, reload_state, redactor }))
    }
}

fn build_token_exchange(
    settings: &config::Exchange,
    before: Option<&RuntimeConfig>,
    runtime: &Handle,
) -> Result<Arc<TokenExchange>, String> {
    let endpoint = TokenEndpoint {
        url: settings.token_endpoint.uri().to_string(),
        client_id: settings.client_id.clone(),
        client_secret: settings.client_secret.clone(),
        timeout: EXCHANGE_TIMEOUT,
    };
    let same = before
        .and_then(|runtime_config| runtime_config.exchange.as_ref())
        .filter(|e| *e.endpoint() == endpoint);
    match same {
        Some(exchange) => Ok(exchange.clone()),
        None => TokenExchange::new(endpoint, runtime.clone()).map(Arc::new),
    }
}
