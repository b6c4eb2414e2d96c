//! The streams of announcements: the GET stream of a legacy session, and `subscriptions/listen` of 2026-07-28.
//!
//! That a list changed is told from the catalog, after the new list stands, so that a client that looks at once
//! sees it; the servers' own words about it are not passed on. What servers say to one session (log messages,
//! updated resources, requests) is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use filters::agree::quote;
use filters::json::Reader;
use filters::rebuild::splice;
use filters::{Era, Span};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::{Leash, Talk, Word};
use crate::catalog::{Change, Endpoint, Kind};
use crate::protocol::wire;
use crate::registry::Registry;
use crate::server::Server;
use crate::session::{Outbox, Pass, Session, TooMany};
use crate::upstream::house_meta;

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// Most resources that one stream follows.
const MOST: usize = 1024;
/// How long to wait before a server is listened to again.
const AGAIN: Duration = Duration::from_secs(1);

/// A GET stream of a legacy session; of what servers say to it goes on what `pass` gives. A session may have several:
/// each message goes to one of them. `patience` is how long it may take the client to read one.
pub fn legacy(
    core: &Handle,
    session: Arc<Session>,
    pass: Pass,
    changes: broadcast::Receiver<Change>,
    patience: Duration,
    drain: CancellationToken,
) -> Result<Talk, TooMany> {
    // No longer than it must be: what stands in it is lost with the client.
    let (words, receiver) = mpsc::channel(1);
    let stream = session.attach(patience)?;
    if !session.told.swap(true, Ordering::AcqRel) {
        core.spawn(tell(session.path.clone(), session.outbox.clone(), session.end(), changes));
    }
    let ended = session.end();
    let task = core.spawn(async move {
        let speak = async {
            while let Ok(place) = words.reserve().await {
                let said = loop {
                    let Some(item) = stream.next().await else { return };
                    match &item.server {
                        Some(server) => match pass(server, item.message) {
                            Some(message) => break message,
                            None => continue,
                        },
                        None => break item.message,
                    }
                };
                place.send(Word::Note(said));
            }
        };
        tokio::select! {
            () = drain.cancelled() => {}
            () = ended.cancelled() => {}
            () = speak => {}
        }
    });
    Ok(Talk { words: receiver, stream: true, leash: Some(Leash(task.abort_handle())) })
}

/// Tells a session of changed lists, once each and not once a stream, from its first stream to its end.
async fn tell(
    path: Arc<str>,
    outbox: Arc<Outbox>,
    ended: CancellationToken,
    mut changes: broadcast::Receiver<Change>,
) {
    let mut told = Told;
    loop {
        let change = tokio::select! {
            () = ended.cancelled() => return,
            change = changes.recv() => change,
        };
        match told.method(change, &path, Era::Legacy) {
            Heard::Changed(methods) => {
                for method in methods {
                    outbox.say(wire::notification(method, b""));
                }
            }
            Heard::Nothing => {}
            Heard::Gone => outbox.cut(),
            Heard::Over => return,
        }
    }
}

enum Heard {
    Changed(Vec<&'static str>),
    Nothing,
    /// A reload took the endpoint away.
    Gone,
    Over,
}

/// Turns changes of the catalog into the methods that announce them.
#[derive(Default)]
struct Told;

impl Told {
    fn method(&mut self, change: Result<Change, broadcast::error::RecvError>, path: &str, era: Era) -> Heard {
        match change {
            Ok(change) if &*change.path == path && change.era == era => match change.list {
                Some(list) => Heard::Changed(vec![announcement(list)]),
                None => Heard::Gone,
            },
            Ok(_) => Heard::Nothing,
            // Too slow to hear which: all may have changed.
            Err(broadcast::error::RecvError::Lagged(_)) => Heard::Changed(vec![
                announcement(Kind::Tools),
                announcement(Kind::Prompts),
                announcement(Kind::Resources),
            ]),
            Err(broadcast::error::RecvError::Closed) => Heard::Over,
        }
    }
}

fn announcement(kind: Kind) -> &'static str {
    match kind {
        Kind::Tools => "notifications/tools/list_changed",
        Kind::Prompts => "notifications/prompts/list_changed",
        Kind::Resources | Kind::Templates => "notifications/resources/list_changed",
    }
}

