//! The end of the gateway: why it stops, and what is still done before the process ends.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::dispatch::Door;
use crate::process::admin_address_file::Sign;
use crate::process::handover::Keep;
use crate::process::state::State;
use crate::process::systemd;
use crate::telemetry;

/// How long running requests get after Ctrl-C, when somebody waits at the terminal.
const HURRY: Duration = Duration::from_secs(1);
/// How long connections may stay idle after a handover and after the last call: the head of a stream from before could not
/// say that its connection will be closed. Whoever uses one within this time is told to close it, and
/// meets the successor next; only who is silent for longer may run into the closing.
const LINGER: Duration = Duration::from_secs(5);
/// How long what is cut may take to say so.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Requests that were being accepted or read at the moment show up a little later.
const SETTLE: Duration = Duration::from_millis(100);

/// Why it stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM: running requests may finish.
    Drain,
    /// SIGINT.
    Hurry,
    /// A successor serves.
    Handed,
}

pub type Why = Option<Stop>;

/// Pingora closes its listeners when this gives its word.
pub struct Stopping {
    pub why: watch::Receiver<Why>,
    pub keep: Keep,
}

#[async_trait]
impl ShutdownSignalWatch for Stopping {
    async fn recv(&self) -> ShutdownSignal {
        let mut why = self.why.clone();
        // An error means that nobody can signal any more.
        if why.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
        self.keep.close();
        ShutdownSignal::GracefulTerminate
    }
}

/// From the signal to the end: streams are told, running requests finish, sessions and processes are closed.
pub async fn finish(
    door: Arc<Door>,
    state: Arc<State>,
    listeners: usize,
    mut why: watch::Receiver<Why>,
    sign: Option<Sign>,
) {
    let Ok(why) = why.wait_for(Option::is_some).await.map(|why| why.unwrap_or(Stop::Hurry)) else { return };
    let drain = door.registry.house().plan.config.limits.drain.get();
    let (drain, linger) = match why {
        Stop::Drain => (drain, Duration::ZERO),
        Stop::Hurry => (drain.min(HURRY), Duration::ZERO),
        Stop::Handed => (drain, LINGER.min(drain)),
    };
    tracing::info!(requests = state.present(), ?drain, "stopping");
    match why {
        Stop::Handed => state.hand_over(),
        _ => systemd::tell("STOPPING=1"),
    }
    door.drain.cancel();
    let begun = Instant::now();
    let (mut busy, mut quiet) = (begun, None::<Instant>);
    loop {
        let now = Instant::now();
        let alone = state.shut() == listeners && state.connections() == 0;
        if state.present() > 0 {
            busy = now;
        }
        if quiet.is_none() && (linger.is_zero() || now >= busy + linger || alone) {
            state.hush();
            quiet = Some(now);
        }
        let settled = quiet.is_some_and(|since| now >= since + SETTLE);
        if (settled && state.present() == 0) || now >= begun + drain.max(SETTLE) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let cut = state.present();
    if cut > 0 {
        // Streams that say something meanwhile end in good order, with an error.
        state.cut();
        door.cut.cancel();
        let begun = Instant::now();
        while state.present() > 0 && begun.elapsed() < LAST_WORDS {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    if let Some(sign) = sign {
        sign.take_down();
    }
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
    telemetry::flush();
    std::process::exit(0);
}
