//! Following resources at one server, for one stream of one client: what the server promises to tell, and what it
//! tells, under the client's own id. Streams to servers end and are opened anew; what may have been missed in between
//! is told as an update.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mcp::Span;
use mcp::json::quote::quote;
use mcp::json::splice::splice;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Leash;
use crate::registry::Registry;
use crate::server::Server;
use crate::upstream::{Ending, house_meta};
use mcp::jsonrpc::message;
use mcp::jsonrpc::message::{SUBSCRIPTION, strings};

/// How long servers may take to acknowledge; the client waits for that.
const PATIENCE: Duration = Duration::from_secs(3);
/// Pauses before a server is listened to again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub enum Followed {
    /// A message for the client.
    Says(Bytes),
    /// What was promised will not be told any more.
    Lost,
}

/// Begins to follow; gives what the server has promised to tell of. None if it promises nothing in time.
pub async fn begin(
    core: &Handle,
    registry: Arc<Registry>,
    server: Arc<Server>,
    uris: Vec<String>,
    id: Bytes,
    out: mpsc::Sender<Followed>,
) -> Option<(Leash, Vec<String>)> {
    let (promised, promise) = oneshot::channel();
    let follower = Follower { registry, uris, id, out, promised: Some(promised), kept: Vec::new() };
    let leash = Leash(core.spawn(follower.follow(server)).abort_handle());
    let uris = tokio::time::timeout(PATIENCE, promise).await.ok()?.ok()?;
    (!uris.is_empty()).then_some((leash, uris))
}

/// There is nothing to follow, or nobody to follow it for.
struct Idle;

struct Follower {
    registry: Arc<Registry>,
    uris: Vec<String>,
    /// The client's own, as written.
    id: Bytes,
    out: mpsc::Sender<Followed>,
    promised: Option<oneshot::Sender<Vec<String>>>,
    /// What was promised.
    kept: Vec<String>,
}

impl Follower {
    /// Listens to a server, and again when that ends; to the one in its place when a reload gave it other settings.
    async fn follow(mut self, mut server: Arc<Server>) {
        let quoted: Vec<String> = self.uris.iter().map(|uri| quote(uri)).collect();
        let params = Bytes::from(format!(
            r#"{{"notifications":{{"resourceSubscriptions":[{}]}},"_meta":{}}}"#,
            quoted.join(","),
            house_meta()
        ));
        let mut pause = FIRST_PAUSE;
        while !self.out.is_closed() {
            let since = Instant::now();
            let (sender, mut said) = mpsc::channel::<Bytes>(32);
            let listen = async {
                let following = async { Ok(server.upstream.follow(params.clone(), sender).await) };
                let hearing = async {
                    while let Some(message) = said.recv().await {
                        self.hear(&message).await?;
                    }
                    Ok(())
                };
                tokio::try_join!(following, hearing).map(|(ended, ())| ended)
            };
            let ended = tokio::select! {
                ended = listen => ended,
                () = server.retired.cancelled() => Ok(Ok(Ending::Over)),
            };
            match ended {
                Err(Idle) | Ok(Ok(Ending::Refused)) => break,
                Ok(Ok(Ending::Over)) => {}
                Ok(Err(error)) => tracing::debug!(server = %server.name, %error, "a subscription ended"),
            }
            if since.elapsed() > pause {
                pause = FIRST_PAUSE;
            }
            if !server.retired.is_cancelled() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            match self.registry.house().servers.get(&server.name) {
                Some(now) => server = now.clone(),
                None => break,
            }
        }
        let _ = self.out.send(Followed::Lost).await;
    }

    /// One message of the server.
    async fn hear(&mut self, message: &Bytes) -> Result<(), Idle> {
        let Some(read) = message::read(message) else { return Ok(()) };
        let is = |word: &str| read.method.is_some_and(|method| method.is(message, word));
        if is(message::ACKNOWLEDGED) {
            let now = read.params.map(|params| acknowledged(params.of(message))).unwrap_or_default();
            if let Some(promised) = self.promised.take() {
                self.kept = self.uris.iter().filter(|uri| now.contains(uri)).cloned().collect();
                let promise = self.kept.clone();
                let is_told = promised.send(promise).is_ok();
                return if is_told && !self.kept.is_empty() { Ok(()) } else { Err(Idle) };
            }
            for uri in &self.kept {
                if !now.contains(uri) {
                    return Err(Idle);
                }
                let id = String::from_utf8_lossy(&self.id);
                let params = format!(r#"{{"uri":{},"_meta":{{"{SUBSCRIPTION}":{id}}}}}"#, quote(uri));
                let note = message::notification(UPDATED, params.as_bytes());
                self.out.send(Followed::Says(note)).await.map_err(|_| Idle)?;
            }
        } else if is(UPDATED)
            && self.promised.is_none()
            && let Some(message) = readdressed(message, &read, &self.id)
        {
            self.out.send(Followed::Says(message)).await.map_err(|_| Idle)?;
        }
        Ok(())
    }
}

const UPDATED: &str = "notifications/resources/updated";

/// The resources that an acknowledgement names.
fn acknowledged(params: &[u8]) -> Vec<String> {
    let uris = || {
        let notifications = message::member(params, "notifications")?.of(params);
        strings(message::member(notifications, "resourceSubscriptions")?.of(notifications))
    };
    uris().unwrap_or_default()
}

/// A message with the id of the client's own subscription.
fn readdressed(message: &Bytes, read: &message::Incoming, id: &[u8]) -> Option<Bytes> {
    let inside = |outer: Span, name: &str| {
        let place = message::member(outer.of(message), name)?;
        Some(Span { start: outer.start + place.start, end: outer.start + place.end })
    };
    let place = inside(inside(read.params?, "_meta")?, SUBSCRIPTION)?;
    Some(splice(BytesMut::from(&message[..]), place, id))
}
