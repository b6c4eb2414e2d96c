//! A server at one URL that is asked over Streamable HTTP first, and over HTTP+SSE if it rejects the POST
//! request of the handshake (2025-11-25, basic/transports, "Backwards Compatibility").

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use http::HeaderMap;
use mcp::Era;
use tokio::time::Instant;

use super::http::pool::Pool;
use super::http::tls::UpstreamTls;
use super::sse::Sse;
use super::{
    Background, Health, ListChanges, ResourceUpdates, RpcOutcome, ServerHandshake, SharedSubscriptions,
    Upstream, UpstreamCall, UpstreamError, UpstreamLimits,
};

/// What a server over HTTP+SSE is made of, if it is one.
pub struct SseSettings {
    pub name: String,
    pub url: String,
    pub headers: HeaderMap,
    pub limits: UpstreamLimits,
    pub tls: Arc<UpstreamTls>,
}

/// One transport is in use at a time. It changes only with a handshake, before which no call is made.
pub struct HttpOrSse {
    http: Pool,
    settings: Mutex<SseSettings>,
    sse: OnceLock<Sse>,
    is_sse: AtomicBool,
}

impl HttpOrSse {
    pub fn new(http: Pool, settings: SseSettings) -> Self {
        Self { http, settings: Mutex::new(settings), sse: OnceLock::new(), is_sse: AtomicBool::new(false) }
    }

    /// Set while the server is one over HTTP+SSE.
    fn sse(&self) -> Option<&Sse> {
        self.sse.get().filter(|_| self.is_sse.load(Ordering::Relaxed))
    }

    fn in_use(&self) -> &dyn Upstream {
        match self.sse() {
            Some(sse) => sse,
            None => &self.http,
        }
    }

    fn settings(&self) -> std::sync::MutexGuard<'_, SseSettings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client is made when it is needed: most servers have no such transport.
    fn make_sse(&self) -> Result<&Sse, String> {
        if let Some(sse) = self.sse.get() {
            return Ok(sse);
        }
        let settings = self.settings();
        let SseSettings { name, url, headers, limits, tls } = &*settings;
        let sse = Sse::new(name, url, headers.clone(), limits, tls.clone())?;
        Ok(self.sse.get_or_init(|| sse))
    }

    async fn connect_legacy(&self, until: Instant) -> Result<ServerHandshake, UpstreamError> {
        if let Some(sse) = self.sse()
            && let Ok(handshake) = sse.connect(Era::Legacy, until).await
        {
            return Ok(handshake);
        }
        let refused = match self.http.connect(Era::Legacy, until).await {
            // It rejects the request as such, and would do so again.
            Err(refused @ UpstreamError::WrongEra(..)) => refused,
            answered => {
                if answered.is_ok() && self.is_sse.swap(false, Ordering::Relaxed) {
                    tracing::info!(server = %self.http.name, "it has Streamable HTTP now");
                }
                return answered;
            }
        };
        let Ok(sse) = self.make_sse() else { return Err(refused) };
        let handshake = sse.connect(Era::Legacy, until).await.map_err(|error| {
            tracing::debug!(server = %self.http.name, %error, "it has no HTTP+SSE either");
            refused
        })?;
        if !self.is_sse.swap(true, Ordering::Relaxed) {
            tracing::info!(
                server = %self.http.name,
                "it has the older transport HTTP+SSE; with `type: sse` it is not asked for another"
            );
        }
        Ok(handshake)
    }
}

#[async_trait]
impl Upstream for HttpOrSse {
    async fn connect(&self, server_era: Era, until: Instant) -> Result<ServerHandshake, UpstreamError> {
        match server_era {
            Era::Legacy => self.connect_legacy(until).await,
            Era::Modern => self.http.connect(server_era, until).await,
        }
    }

    async fn call(&self, ask: UpstreamCall<'_>) -> Result<RpcOutcome, UpstreamError> {
        match ask.server_era {
            Era::Legacy => self.in_use().call(ask).await,
            Era::Modern => self.http.call(ask).await,
        }
    }

    async fn close(&self) {
        if let Some(sse) = self.sse.get() {
            sse.close().await;
        }
        self.http.close().await;
    }

    fn update_limits(&self, limits: &UpstreamLimits) {
        self.settings().limits = limits.clone();
        self.http.update_limits(limits);
        if let Some(sse) = self.sse.get() {
            sse.update_limits(limits);
        }
    }

    fn endpoint_pool(&self) -> Option<&Pool> {
        self.in_use().endpoint_pool()
    }

    fn list_changes(&self) -> Option<&dyn ListChanges> {
        self.in_use().list_changes()
    }

    fn resource_updates(&self) -> Option<&dyn ResourceUpdates> {
        self.in_use().resource_updates()
    }

    fn shared_subscriptions(&self) -> Option<&dyn SharedSubscriptions> {
        self.in_use().shared_subscriptions()
    }

    fn background(&self) -> Option<&dyn Background> {
        self.http.background()
    }

    fn health(&self) -> Option<&dyn Health> {
        self.in_use().health()
    }
}
