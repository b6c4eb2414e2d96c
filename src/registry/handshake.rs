//! The handshake of a server: `initialize` and `server/discover`, in the eras that it may speak, and its
//! first lists.
//!
//! A start has one timeout (`startup_timeout`). A response within it counts whenever it comes. One era that
//! has answered is enough; the handshake in the other continues meanwhile.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use mcp::Era;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::ERAS;
use super::EraLists;
use super::list_fetch::lists;
use crate::catalog::{Lists, ServerLists};
use crate::server::Server;
use crate::upstream::{Pool, ServerHandshake, UpstreamError};

/// How long the gateway waits for the response in one era before it tries the other. Also how long it waits
/// for the second before it reports what the first has shown.
const HEDGE: Duration = Duration::from_secs(2);

type PendingServer = AbortOnDropHandle<Result<ServerHandshake, UpstreamError>>;

/// The result of a handshake.
#[derive(Default)]
pub(super) struct Handshake {
    pub lists: EraLists,
    /// Eras in which the handshake failed, but the server did not say that it does not speak them: the old
    /// lists stay.
    pub undecided: [bool; 2],
    /// Eras in which a handshake is running.
    pub pending: [Option<PendingServer>; 2],
}

impl Handshake {
    /// Whether an era or a list could not be read this time.
    pub fn is_incomplete(&self) -> bool {
        self.undecided.contains(&true) || self.lists.iter().flatten().any(|lists| lists.lists.are_stale())
    }

    /// Starts the handshake in one more era.
    pub fn connect_missing(&mut self, server: &Server, server_era: Era, until: Instant) {
        let upstream = server.upstream.clone();
        let connecting = tokio::spawn(async move { upstream.connect(server_era, until).await });
        self.pending[server_era as usize] = Some(AbortOnDropHandle::new(connecting));
    }

    /// Gives up the process of the legacy era, and that of a handshake there: one of the modern era serves all.
    pub async fn keep_modern(&mut self, server: &Server) {
        let at = Era::Legacy as usize;
        if let Some(connecting) = self.pending[at].take() {
            connecting.abort();
            let _ = connecting.await;
        }
        self.lists[at] = None;
        self.undecided[at] = false;
        server.upstream.release(Era::Legacy).await;
    }

    /// The eras in which the server is still starting. An era that is tried again does not count.
    pub fn starting(&self, server: &Server) -> [bool; 2] {
        ERAS.map(|server_era| self.pending[server_era as usize].is_some() && server.is_starting(server_era))
    }

    pub fn is_connecting(&self) -> bool {
        self.pending.iter().any(Option::is_some)
    }

    /// The next handshake that ends.
    pub async fn connected(&mut self) -> (Era, Result<ServerHandshake, UpstreamError>) {
        let done = std::future::poll_fn(|context| {
            for server_era in ERAS {
                if let Some(connecting) = &mut self.pending[server_era as usize]
                    && let Poll::Ready(outcome) = Pin::new(connecting).poll(context)
                {
                    return Poll::Ready((server_era, outcome));
                }
            }
            Poll::Pending
        });
        let (server_era, outcome) = done.await;
        self.pending[server_era as usize] = None;
        (
            server_era,
            outcome
                .unwrap_or_else(|_| Err(UpstreamError::Unreachable("the gateway is shutting down".into()))),
        )
    }
}

/// Runs the handshake in each era and reads the lists there. What cannot be read now stays as in `before`.
/// One era that has answered is enough: the other may take the rest of the startup time.
pub(super) async fn handshake(
    server: &Server,
    before: EraLists,
) -> Result<Handshake, (UpstreamError, EraLists)> {
    let until = Instant::now() + server.limits.startup;
    let mut state = Handshake::default();
    let mut handshakes: [Option<ServerHandshake>; 2] = [None, None];
    let mut rejections = Vec::new();
    let mut last_error = None;
    let mut remaining = Vec::new();
    for server_era in ERAS {
        match is_wanted(server, server_era) {
            true => remaining.push(server_era),
            false => {
                let why = "`era` in the configuration says so".into();
                rejections.push(UpstreamError::WrongEra(server_era, why).to_string());
            }
        }
    }
    // Modern first; the other era when that has answered or is slow to. A process is bound by its first
    // request. Most servers speak one era, so that they need no second process.
    let mut timeout = Instant::now();
    loop {
        tokio::select! {
            (server_era, outcome) = state.connected(), if state.is_connecting() => match outcome {
                Ok(handshake) if server_era == Era::Modern && server.runs_once() => {
                    handshakes = [None, Some(handshake)];
                    last_error = None;
                    state.keep_modern(server).await;
                    break;
                }
                Ok(handshake) => {
                    handshakes[server_era as usize] = Some(handshake);
                    timeout = Instant::now() + HEDGE;
                    if let Some(server_era) = remaining.pop() {
                        state.connect_missing(server, server_era, until);
                    }
                }
                Err(UpstreamError::WrongEra(server_era, why)) => {
                    rejections.push(UpstreamError::WrongEra(server_era, why).to_string());
                    if let Some(server_era) = remaining.pop() {
                        state.connect_missing(server, server_era, until);
                    }
                }
                // The server is absent: there is no second attempt.
                Err(error) if !remaining.is_empty() && error.is_absence() => return Err((error, before)),
                // The response is neither yes nor no, or there is none.
                Err(error) => {
                    state.undecided[server_era as usize] = true;
                    last_error = Some(error);
                    if let Some(server_era) = remaining.pop() {
                        state.connect_missing(server, server_era, until);
                    }
                }
            },
            () = tokio::time::sleep_until(timeout), if !remaining.is_empty() || state.is_connecting() && handshakes.iter().any(Option::is_some) => {
                let Some(server_era) = remaining.pop() else { break };
                state.connect_missing(server, server_era, until);
                timeout = Instant::now() + HEDGE;
            }
            else => break,
        }
    }
    if handshakes.iter().all(Option::is_none) {
        let neither =
            || UpstreamError::InvalidResponse(format!("it speaks neither era: {}", rejections.join("; ")));
        return Err((last_error.unwrap_or_else(neither), before));
    }
    if let Some(error) = last_error {
        tracing::warn!(server = %server.name, %error, "the handshake in one of the two eras failed; its lists stay as they were");
    }
    for server_era in ERAS {
        let at = server_era as usize;
        let old = before[at].as_ref();
        state.lists[at] = match handshakes[at].take() {
            Some(handshake) => {
                match lists(server, server_era, &handshake, old.map(|known| &known.lists)).await {
                    Ok(lists) => Some(Arc::new(server_lists(server, server_era, handshake, lists))),
                    Err(error) => return Err((error, before)),
                }
            }
            None => old.filter(|_| state.undecided[at] || state.pending[at].is_some()).cloned(),
        };
    }
    Ok(state)
}

pub(super) fn server_lists(
    server: &Server,
    server_era: Era,
    handshake: ServerHandshake,
    lists: Lists,
) -> ServerLists {
    for reason in &handshake.faults {
        if server.warns(("handshake", reason)) {
            tracing::warn!(server = %server.name, %reason, "a part of its handshake does not fit the protocol and is left out");
        }
    }
    let events = server_era == Era::Legacy && server.endpoint_pool().is_some_and(Pool::lists_as_events);
    ServerLists { handshake, lists, events, era: server_era }
}

pub(super) fn is_wanted(server: &Server, server_era: Era) -> bool {
    match server_era {
        Era::Modern => server.config.era.is_modern(),
        Era::Legacy => server.config.era.is_legacy(),
    }
}
