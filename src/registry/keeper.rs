//! Keeps one server: greets it in both eras, reads its lists, follows its announcements, checks its health, and
//! starts over with growing pauses when it is gone.
//!
//! An era or a list is given up only on the server's clear word; what it could not say this time is asked again, and
//! until then shown as it was.

use std::sync::{Arc, Weak};
use std::time::Duration;

use filters::Era;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Registry;
use super::reading::lists;
use crate::catalog::{Face, Lists};
use crate::protocol::revision;
use crate::server::Server;
use crate::upstream::{Ask, Hello, Said, UpstreamError, house_params};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Lists are read again after this time even if nothing was announced, and an era that a server does not speak is
/// tried again.
const RELIST: Duration = Duration::from_secs(60);
/// What it could not say this time is asked again after this time, then after twice that, up to the above.
const SOON: Duration = Duration::from_secs(1);
/// Announcements that come so close together are answered by one look. It grows where they do not end.
const GATHER: Duration = Duration::from_millis(20);
const LONGEST_GATHER: Duration = Duration::from_secs(5);

pub type Faces = [Option<Arc<Face>>; 2];

const ERAS: [Era; 2] = [Era::Legacy, Era::Modern];

/// What is known of a server after it was greeted.
#[derive(Default)]
struct Met {
    faces: Faces,
    /// In this era it could neither be greeted nor did it say that it does not speak it: the face is the old one.
    undecided: [bool; 2],
}

impl Met {
    /// Whether something could not be said this time.
    fn owes(&self) -> bool {
        self.undecided.contains(&true) || self.faces.iter().flatten().any(|face| face.lists.are_stale())
    }
}

/// Runs until the server's configuration is gone. `known` is what was seen over the same connection, which then is
/// followed as it is; only its lists are read anew.
pub async fn keep(server: Arc<Server>, registry: Weak<Registry>, known: Option<Faces>) {
    let upstream = server.upstream.clone();
    tokio::select! {
        () = kept(server, registry, known) => {}
        () = upstream.tend() => {}
    }
}

