//! How the gateway itself calls a server with several endpoints, and its background tasks: it resolves the
//! endpoints' names again, and checks their health.
//!
//! Lists and notifications come from one endpoint, the primary one, as long as it is healthy. Equal endpoints
//! that are being replaced by a newer version differ for a while, and lists should not swing between the two.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use mcp::Era;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::HttpEndpoint;
use super::endpoint_health::HealthChange;
use super::pool::Pool;
use crate::upstream::{
    Background, Health, ListChanges, ResourceUpdates, RpcOutcome, ServerHandshake, Upstream, UpstreamCall,
    UpstreamError, UpstreamLimits, WatchEnd, gateway_params,
};

/// Names are resolved again after this time, give or take a fifth.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
/// The same after a name could not be resolved, or an address could not be connected to.
const RESOLVE_RETRY: Duration = Duration::from_secs(2);
/// Timeout of a handshake if there is another endpoint, and the shortest timeout of a check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

impl Pool {
    /// Tries one endpoint after the other, the primary one first, until one succeeds or fails by the caller's
    /// own fault. Each has the full timeout of the request, but no more than `per_try` while there is
    /// another.
    async fn try_each<'a, T: Send>(
        &self,
        per_try: Option<Duration>,
        ask: impl Fn(Arc<HttpEndpoint>) -> BoxFuture<'a, Result<T, UpstreamError>> + Send + Sync,
    ) -> Result<T, UpstreamError> {
        let mut failed = 0;
        let mut index = self.primary.load(Ordering::Relaxed);
        if index >= self.endpoints.len() || !self.endpoints[index].health.is_eligible(self.clock()) {
            index = self.pick(0, 0);
        }
        loop {
            let asking = ask(self.endpoints[index].clone());
            let more = self.has_alternative(failed | 1 << index);
            let asked = match per_try.filter(|_| more) {
                Some(per_try) => tokio::time::timeout(per_try, asking).await,
                None => Ok(asking.await),
            };
            // An endpoint that was cut short might have answered in time.
            let was_cut_short = asked.is_err();
            match asked.unwrap_or_else(|_| Err(UpstreamError::TimedOut(per_try.unwrap_or_default()))) {
                Err(error) if error.is_fault() => {
                    if !was_cut_short {
                        self.apply_change(index, &error);
                    }
                    failed |= 1 << index;
                    if !self.has_alternative(failed) {
                        return Err(error);
                    }
                    index = self.pick(0, failed);
                }
                other => {
                    self.primary.store(index, Ordering::Relaxed);
                    return other;
                }
            }
        }
    }

    fn primary(&self) -> &Arc<HttpEndpoint> {
        self.endpoints.get(self.primary.load(Ordering::Relaxed)).unwrap_or(&self.endpoints[0])
    }

    /// Whether the legacy lists came as event streams at the last request.
    pub fn lists_as_events(&self) -> bool {
        self.primary().lists_as_events.load(Ordering::Relaxed)
    }

    async fn resolve(&self, endpoint: &HttpEndpoint) {
        if endpoint.peer.is_literal() {
            // Never ends: the background task ends with its server.
            return std::future::pending().await;
        }
        loop {
            let pause = match endpoint.peer.resolve().await {
                Ok(()) => RESOLVE_INTERVAL,
                Err(error) => {
                    tracing::debug!(server = %self.name, endpoint = endpoint.label, %error, "its last good addresses stay");
                    RESOLVE_RETRY
                }
            };
            tokio::time::sleep(RESOLVE_RETRY).await;
            let _ =
                tokio::time::timeout(jittered(pause - RESOLVE_RETRY), endpoint.peer.stale.notified()).await;
        }
    }

    async fn health_check_loop(&self, index: usize) {
        let endpoint = &self.endpoints[index];
        // A check may be as slow as a handshake, which it is in the modern era and after a lost session.
        let timeout = CHECK_TIMEOUT.max(self.interval.min(endpoint.limits().timeout));
        let mut eras = self.eras.subscribe();
        loop {
            let Ok(spoken) = eras.wait_for(|eras| eras.contains(&true)).await.map(|eras| *eras) else {
                return;
            };
            match tokio::time::timeout(timeout, is_well(endpoint, spoken, timeout)).await {
                Ok(Ok(())) => {
                    let change = endpoint.health.check_passed(self.clock());
                    self.log_change(index, change, "its check passed");
                }
                // That is no evidence against the endpoint.
                Ok(Err(UpstreamError::Exhausted(_))) => {}
                failed => {
                    let late = UpstreamError::TimedOut(timeout);
                    let why = failed.ok().and_then(Result::err).unwrap_or(late);
                    let change: Option<HealthChange> = endpoint.health.check_failed(self.failure_limit);
                    self.log_change(index, change, &why.to_string());
                }
            }
            tokio::time::sleep(jittered(self.interval)).await;
        }
    }
}