/// What a client asked to be told of, as far as it can be.
pub struct Filter {
    tools: bool,
    prompts: bool,
    resources: bool,
    /// URIs by the server that reads them.
    updates: Vec<(Arc<Server>, Vec<String>)>,
}

impl Filter {
    /// Reads `params.notifications`; what the endpoint cannot tell of is left out.
    /// `may` says which resources the client may follow.
    pub fn read(
        notifications: &[u8],
        endpoint: &Endpoint,
        may: impl Fn(&str, &Server) -> bool,
    ) -> Option<Self> {
        if notifications.first() != Some(&b'{') {
            return None;
        }
        let view = endpoint.view(Era::Modern);
        let wants = |name: &str| {
            wire::member(notifications, name).is_some_and(|span| span.of(notifications) == b"true")
        };
        let has = |name: &str| wire::member(&view.capabilities, name).is_some();
        let mut updates: BTreeMap<u64, (Arc<Server>, Vec<String>)> = BTreeMap::new();
        if let Some(span) = wire::member(notifications, "resourceSubscriptions") {
            for uri in strings(span.of(notifications)).filter(|uris| uris.len() <= MOST)? {
                if let Some(target) = view.resource(&uri).filter(|target| target.server.upstream.follows())
                    && may(&uri, &target.server)
                {
                    let entry = updates.entry(target.server.serial);
                    entry.or_insert_with(|| (target.server.clone(), Vec::new())).1.push(uri);
                }
            }
        }
        Some(Self {
            tools: wants("toolsListChanged") && has("tools"),
            prompts: wants("promptsListChanged") && has("prompts"),
            resources: wants("resourcesListChanged") && has("resources"),
            updates: updates.into_values().collect(),
        })
    }

    fn takes(&self, method: &str) -> bool {
        match method {
            "notifications/tools/list_changed" => self.tools,
            "notifications/prompts/list_changed" => self.prompts,
            _ => self.resources,
        }
    }

