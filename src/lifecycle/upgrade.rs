//! The upgrade: from the old gateway to this one, and from this one to the next.

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

/// How long servers may take to start before a handover. If the required ones do not connect in this time,
/// it is given up.
const READY: Duration = Duration::from_secs(60);
/// How long connected servers may take to show whether they speak the other era too. Only an upgrade waits
/// for it: the running gateway serves both eras meanwhile.
const ERAS: Duration = Duration::from_secs(30);

/// What ran before this gateway: another one that waits for this one, or nothing.
pub struct Predecessor {
    old: Option<PendingHandover>,
    socket_path: Option<PathBuf>,
}

impl Predecessor {
    /// The listening sockets: those of the running gateway in an upgrade, otherwise new ones.
    pub fn sockets(app: &App, wanted: &[SocketAddr], upgrade: bool) -> Result<(Self, Sockets), AppError> {
        let place = socket_path(&app.dispatcher.registry.snapshot().config.config);
        // A gateway that was started by the running one finds it, even if the file now names another
        // address.
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
            tracing::warn!(
                ?places,
                "no running gateway was found to take over from: this one starts without a handover"
            );
        }
        let (given, old) = taken.map_or_else(Default::default, |(given, old)| (given, Some(old)));
        let sockets = given.complete(wanted).map_err(|(address, error)| AppError::Listen(address, error))?;
        Ok((Self { old, socket_path: place }, sockets))
    }

    /// Called when all listeners accept: lets the old gateway stop, and waits for a successor. `published`
    /// is the admin address of this gateway and the file for it.
    pub async fn open(
        self,
        listeners_ready: ListenersReady,
        listeners: usize,
        holder: SocketHolder,
        signals: Signals,
        published: Option<(AdminAddressFile, AdminAddress)>,
        registry: Arc<Registry>,
    ) {
        listeners_ready.wait_all(listeners).await;
        if let Some(old) = self.old {
            let elsewhere = Some(old.path()).filter(|old| Some(*old) != self.socket_path.as_deref());
            let elsewhere = elsewhere.map(std::path::Path::to_owned);
            let confirmed = tokio::task::spawn_blocking(|| old.serves()).await;
            if let Err(error) = confirmed.unwrap_or(Err(HandoverError::Refused)) {
                // The old gateway continues, so this one must not.
                tracing::error!(%error, "the handover failed; the old gateway continues");
                telemetry::flush();
                std::process::exit(1);
            }
            tracing::info!("took over from the gateway that ran before");
            // The old one leaves its socket to be replaced, but this one uses another path.
            if let Some(place) = elsewhere {
                let _ = std::fs::remove_file(place);
            }
        }
        if let Some((address_file, at)) = published {
            address_file.publish(at);
        }
        // Units that are ordered after this one find its servers ready, unless these take long.
        tokio::spawn(async move {
            registry.settled(STARTUP_WAIT, STARTUP_WAIT).await;
            systemd::notify("READY=1");
        });
        // When process 1 ends, its container ends, and a successor with it.
        let Some(place) = self.socket_path.filter(|_| std::process::id() != 1) else { return };
        let upgrade_listener = match UpgradeListener::open(&place) {
            Ok(upgrade_listener) => upgrade_listener,
            Err(error) => {
                tracing::warn!(%error, "no successor will be able to take over (listen.upgrade_socket)");
                return;
            }
        };
        let mut why = signals.stop.subscribe();
        let stage = signals.clone();
        let asked = move |asked| stage.set_stage(if asked { Stage::HandingOver } else { Stage::Serving });
        tokio::select! {
            pid = upgrade_listener.run(holder, asked) => {
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

/// Waits until this gateway could serve as well as the running one.
async fn wait_until_ready(app: &App) -> Result<(), AppError> {
    let deadline = Instant::now() + READY;
    // Meanwhile the running gateway has them all.
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
