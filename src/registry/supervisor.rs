//! Keeps one server: greets it in both eras, reads its lists, follows its announcements, checks its health, and
//! starts over with growing pauses when it is gone.
//!
//! A start has one time (`startup_timeout`), in which an answer counts whenever it comes; a server that is slow in one era
//! is there in the other meanwhile.
//!
//! An era or a list is given up only on the server's clear word; what it could not say this time is asked again, and
//! until then shown as it was.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use mcp::Era;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::list_fetch::lists;
use super::{ERAS, Registry};
use crate::catalog::{Face, Kind, Lists};
use crate::server::Server;
use crate::upstream::{Ask, Hello, Said, UpstreamError, house_params};
use mcp::version;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Lists are read again after this time even if nothing was announced, and an era that a server does not speak is
/// tried again.
const RELIST: Duration = Duration::from_secs(60);
/// The same where a server promises to announce what changes, and is heard.
const TOLD_RELIST: Duration = Duration::from_secs(300);
/// What it could not say this time is asked again after this time, then after twice that, up to the above.
const SOON: Duration = Duration::from_secs(1);
/// How long the answer in one era is waited for before the server is asked in the other, and how long the second is
/// waited for before what the first has shown is told.
const HEDGE: Duration = Duration::from_secs(2);
/// Announcements that come so close together are answered by one look. It grows where they do not end.
const GATHER: Duration = Duration::from_millis(20);
const LONGEST_GATHER: Duration = Duration::from_secs(5);

pub type Faces = [Option<Arc<Face>>; 2];

type Greeting = AbortOnDropHandle<Result<Hello, UpstreamError>>;

/// What is known of a server after it was greeted.
#[derive(Default)]
struct Met {
    faces: Faces,
    /// In this era it could neither be greeted nor did it say that it does not speak it: the face is the old one.
    undecided: [bool; 2],
    /// In this era it is being greeted.
    greetings: [Option<Greeting>; 2],
}

impl Met {
    /// Whether something could not be said this time.
    fn owes(&self) -> bool {
        self.undecided.contains(&true) || self.faces.iter().flatten().any(|face| face.lists.are_stale())
    }

    /// Begins to greet the server in one more era.
    fn greet(&mut self, server: &Server, era: Era, until: Instant) {
        let upstream = server.upstream.clone();
        let greeting = tokio::spawn(async move { upstream.greet(era, until).await });
        self.greetings[era as usize] = Some(AbortOnDropHandle::new(greeting));
    }

    /// The eras in which the server is still starting: one that is tried again is not.
    fn starting(&self, server: &Server) -> [bool; 2] {
        ERAS.map(|era| self.greetings[era as usize].is_some() && server.is_starting(era))
    }

    fn is_greeting(&self) -> bool {
        self.greetings.iter().any(Option::is_some)
    }

