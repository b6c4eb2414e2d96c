//! Builds the gateway, runs it, and shuts it down cleanly.

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

use crate::admin::ListenerRole;
use crate::config::{self, Config, LogLevel};
use crate::dispatch::Dispatcher;
use crate::listener::connection_limit::{ConnectionLimit, ConnectionPermits};
use crate::listener::http1::Http1Server;
use crate::listener::http2::Http2Server;
use crate::listener::protocol_detect::DetectHttp;
use crate::listener::tls::{Tls, TlsError};
use crate::listener::tls_accept::TlsAcceptor;
use crate::process::admin_address_file::AdminAddressFile;
use crate::process::fd_limit::FdLimit;
use crate::process::handover::{HandoverError, InheritedService, ListenersReady, SocketHolder};
use crate::process::state::ProcessState;
use crate::proxy::Gateway;
use crate::registry::{Registry, STARTUP_WAIT};
use crate::runtime::RuntimeConfig;
use crate::telemetry::Metrics;
use crate::telemetry::access_log::AccessLog;
use crate::upstream::http::{peer, retry};
use reload::Reload;
use shutdown::ShutdownWatcher;
use signals::{Signals, Stage};
use upgrade::Predecessor;

/// How long the start waits for the store of shared limits.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often idle sessions are searched, unless they expire sooner.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);
/// How long Pingora's services may run on at the end: longer than `limits.drain` can be, because a reload
/// may change it. `shutdown::finish` ends the process in time.
const GRACE: Duration = Duration::from_secs(3630);

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("{0}")]
    Config(#[from] crate::runtime::RuntimeConfigError),
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

/// How a gateway starts.
#[derive(Default)]
pub struct StartOptions {
    /// The configuration file, which is watched for changes; `None` in the quickstart.
    pub file: Option<PathBuf>,
    /// Take over from the running gateway.
    pub upgrade: bool,
    /// Starts a gateway that takes over from this one.
    pub successor: Option<Command>,
}

/// The whole gateway but its listeners.
pub struct App {
    pub dispatcher: Arc<Dispatcher>,
    pub state: Arc<ProcessState>,
    runtime: Runtime,
    descriptors: FdLimit,
}

impl App {
    /// Runs a gateway from its start until a signal ends it. It listens at once. `ready` is called when
    /// each server has answered; after some seconds it is called for those that are there.
    pub fn run(
        config: Config,
        start: StartOptions,
        ready: impl FnOnce(&Dispatcher) + Send + 'static,
    ) -> Result<(), AppError> {
        let runtime = build_runtime()?;
        let signals = Signals::install(&runtime, start.successor)?;
        zombie_reaper::start();
        Self::build_on(runtime, config)?.serve(start.file, start.upgrade, signals, ready)
    }

    /// The gateway without listeners, for the commands that do not listen; waits until each server has
    /// answered, or its time to start is over.
    pub fn build(config: Config) -> Result<Self, AppError> {
        let longest = config.servers.values().map(config::ServerConfig::startup).max().unwrap_or_default();
        let app = Self::build_on(build_runtime()?, config)?;
        app.runtime.block_on(app.dispatcher.registry.settled(longest + STARTUP_WAIT, STARTUP_WAIT));
        Ok(app)
    }

    /// Builds the gateway and begins to connect the servers.
    fn build_on(runtime: Runtime, config: Config) -> Result<Self, AppError> {
        // Before any child is started, because children get the original limit back.
        let descriptors = FdLimit::raise();
        let core = runtime.handle().clone();
        let metrics = Metrics::new();
        metrics.config(&config.hash);
        let dispatcher = runtime.block_on(async {
            let runtime_config = RuntimeConfig::new(config, None, &core)?;
            let registry = Registry::start(runtime_config, metrics.clone());
            wait_for_store(&registry).await;
            Ok::<_, AppError>(Dispatcher::new(registry, metrics, core))
        })?;
        Ok(Self { dispatcher, state: Arc::default(), runtime, descriptors })
    }

    /// Runs a future to its end; the gateway stays open.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Runs a future to its end and closes the gateway.
    pub fn run_once<T>(self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(async {
            let done = work.await;
            self.dispatcher.sessions.close().await;
            self.dispatcher.registry.close().await;
            done
        })
    }

    fn serve(
        self,
        file: Option<PathBuf>,
        upgrade: bool,
        signals: Signals,
        ready: impl FnOnce(&Dispatcher) + Send + 'static,
    ) -> Result<(), AppError> {
        let snapshot = self.dispatcher.registry.snapshot();
        let config = snapshot.config.config.clone();
        let mut addresses = vec![config.listen.address];
        addresses.extend(config.admin.as_ref().map(|admin| admin.address));
        let descriptors = self.descriptors;
        descriptors.log(&config);
        let tls = config.listen.tls.as_ref().map(|tls| Tls::load(tls, config.listen.http2)).transpose()?;
        let tls = tls.map(Arc::new);
        // Everything else that may fail is done before this.
        let (predecessor, sockets) = Predecessor::sockets(&self, &addresses, upgrade)?;
        let limits = &config.limits;
        let conf = server_conf(&config, descriptors);
        let mut server = Server::new_with_opt_and_conf(None, conf);
        server.bootstrap();
        let access = access_log(&config);
        let public = if config.admin.is_some() { ListenerRole::Public } else { ListenerRole::All };
        let kinds = [public, ListenerRole::Admin];
        let listeners_ready = ListenersReady::default();
        // Distinguishes a dead client from one that only waits; a client that does not read its response is
        // disconnected.
        let watched = peer::with_probes(limits.write_timeout.get());
        for (&address, serves) in addresses.iter().zip(kinds) {
            let gateway = Gateway {
                dispatcher: self.dispatcher.clone(),
                state: self.state.clone(),
                access_log: access.clone(),
                role: serves,
                in_process: None,
            };
            let proxy = HttpProxy::new(gateway, server.configuration.clone());
            let (name, timeout) = (format!("listener {address}"), limits.header_timeout.get());
            let http1 = Arc::new(Http1Server::new(proxy, timeout, self.state.clone()));
            let permits = ConnectionPermits::new(self.dispatcher.clone(), descriptors);
            let http2 = config.listen.http2.then(|| {
                let header = limits.max_header.as_usize();
                Http2Server::new(http1.clone(), permits.clone(), self.state.clone(), timeout, header)
            });
            let detect_http = DetectHttp::new(http1, http2, timeout);
            let socket = sockets.dup_for(address)?;
            let state = self.state.clone();
            match tls.clone().filter(|_| serves != ListenerRole::Admin) {
                Some(tls) => {
                    let tls_acceptor = TlsAcceptor::new(detect_http, tls, timeout);
                    let connection_limit = ConnectionLimit::new(tls_acceptor, permits, state, false);
                    let service = Service::new(name, connection_limit);
                    server.add_service(InheritedService::new(
                        service,
                        address,
                        socket,
                        watched.clone(),
                        true,
                        listeners_ready.clone(),
                    ));
                }
                None => {
                    let connection_limit = ConnectionLimit::new(detect_http, permits, state, true);
                    let service = Service::new(name, connection_limit);
                    server.add_service(InheritedService::new(
                        service,
                        address,
                        socket,
                        watched.clone(),
                        false,
                        listeners_ready.clone(),
                    ));
                }
            }
        }
        if let Some(tls) = &tls {
            self.runtime.spawn(tls.clone().watch());
        }
        let holder = SocketHolder::new(sockets);
        let address_file = file.as_deref().and_then(AdminAddressFile::of);
        let published = address_file.clone().map(|address_file| (address_file, config.admin_address()));
        self.runtime.spawn(predecessor.open(
            listeners_ready,
            addresses.len(),
            holder.clone(),
            signals.clone(),
            published,
            self.dispatcher.registry.clone(),
        ));
        self.runtime.spawn(sweep_sessions(self.dispatcher.clone()));
        self.runtime.spawn(move_sessions(self.dispatcher.clone()));
        let (dispatcher, state, hangup) =
            (self.dispatcher.clone(), self.state.clone(), signals.hangup.clone());
        self.runtime.spawn(Reload { file, dispatcher, state, tls, hangup }.run());
        let why = signals.stop.subscribe();
        let (dispatcher, state) = (self.dispatcher.clone(), self.state.clone());
        self.runtime.spawn(shutdown::finish(dispatcher, state, addresses.len(), why.clone(), address_file));
        signals.set_stage(Stage::Serving);
        let (dispatcher, at) = (self.dispatcher.clone(), config.listen.address);
        self.runtime.spawn(async move {
            let starting = dispatcher.registry.starting_servers();
            if !starting.is_empty() {
                tracing::info!(%at, starting = starting.join(", "), "listening; some servers are still starting");
            }
            dispatcher.registry.settled(STARTUP_WAIT, STARTUP_WAIT).await;
            ready(&dispatcher);
        });
        server.run(RunArgs { shutdown_signal: Box::new(ShutdownWatcher { request: why, sockets: holder }) });
        // `finish` ends the process when the last request is done. The code gets here only if that took too
        // long.
        Ok(())
    }
}

/// The runtime that outlives all of Pingora's, which each service drops when it stops.
fn build_runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).thread_name("core").enable_all().build()
}

