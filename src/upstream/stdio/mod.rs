//! A server that is a process: one for each era that it speaks, shared by all callers. `start` starts them.

pub mod child;
pub mod paced;
pub mod pipes;
pub mod spawn;
pub mod start;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use mcp::Era;
use mcp::json::quote::quote;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use child::{Child, ConnectionError, ConnectionResponse};

use super::http::era_errors::is_refused;
use super::subscriptions::{self, ResourceSubscriptions, UpdateQueue};
use super::{
    LISTS_CHANGED, ListChanges, ResourceUpdates, RpcOutcome, ServerHandshake, SharedSubscriptions, Upstream,
    UpstreamCall, UpstreamError, UpstreamLimits, WatchEnd, gateway_params,
};
pub use child::ServerCommand;
use mcp::jsonrpc::message;
use start::StartState;

/// The pause before a subscription is opened again that the process has ended.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

pub struct Stdio {
    command: ServerCommand,
    /// Timeout of the gateway's own requests, in milliseconds.
    call_timeout: AtomicU64,
    /// By the era that they serve.
    processes: [Mutex<Option<ServerProcess>>; 2],
    pub(super) starts: StartState,
    /// Resource subscriptions of callers of the legacy era.
    subscriptions: Arc<ResourceSubscriptions>,
}

pub(super) struct ServerProcess {
    pub child: Child,
    /// Locked by the task that watches the process.
    notices: Arc<Mutex<mpsc::Receiver<Bytes>>>,
}

impl Stdio {
    /// Starts nothing yet.
    pub fn new(command: ServerCommand, timeout: Duration) -> Self {
        Self {
            command,
            call_timeout: AtomicU64::new(millis(timeout)),
            processes: Default::default(),
            starts: StartState::default(),
            subscriptions: Arc::default(),
        }
    }

    pub(super) fn call_timeout(&self) -> Duration {
        Duration::from_millis(self.call_timeout.load(Ordering::Relaxed))
    }

    pub(super) async fn spawn(&self) -> Result<ServerProcess, UpstreamError> {
        let (sender, notices) = mpsc::channel(64);
        let child = Child::spawn(&self.command, sender).await.map_err(failed)?;
        Ok(ServerProcess { child, notices: Arc::new(Mutex::new(notices)) })
    }

    async fn child(&self, server_era: Era) -> Result<Child, UpstreamError> {
        let slot = self.processes[server_era as usize].lock().await;
        let child = slot.as_ref().map(|process| process.child.clone());
        child.filter(Child::is_alive).ok_or_else(|| match self.starts.is_under_way(server_era) {
            true => UpstreamError::Starting,
            false => UpstreamError::Unreachable("its process has ended".into()),
        })
    }

    /// Whether a process serves the era.
    pub(super) async fn is_there(&self, server_era: Era) -> bool {
        self.processes[server_era as usize]
            .lock()
            .await
            .as_ref()
            .is_some_and(|process| process.child.is_alive())
    }

    /// Sets the process of an era, and returns the former one.
    pub(super) async fn replace(
        &self,
        server_era: Era,
        process: Option<ServerProcess>,
    ) -> Option<ServerProcess> {
        std::mem::replace(&mut *self.processes[server_era as usize].lock().await, process)
    }

    async fn follow(&self, method: &str, uri: &str) -> Result<RpcOutcome, UpstreamError> {
        follow(&self.child(Era::Legacy).await?, method, uri, self.call_timeout()).await
    }

    /// A new process has no subscriptions, and no notification came for changes before it.
    pub(super) fn resubscribe(&self, child: Child) {
        let (followers, timeout) = (self.subscriptions.clone(), self.call_timeout());
        tokio::spawn(async move {
            let _turn = followers.turn.lock().await;
            for uri in followers.uris() {
                if let Err(error) = follow(&child, "resources/subscribe", &uri, timeout).await {
                    tracing::debug!(uri, %error, "a resource is not subscribed in a new process");
                }
                followers.notify(&uri);
            }
        });
    }
}