    /// The next greeting that comes to its end.
    async fn greeted(&mut self) -> (Era, Result<Hello, UpstreamError>) {
        let done = std::future::poll_fn(|context| {
            for era in ERAS {
                if let Some(greeting) = &mut self.greetings[era as usize]
                    && let Poll::Ready(said) = Pin::new(greeting).poll(context)
                {
                    return Poll::Ready((era, said));
                }
            }
            Poll::Pending
        });
        let (era, said) = done.await;
        self.greetings[era as usize] = None;
        (era, said.unwrap_or_else(|_| Err(UpstreamError::Unreachable("the gateway is shutting down".into()))))
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
    if is_met {
        server.starts([false; 2]);
    }
    loop {
        let is_old = std::mem::take(&mut is_met);
        if !is_old {
            let greeted = meet(&server, std::mem::take(&mut met.faces)).await;
            let Some(alive) = registry.upgrade() else { return };
            match greeted {
                Ok(new) => {
                    met = new;
                    let starting = ERAS.map(|era| met.greetings[era as usize].is_some());
                    alive.report(&server, Ok((met.faces.clone(), starting)));
                }
                Err((error, before)) => {
                    met.faces = before;
                    server.starts([false; 2]);
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
        met.greetings = Default::default();
        tracing::debug!(server = %server.name, why, "greeting again");
        if since.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
            continue;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Greets the server in each era and reads its lists there; what it cannot say now stays `before`. One era that has
/// answered is enough: the other may take the rest of the time of a start.
async fn meet(server: &Server, before: Faces) -> Result<Met, (UpstreamError, Faces)> {
    let until = Instant::now() + server.bounds.startup;
    let mut met = Met::default();
    let mut hellos: [Option<Hello>; 2] = [None, None];
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
    let mut patience = Instant::now();
    loop {
        tokio::select! {
            (era, said) = met.greeted(), if met.is_greeting() => match said {
                Ok(hello) => {
                    hellos[era as usize] = Some(hello);
                    patience = Instant::now() + HEDGE;
                    if let Some(era) = to_come.pop() {
                        met.greet(server, era, until);
                    }
                }
                Err(UpstreamError::WrongEra(era, why)) => {
                    refusals.push(UpstreamError::WrongEra(era, why).to_string());
                    if let Some(era) = to_come.pop() {
                        met.greet(server, era, until);
                    }
                }
                // Nobody is there to be asked anything else.
                Err(error) if !to_come.is_empty() && error.is_absence() => return Err((error, before)),
                // What it says is neither yes nor no, or it says nothing.
                Err(error) => {
                    met.undecided[era as usize] = true;
                    trouble = Some(error);
                    if let Some(era) = to_come.pop() {
                        met.greet(server, era, until);
                    }
                }
            },
            () = tokio::time::sleep_until(patience), if !to_come.is_empty() || met.is_greeting() && hellos.iter().any(Option::is_some) => {
                let Some(era) = to_come.pop() else { break };
                met.greet(server, era, until);
                patience = Instant::now() + HEDGE;
            }
            else => break,
        }
    }
    if hellos.iter().all(Option::is_none) {
        let neither = || UpstreamError::Nonsense(format!("it speaks neither era: {}", refusals.join("; ")));
        return Err((trouble.unwrap_or_else(neither), before));
    }
    if let Some(error) = trouble {
        tracing::warn!(server = %server.name, %error, "one of the two eras cannot be greeted now; it stays as it was");
    }
    for era in ERAS {
        let at = era as usize;
        let old = before[at].as_ref();
        met.faces[at] = match hellos[at].take() {
            Some(hello) => match lists(server, era, &hello, old.map(|face| &face.lists)).await {
                Ok(lists) => Some(Arc::new(face(server, era, hello, lists))),
                Err(error) => return Err((error, before)),
            },
            None => old.filter(|_| met.undecided[at] || met.greetings[at].is_some()).cloned(),
        };
    }
    Ok(met)
}

fn face(server: &Server, era: Era, hello: Hello, lists: Lists) -> Face {
    for reason in &hello.faults {
        if server.warns(("greeting", reason)) {
            tracing::warn!(server = %server.name, %reason, "a part of its greeting does not fit the protocol and is left out");
        }
    }
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
    let (mut failures, mut asked) = ([0; 2], Era::Modern);
    let mut listed = Instant::now();
    let watch = |era: Era, spoken: bool| {
        let (server, changed) = (server.clone(), changed.clone());
        Box::pin(async move {
            if spoken { server.upstream.watch(era, &changed).await } else { std::future::pending().await }
        })
    };
    let mut watching = ERAS.map(|era| watch(era, met.faces[era as usize].is_some()));
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
            (era, said) = met.greeted(), if met.is_greeting() => {
                match settle(server, met, era, said).await {
                    Ok(changed) => {
                        let at = era as usize;
                        if changed {
                            (watching[at], quiet[at]) = (watch(era, met.faces[at].is_some()), false);
                        }
                        let Some(registry) = registry.upgrade() else { return "the gateway ends".into() };
                        registry.report(server, Ok((met.faces.clone(), met.starting(server))));
                    }
                    Err(error) => return error.to_string(),
                }
                if met.owes() {
                    again = again.min(Instant::now() + pause);
                }
                false
            }
            () = tokio::time::sleep_until(again) => {
                greet_again(server, met);
                let owes = met.owes();
                again = Instant::now() + if owes { pause } else { RELIST };
                pause = if owes { (pause * 2).min(RELIST) } else { SOON };
                owes
            }
            _ = tick.tick() => {
                asked = turn(&met.faces, asked);
                match check(server, &met.faces, asked).await {
                    Ok(greets_otherwise) => {
                        failures[asked as usize] = 0;
                        greets_otherwise || listed.elapsed() >= relist(&met.faces, quiet)
                    }
                    Err(error) => {
                        failures[asked as usize] += 1;
                        let all: u32 = failures.iter().sum();
                        // One that checks its endpoints has counted already.
                        if all >= health.unhealthy_after || server.upstream.is_well() == Some(false) {
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
        gather = if often { (gather * 2).min(LONGEST_GATHER) } else { GATHER };
        while heard.try_recv().is_ok() {}
        match look_again(server, &met.faces).await {
            Ok(new) => {
                listed = Instant::now();
                if new != met.faces {
                    met.faces = new;
                    let Some(registry) = registry.upgrade() else { return "the gateway ends".into() };
                    registry.report(server, Ok((met.faces.clone(), met.starting(server))));
                }
            }
            Err(error) => return error.to_string(),
        }
        if met.owes() {
            again = again.min(Instant::now() + pause);
        }
    }
}

/// Takes note of what a greeting came to that took longer than the other era's, or was tried again; gives whether the
/// server has another face now.
async fn settle(
    server: &Server,
    met: &mut Met,
    era: Era,
    said: Result<Hello, UpstreamError>,
) -> Result<bool, UpstreamError> {
    let at = era as usize;
    match said {
        Ok(hello) => {
            let old = met.faces[at].take();
            let lists = lists(server, era, &hello, old.as_ref().map(|face| &face.lists)).await;
            met.undecided[at] = false;
            met.faces[at] = Some(Arc::new(face(server, era, hello, lists?)));
            Ok(true)
        }
        Err(UpstreamError::WrongEra(..)) => {
            met.undecided[at] = false;
            Ok(met.faces[at].take().is_some())
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
fn greet_again(server: &Server, met: &mut Met) {
    let until = Instant::now() + server.bounds.startup;
    for era in ERAS {
        let at = era as usize;
        let is_due = match met.faces[at] {
            None => met.undecided[at] || server.upstream.http().is_some(),
            Some(_) => met.undecided[at],
        };
        if is_due && is_wanted(server, era) && met.greetings[at].is_none() {
            met.greet(server, era, until);
        }
    }
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
        Said::Result(result) => Hello::read(&result, version::NEWEST_MODERN.to_owned()).ok(),
        Said::Error(_) => None,
    })
}

/// Whether a server is well; if it is, whether it introduces itself otherwise than before.
async fn check(server: &Server, faces: &Faces, era: Era) -> Result<bool, UpstreamError> {
    match server.upstream.is_well() {
        Some(true) => return Ok(false),
        Some(false) => return Err(UpstreamError::Unreachable("all of its endpoints are down".into())),
        None => {}
    }
    let Some(face) = &faces[era as usize] else { return Ok(false) };
    if era == Era::Legacy {
        return sign(server, era, "ping").await.map(|_| false);
    }
    Ok(discovered(server).await?.is_some_and(|hello| hello != face.hello))
}

/// The era in which a server is asked for its next sign of life: in each that it speaks, in turn. One that is down is so in
/// both, and an idle gateway sends half as much.
fn turn(faces: &Faces, last: Era) -> Era {
    let next = if last == Era::Modern { Era::Legacy } else { Era::Modern };
    if faces[next as usize].is_some() { next } else { last }
}

/// After which time lists are read again that nobody said have changed. A server that promises to tell, and is heard, may
/// still miss something.
fn relist(faces: &Faces, quiet: [bool; 2]) -> Duration {
    let tells = |face: &Face| {
        let mut offered = Kind::ALL.into_iter().filter(|kind| face.hello.offers(kind.capability(), None));
        offered.all(|kind| face.hello.offers(kind.capability(), Some("listChanged")))
    };
    let told =
        faces.iter().zip(quiet).all(|(face, quiet)| face.as_ref().is_none_or(|face| !quiet && tells(face)));
    if told { TOLD_RELIST } else { RELIST }
}

/// Asks for a sign of life.
async fn sign(server: &Server, era: Era, method: &str) -> Result<Said, UpstreamError> {
    let timeout = server.timeout.min(Duration::from_secs(5));
    server.upstream.ask(Ask { era, method, params: house_params(era, ""), progress: None, timeout }).await
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn face(capabilities: &'static str) -> Option<Arc<Face>> {
        let hello = Hello {
            version: String::new(),
            capabilities: Bytes::from_static(capabilities.as_bytes()),
            server_info: Bytes::new(),
            instructions: None,
            faults: Vec::new(),
        };
        Some(Arc::new(Face { hello, lists: Lists::default(), events: false }))
    }

    #[test]
    fn a_server_of_both_eras_is_asked_in_turn() {
        let both = [face("{}"), face("{}")];
        let mut asked = vec![turn(&both, Era::Modern)];
        for _ in 0..3 {
            asked.push(turn(&both, asked[asked.len() - 1]));
        }
        assert_eq!(asked, [Era::Legacy, Era::Modern, Era::Legacy, Era::Modern]);
        for last in ERAS {
            assert_eq!(turn(&[face("{}"), None], Era::Legacy), Era::Legacy);
            assert_eq!(turn(&[None, face("{}")], last), Era::Modern);
        }
    }

    #[test]
    fn lists_are_read_again_soon_where_nobody_tells_of_changes() {
        let told = r#"{"tools":{"listChanged":true},"resources":{"listChanged":true}}"#;
        for (capabilities, quiet, time) in [
            (told, [false; 2], TOLD_RELIST),
            (told, [true, false], RELIST),
            (r#"{"tools":{"listChanged":true},"prompts":{}}"#, [false; 2], RELIST),
            (r#"{"tools":{}}"#, [false; 2], RELIST),
            (r#"{"tools":{"listChanged":false}}"#, [false; 2], RELIST),
        ] {
            assert_eq!(relist(&[face(capabilities), None], quiet), time, "{capabilities} {quiet:?}");
        }
        assert_eq!(relist(&[face(told), face(r#"{"tools":{}}"#)], [false; 2]), RELIST);
        assert_eq!(relist(&[face(told), face(told)], [false; 2]), TOLD_RELIST);
    }
}
