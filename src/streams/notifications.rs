//! The streams of announcements: the GET stream of a legacy session, and `subscriptions/listen` of 2026-07-28.
//!
//! That a list changed is told from the catalog, after the new list stands, so that a client that looks at once
//! sees it; the servers' own words about it are not passed on. What servers say to one session (log messages,
//! updated resources, requests) is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use filters::Caller;
use futures::future::join_all;
use mcp::Era;
use mcp::json::quote::quote;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::resource_updates;
use super::resource_updates::Followed;
use super::{Leash, Talk, Word};
use crate::catalog::{Endpoint, Kind};
use crate::registry::{Lookout, News, Registry};
use crate::server::Server;
use crate::session::{Pass, Session, TooMany};
use mcp::jsonrpc::message;
use mcp::jsonrpc::message::{SUBSCRIPTION, strings};

/// Most resources that one stream follows.
const MOST: usize = 1024;

/// A GET stream of a legacy session; of what servers say to it goes on what `pass` gives. A session may have several:
/// each message goes to one of them. Of changed lists it hears what `caller` sees, who opened the newest of them.
/// `patience` is how long it may take the client to read one.
pub fn legacy(
    core: &Handle,
    session: Arc<Session>,
    pass: Pass,
    caller: Caller,
    lookout: Lookout,
    patience: Duration,
    drain: CancellationToken,
) -> Result<Talk, TooMany> {
    // No longer than it must be: what stands in it is lost with the client.
    let (words, receiver) = mpsc::channel(1);
    let stream = session.attach(patience)?;
    if session.told.swap(Some(Arc::new(caller.clone()))).is_none() {
        core.spawn(tell(session.clone(), caller, lookout));
    }
    let ended = session.end();
    let task = core.spawn(async move {
        let speak = async {
            while let Ok(place) = words.reserve().await {
                let said = loop {
                    let Some(item) = stream.next().await else { return };
                    match &item.server {
                        Some(server) => match pass(server.clone(), item.message).await {
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
    Ok(Talk { words: receiver, stream: true, leash: Some(Leash(task.abort_handle())), goodbye: None })
}

/// Tells a session of changed lists, once each and not once a stream, from its first stream to its end.
async fn tell(session: Arc<Session>, first: Caller, mut lookout: Lookout) {
    let ended = session.end();
    let caller = || session.told.load().as_deref().unwrap_or(&first).clone();
    loop {
        let news = tokio::select! {
            () = ended.cancelled() => return,
            news = lookout.next(caller) => news,
        };
        match news {
            Some(News::Changed(kinds)) => {
                for kind in kinds {
                    session.outbox.say(message::notification(announcement(kind), b""));
                }
            }
            Some(News::Gone) => session.outbox.cut(),
            None => return,
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
            message::member(notifications, name).is_some_and(|span| span.of(notifications) == b"true")
        };
        // A federation whose servers have no prompts today may get one that has.
        let has = |name: &str| match (&endpoint.only, &endpoint.toolset) {
            (None, None) => true,
            (None, Some(_)) => name == "tools",
            (Some(_), _) => message::member(&view.capabilities, name).is_some(),
        };
        let mut updates: BTreeMap<u64, (Arc<Server>, Vec<String>)> = BTreeMap::new();
        if let Some(span) = message::member(notifications, "resourceSubscriptions") {
            for uri in strings(span.of(notifications)).filter(|uris| uris.len() <= MOST)? {
                let target = view.resource(&uri);
                if let Some(target) = target.filter(|target| view.following.contains(&target.server.serial))
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

    fn takes(&self, kind: Kind) -> bool {
        match kind {
            Kind::Tools => self.tools,
            Kind::Prompts => self.prompts,
            Kind::Resources | Kind::Templates => self.resources,
        }
    }

    /// What is acknowledged; `followed` are the resources that servers have promised to tell of.
    fn json(&self, followed: &[String]) -> String {
        let mut parts: Vec<String> = [
            (self.tools, "toolsListChanged"),
            (self.prompts, "promptsListChanged"),
            (self.resources, "resourcesListChanged"),
        ]
        .into_iter()
        .filter(|(on, _)| *on)
        .map(|(_, name)| format!(r#""{name}":true"#))
        .collect();
        if !followed.is_empty() {
            let uris: Vec<String> = followed.iter().map(|uri| quote(uri)).collect();
            parts.push(format!(r#""resourceSubscriptions":[{}]"#, uris.join(",")));
        }
        format!("{{{}}}", parts.join(","))
    }
}

/// A `subscriptions/listen` of a client.
pub struct Listening {
    /// Its id, as written.
    pub id: Bytes,
    pub filter: Filter,
    pub caller: Caller,
    pub lookout: Lookout,
    /// How the endpoint names itself in results.
    pub server_info: Bytes,
}

/// `subscriptions/listen` (2026-07-28, basic/patterns/subscriptions): the acknowledgement first, then what was
/// asked for, each with the id of the client's own request; a result at the end.
pub fn modern(
    core: &Handle,
    registry: Arc<Registry>,
    listening: Listening,
    drain: CancellationToken,
) -> Talk {
    let Listening { id, mut filter, caller, mut lookout, server_info } = listening;
    let (words, receiver) = mpsc::channel(32);
    let runtime = core.clone();
    let subscription = format!(r#""{SUBSCRIPTION}":{}"#, String::from_utf8_lossy(&id));
    let info = String::from_utf8_lossy(&server_info);
    let last = format!(
        r#"{{"resultType":"complete","_meta":{{{subscription},"io.modelcontextprotocol/serverInfo":{info}}}}}"#
    );
    let last = message::result(&id, last.as_bytes());
    let goodbye = Some(last.clone());
    let task = core.spawn(async move {
        let (out, mut said) = mpsc::channel::<Followed>(32);
        // Only what the servers have promised is promised to the client.
        let opening = std::mem::take(&mut filter.updates).into_iter().map(|(server, uris)| {
            resource_updates::begin(&runtime, registry.clone(), server, uris, id.clone(), out.clone())
        });
        let (mut followed, mut leashes) = (Vec::new(), Vec::new());
        for (leash, uris) in join_all(opening).await.into_iter().flatten() {
            followed.extend(uris);
            leashes.push(leash);
        }
        let ack = format!(r#"{{"_meta":{{{subscription}}},"notifications":{}}}"#, filter.json(&followed));
        let ack = message::notification(message::ACKNOWLEDGED, ack.as_bytes());
        if words.send(Word::Note(ack)).await.is_err() {
            return;
        }
        let params = format!(r#"{{"_meta":{{{subscription}}}}}"#);
        loop {
            let notes = tokio::select! {
                () = drain.cancelled() => break,
                update = said.recv(), if !followed.is_empty() => match update {
                    Some(Followed::Says(update)) => vec![update],
                    // What was promised cannot be kept: the client asks anew, and hears what can be.
                    Some(Followed::Lost) | None => break,
                },
                news = lookout.next(|| caller.clone()) => match news {
                    Some(News::Changed(kinds)) => {
                        let wanted = kinds.into_iter().filter(|kind| filter.takes(*kind));
                        wanted.map(|kind| message::notification(announcement(kind), params.as_bytes())).collect()
                    }
                    Some(News::Gone) | None => break,
                },
            };
            for note in notes {
                if words.send(Word::Note(note)).await.is_err() {
                    return;
                }
            }
        }
        let _ = words.send(Word::Last(last)).await;
    });
    Talk { words: receiver, stream: true, leash: Some(Leash(task.abort_handle())), goodbye }
}
