//! The seats of a session: each is taken when its server is first needed, taken again when the server has forgotten it
//! or another endpoint or configuration stands in its place.
//!
//! A seat that was taken anew knows what the client had set in the one before (`memory`), and a client that listens goes
//! on listening there (`listening`). How seats are left is in `leaving`.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use futures::future::join_all;
use http::HeaderValue;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::id_map::CANCELLED;
use super::{Servers, Session};
use crate::server::Server;
use crate::upstream::http::Seat;
use crate::upstream::{Hello, Said, UpstreamError, WireId};

/// How long a server may take to hear of a level, or of an end.
const BRIEF: Duration = Duration::from_secs(5);
/// How long the first call of a session waits for the stream of what the server says unasked.
const STANDS: Duration = Duration::from_secs(1);
/// All sessions that a reload moves do not come at once.
const SPREAD: Duration = Duration::from_secs(1);

/// A seat at one server, once it is taken.
pub struct Place {
    /// As it is configured now: its endpoints may change under a seat.
    pub(super) server: ArcSwap<Server>,
    pub(super) seat: ArcSwapOption<Seat>,
    /// Held by whoever takes the seat.
    pub(super) taking: tokio::sync::Mutex<()>,
    /// Told when the seat is another, or not to be used any more.
    pub(super) moved: Notify,
    /// Told when the server has answered to who listens, or will not.
    pub(super) listens: Notify,
    /// The last `Authorization` of the caller, where the server wants it.
    bearer: ArcSwapOption<HeaderValue>,
    /// The task that listens to the server.
    pub(super) attending: Mutex<Option<AbortHandle>>,
}

impl Place {
    fn new(server: &Arc<Server>) -> Arc<Self> {
        Arc::new(Self {
            server: ArcSwap::new(server.clone()),
            seat: ArcSwapOption::empty(),
            taking: tokio::sync::Mutex::new(()),
            moved: Notify::new(),
            listens: Notify::new(),
            bearer: ArcSwapOption::empty(),
            attending: Mutex::new(None),
        })
    }

    /// The name of its server.
    pub fn name(&self) -> Arc<str> {
        self.server.load().name.clone()
    }

    pub fn is_taken(&self) -> bool {
        self.seat.load().is_some()
    }

    /// The seat, if it can be used.
    pub(super) fn usable(&self, server: &Server) -> Option<Arc<Seat>> {
        let seat = self.seat.load();
        seat.as_ref().filter(|seat| is_home(server, seat)).cloned()
    }

    pub fn renew(&self, own: Option<&HeaderValue>) {
        if self.server.load().passthrough
            && let Some(seat) = &*self.seat.load()
        {
            seat.renew(own);
        }
    }

    /// The newest `Authorization` that is known here.
    pub(super) fn bearer(&self) -> Option<HeaderValue> {
        let seat = self.seat.load();
        let newest = seat.as_ref().and_then(|seat| seat.bearer());
        newest.or_else(|| self.bearer.load().as_deref().cloned())
    }

    pub(super) fn set(&self, seat: Option<Arc<Seat>>) -> Option<Arc<Seat>> {
        let bearer = self.bearer();
        let before = self.seat.swap(seat);
        self.bearer.store(bearer.map(Arc::new));
        self.moved.notify_waiters();
        before
    }

    /// Gives up the seat, if it is this one.
    fn give_up(&self, seat: &Arc<Seat>) -> bool {
        let before = self.seat.compare_and_swap(seat, None);
        let gone = before.as_ref().is_some_and(|before| Arc::ptr_eq(before, seat));
        if gone {
            self.bearer.store(seat.bearer().map(Arc::new));
            self.moved.notify_waiters();
        }
        gone
    }

    pub(super) fn stop(&self) {
        if let Some(task) = self.attending.lock().expect("no holder of the lock panics").take() {
            task.abort();
        }
    }
}

impl Session {
    /// The seat at a server, taken now if need be; many callers wait for one `initialize`. `bearer` is what a
    /// server wants to see that is called in its caller's name.
    pub async fn seat(
        self: &Arc<Self>,
        server: &Arc<Server>,
        bearer: Option<&HeaderValue>,
    ) -> Result<Arc<Seat>, UpstreamError> {
        let place = self.place(server);
        if let Some(seat) = place.usable(server) {
            seat.renew(bearer);
            return Ok(seat);
        }
        let (session, bearer) = (self.clone(), bearer.cloned());
        // On the long-lived runtime: the connection outlives the request that opened it.
        let taking = self.core.spawn(async move { session.take(&place, bearer, true).await });
        taking
            .await
            .unwrap_or_else(|_| Err(UpstreamError::Unreachable("the gateway is shutting down".into())))
    }

