//! The signals of the process, handled from its start: a signal during the start must neither end the
//! process (SIGHUP, SIGUSR2, SIGQUIT would) nor be lost.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::process::Child;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};

use super::shutdown::{Shutdown, ShutdownRequest};
use crate::telemetry;

/// The stage of the gateway's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    Starting,
    Serving,
    /// A successor has asked for the sockets.
    HandingOver,
}

/// The state that signals and gateway share.
#[derive(Clone)]
pub struct Signals {
    /// The reason of the shutdown, once there is one.
    pub stop: watch::Sender<ShutdownRequest>,
    /// The file must be read again; kept until a receiver waits.
    pub hangup: Arc<Notify>,
    stage: Arc<AtomicU8>,
}

impl Signals {
    /// Handles signals from here on. `successor` starts a gateway that takes over from this one.
    pub fn install(runtime: &Runtime, successor: Option<Command>) -> std::io::Result<Self> {
        let _inside = runtime.enter();
        let streams = SignalStreams {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            upgrade: signal(SignalKind::user_defined2())?,
        };
        let signals = Self {
            stop: watch::Sender::new(None),
            hangup: Arc::default(),
            stage: Arc::new(AtomicU8::new(0)),
        };
        let successor_process =
            SuccessorProcess { command: successor.map(tokio::process::Command::from), child: None };
        runtime.spawn(signals.clone().listen(streams, successor_process));
        Ok(signals)
    }

    pub fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
    }

    fn is_at(&self, stage: Stage) -> bool {
        self.stage.load(Ordering::Acquire) == stage as u8
    }

    async fn listen(self, mut streams: SignalStreams, mut successor: SuccessorProcess) {
        let why = loop {
            tokio::select! {
                _ = streams.terminate.recv() => break Shutdown::Drain,
                _ = streams.interrupt.recv() => break Shutdown::Fast,
                _ = streams.hangup.recv() => self.hangup.notify_one(),
                _ = streams.quit.recv() => self.quit(),
                _ = streams.upgrade.recv() => successor.start(&self),
                () = successor.on_exit(&self) => {}
            }
        };
        if self.is_at(Stage::Starting) {
            tracing::info!("stopped before it served");
            telemetry::flush();
            // Its children end with it: see `upstream/stdio`.
            std::process::exit(if why == Shutdown::Drain { 0 } else { 130 });
        }
        self.stop.send_if_modified(|first| first.is_none() && first.replace(why).is_none());
        // A second signal stops at once.
        tokio::select! {
            _ = streams.terminate.recv() => {}
            _ = streams.interrupt.recv() => {}
        }
        telemetry::flush();
        std::process::exit(130);
    }

    /// Other servers hand over at this signal unconditionally. Their users send it after they have started
    /// the new one.
    fn quit(&self) {
        if self.stop.borrow().is_some() {
            tracing::info!("SIGQUIT changes nothing: this gateway is stopping already");
        } else if self.is_at(Stage::HandingOver) {
            tracing::info!("SIGQUIT changes nothing: this gateway hands over already");
        } else {
            tracing::warn!(
                "SIGQUIT does nothing: a successor takes over by itself (toolgate run --upgrade); this gateway continues"
            );
        }
    }
}

struct SignalStreams {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    quit: Signal,
    upgrade: Signal,
}

/// The successor that this gateway has started.
struct SuccessorProcess {
    command: Option<tokio::process::Command>,
    /// At most one: a second would only find that the first has taken over.
    child: Option<Child>,
}

impl SuccessorProcess {
    /// Starts the program that is now at the path of this one.
    fn start(&mut self, signals: &Signals) {
        let refused = match &self.child {
            _ if std::process::id() == 1 => {
                Some("as process 1 it cannot be replaced, the container would end: roll the containers")
            }
            _ if self.command.is_none() => Some("without a configuration file nobody can take over"),
            _ if signals.stop.borrow().is_some() => Some("this gateway is stopping already"),
            _ if signals.is_at(Stage::Starting) => Some("this gateway is not there itself yet"),
            Some(_) => Some("a successor was started before and has not ended"),
            None => None,
        };
        if let Some(why) = refused {
            tracing::warn!("SIGUSR2 does nothing: {why}");
            return;
        }
        let Some(command) = &mut self.command else { return };
        match command.spawn() {
            Ok(child) => {
                tracing::info!(pid = child.id(), "a successor is started");
                self.child = Some(child);
            }
            Err(error) => tracing::error!(%error, "a successor does not start; this gateway continues"),
        }
    }

    /// Waits for its end. It outlives this process, unless it fails.
    async fn on_exit(&mut self, signals: &Signals) {
        let Some(child) = &mut self.child else { return std::future::pending().await };
        let ended = child.wait().await;
        self.child = None;
        let then = if signals.stop.borrow().is_some() { "" } else { "; this gateway goes on" };
        match ended {
            Ok(status) => tracing::error!(%status, "the successor has ended{then}"),
            Err(error) => tracing::error!(%error, "waiting for the successor failed{then}"),
        }
    }
}
