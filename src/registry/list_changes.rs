//! What a client was last told of an endpoint's lists, held against what stands now.
//!
//! Nothing is queued for those who listen: each compares what its own caller saw with what that caller would see, so
//! no change is lost however long one does not look, and none is told to who does not see it.

use std::sync::Arc;

use filters::Caller;
use mcp::Era;
use tokio::sync::watch;

use super::{House, Registry};
use crate::catalog::{Endpoint, Kind, Prints};

pub struct Lookout {
    registry: Arc<Registry>,
    news: watch::Receiver<u64>,
    path: Arc<str>,
    era: Era,
    /// The plan, the lists as a whole and as the caller sees them when it looked last.
    edition: u64,
    whole: Prints,
    own: Prints,
    /// Something may have changed since.
    due: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// These lists read differently now.
    Changed(Vec<Kind>),
    /// The endpoint is no more.
    Gone,
}

impl Lookout {
    /// Looks at what the caller saw in this house, and at all that came since.
    pub async fn new(
        registry: Arc<Registry>,
        house: &House,
        endpoint: &Arc<Endpoint>,
        era: Era,
        caller: &Caller,
    ) -> Self {
        let own = registry.sight(house, endpoint, caller).await.view(era).prints;
        Self {
            news: registry.news.subscribe(),
            path: endpoint.path.clone(),
            era,
            edition: house.edition,
            whole: endpoint.view(era).prints,
            own,
            due: true,
            registry,
        }
    }

    /// Waits for the next change of what the caller sees; none at the end of the gateway.
    pub async fn next(&mut self, caller: impl Fn() -> Caller) -> Option<News> {
        loop {
            if std::mem::take(&mut self.due)
                && let Some(news) = self.look(&caller()).await
            {
                return Some(news);
            }
            self.news.changed().await.ok()?;
            self.due = true;
        }
    }

    async fn look(&mut self, caller: &Caller) -> Option<News> {
        let house = self.registry.house();
        let Some(endpoint) = house.catalog.endpoint(&self.path) else { return Some(News::Gone) };
        let whole = endpoint.view(self.era).prints;
        if (self.edition, self.whole) == (house.edition, whole) {
            return None;
        }
        (self.edition, self.whole) = (house.edition, whole);
        let own = self.registry.sight(&house, endpoint, caller).await.view(self.era).prints;
        let before = std::mem::replace(&mut self.own, own);
        let kinds = Kind::ANNOUNCED.into_iter().zip(before.iter().zip(own));
        let changed: Vec<Kind> = kinds.filter(|(_, (old, new))| *old != new).map(|(kind, _)| kind).collect();
        (!changed.is_empty()).then_some(News::Changed(changed))
    }
}