    /// The seats that are taken, with their servers.
    pub fn seats(&self) -> Vec<(Arc<Server>, Arc<Seat>)> {
        let taken = |place: &Arc<Place>| Some((place.server.load_full(), place.seat.load_full()?));
        self.all_places().iter().filter_map(taken).collect()
    }

    /// The seat of this number, as long as anything in it may go on.
    pub fn sitting(&self, number: u64) -> Option<(Arc<Server>, Arc<Seat>)> {
        let parting = self.parting.lock().expect("no holder of the lock panics");
        let found = parting.iter().find(|(_, seat)| seat.number == number).cloned();
        drop(parting);
        found.or_else(|| self.seats().into_iter().find(|(_, seat)| seat.number == number))
    }

    /// Whether an answer of this status says that the server has forgotten the seat in which it was asked, without having
    /// looked at what was asked. By 404 it does; by 400 it may, and is asked once more.
    pub async fn is_forgotten(&self, server: &Server, seat: &Arc<Seat>, status: u16) -> bool {
        match status {
            _ if seat.session.is_none() => false,
            404 => true,
            400 => {
                // Of many calls that are told so at once, those who come later find another seat or none.
                let holds = |place: Arc<Place>| {
                    let now = place.seat.load();
                    now.as_ref().is_some_and(|now| Arc::ptr_eq(now, seat))
                };
                if !self.place_of(server).is_some_and(holds) {
                    return true;
                }
                let Some(http) = server.upstream.http() else { return false };
                http.knows(seat).await == Some(false)
            }
            _ => false,
        }
    }

    /// Drops a seat that the server has forgotten; the next [`Self::seat`] takes a new one.
    pub fn forget(&self, server: &Server, seat: &Arc<Seat>) {
        if let Some(place) = self.place_of(server) {
            place.give_up(seat);
        }
        self.asked.forget(seat.number);
    }

    /// Drops a seat at an endpoint that does not answer; the next [`Self::seat`] takes one at another.
    pub fn lose(self: &Arc<Self>, server: &Arc<Server>, seat: &Arc<Seat>) {
        if self.place_of(server).is_some_and(|place| place.give_up(seat)) {
            self.part(server.clone(), seat.clone());
        }
    }

    pub(super) fn all_places(&self) -> Vec<Arc<Place>> {
        self.places.lock().expect("no holder of the lock panics").values().cloned().collect()
    }

    fn place_of(&self, server: &Server) -> Option<Arc<Place>> {
        self.places.lock().expect("no holder of the lock panics").get(&server.serial).cloned()
    }

    pub(super) fn place(&self, server: &Arc<Server>) -> Arc<Place> {
        if server.passthrough {
            self.lends.store(true, Ordering::Relaxed);
        }
        let mut places = self.places.lock().expect("no holder of the lock panics");
        let place = places.entry(server.serial).or_insert_with(|| Place::new(server));
        // A call that began before a reload may come with the old one.
        if !Arc::ptr_eq(&place.server.load(), server) && !server.retired.is_cancelled() {
            place.server.store(server.clone());
        }
        place.clone()
    }

    /// Takes the seat, for a call or for who listens.
    pub(super) async fn take(
        self: &Arc<Self>,
        place: &Arc<Place>,
        bearer: Option<HeaderValue>,
        calls: bool,
    ) -> Result<Arc<Seat>, UpstreamError> {
        let taking = place.taking.lock().await;
        // Whoever ends the session waits for us, and finds the seat, or finds none.
        if self.ended.is_cancelled() {
            return Err(UpstreamError::Ended);
        }
        let server = place.server.load_full();
        if let Some(seat) = place.usable(&server) {
            seat.renew(bearer.as_ref());
            return Ok(seat);
        }
        // Its endpoint is gone or out of order: another takes the session over, as one that has forgotten it. What runs
        // there may go on.
        if let Some(lost) = place.set(None) {
            self.part(server.clone(), lost);
        }
        let (seat, hello) = self.open(&server, bearer).await?;
        if self.ended.is_cancelled() {
            left(&server, &seat, &[]).await;
            return Err(UpstreamError::Ended);
        }
        self.level(&server, &seat, &hello).await;
        place.set(Some(seat.clone()));
        drop(taking);
        if server.retired.is_cancelled() && place.server.load().retired.is_cancelled() {
            // For a call that began before a reload.
            self.retire(place);
            return Ok(seat);
        }
        let followed = self.memory.followed(&server.name);
        if !followed.is_empty() {
            self.core.spawn(self.clone().follow_again(server.clone(), seat.clone(), followed));
        }
        if self.cares(&server.name) {
            let listens = place.listens.notified();
            self.attend(place);
            if calls {
                // What the server says unasked in the first call is heard by a stream that stands, and else by nobody.
                let _ = tokio::time::timeout(STANDS, listens).await;
            }
        }
        Ok(seat)
    }

