//! Puts the house together, runs it, and takes it down in good order.

pub mod file_watch;
mod in_process;
pub mod reload;
mod shutdown;
mod signals;
mod upgrade;
mod zombie_reaper;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server};
use pingora::services::listening::Service;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::admin::Serves;
use crate::config::{self, Config, Level};
use crate::dispatch::Door;
use crate::listener::connection_limit::{Crowd, Places};
use crate::listener::http1::Patient;
use crate::listener::http2::Multiplex;
use crate::listener::protocol_detect::Tongue;
use crate::listener::tls::{Tls, TlsError};
use crate::listener::tls_accept::Secure;
use crate::process::admin_address_file::Sign;
use crate::process::fd_limit::Descriptors;
use crate::process::handover::{HandoverError, Keep, Lent, Opening};
use crate::process::state::State;
use crate::proxy::Gateway;
use crate::registry::{Registry, START};
use crate::runtime::Plan;
use crate::session::Sessions;
use crate::telemetry::Metrics;
use crate::telemetry::access_log::Access;
use crate::upstream::http::{peer, retry};
use reload::Reload;
use shutdown::Stopping;
use signals::{Signals, Stage};
use upgrade::Before;

/// How long they wait for the store of shared limits.
const STORE: Duration = Duration::from_secs(1);
/// How often idle sessions are looked for, if they do not live shorter than that.
const SWEEP: Duration = Duration::from_secs(15);
/// How long Pingora's services may run on at the end: longer than `limits.drain` can be, since a reload may change it.
/// `shutdown::finish` ends the process in time.
const GRACE: Duration = Duration::from_secs(3630);

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("{0}")]
    Plan(#[from] crate::runtime::PlanError),
    #[error("cannot listen on {0}: {1}; is another program using the port?")]
    Listen(SocketAddr, std::io::Error),
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("cannot take over from the gateway that runs, which goes on: {0}")]
    Handover(#[from] HandoverError),
    #[error("not ready to take over from the gateway that runs, which goes on: {0}")]
    NotReady(String),
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

/// How a gateway begins to serve.
#[derive(Default)]
pub struct Start {
    /// The configuration file, which is watched for changes; `None` in the quickstart.
    pub file: Option<PathBuf>,
    /// Take over from the gateway that runs.
    pub upgrade: bool,
    /// What starts a gateway that takes over from this one.
    pub successor: Option<Command>,
}

/// All of the gateway but its listeners.
pub struct App {
    pub door: Arc<Door>,
    pub state: Arc<State>,
    runtime: Runtime,
    descriptors: Descriptors,
}

impl App {
    /// A gateway from its start to its end, which a signal makes. It listens at once; `ready` is called when each server has
    /// answered, or after some seconds, for those that are there by then.
    pub fn run(
        config: Config,
        start: Start,
        ready: impl FnOnce(&Door) + Send + 'static,
    ) -> Result<(), AppError> {
        let runtime = core()?;
        let signals = Signals::heed(&runtime, start.successor)?;
        zombie_reaper::adopt();
        Self::on(runtime, config)?.serve(start.file, start.upgrade, signals, ready)
    }

    /// The house alone, for the commands that do not listen; waits until each server has answered, or its time to start is
    /// over.
    pub fn build(config: Config) -> Result<Self, AppError> {
        let longest = config.servers.values().map(config::Server::startup).max().unwrap_or_default();
        let app = Self::on(core()?, config)?;
        app.runtime.block_on(app.door.registry.settled(longest + START, START));
        Ok(app)
    }

    /// Builds the house and begins to connect the servers.
    fn on(runtime: Runtime, config: Config) -> Result<Self, AppError> {
        // Before any child is started, which gets back what held before.
        let descriptors = Descriptors::raise();
        let core = runtime.handle().clone();
        let metrics = Metrics::new();
        metrics.config(&config.hash);
        let door = runtime.block_on(async {
            let plan = Plan::new(config, None, &core)?;
            let registry = Registry::start(plan, metrics.clone());
            reached(&registry).await;
            Ok::<_, AppError>(Arc::new(Door {
                registry,
                sessions: Sessions::new(metrics.clone(), core.clone()),
                metrics,
                core,
                drain: CancellationToken::new(),
                cut: CancellationToken::new(),
            }))
        })?;
        Ok(Self { door, state: Arc::default(), runtime, descriptors })
    }

    /// Runs something to its end; the house goes on.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Runs something to its end and closes the house.
    pub fn once<T>(self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(async {
            let done = work.await;
            self.door.sessions.close().await;
            self.door.registry.close().await;
            done
        })
    }

    fn serve(
        self,
        file: Option<PathBuf>,
        upgrade: bool,
        signals: Signals,
        ready: impl FnOnce(&Door) + Send + 'static,
    ) -> Result<(), AppError> {
        let house = self.door.registry.house();
        let config = house.plan.config.clone();
        let mut addresses = vec![config.listen.address];
        addresses.extend(config.admin.as_ref().map(|admin| admin.address));
        let descriptors = self.descriptors;
        descriptors.tell(&config);
        let tls = config.listen.tls.as_ref().map(|tls| Tls::load(tls, config.listen.http2)).transpose()?;
        let tls = tls.map(Arc::new);
        // All else that may fail stands before this.
        let (before, sockets) = Before::sockets(&self, &addresses, upgrade)?;
        let limits = &config.limits;
        let conf = conf(&config, descriptors);
        let mut server = Server::new_with_opt_and_conf(None, conf);
        server.bootstrap();
        let access = access(&config);
        let public = if config.admin.is_some() { Serves::Public } else { Serves::All };
        let kinds = [public, Serves::Admin];
        let opening = Opening::default();
        // A client that has vanished is told from one that only waits; one that takes nothing of its answer is left.
        let watched = peer::watched(limits.write_timeout.get());
        for (&address, serves) in addresses.iter().zip(kinds) {
            let gateway = Gateway {
                door: self.door.clone(),
                state: self.state.clone(),
                access: access.clone(),
                serves,
                inside: None,
            };
            let proxy = HttpProxy::new(gateway, server.configuration.clone());
            let (name, patience) = (format!("listener {address}"), limits.header_timeout.get());
            let patient = Arc::new(Patient::new(proxy, patience, self.state.clone()));
            let places = Places::new(self.door.clone(), descriptors);
            let multiplex = config.listen.http2.then(|| {
                let header = limits.max_header.as_usize();
                Multiplex::new(patient.clone(), places.clone(), self.state.clone(), patience, header)
            });
            let tongue = Tongue::new(patient, multiplex, patience);
            let socket = sockets.lend(address)?;
            let state = self.state.clone();
            match tls.clone().filter(|_| serves != Serves::Admin) {
                Some(tls) => {
                    let secure = Secure::new(tongue, tls, patience);
                    let crowd = Crowd::new(secure, places, state, false);
                    let service = Service::new(name, crowd);
                    server.add_service(Lent::new(
                        service,
                        address,
                        socket,
                        watched.clone(),
                        true,
                        opening.clone(),
                    ));
                }
                None => {
                    let crowd = Crowd::new(tongue, places, state, true);
                    let service = Service::new(name, crowd);
                    server.add_service(Lent::new(
                        service,
                        address,
                        socket,
                        watched.clone(),
                        false,
                        opening.clone(),
                    ));
                }
            }
        }
        if let Some(tls) = &tls {
            self.runtime.spawn(tls.clone().watch());
        }
        let keep = Keep::new(sockets);
        let sign = file.as_deref().and_then(Sign::of);
        let hang = sign.clone().map(|sign| (sign, config.operator()));
        self.runtime.spawn(before.open(
            opening,
            addresses.len(),
            keep.clone(),
            signals.clone(),
            hang,
            self.door.registry.clone(),
        ));
        self.runtime.spawn(sweep(self.door.clone()));
        self.runtime.spawn(move_sessions(self.door.clone()));
        let (door, state, hangup) = (self.door.clone(), self.state.clone(), signals.hangup.clone());
        self.runtime.spawn(Reload { file, door, state, tls, hangup }.run());
        let why = signals.stop.subscribe();
        let (door, state) = (self.door.clone(), self.state.clone());
        self.runtime.spawn(shutdown::finish(door, state, addresses.len(), why.clone(), sign));
        signals.reached(Stage::Serving);
        let (door, at) = (self.door.clone(), config.listen.address);
        self.runtime.spawn(async move {
            let starting = door.registry.awaited();
            if !starting.is_empty() {
                tracing::info!(%at, starting = starting.join(", "), "listening; some servers are still starting");
            }
            door.registry.settled(START, START).await;
            ready(&door);
        });
        server.run(RunArgs { shutdown_signal: Box::new(Stopping { why, keep }) });
        // `finish` ends the process when the last request is done; here only when that took too long.
        Ok(())
    }
}

/// The runtime that outlives all of Pingora's, which each service drops when it stops.
fn core() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).thread_name("core").enable_all().build()
}

