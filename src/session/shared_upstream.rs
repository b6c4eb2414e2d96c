//! What a session follows at servers that it shares with all others (stdio): there is no seat there, only an ear.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use mcp::json::quote::quote;
use tokio::task::AbortHandle;

use super::{OutboxItem, Servers, Session, StateChange};
use crate::server::Server;
use crate::upstream::stdio::subscriptions::UpdateQueue;
use crate::upstream::{RpcOutcome, UpstreamError};
use mcp::jsonrpc::message;

/// Pauses between attempts to follow again what was followed.
const MIN_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// How a session hears of one such server.
pub struct SharedSubscription {
    server: Arc<Server>,
    updates: Arc<UpdateQueue>,
    forwarder: AbortHandle,
    /// Something is still to be followed again there.
    stale: Arc<AtomicBool>,
}

impl Drop for SharedSubscription {
    fn drop(&mut self) {
        self.forwarder.abort();
    }
}

impl Session {
    /// Follows a resource of a shared server, or no longer.
    pub async fn subscribe_shared(
        self: &Arc<Self>,
        server: &Arc<Server>,
        state_change: &StateChange,
    ) -> Result<RpcOutcome, UpstreamError> {
        let updates = self.update_queue(server);
        let said = match state_change {
            StateChange::Subscribe(uri) => server.upstream.subscribe(uri, &updates).await?,
            StateChange::Unsubscribe(uri) => server.upstream.unsubscribe(uri, &updates).await?,
            StateChange::LogLevel(_) => {
                return Err(UpstreamError::InvalidResponse("it keeps no level for anybody".into()));
            }
        };
        if matches!(said, RpcOutcome::Result(_)) {
            self.client_state.apply(&server.name, state_change);
        }
        if self.ended.is_cancelled() {
            // It ended in between, and knew nothing of this.
            server.upstream.drop_subscriber(&updates).await;
        }
        Ok(said)
    }

    fn update_queue(self: &Arc<Self>, server: &Arc<Server>) -> Arc<UpdateQueue> {
        self.shared(server, |shared| shared.updates.clone())
    }

    fn shared<T>(self: &Arc<Self>, server: &Arc<Server>, of: impl FnOnce(&SharedSubscription) -> T) -> T {
        let mut ears = self.shared.lock().expect("no holder of the lock panics");
        let shared = ears.entry(server.serial).or_insert_with(|| {
            let (outbox, told, updates) =
                (self.outbox.clone(), server.clone(), Arc::<UpdateQueue>::default());
            let hears = updates.clone();
            let telling = self.runtime.spawn(async move {
                loop {
                    for uri in hears.next().await {
                        let params = format!(r#"{{"uri":{}}}"#, quote(&uri));
                        let message =
                            message::notification("notifications/resources/updated", params.as_bytes());
                        outbox.send(OutboxItem { server: Some(told.clone()), message }).await;
                    }
                }
            });
            SharedSubscription {
                server: server.clone(),
                updates,
                forwarder: telling.abort_handle(),
                stale: Arc::default(),
            }
        });
        of(shared)
    }

    /// Other servers have taken the places of some.
    pub(super) fn apply_shared(self: &Arc<Self>, servers: &Servers) {
        let mut behind = Vec::new();
        let gone: Vec<SharedSubscription> = {
            let mut ears = self.shared.lock().expect("no holder of the lock panics");
            let is_gone = |shared: &SharedSubscription| {
                servers.get(&shared.server.name).is_none_or(|now| now.serial != shared.server.serial)
            };
            let gone = ears.extract_if(|_, shared| is_gone(shared)).map(|(_, shared)| shared).collect();
            for shared in ears.values_mut() {
                // The same process under other settings.
                let now = servers.get(&shared.server.name).filter(|now| !Arc::ptr_eq(now, &shared.server));
                let Some(now) = now else { continue };
                shared.server = now.clone();
                if shared.stale.load(Ordering::Acquire) {
                    behind.push(now.clone());
                }
            }
            gone
        };
        for now in behind {
            self.migrate(&now, None);
        }
        for shared in gone {
            // The old process ends with its configuration.
            if let Some(now) = servers.get(&shared.server.name) {
                self.migrate(now, None);
            }
        }
    }

    /// At this server is something to be followed again.
    pub(super) fn mark_stale(self: &Arc<Self>, server: &Arc<Server>) {
        self.shared(server, |shared| shared.stale.store(true, Ordering::Release));
    }

    /// Follows at a server what was followed at the one before, and tells the client that it may have changed.
    pub(super) async fn resubscribe_shared(self: &Arc<Self>, server: &Arc<Server>) {
        let ended = self.end();
        let behind = self.shared(server, |shared| shared.stale.clone());
        for uri in self.client_state.subscriptions(&server.name) {
            let mut pause = MIN_BACKOFF;
            loop {
                if ended.is_cancelled() || server.retired.is_cancelled() {
                    // Whatever takes its place goes on.
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
                        tracing::debug!(server = %server.name, %error, "a resource is not followed again yet");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(MAX_BACKOFF);
                    }
                }
            }
            self.update_queue(server).push(&uri);
        }
        behind.store(false, Ordering::Release);
    }

    pub(super) async fn unsubscribe_shared(&self) {
        let ears: Vec<SharedSubscription> = {
            let mut ears = self.shared.lock().expect("no holder of the lock panics");
            ears.drain().map(|(_, shared)| shared).collect()
        };
        join_all(ears.iter().map(|shared| shared.server.upstream.drop_subscriber(&shared.updates))).await;
    }
}
