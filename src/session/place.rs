//! The seats of a session: each is taken when its server is first needed, taken again when the server has forgotten it
//! or another endpoint or configuration stands in its place, and left when nothing runs in it any more.
//!
//! A seat that was taken anew knows what the client had set in the one before (`memory`), and a client that listens goes
//! on listening there.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use filters::agree::quote;
use futures::StreamExt;
use futures::future::join_all;
use http::HeaderValue;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::{Deed, Heard, Item, Session};
use crate::plan::Plan;
use crate::protocol::wire;
use crate::server::Server;
use crate::upstream::http::Seat;
use crate::upstream::unasked::{Over, Place as Mark};
use crate::upstream::{Hello, Said, UpstreamError};

/// Pauses between two streams of a server's announcements, where it does not say how long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often it is looked whether anything still runs in a seat that is to be left.
const LOOK: Duration = Duration::from_millis(100);
/// How long a server may take to hear of an end, or of a level.
const BRIEF: Duration = Duration::from_secs(5);
/// How long the first call of a session waits for the stream of what the server says unasked.
const STANDS: Duration = Duration::from_secs(2);
/// Resources that are followed again at a time.
const AT_ONCE: usize = 4;
/// Pauses after each time that this did not work.
const AGAIN: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(5), Duration::ZERO];

