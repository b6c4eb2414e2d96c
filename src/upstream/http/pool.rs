//! The equal endpoints of one server and their health; the choice among them is in `balance`.
//!
//! The endpoints are an immutable array of atomics. A reload that only changes the set of endpoints makes a
//! new pool around those that stay ([`Pool::new`]), with their connections, sessions and state.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::sync::{Notify, mpsc, watch};

use super::endpoint_health::{EndpointFault, HealthChange};
use super::notifications::{NotificationsEnd, StreamCursor};
use super::retry::Retry;
use super::tls::UpstreamTls;
use super::{HttpEndpoint, UpstreamSession};
use crate::config::{self, Balance};
use crate::upstream::{Peer, ProcessStarts, RpcOutcome, ServerHandshake, UpstreamError, UpstreamLimits};

/// Timeout of opening a session at one endpoint, if there is another.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The endpoints of one server. Its `impl` is spread over these files:
///
/// - `pool`: calls of clients and their results.
/// - `balance`: the choice of an endpoint.
/// - `maintenance`: calls of the gateway itself, checks, names.
pub struct Pool {
    pub(crate) name: Arc<str>,
    pub(crate) endpoints: Box<[Arc<HttpEndpoint>]>,
    pub(crate) balance: Balance,
    pub retry: Retry,
    /// Failures in a row that take an endpoint out.
    pub(crate) failure_limit: u32,
    pub(crate) interval: Duration,
    pub(crate) turn: AtomicUsize,
    /// The endpoint that the gateway's own requests use.
    pub(crate) primary: AtomicUsize,
    /// The eras that the server speaks, once they are known.
    pub(crate) eras: watch::Sender<[bool; 2]>,
    started: Instant,
    pub(crate) closed: AtomicBool,
}

/// The settings of a pool.
pub struct PoolSettings<'a> {
    pub name: &'a str,
    pub urls: &'a [config::Url],
    pub headers: HeaderMap,
    pub limits: &'a UpstreamLimits,
    pub config: &'a config::ServerConfig,
    pub tls: Arc<UpstreamTls>,
}

/// A call at an endpoint, which counts as in flight until it is dropped.
pub struct EndpointGuard {
    endpoint: Arc<HttpEndpoint>,
    index: usize,
    /// Its result was recorded.
    recorded: bool,
}

impl EndpointGuard {
    pub fn endpoint(&self) -> &Arc<HttpEndpoint> {
        &self.endpoint
    }

    pub fn index(&self) -> usize {
        self.index
    }

    /// Whether this is the first result.
    pub fn record(&mut self) -> bool {
        !std::mem::replace(&mut self.recorded, true)
    }
}

impl Drop for Pool {
    /// A pool that never ran, since its configuration was invalid as a whole.
    fn drop(&mut self) {
        if !*self.closed.get_mut() {
            for endpoint in &self.endpoints {
                endpoint.release();
            }
        }
    }
}

impl Drop for EndpointGuard {
    fn drop(&mut self) {
        self.endpoint.health.end_call();
    }
}

impl Pool {
    /// Takes over endpoints that were in `before`. Only for a pool of the same server that differs in nothing
    /// else.
    pub fn new(settings: PoolSettings<'_>, before: Option<&Pool>) -> Result<Self, String> {
        let endpoints = settings.urls.iter().map(|url| {
            let url = url.uri().to_string();
            let known = before.iter().flat_map(|pool| &pool.endpoints).find(|known| known.is_at(&url));
            match known {
                Some(known) => Ok(known.clone()),
                None => HttpEndpoint::new(
                    settings.name,
                    &url,
                    settings.headers.clone(),
                    settings.limits,
                    settings.tls.clone(),
                ),
            }
        });
        let endpoints = endpoints.collect::<Result<Box<[Arc<HttpEndpoint>]>, String>>()?;
        for endpoint in &endpoints {
            endpoint.pools.fetch_add(1, Ordering::AcqRel);
        }
        Ok(Self {
            name: settings.name.into(),
            endpoints,
            balance: settings.config.balance,
            retry: Retry::new(settings.config.retry.as_ref()),
            failure_limit: settings.config.health.unhealthy_after,
            interval: settings.config.health.interval.get(),
            turn: AtomicUsize::new(0),
            primary: AtomicUsize::new(0),
            eras: watch::Sender::new(before.map_or([false; 2], |pool| *pool.eras.borrow())),
            // One clock for all pools that ever contain an endpoint.
            started: before.map_or_else(Instant::now, |pool| pool.started),
            closed: AtomicBool::new(false),
        })
    }

