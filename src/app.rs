//! Puts the house together, runs it, and takes it down in good order.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::proxy::HttpProxy;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server, ShutdownSignal, ShutdownSignalWatch};
use pingora::services::listening::Service;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Level};
use crate::door::Door;
use crate::plan::Plan;
use crate::proxy::multiplex::Multiplex;
use crate::proxy::patience::Patient;
use crate::proxy::secure::Secure;
use crate::proxy::tongue::Tongue;
use crate::proxy::{Gateway, Serves};
use crate::registry::Registry;
use crate::reload::Reload;
use crate::session::Sessions;
use crate::state::State;
use crate::telemetry::Metrics;
use crate::telemetry::access::Access;
use crate::tls::{Tls, TlsError};
use crate::upstream::retry;

/// How long the listeners wait for the servers' first answers.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long they wait for the store of shared limits.
const STORE: Duration = Duration::from_secs(1);
/// How often idle sessions are looked for, if they do not live shorter than that.
const SWEEP: Duration = Duration::from_secs(15);
/// How long running requests get after Ctrl-C, when somebody waits at the terminal.
const HURRY: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("{0}")]
    Plan(#[from] crate::plan::PlanError),
    #[error("cannot listen on {0}: {1}; is another program using the port?")]
    Listen(SocketAddr, std::io::Error),
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

/// All of the gateway but its listeners.
pub struct App {
    pub door: Arc<Door>,
    pub state: Arc<State>,
    runtime: Runtime,
}

impl App {
    /// Builds the house and connects the servers; waits for their first answers, but not for long.
    pub fn build(config: Config) -> Result<Self, AppError> {
        // One runtime outlives all of Pingora's, which each service drops when it stops.
        let runtime =
            Builder::new_multi_thread().worker_threads(2).thread_name("core").enable_all().build()?;
        let core = runtime.handle().clone();
        let metrics = Metrics::new();
        metrics.config(&config.hash);
        let door = runtime.block_on(async {
            let plan = Plan::new(config, None, &core)?;
            let registry = Registry::start(plan, metrics.clone());
            registry.settled(PATIENCE).await;
            reached(&registry).await;
            Ok::<_, AppError>(Arc::new(Door {
                registry,
                sessions: Sessions::new(metrics.clone(), core.clone()),
                metrics,
                core,
                drain: CancellationToken::new(),
            }))
        })?;
        Ok(Self { door, state: Arc::default(), runtime })
    }

    /// Runs something to its end and closes the house; for the commands that do not listen.
    pub fn once<T>(self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(async {
            let done = work.await;
            self.door.sessions.close().await;
            self.door.registry.close().await;
            done
        })
    }

    /// Serves until a signal; `file` is watched for changes; `ready` is called once the servers are known and
    /// the ports are free.
    pub fn serve(self, file: Option<PathBuf>, ready: impl FnOnce(&Self)) -> Result<(), AppError> {
        let house = self.door.registry.house();
        let config = house.plan.config.clone();
        let mut addresses = vec![config.listen.address];
        addresses.extend(config.admin.as_ref().map(|admin| admin.address));
        for address in &addresses {
            // Pingora would try again and again; a person wants to know now.
            TcpListener::bind(address).map_err(|error| AppError::Listen(*address, error))?;
        }
        let tls = config.listen.tls.as_ref().map(|tls| Tls::load(tls, config.listen.http2)).transpose()?;
        let tls = tls.map(Arc::new);
        let limits = &config.limits;
        let conf = ServerConf {
            threads: config.workers.count(),
            grace_period_seconds: Some(limits.drain.get().as_secs() + 2),
            graceful_shutdown_timeout_seconds: Some(1),
            upstream_keepalive_pool_size: 1024,
            max_retries: retry::MOST,
            ..ServerConf::default()
        };
        let mut server = Server::new_with_opt_and_conf(None, conf);
        server.bootstrap();
        let access = if matches!(config.log.level, Level::Info | Level::Debug | Level::Trace) {
            Access::start(config.log.format, self.door.metrics.clone())
        } else {
            Access::silent(self.door.metrics.clone())
        };
        let public = if config.admin.is_some() { Serves::Public } else { Serves::All };
        let kinds = [public, Serves::Admin];
        for (address, serves) in addresses.iter().zip(kinds) {
            let gateway = Gateway {
                door: self.door.clone(),
                state: self.state.clone(),
                access: access.clone(),
                serves,
            };
            let proxy = HttpProxy::new(gateway, server.configuration.clone());
            let (name, patience) = (format!("listener {address}"), limits.header_timeout.get());
            let patient = Arc::new(Patient::new(proxy, patience));
            let multiplex = config.listen.http2.then(|| {
                let header = limits.max_header.as_usize();
                Multiplex::new(patient.clone(), self.state.clone(), patience, header)
            });
            let tongue = Tongue::new(patient, multiplex, patience);
            match tls.clone().filter(|_| serves != Serves::Admin) {
                Some(tls) => {
                    add(&mut server, Service::new(name, Secure::new(tongue, tls, patience)), address)
                }
                None => add(&mut server, Service::new(name, tongue), address),
            }
        }
        if let Some(tls) = &tls {
            self.runtime.spawn(tls.clone().watch());
        }
        let (stop, stopping) = watch::channel(None);
        self.runtime.spawn(signals(stop));
        self.runtime.spawn(sweep(self.door.clone()));
        let reload = Reload { file, door: self.door.clone(), state: self.state.clone(), tls };
        self.runtime.spawn(reload.run());
        self.runtime.spawn(finish(self.door.clone(), self.state.clone(), stopping.clone()));
        ready(&self);
        server.run(RunArgs { shutdown_signal: Box::new(Stopping(stopping)) });
        // `finish` ends the process when the last request is done; here only when that took too long.
        Ok(())
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

fn add<A: ServerApp + Send + Sync + 'static>(
    server: &mut Server,
    mut service: Service<A>,
    address: &SocketAddr,
) {
    service.add_tcp(&address.to_string());
    server.add_service(service);
}

/// Waits for SIGTERM (drain) or SIGINT (hurry) and tells how long running requests may go on.
async fn signals(stop: watch::Sender<Option<Duration>>) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received; only SIGKILL stops this process");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => stop.send_replace(Some(Duration::MAX)),
        _ = interrupt.recv() => stop.send_replace(Some(HURRY)),
    };
    // A second signal means it.
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    std::process::exit(130);
}

