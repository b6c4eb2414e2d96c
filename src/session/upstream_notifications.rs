//! Notifications of servers to a session outside of calls. A task reads the stream of each server as long as
//! the client wants it, in whatever upstream session there is.

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
use crate::upstream::http::notifications::{NotificationsEnd, StreamCursor};
use crate::upstream::server_messages::ServerMessageFilter;
use crate::upstream::{RpcOutcome, UpstreamError};
use mcp::jsonrpc::message;

/// Pauses between two notification streams of a server, where it does not set one.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// Resources that are subscribed to again at a time.
const MAX_CONCURRENT: usize = 4;
/// Pauses after each failed attempt.
const RETRY_DELAYS: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(5), Duration::ZERO];

impl Session {
    /// Whether the client wants notifications of a server.
    pub(super) fn wants_notifications(&self, server: &str) -> bool {
        self.outbox.is_open() || self.client_state.is_subscribed(server)
    }

    /// A message of a notification stream as the client gets it, before it is redacted for the caller of the
    /// stream that takes it. A response belongs to a stream that was resumed, and is dropped.
    pub fn notification(&self, server: &Server, upstream_session: u64, message: Bytes) -> Option<Bytes> {
        let filter = ServerMessageFilter { server: &server.name, version: self.version };
        let read = filter.read(&message).filter(|read| !read.is_response())?;
        match self.on_server_message(server, upstream_session, &message, &read, None) {
            Rewrite::Unchanged => Some(message),
            Rewrite::Replaced(message) => Some(message),
            Rewrite::Drop => None,
        }
    }

    /// Reads the notifications of a server, as long as the client wants them.
    pub(super) fn subscribe(self: &Arc<Self>, slot: &Arc<UpstreamSlot>) {
        let mut task_slot = slot.subscription.lock().expect("no holder of the lock panics");
        if task_slot.as_ref().is_some_and(|task| !task.is_finished()) || slot.is_without_stream() {
            return;
        }
        let (session, slot, ended) = (Arc::downgrade(self), slot.clone(), self.end());
        let task = self.runtime.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = run(&session, &slot) => {}
            }
        });
        *task_slot = Some(task.abort_handle());
    }

    /// Subscribes to the resources of a lost upstream session in the new one. No notification came for
    /// changes in between: the client is notified of each resource, and reads it.
    pub(super) async fn resubscribe(
        self: Arc<Self>,
        server: Arc<Server>,
        upstream_session: Arc<UpstreamSession>,
        uris: Vec<String>,
    ) {
        let resubscribing = futures::stream::iter(uris).map(|uri| {
            let (session, server, upstream_session) = (&self, &server, &upstream_session);
            async move {
                let Some(http) = server.endpoint_pool() else { return };
                let params = Bytes::from(format!(r#"{{"uri":{}}}"#, quote(&uri)));
                for pause in RETRY_DELAYS {
                    match http.request_in(upstream_session, "resources/subscribe", params.clone()).await {
                        // If that upstream session is gone too, all of this starts again.
                        Ok(RpcOutcome::Result(_)) | Err(UpstreamError::SessionExpired) => break,
                        Ok(RpcOutcome::Error(_)) => {
                            // It no longer exists.
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
            () = resubscribing.buffer_unordered(MAX_CONCURRENT).collect::<()>() => {}
            () = ended.cancelled() => {}
        }
    }
}

/// Reads the notifications of a server to a session: in each upstream session there, one stream after the
/// other.
async fn run(session: &Weak<Session>, slot: &Arc<UpstreamSlot>) {
    let (mut cursor, mut session_id, mut pause) = (StreamCursor::default(), 0, MIN_BACKOFF);
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
        if session_id != upstream_session.id {
            (cursor, session_id) = (StreamCursor::default(), upstream_session.id);
        }
        drop(alive);
        let started = Instant::now();
        let outcome = {
            let (mut reading, mut moved) =
                (pin!(read_stream(session, slot, &server, &upstream_session, &mut cursor)), pin!(moved));
            loop {
                tokio::select! {
                    outcome = &mut reading => break Some(outcome),
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
        let Some(outcome) = outcome else { continue };
        slot.listening.notify_waiters();
        let Some(alive) = session.upgrade() else { return };
        match outcome {
            Ok(NotificationsEnd::Ended) => {}
            Ok(NotificationsEnd::Unsupported) => {
                slot.set_without_stream(&upstream_session);
                has_ended(slot, || false);
                return;
            }
            // The last stream of the client closed, and the outbox is full.
            Ok(NotificationsEnd::NoReceiver) => {
                if has_ended(slot, || alive.outbox.is_open()) {
                    return;
                }
            }
            // A server without such a stream may answer 404 to the request for one.
            Err(UpstreamError::SessionExpired) => match session_exists(&server, &upstream_session).await {
                Some(false) => alive.drop_upstream_session(&server, &upstream_session),
                Some(true) => {
                    slot.set_without_stream(&upstream_session);
                    has_ended(slot, || false);
                    return;
                }
                None => {}
            },
            Err(error) => {
                tracing::debug!(server = %server.name, %error, "a notification stream broke off");
            }
        }
        drop(alive);
        // Streams that end as soon as they begin are opened less and less often, whatever the server asks
        // for.
        if started.elapsed() > pause {
            pause = MIN_BACKOFF;
        }
        backoff(slot, cursor.retry.unwrap_or_default().max(pause)).await;
        pause = (pause * 2).min(MAX_BACKOFF);
    }
}

/// Waits this long, or a little longer, so that not all sessions come back at once. Returns early when there
/// is another upstream session.
async fn backoff(slot: &UpstreamSlot, pause: Duration) {
    tokio::select! {
        () = tokio::time::sleep(pause + jittered(pause.min(MIN_BACKOFF))) => {}
        () = slot.migrated.notified() => {}
    }
}

/// Records the end of the task, unless there is a reason to continue; decided under the lock that
/// [`Session::subscribe`] takes.
fn has_ended(slot: &UpstreamSlot, goes_on: impl FnOnce() -> bool) -> bool {
    let mut task_slot = slot.subscription.lock().expect("no holder of the lock panics");
    let is_over = !goes_on();
    if is_over {
        *task_slot = None;
    }
    is_over
}

/// Whether a server knows an upstream session; `None` if it does not say.
async fn session_exists(server: &Server, upstream_session: &UpstreamSession) -> Option<bool> {
    server.endpoint_pool()?.knows_session(upstream_session).await
}

/// Reads one notification stream of a server to its end.
async fn read_stream(
    session: &Weak<Session>,
    slot: &UpstreamSlot,
    server: &Arc<Server>,
    upstream_session: &UpstreamSession,
    cursor: &mut StreamCursor,
) -> Result<NotificationsEnd, UpstreamError> {
    let Some(http) = server.endpoint_pool() else { return Ok(NotificationsEnd::Unsupported) };
    let (out, mut messages) = mpsc::channel::<Bytes>(8);
    let notification_stream =
        async move { http.announcements(upstream_session, cursor, &slot.listening, &out).await };
    let mut forward = pin!(async {
        while let Some(message) = messages.recv().await {
            let Some(session) = session.upgrade() else { return };
            let Some(message) = session.notification(server, upstream_session.id, message) else { continue };
            let outbox = session.outbox.clone();
            drop(session);
            if !outbox.send(OutboxItem { server: Some(server.clone()), message }).await {
                return;
            }
        }
    });
    tokio::select! {
        () = &mut forward => Ok(NotificationsEnd::NoReceiver),
        outcome = notification_stream => {
            // Messages that came before the end are forwarded.
            forward.await;
            outcome
        }
    }
}
