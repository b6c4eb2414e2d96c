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
use super::resource_updates::ResourceEvent;
use super::{AbortOnDrop, MessageStream, StreamItem};
use crate::catalog::{Endpoint, ListKind};
use crate::registry::{ListChange, ListChangeWatcher, Registry};
use crate::server::Server;
use crate::session::{MessageFilter, Session, TooManyStreams};
use mcp::jsonrpc::message;
use mcp::jsonrpc::message::{SUBSCRIPTION_ID, strings};

/// Most resources that one stream follows.
const MAX_RESOURCES: usize = 1024;

/// A GET stream of a legacy session; of what servers say to it goes on what `pass` gives. A session may have several:
/// each message goes to one of them. Of changed lists it hears what `caller` sees, who opened the newest of them.
/// `patience` is how long it may take the client to read one.
pub fn session_stream(
    runtime: &Handle,
    session: Arc<Session>,
    pass: MessageFilter,
    caller: Caller,
    list_changes: ListChangeWatcher,
    timeout: Duration,
    drain: CancellationToken,
) -> Result<MessageStream, TooManyStreams> {
    // No longer than it must be: what stands in it is lost with the client.
    let (text, receiver) = mpsc::channel(1);
    let stream = session.attach(timeout)?;
    if session.list_change_caller.swap(Some(Arc::new(caller.clone()))).is_none() {
        runtime.spawn(forward_list_changes(session.clone(), caller, list_changes));
    }
    let ended = session.end();
    let task = runtime.spawn(async move {
        let speak = async {
            while let Ok(place) = text.reserve().await {
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
                place.send(StreamItem::Message(said));
            }
        };
        tokio::select! {
            () = drain.cancelled() => {}
            () = ended.cancelled() => {}
            () = speak => {}
        }
    });
    Ok(MessageStream {
        items: receiver,
        stream: true,
        abort_on_drop: Some(AbortOnDrop(task.abort_handle())),
        final_message: None,
    })
}

/// Tells a session of changed lists, once each and not once a stream, from its first stream to its end.
async fn forward_list_changes(session: Arc<Session>, first: Caller, mut list_changes: ListChangeWatcher) {
    let ended = session.end();
    let caller = || session.list_change_caller.load().as_deref().unwrap_or(&first).clone();
    loop {
        let news = tokio::select! {
            () = ended.cancelled() => return,
            news = list_changes.next(caller) => news,
        };
        match news {
            Some(ListChange::Changed(kinds)) => {
                for kind in kinds {
                    session.outbox.send_own(message::notification(list_change_notification(kind), b""));
                }
            }
            Some(ListChange::Gone) => session.outbox.close_streams(),
            None => return,
        }
    }
}

fn list_change_notification(kind: ListKind) -> &'static str {
    match kind {
        ListKind::Tools => "notifications/tools/list_changed",
        ListKind::Prompts => "notifications/prompts/list_changed",
        ListKind::Resources | ListKind::Templates => "notifications/resources/list_changed",
    }
}

/// What a client asked to be told of, as far as it can be.
pub struct SubscriptionFilter {
    tools: bool,
    prompts: bool,
    resources: bool,
    /// URIs by the server that reads them.
    updates: Vec<(Arc<Server>, Vec<String>)>,
}

impl SubscriptionFilter {
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
        let has = |name: &str| match (&endpoint.single, &endpoint.toolset) {
            (None, None) => true,
            (None, Some(_)) => name == "tools",
            (Some(_), _) => message::member(&view.capabilities, name).is_some(),
        };
        let mut updates: BTreeMap<u64, (Arc<Server>, Vec<String>)> = BTreeMap::new();
        if let Some(span) = message::member(notifications, "resourceSubscriptions") {
            for uri in strings(span.of(notifications)).filter(|uris| uris.len() <= MAX_RESOURCES)? {
                let target = view.resource(&uri);
                if let Some(target) =
                    target.filter(|target| view.resource_servers.contains(&target.server.serial))
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

    fn includes(&self, kind: ListKind) -> bool {
        match kind {
            ListKind::Tools => self.tools,
            ListKind::Prompts => self.prompts,
            ListKind::Resources | ListKind::Templates => self.resources,
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
pub struct Subscription {
    /// Its id, as written.
    pub id: Bytes,
    pub filter: SubscriptionFilter,
    pub caller: Caller,
    pub list_changes: ListChangeWatcher,
    /// How the endpoint names itself in results.
    pub server_info: Bytes,
}

/// `subscriptions/listen` (2026-07-28, basic/patterns/subscriptions): the acknowledgement first, then what was
/// asked for, each with the id of the client's own request; a result at the end.
pub fn subscription_stream(
    core: &Handle,
    registry: Arc<Registry>,
    listening: Subscription,
    drain: CancellationToken,
) -> MessageStream {
    let Subscription { id, mut filter, caller, mut list_changes, server_info } = listening;
    let (message, receiver) = mpsc::channel(32);
    let runtime = core.clone();
    let subscription = format!(r#""{SUBSCRIPTION_ID}":{}"#, String::from_utf8_lossy(&id));
    let info = String::from_utf8_lossy(&server_info);
    let last = format!(
        r#"{{"resultType":"complete","_meta":{{{subscription},"io.modelcontextprotocol/serverInfo":{info}}}}}"#
    );
    let last = message::result(&id, last.as_bytes());
    let goodbye = Some(last.clone());
    let task = core.spawn(async move {
        let (out, mut said) = mpsc::channel::<ResourceEvent>(32);
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
        if message.send(StreamItem::Message(ack)).await.is_err() {
            return;
        }
        let params = format!(r#"{{"_meta":{{{subscription}}}}}"#);
        loop {
            let notes = tokio::select! {
                () = drain.cancelled() => break,
                update = said.recv(), if !followed.is_empty() => match update {
                    Some(ResourceEvent::Message(update)) => vec![update],
                    // What was promised cannot be kept: the client asks anew, and hears what can be.
                    Some(ResourceEvent::Lost) | None => break,
                },
                news = list_changes.next(|| caller.clone()) => match news {
                    Some(ListChange::Changed(kinds)) => {
                        let wanted = kinds.into_iter().filter(|kind| filter.includes(*kind));
                        wanted.map(|kind| message::notification(list_change_notification(kind), params.as_bytes())).collect()
                    }
                    Some(ListChange::Gone) | None => break,
                },
            };
            for note in notes {
                if message.send(StreamItem::Message(note)).await.is_err() {
                    return;
                }
            }
        }
        let _ = message.send(StreamItem::Final(last)).await;
    });
    MessageStream {
        items: receiver,
        stream: true,
        abort_on_drop: Some(AbortOnDrop(task.abort_handle())),
        final_message: goodbye,
    }
}
