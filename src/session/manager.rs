//! All legacy sessions of this process: opened, looked up, and swept when idle.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use dashmap::DashMap;
use filters::Caller;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::session_limits::{OwnerKey, OwnerSessions, SessionLimits, TooManySessions};
use super::{Outbox, Servers, Session};
use crate::telemetry::Metrics;
use mcp::jsonrpc::message;

/// What a client says of itself with `initialize`, and the version that it got.
pub struct ClientInit {
    pub version: &'static str,
    pub capabilities: Bytes,
    pub client_info: Bytes,
}

pub struct SessionManager {
    pub(super) open: DashMap<String, Arc<Session>>,
    /// The same sessions by their owners.
    pub(super) by_owner: DashMap<OwnerKey, OwnerSessions>,
    /// Locked during an eviction. The second in which none of the sessions of so many callers could go.
    pub(super) eviction: Mutex<Option<u64>>,
    started: Instant,
    metrics: Arc<Metrics>,
    runtime: Handle,
}

impl SessionManager {
    pub fn new(metrics: Arc<Metrics>, runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            open: DashMap::new(),
            by_owner: DashMap::new(),
            eviction: Mutex::default(),
            started: Instant::now(),
            metrics,
            runtime,
        })
    }

    pub fn open(
        &self,
        owner_key: OwnerKey,
        path: &Arc<str>,
        version: &'static str,
        capabilities: Bytes,
        client_info: Bytes,
        limits: SessionLimits,
    ) -> Result<Arc<Session>, TooManySessions> {
        let init = ClientInit { version, capabilities, client_info };
        self.open_with(Arc::default(), owner_key, path, init, limits)
    }

    /// The same for a client that has its stream already.
    pub fn open_with(
        &self,
        outbox: Arc<Outbox>,
        owner_key: OwnerKey,
        path: &Arc<str>,
        init: ClientInit,
        limits: SessionLimits,
    ) -> Result<Arc<Session>, TooManySessions> {
        let ClientInit { version, capabilities, client_info } = init;
        if self.open.len() >= limits.total && !self.evict_idle(&owner_key) {
            return Err(TooManySessions::Total(limits.total));
        }
        let mut random = [0; 24];
        getrandom::fill(&mut random).expect("the system gives random bytes");
        let session = Arc::new(Session {
            id: URL_SAFE_NO_PAD.encode(random),
            path: path.clone(),
            owner: owner_key.owner().clone(),
            owner_key,
            version,
            supports_elicitation: ["sampling", "elicitation"]
                .iter()
                .any(|name| message::member(&capabilities, name).is_some()),
            capabilities,
            client_info,
            upstream_slots: Mutex::new(HashMap::new()),
            draining: Mutex::default(),
            outbox,
            list_change_caller: ArcSwapOption::empty(),
            shared: Mutex::default(),
            bridged_listens: super::BridgedListens::default(),
            server_requests: super::PendingServerRequests::default(),
            questions: super::ClientQuestions::default(),
            in_flight: super::InFlight::default(),
            client_state: super::ClientState::default(),
            uses_client_auth: AtomicBool::new(false),
            used: AtomicU64::new(self.now()),
            unused: AtomicBool::new(true),
            started: self.started,
            ended: CancellationToken::new(),
            runtime: self.runtime.clone(),
        });
        self.acquire_share(&session, limits.per_caller)?;
        self.open.insert(session.id.clone(), session.clone());
        self.metrics.sessions.set(self.open.len() as i64);
        Ok(session)
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// The session of this id, if it belongs to this caller and this path.
    pub fn get(&self, id: &str, path: &str, caller: &Caller) -> Option<Arc<Session>> {
        let is_theirs = |session: &Session| &*session.path == path && session.owner.same_principal(caller);
        let session = self.open.get(id).filter(|session| is_theirs(session))?.clone();
        session.touch();
        Some(session)
    }

    /// Ends a session; its upstream sessions are closed in the background.
    pub fn end(&self, session: &Session) {
        if let Some((_, session)) = self.open.remove(&session.id) {
            self.release_share(&session);
            self.metrics.sessions.set(self.open.len() as i64);
            self.runtime.spawn(async move { session.close_upstreams().await });
        }
    }

    /// Applies a reload: the state that sessions have at a replaced server moves to the server of the same
    /// name, or ends.
    pub fn apply_servers(&self, servers: &Servers) {
        let all: Vec<Arc<Session>> = self.open.iter().map(|session| session.clone()).collect();
        for session in all {
            session.apply_servers(servers);
        }
    }

    /// Ends the sessions that were not used for `ttl`, have no open stream and no request in flight.
    pub fn sweep(&self, ttl: Duration) {
        let now = self.now();
        let oldest = now.saturating_sub(ttl.as_secs());
        let idle: Vec<Arc<Session>> = self
            .open
            .iter()
            .filter(|session| session.used.load(Ordering::Relaxed) < oldest)
            .filter(|session| session.is_idle(now))
            .map(|session| session.clone())
            .collect();
        for session in idle {
            self.end(&session);
        }
    }

    /// Ends all sessions and waits until the servers were notified.
    pub async fn close(&self) {
        let all: Vec<Arc<Session>> = self.open.iter().map(|session| session.clone()).collect();
        self.open.clear();
        self.by_owner.clear();
        futures::future::join_all(all.iter().map(|session| session.close_upstreams())).await;
    }

    /// Seconds since the process started.
    pub(super) fn now(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}
