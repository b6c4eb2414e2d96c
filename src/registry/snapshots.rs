//! The snapshot that requests hold: built anew when a server has other lists, swapped in as a whole.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};

use mcp::Era;
use tokio::time::Instant;

use super::{GATHER, House, Kept, LONGEST_REST, REST, Registry, panics, pin_check};
use crate::catalog::{Catalog, Face, Seen};
use crate::runtime::Plan;
use crate::server::Server;

impl Registry {
    /// Builds the catalog anew, swaps it in and says so.
    pub(super) fn rebuild(&self) {
        let kept = self.lock();
        let (plan, edition) = {
            let house = self.house.load();
            (house.plan.clone(), house.edition)
        };
        self.swap(kept, plan, edition);
    }

    /// Swaps in a plan and the catalog that goes with it, at once: no call is judged by the settings of one server and
    /// led to another.
    pub(super) fn swap(
        &self,
        mut kept: MutexGuard<'_, BTreeMap<Arc<str>, Kept>>,
        plan: Arc<Plan>,
        edition: u64,
    ) {
        let version = self.house.load().catalog.version + 1;
        let pinned = &plan.config.guard.pins;
        let mut faults: BTreeMap<Arc<str>, String> = BTreeMap::new();
        let mut shown = |server: &Arc<Server>, era, face: &Option<Arc<Face>>| {
            let face = face.as_ref()?;
            let shown = || pin_check::shown(&self.pins, server, era, face, pinned, &self.metrics);
            panics::of(shown).map_err(|why| faults.insert(server.name.clone(), why)).ok()
        };
        let mut seen: Vec<Seen> = kept
            .values()
            .map(|kept| Seen {
                server: kept.called().clone(),
                legacy: shown(kept.called(), Era::Legacy, &kept.legacy),
                modern: shown(kept.called(), Era::Modern, &kept.modern),
                starting: kept.starting(),
            })
            .collect();
        let servers = seen.iter().map(|seen| (seen.server.name.clone(), seen.server.clone())).collect();
        let build = |seen: &[Seen]| Catalog::build(version, seen, &plan.config.toolsets, &self.metrics);
        let catalog = panics::build(&mut seen, build, |one, why| {
            faults.insert(one.server.name.clone(), why.to_owned());
            (one.legacy, one.modern) = (None, None);
        });
        let catalog = Arc::new(catalog.unwrap_or_else(|| {
            // Those from before belong to another plan.
            tracing::error!("the gateway has a fault with its lists: it offers nothing. Please report this");
            build(&[])
        }));
        self.house.store(Arc::new(House::new(plan, servers, catalog, edition)));
        for entry in kept.values_mut() {
            if let Some(starting) = entry.starting.take() {
                entry.server.starts(starting);
            }
        }
        self.count_untried(&kept);
        for (name, why) in faults {
            let Some(entry) = kept.get_mut(&name) else { continue };
            let why = format!("the gateway has a fault with its lists, which are left out: {why}");
            (entry.met, entry.tried) = (false, true);
            self.metrics.upstream_up(&name, false);
            if entry.called().note(Some(why.clone())) {
                tracing::error!(server = %name, "{why}. Please report this");
            }
        }
        for entry in kept.values_mut().filter(|entry| entry.met) {
            entry.met = false;
            self.metrics.upstream_up(&entry.server.name, true);
            if entry.server.note(None) {
                entry.tell();
            }
        }
        // Under the lock until here, so that two builds cannot overtake each other.
        drop(kept);
        // Only now, so that who looks at once sees what is new. The number says no more than that there is something.
        self.news.send_replace(version);
    }
}

pub(super) async fn builder(registry: Arc<Registry>) {
    loop {
        registry.stale.notified().await;
        tokio::time::sleep(GATHER).await;
        let began = Instant::now();
        registry.rebuild();
        // Servers whose lists never hold still do not keep a core busy.
        tokio::time::sleep((began.elapsed() * REST).min(LONGEST_REST)).await;
    }
}
