//! Keeps one server: greets it in both eras, reads its lists, follows its announcements, checks its health, and
//! starts over with growing pauses when it is gone.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use filters::Era;
use filters::agree::quote;
use tokio::sync::mpsc;

use super::Registry;
use crate::catalog::{Face, Kind, Listing, Lists, Page};
use crate::server::Server;
use crate::upstream::{Ask, Hello, Said, UpstreamError, house_params};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Lists are read again after this time even if nothing was announced.
const RELIST: Duration = Duration::from_secs(60);
/// Announcements that come so close together are answered by one look.
const GATHER: Duration = Duration::from_millis(20);
/// Most entries that one list of a server may have, and most pages: a server is not trusted to end.
const MAX_ITEMS: usize = 20_000;
const MAX_PAGES: usize = 1_000;

type Faces = [Option<Arc<Face>>; 2];

/// Runs until the server's configuration is gone.
pub async fn keep(server: Arc<Server>, registry: Weak<Registry>) {
    let upstream = server.upstream.clone();
    tokio::select! {
        () = kept(server, registry) => {}
        () = upstream.tend() => {}
    }
}

async fn kept(server: Arc<Server>, registry: Weak<Registry>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let met = meet(&server).await;
        let Some(alive) = registry.upgrade() else { return };
        match met {
            Ok(faces) => {
                alive.report(&server, Ok(faces.clone()));
                drop(alive);
                let since = Instant::now();
                // Not yet a reason to call it down: the next greeting tells.
                let why = stay(&server, faces, &registry).await;
                tracing::debug!(server = %server.name, why, "greeting again");
                if since.elapsed() > LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                    continue;
                }
            }
            Err(error) => alive.report(&server, Err(error.to_string())),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Greets the server in each era that it speaks and reads its lists there.
async fn meet(server: &Server) -> Result<Faces, UpstreamError> {
    // Modern first: a legacy server only refuses that, while a dual-era process is bound by its first request.
    let era = server.config.era;
    let modern = match era.is_modern() {
        true => greeted(server.upstream.greet(Era::Modern).await)?,
        false => Err(not_wanted(Era::Modern)),
    };
    let legacy = match era.is_legacy() {
        true => greeted(server.upstream.greet(Era::Legacy).await)?,
        false => Err(not_wanted(Era::Legacy)),
    };
    let (legacy, modern) = match (legacy, modern) {
        (Err(legacy), Err(modern)) => {
            return Err(UpstreamError::Nonsense(format!("it speaks neither era: {modern}; {legacy}")));
        }
        (legacy, modern) => (legacy.ok(), modern.ok()),
    };
    let mut faces = [None, None];
    for (era, hello) in [(Era::Legacy, legacy), (Era::Modern, modern)] {
        if let Some(hello) = hello {
            let lists = lists(server, era, &hello).await?;
            faces[era as usize] = Some(Arc::new(face(server, era, hello, lists)));
        }
    }
    Ok(faces)
}

fn face(server: &Server, era: Era, hello: Hello, lists: Lists) -> Face {
    Face { hello, lists, events: era == Era::Legacy && server.upstream.lists_as_events() }
}

fn not_wanted(era: Era) -> UpstreamError {
    UpstreamError::WrongEra(era, "`era` in the configuration says so".into())
}

/// Not speaking an era is an answer; everything else is a failure.
fn greeted(greeting: Result<Hello, UpstreamError>) -> Result<Result<Hello, UpstreamError>, UpstreamError> {
    match greeting {
        Err(error) if !matches!(error, UpstreamError::WrongEra(..)) => Err(error),
        other => Ok(other),
    }
}

/// Follows a connected server; ends with the reason why it is no longer.
async fn stay(server: &Arc<Server>, mut faces: Faces, registry: &Weak<Registry>) -> String {
    let (changed, mut heard) = mpsc::channel(64);
    let health = &server.config.health;
    let mut tick = tokio::time::interval(health.interval.get());
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.reset();
    let mut failures = 0;
    let mut listed = Instant::now();
    let watch = |era: Era| {
        let (server, changed) = (server.clone(), changed.clone());
        let spoken = faces[era as usize].is_some();
        async move {
            if spoken { server.upstream.watch(era, &changed).await } else { std::future::pending().await }
        }
    };
    let mut watching = [Box::pin(watch(Era::Legacy)), Box::pin(watch(Era::Modern))];
    let mut quiet = [false, false];
    loop {
        let [legacy, modern] = &mut watching;
        let look = tokio::select! {
            Some(()) = heard.recv() => {
                tokio::time::sleep(GATHER).await;
                while heard.try_recv().is_ok() {}
                true
            }
            // In a session of some client, which has it from us.
            () = server.changed.notified() => {
                tokio::time::sleep(GATHER).await;
                while heard.try_recv().is_ok() {}
                true
            }
            ended = legacy, if !quiet[0] => match ended {
                Ok(()) => { quiet[0] = true; false }
                Err(error) => return error.to_string(),
            },
            ended = modern, if !quiet[1] => match ended {
                Ok(()) => { quiet[1] = true; false }
                Err(error) => return error.to_string(),
            },
            _ = tick.tick() => match check(server, &faces).await {
                Ok(()) => {
                    failures = 0;
                    listed.elapsed() >= RELIST
                }
                Err(error) => {
                    failures += 1;
                    // One that checks its endpoints has counted already.
                    if failures >= health.unhealthy_after || server.upstream.is_well() == Some(false) {
                        return error.to_string();
                    }
                    false
                }
            },
        };
        if !look {
            continue;
        }
        match look_again(server, &faces).await {
            Ok(new) => {
                listed = Instant::now();
                if new != faces {
                    faces = new;
                    let Some(registry) = registry.upgrade() else { return "the gateway ends".into() };
                    registry.report(server, Ok(faces.clone()));
                }
            }
            Err(error) => return error.to_string(),
        }
    }
}

async fn look_again(server: &Server, faces: &Faces) -> Result<Faces, UpstreamError> {
    let mut new = [None, None];
    for era in [Era::Legacy, Era::Modern] {
        if let Some(face) = &faces[era as usize] {
            let lists = lists(server, era, &face.hello).await?;
            new[era as usize] = Some(Arc::new(self::face(server, era, face.hello.clone(), lists)));
        }
    }
    Ok(new)
}

async fn check(server: &Server, faces: &Faces) -> Result<(), UpstreamError> {
    match server.upstream.is_well() {
        Some(true) => return Ok(()),
        Some(false) => return Err(UpstreamError::Unreachable("all of its endpoints are down".into())),
        None => {}
    }
    let timeout = server.timeout.min(Duration::from_secs(5));
    for (era, method) in [(Era::Legacy, "ping"), (Era::Modern, "server/discover")] {
        if faces[era as usize].is_some() {
            server
                .upstream
                .ask(Ask { era, method, params: house_params(era, ""), progress: None, timeout })
                .await?;
        }
    }
    Ok(())
}

async fn lists(server: &Server, era: Era, hello: &Hello) -> Result<Lists, UpstreamError> {
    let mut lists = Lists::default();
    for kind in Kind::ALL {
        if hello.offers(kind.capability(), None) {
            lists.0[kind as usize] = listing(server, era, kind).await?;
        }
    }
    Ok(lists)
}

async fn listing(server: &Server, era: Era, kind: Kind) -> Result<Listing, UpstreamError> {
    let mut listing = Listing { items: Vec::new(), ttl_ms: None, public: true };
    let mut cursor: Option<String> = None;
    let mut met = HashSet::new();
    for _ in 0..MAX_PAGES {
        let rest = cursor.as_ref().map(|cursor| format!(r#""cursor":{}"#, quote(cursor))).unwrap_or_default();
        let ask = Ask {
            era,
            method: kind.method(),
            params: house_params(era, &rest),
            progress: None,
            timeout: server.timeout,
        };
        let result = match server.upstream.ask(ask).await? {
            Said::Result(result) => result,
            // Servers that declare `resources` need not have templates, or the other way round.
            Said::Error(_) if listing.items.is_empty() => return Ok(Listing::default()),
            Said::Error(_) => break,
        };
        let mut page = Page::read(&result, kind).map_err(UpstreamError::Nonsense)?;
        if (era, kind) == (Era::Modern, Kind::Tools) {
            // Clients must leave out what they could not call rightly (2026-07-28, streamable-http, `x-mcp-header`).
            page.items.retain_mut(|item| match item.reflect() {
                Ok(()) => true,
                Err(why) => {
                    tracing::warn!(server = %server.name, tool = %item.key, %why, "the tool is left out for modern clients");
                    false
                }
            });
        }
        if page.dropped > 0 {
            tracing::warn!(server = %server.name, kind = kind.member(), dropped = page.dropped, "entries without a usable name were dropped");
        }
        listing.items.extend(page.items);
        listing.public &= page.public;
        listing.ttl_ms = match (listing.ttl_ms, page.ttl_ms) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if listing.items.len() > MAX_ITEMS {
            tracing::warn!(server = %server.name, kind = kind.member(), limit = MAX_ITEMS, "the list is too long; the rest is left out");
            listing.items.truncate(MAX_ITEMS);
            break;
        }
        match page.next {
            // Pages that lead back to one that was read lead nowhere else.
            Some(next) if met.insert(next.clone()) => cursor = Some(next),
            _ => break,
        }
    }
    Ok(listing)
}
