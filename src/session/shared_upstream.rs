//! What a session follows at servers that it shares with all others (stdio): there is no seat there, only an ear.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use mcp::json::quote::quote;
use tokio::task::AbortHandle;

use super::{Deed, Item, Servers, Session};
use crate::server::Server;
use crate::upstream::stdio::subscriptions::Ear;
use crate::upstream::{Said, UpstreamError};
use mcp::jsonrpc::message;

/// Pauses between attempts to follow again what was followed.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How a session hears of one such server.
pub struct Shared {
    server: Arc<Server>,
    ear: Arc<Ear>,
    telling: AbortHandle,
    /// Something is still to be followed again there.
    behind: Arc<AtomicBool>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.telling.abort();
    }
}

impl Session {
    /// Follows a resource of a shared server, or no longer.
    pub async fn share(self: &Arc<Self>, server: &Arc<Server>, deed: &Deed) -> Result<Said, UpstreamError> {
        let ear = self.ear(server);
        let said = match deed {
            Deed::Follow(uri) => server.upstream.subscribe(uri, &ear).await?,
            Deed::Unfollow(uri) => server.upstream.unsubscribe(uri, &ear).await?,
            Deed::Level(_) => return Err(UpstreamError::Nonsense("it keeps no level for anybody".into())),
        };
        if matches!(said, Said::Result(_)) {
            self.memory.note(&server.name, deed);
        }
        if self.ended.is_cancelled() {
            // It ended in between, and knew nothing of this.
            server.upstream.unfollow(&ear).await;
        }
        Ok(said)
    }

    fn ear(self: &Arc<Self>, server: &Arc<Server>) -> Arc<Ear> {
        self.shared(server, |shared| shared.ear.clone())
    }

    fn shared<T>(self: &Arc<Self>, server: &Arc<Server>, of: impl FnOnce(&Shared) -> T) -> T {
        let mut ears = self.ears.lock().expect("no holder of the lock panics");
        let shared = ears.entry(server.serial).or_insert_with(|| {
            let (outbox, told, ear) = (self.outbox.clone(), server.clone(), Arc::<Ear>::default());
            let hears = ear.clone();
            let telling = self.core.spawn(async move {
                loop {
                    for uri in hears.next().await {
                        let params = format!(r#"{{"uri":{}}}"#, quote(&uri));
                        let message =
                            message::notification("notifications/resources/updated", params.as_bytes());
                        outbox.put(Item { server: Some(told.clone()), message }).await;
                    }
                }
            });
            Shared { server: server.clone(), ear, telling: telling.abort_handle(), behind: Arc::default() }
        });
        of(shared)
    }

    /// Other servers have taken the places of some.
    pub(super) fn adopt_shared(self: &Arc<Self>, servers: &Servers) {
        let mut behind = Vec::new();
        let gone: Vec<Shared> = {
            let mut ears = self.ears.lock().expect("no holder of the lock panics");
            let is_gone = |shared: &Shared| {
                servers.get(&shared.server.name).is_none_or(|now| now.serial != shared.server.serial)
            };
            let gone = ears.extract_if(|_, shared| is_gone(shared)).map(|(_, shared)| shared).collect();
            for shared in ears.values_mut() {
                // The same process under other settings.
                let now = servers.get(&shared.server.name).filter(|now| !Arc::ptr_eq(now, &shared.server));
                let Some(now) = now else { continue };
                shared.server = now.clone();
                if shared.behind.load(Ordering::Acquire) {
                    behind.push(now.clone());
                }
            }
            gone
        };
        for now in behind {
            self.move_to(&now, None);
        }
        for shared in gone {
            // The old process ends with its configuration.
            if let Some(now) = servers.get(&shared.server.name) {
                self.move_to(now, None);
            }
        }
    }

    /// At this server is something to be followed again.
    pub(super) fn fall_behind(self: &Arc<Self>, server: &Arc<Server>) {
        self.shared(server, |shared| shared.behind.store(true, Ordering::Release));
    }

    /// Follows at a server what was followed at the one before, and tells the client that it may have changed.
    pub(super) async fn share_again(self: &Arc<Self>, server: &Arc<Server>) {
        let ended = self.end();
        let behind = self.shared(server, |shared| shared.behind.clone());
        for uri in self.memory.followed(&server.name) {
            let mut pause = FIRST_PAUSE;
            loop {
                if ended.is_cancelled() || server.retired.is_cancelled() {
                    // Whatever takes its place goes on.
                    return;
                }
                match self.share(server, &Deed::Follow(uri.clone())).await {
                    Ok(Said::Result(_)) => break,
                    Ok(Said::Error(_)) => {
                        self.memory.note(&server.name, &Deed::Unfollow(uri.clone()));
                        break;
                    }
                    // Its process may not have started yet.
                    Err(error) => {
                        tracing::debug!(server = %server.name, %error, "a resource is not followed again yet");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                }
            }
            self.ear(server).tell(&uri);
        }
        behind.store(false, Ordering::Release);
    }

    pub(super) async fn leave_shared(&self) {
        let ears: Vec<Shared> = {
            let mut ears = self.ears.lock().expect("no holder of the lock panics");
            ears.drain().map(|(_, shared)| shared).collect()
        };
        join_all(ears.iter().map(|shared| shared.server.upstream.unfollow(&shared.ear))).await;
    }
}
