//! Resource subscriptions at one server of the modern era, for one stream of one client, or for a session of
//! the legacy era. It passes on the acknowledgement and the updates. Streams to servers end and are opened
//! again; what may have been missed in between is sent as an update.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mcp::json::quote::quote;
use mcp::json::splice::splice;
use mcp::{Era, Span};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::AbortOnDrop;
use crate::registry::Registry;
use crate::server::Server;
use crate::upstream::server_messages::{ServerMessageFilter, redacted};
use crate::upstream::subscriptions;
use crate::upstream::{ResponseRedactor, WatchEnd, gateway_meta};
use mcp::jsonrpc::message;
use mcp::jsonrpc::message::{SUBSCRIPTION_ID, strings};
use mcp::method::Method;

/// How long servers may take to acknowledge; the client waits for that.
pub const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(3);
/// Pauses before a subscription is opened again.
const MIN_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

pub enum ResourceEvent {
    /// A message for the client.
    Message(Bytes),
    /// The acknowledged resources will not be updated any more.
    Lost,
}

/// Who gets the updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receiver {
    /// A `subscriptions/listen` with this id, as written. It ends when a resource of it is lost.
    Subscription(Bytes),
    /// A session of the legacy era, which goes on with the other resources.
    Session,
}

/// A subscription at a server of the legacy era, for a `subscriptions/listen`.
pub struct LegacySubscription {
    pub server: Arc<Server>,
    pub uris: Vec<String>,
    /// The id of the `subscriptions/listen`, as written.
    pub id: Bytes,
    /// The subscription ends when the other end of this is gone.
    pub out: mpsc::Sender<ResourceEvent>,
}

/// Begins such a subscription, and promises the resources that the server has accepted.
pub type SubscribeLegacy =
    Arc<dyn Fn(LegacySubscription) -> oneshot::Receiver<Vec<String>> + Send + Sync + 'static>;

/// Starts a subscription; returns the resources that the server has acknowledged. `None` if it acknowledges
/// none in time.
pub async fn begin(
    runtime: &Handle,
    registry: Arc<Registry>,
    server: Arc<Server>,
    uris: Vec<String>,
    receiver: Receiver,
    out: mpsc::Sender<ResourceEvent>,
) -> Option<(AbortOnDrop, Vec<String>)> {
    let (promised, promise) = oneshot::channel();
    let subscriber = ResourceSubscriber::new(registry, uris, receiver, out, promised);
    let abort_guard = AbortOnDrop(runtime.spawn(subscriber.run(server)).abort_handle());
    acknowledged_in_time(promise).await.map(|uris| (abort_guard, uris))
}

/// The acknowledged resources; `None` if there is none in time.
pub async fn acknowledged_in_time(promise: oneshot::Receiver<Vec<String>>) -> Option<Vec<String>> {
    let uris = tokio::time::timeout(ACKNOWLEDGE_TIMEOUT, promise).await.ok()?.ok()?;
    (!uris.is_empty()).then_some(uris)
}

/// There is nothing to subscribe to, or no client any more.
#[derive(Debug)]
pub struct NothingToWatch;

pub struct ResourceSubscriber {
    registry: Arc<Registry>,
    uris: Vec<String>,
    receiver: Receiver,
    out: mpsc::Sender<ResourceEvent>,
    promised: Option<oneshot::Sender<Vec<String>>>,
    /// The acknowledged resources.
    subscribed: Vec<String>,
}

impl ResourceSubscriber {
    pub fn new(
        registry: Arc<Registry>,
        uris: Vec<String>,
        receiver: Receiver,
        out: mpsc::Sender<ResourceEvent>,
        promised: oneshot::Sender<Vec<String>>,
    ) -> Self {
        Self { registry, uris, receiver, out, promised: Some(promised), subscribed: Vec::new() }
    }