/// Pingora's own settings.
fn conf(config: &Config, descriptors: Descriptors) -> ServerConf {
    ServerConf {
        threads: config.workers.count(),
        // With one thread there is nobody to steal from, and a runtime that knows it costs less.
        work_stealing: config.workers.count() > 1,
        grace_period_seconds: Some(GRACE.as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        upstream_keepalive_pool_size: descriptors.idle(config),
        max_retries: retry::MOST,
        ..ServerConf::default()
    }
}

/// The request log, if the log says that much.
fn access(config: &Config) -> Access {
    match config.log.level {
        Level::Info | Level::Debug | Level::Trace => Access::start(config.log.format),
        _ => Access::silent(),
    }
}

/// Waits a moment for the store of shared limits, so that the first calls are counted there too.
async fn reached(registry: &Registry) {
    let house = registry.house();
    let Some(store) = house.plan.lasting.redis() else { return };
    let patience = tokio::time::Instant::now() + STORE;
    while !store.is_there() && tokio::time::Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Has sessions move along when other servers are called than before.
async fn move_sessions(door: Arc<Door>) {
    let (mut news, mut before) = (door.registry.news(), door.registry.house().servers.clone());
    while news.changed().await.is_ok() {
        let now = &door.registry.house().servers;
        if before.len() != now.len()
            || !before.values().zip(now.values()).all(|(one, two)| Arc::ptr_eq(one, two))
        {
            door.sessions.adopt(now);
            before = now.clone();
        }
    }
}

async fn sweep(door: Arc<Door>) {
    loop {
        let ttl = door.registry.house().plan.config.limits.session_ttl.get();
        tokio::time::sleep(SWEEP.min(ttl)).await;
        door.sessions.sweep(ttl);
    }
}
