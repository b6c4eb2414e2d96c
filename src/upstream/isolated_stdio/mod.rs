//! A stdio server with a process for each session (`isolation: session`).
//!
//! A process of its own makes one client of all that the server asks and tells: sampling, elicitation, roots,
//! log messages and subscriptions work as with a server over Streamable HTTP. So it is one here: an adapter in
//! this process serves Streamable HTTP of the legacy era on a loopback port, with a process for each session,
//! and the gateway uses it as it uses every such server. Nobody else may: each request needs a secret header.

mod adapter;
mod client_process;
mod event_body;
mod places;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue};
use mcp::Era;
use tokio::time::Instant;

use super::http::pool::{Pool, PoolSettings};
use super::http::tls::UpstreamTls;
use super::stdio::child::ServerCommand;
use super::{
    Background, Health, ListChanges, ProcessStarts, ResourceUpdates, RpcOutcome, ServerHandshake,
    SharedSubscriptions, Upstream, UpstreamCall, UpstreamError, UpstreamLimits,
};
use crate::config;
use adapter::Adapter;
use places::ProcessPlaces;

/// The header that carries the secret of an adapter.
const SECRET: HeaderName = HeaderName::from_static("x-toolgate-adapter");

pub struct IsolatedStdio {
    pool: Pool,
    adapter: Arc<Adapter>,
}

impl IsolatedStdio {
    /// Binds a port of the system's choice, and starts nothing yet.
    ///
    /// # Errors
    ///
    /// There is no port.
    pub fn new(
        name: &str,
        command: ServerCommand,
        own: config::StdioLimits,
        limits: &UpstreamLimits,
        config: &config::ServerConfig,
        tls: Arc<UpstreamTls>,
    ) -> Result<Self, String> {
        let socket = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
            .map_err(|error| format!("no loopback port for its processes: {error}"))?;
        let address = socket.local_addr().map_err(|error| error.to_string())?;
        let url: config::Url = format!("http://{address}{}", adapter::PATH).parse().map_err(str::to_owned)?;
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).expect("the system gives random bytes");
        let secret = hex(&secret);
        let mut value = HeaderValue::from_str(&secret).expect("hexadecimal digits");
        value.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(SECRET, value);
        let pool = Pool::new(PoolSettings { name, urls: &[url], headers, limits, config, tls }, None)?;
        let starts = Arc::new(ProcessStarts::default());
        pool.set_starts(&starts);
        let adapter = Adapter::new(socket, secret, command, ProcessPlaces::new(own), starts);
        Ok(Self { pool, adapter })
    }
}

/// Lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[async_trait]
impl Upstream for IsolatedStdio {
    async fn connect(&self, server_era: Era, until: Instant) -> Result<ServerHandshake, UpstreamError> {
        self.adapter.start().map_err(|error| UpstreamError::Unreachable(error.to_string()))?;
        if server_era == Era::Modern {
            let why = "with `isolation: session` it is used in the legacy era".into();
            return Err(UpstreamError::WrongEra(server_era, why));
        }
        self.pool.connect(server_era, until).await
    }

    async fn call(&self, ask: UpstreamCall<'_>) -> Result<RpcOutcome, UpstreamError> {
        self.pool.call(ask).await
    }

    async fn close(&self) {
        self.pool.close().await;
        self.adapter.stop().await;
    }

    fn update_limits(&self, limits: &UpstreamLimits) {
        self.pool.update_limits(limits);
    }

    fn endpoint_pool(&self) -> Option<&Pool> {
        Some(&self.pool)
    }

    fn list_changes(&self) -> Option<&dyn ListChanges> {
        self.pool.list_changes()
    }

    fn resource_updates(&self) -> Option<&dyn ResourceUpdates> {
        None
    }

    fn shared_subscriptions(&self) -> Option<&dyn SharedSubscriptions> {
        None
    }

    fn background(&self) -> Option<&dyn Background> {
        None
    }

    fn health(&self) -> Option<&dyn Health> {
        None
    }
}
