//! Detects list changes: compares the lists of an endpoint as a client knows them with the current ones.
//!
//! Nothing is queued for watchers. Each compares what its caller saw with what that caller would see now. So
//! no change is lost, however seldom a watcher looks, and no caller is notified of a change that it does not
//! see.

use std::sync::Arc;

use filters::Caller;
use mcp::Era;
use tokio::sync::watch;

use super::{Registry, Snapshot};
use crate::catalog::{Endpoint, ListFingerprints, ListKind};

pub struct ListChangeWatcher {
    registry: Arc<Registry>,
    changes: watch::Receiver<u64>,
    path: Arc<str>,
    client_era: Era,
    /// At the last check: the config generation, the fingerprints of the whole lists and of what the caller
    /// sees.
    generation: u64,
    whole: ListFingerprints,
    visible: ListFingerprints,
    /// Something may have changed since.
    due: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum ListChange {
    /// These lists are different now.
    Changed(Vec<ListKind>),
    /// The endpoint no longer exists.
    Gone,
}

impl ListChangeWatcher {
    /// Starts from what the caller sees in this snapshot; all later changes are reported.
    pub async fn new(
        registry: Arc<Registry>,
        snapshot: &Snapshot,
        endpoint: &Arc<Endpoint>,
        client_era: Era,
        caller: &Caller,
    ) -> Self {
        let visible = registry.visible_to(snapshot, endpoint, caller).await.view(client_era).fingerprints;
        Self {
            changes: registry.changes.subscribe(),
            path: endpoint.path.clone(),
            client_era,
            generation: snapshot.config_generation,
            whole: endpoint.view(client_era).fingerprints,
            visible,
            due: true,
            registry,
        }
    }

    /// Waits for the next change of what the caller sees; `None` when the gateway ends.
    pub async fn next(&mut self, caller: impl Fn() -> Caller) -> Option<ListChange> {
        loop {
            if std::mem::take(&mut self.due)
                && let Some(change) = self.check(&caller()).await
            {
                return Some(change);
            }
            self.changes.changed().await.ok()?;
            self.due = true;
        }
    }

    async fn check(&mut self, caller: &Caller) -> Option<ListChange> {
        let snapshot = self.registry.snapshot();
        let Some(endpoint) = snapshot.catalog.endpoint(&self.path) else { return Some(ListChange::Gone) };
        let whole = endpoint.view(self.client_era).fingerprints;
        if (self.generation, self.whole) == (snapshot.config_generation, whole) {
            return None;
        }
        (self.generation, self.whole) = (snapshot.config_generation, whole);
        let visible =
            self.registry.visible_to(&snapshot, endpoint, caller).await.view(self.client_era).fingerprints;
        let before = std::mem::replace(&mut self.visible, visible);
        let kinds = ListKind::ANNOUNCED.into_iter().zip(before.iter().zip(visible));
        let changed: Vec<ListKind> =
            kinds.filter(|(_, (old, new))| *old != new).map(|(kind, _)| kind).collect();
        (!changed.is_empty()).then_some(ListChange::Changed(changed))
    }
}