    fn json(&self) -> String {
        let mut parts: Vec<String> = [
            (self.tools, "toolsListChanged"),
            (self.prompts, "promptsListChanged"),
            (self.resources, "resourcesListChanged"),
        ]
        .into_iter()
        .filter(|(on, _)| *on)
        .map(|(_, name)| format!(r#""{name}":true"#))
        .collect();
        let uris: Vec<String> =
            self.updates.iter().flat_map(|(_, uris)| uris).map(|uri| quote(uri)).collect();
        if !uris.is_empty() {
            parts.push(format!(r#""resourceSubscriptions":[{}]"#, uris.join(",")));
        }
        format!("{{{}}}", parts.join(","))
    }
}

fn strings(array: &[u8]) -> Option<Vec<String>> {
    let mut all = Vec::new();
    let mut reader = Reader::new(array, 1).ok()?;
    reader
        .array(|r| {
            all.push(r.string()?.read(array).into_owned());
            Ok(())
        })
        .ok()?;
    Some(all)
}

/// `subscriptions/listen` (2026-07-28, basic/patterns/subscriptions): the acknowledgement first, then what was
/// asked for, each with the id of the client's own request; a result at the end.
pub fn modern(
    core: &Handle,
    registry: Arc<Registry>,
    id: Bytes,
    endpoint: Arc<Endpoint>,
    filter: Filter,
    mut changes: broadcast::Receiver<Change>,
    drain: CancellationToken,
) -> Talk {
    let (words, receiver) = mpsc::channel(32);
    let runtime = core.clone();
    let task = core.spawn(async move {
        let subscription = format!(r#""{SUBSCRIPTION}":{}"#, String::from_utf8_lossy(&id));
        let ack = format!(r#"{{"_meta":{{{subscription}}},"notifications":{}}}"#, filter.json());
        let ack = wire::notification("notifications/subscriptions/acknowledged", ack.as_bytes());
        if words.send(Word::Note(ack)).await.is_err() {
            return;
        }
        let (out, mut updates) = mpsc::channel::<Bytes>(32);
        let _leashes: Vec<Leash> = filter
            .updates
            .iter()
            .map(|(server, uris)| {
                let follow = follow(registry.clone(), server.clone(), uris.clone(), id.clone(), out.clone());
                Leash(runtime.spawn(follow).abort_handle())
            })
            .collect();
        let last = || {
            let info = String::from_utf8_lossy(&endpoint.modern.server_info).into_owned();
            let result = format!(
                r#"{{"resultType":"complete","_meta":{{{subscription},"io.modelcontextprotocol/serverInfo":{info}}}}}"#
            );
            (vec![wire::result(&id, result.as_bytes())], true)
        };
        let mut told = Told;
        loop {
            let (message, end) = tokio::select! {
                () = drain.cancelled() => last(),
                update = updates.recv(), if !filter.updates.is_empty() => match update {
                    Some(update) => (vec![update], false),
                    None => return,
                },
                change = changes.recv() => match told.method(change, &endpoint.path, Era::Modern) {
                    Heard::Changed(methods) => {
                        let params = format!(r#"{{"_meta":{{{subscription}}}}}"#);
                        let wanted = methods.into_iter().filter(|method| filter.takes(method));
                        (wanted.map(|method| wire::notification(method, params.as_bytes())).collect(), false)
                    }
                    Heard::Nothing => continue,
                    Heard::Gone | Heard::Over => last(),
                },
            };
            for message in message {
                let word = if end { Word::Last(message) } else { Word::Note(message) };
                if words.send(word).await.is_err() {
                    return;
                }
            }
            if end {
                return;
            }
        }
    });
    Talk { words: receiver, stream: true, leash: Some(Leash(task.abort_handle())) }
}

/// Listens to one server for updates of resources, and again when that ends; to the one in its place when a reload
/// gave it other settings.
async fn follow(
    registry: Arc<Registry>,
    mut server: Arc<Server>,
    uris: Vec<String>,
    id: Bytes,
    out: mpsc::Sender<Bytes>,
) {
    let quoted: Vec<String> = uris.iter().map(|uri| quote(uri)).collect();
    let params = Bytes::from(format!(
        r#"{{"notifications":{{"resourceSubscriptions":[{}]}},"_meta":{}}}"#,
        quoted.join(","),
        house_meta()
    ));
    while !out.is_closed() {
        let (sender, mut said) = mpsc::channel::<Bytes>(32);
        let forward = async {
            while let Some(message) = said.recv().await {
                if let Some(message) = readdressed(&message, &id)
                    && out.send(message).await.is_err()
                {
                    return;
                }
            }
        };
        let listen = async { tokio::join!(server.upstream.follow(params.clone(), sender), forward).0 };
        let ended = tokio::select! {
            ended = listen => ended,
            () = server.retired.cancelled() => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(server = %server.name, %error, "a subscription ended");
        }
        if !server.retired.is_cancelled() {
            tokio::time::sleep(AGAIN).await;
        }
        match registry.house().plan.servers.get(&server.name) {
            Some(now) => server = now.clone(),
            None => return,
        }
    }
}

/// A `notifications/resources/updated` with the id of the client's own subscription.
fn readdressed(message: &Bytes, id: &[u8]) -> Option<Bytes> {
    let read = wire::read(message)?;
    if !read.method?.is(message, "notifications/resources/updated") {
        return None;
    }
    let inside = |outer: Span, name: &str| {
        let place = wire::member(outer.of(message), name)?;
        Some(Span { start: outer.start + place.start, end: outer.start + place.end })
    };
    let place = inside(inside(read.params?, "_meta")?, SUBSCRIPTION)?;
    Some(splice(BytesMut::from(&message[..]), place, id))
}
