//! Keeps one server: greets it in both eras, reads its lists, follows its announcements, checks its health, and
//! starts over with growing pauses when it is gone.
//!
//! A start has one time (`startup_timeout`), in which an answer counts whenever it comes; a server that is slow in one era
//! is there in the other meanwhile.
//!
//! An era or a list is given up only on the server's clear word; what it could not say this time is asked again, and
//! until then shown as it was.

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
use crate::upstream::{RpcOutcome, ServerHandshake, UpstreamCall, UpstreamError, gateway_params};
use mcp::version;

const MIN_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Lists are read again after this time even if nothing was announced, and an era that a server does not speak is
/// tried again.
const RELIST: Duration = Duration::from_secs(60);
/// The same where a server promises to announce what changes, and is heard.
const NOTIFIED_RELIST: Duration = Duration::from_secs(300);
/// What it could not say this time is asked again after this time, then after twice that, up to the above.
const SOON: Duration = Duration::from_secs(1);
/// Announcements that come so close together are answered by one look. It grows where they do not end.
const CHANGE_DEBOUNCE: Duration = Duration::from_millis(20);
const MAX_DEBOUNCE: Duration = Duration::from_secs(5);

/// Runs until the server's configuration is gone. `known` is what was seen over the same connection, which then is
/// followed as it is; only its lists are read anew.
pub async fn supervise(server: Arc<Server>, registry: Weak<Registry>, known: Option<EraLists>) {
    let upstream = server.upstream.clone();
    tokio::select! {
        () = run(server, registry, known) => {}
        () = upstream.run_background() => {}
    }
}

