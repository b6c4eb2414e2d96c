//! The connected servers. One supervisor per server connects it, reads its lists, watches for changes and
//! reconnects. The lists become the [`Catalog`]; it and the runtime configuration are one [`Snapshot`].
//!
//! None of this is on the path of a call. A slow, dead or noisy server costs only its own entries: its last
//! good lists stay, marked stale by `toolgate_upstream_up` and a log line.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use mcp::Era;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::catalog::pins::Pins;
use crate::catalog::{Catalog, ServerLists};
use crate::runtime::RuntimeConfig;
use crate::server::Server;
use crate::telemetry::Metrics;
use entry::{RegistryEntry, Replaced};
use retiring::Retiring;
use visibility::VisibleEndpoints;
pub use worker_threads::{Work, WorkerThreads};

mod entry;
mod handshake;
mod list_changes;
mod list_fetch;
mod panics;
mod pin_approval;
mod pin_check;
mod rejected_entries;
mod retiring;
mod snapshots;
mod supervisor;
mod visibility;
mod worker_threads;

pub use list_changes::{ListChange, ListChangeWatcher};
pub use pin_approval::{PinApproval, PinDefinition};

/// Changes that are so close together are published as one.
const REBUILD_DEBOUNCE: Duration = Duration::from_millis(25);
/// The pause before the next catalog, as a multiple of the time that the last one took to build, and its
/// maximum.
const REBUILD_PAUSE_FACTOR: u32 = 4;
const MAX_REBUILD_PAUSE: Duration = Duration::from_secs(2);
/// How long the start of the gateway lasts at most for readiness checks. What is connected by then is what it
/// serves.
pub const STARTUP_WAIT: Duration = Duration::from_secs(5);
/// How long a server that a reload changed may take to connect, unless it is still starting. After that the
/// former server ends all the same.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(10);

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

/// The lists of a server in each era that it speaks.
type EraLists = [Option<Arc<ServerLists>>; 2];

/// The servers by name, as they are called now.
type ActiveServers = BTreeMap<Arc<str>, Arc<Server>>;

/// What a request holds from its first byte to its last.
pub struct Snapshot {
    pub config: Arc<RuntimeConfig>,
    /// The configured servers. A server that a reload changed is still the former one until the new one is
    /// connected.
    pub servers: ActiveServers,
    pub catalog: Arc<Catalog>,
    /// Incremented with each runtime configuration.
    config_generation: u64,
    visible: VisibleEndpoints,
}

impl Snapshot {
    fn new(
        runtime_config: Arc<RuntimeConfig>,
        servers: ActiveServers,
        catalog: Arc<Catalog>,
        config_generation: u64,
    ) -> Self {
        Self {
            config: runtime_config,
            servers,
            catalog,
            config_generation,
            visible: VisibleEndpoints::default(),
        }
    }

    /// Which required servers are not connected, in words.
    pub fn missing(&self) -> Vec<String> {
        let is_required = |name: &str| self.config.servers.get(name).is_some_and(|s| s.config.required);
        let servers = self.servers.values();
        let missing_servers = servers.filter(|server| is_required(&server.name) && !server.is_up());
        let message = missing_servers.map(|server| {
            let error = server.last_error();
            let none = if server.is_startup_awaited() { "still starting" } else { "not connected yet" };
            let why = error.map_or_else(|| none.to_owned(), |error| error.to_string());
            format!("the required server `{}`: {why}", server.name)
        });
        message.collect()
    }
}

/// Its `impl` is also in `snapshots` (the swap), `visibility` and `pin_approval`.
pub struct Registry {
    snapshot: ArcSwap<Snapshot>,
    entries: Mutex<BTreeMap<Arc<str>, RegistryEntry>>,
    stale: Notify,
    /// The generation of the current catalog.
    changes: watch::Sender<u64>,
    /// How many servers have not been tried since the start, and how many eras are still to be answered.
    untried: watch::Sender<(usize, usize)>,
    started: Instant,
    pins: Pins,
    worker_threads: WorkerThreads,
    pub metrics: Arc<Metrics>,
}

