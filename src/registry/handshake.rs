//! The handshake of a server: `initialize` and `server/discover`, in the eras that it may speak, and its first lists.
//!
//! A start has one time (`startup_timeout`), in which a response counts whenever it comes. One era that has answered is
//! enough; the other goes on meanwhile.

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
use crate::upstream::{ServerHandshake, UpstreamError};

/// How long the answer in one era is waited for before the server is asked in the other, and how long the second is
/// waited for before what the first has shown is told.
const HEDGE: Duration = Duration::from_secs(2);

type PendingServer = AbortOnDropHandle<Result<ServerHandshake, UpstreamError>>;

/// What is known of a server after it was greeted.
#[derive(Default)]
pub(super) struct Handshake {
    pub lists: EraLists,
    /// In this era it could neither be greeted nor did it say that it does not speak it: the face is the old one.
    pub undecided: [bool; 2],
    /// In this era it is being greeted.
    pub pending: [Option<PendingServer>; 2],
}

impl Handshake {
    /// Whether something could not be said this time.
    pub fn is_incomplete(&self) -> bool {
        self.undecided.contains(&true) || self.lists.iter().flatten().any(|lists| lists.lists.are_stale())
    }

    /// Begins to greet the server in one more era.
    pub fn connect_missing(&mut self, server: &Server, era: Era, until: Instant) {
        let upstream = server.upstream.clone();
        let greeting = tokio::spawn(async move { upstream.connect(era, until).await });
        self.pending[era as usize] = Some(AbortOnDropHandle::new(greeting));
    }

    /// The eras in which the server is still starting: one that is tried again is not.
    pub fn starting(&self, server: &Server) -> [bool; 2] {
        ERAS.map(|era| self.pending[era as usize].is_some() && server.is_starting(era))
    }

    pub fn is_connecting(&self) -> bool {
        self.pending.iter().any(Option::is_some)
    }

    /// The next greeting that comes to its end.
    pub async fn connected(&mut self) -> (Era, Result<ServerHandshake, UpstreamError>) {
        let done = std::future::poll_fn(|context| {
            for era in ERAS {
                if let Some(greeting) = &mut self.pending[era as usize]
                    && let Poll::Ready(said) = Pin::new(greeting).poll(context)
                {
                    return Poll::Ready((era, said));
                }
            }
            Poll::Pending
        });
        let (era, said) = done.await;
        self.pending[era as usize] = None;
        (era, said.unwrap_or_else(|_| Err(UpstreamError::Unreachable("the gateway is shutting down".into()))))
    }
}

/// Greets the server in each era and reads its lists there; what it cannot say now stays `before`. One era that has
/// answered is enough: the other may take the rest of the time of a start.
pub(super) async fn handshake(
    server: &Server,
    before: EraLists,
) -> Result<Handshake, (UpstreamError, EraLists)> {
    let until = Instant::now() + server.limits.startup;
    let mut met = Handshake::default();
    let mut hellos: [Option<ServerHandshake>; 2] = [None, None];
    let mut refusals = Vec::new();
    let mut trouble = None;
    let mut to_come = Vec::new();
    for era in ERAS {
        match is_wanted(server, era) {
            true => to_come.push(era),
            false => {
                let why = "`era` in the configuration says so".into();
                refusals.push(UpstreamError::WrongEra(era, why).to_string());
            }
        }
    }
    // Modern first, and the other when that has answered, or is slow to: a process is bound by its first request, and most
    // servers speak one era, so that they need no second process.
    let mut timeout = Instant::now();
    loop {
        tokio::select! {
            (era, said) = met.connected(), if met.is_connecting() => match said {
                Ok(handshake) => {
                    hellos[era as usize] = Some(handshake);
                    timeout = Instant::now() + HEDGE;
                    if let Some(era) = to_come.pop() {
                        met.connect_missing(server, era, until);
                    }
                }
                Err(UpstreamError::WrongEra(era, why)) => {
                    refusals.push(UpstreamError::WrongEra(era, why).to_string());
                    if let Some(era) = to_come.pop() {
                        met.connect_missing(server, era, until);
                    }
                }
                // Nobody is there to be asked anything else.
                Err(error) if !to_come.is_empty() && error.is_absence() => return Err((error, before)),
                // What it says is neither yes nor no, or it says nothing.
                Err(error) => {
                    met.undecided[era as usize] = true;
                    trouble = Some(error);
                    if let Some(era) = to_come.pop() {
                        met.connect_missing(server, era, until);
                    }
                }
            },
            () = tokio::time::sleep_until(timeout), if !to_come.is_empty() || met.is_connecting() && hellos.iter().any(Option::is_some) => {
                let Some(era) = to_come.pop() else { break };
                met.connect_missing(server, era, until);
                timeout = Instant::now() + HEDGE;
            }
            else => break,
        }
    }
    if hellos.iter().all(Option::is_none) {
        let neither =
            || UpstreamError::InvalidResponse(format!("it speaks neither era: {}", refusals.join("; ")));
        return Err((trouble.unwrap_or_else(neither), before));
    }
    if let Some(error) = trouble {
        tracing::warn!(server = %server.name, %error, "one of the two eras cannot be greeted now; it stays as it was");
    }
    for era in ERAS {
        let at = era as usize;
        let old = before[at].as_ref();
        met.lists[at] = match hellos[at].take() {
            Some(handshake) => match lists(server, era, &handshake, old.map(|face| &face.lists)).await {
                Ok(lists) => Some(Arc::new(server_lists(server, era, handshake, lists))),
                Err(error) => return Err((error, before)),
            },
            None => old.filter(|_| met.undecided[at] || met.pending[at].is_some()).cloned(),
        };
    }
    Ok(met)
}

pub(super) fn server_lists(
    server: &Server,
    era: Era,
    handshake: ServerHandshake,
    lists: Lists,
) -> ServerLists {
    for reason in &handshake.faults {
        if server.warns(("greeting", reason)) {
            tracing::warn!(server = %server.name, %reason, "a part of its greeting does not fit the protocol and is left out");
        }
    }
    ServerLists { handshake, lists, events: era == Era::Legacy && server.upstream.lists_as_events() }
}

pub(super) fn is_wanted(server: &Server, era: Era) -> bool {
    match era {
        Era::Modern => server.config.era.is_modern(),
        Era::Legacy => server.config.era.is_legacy(),
    }
}
