//! What servers say to a session unasked: somebody listens to each for as long as the client does, in whatever seat the
//! session has there.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use mcp::json::quote::quote;
use tokio::sync::mpsc;

use super::upstream_session::{Place, part_of};
use super::{Deed, Heard, Item, Session};
use crate::server::Server;
use crate::upstream::http::Seat;
use crate::upstream::http::notifications::{Over, Place as Mark};
use crate::upstream::{Said, UpstreamError};
use mcp::jsonrpc::message;

/// Pauses between two streams of a server's announcements, where it does not say how long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Resources that are followed again at a time.
const AT_ONCE: usize = 4;
/// Pauses after each time that this did not work.
const AGAIN: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(5), Duration::ZERO];

impl Session {
    /// Whether the client wants to hear of a server unasked.
    pub(super) fn cares(&self, server: &str) -> bool {
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

    /// Follows the resources of a lost seat in the new one. What changed in between nobody has told: the client is told
    /// of each, and looks.
    pub(super) async fn follow_again(
        self: Arc<Self>,
        server: Arc<Server>,
        seat: Arc<Seat>,
        uris: Vec<String>,
    ) {
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
                let message = message::notification("notifications/resources/updated", &params);
                session.outbox.put(Item { server: Some(server.clone()), message }).await;
            }
        });
        let ended = self.end();
        tokio::select! {
            () = following.buffer_unordered(AT_ONCE).collect::<()>() => {}
            () = ended.cancelled() => {}
        }
    }
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
            rest(place, pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            continue;
        };
        if of != seat.number {
            (mark, of) = (Mark::default(), seat.number);
        }
        drop(alive);
        let since = Instant::now();
        let over = {
            let (mut hearing, mut moved) =
                (pin!(hear(session, place, &server, &seat, &mut mark)), pin!(moved));
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
            Err(UpstreamError::Forgotten) => match knows(&server, &seat).await {
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
        rest(place, mark.retry.unwrap_or_default().max(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Waits so long, or a little longer, so that not all sessions come back at once; not when there is another seat.
async fn rest(place: &Place, pause: Duration) {
    tokio::select! {
        () = tokio::time::sleep(pause + part_of(pause.min(FIRST_PAUSE))) => {}
        () = place.moved.notified() => {}
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

/// Whether a server knows a seat; none if it does not say.
async fn knows(server: &Server, seat: &Seat) -> Option<bool> {
    server.upstream.http()?.knows(seat).await
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
            let Some(read) = message::read(&message).filter(|read| !read.is_answer()) else { continue };
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