    /// Reads the subscription of a server, and opens it again when it ends; after a reload at the server that
    /// replaces it.
    async fn run(mut self, mut server: Arc<Server>) {
        let quoted: Vec<String> = self.uris.iter().map(|uri| quote(uri)).collect();
        let params = Bytes::from(format!(
            r#"{{"notifications":{{"resourceSubscriptions":[{}]}},"_meta":{}}}"#,
            quoted.join(","),
            gateway_meta()
        ));
        let mut pause = MIN_BACKOFF;
        while !self.out.is_closed() {
            let started = Instant::now();
            let (sender, mut messages) = mpsc::channel::<Bytes>(32);
            let listen = async {
                let following = async {
                    Ok(match server.upstream.resource_updates() {
                        Some(updates) => updates.subscribe_resources(params.clone(), sender).await,
                        None => Ok(WatchEnd::Rejected),
                    })
                };
                let reading = async {
                    while let Some(message) = messages.recv().await {
                        self.on_message(&server, &message).await?;
                    }
                    Ok(())
                };
                tokio::try_join!(following, reading).map(|(ended, ())| ended)
            };
            let ended = tokio::select! {
                ended = listen => ended,
                () = server.retired.cancelled() => Ok(Ok(WatchEnd::Ended)),
            };
            match ended {
                Err(NothingToWatch) | Ok(Ok(WatchEnd::Rejected)) => break,
                Ok(Ok(WatchEnd::Ended)) => {}
                Ok(Err(error)) => tracing::debug!(server = %server.name, %error, "a subscription ended"),
            }
            if started.elapsed() > pause {
                pause = MIN_BACKOFF;
            }
            if !server.retired.is_cancelled() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_BACKOFF);
            }
            match self.registry.snapshot().servers.get(&server.name) {
                Some(now) => server = now.clone(),
                None => break,
            }
        }
        let _ = self.out.send(ResourceEvent::Lost).await;
    }

    /// Handles one message of the server.
    pub async fn on_message(&mut self, server: &Server, message: &Bytes) -> Result<(), NothingToWatch> {
        let version = Era::Modern.codec().newest_version();
        let filter = ServerMessageFilter { server: &server.name, version };
        let Some(read) = filter.read(message) else { return Ok(()) };
        let method = filter.for_gateway(message, &read);
        if method == Some(Method::Acknowledged) {
            let now = read.params.map(|params| acknowledged(params.of(message))).unwrap_or_default();
            if let Some(promised) = self.promised.take() {
                self.subscribed = self.uris.iter().filter(|uri| now.contains(uri)).cloned().collect();
                let promise = self.subscribed.clone();
                let is_sent = promised.send(promise).is_ok();
                return if is_sent && !self.subscribed.is_empty() { Ok(()) } else { Err(NothingToWatch) };
            }
            for uri in &self.subscribed {
                if now.contains(uri) {
                    let note = update(uri, &self.receiver);
                    self.out.send(ResourceEvent::Message(note)).await.map_err(|_| NothingToWatch)?;
                } else if self.receiver != Receiver::Session {
                    return Err(NothingToWatch);
                }
            }
        } else if method == Some(Method::Updated)
            && self.promised.is_none()
            && let Some(message) = self.for_receiver(message, &read)
            && let Some(message) = redacted(redactor(&self.registry, server).as_ref(), message)
        {
            self.out.send(ResourceEvent::Message(message)).await.map_err(|_| NothingToWatch)?;
        }
        Ok(())
    }

    /// An update of the server as the receiver gets it.
    fn for_receiver(&self, message: &Bytes, read: &message::ServerMessage) -> Option<Bytes> {
        match &self.receiver {
            Receiver::Subscription(id) => with_subscription_id(message, read, id),
            Receiver::Session => Some(update(&subscriptions::updated(message)?, &self.receiver)),
        }
    }
}

/// What searches the updates of a server for secrets, in the configuration of now.
pub fn redactor(registry: &Registry, server: &Server) -> Option<ResponseRedactor> {
    let snapshot = registry.snapshot();
    let redactor = snapshot.config.redactor.as_ref();
    ResponseRedactor::of(&server.name, &server.config, redactor, &registry.metrics)
}

/// The notification that a resource may have changed.
pub fn update(uri: &str, receiver: &Receiver) -> Bytes {
    let uri = quote(uri);
    let params = match receiver {
        Receiver::Subscription(id) => {
            let id = String::from_utf8_lossy(id);
            format!(r#"{{"uri":{uri},"_meta":{{"{SUBSCRIPTION_ID}":{id}}}}}"#)
        }
        Receiver::Session => format!(r#"{{"uri":{uri}}}"#),
    };
    message::notification(Method::Updated.as_str(), params.as_bytes())
}

/// The resources that an acknowledgement names.
fn acknowledged(params: &[u8]) -> Vec<String> {
    let uris = || {
        let notifications = message::member(params, "notifications")?.of(params);
        strings(message::member(notifications, "resourceSubscriptions")?.of(notifications))
    };
    uris().unwrap_or_default()
}

/// A message with the id of the client's own subscription.
fn with_subscription_id(message: &Bytes, read: &message::ServerMessage, id: &[u8]) -> Option<Bytes> {
    let inside = |outer: Span, name: &str| {
        let place = message::member(outer.of(message), name)?;
        Some(Span { start: outer.start + place.start, end: outer.start + place.end })
    };
    let place = inside(inside(read.params?, "_meta")?, SUBSCRIPTION_ID)?;
    Some(splice(BytesMut::from(&message[..]), place, id))
}