/// A seat at one server, once it is taken.
pub struct Place {
    /// As it is configured now: its endpoints may change under a seat.
    server: ArcSwap<Server>,
    seat: ArcSwapOption<Seat>,
    /// Held by whoever takes the seat.
    taking: tokio::sync::Mutex<()>,
    /// Told when the seat is another, or not to be used any more.
    moved: Notify,
    /// Told when the server has answered to who listens, or will not.
    listens: Notify,
    /// The last `Authorization` of the caller, where the server wants it.
    bearer: ArcSwapOption<HeaderValue>,
    /// The task that listens to the server.
    attending: Mutex<Option<AbortHandle>>,
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
    fn usable(&self, server: &Server) -> Option<Arc<Seat>> {
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
    fn bearer(&self) -> Option<HeaderValue> {
        let seat = self.seat.load();
        let newest = seat.as_ref().and_then(|seat| seat.bearer());
        newest.or_else(|| self.bearer.load().as_deref().cloned())
    }

    fn set(&self, seat: Option<Arc<Seat>>) -> Option<Arc<Seat>> {
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

    fn stop(&self) {
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

    fn place(&self, server: &Arc<Server>) -> Arc<Place> {
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
    async fn take(
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

    /// Follows the resources of a lost seat in the new one. What changed in between nobody has told: the client is told
    /// of each, and looks.
    async fn follow_again(self: Arc<Self>, server: Arc<Server>, seat: Arc<Seat>, uris: Vec<String>) {
        let following = futures::stream::iter(uris).map(|uri| {
            let (session, server, seat) = (&self, &server, &seat);
            async move {
                let Some(http) = server.upstream.http() else { return };
                let params = Bytes::from(format!(r#"{{"uri":{}}}"#, quote(&uri)));
                for pause in AGAIN {
                    match http.request_in(seat, "resources/subscribe", params.clone()).await {
                        // If that seat is gone too, it all begins anew.
                        Ok(Said::Result(_)) | Err(UpstreamError::Forgotten) => break,
                        Ok(Said::Error(_)) => {
                            // It is there no more.
                            session.memory.note(&server.name, &Deed::Unfollow(uri));
                            break;
                        }
                        Err(error) => {
                            tracing::debug!(server = %server.name, %error, "a resource is not followed in a new seat");
                            tokio::time::sleep(pause).await;
                        }
                    }
                }
                let message = wire::notification("notifications/resources/updated", &params);
                session.outbox.put(Item { server: Some(server.clone()), message }).await;
            }
        });
        let ended = self.end();
        tokio::select! {
            () = following.buffer_unordered(AT_ONCE).collect::<()>() => {}
            () = ended.cancelled() => {}
        }
    }

    /// A plan has taken the place of another.
    pub(super) fn adopt(self: &Arc<Self>, plan: &Plan) {
        for place in self.all_places() {
            let old = place.server.load_full();
            match plan.servers.get(&old.name) {
                Some(now) if Arc::ptr_eq(now, &old) => {}
                Some(now) if now.serial == old.serial => {
                    // Its endpoints may be others.
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
        self.adopt_shared(plan);
    }

    /// What the client follows at a server it follows at the one in its place.
    pub(super) fn move_to(self: &Arc<Self>, now: &Arc<Server>, bearer: Option<HeaderValue>) {
        let (session, now) = (self.clone(), now.clone());
        if now.upstream.is_shared() {
            self.core.spawn(async move { session.share_again(&now).await });
        } else if now.upstream.http().is_some() && self.cares(&now.name) {
            self.core.spawn(async move {
                // If that fails, whoever attends to it tries on.
                let _ = session.seat(&now, bearer.as_ref()).await;
                let place = session.place(&now);
                session.attend(&place);
            });
        }
    }

    /// Leaves a place whose server is not configured any more, when nothing runs there.
    fn retire(self: &Arc<Self>, place: &Arc<Place>) {
        let server = place.server.load_full();
        {
            let mut places = self.places.lock().expect("no holder of the lock panics");
            if places.get(&server.serial).is_some_and(|known| Arc::ptr_eq(known, place)) {
                places.remove(&server.serial);
            }
        }
        place.stop();
        if let Some(seat) = place.set(None) {
            self.part(server, seat);
        }
    }

    /// Leaves a seat when nothing runs in it and nothing waits for an answer.
    fn part(self: &Arc<Self>, server: Arc<Server>, seat: Arc<Seat>) {
        let number = seat.number;
        self.parting.lock().expect("no holder of the lock panics").push((server, seat));
        let session = self.clone();
        self.core.spawn(async move {
            let ended = session.end();
            let since = Instant::now();
            loop {
                // A question that belongs to no call may never be answered.
                let waits = session.asked.waits(number) && since.elapsed() < LONGEST_PAUSE;
                if !waits && !session.runs.any(session.clock(), Some(number)) {
                    break;
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    // Whoever ends the session leaves this seat too, if he knows of it.
                    () = ended.cancelled() => break tokio::time::sleep(LOOK).await,
                }
            }
            let parting = {
                let mut parting = session.parting.lock().expect("no holder of the lock panics");
                let place = parting.iter().position(|(_, seat)| seat.number == number);
                place.map(|place| parting.swap_remove(place))
            };
            session.asked.forget(number);
            if let Some((server, seat)) = parting {
                left(&server, &seat, &[]).await;
            }
        });
    }

    /// Ends what runs and leaves all seats.
    pub(super) async fn leave(&self) {
        self.ended.cancel();
        let runs = self.runs.drain();
        for run in &runs {
            if let Some(stop) = &run.stop {
                stop.cancel();
            }
        }
        let places: Vec<Arc<Place>> = {
            let mut places = self.places.lock().expect("no holder of the lock panics");
            places.drain().map(|(_, place)| place).collect()
        };
        let seated = places.into_iter().map(|place| async move {
            place.stop();
            let _taking = place.taking.lock().await;
            Some((place.server.load_full(), place.set(None)?))
        });
        let mut seats: Vec<_> = join_all(seated).await.into_iter().flatten().collect();
        seats.append(&mut self.parting.lock().expect("no holder of the lock panics"));
        let leaving = seats.iter().map(|(server, seat)| {
            let here = |run: &super::Run| run.seat().is_some_and(|at| at.number == seat.number);
            let ids: Vec<Bytes> = runs.iter().filter(|run| here(run)).map(|run| run.id().clone()).collect();
            async move { left(server, seat, &ids).await }
        });
        tokio::join!(join_all(leaving), self.leave_shared());
    }

    /// Whether the client wants to hear of a server unasked.
    fn cares(&self, server: &str) -> bool {
        self.outbox.is_open() || self.memory.follows(server)
    }

    /// Has somebody listen to a server, for as long as the client cares.
    pub(super) fn attend(self: &Arc<Self>, place: &Arc<Place>) {
        let mut attending = place.attending.lock().expect("no holder of the lock panics");
        if attending.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (session, place, ended) = (Arc::downgrade(self), place.clone(), self.end());
        let task = self.core.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = attended(&session, &place) => {}
            }
        });
        *attending = Some(task.abort_handle());
    }
}

/// Whether a seat can be used: its endpoint is still one of the server's, and no worse than all others.
fn is_home(server: &Server, seat: &Seat) -> bool {
    server.upstream.http().is_some_and(|pool| pool.is_home(seat))
}

/// Tells an endpoint that a seat is left, and with it these requests: not every server ends them with the session.
async fn left(server: &Server, seat: &Seat, runs: &[Bytes]) {
    let Some(http) = server.upstream.http() else { return };
    let cancelled = runs.iter().map(|id| {
        let params =
            format!(r#"{{"requestId":{},"reason":"the session has ended"}}"#, String::from_utf8_lossy(id));
        tokio::time::timeout(BRIEF, http.notify(seat, crate::address::CANCELLED, params.into()))
    });
    join_all(cancelled).await;
    http.leave(seat).await;
}

/// Listens to what a server announces to a session: in each seat that the session has there, one stream after the other.
async fn attended(session: &Weak<Session>, place: &Arc<Place>) {
    let (mut mark, mut of, mut pause) = (Mark::default(), 0, FIRST_PAUSE);
    loop {
        let moved = place.moved.notified();
        let Some(alive) = session.upgrade() else { return };
        let server = place.server.load_full();
        let Some(seat) = place.usable(&server) else {
            if is_over(place, || alive.cares(&server.name)) {
                return;
            }
            match alive.take(place, place.bearer(), false).await {
                Ok(_) => continue,
                Err(UpstreamError::Ended) => return,
                Err(error) => {
                    tracing::debug!(server = %server.name, %error, "a seat could not be taken again yet");
                }
            }
            drop(alive);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            continue;
        };
        if of != seat.number {
            (mark, of) = (Mark::default(), seat.number);
        }
        drop(alive);
        let since = Instant::now();
        let over = {
            let (mut hearing, mut moved) = (pin!(hear(session, place, &server, &seat, &mut mark)), pin!(moved));
            loop {
                tokio::select! {
                    over = &mut hearing => break Some(over),
                    () = &mut moved => {
                        moved.set(place.moved.notified());
                        let now = place.usable(&place.server.load());
                        if now.is_none_or(|now| now.number != seat.number) {
                            break None;
                        }
                    }
                }
            }
        };
        let Some(over) = over else { continue };
        place.listens.notify_waiters();
        let Some(alive) = session.upgrade() else { return };
        match over {
            Ok(Over::Ended) => {}
            Ok(Over::Never) => {
                is_over(place, || false);
                return;
            }
            // The last stream of the client left, and as much waits as may wait.
            Ok(Over::Unheard) => {
                if is_over(place, || alive.outbox.is_open()) {
                    return;
                }
            }
            // A server that has no such stream may say 404 to whoever asks for one.
            Err(UpstreamError::Forgotten) => match is_known(&server, &seat).await {
                Some(false) => alive.forget(&server, &seat),
                Some(true) => {
                    is_over(place, || false);
                    return;
                }
                None => {}
            },
            Err(error) => {
                tracing::debug!(server = %server.name, %error, "an announcement stream broke off");
            }
        }
        drop(alive);
        // Streams that end as soon as they begin are opened less and less often, whatever the server asks for.
        if since.elapsed() > pause {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            () = tokio::time::sleep(mark.retry.unwrap_or_default().max(pause)) => {}
            () = place.moved.notified() => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Notes that nobody listens any more, unless there is a reason to go on; decided where [`Session::attend`] looks.
fn is_over(place: &Place, goes_on: impl FnOnce() -> bool) -> bool {
    let mut attending = place.attending.lock().expect("no holder of the lock panics");
    let over = !goes_on();
    if over {
        *attending = None;
    }
    over
}

/// Whether a server knows a seat, by a request that every server answers; none if it does not say.
async fn is_known(server: &Server, seat: &Seat) -> Option<bool> {
    let asked = server.upstream.http()?.request_in(seat, "ping", Bytes::from_static(b"{}"));
    match tokio::time::timeout(BRIEF, asked).await {
        Ok(Ok(_)) => Some(true),
        Ok(Err(UpstreamError::Forgotten)) => Some(false),
        _ => None,
    }
}

/// One stream of a server's announcements, to its end.
async fn hear(
    session: &Weak<Session>,
    place: &Place,
    server: &Arc<Server>,
    seat: &Seat,
    mark: &mut Mark,
) -> Result<Over, UpstreamError> {
    let Some(http) = server.upstream.http() else { return Ok(Over::Never) };
    let (out, mut said) = mpsc::channel::<Bytes>(8);
    let announced = async move { http.announcements(seat, mark, &place.listens, &out).await };
    let mut forward = pin!(async {
        while let Some(message) = said.recv().await {
            let Some(session) = session.upgrade() else { return };
            // An answer belongs to a stream that was gone on with.
            let Some(read) = wire::read(&message).filter(|read| !read.is_answer()) else { continue };
            let message = match session.hear(server, seat.number, &message, &read, None) {
                Heard::AsItIs => message,
                Heard::As(message) => message,
                Heard::Not => continue,
            };
            let outbox = session.outbox.clone();
            drop(session);
            if !outbox.put(Item { server: Some(server.clone()), message }).await {
                return;
            }
        }
    });
    tokio::select! {
        () = &mut forward => Ok(Over::Unheard),
        over = announced => {
            // What came before the end goes on.
            forward.await;
            over
        }
    }
}
