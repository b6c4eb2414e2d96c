//! Starts the processes of a stdio server: one for each era, because SDKs bind a process to the era of its
//! first request. (They answer `initialize` with -32022 after a `server/discover`.)
//!
//! A start has one deadline and no stages: a response counts whenever it comes before that. A process that
//! rejects one era is free for the other. So a server of one era has one process, however late it says which
//! era it is.

#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mcp::Era;
use mcp::era_codec::is_of_modern_server;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::child::{ConnectionError, ConnectionResponse};
use super::{ServerProcess, Stdio, failed};
use crate::upstream::{ServerHandshake, UpstreamError, gateway_handshake};

/// The state of starts in progress, and the processes that one of them left to the other.
#[derive(Default)]
pub(crate) struct StartState {
    /// By the era that the process is free for.
    spare: [Mutex<Option<ServerProcess>>; 2],
    left: [Notify; 2],
    under_way: watch::Sender<[bool; 2]>,
}

/// The result of the first request.
enum EraProbe {
    Supported(ServerHandshake),
    /// It does not speak the era. If `free`, the process may be used for the other.
    Rejected {
        why: String,
        free: bool,
    },
    /// No evidence about the era: the process ended, or its time is over.
    Failed(UpstreamError),
}

impl StartState {
    pub fn is_under_way(&self, server_era: Era) -> bool {
        self.under_way.borrow()[server_era as usize]
    }

    /// Takes the process that the start of the other era has left.
    pub(super) fn take(&self, server_era: Era) -> Option<ServerProcess> {
        let spare = self.spare[server_era as usize].lock().unwrap_or_else(PoisonError::into_inner).take();
        spare.filter(|process| process.child.is_alive())
    }

    /// Leaves a process for the other era; returns the one that was there before.
    fn put(&self, server_era: Era, process: ServerProcess) -> Option<ServerProcess> {
        let mut spare = self.spare[server_era as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let before = spare.replace(process);
        self.left[server_era as usize].notify_one();
        before
    }

    /// Waits for a process that the other start leaves.
    async fn taken(&self, server_era: Era) -> ServerProcess {
        loop {
            if let Some(process) = self.take(server_era) {
                return process;
            }
            self.left[server_era as usize].notified().await;
        }
    }

    async fn ended(&self, server_era: Era) {
        let _ = self.under_way.subscribe().wait_for(|under_way| !under_way[server_era as usize]).await;
    }

    /// Takes all processes that wait for a start.
    pub(super) fn drain(&self) -> Vec<ServerProcess> {
        [Era::Legacy, Era::Modern].into_iter().filter_map(|server_era| self.take(server_era)).collect()
    }
}

/// Marks a start as in progress until it is dropped.
struct StartGuard<'a>(&'a StartState, Era);

impl<'a> StartGuard<'a> {
    fn begin(starts: &'a StartState, server_era: Era) -> Self {
        starts.under_way.send_modify(|under_way| under_way[server_era as usize] = true);
        Self(starts, server_era)
    }
}

impl Drop for StartGuard<'_> {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|under_way| under_way[self.1 as usize] = false);
    }
}

/// How long a process that accepts no more calls may take to end, so that its status can be reported.
const END_TIMEOUT: Duration = Duration::from_secs(1);

impl Stdio {
    /// Gives up the process that serves the era. If it is ending, its end is waited for, with all its
    /// descendants: the new one may need the resources of the old one.
    async fn clear(&self, server_era: Era, until: Instant) {
        match self.replace(server_era, None).await {
            Some(old) if !old.child.is_alive() => {
                let _ = timeout_at(until, old.child.stop()).await;
            }
            old => stop(old),
        }
    }

