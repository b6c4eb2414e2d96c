//! Supervises one server: runs the handshake in both eras, reads its lists, follows its notifications and
//! checks its health. It reconnects with growing pauses when the server is gone.
//!
//! A start has one timeout (`startup_timeout`). A response within it counts whenever it comes; a server that
//! is slow in one era is available in the other meanwhile.
//!
//! An era or a list is dropped only if the server says so clearly. What could not be read this time is
//! requested again, and until then shown as it was.

use std::sync::{Arc, Weak};
use std::time::Duration;

use mcp::Era;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::handshake::{Handshake, handshake, is_wanted, server_lists};
use super::list_fetch::lists;
use super::{ERAS, EraLists, Registry};
use crate::catalog::{ListKind, ServerLists};
use crate::server::Server;
use crate::upstream::{Health, RpcOutcome, ServerHandshake, UpstreamCall, UpstreamError, gateway_params};

const MIN_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Lists are read again after this time even without a notification, and an era that a server does not speak
/// is tried again.
const RELIST: Duration = Duration::from_secs(60);
/// The same for a server that promises list change notifications and whose notification stream is open.
const NOTIFIED_RELIST: Duration = Duration::from_secs(300);
/// What could not be read this time is requested again after this time, then after twice that, up to
/// `RELIST`.
const SOON: Duration = Duration::from_secs(1);
/// Notifications that come so close together cause one refresh. It grows while they do not end.
const CHANGE_DEBOUNCE: Duration = Duration::from_millis(20);
const MAX_DEBOUNCE: Duration = Duration::from_secs(5);

/// Runs until the server's configuration is gone. `known` are the lists that were read over the same
/// connection. That connection is then watched as it is; only its lists are read again.
pub async fn supervise(server: Arc<Server>, registry: Weak<Registry>, known: Option<EraLists>) {
    let upstream = server.upstream.clone();
    tokio::select! {
        () = run(server, registry, known) => {}
        () = async {
            match upstream.background() {
                Some(background) => background.run_background().await,
                None => std::future::pending().await,
            }
        } => {}
    }
}

async fn run(server: Arc<Server>, registry: Weak<Registry>, known: Option<EraLists>) {
    let mut pause = MIN_BACKOFF;
    let mut is_connected = known.is_some();
    let mut state = Handshake { lists: known.unwrap_or_default(), ..Handshake::default() };
    if is_connected {
        server.set_starting([false; 2]);
    }
    loop {
        let is_old = std::mem::take(&mut is_connected);
        if !is_old {
            let outcome = handshake(&server, std::mem::take(&mut state.lists)).await;
            let Some(alive) = registry.upgrade() else { return };
            match outcome {
                Ok(new) => {
                    state = new;
                    let starting = ERAS.map(|server_era| state.pending[server_era as usize].is_some());
                    alive.update(&server, Ok((state.lists.clone(), starting)));
                }
                Err((error, before)) => {
                    state.lists = before;
                    server.set_starting([false; 2]);
                    alive.update(&server, Err(error.to_string()));
                    drop(alive);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_BACKOFF);
                    continue;
                }
            }
        }
        let started = Instant::now();
        // Not yet a reason to report it as down: the next handshake decides.
        let why = watch(&server, &mut state, is_old, &registry).await;
        state.pending = Default::default();
        tracing::debug!(server = %server.name, why, "connecting again");
        if started.elapsed() > MAX_BACKOFF {
            pause = MIN_BACKOFF;
            continue;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_BACKOFF);
    }
}

