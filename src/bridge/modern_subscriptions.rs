//! A modern client subscribes to resources of a legacy server. At a server that all callers share, the gateway
//! counts the subscribers of each resource (`upstream/subscriptions`). At an HTTP server the subscriptions are
//! in the session that the gateway keeps for the caller; its notification stream serves all
//! `subscriptions/listen` of that caller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use mcp::json::quote::quote;
use mcp::jsonrpc::message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::client_sessions::CallSession;
use super::outside_questions::{CallInProgress, CallsInProgress, is_cancellation};
use super::{Bridge, ModernClient};
use crate::server::Server;
use crate::session::{OutboxItem, Session, StateChange, TooManySessions, id_map};
use crate::streams::resource_updates::{
    ACKNOWLEDGE_TIMEOUT, LegacySubscription, Receiver, ResourceEvent, SubscribeLegacy, redactor, update,
};
use crate::upstream::server_messages::redacted;
use crate::upstream::subscriptions::{ResourceSubscriptions, UpdateQueue, updated};
use crate::upstream::{RpcOutcome, UpstreamError};

/// How long the resources of a `subscriptions/listen` may take together; those that come later are not
/// acknowledged.
const SUBSCRIBE_TIMEOUT: Duration = ACKNOWLEDGE_TIMEOUT.saturating_sub(Duration::from_millis(500));
/// How long one resource may take after a reload has replaced the server, and the pause after a failure.
const RESUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(30);
const RESUBSCRIBE_PAUSE: Duration = Duration::from_secs(1);
/// A reader that takes nothing for so long counts as dead; the gateway's own always takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The sessions that are read for subscriptions, by their ids.
pub(super) type SubscribedSessions = dashmap::DashMap<String, Weak<SubscribedSession>, ahash::RandomState>;

/// Subscribes for one `subscriptions/listen` of this client.
pub(super) fn subscribe(bridge: &Arc<Bridge>, client: ModernClient) -> SubscribeLegacy {
    let (bridge, client) = (bridge.clone(), Arc::new(client));
    // An anonymous caller has one session for all servers of the stream.
    let own: Arc<Mutex<Weak<SubscribedSession>>> = Arc::default();
    Arc::new(move |subscription| {
        let (promised, promise) = oneshot::channel();
        let (bridge, client, own) = (bridge.clone(), client.clone(), own.clone());
        let runtime = bridge.runtime.clone();
        runtime.spawn(async move {
            let server = &subscription.server;
            let place = match server.endpoint_pool() {
                None => Ok(Place::Shared),
                Some(_) if server.config.stateless => {
                    bridge.subscribed_session(&client, server).map(Place::Session)
                }
                Some(_) => {
                    let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
                    match own.upgrade() {
                        Some(known) => Ok(Place::Session(known)),
                        None => bridge.subscribed_session(&client, server).map(|session| {
                            *own = Arc::downgrade(&session);
                            Place::Session(session)
                        }),
                    }
                }
            };
            match place {
                Ok(place) => run(&bridge, place, subscription, promised).await,
                Err(error) => tracing::debug!(server = %server.name, %error, "no subscription was made"),
            }
        });
        promise
    })
}

/// Where the subscriptions of a client are.
enum Place {
    /// At the connection that all callers share.
    Shared,
    /// In a session of the caller.
    Session(Arc<SubscribedSession>),
}

/// A session whose notification stream is read, for its subscribers and for the calls in it.
pub(super) struct SubscribedSession {
    session: CallSession,
    /// By the names of servers.
    servers: Mutex<HashMap<Arc<str>, Arc<ResourceSubscriptions>>>,
    calls: Arc<CallsInProgress>,
    /// The stream is not read any more.
    lost: CancellationToken,
    _reader: AbortOnDropHandle<()>,
}

impl Bridge {
    /// The subscriptions in the session of this client at this server.
    fn subscribed_session(
        self: &Arc<Self>,
        client: &ModernClient,
        server: &Server,
    ) -> Result<Arc<SubscribedSession>, TooManySessions> {
        Ok(self.read_session(self.client_sessions.session(&self.sessions, client, server)?))
    }

