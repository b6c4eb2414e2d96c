//! What servers say to a session unasked: somebody listens to each for as long as the client does, in whatever seat the
//! session has there.

use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use mcp::json::quote::quote;
use tokio::sync::mpsc;

use super::upstream_session::{UpstreamSlot, jittered};
use super::{OutboxItem, Rewrite, Session, StateChange};
use crate::server::Server;
use crate::upstream::http::UpstreamSession;
use crate::upstream::http::notifications::{NotificationsEnd, StreamCursor as Mark};
use crate::upstream::{RpcOutcome, UpstreamError};
use mcp::jsonrpc::message;

/// Pauses between two streams of a server's announcements, where it does not say how long.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Resources that are followed again at a time.
const AT_ONCE: usize = 4;
/// Pauses after each time that this did not work.
const RETRY_DELAYS: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(5), Duration::ZERO];

impl Session {
    /// Whether the client wants to hear of a server unasked.
    pub(super) fn wants_notifications(&self, server: &str) -> bool {
        self.outbox.is_open() || self.client_state.is_subscribed(server)
    }

    /// Has somebody listen to a server, for as long as the client cares.
    pub(super) fn subscribe(self: &Arc<Self>, slot: &Arc<UpstreamSlot>) {
        let mut attending = slot.subscription.lock().expect("no holder of the lock panics");
        if attending.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (session, slot, ended) = (Arc::downgrade(self), slot.clone(), self.end());
        let task = self.runtime.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = run(&session, &slot) => {}
            }
        });
        *attending = Some(task.abort_handle());
    }

    /// Follows the resources of a lost seat in the new one. What changed in between nobody has told: the client is told
    /// of each, and looks.
    pub(super) async fn resubscribe(
        self: Arc<Self>,
        server: Arc<Server>,
        upstream_session: Arc<UpstreamSession>,
        uris: Vec<String>,
    ) {
        let following = futures::stream::iter(uris).map(|uri| {
            let (session, server, upstream_session) = (&self, &server, &upstream_session);
            async move {
                let Some(http) = server.upstream.endpoint_pool() else { return };
                let params = Bytes::from(format!(r#"{{"uri":{}}}"#, quote(&uri)));
                for pause in RETRY_DELAYS {
                    match http.request_in(upstream_session, "resources/subscribe", params.clone()).await {
                        // If that seat is gone too, it all begins anew.
                        Ok(RpcOutcome::Result(_)) | Err(UpstreamError::SessionExpired) => break,
                        Ok(RpcOutcome::Error(_)) => {
                            // It is there no more.
                            session.client_state.apply(&server.name, &StateChange::Unsubscribe(uri));
                            break;
                        }
                        Err(error) => {
                            tracing::debug!(server = %server.name, %error, "a resource is not subscribed in a new upstream session");
                            tokio::time::sleep(pause).await;
                        }
                    }
                }
                let message = message::notification("notifications/resources/updated", &params);
                session.outbox.send(OutboxItem { server: Some(server.clone()), message }).await;
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
async fn run(session: &Weak<Session>, slot: &Arc<UpstreamSlot>) {
    let (mut mark, mut of, mut pause) = (Mark::default(), 0, MIN_BACKOFF);
    loop {
        let moved = slot.migrated.notified();
        let Some(alive) = session.upgrade() else { return };
        let server = slot.server.load_full();
        let Some(upstream_session) = slot.usable(&server) else {
            if has_ended(slot, || alive.wants_notifications(&server.name)) {
                return;
            }
            match alive.connect(slot, slot.bearer(), false).await {
                Ok(_) => continue,
                Err(UpstreamError::SessionClosed) => return,
                Err(error) => {
                    tracing::debug!(server = %server.name, %error, "the upstream session could not be renewed yet");
                }
            }
            drop(alive);
            backoff(slot, pause).await;
            pause = (pause * 2).min(MAX_BACKOFF);
            continue;
        };
        if of != upstream_session.id {
            (mark, of) = (Mark::default(), upstream_session.id);
        }
        drop(alive);
        let started = Instant::now();
        let over = {
            let (mut hearing, mut moved) =
                (pin!(read_stream(session, slot, &server, &upstream_session, &mut mark)), pin!(moved));
            loop {
                tokio::select! {
                    over = &mut hearing => break Some(over),
                    () = &mut moved => {
                        moved.set(slot.migrated.notified());
                        let now = slot.usable(&slot.server.load());
                        if now.is_none_or(|now| now.id != upstream_session.id) {
                            break None;
                        }
                    }
                }
            }
        };
        let Some(over) = over else { continue };
        slot.listening.notify_waiters();
        let Some(alive) = session.upgrade() else { return };
        match over {
            Ok(NotificationsEnd::Ended) => {}
            Ok(NotificationsEnd::Unsupported) => {
                has_ended(slot, || false);
                return;
            }
            // The last stream of the client left, and as much waits as may wait.
            Ok(NotificationsEnd::NoReceiver) => {
                if has_ended(slot, || alive.outbox.is_open()) {
                    return;
                }
            }
            // A server that has no such stream may say 404 to whoever asks for one.
            Err(UpstreamError::SessionExpired) => match session_exists(&server, &upstream_session).await {
                Some(false) => alive.drop_upstream_session(&server, &upstream_session),
                Some(true) => {
                    has_ended(slot, || false);
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
        if started.elapsed() > pause {
            pause = MIN_BACKOFF;
        }
        backoff(slot, mark.retry.unwrap_or_default().max(pause)).await;
        pause = (pause * 2).min(MAX_BACKOFF);
    }
}

/// Waits so long, or a little longer, so that not all sessions come back at once; not when there is another seat.
async fn backoff(slot: &UpstreamSlot, pause: Duration) {
    tokio::select! {
        () = tokio::time::sleep(pause + jittered(pause.min(MIN_BACKOFF))) => {}
        () = slot.migrated.notified() => {}
    }
}

/// Notes that nobody listens any more, unless there is a reason to go on; decided where [`ClientSession::subscribe`] looks.
fn has_ended(slot: &UpstreamSlot, goes_on: impl FnOnce() -> bool) -> bool {
    let mut attending = slot.subscription.lock().expect("no holder of the lock panics");
    let over = !goes_on();
    if over {
        *attending = None;
    }
    over
}

/// Whether a server knows a seat; none if it does not say.
async fn session_exists(server: &Server, upstream_session: &UpstreamSession) -> Option<bool> {
    server.upstream.endpoint_pool()?.knows_session(upstream_session).await
}

/// One stream of a server's announcements, to its end.
async fn read_stream(
    session: &Weak<Session>,
    slot: &UpstreamSlot,
    server: &Arc<Server>,
    upstream_session: &UpstreamSession,
    mark: &mut Mark,
) -> Result<NotificationsEnd, UpstreamError> {
    let Some(http) = server.upstream.endpoint_pool() else { return Ok(NotificationsEnd::Unsupported) };
    let (out, mut said) = mpsc::channel::<Bytes>(8);
    let announced = async move { http.announcements(upstream_session, mark, &slot.listening, &out).await };
    let mut forward = pin!(async {
        while let Some(message) = said.recv().await {
            let Some(session) = session.upgrade() else { return };
            // An answer belongs to a stream that was gone on with.
            let Some(read) = message::read(&message).filter(|read| !read.is_response()) else { continue };
            let message = match session.on_server_message(server, upstream_session.id, &message, &read, None)
            {
                Rewrite::Unchanged => message,
                Rewrite::Replaced(message) => message,
                Rewrite::Drop => continue,
            };
            let outbox = session.outbox.clone();
            drop(session);
            if !outbox.send(OutboxItem { server: Some(server.clone()), message }).await {
                return;
            }
        }
    });
    tokio::select! {
        () = &mut forward => Ok(NotificationsEnd::NoReceiver),
        over = announced => {
            // What came before the end goes on.
            forward.await;
            over
        }
    }
}
