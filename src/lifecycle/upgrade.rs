//! From the old gateway to this one, and from this one to the next.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::shutdown::Shutdown;
use super::signals::{Signals, Stage};
use super::{App, AppError};
use crate::config::AdminAddress;
use crate::process::admin_address_file::AdminAddressFile;
use crate::process::handover::{
    HandoverError, ListenersReady, PREDECESSOR, PendingHandover, SocketHolder, Sockets, UpgradeListener,
    receive_sockets, socket_path,
};
use crate::process::systemd;
use crate::registry::{Registry, STARTUP_WAIT};
use crate::telemetry;

/// How long servers may take to start before a handover, and the required ones to connect before it is given up.
const READY: Duration = Duration::from_secs(60);
/// How long those that have answered may take to say whether they speak the other era too. Nobody waits for it but who
/// upgrades: the gateway that runs serves both meanwhile.
const ERAS: Duration = Duration::from_secs(30);

/// What was before this gateway: another one that waits for a word, or nothing.
pub struct Predecessor {
    old: Option<PendingHandover>,
    socket_path: Option<PathBuf>,
}

impl Predecessor {
    /// The listening sockets: those of the gateway that runs if it is to be taken over from, else fresh ones.
    pub fn sockets(app: &App, wanted: &[SocketAddr], upgrade: bool) -> Result<(Self, Sockets), AppError> {
        let place = socket_path(&app.dispatcher.registry.snapshot().config.config);
        // Who was started by the gateway that runs finds it, even if the file names another address by now.
        let known = std::env::var_os(PREDECESSOR).map(PathBuf::from);
        let mut places: Vec<&PathBuf> = known.iter().chain(&place).filter(|_| upgrade).collect();
        places.dedup();
        if !places.is_empty() {
            app.runtime.block_on(wait_until_ready(app))?;
        }
        let mut taken = None;
        for place in &places {
            taken = receive_sockets(place)?;
            if taken.is_some() {
                break;
            }
        }
        if upgrade && taken.is_none() {
            tracing::warn!(?places, "no gateway waits there to be taken over from: this one starts anew");
        }
        let (given, old) = taken.map_or_else(Default::default, |(given, old)| (given, Some(old)));
        let sockets = given.complete(wanted).map_err(|(address, error)| AppError::Listen(address, error))?;
        Ok((Self { old, socket_path: place }, sockets))
    }

    /// Once all listeners accept: lets the old gateway go, and waits for a successor.
    /// `hang` says where this one answers operators.
    pub async fn open(
        self,
        opening: ListenersReady,
        listeners: usize,
        keep: SocketHolder,
        signals: Signals,
        hang: Option<(AdminAddressFile, AdminAddress)>,
        registry: Arc<Registry>,
    ) {
        opening.wait_all(listeners).await;
        if let Some(old) = self.old {
            let elsewhere = Some(old.path()).filter(|old| Some(*old) != self.socket_path.as_deref());
            let elsewhere = elsewhere.map(std::path::Path::to_owned);
            let told = tokio::task::spawn_blocking(|| old.serves()).await;
            if let Err(error) = told.unwrap_or(Err(HandoverError::Refused)) {
                // It goes on, so this one must not.
                tracing::error!(%error, "the handover failed; the gateway that runs goes on");
                telemetry::flush();
                std::process::exit(1);
            }
            tracing::info!("took over from the gateway that ran before");
            // It leaves its socket to be replaced, which this one does at another place.
            if let Some(place) = elsewhere {
                let _ = std::fs::remove_file(place);
            }
        }
        if let Some((sign, at)) = hang {
            sign.publish(at);
        }
        // Units that are ordered after this one find its servers there, unless these take long.
        tokio::spawn(async move {
            registry.settled(STARTUP_WAIT, STARTUP_WAIT).await;
            systemd::notify("READY=1");
        });
        // With process 1 its container ends, and so would a successor.
        let Some(place) = self.socket_path.filter(|_| std::process::id() != 1) else { return };
        let dispatcher = match UpgradeListener::open(&place) {
            Ok(dispatcher) => dispatcher,
            Err(error) => {
                tracing::warn!(%error, "no successor will be able to take over (listen.upgrade_socket)");
                return;
            }
        };
        let mut why = signals.stop.subscribe();
        let stage = signals.clone();
        let asked = move |asked| stage.set_stage(if asked { Stage::HandingOver } else { Stage::Serving });
        tokio::select! {
            pid = dispatcher.run(keep, asked) => {
                tracing::info!(pid, "a successor serves");
                systemd::notify(&format!("MAINPID={pid}"));
                signals.stop.send_if_modified(|why| {
                    let first = why.is_none();
                    why.get_or_insert(Shutdown::HandedOver);
                    first
                });
            }
            _ = why.wait_for(Option::is_some) => {}
        }
    }
}

/// Waits until this gateway could serve as well as the one that runs.
async fn wait_until_ready(app: &App) -> Result<(), AppError> {
    let deadline = Instant::now() + READY;
    // Meanwhile the one that runs has them all.
    app.dispatcher.registry.settled(READY, ERAS).await;
    loop {
        let missing = app.dispatcher.registry.snapshot().missing();
        match missing.first() {
            None => return Ok(()),
            Some(why) if Instant::now() >= deadline => return Err(AppError::NotReady(why.clone())),
            Some(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
