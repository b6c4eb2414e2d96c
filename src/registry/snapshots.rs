//! The snapshot that requests hold: rebuilt when the lists of a server change, swapped in as a whole.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};

use mcp::Era;
use tokio::time::Instant;

use super::{
    MAX_REBUILD_PAUSE, REBUILD_DEBOUNCE, REBUILD_PAUSE_FACTOR, Registry, RegistryEntry, Snapshot, panics,
    pin_check,
};
use crate::catalog::{Catalog, DiscoveredServer, ServerLists};
use crate::runtime::RuntimeConfig;
use crate::server::Server;

impl Registry {
    /// Rebuilds the catalog, swaps it in and notifies the watchers.
    pub(super) fn rebuild(&self) {
        let kept = self.lock();
        let (runtime_config, config_generation) = {
            let snapshot = self.snapshot.load();
            (snapshot.config.clone(), snapshot.config_generation)
        };
        self.swap(kept, runtime_config, config_generation);
    }

    /// Swaps in a configuration together with its catalog: no call is authorized with the settings of one
    /// server and sent to another.
    pub(super) fn swap(
        &self,
        mut kept: MutexGuard<'_, BTreeMap<Arc<str>, RegistryEntry>>,
        runtime_config: Arc<RuntimeConfig>,
        config_generation: u64,
    ) {
        let generation = self.snapshot.load().catalog.generation + 1;
        let pinned = &runtime_config.config.guard.pins;
        let mut faults: BTreeMap<Arc<str>, String> = BTreeMap::new();
        let mut visible = |server: &Arc<Server>, server_era, lists: &Option<Arc<ServerLists>>| {
            let lists = lists.as_ref()?;
            let visible =
                || pin_check::without_changed(&self.pins, server, server_era, lists, pinned, &self.metrics);
            panics::of(visible).map_err(|why| faults.insert(server.name.clone(), why)).ok()
        };
        let mut seen: Vec<DiscoveredServer> = kept
            .values_mut()
            .map(|kept| {
                let server = kept.active().clone();
                let legacy = visible(&server, Era::Legacy, &kept.legacy);
                let modern = visible(&server, Era::Modern, &kept.modern);
                let bridged = kept.bridged(legacy.as_ref(), modern.as_ref());
                DiscoveredServer { legacy, modern, bridged, starting: kept.starting(), server }
            })
            .collect();
        let servers = seen.iter().map(|seen| (seen.server.name.clone(), seen.server.clone())).collect();
        let build = |seen: &[DiscoveredServer]| {
            Catalog::build(generation, seen, &runtime_config.config.toolsets, &self.metrics)
        };
        let catalog = panics::build(&mut seen, build, |one, why| {
            faults.insert(one.server.name.clone(), why.to_owned());
            (one.legacy, one.modern, one.bridged) = (None, None, None);
        });
        let catalog = Arc::new(catalog.unwrap_or_else(|| {
            // The former lists belong to another configuration.
            tracing::error!("the gateway has a fault with its lists: it offers nothing. Please report this");
            build(&[])
        }));
        self.snapshot.store(Arc::new(Snapshot::new(runtime_config, servers, catalog, config_generation)));
        for entry in kept.values_mut() {
            if let Some(starting) = entry.starting.take() {
                entry.server.set_starting(starting);
            }
        }
        self.count_untried(&kept);
        for (name, why) in faults {
            let Some(entry) = kept.get_mut(&name) else { continue };
            let why = format!("the gateway has a fault with its lists, which are left out: {why}");
            (entry.connected, entry.tried) = (false, true);
            self.metrics.upstream_up(&name, false);
            if entry.active().set_error(Some(why.clone())) {
                tracing::error!(server = %name, "{why}. Please report this");
            }
        }
        for entry in kept.values_mut().filter(|entry| entry.connected) {
            entry.connected = false;
            self.metrics.upstream_up(&entry.server.name, true);
            if entry.server.set_error(None) {
                entry.log_connected();
            }
        }
        // Locked until here, so that two builds cannot overtake each other.
        drop(kept);
        // Only now, so that a watcher that looks at once sees the new snapshot. The number only says that
        // there is one.
        self.changes.send_replace(generation);
    }
}

pub(super) async fn builder(registry: Arc<Registry>) {
    loop {
        registry.stale.notified().await;
        tokio::time::sleep(REBUILD_DEBOUNCE).await;
        let started = Instant::now();
        registry.rebuild();
        // Servers whose lists change without end do not keep a core busy.
        tokio::time::sleep((started.elapsed() * REBUILD_PAUSE_FACTOR).min(MAX_REBUILD_PAUSE)).await;
    }
}
