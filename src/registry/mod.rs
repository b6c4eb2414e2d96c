//! Who is connected: one keeper a server greets it, reads its lists, watches for changes and comes back when it
//! was gone; what they find becomes the [`Catalog`], together with the plan one [`House`].
//!
//! All of it is off the path of a call. One slow, dead or talkative server costs only its own entries: its last
//! good lists stay, marked stale by `toolgate_upstream_up` and a log line.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use mcp::Era;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::catalog::pins::Pins;
use crate::catalog::{Catalog, Face, Kind};
use crate::runtime::Plan;
use crate::server::Server;
use crate::telemetry::Metrics;
pub use apart::{Apart, Work};
use supervisor::Faces;
use visibility::Sights;

mod apart;
pub mod entry_definitions;
mod list_changes;
mod list_fetch;
mod panics;
mod pin_approval;
mod pin_check;
mod rejected_entries;
mod snapshots;
mod supervisor;
mod visibility;

pub use list_changes::{Lookout, News};
pub use pin_approval::{Approval, Definition};

/// Changes that are so close together are shown as one.
const GATHER: Duration = Duration::from_millis(25);
/// How many times as long as a catalog takes to build the next one waits, and how long at most.
const REST: u32 = 4;
const LONGEST_REST: Duration = Duration::from_secs(2);
/// How long the start of the gateway lasts at most, for who asks whether it is ready: what is there then is what it serves.
pub const START: Duration = Duration::from_secs(5);
/// How long a server that a reload changed may take to connect, unless it is still starting, before the one that it was is
/// taken away all the same.
const TAKEOVER: Duration = Duration::from_secs(10);

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

/// The servers by their names, as they are called now.
type Called = BTreeMap<Arc<str>, Arc<Server>>;

/// What a request holds from its first byte to its last.
pub struct House {
    pub plan: Arc<Plan>,
    /// The plan's servers; but one that a reload changed is the one before until the new one is connected.
    pub servers: Called,
    pub catalog: Arc<Catalog>,
    /// Counts up with each plan.
    edition: u64,
    sights: Sights,
}

impl House {
    fn new(plan: Arc<Plan>, servers: Called, catalog: Arc<Catalog>, edition: u64) -> Self {
        Self { plan, servers, catalog, edition, sights: Sights::default() }
    }

    /// Which required servers are not there, in words.
    pub fn missing(&self) -> Vec<String> {
        let is_required = |name: &str| self.plan.servers.get(name).is_some_and(|s| s.config.required);
        let servers = self.servers.values();
        let away = servers.filter(|server| is_required(&server.name) && !server.is_up());
        let words = away.map(|server| {
            let error = server.last_error();
            let none = if server.is_awaited() { "still starting" } else { "not connected yet" };
            let why = error.map_or_else(|| none.to_owned(), |error| error.to_string());
            format!("the required server `{}`: {why}", server.name)
        });
        words.collect()
    }
}

/// What the keepers found of one server.
struct Kept {
    /// As it is configured.
    server: Arc<Server>,
    legacy: Option<Arc<Face>>,
    modern: Option<Arc<Face>>,
    /// Tried at least once.
    tried: bool,
    /// It was greeted, and is called up as soon as the catalog with what it lists stands: who reads that it is there may
    /// call it at once.
    met: bool,
    /// The eras in which it is still starting, from the next snapshot on: who reads that it has started finds what it lists.
    starting: Option<[bool; 2]>,
    /// What it lists with its new settings, while the one before is called: an era that this one shows is still to come.
    held: Option<Faces>,
    keeper: JoinHandle<()>,
    /// What it was before a reload, which is called until `server` is connected.
    old: Option<Old>,
}

struct Old {
    server: Arc<Server>,
    keeper: JoinHandle<()>,
}

impl Kept {
    fn called(&self) -> &Arc<Server> {
        self.old.as_ref().map_or(&self.server, |old| &old.server)
    }

    /// The eras in which the server that is called is still starting, as far as its keeper has told.
    fn starting(&self) -> [bool; 2] {
        let told = self.starting.filter(|_| self.old.is_none());
        told.unwrap_or_else(|| ERAS.map(|era| self.called().is_starting(era)))
    }

    /// Tells that its server is there.
    fn tell(&self) {
        let faces = [(&self.legacy, Era::Legacy), (&self.modern, Era::Modern)];
        let faces = faces.into_iter().filter_map(|(face, era)| Some((face.as_ref()?, era)));
        let (tools, eras): (Vec<usize>, Vec<&str>) =
            faces.map(|(face, era)| (face.lists.of(Kind::Tools).len(), era.word())).unzip();
        let tools = tools.into_iter().max().unwrap_or(0);
        tracing::info!(server = %self.server.name, eras = eras.join(","), tools, "server connected");
    }
}

/// A server that nobody is led to any more.
struct Leaving {
    old: Old,
    /// Nobody has taken its connections over.
    ends: bool,
}

impl Leaving {
    fn go(self) {
        self.old.keeper.abort();
        self.old.server.retired.cancel();
        if self.ends {
            tokio::spawn(retire(self.old.server));
        }
    }
}