/// Pingora closes its listeners when this gives its word.
struct Stopping(watch::Receiver<Option<Duration>>);

#[async_trait]
impl ShutdownSignalWatch for Stopping {
    async fn recv(&self) -> ShutdownSignal {
        let mut stopping = self.0.clone();
        // An error means that nobody can signal any more.
        if stopping.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
        ShutdownSignal::GracefulTerminate
    }
}

/// From the signal to the end: streams are told, running requests finish, sessions and processes are closed.
async fn finish(door: Arc<Door>, state: Arc<State>, mut stopping: watch::Receiver<Option<Duration>>) {
    let Ok(patience) = stopping.wait_for(Option::is_some).await.map(|patience| patience.unwrap_or(HURRY))
    else {
        return;
    };
    let drain = patience.min(door.registry.house().plan.config.limits.drain.get());
    tracing::info!(requests = state.present(), ?drain, "stopping");
    door.drain.cancel();
    let deadline = tokio::time::Instant::now() + drain;
    // Requests that were being accepted at the moment of the signal show up a little later.
    tokio::time::sleep(Duration::from_millis(100)).await;
    while state.present() > 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let cut = state.present();
    let close = async {
        door.sessions.close().await;
        door.registry.close().await;
    };
    if tokio::time::timeout(Duration::from_secs(10), close).await.is_err() {
        tracing::warn!("some servers did not close in time");
    }
    if cut > 0 {
        tracing::warn!(requests = cut, "stopped; some requests were cut");
    } else {
        tracing::info!("stopped");
    }
    // The request log is written by a thread of its own.
    tokio::time::sleep(Duration::from_millis(20)).await;
    std::process::exit(0);
}

async fn sweep(door: Arc<Door>) {
    loop {
        let ttl = door.registry.house().plan.config.limits.session_ttl.get();
        tokio::time::sleep(SWEEP.min(ttl)).await;
        door.sessions.sweep(ttl);
    }
}
