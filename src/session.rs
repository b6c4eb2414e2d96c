//! Legacy sessions: what `initialize` opened, and the seats that it has at the servers behind.
//!
//! A session id is 192 random bits and means nothing outside this process. A session belongs to the caller that
//! opened it and to the endpoint it was opened on; for another caller or on another path it does not exist. Seats are taken when a server is first needed, taken again
//! once when the server has forgotten them, and left when the session ends.

mod asked;
mod outbox;
mod room;

use std::collections::HashMap;
use std::hash::Hasher as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use dashmap::DashMap;
use filters::Caller;
use http::HeaderValue;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::address;
use crate::server::Server;
use crate::telemetry::Metrics;
use crate::upstream::UpstreamError;
use crate::upstream::http::{Fnv, Place as Mark, Seat};

use asked::Asked;
pub use outbox::{Item, Outbox, Stream, TooMany};

/// Pauses between two streams of a server's announcements, where it does not say how long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub struct Session {
    pub id: String,
    /// The endpoint that it was opened on.
    pub path: Arc<str>,
    owner: Caller,
    /// The revision that was agreed on with the client.
    pub version: &'static str,
    /// The client's own `capabilities` and `clientInfo`, as JSON.
    capabilities: Bytes,
    client_info: Bytes,
    seats: Mutex<HashMap<u64, Arc<Place>>>,
    /// What waits for the client's streams of announcements.
    pub outbox: Arc<Outbox>,
    /// Whose lists it is told of when they change, once it has a stream.
    pub told: ArcSwapOption<Caller>,
    /// Servers' requests that the client may answer.
    pub asked: Asked,
    /// Requests that run, by their id as written, so that they can be cancelled.
    running: Mutex<HashMap<Bytes, Run>>,
    /// Seconds from the start of the process to the last sign of use.
    used: AtomicU64,
    /// Nothing has come in it since it was opened.
    unused: AtomicBool,
    started: Instant,
    ended: CancellationToken,
    core: Handle,
}

/// What of a server's message may reach the client; none for nothing of it.
pub type Pass = Arc<dyn Fn(&Server, Bytes) -> Option<Bytes> + Send + Sync>;

/// A request of this session that is under way.
#[derive(Clone)]
pub struct Run {
    pub server: Arc<Server>,
    /// Ends it where it runs in this process.
    pub stop: CancellationToken,
}

/// A seat at one server, once it is taken.
struct Place {
    /// As it is configured now: its endpoints may change under a seat.
    server: ArcSwap<Server>,
    seat: tokio::sync::Mutex<Option<Seat>>,
    listening: Mutex<Option<tokio::task::AbortHandle>>,
}

impl Session {
    /// The seat at a server, taken now if need be; many callers wait for one `initialize`. `bearer` is what a
    /// server wants to see that is called in its caller's name.
    pub async fn seat(
        self: &Arc<Self>,
        server: &Arc<Server>,
        bearer: Option<HeaderValue>,
    ) -> Result<Seat, UpstreamError> {
        let place = self.place(server);
        if let Ok(seat) = place.seat.try_lock()
            && let Some(seat) = &*seat
            && is_home(server, seat)
        {
            return Ok(seat.clone());
        }
        let session = self.clone();
        // On the long-lived runtime: the connection outlives the request that opened it.
        let taking = self.core.spawn(async move { session.take_seat(&place, bearer).await });
        taking
            .await
            .unwrap_or_else(|_| Err(UpstreamError::Unreachable("the gateway is shutting down".into())))
    }

    /// The seat at a server, if it was taken.
    pub async fn seated(&self, server: &Server) -> Option<Seat> {
        let place = self.seats.lock().expect("no holder of the lock panics").get(&server.serial).cloned();
        place?.seat.lock().await.clone()
    }

    /// Drops a seat that the server has forgotten; the next [`Self::seat`] takes a new one.
    pub async fn forget(&self, server: &Arc<Server>, seat: &Seat) {
        let place = self.place(server);
        let mut held = place.seat.lock().await;
        if held.as_ref() == Some(seat) {
            *held = None;
            stop(&place.listening);
        }
    }

    fn place(&self, server: &Arc<Server>) -> Arc<Place> {
        let mut seats = self.seats.lock().expect("no holder of the lock panics");
        let make = || {
            Arc::new(Place {
                server: ArcSwap::new(server.clone()),
                seat: tokio::sync::Mutex::new(None),
                listening: Mutex::new(None),
            })
        };
        let place = seats.entry(server.serial).or_insert_with(make);
        if !Arc::ptr_eq(&place.server.load(), server) {
            place.server.store(server.clone());
        }
        place.clone()
    }