/// Pingora's own settings.
fn server_conf(config: &Config, descriptors: FdLimit) -> ServerConf {
    ServerConf {
        threads: config.workers.count(),
        // One thread has no other to steal from, and a runtime without work stealing costs less.
        work_stealing: config.workers.count() > 1,
        grace_period_seconds: Some(GRACE.as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        upstream_keepalive_pool_size: descriptors.idle(config),
        max_retries: retry::MAX_ATTEMPTS,
        ..ServerConf::default()
    }
}

/// The access log, if the log level includes it.
fn access_log(config: &Config) -> AccessLog {
    match config.log.level {
        LogLevel::Info | LogLevel::Debug | LogLevel::Trace => AccessLog::start(config.log.format),
        _ => AccessLog::silent(),
    }
}

/// Waits a moment for the store of shared limits, so that the first calls are counted there too.
async fn wait_for_store(registry: &Registry) {
    let snapshot = registry.snapshot();
    let Some(store) = snapshot.config.reload_state.redis() else { return };
    let timeout = tokio::time::Instant::now() + STORE_TIMEOUT;
    while !store.is_there() && tokio::time::Instant::now() < timeout {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Migrates sessions when the set of servers changes.
async fn move_sessions(dispatcher: Arc<Dispatcher>) {
    let (mut changes, mut before) =
        (dispatcher.registry.changes(), dispatcher.registry.snapshot().servers.clone());
    while changes.changed().await.is_ok() {
        let now = &dispatcher.registry.snapshot().servers;
        if before.len() != now.len()
            || !before.values().zip(now.values()).all(|(one, two)| Arc::ptr_eq(one, two))
        {
            dispatcher.sessions.apply_servers(now);
            before = now.clone();
        }
    }
}

async fn sweep_sessions(dispatcher: Arc<Dispatcher>) {
    loop {
        let ttl = dispatcher.registry.snapshot().config.config.limits.session_ttl.get();
        tokio::time::sleep(SWEEP_INTERVAL.min(ttl)).await;
        dispatcher.sessions.sweep(ttl);
    }
}
