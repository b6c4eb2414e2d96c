//! The upstream sessions of a session. Each is opened when its server is first needed. It is opened again
//! when the server has forgotten it, or another endpoint or configuration replaces it.
//!
//! A new upstream session gets what the client had set in the former one (`client_state`), and its
//! notifications are read again (`upstream_notifications`). How upstream sessions are closed is in
//! `upstream_close`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures::future::join_all;
use http::HeaderValue;
use mcp::version;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::id_map::CANCELLED;
use super::{Servers, Session};
use crate::server::Server;
use crate::upstream::http::UpstreamSession;
use crate::upstream::{RpcOutcome, ServerHandshake, UpstreamError, WireId};

/// Timeout for setting a log level and for closing an upstream session.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the first call of a session waits for the server's notification stream.
const STREAM_WAIT: Duration = Duration::from_secs(1);
/// Sessions that a reload moves reconnect spread over this time.
const SPREAD: Duration = Duration::from_secs(1);

/// The place of an upstream session at one server.
pub struct UpstreamSlot {
    /// As it is configured now: its endpoints may change under an upstream session.
    pub(super) server: ArcSwap<Server>,
    pub(super) session: ArcSwapOption<UpstreamSession>,
    /// Locked while an upstream session is opened.
    pub(super) connecting: tokio::sync::Mutex<()>,
    /// Notified when the upstream session is another, or must not be used any more.
    pub(super) migrated: Notify,
    /// Notified when the server has answered to the notification stream, or will not.
    pub(super) listening: Notify,
    /// The last `Authorization` of the caller, if the server needs it.
    bearer: ArcSwapOption<HeaderValue>,
    /// The task that reads the server's notifications.
    pub(super) subscription: Mutex<Option<AbortHandle>>,
    /// The number of the last upstream session whose server has no notification stream; 0 is none.
    without_stream: AtomicU64,
}

impl UpstreamSlot {
    fn new(server: &Arc<Server>) -> Arc<Self> {
        Arc::new(Self {
            server: ArcSwap::new(server.clone()),
            session: ArcSwapOption::empty(),
            connecting: tokio::sync::Mutex::new(()),
            migrated: Notify::new(),
            listening: Notify::new(),
            bearer: ArcSwapOption::empty(),
            subscription: Mutex::new(None),
            without_stream: AtomicU64::new(0),
        })
    }

    /// The name of its server.
    pub fn name(&self) -> Arc<str> {
        self.server.load().name.clone()
    }

    pub fn is_connected(&self) -> bool {
        self.session.load().is_some()
    }

    /// The upstream session, if it can be used.
    pub(super) fn usable(&self, server: &Server) -> Option<Arc<UpstreamSession>> {
        let upstream_session = self.session.load();
        upstream_session.as_ref().filter(|upstream_session| is_usable(server, upstream_session)).cloned()
    }

    pub fn renew(&self, own: Option<&HeaderValue>) {
        if self.server.load().forwards_client_auth()
            && let Some(upstream_session) = &*self.session.load()
        {
            upstream_session.renew(own);
        }
    }

    /// The server has said that this upstream session has no notification stream.
    pub(super) fn set_without_stream(&self, upstream_session: &UpstreamSession) {
        self.without_stream.store(upstream_session.id, Ordering::Relaxed);
    }

    /// Whether it has said so: it is not asked again with each reader that comes.
    pub(super) fn is_without_stream(&self) -> bool {
        let now = self.session.load();
        now.as_ref().is_some_and(|now| now.id == self.without_stream.load(Ordering::Relaxed))
    }

    /// The newest `Authorization` that is known here.
    pub(super) fn bearer(&self) -> Option<HeaderValue> {
        let upstream_session = self.session.load();
        let newest = upstream_session.as_ref().and_then(|upstream_session| upstream_session.bearer());
        newest.or_else(|| self.bearer.load().as_deref().cloned())
    }

    pub(super) fn set(&self, upstream_session: Option<Arc<UpstreamSession>>) -> Option<Arc<UpstreamSession>> {
        let bearer = self.bearer();
        let before = self.session.swap(upstream_session);
        self.bearer.store(bearer.map(Arc::new));
        self.migrated.notify_waiters();
        before
    }