    /// Reads the notification stream of a session, if it is not read already.
    pub(super) fn read_session(&self, session: CallSession) -> Arc<SubscribedSession> {
        let mut place = self.subscribed_sessions.entry(session.session.id.clone()).or_default();
        // A session of an anonymous caller ends with whoever owns it.
        if let Some(known) = place.upgrade() {
            return known;
        }
        let of_session = session.session.clone();
        let lost = CancellationToken::new();
        let new = Arc::new_cyclic(|weak: &Weak<SubscribedSession>| {
            let (weak, reads) = (weak.clone(), lost.clone().drop_guard());
            // Attached before the first subscription: the server's notification stream is open by then.
            let stream = of_session.attach(PATIENCE);
            // What has waited since the last reader belongs to no call of now.
            while let Ok(stream) = &stream
                && let Some(Some(item)) = stream.next().now_or_never()
            {
                decline(&of_session, &item.message, "the call that this belongs to has ended");
            }
            let reader = self.runtime.spawn(async move {
                let _reads = reads;
                let Ok(stream) = stream else { return };
                while let Some(item) = stream.next().await {
                    let Some(subscribed) = weak.upgrade() else { return };
                    subscribed.on_message(item);
                }
            });
            SubscribedSession {
                session,
                servers: Mutex::default(),
                calls: Arc::default(),
                lost,
                _reader: AbortOnDropHandle::new(reader),
            }
        });
        *place = Arc::downgrade(&new);
        new
    }
}

/// Declines a request of a server that no call can ask its client.
fn decline(session: &Session, question: &[u8], why: &'static str) {
    let read = message::read(question).filter(message::ServerMessage::is_request);
    if let Some(id) = read.and_then(|read| read.id)
        && let Some((upstream_session, raw)) = id_map::parse_request_id(id.of(question))
    {
        session.decline_pending(upstream_session, raw.as_bytes(), why);
    }
}

