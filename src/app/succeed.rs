//! From the old gateway to this one, and from this one to the next.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::stop::{Stop, Why};
use super::{App, AppError};
use crate::handover::{Door, HandoverError, Keep, Opening, Sockets, Taking, place, take};
use crate::{systemd, telemetry};

/// How long the required servers may take to connect before a handover is given up.
const READY: Duration = Duration::from_secs(60);

/// What was before this gateway: another one that waits for a word, or nothing.
pub struct Before {
    old: Option<Taking>,
    place: Option<PathBuf>,
}

impl Before {
    /// The listening sockets: those of the gateway that runs if it is to be taken over from, else fresh ones.
    pub fn sockets(app: &App, wanted: &[SocketAddr], upgrade: bool) -> Result<(Self, Sockets), AppError> {
        let place = place(&app.door.registry.house().plan.config);
        let taken = match &place {
            Some(place) if upgrade => {
                app.runtime.block_on(ready(app))?;
                take(place)?
            }
            _ => None,
        };
        if upgrade && taken.is_none() {
            tracing::warn!(?place, "no gateway waits there to be taken over from: this one starts anew");
        }
        let (given, old) = taken.map_or_else(Default::default, |(given, old)| (given, Some(old)));
        let sockets = given.complete(wanted).map_err(|(address, error)| AppError::Listen(address, error))?;
        Ok((Self { old, place }, sockets))
    }

    /// Once all listeners accept: lets the old gateway go, and waits for a successor.
    pub async fn open(self, opening: Opening, listeners: usize, keep: Keep, stop: watch::Sender<Why>) {
        opening.all(listeners).await;
        if let Some(old) = self.old {
            let told = tokio::task::spawn_blocking(|| old.serves()).await;
            if let Err(error) = told.unwrap_or(Err(HandoverError::Refused)) {
                // It goes on, so this one must not.
                tracing::error!(%error, "the handover failed; the gateway that runs goes on");
                std::process::exit(1);
            }
            tracing::info!("took over from the gateway that ran before");
        }
        systemd::tell("READY=1");
        let Some(place) = self.place else { return };
        let door = match Door::open(&place) {
            Ok(door) => door,
            Err(error) => {
                tracing::warn!(%error, "no successor will be able to take over (listen.upgrade_socket)");
                return;
            }
        };
        let mut why = stop.subscribe();
        tokio::select! {
            pid = door.run(keep) => {
                tracing::info!(pid, "a successor serves");
                systemd::tell(&format!("MAINPID={pid}"));
                telemetry::flush();
                stop.send_if_modified(|why| {
                    let first = why.is_none();
                    why.get_or_insert(Stop::Handed);
                    first
                });
            }
            _ = why.wait_for(Option::is_some) => {}
        }
    }
}

/// Waits until this gateway could serve as well as the one that runs.
async fn ready(app: &App) -> Result<(), AppError> {
    let deadline = Instant::now() + READY;
    loop {
        let missing = app.door.registry.house().missing();
        match missing.first() {
            None => return Ok(()),
            Some(why) if Instant::now() >= deadline => return Err(AppError::NotReady(why.clone())),
            Some(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
