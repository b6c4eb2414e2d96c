//! Requests of a session that are in flight: they can be cancelled, and keep a session from being idle.
//!
//! The end of an HTTP exchange is not the end of its request. A client of these protocol versions may
//! disconnect and come back (2025-11-25, transports: disconnection is not cancellation), and a server may end
//! a stream that is to be resumed. Such a request stays here until its response was seen, or the session
//! ends.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::Session;
use super::id_map::CANCELLED;
use crate::server::Server;
use crate::upstream::WireId;
use crate::upstream::http::UpstreamSession;
use mcp::jsonrpc::message;

/// Detached requests that are kept; beyond that, the oldest is dropped.
const MAX_IN_FLIGHT: usize = 64;
/// Bytes of the id of a request that is kept after it was detached.
const MAX_ID: usize = 1024;
/// How long a detached request keeps its session from being idle, in seconds.
const DETACHED_TTL_SECS: u64 = 15 * 60;

/// Answered requests whose ids are kept, since their client may resume the stream of the response.
const ANSWERED: usize = 32;

/// By id, as written, and those that are answered.
#[derive(Default)]
pub struct InFlight {
    live: Mutex<HashMap<Bytes, Arc<InFlightRequest>>>,
    answered: Mutex<VecDeque<AnsweredRequest>>,
}

/// The ids that an HTTP server gets instead of the client's id and progress token.
#[derive(Clone, Debug)]
pub struct SentIds {
    pub wire: WireId,
    /// The client's own token, as written.
    pub token: Option<Bytes>,
}

impl SentIds {
    /// For a message without a response.
    pub fn untracked() -> Self {
        Self { wire: WireId::next(), token: None }
    }
}

/// A request that is in flight.
pub struct InFlightRequest {
    id: Bytes,
    /// The ids that its server knows, if it is sent over HTTP.
    sent: Option<SentIds>,
    pub server: Arc<Server>,
    /// The upstream session that it was sent in, if it is sent over HTTP.
    upstream_session: ArcSwapOption<UpstreamSession>,
    /// Stops it if it runs in this process.
    pub stop: Option<CancellationToken>,
    /// The second of the session's clock in which its exchange ended without a response, plus one; 0 before.
    detached_at: AtomicU64,
}

/// A request as its client knows it.
#[derive(Clone, Debug)]
pub struct AnsweredRequest {
    pub id: Bytes,
    pub sent: SentIds,
}

impl InFlightRequest {
    pub fn upstream_session(&self) -> Option<Arc<UpstreamSession>> {
        self.upstream_session.load_full()
    }

    /// Records the upstream session that it is sent in.
    pub fn bind(&self, upstream_session: &Arc<UpstreamSession>) {
        self.upstream_session.store(Some(upstream_session.clone()));
    }

    /// The client's id, as written.
    pub fn id(&self) -> &Bytes {
        &self.id
    }

    /// The ids that its server knows, if it is sent over HTTP.
    pub fn sent(&self) -> Option<&SentIds> {
        self.sent.as_ref()
    }

    fn answered(&self) -> Option<AnsweredRequest> {
        Some(AnsweredRequest { id: self.id.clone(), sent: self.sent.clone()? })
    }

    fn is_live(&self, now: u64) -> bool {
        let detached = self.detached_at.load(Ordering::Relaxed);
        detached == 0 || detached + DETACHED_TTL_SECS > now
    }
}

/// The exchange of a request: its end is the end of the request, unless it is detached.
pub struct InFlightGuard {
    session: Arc<Session>,
    request: Arc<InFlightRequest>,
}

impl InFlightGuard {
    /// The exchange ended without a response: the request may continue without it.
    pub fn detach(&self) {
        if self.request.id.len() <= MAX_ID {
            self.request.detached_at.store(self.session.clock() + 1, Ordering::Relaxed);
            self.session.in_flight.evict();
        }
    }

    /// It was answered on a stream that its client may resume from before the response.
    pub fn remember(&self) {
        let Some(known) = self.request.answered() else { return };
        let mut answered = self.session.in_flight.answered.lock().expect("no holder of the lock panics");
        if answered.len() == ANSWERED {
            answered.pop_front();
        }
        answered.push_back(known);
    }

    /// Notifies its server that the response is no longer needed.
    pub fn cancel(&self, why: &'static str) {
        cancel(&self.session, &self.request, why);
    }

    /// Cancels the request at its server when the returned guard is dropped.
    pub fn cancel_on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(Some((self.session.clone(), self.request.clone())))
    }

    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub fn request(&self) -> &Arc<InFlightRequest> {
        &self.request
    }
}