    /// Clears the slot, if it holds this upstream session.
    fn clear_if(&self, upstream_session: &Arc<UpstreamSession>) -> bool {
        let before = self.session.compare_and_swap(upstream_session, None);
        let gone = before.as_ref().is_some_and(|before| Arc::ptr_eq(before, upstream_session));
        if gone {
            self.bearer.store(upstream_session.bearer().map(Arc::new));
            self.migrated.notify_waiters();
        }
        gone
    }

    pub(super) fn stop(&self) {
        if let Some(task) = self.subscription.lock().expect("no holder of the lock panics").take() {
            task.abort();
        }
    }
}

impl Session {
    /// The upstream session at a server, opened now if necessary; many callers wait for one `initialize`.
    /// `bearer` is the `Authorization` for a server that is called in its caller's name.
    pub async fn upstream_session(
        self: &Arc<Self>,
        server: &Arc<Server>,
        bearer: Option<&HeaderValue>,
    ) -> Result<Arc<UpstreamSession>, UpstreamError> {
        let slot = self.slot(server);
        if let Some(upstream_session) = slot.usable(server) {
            upstream_session.renew(bearer);
            return Ok(upstream_session);
        }
        let (session, bearer) = (self.clone(), bearer.cloned());
        // On the long-lived runtime: the connection outlives the request that opened it.
        let pending = self.runtime.spawn(async move { session.connect(&slot, bearer, true).await });
        pending
            .await
            .unwrap_or_else(|_| Err(UpstreamError::Unreachable("the gateway is shutting down".into())))
    }

    /// The open upstream sessions, with their servers.
    pub fn upstream_sessions(&self) -> Vec<(Arc<Server>, Arc<UpstreamSession>)> {
        let taken = |slot: &Arc<UpstreamSlot>| Some((slot.server.load_full(), slot.session.load_full()?));
        self.upstream_slots().iter().filter_map(taken).collect()
    }

    /// The upstream session of this number, as long as it is open or draining.
    pub fn upstream_session_by_id(&self, number: u64) -> Option<(Arc<Server>, Arc<UpstreamSession>)> {
        let draining = self.draining.lock().expect("no holder of the lock panics");
        let found = draining.iter().find(|(_, upstream_session)| upstream_session.id == number).cloned();
        drop(draining);
        found.or_else(|| {
            self.upstream_sessions().into_iter().find(|(_, upstream_session)| upstream_session.id == number)
        })
    }

    /// Whether a response of this status means that the server has forgotten the upstream session, without
    /// having processed the request. 404 means it; 400 may, and the server is asked once more.
    pub async fn is_session_expired(
        &self,
        server: &Server,
        upstream_session: &Arc<UpstreamSession>,
        status: u16,
    ) -> bool {
        match status {
            _ if upstream_session.session.is_none() => false,
            404 => true,
            400 => {
                // Of many calls that get this at once, the later ones find another upstream session or none.
                let holds = |slot: Arc<UpstreamSlot>| {
                    let now = slot.session.load();
                    now.as_ref().is_some_and(|now| Arc::ptr_eq(now, upstream_session))
                };
                if !self.slot_of(server).is_some_and(holds) {
                    return true;
                }
                let Some(http) = server.endpoint_pool() else { return false };
                http.knows_session(upstream_session).await == Some(false)
            }
            _ => false,
        }
    }

    /// Drops an upstream session that the server has forgotten; the next [`Self::upstream_session`] opens a
    /// new one.
    pub fn drop_upstream_session(&self, server: &Server, upstream_session: &Arc<UpstreamSession>) {
        if let Some(slot) = self.slot_of(server) {
            slot.clear_if(upstream_session);
        }
        self.server_requests.remove_session(upstream_session.id);
    }

