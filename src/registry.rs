//! Who is connected: one keeper a server greets it, reads its lists, watches for changes and comes back when it
//! was gone; what they find becomes the [`Catalog`], together with the plan one [`House`].
//!
//! All of it is off the path of a call. One slow, dead or talkative server costs only its own entries: its last
//! good lists stay, marked stale by `toolgate_upstream_up` and a log line.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use arc_swap::ArcSwap;
use filters::Era;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::catalog::pins::Pins;
use crate::catalog::{Catalog, Face, Kind, Seen};
use crate::plan::Plan;
use crate::server::Server;
use crate::telemetry::Metrics;
use sights::Sights;

mod approval;
mod keeper;
mod lookout;
mod pinning;
mod reading;
mod sights;

pub use approval::{Approval, Definition};
pub use lookout::{Lookout, News};

/// Changes that are so close together are shown as one.
const GATHER: Duration = Duration::from_millis(25);
/// How many times as long as a catalog takes to build the next one waits, and how long at most.
const REST: u32 = 4;
const LONGEST_REST: Duration = Duration::from_secs(2);

/// What a request holds from its first byte to its last.
pub struct House {
    pub plan: Arc<Plan>,
    pub catalog: Arc<Catalog>,
    /// Counts up with each plan.
    edition: u64,
    sights: Sights,
}

impl House {
    fn new(plan: Arc<Plan>, catalog: Arc<Catalog>, edition: u64) -> Self {
        Self { plan, catalog, edition, sights: Sights::default() }
    }

    /// Which required servers are not there, in words.
    pub fn missing(&self) -> Vec<String> {
        let servers = self.plan.servers.values();
        let away = servers.filter(|server| server.config.required && !server.is_up());
        let words = away.map(|server| {
            let error = server.last_error();
            let why = error.map_or_else(|| "not connected yet".to_owned(), |error| error.to_string());
            format!("the required server `{}`: {why}", server.name)
        });
        words.collect()
    }
}

/// What the keepers found of one server.
struct Kept {
    server: Arc<Server>,
    legacy: Option<Arc<Face>>,
    modern: Option<Arc<Face>>,
    /// Tried at least once.
    tried: bool,
    keeper: JoinHandle<()>,
}

pub struct Registry {
    house: ArcSwap<House>,
    kept: Mutex<BTreeMap<Arc<str>, Kept>>,
    stale: Notify,
    /// The version of the catalog that stands.
    news: watch::Sender<u64>,
    untried: watch::Sender<usize>,
    pins: Pins,
    metrics: Arc<Metrics>,
}

impl Registry {
    /// Starts with the plan's servers. Must be called on the long-lived runtime: the keepers stay there.
    pub fn start(plan: Arc<Plan>, metrics: Arc<Metrics>) -> Arc<Self> {
        let registry = Arc::new(Self {
            house: ArcSwap::from_pointee(House::new(plan.clone(), Arc::default(), 0)),
            kept: Mutex::default(),
            stale: Notify::new(),
            news: watch::Sender::new(0),
            untried: watch::Sender::new(0),
            pins: Pins::default(),
            metrics,
        });
        registry.clone().adopt(plan);
        registry.rebuild();
        tokio::spawn(builder(registry.clone()));
        registry
    }

    /// The present snapshot.
    pub fn house(&self) -> Arc<House> {
        self.house.load_full()
    }

    /// Waits until every server was tried once, but no longer than `patience`.
    pub async fn settled(&self, patience: Duration) {
        let mut untried = self.untried.subscribe();
        let _ = tokio::time::timeout(patience, untried.wait_for(|count| *count == 0)).await;
        self.rebuild();
    }

    /// Swaps in the servers of a new plan: those that did not change are kept with their connections, those
    /// that changed show their old lists until the new connection has its own, those that are gone finish what
    /// they run.
    pub fn adopt(self: Arc<Self>, plan: Arc<Plan>) {
        let mut retired = Vec::new();
        {
            let mut kept = self.kept.lock().expect("no keeper panics with the lock");
            let gone: Vec<Arc<str>> =
                kept.keys().filter(|name| !plan.servers.contains_key(*name)).cloned().collect();
            retired.extend(gone.iter().filter_map(|name| kept.remove(name)));
            for (name, server) in &plan.servers {
                let before = kept.get(name);
                if before.is_some_and(|kept| Arc::ptr_eq(&kept.server, server)) {
                    continue;
                }
                let (legacy, modern) = before.map_or((None, None), |k| (k.legacy.clone(), k.modern.clone()));
                let keeper = tokio::spawn(keeper::keep(server.clone(), Arc::downgrade(&self), None));
                let new = Kept { server: server.clone(), legacy, modern, tried: false, keeper };
                retired.extend(kept.insert(name.clone(), new));
            }
            self.count_untried(&kept);
            // Before the new catalog counts under the same names.
            for old in &retired {
                self.metrics.forget_server(&old.server.name);
            }
            let edition = self.house.load().edition + 1;
            self.swap(kept, plan, edition);
        }
        for old in retired {
            old.keeper.abort();
            old.server.retired.cancel();
            tokio::spawn(retire(old.server));
        }
    }