    /// The endpoint of an upstream session, if it is one of this server's.
    pub fn index_of(&self, upstream_session: &UpstreamSession) -> Option<usize> {
        let at = upstream_session.endpoint.as_ptr();
        self.endpoints.iter().position(|endpoint| std::ptr::eq(at, Arc::as_ptr(endpoint)))
    }

    /// Whether an upstream session can be used: its endpoint is one of this server's, and gets calls unless
    /// no other does.
    pub fn can_serve(&self, upstream_session: &UpstreamSession) -> bool {
        let Some(index) = self.index_of(upstream_session) else { return false };
        self.endpoints.len() == 1 || self.healthy() & (1 << index) != 0 || !self.has_alternative(1 << index)
    }

    /// One of the endpoints, for what all have in common.
    pub fn any(&self) -> &Peer {
        &self.endpoints[0].peer
    }

    /// Counts a call at this endpoint.
    pub fn acquire(&self, index: usize) -> EndpointGuard {
        let endpoint = self.endpoints[index].clone();
        endpoint.health.begin_call();
        EndpointGuard { endpoint, index, recorded: false }
    }

    /// Records a call with any response.
    pub fn answered(&self, index: usize) {
        if self.endpoints.len() == 1 {
            return;
        }
        let change = self.endpoints[index].health.call_succeeded(self.clock());
        self.log_change(index, change, "a call was answered");
    }

    /// Records a call without a response.
    pub fn failed(&self, index: usize, fault: EndpointFault, why: &str) {
        if self.endpoints.len() == 1 {
            return;
        }
        // The last healthy endpoint is not ejected.
        let may_eject = self.healthy() & !(1 << index) != 0;
        let change =
            self.endpoints[index].health.call_failed(fault, self.failure_limit, may_eject, self.clock());
        self.log_change(index, change, why);
    }

    /// Records the result of a call at an endpoint, if there is none yet. An error that is no fault counts as
    /// a response.
    pub fn record(&self, endpoint_guard: &mut EndpointGuard, error: Option<&UpstreamError>) {
        if !endpoint_guard.record() {
            return;
        }
        match error.filter(|error| error.is_fault()) {
            Some(fault) => self.apply_change(endpoint_guard.index, fault),
            None => self.answered(endpoint_guard.index),
        }
    }

    /// Records the error of a call at an endpoint.
    pub fn apply_change(&self, index: usize, error: &UpstreamError) {
        match error {
            UpstreamError::Unreachable(why) => self.failed(index, EndpointFault::Connect, why),
            error if error.is_fault() => self.failed(index, EndpointFault::Response, &error.to_string()),
            _ => {}
        }
    }

    pub(crate) fn log_change(&self, index: usize, change: Option<HealthChange>, why: &str) {
        let (server, endpoint) = (&self.name, &self.endpoints[index].label);
        if self.endpoints.len() == 1 {
            return;
        }
        match change {
            Some(HealthChange::Down) => {
                tracing::warn!(%server, endpoint, why, "endpoint is down: its checks fail")
            }
            Some(HealthChange::Ejected(time)) => {
                tracing::warn!(%server, endpoint, ?time, why, "endpoint gets no calls for a while: they fail");
            }
            Some(HealthChange::Back) => tracing::info!(%server, endpoint, why, "endpoint is back"),
            None => {}
        }
    }

    /// Each endpoint by its label, with whether it gets calls; none for a server that has only one.
    pub fn states(&self) -> Vec<(&str, bool)> {
        let now = self.clock();
        let states = self.endpoints.iter().map(|end| (end.label.as_str(), end.health.is_eligible(now)));
        if self.endpoints.len() == 1 { Vec::new() } else { states.collect() }
    }