    /// Drops an upstream session at an endpoint that does not answer; the next [`Self::upstream_session`]
    /// opens one at another.
    pub fn reconnect_upstream(
        self: &Arc<Self>,
        server: &Arc<Server>,
        upstream_session: &Arc<UpstreamSession>,
    ) {
        if self.slot_of(server).is_some_and(|slot| slot.clear_if(upstream_session)) {
            self.drain(server.clone(), upstream_session.clone());
        }
    }

    pub(super) fn upstream_slots(&self) -> Vec<Arc<UpstreamSlot>> {
        self.upstream_slots.lock().expect("no holder of the lock panics").values().cloned().collect()
    }

    fn slot_of(&self, server: &Server) -> Option<Arc<UpstreamSlot>> {
        self.upstream_slots.lock().expect("no holder of the lock panics").get(&server.serial).cloned()
    }

    pub(super) fn slot(&self, server: &Arc<Server>) -> Arc<UpstreamSlot> {
        if server.forwards_client_auth() {
            self.uses_client_auth.store(true, Ordering::Relaxed);
        }
        let mut slots = self.upstream_slots.lock().expect("no holder of the lock panics");
        let slot = slots.entry(server.serial).or_insert_with(|| UpstreamSlot::new(server));
        // A call that began before a reload may come with the old server.
        if !Arc::ptr_eq(&slot.server.load(), server) && !server.retired.is_cancelled() {
            slot.server.store(server.clone());
        }
        slot.clone()
    }

    /// Opens the upstream session, for a call or for the notification task.
    pub(super) async fn connect(
        self: &Arc<Self>,
        slot: &Arc<UpstreamSlot>,
        bearer: Option<HeaderValue>,
        calls: bool,
    ) -> Result<Arc<UpstreamSession>, UpstreamError> {
        let connect_lock = slot.connecting.lock().await;
        // The end of the session waits for this lock, and finds the upstream session, or finds none.
        if self.ended.is_cancelled() {
            return Err(UpstreamError::SessionClosed);
        }
        let server = slot.server.load_full();
        if let Some(upstream_session) = slot.usable(&server) {
            upstream_session.renew(bearer.as_ref());
            return Ok(upstream_session);
        }
        // Its endpoint is gone or unhealthy: another endpoint takes the session over, as one that has
        // forgotten it. Requests in flight there may continue.
        if let Some(lost) = slot.set(None) {
            self.drain(server.clone(), lost);
        }
        let (upstream_session, handshake) = self.open(&server, bearer).await?;
        if self.ended.is_cancelled() {
            close_session(&server, &upstream_session, &[]).await;
            return Err(UpstreamError::SessionClosed);
        }
        self.send_log_level(&server, &upstream_session, &handshake).await;
        slot.set(Some(upstream_session.clone()));
        drop(connect_lock);
        if server.retired.is_cancelled() && slot.server.load().retired.is_cancelled() {
            // For a call that began before a reload.
            self.remove(slot);
            return Ok(upstream_session);
        }
        let subscribed = self.client_state.subscriptions(&server.name);
        if !subscribed.is_empty() {
            self.runtime.spawn(self.clone().resubscribe(
                server.clone(),
                upstream_session.clone(),
                subscribed,
            ));
        }
        if self.wants_notifications(&server.name) {
            let is_open = slot.listening.notified();
            self.subscribe(slot);
            if calls {
                // Notifications during the first call are received only if the stream is open by then.
                let _ = tokio::time::timeout(STREAM_WAIT, is_open).await;
            }
        }
        Ok(upstream_session)
    }

