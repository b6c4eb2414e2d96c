//! Resource subscriptions at servers that all sessions share (stdio): there is no upstream session there,
//! only a queue of updates.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use mcp::json::quote::quote;
use tokio::task::AbortHandle;

use super::{OutboxItem, Servers, Session, StateChange};
use crate::server::Server;
use crate::upstream::subscriptions::UpdateQueue;
use crate::upstream::{RpcOutcome, UpstreamError};
use mcp::jsonrpc::message;

/// Pauses between attempts to subscribe again.
const MIN_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The error of a server without subscriptions.
const NO_SUBSCRIPTIONS: &[u8] = br#"{"code":-32601,"message":"this server has no resources to follow"}"#;

/// The subscription of a session at one such server.
pub struct SharedSubscription {
    server: Arc<Server>,
    updates: Arc<UpdateQueue>,
    forwarder: AbortHandle,
    /// A resource there is still to be subscribed to again.
    stale: Arc<AtomicBool>,
}

impl Drop for SharedSubscription {
    fn drop(&mut self) {
        self.forwarder.abort();
    }
}

impl Session {
    /// Subscribes to a resource of a shared server, or unsubscribes.
    pub async fn subscribe_shared(
        self: &Arc<Self>,
        server: &Arc<Server>,
        state_change: &StateChange,
    ) -> Result<RpcOutcome, UpstreamError> {
        let Some(shared) = server.upstream.shared_subscriptions() else {
            return Ok(RpcOutcome::Error(Bytes::from_static(NO_SUBSCRIPTIONS)));
        };
        let updates = self.update_queue(server);
        let outcome = match state_change {
            StateChange::Subscribe(uri) => shared.subscribe(uri, &updates).await?,
            StateChange::Unsubscribe(uri) => shared.unsubscribe(uri, &updates).await?,
            StateChange::LogLevel(_) => {
                return Err(UpstreamError::InvalidResponse("it keeps no level for anybody".into()));
            }
        };
        if matches!(outcome, RpcOutcome::Result(_)) {
            self.client_state.apply(&server.name, state_change);
        }
        if self.ended.is_cancelled() {
            // The session ended in between, and did not see this subscription.
            shared.drop_subscriber(&updates).await;
        }
        Ok(outcome)
    }

    fn update_queue(self: &Arc<Self>, server: &Arc<Server>) -> Arc<UpdateQueue> {
        self.shared(server, |shared| shared.updates.clone())
    }

    fn shared<T>(self: &Arc<Self>, server: &Arc<Server>, of: impl FnOnce(&SharedSubscription) -> T) -> T {
        let mut all = self.shared.lock().expect("no holder of the lock panics");
        let shared = all.entry(server.serial).or_insert_with(|| {
            let (outbox, sender, updates) =
                (self.outbox.clone(), server.clone(), Arc::<UpdateQueue>::default());
            let queue = updates.clone();
            let forward_task = self.runtime.spawn(async move {
                loop {
                    for uri in queue.next().await {
                        let params = format!(r#"{{"uri":{}}}"#, quote(&uri));
                        let message =
                            message::notification("notifications/resources/updated", params.as_bytes());
                        outbox.send(OutboxItem { server: Some(sender.clone()), message }).await;
                    }
                }
            });
            SharedSubscription {
                server: server.clone(),
                updates,
                forwarder: forward_task.abort_handle(),
                stale: Arc::default(),
            }
        });
        of(shared)
    }

    /// Applies a reload that has replaced servers.
    pub(super) fn apply_shared(self: &Arc<Self>, servers: &Servers) {
        let mut stale_servers = Vec::new();
        let gone: Vec<SharedSubscription> = {
            let mut all = self.shared.lock().expect("no holder of the lock panics");
            let is_gone = |shared: &SharedSubscription| {
                servers.get(&shared.server.name).is_none_or(|now| now.serial != shared.server.serial)
            };
            let gone = all.extract_if(|_, shared| is_gone(shared)).map(|(_, shared)| shared).collect();
            for shared in all.values_mut() {
                // The same process with other settings.
                let now = servers.get(&shared.server.name).filter(|now| !Arc::ptr_eq(now, &shared.server));
                let Some(now) = now else { continue };
                shared.server = now.clone();
                if shared.stale.load(Ordering::Acquire) {
                    stale_servers.push(now.clone());
                }
            }
            gone
        };
        for now in stale_servers {
            self.migrate(&now, None);
        }
        for shared in gone {
            // The old process ends with its configuration.
            if let Some(now) = servers.get(&shared.server.name) {
                self.migrate(now, None);
            }
        }
    }

    /// Marks that resources of this server are to be subscribed to again.
    pub(super) fn mark_stale(self: &Arc<Self>, server: &Arc<Server>) {
        self.shared(server, |shared| shared.stale.store(true, Ordering::Release));
    }

    /// Subscribes at a server to the resources of the former one, and notifies the client that they may have
    /// changed.
    pub(super) async fn resubscribe_shared(self: &Arc<Self>, server: &Arc<Server>) {
        let ended = self.end();
        let stale_flag = self.shared(server, |shared| shared.stale.clone());
        for uri in self.client_state.subscriptions(&server.name) {
            let mut pause = MIN_BACKOFF;
            loop {
                if ended.is_cancelled() || server.retired.is_cancelled() {
                    // The server that replaces it continues.
                    return;
                }
                match self.subscribe_shared(server, &StateChange::Subscribe(uri.clone())).await {
                    Ok(RpcOutcome::Result(_)) => break,
                    Ok(RpcOutcome::Error(_)) => {
                        self.client_state.apply(&server.name, &StateChange::Unsubscribe(uri.clone()));
                        break;
                    }
                    // Its process may not have started yet.
                    Err(error) => {
                        tracing::debug!(server = %server.name, %error, "a resource is not subscribed again yet");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(MAX_BACKOFF);
                    }
                }
            }
            self.update_queue(server).push(&uri);
        }
        stale_flag.store(false, Ordering::Release);
    }

    pub(super) async fn unsubscribe_shared(&self) {
        let all: Vec<SharedSubscription> = {
            let mut all = self.shared.lock().expect("no holder of the lock panics");
            all.drain().map(|(_, shared)| shared).collect()
        };
        let all = all.iter().filter_map(|shared| {
            Some(shared.server.upstream.shared_subscriptions()?.drop_subscriber(&shared.updates))
        });
        join_all(all).await;
    }
}