async fn follow(
    child: &Child,
    method: &str,
    uri: &str,
    timeout: Duration,
) -> Result<RpcOutcome, UpstreamError> {
    let params = format!(r#"{{"uri":{}}}"#, quote(uri));
    match child.request(method, Some(params.as_bytes()), timeout, None).await {
        Ok(ConnectionResponse::Result(result)) => Ok(RpcOutcome::Result(result)),
        Ok(ConnectionResponse::Error(error)) => Ok(RpcOutcome::Error(error)),
        Err(error) => Err(failed(error)),
    }
}

#[async_trait]
impl Upstream for Stdio {
    async fn connect(&self, server_era: Era, until: Instant) -> Result<ServerHandshake, UpstreamError> {
        self.start(server_era, until).await
    }

    async fn call(&self, ask: UpstreamCall<'_>) -> Result<RpcOutcome, UpstreamError> {
        let child = self.child(ask.server_era).await?;
        let progress = ask.progress.and_then(|progress| {
            let (_, span) = progress.token?;
            Some(child::ConnectionProgress { token: span.start..span.end, notes: progress.notes })
        });
        match child.request(ask.method, Some(&ask.params), ask.timeout, progress).await {
            Ok(ConnectionResponse::Result(result)) => Ok(RpcOutcome::Result(result)),
            Ok(ConnectionResponse::Error(error)) => Ok(RpcOutcome::Error(error)),
            Err(error) => Err(failed(error)),
        }
    }

    fn update_limits(&self, limits: &UpstreamLimits) {
        self.call_timeout.store(millis(limits.timeout), Ordering::Relaxed);
    }

    fn list_changes(&self) -> Option<&dyn ListChanges> {
        Some(self)
    }

    fn resource_updates(&self) -> Option<&dyn ResourceUpdates> {
        Some(self)
    }

    fn shared_subscriptions(&self) -> Option<&dyn SharedSubscriptions> {
        Some(self)
    }

    async fn release(&self, server_era: Era) {
        // A process ends with the last handle. Calls in flight hold one.
        drop(self.replace(server_era, None).await);
        drop(self.starts.take(server_era));
    }

    async fn close(&self) {
        let mut all = self.starts.drain();
        for slot in &self.processes {
            all.extend(slot.lock().await.take());
        }
        // At the same time: each may take some seconds.
        join_all(all.iter().map(|process| process.child.stop())).await;
    }
}

#[async_trait]
impl ListChanges for Stdio {
    async fn watch_lists(&self, server_era: Era, changed: &mpsc::Sender<()>) -> Result<(), UpstreamError> {
        let watched = {
            let slot = self.processes[server_era as usize].lock().await;
            slot.as_ref().map(|process| (process.child.clone(), process.notices.clone()))
        };
        let Some((child, notices)) = watched else {
            return Err(UpstreamError::Unreachable("its process has ended".into()));
        };
        let mut notices = notices.lock().await;
        let (notes, mut notifications) = mpsc::channel(64);
        let listening = async {
            let listen = gateway_params(server_era, LISTS_CHANGED);
            // An old server sends notifications without a request.
            if server_era.codec().listen_method().is_some() {
                let mut pause = MIN_BACKOFF;
                loop {
                    let started = Instant::now();
                    let ended = child.listen(&listen, notes.clone()).await;
                    match ended {
                        Ok(ConnectionResponse::Error(error)) if is_refused(&error) => break,
                        Err(ConnectionError::Exited { .. }) => break,
                        _ => {}
                    }
                    if started.elapsed() > pause {
                        pause = MIN_BACKOFF;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_BACKOFF);
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::pin!(listening);
        loop {
            tokio::select! {
                () = &mut listening => {}
                Some(message) = notifications.recv() => {
                    if message::is_list_change(&message) && changed.send(()).await.is_err() {
                        return Ok(());
                    }
                }
                status = child.exited() => {
                    let text = status.map_or_else(String::new, |status| format!(" ({status})"));
                    let stderr = child.last_stderr();
                    return Err(UpstreamError::Unreachable(format!("its process ended{text}{stderr}")));
                }
                Some(message) = notices.recv() => {
                    if let Some(uri) = subscriptions::updated(&message).filter(|_| server_era == Era::Legacy) {
                        self.subscriptions.notify(&uri);
                    }
                    if message::is_list_change(&message) && changed.send(()).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

#[async_trait]
impl ResourceUpdates for Stdio {
    async fn subscribe_resources(
        &self,
        listen: Bytes,
        out: mpsc::Sender<Bytes>,
    ) -> Result<WatchEnd, UpstreamError> {
        match self.child(Era::Modern).await?.listen(&listen, out).await {
            Ok(ConnectionResponse::Result(_)) | Err(ConnectionError::SessionClosed) => Ok(WatchEnd::Ended),
            Ok(ConnectionResponse::Error(error)) if is_refused(&error) => Ok(WatchEnd::Rejected),
            Ok(ConnectionResponse::Error(_)) => {
                Err(UpstreamError::InvalidResponse("it gives no subscription now".into()))
            }
            Err(error) => Err(failed(error)),
        }
    }
}

#[async_trait]
impl SharedSubscriptions for Stdio {
    async fn subscribe(&self, uri: &str, updates: &Arc<UpdateQueue>) -> Result<RpcOutcome, UpstreamError> {
        let request = self.follow("resources/subscribe", uri);
        self.subscriptions.subscribe(uri, updates, request).await
    }

    async fn unsubscribe(&self, uri: &str, updates: &Arc<UpdateQueue>) -> Result<RpcOutcome, UpstreamError> {
        let request = self.follow("resources/unsubscribe", uri);
        self.subscriptions.unsubscribe(uri, updates, request).await
    }

    async fn drop_subscriber(&self, updates: &Arc<UpdateQueue>) {
        for uri in self.subscriptions.of(updates) {
            if let Err(error) = self.unsubscribe(&uri, updates).await {
                tracing::debug!(uri, %error, "a resource was not unsubscribed from, though it has no subscriber");
            }
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn failed(error: ConnectionError) -> UpstreamError {
    match error {
        ConnectionError::Timeout { after, .. } => UpstreamError::TimedOut(after),
        ConnectionError::InvalidResponse(why) => UpstreamError::InvalidResponse(why.into()),
        ConnectionError::TooLong(limit) => UpstreamError::TooLarge(limit),
        ConnectionError::Refused(error) => error,
        ConnectionError::Spawn { source, .. } => {
            UpstreamError::Unreachable(format!("{error}: {source}", error = "it cannot be started"))
        }
        error => UpstreamError::Unreachable(error.to_string()),
    }
}