async fn run(server: Arc<Server>, registry: Weak<Registry>, known: Option<EraLists>) {
    let mut pause = MIN_BACKOFF;
    let mut is_met = known.is_some();
    let mut met = Handshake { lists: known.unwrap_or_default(), ..Handshake::default() };
    if is_met {
        server.set_starting([false; 2]);
    }
    loop {
        let is_old = std::mem::take(&mut is_met);
        if !is_old {
            let greeted = handshake(&server, std::mem::take(&mut met.lists)).await;
            let Some(alive) = registry.upgrade() else { return };
            match greeted {
                Ok(new) => {
                    met = new;
                    let starting = ERAS.map(|era| met.pending[era as usize].is_some());
                    alive.update(&server, Ok((met.lists.clone(), starting)));
                }
                Err((error, before)) => {
                    met.lists = before;
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
        // Not yet a reason to call it down: the next greeting tells.
        let why = watch(&server, &mut met, is_old, &registry).await;
        met.pending = Default::default();
        tracing::debug!(server = %server.name, why, "greeting again");
        if started.elapsed() > MAX_BACKOFF {
            pause = MIN_BACKOFF;
            continue;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_BACKOFF);
    }
}

/// Follows a connected server, whose lists may be old; ends with the reason why it is no longer.
async fn watch(server: &Arc<Server>, met: &mut Handshake, is_old: bool, registry: &Weak<Registry>) -> String {
    let (changed, mut heard) = mpsc::channel(64);
    let health = &server.config.health;
    let mut tick = tokio::time::interval(health.interval.get());
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.reset();
    let (mut failures, mut asked) = ([0; 2], Era::Modern);
    let mut listed = Instant::now();
    let watch = |era: Era, spoken: bool| {
        let (server, changed) = (server.clone(), changed.clone());
        Box::pin(async move {
            if spoken {
                server.upstream.watch_lists(era, &changed).await
            } else {
                std::future::pending().await
            }
        })
    };
    let mut watching = ERAS.map(|era| watch(era, met.lists[era as usize].is_some()));
    let mut quiet = [false, false];
    // When there is to be a look because of what was announced.
    let mut due = is_old.then(Instant::now);
    let mut gather = CHANGE_DEBOUNCE;
    // When it is asked again what it did not say.
    let mut pause = SOON;
    let mut again = Instant::now() + if met.is_incomplete() { SOON } else { RELIST };
    loop {
        let [legacy, modern] = &mut watching;
        let look = tokio::select! {
            Some(()) = heard.recv() => {
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
            (era, said) = met.connected(), if met.is_connecting() => {
                match settle(server, met, era, said).await {
                    Ok(changed) => {
                        let at = era as usize;
                        if changed {
                            (watching[at], quiet[at]) = (watch(era, met.lists[at].is_some()), false);
                        }
                        let Some(registry) = registry.upgrade() else { return "the gateway ends".into() };
                        registry.update(server, Ok((met.lists.clone(), met.starting(server))));
                    }
                    Err(error) => return error.to_string(),
                }
                if met.is_incomplete() {
                    again = again.min(Instant::now() + pause);
                }
                false
            }
            () = tokio::time::sleep_until(again) => {
                reconnect(server, met);
                let owes = met.is_incomplete();
                again = Instant::now() + if owes { pause } else { RELIST };
                pause = if owes { (pause * 2).min(RELIST) } else { SOON };
                owes
            }
            _ = tick.tick() => {
                asked = stagger(&met.lists, asked);
                match check(server, &met.lists, asked).await {
                    Ok(greets_otherwise) => {
                        failures[asked as usize] = 0;
                        greets_otherwise || listed.elapsed() >= refresh_interval(&met.lists, quiet)
                    }
                    Err(error) => {
                        failures[asked as usize] += 1;
                        let all: u32 = failures.iter().sum();
                        // One that checks its endpoints has counted already.
                        if all >= health.unhealthy_after || server.upstream.is_healthy() == Some(false) {
                            return error.to_string();
                        }
                        false
                    }
                }
            }
        };
        if !look {
            continue;
        }
        // One that announces without end is looked at less and less often.
        let often = due.take().is_some() && listed.elapsed() < (gather * 4).max(SOON);
        gather = if often { (gather * 2).min(MAX_DEBOUNCE) } else { CHANGE_DEBOUNCE };
        while heard.try_recv().is_ok() {}
        match refresh_lists(server, &met.lists).await {
            Ok(new) => {
                listed = Instant::now();
                if new != met.lists {
                    met.lists = new;
                    let Some(registry) = registry.upgrade() else { return "the gateway ends".into() };
                    registry.update(server, Ok((met.lists.clone(), met.starting(server))));
                }
            }
            Err(error) => return error.to_string(),
        }
        if met.is_incomplete() {
            again = again.min(Instant::now() + pause);
        }
    }
}

/// Takes note of what a greeting came to that took longer than the other era's, or was tried again; gives whether the
/// server has another face now.
async fn settle(
    server: &Server,
    met: &mut Handshake,
    era: Era,
    said: Result<ServerHandshake, UpstreamError>,
) -> Result<bool, UpstreamError> {
    let at = era as usize;
    match said {
        Ok(handshake) => {
            let old = met.lists[at].take();
            let lists = lists(server, era, &handshake, old.as_ref().map(|face| &face.lists)).await;
            met.undecided[at] = false;
            met.lists[at] = Some(Arc::new(server_lists(server, era, handshake, lists?)));
            Ok(true)
        }
        Err(UpstreamError::WrongEra(..)) => {
            met.undecided[at] = false;
            Ok(met.lists[at].take().is_some())
        }
        Err(error) => {
            tracing::debug!(server = %server.name, %error, "the era stays as it was");
            met.undecided[at] = true;
            Ok(false)
        }
    }
}

/// Tries the eras again in which the server was not greeted. A process speaks what it spoke when it began: only servers over
/// HTTP change while they run.
fn reconnect(server: &Server, met: &mut Handshake) {
    let until = Instant::now() + server.limits.startup;
    for era in ERAS {
        let at = era as usize;
        let is_due = match met.lists[at] {
            None => met.undecided[at] || server.upstream.endpoint_pool().is_some(),
            Some(_) => met.undecided[at],
        };
        if is_due && is_wanted(server, era) && met.pending[at].is_none() {
            met.connect_missing(server, era, until);
        }
    }
}

async fn refresh_lists(server: &Server, faces: &EraLists) -> Result<EraLists, UpstreamError> {
    let mut new = [None, None];
    for era in ERAS {
        if let Some(face) = &faces[era as usize] {
            let handshake = match era {
                Era::Modern => discovered(server).await?.unwrap_or_else(|| face.handshake.clone()),
                Era::Legacy => face.handshake.clone(),
            };
            let lists = lists(server, era, &handshake, Some(&face.lists)).await?;
            new[era as usize] = Some(Arc::new(self::server_lists(server, era, handshake, lists)));
        }
    }
    Ok(new)
}

/// How a modern server introduces itself now, if it does.
async fn discovered(server: &Server) -> Result<Option<ServerHandshake>, UpstreamError> {
    Ok(match ping(server, Era::Modern, "server/discover").await? {
        RpcOutcome::Result(result) => ServerHandshake::read(&result, version::NEWEST_MODERN.to_owned()).ok(),
        RpcOutcome::Error(_) => None,
    })
}

/// Whether a server is well; if it is, whether it introduces itself otherwise than before.
async fn check(server: &Server, lists: &EraLists, era: Era) -> Result<bool, UpstreamError> {
    match server.upstream.is_healthy() {
        Some(true) => return Ok(false),
        Some(false) => return Err(UpstreamError::Unreachable("all of its endpoints are down".into())),
        None => {}
    }
    let Some(face) = &lists[era as usize] else { return Ok(false) };
    if era == Era::Legacy {
        return ping(server, era, "ping").await.map(|_| false);
    }
    Ok(discovered(server).await?.is_some_and(|handshake| handshake != face.handshake))
}

/// The era in which a server is asked for its next sign of life: in each that it speaks, in turn. One that is down is so in
/// both, and an idle gateway sends half as much.
fn stagger(lists: &EraLists, last: Era) -> Era {
    let next = if last == Era::Modern { Era::Legacy } else { Era::Modern };
    if lists[next as usize].is_some() { next } else { last }
}

/// After which time lists are read again that nobody said have changed. A server that promises to tell, and is heard, may
/// still miss something.
fn refresh_interval(lists: &EraLists, quiet: [bool; 2]) -> Duration {
    let tells = |face: &ServerLists| {
        let mut offered =
            ListKind::ALL.into_iter().filter(|kind| face.handshake.has_capability(kind.capability(), None));
        offered.all(|kind| face.handshake.has_capability(kind.capability(), Some("listChanged")))
    };
    let told =
        lists.iter().zip(quiet).all(|(face, quiet)| face.as_ref().is_none_or(|face| !quiet && tells(face)));
    if told { NOTIFIED_RELIST } else { RELIST }
}

/// Asks for a sign of life.
async fn ping(server: &Server, era: Era, method: &str) -> Result<RpcOutcome, UpstreamError> {
    let timeout = server.timeout.min(Duration::from_secs(5));
    server
        .upstream
        .call(UpstreamCall { era, method, params: gateway_params(era, ""), progress: None, timeout })
        .await
}

#[cfg(test)]
mod tests;