    /// Starts a process for the era, or takes the one that the start of the other era leaves; the first to
    /// answer stays.
    pub(crate) async fn start(
        &self,
        server_era: Era,
        until: Instant,
    ) -> Result<ServerHandshake, UpstreamError> {
        let starts = &self.starts;
        let _under_way = StartGuard::begin(starts, server_era);
        self.clear(server_era, until).await;
        let asked = FuturesUnordered::new();
        let mut asked = std::pin::pin!(asked);
        let first = match starts.take(server_era) {
            Some(process) => process,
            None => self.spawn().await?,
        };
        asked.push(probe(server_era, first, until));
        let mut why = None;
        loop {
            let (process, outcome) = tokio::select! {
                biased;
                Some(done) = asked.next(), if !asked.is_empty() => done,
                process = starts.taken(server_era) => {
                    asked.push(probe(server_era, process, until));
                    continue;
                }
                // Its own process is gone; that of the other start may still turn out to be free for this
                // era.
                () = starts.ended(server_era.other()), if asked.is_empty() => {
                    return Err(why.unwrap_or_else(|| UpstreamError::Unreachable("its process has ended".into())));
                }
            };
            match classify_probe(server_era, outcome) {
                EraProbe::Supported(handshake) => {
                    if server_era == Era::Legacy {
                        let initialized =
                            process.child.notify("notifications/initialized", None, self.call_timeout());
                        initialized.await.map_err(failed)?;
                        self.resubscribe(process.child.clone());
                    }
                    stop(self.replace(server_era, Some(process)).await);
                    // It came too late to be used.
                    stop(starts.take(server_era));
                    return Ok(handshake);
                }
                EraProbe::Rejected { why: message, free } => {
                    let rest = match free && !self.is_there(server_era.other()).await {
                        true => starts.put(server_era.other(), process),
                        false => Some(process),
                    };
                    stop(rest);
                    let error = UpstreamError::WrongEra(server_era, message);
                    if asked.is_empty() {
                        return Err(error);
                    }
                    why = Some(error);
                }
                EraProbe::Failed(error) => {
                    stop(Some(process));
                    if asked.is_empty() && Instant::now() >= until {
                        return Err(error);
                    }
                    why = Some(error);
                }
            }
        }
    }
}

/// Sends the first request of an era to a process.
fn probe(
    server_era: Era,
    process: ServerProcess,
    until: Instant,
) -> impl Future<Output = (ServerProcess, Result<ConnectionResponse, ConnectionError>)> {
    let (method, params) = (server_era.codec().handshake_method(), gateway_handshake(server_era));
    let left = until.saturating_duration_since(Instant::now());
    async move {
        let outcome = match process.child.request(method, Some(&params), left, None).await {
            // It closes its input before its status is known.
            Err(ConnectionError::Exited { status: None, sent, .. }) => {
                Err(process.child.ending(END_TIMEOUT, sent).await)
            }
            outcome => outcome,
        };
        (process, outcome)
    }
}

fn classify_probe(server_era: Era, outcome: Result<ConnectionResponse, ConnectionError>) -> EraProbe {
    match (server_era, outcome) {
        (Era::Modern, Ok(ConnectionResponse::Result(result))) => {
            match ServerHandshake::read(&result, Era::Modern.codec().newest_version().to_owned()) {
                Ok(handshake) => EraProbe::Supported(handshake),
                // An old server may have another method of that name.
                Err(error) => EraProbe::Rejected { why: error.to_string(), free: true },
            }
        }
        // With any error: a legacy server may answer anything (2026-07-28, versioning).
        (Era::Modern, Ok(ConnectionResponse::Error(error))) => EraProbe::Rejected {
            why: format!("it refuses `server/discover`: {}", shorten(&error)),
            free: true,
        },
        // A legacy server may never answer an unknown method. There is no further wait, but it may serve the
        // other era.
        (Era::Modern, Err(ConnectionError::Timeout { after, .. })) => EraProbe::Rejected {
            why: format!("it does not answer `server/discover` within {after:?} (startup_timeout)"),
            free: true,
        },
        // Some legacy servers end on any request before `initialize`.
        (
            Era::Modern,
            Err(ConnectionError::Exited { sent: true, .. } | ConnectionError::InvalidResponse(_)),
        ) => EraProbe::Rejected { why: "it does not survive `server/discover`".into(), free: false },
        (Era::Legacy, Ok(ConnectionResponse::Result(result))) => {
            let version = server_era.codec().handshake_version(&result);
            let invalid = || UpstreamError::InvalidResponse("`initialize` names no revision".into());
            match version.ok_or_else(invalid).and_then(|version| ServerHandshake::read(&result, version)) {
                Ok(handshake) => EraProbe::Supported(handshake),
                Err(error) => EraProbe::Failed(error),
            }
        }
        (Era::Legacy, Ok(ConnectionResponse::Error(error))) => {
            EraProbe::Rejected { why: shorten(&error), free: is_of_modern_server(&error) }
        }
        (_, Err(error)) => EraProbe::Failed(failed(error)),
    }
}

pub(crate) fn shorten(error: &[u8]) -> String {
    String::from_utf8_lossy(&error[..error.len().min(200)]).into_owned()
}

fn stop(process: Option<ServerProcess>) {
    if let Some(process) = process {
        tokio::spawn(async move { process.child.stop().await });
    }
}