/// Cancels a request at its server when it is dropped, unless the response has come.
pub struct CancelOnDrop(Option<(Arc<Session>, Arc<InFlightRequest>)>);

impl CancelOnDrop {
    /// The response has come.
    pub fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some((session, request)) = self.0.take() {
            cancel(&session, &request, "the client left");
        }
    }
}

fn cancel(session: &Session, request: &Arc<InFlightRequest>, why: &'static str) {
    let (request, Some(upstream_session)) = (request.clone(), request.upstream_session()) else { return };
    session.runtime.spawn(async move {
        let (Some(http), Some(sent)) = (request.server.endpoint_pool(), request.sent()) else {
            return;
        };
        let params = format!(r#"{{"requestId":{},"reason":"{why}"}}"#, sent.wire.as_str());
        if let Err(error) = http.notify(&upstream_session, CANCELLED, params.into()).await {
            tracing::debug!(server = %request.server.name, %error, "a call that timed out was not cancelled");
        }
    });
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.session.touch();
        if self.request.detached_at.load(Ordering::Relaxed) == 0 {
            self.session.in_flight.end(&self.request);
        }
    }
}

impl InFlight {
    pub fn begin(
        session: &Arc<Session>,
        id: Bytes,
        sent: Option<SentIds>,
        server: &Arc<Server>,
        stop: Option<CancellationToken>,
    ) -> InFlightGuard {
        let request = InFlightRequest {
            id: id.clone(),
            sent,
            server: server.clone(),
            upstream_session: ArcSwapOption::empty(),
            stop,
            detached_at: AtomicU64::new(0),
        };
        let request = Arc::new(request);
        session.in_flight.all().insert(id, request.clone());
        InFlightGuard { session: session.clone(), request }
    }

    /// The request of this id.
    pub fn get(&self, id: &[u8]) -> Option<Arc<InFlightRequest>> {
        let all = self.all();
        // Nearly always written as it was before.
        let known = all.get(id).or_else(|| all.values().find(|request| message::same_id(&request.id, id)));
        known.cloned()
    }

    /// The request that a server of this session knows by this id.
    pub fn answered_as(&self, wire: &[u8]) -> Option<AnsweredRequest> {
        let is = |sent: &SentIds| message::same_id(&sent.wire, wire);
        let live = self
            .all()
            .values()
            .find(|request| request.sent().is_some_and(is))
            .and_then(|request| request.answered());
        live.or_else(|| {
            let answered = self.answered.lock().expect("no holder of the lock panics");
            answered.iter().find(|known| is(&known.sent)).cloned()
        })
    }

    /// The response of a detached request was seen, or it was cancelled.
    pub fn remove(&self, id: &[u8]) {
        let request = self.get(id).filter(|request| request.detached_at.load(Ordering::Relaxed) > 0);
        if let Some(request) = request {
            self.end(&request);
        }
    }

    fn end(&self, request: &Arc<InFlightRequest>) {
        let mut all = self.all();
        // Its client may have begun another of the same id.
        if all.get(&request.id).is_some_and(|known| Arc::ptr_eq(known, request)) {
            all.remove(&request.id);
        }
    }

    /// Whether any request is in flight, as far as that can be known; of one upstream session, if one is
    /// named.
    pub fn any(&self, now: u64, upstream_session: Option<u64>) -> bool {
        let is_bound = |request: &InFlightRequest| {
            upstream_session.is_none_or(|number| {
                request
                    .upstream_session
                    .load()
                    .as_ref()
                    .is_some_and(|upstream_session| upstream_session.id == number)
            })
        };
        self.all().values().any(|request| request.is_live(now) && is_bound(request))
    }

    pub fn drain(&self) -> Vec<Arc<InFlightRequest>> {
        self.all().drain().map(|(_, request)| request).collect()
    }

    fn evict(&self) {
        let mut all = self.all();
        let detached = |request: &Arc<InFlightRequest>| request.detached_at.load(Ordering::Relaxed);
        if all.values().filter(|request| detached(request) > 0).count() > MAX_IN_FLIGHT {
            let oldest = all
                .values()
                .filter(|request| detached(request) > 0)
                .min_by_key(|request| detached(request))
                .cloned();
            oldest.map(|request| all.remove(&request.id));
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Bytes, Arc<InFlightRequest>>> {
        self.live.lock().expect("no holder of the lock panics")
    }
}