    async fn open(
        &self,
        server: &Server,
        bearer: Option<HeaderValue>,
    ) -> Result<(Arc<Seat>, Hello), UpstreamError> {
        let Some(http) = server.upstream.http() else {
            return Err(UpstreamError::Nonsense("it keeps no sessions".into()));
        };
        let mut params = format!(r#"{{"protocolVersion":"{}","capabilities":"#, self.version).into_bytes();
        params.extend_from_slice(&self.capabilities);
        params.extend_from_slice(br#","clientInfo":"#);
        params.extend_from_slice(&self.client_info);
        params.push(b'}');
        let (seat, hello) = http.open(self.key(), &params, bearer).await?;
        Ok((Arc::new(seat), hello))
    }

    /// Tells a server in a new seat how much the client wants to hear, before it hears of anything.
    async fn level(&self, server: &Server, seat: &Seat, hello: &Hello) {
        let (Some(params), Some(http)) = (self.memory.level(), server.upstream.http()) else { return };
        if hello.offers("logging", None) {
            let told = http.request_in(seat, "logging/setLevel", params);
            if !matches!(tokio::time::timeout(BRIEF, told).await, Ok(Ok(Said::Result(_)))) {
                tracing::debug!(server = %server.name, "the level of log messages was not set in a new seat");
            }
        }
    }

    /// Other servers have taken the places of some.
    pub(super) fn adopt(self: &Arc<Self>, servers: &Servers) {
        for place in self.all_places() {
            let old = place.server.load_full();
            match servers.get(&old.name) {
                Some(now) if Arc::ptr_eq(now, &old) => {}
                Some(now) if now.serial == old.serial => {
                    // Its endpoints may be others; what runs at one that is gone may go on there.
                    let is_gone =
                        |seat: &Arc<Seat>| now.upstream.http().is_none_or(|pool| pool.place(seat).is_none());
                    if place.seat.load().as_ref().is_some_and(is_gone)
                        && let Some(seat) = place.set(None)
                    {
                        self.part(old.clone(), seat);
                    }
                    place.server.store(now.clone());
                    place.moved.notify_waiters();
                }
                now => {
                    let bearer = place.bearer();
                    self.retire(&place);
                    if let Some(now) = now {
                        self.move_to(now, bearer);
                    }
                }
            }
        }
        self.adopt_shared(servers);
    }

    /// What the client follows at a server it follows at the one in its place.
    pub(super) fn move_to(self: &Arc<Self>, now: &Arc<Server>, bearer: Option<HeaderValue>) {
        let (session, now) = (self.clone(), now.clone());
        if now.upstream.is_shared() {
            if self.memory.followed(&now.name).is_empty() {
                return;
            }
            // Before a reload can pass that finds nothing to go on with.
            self.fall_behind(&now);
            self.core.spawn(async move { session.share_again(&now).await });
        } else if now.upstream.http().is_some() && self.cares(&now.name) {
            self.core.spawn(async move {
                tokio::time::sleep(part_of(SPREAD)).await;
                // If that fails, whoever attends to it tries on.
                let _ = session.seat(&now, bearer.as_ref()).await;
                let place = session.place(&now);
                session.attend(&place);
            });
        }
    }
}

/// A part of a time, by chance.
pub(super) fn part_of(time: Duration) -> Duration {
    time.mul_f64(getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX)))
}

/// Whether a seat can be used: its endpoint is still one of the server's, and no worse than all others.
fn is_home(server: &Server, seat: &Seat) -> bool {
    server.upstream.http().is_some_and(|pool| pool.is_home(seat))
}

/// Tells an endpoint that a seat is left, and with it these requests: not every server ends them with the session.
pub(super) async fn left(server: &Server, seat: &Seat, runs: &[WireId]) {
    let Some(http) = server.upstream.http() else { return };
    let cancelled = runs.iter().map(|id| {
        let params = format!(r#"{{"requestId":{},"reason":"the session has ended"}}"#, id.as_str());
        tokio::time::timeout(BRIEF, http.notify(seat, CANCELLED, params.into()))
    });
    join_all(cancelled).await;
    http.leave(seat).await;
}