impl SubscribedSession {
    fn at(&self, server: &Arc<str>) -> Arc<ResourceSubscriptions> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.entry(server.clone()).or_default().clone()
    }

    /// A message of a server outside of calls.
    fn on_message(&self, OutboxItem { server, message }: OutboxItem) {
        let Some(server) = server else { return };
        if let Some(uri) = updated(&message) {
            return self.at(&server.name).notify(&uri);
        }
        let Some(read) = message::read(&message) else { return };
        if read.is_request() {
            // A modern client can be asked only as the result of a call.
            if let Err(why) = self.calls.ask(server.serial, message.clone()) {
                decline(&self.session.session, &message, why);
            }
        } else if is_cancellation(&message, &read) {
            self.calls.cancelled(server.serial, &message);
        }
    }

    /// Counts a call to the server of this serial, which may ask its client; the receiver gets what it asks.
    pub(super) fn begin_call(&self, server: u64) -> (CallInProgress, mpsc::Receiver<Bytes>) {
        self.calls.begin(server)
    }

    async fn subscribe(
        &self,
        server: &Arc<Server>,
        uri: &str,
        updates: &Arc<UpdateQueue>,
    ) -> Result<RpcOutcome, UpstreamError> {
        let state = &self.session.session.client_state;
        let request = async {
            if !state.has_room(&server.name, uri) {
                return Err(UpstreamError::InvalidResponse("too many resources are subscribed to".into()));
            }
            let outcome = self.request(server, "resources/subscribe", uri).await?;
            if matches!(outcome, RpcOutcome::Result(_)) {
                // A new session at the server gets it again.
                state.apply(&server.name, &StateChange::Subscribe(uri.to_owned()));
            }
            Ok(outcome)
        };
        self.at(&server.name).subscribe(uri, updates, request).await
    }

    async fn unsubscribe(
        &self,
        server: &Arc<Server>,
        uri: &str,
        updates: &Arc<UpdateQueue>,
    ) -> Result<RpcOutcome, UpstreamError> {
        let session = &self.session.session;
        let request = async {
            session.client_state.apply(&server.name, &StateChange::Unsubscribe(uri.to_owned()));
            let mut connected = session.upstream_sessions().into_iter();
            if connected.all(|(connected, _)| connected.serial != server.serial) {
                return Ok(RpcOutcome::Result(Bytes::from_static(b"{}")));
            }
            self.request(server, "resources/unsubscribe", uri).await
        };
        self.at(&server.name).unsubscribe(uri, updates, request).await
    }

    async fn request(
        &self,
        server: &Arc<Server>,
        method: &str,
        uri: &str,
    ) -> Result<RpcOutcome, UpstreamError> {
        let Some(http) = server.endpoint_pool() else {
            return Err(UpstreamError::InvalidResponse("it keeps no sessions".into()));
        };
        let call_guard = server.begin_call()?;
        let params = Bytes::from(format!(r#"{{"uri":{}}}"#, quote(uri)));
        let session = &self.session.session;
        let mut renewed = false;
        loop {
            let upstream_session = session.upstream_session(server, None).await?;
            let outcome = http.request_in(&upstream_session, method, params.clone()).await;
            if matches!(outcome, Err(UpstreamError::SessionExpired)) && !renewed {
                session.drop_upstream_session(server, &upstream_session);
                renewed = true;
                continue;
            }
            call_guard.record(outcome.as_ref().err());
            return outcome;
        }
    }
}

impl Place {
    async fn subscribe(
        &self,
        server: &Arc<Server>,
        uri: &str,
        updates: &Arc<UpdateQueue>,
    ) -> Result<RpcOutcome, UpstreamError> {
        match (self, server.upstream.shared_subscriptions()) {
            (Self::Session(session), _) => session.subscribe(server, uri, updates).await,
            (Self::Shared, Some(shared)) => shared.subscribe(uri, updates).await,
            (Self::Shared, None) => Err(UpstreamError::InvalidResponse("it has no subscriptions".into())),
        }
    }

    async fn unsubscribe(&self, server: &Arc<Server>, uri: &str, updates: &Arc<UpdateQueue>) {
        let outcome = match (self, server.upstream.shared_subscriptions()) {
            (Self::Session(session), _) => session.unsubscribe(server, uri, updates).await,
            (Self::Shared, Some(shared)) => shared.unsubscribe(uri, updates).await,
            (Self::Shared, None) => return,
        };
        if let Err(error) = outcome {
            tracing::debug!(server = %server.name, %error, "a resource was not unsubscribed from");
        }
    }

    /// Returns when no update can come any more.
    async fn lost(&self) {
        match self {
            Self::Shared => std::future::pending().await,
            Self::Session(session) => {
                let ended = session.session.session.end();
                tokio::select! {
                    () = ended.cancelled() => {}
                    () = session.lost.cancelled() => {}
                }
            }
        }
    }
}

/// The subscription, from its first resource to its end.
async fn run(
    bridge: &Bridge,
    place: Place,
    subscription: LegacySubscription,
    promised: oneshot::Sender<Vec<String>>,
) {
    let LegacySubscription { mut server, uris, id, out } = subscription;
    let updates = Arc::<UpdateQueue>::default();
    let mut subscribed = Vec::new();
    let until = Instant::now() + SUBSCRIBE_TIMEOUT;
    for uri in uris {
        match tokio::time::timeout_at(until, place.subscribe(&server, &uri, &updates)).await {
            Ok(Ok(RpcOutcome::Result(_))) => subscribed.push(uri),
            Ok(Ok(RpcOutcome::Error(_))) => {}
            Ok(Err(error)) => {
                tracing::debug!(server = %server.name, %error, "a resource was not subscribed to");
            }
            Err(_) => break,
        }
    }
    let receiver = Receiver::Subscription(id);
    if promised.send(subscribed.clone()).is_ok() {
        'reading: loop {
            tokio::select! {
                uris = updates.next() => {
                    for uri in uris {
                        let note = redacted(redactor(&bridge.registry, &server).as_ref(), update(&uri, &receiver));
                        let Some(note) = note else { continue };
                        if out.send(ResourceEvent::Message(note)).await.is_err() {
                            break 'reading;
                        }
                    }
                }
                () = out.closed() => break,
                () = place.lost() => {
                    let _ = out.send(ResourceEvent::Lost).await;
                    break;
                }
                () = server.retired.cancelled() => {
                    let now = bridge.registry.snapshot().servers.get(&server.name).cloned();
                    let moved = match &now {
                        Some(now) => place.resubscribe(now, &subscribed, &updates).await,
                        None => false,
                    };
                    match now.filter(|_| moved) {
                        Some(now) => server = now,
                        None => {
                            let _ = out.send(ResourceEvent::Lost).await;
                            break;
                        }
                    }
                }
            }
        }
    }
    for uri in subscribed {
        place.unsubscribe(&server, &uri, &updates).await;
    }
}

impl Place {
    /// Subscribes at the server that has replaced another in a reload; false if it does not let it.
    async fn resubscribe(&self, server: &Arc<Server>, uris: &[String], updates: &Arc<UpdateQueue>) -> bool {
        match self {
            // The session moves with what is set in it.
            Self::Session(_) => return server.endpoint_pool().is_some(),
            Self::Shared if server.upstream.shared_subscriptions().is_none() => return false,
            Self::Shared => {}
        }
        let until = Instant::now() + RESUBSCRIBE_TIMEOUT;
        for uri in uris {
            loop {
                match self.subscribe(server, uri, updates).await {
                    Ok(RpcOutcome::Result(_)) => break,
                    Ok(RpcOutcome::Error(_)) => return false,
                    // Its process may not have started yet.
                    Err(_) if Instant::now() < until && !server.retired.is_cancelled() => {
                        tokio::time::sleep(RESUBSCRIBE_PAUSE).await;
                    }
                    Err(_) => return false,
                }
            }
            updates.push(uri);
        }
        true
    }
}