    /// Ends all connections and processes.
    pub async fn close(&self) {
        let kept = std::mem::take(&mut *self.kept.lock().expect("no keeper panics with the lock"));
        let ends = kept.into_values().map(|kept| async move {
            kept.keeper.abort();
            kept.server.upstream.close().await;
        });
        futures::future::join_all(ends).await;
    }

    /// What a keeper found: the faces of its server, or why there are none now.
    fn report(&self, server: &Arc<Server>, found: Result<keeper::Faces, String>) {
        let error = found.as_ref().err().cloned();
        let news = server.note(error.clone());
        self.metrics.upstream_up(&server.name, error.is_none());
        let mut kept = self.kept.lock().expect("no keeper panics with the lock");
        let Some(entry) = kept.get_mut(&server.name).filter(|kept| Arc::ptr_eq(&kept.server, server)) else {
            return;
        };
        entry.tried = true;
        match found {
            Ok([legacy, modern]) => {
                if news {
                    let tools =
                        [&legacy, &modern].into_iter().flatten().map(|f| f.lists.of(Kind::Tools).len()).max();
                    let eras: Vec<&str> = [(&legacy, Era::Legacy), (&modern, Era::Modern)]
                        .into_iter()
                        .filter_map(|(face, era)| face.as_ref().map(|_| era.word()))
                        .collect();
                    tracing::info!(server = %server.name, eras = eras.join(","), tools = tools.unwrap_or(0), "server connected");
                }
                entry.legacy = legacy;
                entry.modern = modern;
            }
            Err(_) if news && entry.legacy.is_none() && entry.modern.is_none() => {
                let error = error.as_deref();
                tracing::warn!(server = %server.name, error, "server is not connected; it is tried again and again");
            }
            Err(_) if news => {
                let error = error.as_deref();
                tracing::warn!(server = %server.name, error, "server is down; its last good lists stay");
            }
            Err(_) => {}
        }
        self.count_untried(&kept);
        drop(kept);
        self.stale.notify_one();
    }

    fn count_untried(&self, kept: &BTreeMap<Arc<str>, Kept>) {
        let count = kept.values().filter(|kept| !kept.tried).count();
        self.untried.send_replace(count);
    }

    /// Builds the catalog anew, swaps it in and says so.
    fn rebuild(&self) {
        let kept = self.kept.lock().expect("no keeper panics with the lock");
        let (plan, edition) = {
            let house = self.house.load();
            (house.plan.clone(), house.edition)
        };
        self.swap(kept, plan, edition);
    }

    /// Swaps in a plan and the catalog that goes with it, at once: no call is judged by the settings of one server and
    /// led to another.
    fn swap(&self, kept: MutexGuard<'_, BTreeMap<Arc<str>, Kept>>, plan: Arc<Plan>, edition: u64) {
        let version = self.house.load().catalog.version + 1;
        let pinned = &plan.config.guard.pins;
        let shown = |server: &Arc<Server>, era, face: &Option<Arc<Face>>| {
            face.as_ref().map(|face| pinning::shown(&self.pins, server, era, face, pinned, &self.metrics))
        };
        let seen: Vec<Seen> = kept
            .values()
            .map(|kept| Seen {
                server: kept.server.clone(),
                legacy: shown(&kept.server, Era::Legacy, &kept.legacy),
                modern: shown(&kept.server, Era::Modern, &kept.modern),
            })
            .collect();
        let catalog = Arc::new(Catalog::build(version, &seen, &plan.config.toolsets, &self.metrics));
        self.house.store(Arc::new(House::new(plan, catalog, edition)));
        // Under the lock until here, so that two builds cannot overtake each other.
        drop(kept);
        // Only now, so that who looks at once sees what is new. The number says no more than that there is something.
        self.news.send_replace(version);
    }
}

async fn builder(registry: Arc<Registry>) {
    loop {
        registry.stale.notified().await;
        tokio::time::sleep(GATHER).await;
        let began = Instant::now();
        registry.rebuild();
        // Servers whose lists never hold still do not keep a core busy.
        tokio::time::sleep((began.elapsed() * REST).min(LONGEST_REST)).await;
    }
}

/// Lets the calls of a server that is no longer configured finish, then ends it.
async fn retire(server: Arc<Server>) {
    let patience = tokio::time::Instant::now() + server.timeout + Duration::from_secs(1);
    // A request that has read the old snapshot may be about to start its call.
    tokio::time::sleep(Duration::from_millis(500)).await;
    while server.running() > 0 && tokio::time::Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.upstream.close().await;
    tracing::info!(server = %server.name, "server closed");
}
