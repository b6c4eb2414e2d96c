//! The shutdown of the gateway: its reason, and what is still done before the process ends.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::dispatch::Dispatcher;
use crate::process::admin_address_file::AdminAddressFile;
use crate::process::handover::SocketHolder;
use crate::process::state::ProcessState;
use crate::process::systemd;
use crate::telemetry;

/// How long running requests get after Ctrl-C, when a user waits at the terminal.
const FAST_TIMEOUT: Duration = Duration::from_secs(1);
/// How long connections may stay idle after a handover and after the last call. The head of an earlier
/// response could not announce that its connection will be closed. A client that uses such a connection
/// within this time is told to close it, and reaches the successor next. Only a client that is silent for
/// longer may meet the close.
const CONNECTION_LINGER: Duration = Duration::from_secs(5);
/// Timeout for the final messages of streams and sessions that are cut off.
const SESSION_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Requests that were being accepted or read at that moment appear a little later.
const SETTLE: Duration = Duration::from_millis(100);

/// The reason of the shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// SIGTERM: running requests may finish.
    Drain,
    /// SIGINT.
    Fast,
    /// A successor serves.
    HandedOver,
}

pub type ShutdownRequest = Option<Shutdown>;

/// Pingora closes its listeners when this returns.
pub struct ShutdownWatcher {
    pub request: watch::Receiver<ShutdownRequest>,
    pub sockets: SocketHolder,
}

#[async_trait]
impl ShutdownSignalWatch for ShutdownWatcher {
    async fn recv(&self) -> ShutdownSignal {
        let mut why = self.request.clone();
        // An error means that no sender can signal any more.
        if why.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
        self.sockets.close();
        ShutdownSignal::GracefulTerminate
    }
}

/// From the signal to the end: streams are notified, running requests finish, sessions and processes are
/// closed.
pub async fn finish(
    dispatcher: Arc<Dispatcher>,
    state: Arc<ProcessState>,
    listeners: usize,
    mut why: watch::Receiver<ShutdownRequest>,
    address_file: Option<AdminAddressFile>,
) {
    let Ok(why) = why.wait_for(Option::is_some).await.map(|why| why.unwrap_or(Shutdown::Fast)) else {
        return;
    };
    let drain = dispatcher.registry.snapshot().config.config.limits.drain.get();
    let (drain, linger) = match why {
        Shutdown::Drain => (drain, Duration::ZERO),
        Shutdown::Fast => (drain.min(FAST_TIMEOUT), Duration::ZERO),
        Shutdown::HandedOver => (drain, CONNECTION_LINGER.min(drain)),
    };
    tracing::info!(requests = state.requests(), ?drain, "stopping");
    match why {
        Shutdown::HandedOver => state.hand_over(),
        _ => systemd::notify("STOPPING=1"),
    }
    dispatcher.drain.cancel();
    let begun = Instant::now();
    let (mut busy, mut quiet) = (begun, None::<Instant>);
    loop {
        let now = Instant::now();
        let alone = state.closed_listeners() == listeners && state.connections() == 0;
        if state.requests() > 0 {
            busy = now;
        }
        if quiet.is_none() && (linger.is_zero() || now >= busy + linger || alone) {
            state.close_idle();
            quiet = Some(now);
        }
        let settled = quiet.is_some_and(|started| now >= started + SETTLE);
        if (settled && state.requests() == 0) || now >= begun + drain.max(SETTLE) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let cut = state.requests();
    if cut > 0 {
        // Streams that send something meanwhile end cleanly, with an error.
        state.close_idle_token();
        dispatcher.cut.cancel();
        let begun = Instant::now();
        while state.requests() > 0 && begun.elapsed() < SESSION_CLOSE_TIMEOUT {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    if let Some(address_file) = address_file {
        address_file.remove();
    }
    let close = async {
        dispatcher.sessions.close().await;
        dispatcher.registry.close().await;
    };
    if tokio::time::timeout(Duration::from_secs(10), close).await.is_err() {
        tracing::warn!("some servers did not close in time");
    }
    if cut > 0 {
        tracing::warn!(requests = cut, "stopped; some requests were cut off");
    } else {
        tracing::info!("stopped");
    }
    telemetry::flush();
    std::process::exit(0);
}