async fn kept(server: Arc<Server>, registry: Weak<Registry>, known: Option<Faces>) {
    let mut pause = FIRST_PAUSE;
    let mut is_met = known.is_some();
    let mut met = Met { faces: known.unwrap_or_default(), ..Met::default() };
    loop {
        let is_old = std::mem::take(&mut is_met);
        if !is_old {
            let greeted = meet(&server, &met.faces).await;
            let Some(alive) = registry.upgrade() else { return };
            match greeted {
                Ok(new) => {
                    met = new;
                    alive.report(&server, Ok(met.faces.clone()));
                }
                Err(error) => {
                    alive.report(&server, Err(error.to_string()));
                    drop(alive);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
            }
        }
        let since = Instant::now();
        // Not yet a reason to call it down: the next greeting tells.
        let why = stay(&server, &mut met, is_old, &registry).await;
        tracing::debug!(server = %server.name, why, "greeting again");
        if since.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
            continue;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Greets the server in each era that it speaks and reads its lists there; what it cannot say now stays `before`.
async fn meet(server: &Server, before: &Faces) -> Result<Met, UpstreamError> {
    let mut met = Met::default();
    let mut hellos: [Option<Hello>; 2] = [None, None];
    let mut refusals = Vec::new();
    let mut trouble = None;
    // Modern first: a legacy server only refuses that, while a dual-era process is bound by its first request.
    for era in [Era::Modern, Era::Legacy] {
        if !is_wanted(server, era) {
            refusals
                .push(UpstreamError::WrongEra(era, "`era` in the configuration says so".into()).to_string());
            continue;
        }
        match server.upstream.greet(era).await {
            Ok(hello) => hellos[era as usize] = Some(hello),
            Err(error @ UpstreamError::WrongEra(..)) => refusals.push(error.to_string()),
            // It is there, but what it says is neither yes nor no.
            Err(error @ UpstreamError::Nonsense(_)) => {
                met.undecided[era as usize] = true;
                trouble = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    if hellos.iter().all(Option::is_none) {
        let neither = || UpstreamError::Nonsense(format!("it speaks neither era: {}", refusals.join("; ")));
        return Err(trouble.unwrap_or_else(neither));
    }
    if let Some(error) = trouble {
        tracing::warn!(server = %server.name, %error, "one of the two eras cannot be greeted now; it stays as it was");
    }
    for era in ERAS {
        let old = before[era as usize].as_ref();
        met.faces[era as usize] = match hellos[era as usize].take() {
            Some(hello) => {
                let lists = lists(server, era, &hello, old.map(|face| &face.lists)).await?;
                Some(Arc::new(face(server, era, hello, lists)))
            }
            None => old.filter(|_| met.undecided[era as usize]).cloned(),
        };
    }
    Ok(met)
}

fn face(server: &Server, era: Era, hello: Hello, lists: Lists) -> Face {
    Face { hello, lists, events: era == Era::Legacy && server.upstream.lists_as_events() }
}

fn is_wanted(server: &Server, era: Era) -> bool {
    match era {
        Era::Modern => server.config.era.is_modern(),
        Era::Legacy => server.config.era.is_legacy(),
    }
}

/// Follows a connected server, whose lists may be old; ends with the reason why it is no longer.
async fn stay(server: &Arc<Server>, met: &mut Met, is_old: bool, registry: &Weak<Registry>) -> String {
    let (changed, mut heard) = mpsc::channel(64);
    let health = &server.config.health;
    let mut tick = tokio::time::interval(health.interval.get());
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.reset();
    let mut failures = 0;
    let mut listed = Instant::now();
    let watch = |era: Era| {
        let (server, changed) = (server.clone(), changed.clone());
        let spoken = met.faces[era as usize].is_some();
        async move {
            if spoken { server.upstream.watch(era, &changed).await } else { std::future::pending().await }
        }
    };
    let mut watching = [Box::pin(watch(Era::Legacy)), Box::pin(watch(Era::Modern))];
    let mut quiet = [false, false];
    // When there is to be a look because of what was announced.
    let mut due = is_old.then(Instant::now);
    let mut gather = GATHER;
    // When it is asked again what it did not say.
    let mut pause = SOON;
    let mut again = Instant::now() + if met.owes() { SOON } else { RELIST };
    loop {
        let [legacy, modern] = &mut watching;
        let look = tokio::select! {
            Some(()) = heard.recv() => {
                due.get_or_insert_with(|| Instant::now() + gather);
                false
            }
            () = server.outdated.notified() => {
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
            () = tokio::time::sleep_until(again) => {
                if let Some(news) = try_eras(server, met).await {
                    return news;
                }
                let owes = met.owes();
                again = Instant::now() + if owes { pause } else { RELIST };
                pause = if owes { (pause * 2).min(RELIST) } else { SOON };
                owes
            }
            _ = tick.tick() => match check(server, &met.faces).await {
                Ok(greets_otherwise) => {
                    failures = 0;
                    greets_otherwise || listed.elapsed() >= RELIST
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
        // One that announces without end is looked at less and less often.
        let often = due.take().is_some() && listed.elapsed() < (gather * 4).max(SOON);
        gather = if often { (gather * 2).min(LONGEST_GATHER) } else { GATHER };
        while heard.try_recv().is_ok() {}
        match look_again(server, &met.faces).await {
            Ok(new) => {
                listed = Instant::now();
                if new != met.faces {
                    met.faces = new;
                    let Some(registry) = registry.upgrade() else { return "the gateway ends".into() };
                    registry.report(server, Ok(met.faces.clone()));
                }
            }
            Err(error) => return error.to_string(),
        }
        if met.owes() {
            again = again.min(Instant::now() + pause);
        }
    }
}

/// Tries the eras in which the server was not greeted; gives why all is to begin anew, if it is. A process speaks what
/// it spoke when it began: only servers over HTTP change while they run.
async fn try_eras(server: &Server, met: &Met) -> Option<String> {
    server.upstream.http()?;
    for era in ERAS {
        let undecided = met.undecided[era as usize];
        if !is_wanted(server, era) || met.faces[era as usize].is_some() && !undecided {
            continue;
        }
        match server.upstream.greet(era).await {
            Ok(_) => return Some(format!("it speaks the {} era now", era.word())),
            Err(UpstreamError::WrongEra(..)) if undecided => {
                return Some(format!("it does not speak the {} era", era.word()));
            }
            Err(error) => tracing::debug!(server = %server.name, %error, "the era stays as it was"),
        }
    }
    None
}

async fn look_again(server: &Server, faces: &Faces) -> Result<Faces, UpstreamError> {
    let mut new = [None, None];
    for era in ERAS {
        if let Some(face) = &faces[era as usize] {
            let hello = match era {
                Era::Modern => discovered(server).await?.unwrap_or_else(|| face.hello.clone()),
                Era::Legacy => face.hello.clone(),
            };
            let lists = lists(server, era, &hello, Some(&face.lists)).await?;
            new[era as usize] = Some(Arc::new(self::face(server, era, hello, lists)));
        }
    }
    Ok(new)
}

/// How a modern server introduces itself now, if it does.
async fn discovered(server: &Server) -> Result<Option<Hello>, UpstreamError> {
    Ok(match sign(server, Era::Modern, "server/discover").await? {
        Said::Result(result) => Hello::read(&result, revision::NEWEST_MODERN.to_owned()).ok(),
        Said::Error(_) => None,
    })
}

/// Whether a server is well; if it is, whether it introduces itself otherwise than before.
async fn check(server: &Server, faces: &Faces) -> Result<bool, UpstreamError> {
    match server.upstream.is_well() {
        Some(true) => return Ok(false),
        Some(false) => return Err(UpstreamError::Unreachable("all of its endpoints are down".into())),
        None => {}
    }
    if faces[Era::Legacy as usize].is_some() {
        sign(server, Era::Legacy, "ping").await?;
    }
    let Some(face) = &faces[Era::Modern as usize] else { return Ok(false) };
    Ok(discovered(server).await?.is_some_and(|hello| hello != face.hello))
}

/// Asks for a sign of life.
async fn sign(server: &Server, era: Era, method: &str) -> Result<Said, UpstreamError> {
    let timeout = server.timeout.min(Duration::from_secs(5));
    server.upstream.ask(Ask { era, method, params: house_params(era, ""), progress: None, timeout }).await
}