/// Sends a health check in each era that the server speaks.
async fn is_well(endpoint: &HttpEndpoint, spoken: [bool; 2], timeout: Duration) -> Result<(), UpstreamError> {
    for server_era in Era::ALL {
        if spoken[server_era as usize] {
            let (method, params) = (server_era.codec().health_check(), gateway_params(server_era, ""));
            endpoint.call(UpstreamCall { server_era, method, params, progress: None, timeout }).await?;
        }
    }
    Ok(())
}

/// A fifth more or less, so that many gateways do not send at the same moment.
fn jittered(time: Duration) -> Duration {
    let random = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    time.mul_f64(0.8 + 0.4 * random)
}

#[async_trait]
impl Upstream for Pool {
    async fn connect(&self, server_era: Era, until: Instant) -> Result<ServerHandshake, UpstreamError> {
        let ask = |endpoint: Arc<HttpEndpoint>| {
            let connecting = async move { endpoint.connect(server_era, until).await };
            Box::pin(connecting) as BoxFuture<'_, _>
        };
        let outcome = self.try_each(Some(CHECK_TIMEOUT), ask).await;
        let speaks = outcome.is_ok();
        if speaks || matches!(outcome, Err(UpstreamError::WrongEra(..))) {
            self.eras
                .send_if_modified(|eras| std::mem::replace(&mut eras[server_era as usize], speaks) != speaks);
        }
        outcome
    }

    async fn call(&self, ask: UpstreamCall<'_>) -> Result<RpcOutcome, UpstreamError> {
        let (server_era, method, timeout) = (ask.server_era, ask.method, ask.timeout);
        self.try_each(None, |endpoint| {
            let params = ask.params.clone();
            Box::pin(async move {
                endpoint.call(UpstreamCall { server_era, method, params, progress: None, timeout }).await
            })
        })
        .await
    }

    fn update_limits(&self, limits: &UpstreamLimits) {
        for endpoint in &self.endpoints {
            endpoint.update_limits(limits);
        }
    }

    fn endpoint_pool(&self) -> Option<&Pool> {
        Some(self)
    }

    fn list_changes(&self) -> Option<&dyn ListChanges> {
        Some(self)
    }

    fn resource_updates(&self) -> Option<&dyn ResourceUpdates> {
        Some(self)
    }

    fn background(&self) -> Option<&dyn Background> {
        Some(self)
    }

    /// The only endpoint of a server is checked as the server.
    fn health(&self) -> Option<&dyn Health> {
        (self.endpoints.len() > 1).then_some(self as &dyn Health)
    }

    async fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        join_all(
            self.endpoints.iter().filter(|endpoint| endpoint.release()).map(|endpoint| endpoint.close()),
        )
        .await;
    }
}

#[async_trait]
impl ListChanges for Pool {
    async fn watch_lists(&self, server_era: Era, changed: &mpsc::Sender<()>) -> Result<(), UpstreamError> {
        self.primary().watch_lists(server_era, changed).await
    }
}

#[async_trait]
impl ResourceUpdates for Pool {
    async fn subscribe_resources(
        &self,
        listen: Bytes,
        out: mpsc::Sender<Bytes>,
    ) -> Result<WatchEnd, UpstreamError> {
        self.endpoints[self.pick(0, 0)].listen(Era::Modern, None, &listen, out).await
    }
}

#[async_trait]
impl Background for Pool {
    async fn run_background(&self) {
        let resolving = join_all(self.endpoints.iter().map(|endpoint| self.resolve(endpoint)));
        // The only endpoint of a server is checked as the server.
        let watched = if self.endpoints.len() == 1 { 0 } else { self.endpoints.len() };
        let watching = join_all((0..watched).map(|index| self.health_check_loop(index)));
        tokio::join!(resolving, watching);
    }
}

impl Health for Pool {
    fn is_healthy(&self) -> bool {
        self.endpoints.iter().any(|endpoint| !endpoint.health.is_down())
    }
}