    async fn open(
        &self,
        server: &Server,
        bearer: Option<HeaderValue>,
    ) -> Result<(Arc<UpstreamSession>, ServerHandshake), UpstreamError> {
        let Some(http) = server.endpoint_pool() else {
            return Err(UpstreamError::InvalidResponse("it keeps no sessions".into()));
        };
        let version = version::over_streamable_http(self.version);
        let mut params = format!(r#"{{"protocolVersion":"{version}","capabilities":"#).into_bytes();
        params.extend_from_slice(&self.capabilities);
        params.extend_from_slice(br#","clientInfo":"#);
        params.extend_from_slice(&self.client_info);
        params.push(b'}');
        let (upstream_session, handshake) =
            http.open(self.key(), &params, bearer, self.owner_key.number()).await?;
        Ok((Arc::new(upstream_session), handshake))
    }

    /// Sets the log level of the client in a new upstream session, before the server sends anything.
    async fn send_log_level(
        &self,
        server: &Server,
        upstream_session: &UpstreamSession,
        handshake: &ServerHandshake,
    ) {
        let (Some(params), Some(http)) = (self.client_state.level(), server.endpoint_pool()) else {
            return;
        };
        if handshake.has_capability("logging", None) {
            let set_level = http.request_in(upstream_session, "logging/setLevel", params);
            if !matches!(tokio::time::timeout(CLOSE_TIMEOUT, set_level).await, Ok(Ok(RpcOutcome::Result(_))))
            {
                tracing::debug!(server = %server.name, "the level of log messages was not set in a new upstream session");
            }
        }
    }

    /// Applies a reload that has replaced servers.
    pub(super) fn apply_servers(self: &Arc<Self>, servers: &Servers) {
        for slot in self.upstream_slots() {
            let old = slot.server.load_full();
            match servers.get(&old.name) {
                Some(now) if Arc::ptr_eq(now, &old) => {}
                Some(now) if now.serial == old.serial => {
                    // Its endpoints may have changed; requests in flight at a removed one may continue there.
                    let is_gone = |upstream_session: &Arc<UpstreamSession>| {
                        now.endpoint_pool().is_none_or(|pool| pool.index_of(upstream_session).is_none())
                    };
                    if slot.session.load().as_ref().is_some_and(is_gone)
                        && let Some(upstream_session) = slot.set(None)
                    {
                        self.drain(old.clone(), upstream_session);
                    }
                    slot.server.store(now.clone());
                    slot.migrated.notify_waiters();
                }
                now => {
                    let bearer = slot.bearer();
                    self.remove(&slot);
                    if let Some(now) = now {
                        self.migrate(now, bearer);
                    }
                }
            }
        }
        self.apply_shared(servers);
    }

    /// Moves the subscriptions of the client at a server to the server that replaces it.
    pub(super) fn migrate(self: &Arc<Self>, now: &Arc<Server>, bearer: Option<HeaderValue>) {
        let (session, now) = (self.clone(), now.clone());
        if now.upstream.shared_subscriptions().is_some() {
            if self.client_state.subscriptions(&now.name).is_empty() {
                return;
            }
            // Before a reload can pass that finds nothing to continue.
            self.mark_stale(&now);
            self.runtime.spawn(async move { session.resubscribe_shared(&now).await });
        } else if now.forwards_natively() && self.wants_notifications(&now.name) {
            self.runtime.spawn(async move {
                tokio::time::sleep(jittered(SPREAD)).await;
                // If that fails, the notification task tries again.
                let _ = session.upstream_session(&now, bearer.as_ref()).await;
                let slot = session.slot(&now);
                session.subscribe(&slot);
            });
        }
    }
}

/// A random part of a duration.
pub(super) fn jittered(time: Duration) -> Duration {
    time.mul_f64(getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX)))
}

/// Whether an upstream session can be used: its endpoint still belongs to the server, and is no worse than
/// all others.
fn is_usable(server: &Server, upstream_session: &UpstreamSession) -> bool {
    server.endpoint_pool().is_some_and(|pool| pool.can_serve(upstream_session))
}

/// Closes an upstream session at its endpoint, and cancels these requests: not every server ends them with
/// the session.
pub(super) async fn close_session(server: &Server, upstream_session: &UpstreamSession, in_flight: &[WireId]) {
    let Some(http) = server.endpoint_pool() else { return };
    let cancelled = in_flight.iter().map(|id| {
        let params = format!(r#"{{"requestId":{},"reason":"the session has ended"}}"#, id.as_str());
        tokio::time::timeout(CLOSE_TIMEOUT, http.notify(upstream_session, CANCELLED, params.into()))
    });
    join_all(cancelled).await;
    http.close_session(upstream_session).await;
}