/// Watches a connected server, whose lists may be outdated. Returns the reason why it is no longer connected.
async fn watch(
    server: &Arc<Server>,
    state: &mut Handshake,
    is_old: bool,
    registry: &Weak<Registry>,
) -> String {
    let (changed, mut changes) = mpsc::channel(64);
    let health = &server.config.health;
    let mut tick = tokio::time::interval(health.interval.get());
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.reset();
    let (mut failures, mut asked) = ([0; 2], Era::Modern);
    let mut listed = Instant::now();
    let watch = |server_era: Era, spoken: bool| {
        let (server, changed) = (server.clone(), changed.clone());
        Box::pin(async move {
            if !spoken {
                return std::future::pending().await;
            }
            match server.upstream.list_changes() {
                Some(lists) => lists.watch_lists(server_era, &changed).await,
                None => Ok(()),
            }
        })
    };
    let mut watching = ERAS.map(|server_era| watch(server_era, state.lists[server_era as usize].is_some()));
    let mut quiet = [false, false];
    // When the lists are to be refreshed because of a notification.
    let mut due = is_old.then(Instant::now);
    let mut gather = CHANGE_DEBOUNCE;
    // When what is missing is requested again.
    let mut pause = SOON;
    let mut again = Instant::now() + if state.is_incomplete() { SOON } else { RELIST };
    loop {
        let [legacy, modern] = &mut watching;
        let refresh = tokio::select! {
            Some(()) = changes.recv() => {
                due.get_or_insert_with(|| Instant::now() + gather);
                false
            }
            () = server.lists_stale.notified() => {
                due.get_or_insert_with(|| Instant::now() + gather);
                false
            }
            () = tokio::time::sleep_until(due.unwrap_or(listed)), if due.is_some() => true,
            ended = legacy, if !quiet[0] => match ended {
                Ok(()) => { quiet[0] = true; false }
                Err(error) => return error.to_string(),
            },
            ended = modern, if !quiet[1] => match ended {
                Ok(()) => { quiet[1] = true; false }
                Err(error) => return error.to_string(),
            },
            (server_era, outcome) = state.connected(), if state.is_connecting() => {
                match settle(server, state, server_era, outcome).await {
                    Ok(changed) => {
                        let at = server_era as usize;
                        if changed {
                            for server_era in ERAS.into_iter().filter(|one| *one as usize == at || server.runs_once()) {
                                let at = server_era as usize;
                                (watching[at], quiet[at]) = (watch(server_era, state.lists[at].is_some()), false);
                            }
                        }
                        let Some(registry) = registry.upgrade() else { return "the gateway ends".into() };
                        registry.update(server, Ok((state.lists.clone(), state.starting(server))));
                    }
                    Err(error) => return error.to_string(),
                }
                if state.is_incomplete() {
                    again = again.min(Instant::now() + pause);
                }
                false
            }
            () = tokio::time::sleep_until(again) => {
                reconnect(server, state);
                let incomplete = state.is_incomplete();
                again = Instant::now() + if incomplete { pause } else { RELIST };
                pause = if incomplete { (pause * 2).min(RELIST) } else { SOON };
                incomplete
            }
            _ = tick.tick() => {
                asked = stagger(&state.lists, asked);
                match check(server, &state.lists, asked).await {
                    Ok(has_changed) => {
                        failures[asked as usize] = 0;
                        has_changed || listed.elapsed() >= refresh_interval(&state.lists, quiet)
                    }
                    Err(error) => {
                        failures[asked as usize] += 1;
                        let all: u32 = failures.iter().sum();
                        // A server with endpoint checks has counted already.
                        if all >= health.unhealthy_after || server.upstream.health().is_some_and(|health| !health.is_healthy()) {
                            return error.to_string();
                        }
                        false
                    }
                }
            }
        };
        if !refresh {
            continue;
        }
        // A server that notifies without end is refreshed less and less often.
        let often = due.take().is_some() && listed.elapsed() < (gather * 4).max(SOON);
        gather = if often { (gather * 2).min(MAX_DEBOUNCE) } else { CHANGE_DEBOUNCE };
        while changes.try_recv().is_ok() {}
        match refresh_lists(server, &state.lists).await {
            Ok(new) => {
                listed = Instant::now();
                if new != state.lists {
                    state.lists = new;
                    let Some(registry) = registry.upgrade() else { return "the gateway ends".into() };
                    registry.update(server, Ok((state.lists.clone(), state.starting(server))));
                }
            }
            Err(error) => return error.to_string(),
        }
        if state.is_incomplete() {
            again = again.min(Instant::now() + pause);
        }
    }
}

/// Records the result of a handshake that was slower than the other era's, or was repeated. Returns whether
/// the lists of the server changed.
async fn settle(
    server: &Server,
    state: &mut Handshake,
    server_era: Era,
    outcome: Result<ServerHandshake, UpstreamError>,
) -> Result<bool, UpstreamError> {
    let at = server_era as usize;
    match outcome {
        Ok(handshake) => {
            let old = state.lists[at].take();
            let lists = lists(server, server_era, &handshake, old.as_ref().map(|known| &known.lists)).await;
            state.undecided[at] = false;
            state.lists[at] = Some(Arc::new(server_lists(server, server_era, handshake, lists?)));
            if server_era == Era::Modern && server.runs_once() {
                state.keep_modern(server).await;
            }
            Ok(true)
        }
        Err(UpstreamError::WrongEra(..)) => {
            state.undecided[at] = false;
            Ok(state.lists[at].take().is_some())
        }
        Err(error) => {
            tracing::debug!(server = %server.name, %error, "the handshake failed; the lists of the era stay as they were");
            state.undecided[at] = true;
            Ok(false)
        }
    }
}

