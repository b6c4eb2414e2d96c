//! What a client was last told of an endpoint's lists, held against what stands now.
//!
//! Nothing is queued for those who listen: each compares what its own caller saw with what that caller would see, so
//! no change is lost however long one does not look, and none is told to who does not see it.

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
    era: Era,
    /// The plan, the lists as a whole and as the caller sees them when it looked last.
    generation: u64,
    whole: ListFingerprints,
    own: ListFingerprints,
    /// Something may have changed since.
    due: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum ListChange {
    /// These lists read differently now.
    Changed(Vec<ListKind>),
    /// The endpoint is no more.
    Gone,
}

impl ListChangeWatcher {
    /// Looks at what the caller saw in this house, and at all that came since.
    pub async fn new(
        registry: Arc<Registry>,
        snapshot: &Snapshot,
        endpoint: &Arc<Endpoint>,
        era: Era,
        caller: &Caller,
    ) -> Self {
        let own = registry.visible_to(snapshot, endpoint, caller).await.view(era).fingerprints;
        Self {
            changes: registry.changes.subscribe(),
            path: endpoint.path.clone(),
            era,
            generation: snapshot.config_generation,
            whole: endpoint.view(era).fingerprints,
            own,
            due: true,
            registry,
        }
    }

    /// Waits for the next change of what the caller sees; none at the end of the gateway.
    pub async fn next(&mut self, caller: impl Fn() -> Caller) -> Option<ListChange> {
        loop {
            if std::mem::take(&mut self.due)
                && let Some(news) = self.check(&caller()).await
            {
                return Some(news);
            }
            self.changes.changed().await.ok()?;
            self.due = true;
        }
    }

    async fn check(&mut self, caller: &Caller) -> Option<ListChange> {
        let snapshot = self.registry.snapshot();
        let Some(endpoint) = snapshot.catalog.endpoint(&self.path) else { return Some(ListChange::Gone) };
        let whole = endpoint.view(self.era).fingerprints;
        if (self.generation, self.whole) == (snapshot.config_generation, whole) {
            return None;
        }
        (self.generation, self.whole) = (snapshot.config_generation, whole);
        let own = self.registry.visible_to(&snapshot, endpoint, caller).await.view(self.era).fingerprints;
        let before = std::mem::replace(&mut self.own, own);
        let kinds = ListKind::ANNOUNCED.into_iter().zip(before.iter().zip(own));
        let changed: Vec<ListKind> =
            kinds.filter(|(_, (old, new))| *old != new).map(|(kind, _)| kind).collect();
        (!changed.is_empty()).then_some(ListChange::Changed(changed))
    }
}