pub struct Registry {
    house: ArcSwap<House>,
    kept: Mutex<BTreeMap<Arc<str>, Kept>>,
    stale: Notify,
    /// The version of the catalog that stands.
    news: watch::Sender<u64>,
    /// How many servers were not heard of yet since the start, and how many answers about an era are still to come.
    untried: watch::Sender<(usize, usize)>,
    begun: Instant,
    pins: Pins,
    apart: Apart,
    metrics: Arc<Metrics>,
}

impl Registry {
    /// Starts with the plan's servers. Must be called on the long-lived runtime: the keepers stay there.
    pub fn start(plan: Arc<Plan>, metrics: Arc<Metrics>) -> Arc<Self> {
        let house = House::new(plan.clone(), plan.servers.clone(), Arc::default(), 0);
        let registry = Arc::new(Self {
            house: ArcSwap::from_pointee(house),
            kept: Mutex::default(),
            stale: Notify::new(),
            news: watch::Sender::new(0),
            untried: watch::Sender::new((0, 0)),
            begun: Instant::now(),
            pins: Pins::default(),
            apart: Apart::new(Handle::current(), metrics.clone()),
            metrics,
        });
        registry.clone().adopt(plan);
        registry.rebuild();
        tokio::spawn(snapshots::builder(registry.clone()));
        registry
    }

    /// Tells when there is another house; the number says no more than that.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// For what rules say of many names at once.
    pub fn apart(&self) -> &Apart {
        &self.apart
    }

    /// The present snapshot.
    pub fn house(&self) -> Arc<House> {
        self.house.load_full()
    }

    /// Waits until every server was tried once, but no longer than `patience`; for what those that answered have to say of
    /// the other era no longer than `rest` more.
    pub async fn settled(&self, patience: Duration, rest: Duration) {
        let mut untried = self.untried.subscribe();
        let all = async {
            let _ = untried.wait_for(|(servers, _)| *servers == 0).await;
            let _ = tokio::time::timeout(rest, untried.wait_for(|(_, eras)| *eras == 0)).await;
        };
        let _ = tokio::time::timeout(patience, all).await;
        self.rebuild();
    }

    /// The servers that the gateway still waits for, for as long as its start is said to last. What a reload adds later is
    /// no reason to take it out of service.
    pub fn awaited(&self) -> Vec<Arc<str>> {
        if self.begun.elapsed() >= START {
            return Vec::new();
        }
        self.lock().values().filter(|kept| !kept.tried).map(|kept| kept.server.name.clone()).collect()
    }

    /// Swaps in the servers of a new plan: those that did not change are kept with their connections, those whose
    /// connection stays take it over, other changed ones take the place of what they were once they are connected,
    /// those that are gone finish what they run.
    pub fn adopt(self: Arc<Self>, plan: Arc<Plan>) {
        let mut leaving = Vec::new();
        {
            let mut kept = self.lock();
            let gone: Vec<Arc<str>> =
                kept.keys().filter(|name| !plan.servers.contains_key(*name)).cloned().collect();
            for gone in gone.iter().filter_map(|name| kept.remove(name)) {
                self.metrics.forget_server(&gone.server.name);
                let old = Old { server: gone.server, keeper: gone.keeper };
                leaving.extend(
                    [Some(old), gone.old].into_iter().flatten().map(|old| Leaving { old, ends: true }),
                );
            }
            for (name, server) in &plan.servers {
                let before = match kept.remove(name) {
                    Some(same) if Arc::ptr_eq(&same.server, server) => Some(same),
                    before => {
                        let (new, left) = self.succeed(server, before);
                        leaving.extend(left);
                        Some(new)
                    }
                };
                kept.extend(before.map(|before| (name.clone(), before)));
            }
            self.count_untried(&kept);
            let edition = self.house.load().edition + 1;
            self.swap(kept, plan, edition);
        }
        leaving.into_iter().for_each(Leaving::go);
    }

    /// Puts a server into the place of the one that had its name.
    fn succeed(self: &Arc<Self>, server: &Arc<Server>, before: Option<Kept>) -> (Kept, Option<Leaving>) {
        let keep = |known| tokio::spawn(panics::keep_on(server.clone(), Arc::downgrade(self), known));
        let new = |keeper| Kept {
            server: server.clone(),
            legacy: None,
            modern: None,
            tried: false,
            met: false,
            starting: None,
            held: None,
            keeper,
            old: None,
        };
        let Some(Kept { server: was, legacy, modern, tried, keeper, old, .. }) = before else {
            return (new(keep(None)), None);
        };
        let (is_same, is_kin) = (Arc::ptr_eq(&was.upstream, &server.upstream), was.serial == server.serial);
        if is_kin {
            server.upstream.hold_to(&server.bounds);
        }
        let faces = [legacy.clone(), modern.clone()];
        let known = is_same && old.is_none() && was.is_up() && faces.iter().any(Option::is_some);
        let mut kept = Kept { legacy, modern, ..new(keep(known.then_some(faces))) };
        let was = Old { server: was, keeper };
        match old {
            // It was not there yet itself.
            Some(old) => {
                kept.old = Some(old);
                self.relieve_in_time(server);
                (kept, Some(Leaving { old: was, ends: !is_same }))
            }
            None if is_kin || !was.server.is_up() => {
                kept.tried = is_kin && tried;
                (kept, Some(Leaving { old: was, ends: !is_same }))
            }
            None => {
                kept.old = Some(was);
                self.relieve_in_time(server);
                (kept, None)
            }
        }
    }