/// Tries the eras again in which the handshake did not succeed. A process keeps the eras that it began with:
/// only servers over HTTP change while they run.
fn reconnect(server: &Server, state: &mut Handshake) {
    let until = Instant::now() + server.limits.startup;
    for server_era in ERAS {
        let at = server_era as usize;
        let serves_all = server.runs_once() && state.lists[Era::Modern as usize].is_some();
        let is_due = match state.lists[at] {
            None if serves_all => false,
            None => state.undecided[at] || server.forwards_natively(),
            Some(_) => state.undecided[at],
        };
        if is_due && is_wanted(server, server_era) && state.pending[at].is_none() {
            state.connect_missing(server, server_era, until);
        }
    }
}

async fn refresh_lists(server: &Server, current: &EraLists) -> Result<EraLists, UpstreamError> {
    let mut new = [None, None];
    for server_era in ERAS {
        if let Some(known) = &current[server_era as usize] {
            let handshake = match server_era {
                Era::Modern => discovered(server).await?.unwrap_or_else(|| known.handshake.clone()),
                Era::Legacy => known.handshake.clone(),
            };
            let lists = lists(server, server_era, &handshake, Some(&known.lists)).await?;
            new[server_era as usize] =
                Some(Arc::new(self::server_lists(server, server_era, handshake, lists)));
        }
    }
    Ok(new)
}

/// The current `server/discover` result of a modern server, if there is one.
async fn discovered(server: &Server) -> Result<Option<ServerHandshake>, UpstreamError> {
    Ok(match ping(server, Era::Modern).await? {
        RpcOutcome::Result(result) => {
            ServerHandshake::read(&result, Era::Modern.codec().newest_version().to_owned()).ok()
        }
        RpcOutcome::Error(_) => None,
    })
}

/// Checks the health of a server; if it is healthy, returns whether its handshake has changed.
async fn check(server: &Server, lists: &EraLists, server_era: Era) -> Result<bool, UpstreamError> {
    match server.upstream.health().map(Health::is_healthy) {
        Some(true) => return Ok(false),
        Some(false) => return Err(UpstreamError::Unreachable("all of its endpoints are down".into())),
        None => {}
    }
    let Some(known) = &lists[server_era as usize] else { return Ok(false) };
    if server_era == Era::Legacy {
        return ping(server, server_era).await.map(|_| false);
    }
    Ok(discovered(server).await?.is_some_and(|handshake| handshake != known.handshake))
}

/// The era of the next health check: each that the server speaks, in turn. A server that is down is down in
/// both, and an idle gateway sends half as much.
fn stagger(lists: &EraLists, last: Era) -> Era {
    let next = last.other();
    if lists[next as usize].is_some() { next } else { last }
}

/// After which time lists are read again without a notification. A server that promises notifications may
/// still miss a change.
fn refresh_interval(lists: &EraLists, quiet: [bool; 2]) -> Duration {
    let notifies = |known: &ServerLists| {
        let mut offered =
            ListKind::ALL.into_iter().filter(|kind| known.handshake.has_capability(kind.capability(), None));
        offered.all(|kind| known.handshake.has_capability(kind.capability(), Some("listChanged")))
    };
    let all_notify = lists
        .iter()
        .zip(quiet)
        .all(|(known, quiet)| known.as_ref().is_none_or(|known| !quiet && notifies(known)));
    if all_notify { NOTIFIED_RELIST } else { RELIST }
}

/// Sends a health check request.
async fn ping(server: &Server, server_era: Era) -> Result<RpcOutcome, UpstreamError> {
    let timeout = server.timeout.min(Duration::from_secs(5));
    server
        .upstream
        .call(UpstreamCall {
            server_era,
            method: server_era.codec().health_check(),
            params: gateway_params(server_era, ""),
            progress: None,
            timeout,
        })
        .await
}

#[cfg(test)]
mod tests;
