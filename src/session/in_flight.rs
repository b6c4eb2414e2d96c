//! Requests of a session that are under way: what can be cancelled, and what keeps a session from being idle.
//!
//! The end of an exchange over HTTP is not the end of its request: a client of these revisions may leave and come back
//! (2025-11-25, transports: disconnection is not cancellation), and a server may end a stream that is to be gone on with.
//! Such a request stays here until its answer was seen, or the session ends.

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
use crate::upstream::http::Seat;
use mcp::jsonrpc::message;

/// Requests without an exchange that are kept; of more, the oldest is given up.
const MOST: usize = 64;
/// Bytes of an id that is kept without an exchange.
const LONGEST: usize = 1024;
/// How long one of these keeps its session from being idle, in seconds.
const LEFT: u64 = 15 * 60;

/// Answered requests whose ids are kept, since their client may go on with the stream of the answer.
const ANSWERED: usize = 32;

/// By id, as written, and those that are answered.
#[derive(Default)]
pub struct Runs {
    live: Mutex<HashMap<Bytes, Arc<Run>>>,
    answered: Mutex<VecDeque<Known>>,
}

/// What goes to an HTTP server in the places of the client's id and progress token.
#[derive(Clone, Debug)]
pub struct Sent {
    pub wire: WireId,
    /// The client's own token, as written.
    pub token: Option<Bytes>,
}

impl Sent {
    /// For a message that no answer comes to.
    pub fn aside() -> Self {
        Self { wire: WireId::next(), token: None }
    }
}

/// A request that is under way.
pub struct Run {
    id: Bytes,
    /// What its server knows it by, where it goes over HTTP.
    sent: Option<Sent>,
    pub server: Arc<Server>,
    /// The seat that it was sent in, where it goes over HTTP.
    seat: ArcSwapOption<Seat>,
    /// Ends it where it runs in this process.
    pub stop: Option<CancellationToken>,
    /// The second of the session's clock in which its exchange ended without an answer, and one more; 0 before.
    left: AtomicU64,
}

/// A request as its client knows it.
#[derive(Clone, Debug)]
pub struct Known {
    pub id: Bytes,
    pub sent: Sent,
}

impl Run {
    pub fn seat(&self) -> Option<Arc<Seat>> {
        self.seat.load_full()
    }

    /// It is sent in this seat.
    pub fn sits(&self, seat: &Arc<Seat>) {
        self.seat.store(Some(seat.clone()));
    }

    /// The client's id, as written.
    pub fn id(&self) -> &Bytes {
        &self.id
    }

    /// What its server knows it by, where it goes over HTTP.
    pub fn sent(&self) -> Option<&Sent> {
        self.sent.as_ref()
    }

    fn known(&self) -> Option<Known> {
        Some(Known { id: self.id.clone(), sent: self.sent.clone()? })
    }

    fn is_live(&self, now: u64) -> bool {
        let left = self.left.load(Ordering::Relaxed);
        left == 0 || left + LEFT > now
    }
}

/// The exchange of a request: its end is the end of the request, unless it is kept.
pub struct Begun {
    session: Arc<Session>,
    run: Arc<Run>,
}

impl Begun {
    /// The exchange is over and there was no answer: the request may go on without it.
    pub fn keep(&self) {
        if self.run.id.len() <= LONGEST {
            self.run.left.store(self.session.clock() + 1, Ordering::Relaxed);
            self.session.runs.shed();
        }
    }

    /// It was answered on a stream that its client may go on with from before the answer.
    pub fn remember(&self) {
        let Some(known) = self.run.known() else { return };
        let mut answered = self.session.runs.answered.lock().expect("no holder of the lock panics");
        if answered.len() == ANSWERED {
            answered.pop_front();
        }
        answered.push_back(known);
    }

    /// Tells its server that nobody waits for the answer.
    pub fn cancel(&self, why: &'static str) {
        let (run, Some(seat)) = (self.run.clone(), self.run.seat()) else { return };
        self.session.core.spawn(async move {
            let (Some(http), Some(sent)) = (run.server.upstream.http(), run.sent()) else { return };
            let params = format!(r#"{{"requestId":{},"reason":"{why}"}}"#, sent.wire.as_str());
            if let Err(error) = http.notify(&seat, CANCELLED, params.into()).await {
                tracing::debug!(server = %run.server.name, %error, "a call that timed out was not cancelled");
            }
        });
    }

    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.session.touch();
        if self.run.left.load(Ordering::Relaxed) == 0 {
            self.session.runs.end(&self.run);
        }
    }
}

impl Runs {
    pub fn begin(
        session: &Arc<Session>,
        id: Bytes,
        sent: Option<Sent>,
        server: &Arc<Server>,
        stop: Option<CancellationToken>,
    ) -> Begun {
        let run = Run {
            id: id.clone(),
            sent,
            server: server.clone(),
            seat: ArcSwapOption::empty(),
            stop,
            left: AtomicU64::new(0),
        };
        let run = Arc::new(run);
        session.runs.all().insert(id, run.clone());
        Begun { session: session.clone(), run }
    }

    /// The request of this id.
    pub fn get(&self, id: &[u8]) -> Option<Arc<Run>> {
        let all = self.all();
        // Nearly always written as it was before.
        let known = all.get(id).or_else(|| all.values().find(|run| message::same_id(&run.id, id)));
        known.cloned()
    }

    /// The request that a server of this session knows by this id.
    pub fn known_as(&self, wire: &[u8]) -> Option<Known> {
        let is = |sent: &Sent| message::same_id(&sent.wire, wire);
        let live = self.all().values().find(|run| run.sent().is_some_and(is)).and_then(|run| run.known());
        live.or_else(|| {
            let answered = self.answered.lock().expect("no holder of the lock panics");
            answered.iter().find(|known| is(&known.sent)).cloned()
        })
    }

    /// The answer of a request without an exchange was seen, or it was cancelled.
    pub fn done(&self, id: &[u8]) {
        let run = self.get(id).filter(|run| run.left.load(Ordering::Relaxed) > 0);
        if let Some(run) = run {
            self.end(&run);
        }
    }

    fn end(&self, run: &Arc<Run>) {
        let mut all = self.all();
        // Its client may have begun another of the same id.
        if all.get(&run.id).is_some_and(|known| Arc::ptr_eq(known, run)) {
            all.remove(&run.id);
        }
    }

    /// Whether any is under way, as far as that can be known; of one seat, if one is named.
    pub fn any(&self, now: u64, seat: Option<u64>) -> bool {
        let sits = |run: &Run| {
            seat.is_none_or(|number| run.seat.load().as_ref().is_some_and(|seat| seat.number == number))
        };
        self.all().values().any(|run| run.is_live(now) && sits(run))
    }

    pub fn drain(&self) -> Vec<Arc<Run>> {
        self.all().drain().map(|(_, run)| run).collect()
    }

    fn shed(&self) {
        let mut all = self.all();
        let left = |run: &Arc<Run>| run.left.load(Ordering::Relaxed);
        if all.values().filter(|run| left(run) > 0).count() > MOST {
            let oldest = all.values().filter(|run| left(run) > 0).min_by_key(|run| left(run)).cloned();
            oldest.map(|run| all.remove(&run.id));
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Bytes, Arc<Run>>> {
        self.live.lock().expect("no holder of the lock panics")
    }
}