    /// Stands for the session where servers are chosen by it: the same in every gateway.
    pub fn key(&self) -> u64 {
        let mut key = Fnv::default();
        key.write(self.id.as_bytes());
        key.finish()
    }

    async fn take_seat(
        self: Arc<Self>,
        place: &Arc<Place>,
        bearer: Option<HeaderValue>,
    ) -> Result<Seat, UpstreamError> {
        let mut held = place.seat.lock().await;
        let server = place.server.load_full();
        match held.take() {
            Some(seat) if is_home(&server, &seat) => {
                *held = Some(seat.clone());
                return Ok(seat);
            }
            // Its endpoint is gone or out of order: another takes the session over, as one that has forgotten it.
            Some(lost) => {
                stop(&place.listening);
                self.core.spawn(left(server.clone(), lost));
            }
            None => {}
        }
        let Some(http) = server.upstream.http() else {
            return Err(UpstreamError::Nonsense("it keeps no sessions".into()));
        };
        let mut params = format!(r#"{{"protocolVersion":"{}","capabilities":"#, self.version).into_bytes();
        params.extend_from_slice(&self.capabilities);
        params.extend_from_slice(br#","clientInfo":"#);
        params.extend_from_slice(&self.client_info);
        params.push(b'}');
        let (seat, _) = http.open(self.key(), &params, bearer).await?;
        *held = Some(seat.clone());
        drop(held);
        if self.outbox.is_open() {
            self.listen(place.clone(), seat.clone());
        }
        Ok(seat)
    }

    /// Attaches another stream of the client. What the servers of this session announce goes to one of them.
    pub fn attach(self: &Arc<Self>) -> Result<Stream, TooMany> {
        let stream = self.outbox.attach()?;
        let places: Vec<Arc<Place>> =
            self.seats.lock().expect("no holder of the lock panics").values().cloned().collect();
        for place in places {
            let session = self.clone();
            self.core.spawn(async move {
                let seat = place.seat.lock().await.clone();
                if let Some(seat) = seat {
                    session.listen(place, seat);
                }
            });
        }
        Ok(stream)
    }

    /// Forwards what one server announces to this session, until nobody takes it any more.
    fn listen(self: &Arc<Self>, place: Arc<Place>, seat: Seat) {
        let mut listening = place.listening.lock().expect("no holder of the lock panics");
        if listening.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (session, server, ended) = (Arc::downgrade(self), place.server.load_full(), self.ended.clone());
        let task = self.core.spawn(async move {
            let (out, mut said) = mpsc::channel::<Bytes>(8);
            let forward = async {
                while let Some(message) = said.recv().await {
                    let Some(session) = session.upgrade() else { return };
                    let Some(outward) = address::outward(&message, &server) else { continue };
                    if let Some(id) = outward.asks {
                        session.asked.note(server.serial, id.of(&message));
                    }
                    let item = Item { server: Some(server.clone()), message: outward.message };
                    if !session.outbox.put(item) {
                        return;
                    }
                }
            };
            tokio::select! {
                () = ended.cancelled() => {}
                () = forward => {}
                () = hear(&server, &seat, out) => {}
            }
        });
        *listening = Some(task.abort_handle());
    }

    /// Servers at which this session has a seat.
    pub fn servers(&self) -> Vec<Arc<Server>> {
        let seats = self.seats.lock().expect("no holder of the lock panics");
        seats.values().map(|place| place.server.load_full()).collect()
    }

    pub fn begin(&self, id: Bytes, run: Run) {
        self.running.lock().expect("no holder of the lock panics").insert(id, run);
    }

    pub fn finish(&self, id: &[u8]) -> Option<Run> {
        self.touch();
        self.running.lock().expect("no holder of the lock panics").remove(id)
    }

    fn touch(&self) {
        self.unused.store(false, Ordering::Relaxed);
        self.used.store(self.started.elapsed().as_secs(), Ordering::Relaxed);
    }

    pub fn run(&self, id: &[u8]) -> Option<Run> {
        self.running.lock().expect("no holder of the lock panics").get(id).cloned()
    }

    /// Cancelled when the session is over.
    pub fn end(&self) -> CancellationToken {
        self.ended.clone()
    }

    async fn leave(&self) {
        self.ended.cancel();
        for (_, run) in self.running.lock().expect("no holder of the lock panics").drain() {
            run.stop.cancel();
        }
        let places: Vec<Arc<Place>> = self
            .seats
            .lock()
            .expect("no holder of the lock panics")
            .drain()
            .map(|(_, place)| place)
            .collect();
        for place in places {
            stop(&place.listening);
            if let Some(seat) = place.seat.lock().await.take() {
                left(place.server.load_full(), seat).await;
            }
        }
    }
}

/// Whether a seat can be used: its endpoint is still one of the server's, and no worse than all others.
fn is_home(server: &Server, seat: &Seat) -> bool {
    server.upstream.http().is_some_and(|pool| pool.is_home(seat))
}

/// Tells an endpoint that a seat is left.
async fn left(server: Arc<Server>, seat: Seat) {
    if let Some(http) = server.upstream.http() {
        http.leave(&seat).await;
    }
}

/// Follows what a server announces in a seat: its stream, and the next one after it, each from where the last one ended.
async fn hear(server: &Server, seat: &Seat, out: mpsc::Sender<Bytes>) {
    let Some(http) = server.upstream.http() else { return };
    let (mut mark, mut pause) = (Mark::default(), FIRST_PAUSE);
    loop {
        let since = Instant::now();
        match http.announcements(seat, &mut mark, &out).await {
            Ok(true) => {}
            // It has no such stream, or nobody takes what it says.
            Ok(false) => return,
            Err(UpstreamError::Forgotten) => return,
            Err(error) => {
                tracing::debug!(server = %server.name, %error, "an announcement stream broke off");
            }
        }
        // Streams that end as soon as they begin are opened less and less often, whatever the server asks for.
        if since.elapsed() > pause {
            pause = FIRST_PAUSE;
        }
        tokio::time::sleep(mark.retry.unwrap_or_default().max(pause).min(LONGEST_PAUSE)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn stop(listening: &Mutex<Option<tokio::task::AbortHandle>>) {
    if let Some(task) = listening.lock().expect("no holder of the lock panics").take() {
        task.abort();
    }
}

/// All legacy sessions of this process.
pub struct Sessions {
    open: DashMap<String, Arc<Session>>,
    /// Held by who makes room.
    room: Mutex<()>,
    started: Instant,
    metrics: Arc<Metrics>,
    core: Handle,
}

#[derive(Debug, thiserror::Error)]
#[error("as many sessions are open as limits.max_sessions allows ({0})")]
pub struct Full(pub usize);

impl Sessions {
    pub fn new(metrics: Arc<Metrics>, core: Handle) -> Arc<Self> {
        Arc::new(Self {
            open: DashMap::new(),
            room: Mutex::default(),
            started: Instant::now(),
            metrics,
            core,
        })
    }

    pub fn open(
        &self,
        owner: Caller,
        path: &Arc<str>,
        version: &'static str,
        capabilities: Bytes,
        client_info: Bytes,
        max: usize,
    ) -> Result<Arc<Session>, Full> {
        if self.open.len() >= max && !self.make_room() {
            return Err(Full(max));
        }
        let mut random = [0; 24];
        getrandom::fill(&mut random).expect("the system gives random bytes");
        let session = Arc::new(Session {
            id: URL_SAFE_NO_PAD.encode(random),
            path: path.clone(),
            owner,
            version,
            capabilities,
            client_info,
            seats: Mutex::default(),
            outbox: Arc::default(),
            told: ArcSwapOption::empty(),
            asked: Asked::default(),
            running: Mutex::default(),
            used: AtomicU64::new(self.now()),
            unused: AtomicBool::new(true),
            started: self.started,
            ended: CancellationToken::new(),
            core: self.core.clone(),
        });
        self.open.insert(session.id.clone(), session.clone());
        self.metrics.sessions.set(self.open.len() as i64);
        Ok(session)
    }

    /// The session of this id, if it is this caller's and on this path.
    pub fn get(&self, id: &str, path: &str, caller: &Caller) -> Option<Arc<Session>> {
        let is_theirs = |session: &Session| &*session.path == path && session.owner.is_same_as(caller);
        let session = self.open.get(id).filter(|session| is_theirs(session))?.clone();
        session.touch();
        Some(session)
    }

    /// Ends a session; its seats are left in the background.
    pub fn end(&self, session: &Session) {
        if let Some((_, session)) = self.open.remove(&session.id) {
            self.metrics.sessions.set(self.open.len() as i64);
            self.core.spawn(async move { session.leave().await });
        }
    }

    /// Ends the sessions that nobody used for `ttl` and that nobody listens on.
    pub fn sweep(&self, ttl: Duration) {
        let oldest = self.now().saturating_sub(ttl.as_secs());
        let idle: Vec<Arc<Session>> = self
            .open
            .iter()
            .filter(|session| session.used.load(Ordering::Relaxed) < oldest)
            .filter(|session| session.is_idle())
            .map(|session| session.clone())
            .collect();
        for session in idle {
            self.end(&session);
        }
    }

    /// Ends all sessions and waits until the servers were told.
    pub async fn close(&self) {
        let all: Vec<Arc<Session>> = self.open.iter().map(|session| session.clone()).collect();
        self.open.clear();
        futures::future::join_all(all.iter().map(|session| session.leave())).await;
    }

    /// Seconds since the process started.
    fn now(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}
