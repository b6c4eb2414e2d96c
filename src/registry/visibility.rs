//! What callers see of an endpoint, where they do not all see the same: one narrowed endpoint per visibility
//! class. It is made at the first request and kept as long as the catalog and the roles stay.

use std::sync::Arc;

use filters::rbac::VisibilityClass;
use filters::{CallTarget, Caller};
use moka::sync::Cache;

use super::worker_threads::Work;
use super::{Registry, Snapshot};
use crate::catalog::{Endpoint, ListKind, View};

/// Bytes of all cached endpoints together. Each caller may have one of its own where rules depend on the
/// caller.
const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// Cost of an entry beside its text in a page.
const ENTRY: usize = 500;

pub struct VisibleEndpoints(Cache<(VisibilityClass, Arc<str>), Arc<Endpoint>>);

impl Default for VisibleEndpoints {
    fn default() -> Self {
        let size = |_: &(VisibilityClass, Arc<str>), endpoint: &Arc<Endpoint>| endpoint.size();
        Self(Cache::builder().max_capacity(MAX_BYTES).weigher(size).build())
    }
}

impl Registry {
    /// The endpoint as this caller sees it.
    pub async fn visible_to(
        &self,
        snapshot: &Snapshot,
        endpoint: &Arc<Endpoint>,
        caller: &Caller,
    ) -> Arc<Endpoint> {
        let rbac = &snapshot.config.chain.rbac;
        if rbac.is_open() {
            return endpoint.clone();
        }
        let key = (rbac.visibility_class(caller), endpoint.path.clone());
        if let Some(known) = snapshot.visible.0.get(&key) {
            return known;
        }
        let known = || snapshot.visible.0.get(&key);
        let (visible, runtime_config, catalog) =
            (snapshot.visible.0.clone(), snapshot.config.clone(), snapshot.catalog.clone());
        let (key, whole, metrics) = (key.clone(), endpoint.clone(), self.metrics.clone());
        let work = move |of: &Work| {
            let may = |target: &CallTarget<'_>| {
                runtime_config.chain.rbac.sees_within(&of.caller, target, of.fuel()).unwrap_or(false)
            };
            visible.get_with(key, || Arc::new(catalog.narrowed(&whole, &may, &metrics)))
        };
        let nothing = || Arc::new(snapshot.catalog.narrowed(endpoint, &|_| false, &self.metrics));
        self.worker_threads.run(caller, known, work).await.unwrap_or_else(nothing)
    }
}

impl Endpoint {
    /// About how many bytes it takes.
    fn size(&self) -> u32 {
        let of = |v: &View| {
            let entries = v.tools.len() + v.prompts.len() + v.resources.len() + v.templates.len();
            (entries + ListKind::ALL.len()) * ENTRY + v.bytes()
        };
        u32::try_from(of(&self.legacy) + of(&self.modern)).unwrap_or(u32::MAX)
    }
}