    /// After a time the one before goes, whether the new one is there or not.
    fn relieve_in_time(self: &Arc<Self>, server: &Arc<Server>) {
        let (registry, server) = (Arc::downgrade(self), server.clone());
        tokio::spawn(async move {
            tokio::time::sleep(TAKEOVER).await;
            // It is there, but for an era.
            if registry.upgrade().is_none_or(|registry| registry.relieve(&server)) {
                return;
            }
            let starts = || ERAS.iter().any(|era| server.is_starting(*era));
            let untried = registry.upgrade().map(|registry| registry.untried.subscribe());
            let (Some(mut untried), rest) = (untried, server.bounds.startup.saturating_sub(TAKEOVER)) else {
                return;
            };
            let _ = tokio::time::timeout(rest, untried.wait_for(|_| !starts())).await;
            let Some(registry) = registry.upgrade() else { return };
            let old = {
                let mut kept = registry.lock();
                let entry = kept.get_mut(&server.name).filter(|kept| Arc::ptr_eq(&kept.server, &server));
                entry.and_then(|kept| kept.old.take())
            };
            if let Some(old) = old {
                tracing::warn!(server = %server.name, "it is not connected with its new settings, and the old connection ends");
                registry.rebuild();
                Leaving { old, ends: true }.go();
            }
        });
    }

    /// Has a server called that waited only for one more era; gives whether it did.
    fn relieve(&self, server: &Arc<Server>) -> bool {
        let mut kept = self.lock();
        let entry = kept.get_mut(&server.name).filter(|kept| Arc::ptr_eq(&kept.server, server));
        let Some(entry) = entry else { return true };
        let Some(faces) = entry.held.take() else { return false };
        [entry.legacy, entry.modern] = faces;
        entry.met = true;
        let old = entry.old.take();
        drop(kept);
        self.rebuild();
        old.into_iter().for_each(|old| Leaving { old, ends: true }.go());
        true
    }

    /// Ends all connections and processes.
    pub async fn close(&self) {
        let kept = std::mem::take(&mut *self.lock());
        let all = kept.into_values().flat_map(|kept| {
            [Some(Old { server: kept.server, keeper: kept.keeper }), kept.old].into_iter().flatten()
        });
        let ends = all.map(|old| async move {
            old.keeper.abort();
            old.server.upstream.close().await;
        });
        futures::future::join_all(ends).await;
    }

    /// What a keeper found: the faces of its server, and the eras in which it is still starting; or why there are none now.
    fn report(&self, server: &Arc<Server>, found: Result<(Faces, [bool; 2]), String>) {
        let mut kept = self.lock();
        let Some(entry) = kept.get_mut(&server.name).filter(|kept| Arc::ptr_eq(&kept.server, server)) else {
            return;
        };
        entry.tried = true;
        entry.held = None;
        entry.met = found.is_ok();
        let news = match &found {
            Ok(_) => false,
            Err(error) => server.note(Some(error.clone())),
        };
        if !entry.met && entry.old.is_none() {
            self.metrics.upstream_up(&server.name, false);
        }
        let changed = found.is_ok() || news;
        let mut relieved = None;
        match found {
            Ok((faces, starting)) => {
                rejected_entries::tell(server, &faces, &self.metrics);
                entry.starting = Some(starting);
                let before = [entry.legacy.take(), entry.modern.take()];
                let awaits = |at: usize| starting[at] && faces[at].is_none() && before[at].is_some();
                if entry.old.is_some() && (awaits(0) || awaits(1)) {
                    [entry.legacy, entry.modern] = before;
                    (entry.held, entry.met) = (Some(faces), false);
                } else {
                    // What it showed in an era stays until it has answered there.
                    let kept =
                        [0, 1].map(|at| faces[at].clone().or(before[at].clone().filter(|_| awaits(at))));
                    [entry.legacy, entry.modern] = kept;
                    relieved = entry.old.take();
                }
            }
            Err(_) if !news => {}
            Err(error) if entry.old.is_some() => {
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
        match relieved {
            Some(old) => {
                self.rebuild();
                Leaving { old, ends: true }.go();
            }
            None if changed => self.stale.notify_one(),
            // What was told before changes no list: nobody is woken for it.
            None => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Kept>> {
        // Each entry is changed as a whole, so that a panic leaves none half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_untried(&self, kept: &BTreeMap<Arc<str>, Kept>) {
        let servers = kept.values().filter(|kept| !kept.tried).count();
        let starting = |era| kept.values().filter(|kept| kept.server.is_starting(era)).count();
        self.untried.send_replace((servers, starting(Era::Legacy) + starting(Era::Modern)));
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