impl Registry {
    /// Starts with the configured servers. Must be called on the long-lived runtime: the supervisors run
    /// there.
    pub fn start(runtime_config: Arc<RuntimeConfig>, metrics: Arc<Metrics>) -> Arc<Self> {
        let snapshot =
            Snapshot::new(runtime_config.clone(), runtime_config.servers.clone(), Arc::default(), 0);
        let registry = Arc::new(Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            entries: Mutex::default(),
            stale: Notify::new(),
            changes: watch::Sender::new(0),
            untried: watch::Sender::new((0, 0)),
            started: Instant::now(),
            pins: Pins::default(),
            worker_threads: WorkerThreads::new(Handle::current(), metrics.clone()),
            metrics,
        });
        registry.clone().apply(runtime_config);
        registry.rebuild();
        tokio::spawn(snapshots::builder(registry.clone()));
        registry
    }

    /// Notifies of a new snapshot; the number has no other meaning.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Runs the RBAC checks of many names at once.
    pub fn worker_threads(&self) -> &WorkerThreads {
        &self.worker_threads
    }

    /// The current snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Waits until every server was tried once, but no longer than `timeout`. It waits at most `rest` more
    /// for the other era of servers that have answered.
    pub async fn settled(&self, timeout: Duration, rest: Duration) {
        let mut untried = self.untried.subscribe();
        let all = async {
            let _ = untried.wait_for(|(servers, _)| *servers == 0).await;
            let _ = tokio::time::timeout(rest, untried.wait_for(|(_, eras)| *eras == 0)).await;
        };
        let _ = tokio::time::timeout(timeout, all).await;
        self.rebuild();
    }

    /// The servers that the gateway still waits for, up to [`STARTUP_WAIT`]. A server that a later reload
    /// adds does not make the gateway unready.
    pub fn starting_servers(&self) -> Vec<Arc<str>> {
        if self.started.elapsed() >= STARTUP_WAIT {
            return Vec::new();
        }
        self.lock().values().filter(|kept| !kept.tried).map(|kept| kept.server.name.clone()).collect()
    }

    /// Applies the servers of a new configuration. Servers that did not change keep their connections. Those
    /// whose connection settings are the same take the connection over. Other changed servers replace the
    /// former one once they are connected. Removed servers finish their calls.
    pub fn apply(self: Arc<Self>, runtime_config: Arc<RuntimeConfig>) {
        let mut all_retiring = Vec::new();
        {
            let mut kept = self.lock();
            let gone: Vec<Arc<str>> =
                kept.keys().filter(|name| !runtime_config.servers.contains_key(*name)).cloned().collect();
            for gone in gone.iter().filter_map(|name| kept.remove(name)) {
                self.metrics.forget_server(&gone.server.name);
                let old = Replaced { server: gone.server, supervisor: gone.supervisor };
                all_retiring.extend(
                    [Some(old), gone.replaced].into_iter().flatten().map(|old| Retiring { old, ends: true }),
                );
            }
            for (name, server) in &runtime_config.servers {
                let before = match kept.remove(name) {
                    Some(same) if Arc::ptr_eq(&same.server, server) => Some(same),
                    before => {
                        let (new, left) = self.replace(server, before);
                        all_retiring.extend(left);
                        Some(new)
                    }
                };
                kept.extend(before.map(|before| (name.clone(), before)));
            }
            self.count_untried(&kept);
            let config_generation = self.snapshot.load().config_generation + 1;
            self.swap(kept, runtime_config, config_generation);
        }
        all_retiring.into_iter().for_each(Retiring::retire);
    }

    /// Replaces the server of the same name.
    fn replace(
        self: &Arc<Self>,
        server: &Arc<Server>,
        before: Option<RegistryEntry>,
    ) -> (RegistryEntry, Option<Retiring>) {
        let keep = |known| {
            tokio::spawn(panics::supervise_with_restarts(server.clone(), Arc::downgrade(self), known))
        };
        let new = |supervisor| RegistryEntry {
            server: server.clone(),
            legacy: None,
            modern: None,
            bridged: None,
            tried: false,
            connected: false,
            starting: None,
            held: None,
            supervisor,
            replaced: None,
        };
        let Some(RegistryEntry { server: was, legacy, modern, tried, supervisor, replaced: old, .. }) =
            before
        else {
            return (new(keep(None)), None);
        };
        let (is_same, shares_connection) =
            (Arc::ptr_eq(&was.upstream, &server.upstream), was.serial == server.serial);
        if shares_connection {
            server.upstream.update_limits(&server.limits);
        }
        let lists = [legacy.clone(), modern.clone()];
        let known = is_same && old.is_none() && was.is_up() && lists.iter().any(Option::is_some);
        let mut kept = RegistryEntry { legacy, modern, ..new(keep(known.then_some(lists))) };
        let was = Replaced { server: was, supervisor };
        match old {
            // It was not connected itself.
            Some(old) => {
                kept.replaced = Some(old);
                self.retire_after_timeout(server);
                (kept, Some(Retiring { old: was, ends: !is_same }))
            }
            None if shares_connection || !was.server.is_up() => {
                kept.tried = shares_connection && tried;
                (kept, Some(Retiring { old: was, ends: !is_same }))
            }
            None => {
                kept.replaced = Some(was);
                self.retire_after_timeout(server);
                (kept, None)
            }
        }
    }

    /// Retires the former server after a timeout, whether the new one is connected or not.
    fn retire_after_timeout(self: &Arc<Self>, server: &Arc<Server>) {
        let (registry, server) = (Arc::downgrade(self), server.clone());
        tokio::spawn(async move {
            tokio::time::sleep(REPLACE_TIMEOUT).await;
            // It is connected, except for an era.
            if registry.upgrade().is_none_or(|registry| registry.activate(&server)) {
                return;
            }
            let starts = || ERAS.iter().any(|server_era| server.is_starting(*server_era));
            let untried = registry.upgrade().map(|registry| registry.untried.subscribe());
            let (Some(mut untried), rest) = (untried, server.limits.startup.saturating_sub(REPLACE_TIMEOUT))
            else {
                return;
            };
            let _ = tokio::time::timeout(rest, untried.wait_for(|_| !starts())).await;
            let Some(registry) = registry.upgrade() else { return };
            let old = {
                let mut kept = registry.lock();
                let entry = kept.get_mut(&server.name).filter(|kept| Arc::ptr_eq(&kept.server, &server));
                entry.and_then(|kept| kept.replaced.take())
            };
            if let Some(old) = old {
                tracing::warn!(server = %server.name, "it is not connected with its new settings, and the old connection ends");
                registry.rebuild();
                Retiring { old, ends: true }.retire();
            }
        });
    }

    /// Makes a server active that waited only for one more era; returns whether it did.
    fn activate(&self, server: &Arc<Server>) -> bool {
        let mut kept = self.lock();
        let entry = kept.get_mut(&server.name).filter(|kept| Arc::ptr_eq(&kept.server, server));
        let Some(entry) = entry else { return true };
        let Some(lists) = entry.held.take() else { return false };
        [entry.legacy, entry.modern] = lists;
        entry.connected = true;
        let old = entry.replaced.take();
        drop(kept);
        self.rebuild();
        old.into_iter().for_each(|old| Retiring { old, ends: true }.retire());
        true
    }

    /// Ends all connections and processes.
    pub async fn close(&self) {
        let kept = std::mem::take(&mut *self.lock());
        let all = kept.into_values().flat_map(|kept| {
            [Some(Replaced { server: kept.server, supervisor: kept.supervisor }), kept.replaced]
                .into_iter()
                .flatten()
        });
        let ends = all.map(|old| async move {
            old.supervisor.abort();
            old.server.upstream.close().await;
        });
        futures::future::join_all(ends).await;
    }

    /// Records what a supervisor found: the lists of its server and the eras in which it is still starting,
    /// or why there are none now.
    fn update(&self, server: &Arc<Server>, found: Result<(EraLists, [bool; 2]), String>) {
        let mut kept = self.lock();
        let Some(entry) = kept.get_mut(&server.name).filter(|kept| Arc::ptr_eq(&kept.server, server)) else {
            return;
        };
        entry.tried = true;
        entry.held = None;
        entry.connected = found.is_ok();
        let news = match &found {
            Ok(_) => false,
            Err(error) => server.set_error(Some(error.clone())),
        };
        if !entry.connected && entry.replaced.is_none() {
            self.metrics.upstream_up(&server.name, false);
        }
        let changed = found.is_ok() || news;
        let mut former = None;
        match found {
            Ok((lists, starting)) => {
                rejected_entries::log(server, &lists, &self.metrics);
                entry.starting = Some(starting);
                let before = [entry.legacy.take(), entry.modern.take()];
                let awaits = |at: usize| starting[at] && lists[at].is_none() && before[at].is_some();
                if entry.replaced.is_some() && (awaits(0) || awaits(1)) {
                    [entry.legacy, entry.modern] = before;
                    (entry.held, entry.connected) = (Some(lists), false);
                } else {
                    // The lists of an era stay until the server has answered there.
                    let kept =
                        [0, 1].map(|at| lists[at].clone().or(before[at].clone().filter(|_| awaits(at))));
                    [entry.legacy, entry.modern] = kept;
                    former = entry.replaced.take();
                }
            }
            Err(_) if !news => {}
            Err(error) if entry.replaced.is_some() => {
                tracing::warn!(server = %server.name, error, "server does not connect with its new settings; the old connection is used for some seconds more");
            }
            Err(error) if entry.legacy.is_none() && entry.modern.is_none() => {
                tracing::warn!(server = %server.name, error, "server is not connected; it is tried again and again");
            }
            Err(error) => {
                tracing::warn!(server = %server.name, error, "server is down; its last good lists stay");
            }
        }
        self.count_untried(&kept);
        drop(kept);
        match former {
            Some(old) => {
                self.rebuild();
                Retiring { old, ends: true }.retire();
            }
            None if changed => self.stale.notify_one(),
            // An error that was reported before changes no list: no rebuild.
            None => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, RegistryEntry>> {
        // Each entry is changed as a whole, so that a panic leaves none half changed.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_untried(&self, kept: &BTreeMap<Arc<str>, RegistryEntry>) {
        let servers = kept.values().filter(|kept| !kept.tried).count();
        let starting = |server_era| kept.values().filter(|kept| kept.server.is_starting(server_era)).count();
        self.untried.send_replace((servers, starting(Era::Legacy) + starting(Era::Modern)));
    }
}