    pub(crate) fn clock(&self) -> u64 {
        // Never 0, which means "not" in the stored times.
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// Each session is a process, whose start is told here.
    pub fn set_starts(&self, starts: &Arc<ProcessStarts>) {
        for endpoint in &self.endpoints {
            endpoint.set_starts(starts.clone());
        }
    }

    /// Opens a session for a client: at another endpoint, if one cannot.
    pub async fn open(
        &self,
        key: u64,
        params: &[u8],
        bearer: Option<HeaderValue>,
        owner: u64,
    ) -> Result<(UpstreamSession, ServerHandshake), UpstreamError> {
        let mut failed = 0;
        loop {
            let index = self.pick(key, failed);
            let endpoint_guard = self.acquire(index);
            let more = self.has_alternative(failed | 1 << index);
            let endpoint = &endpoint_guard.endpoint;
            let opening = endpoint.open(params, bearer.clone(), endpoint.open_timeout(), Some(owner));
            let opened = if more {
                tokio::time::timeout(OPEN_TIMEOUT, opening)
                    .await
                    .unwrap_or(Err(UpstreamError::TimedOut(OPEN_TIMEOUT)))
            } else {
                opening.await
            };
            match opened {
                Err(error) if error.is_fault() => {
                    self.apply_change(index, &error);
                    failed |= 1 << index;
                    if !self.has_alternative(failed) {
                        return Err(error);
                    }
                }
                // That is no evidence against the endpoint.
                Err(error @ UpstreamError::Exhausted(_)) => return Err(error),
                other => {
                    self.answered(index);
                    return other;
                }
            }
        }
    }

    /// Closes a session at its endpoint.
    pub async fn close_session(&self, upstream_session: &UpstreamSession) {
        if let Some(endpoint) = upstream_session.endpoint.upgrade() {
            endpoint.close_session(upstream_session).await;
        }
    }

    pub async fn notify(
        &self,
        upstream_session: &UpstreamSession,
        method: &str,
        params: Bytes,
    ) -> Result<(), UpstreamError> {
        upstream_session
            .endpoint
            .upgrade()
            .ok_or(UpstreamError::SessionExpired)?
            .notify(upstream_session, method, params)
            .await
    }

    /// Sends a message of a session without a response, unchanged.
    pub async fn forward(
        &self,
        upstream_session: &UpstreamSession,
        body: Bytes,
    ) -> Result<(), UpstreamError> {
        upstream_session
            .endpoint
            .upgrade()
            .ok_or(UpstreamError::SessionExpired)?
            .forward(mcp::Era::Legacy, Some(upstream_session), body)
            .await
    }

    /// Sends one request in a session.
    pub async fn request_in(
        &self,
        upstream_session: &UpstreamSession,
        method: &str,
        params: Bytes,
    ) -> Result<RpcOutcome, UpstreamError> {
        upstream_session
            .endpoint
            .upgrade()
            .ok_or(UpstreamError::SessionExpired)?
            .request_in(upstream_session, method, params)
            .await
    }

    /// Replies to a request of the server in an upstream session.
    pub async fn reply(&self, upstream_session: &UpstreamSession, body: Bytes) {
        if let Some(endpoint) = upstream_session.endpoint.upgrade() {
            endpoint.reply(upstream_session, body).await;
        }
    }

    /// Whether the server knows an upstream session; see
    /// [`HttpEndpoint::knows_session`](super::HttpEndpoint::knows_session).
    pub async fn knows_session(&self, upstream_session: &UpstreamSession) -> Option<bool> {
        upstream_session.endpoint.upgrade()?.knows_session(upstream_session).await
    }

    /// Notifications to a session; see [`HttpEndpoint::announcements`](super::HttpEndpoint::announcements).
    pub async fn announcements(
        &self,
        upstream_session: &UpstreamSession,
        cursor: &mut StreamCursor,
        begun: &Notify,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<NotificationsEnd, UpstreamError> {
        upstream_session
            .endpoint
            .upgrade()
            .ok_or(UpstreamError::SessionExpired)?
            .announcements(upstream_session, cursor, begun, out)
            .await
    }
}
