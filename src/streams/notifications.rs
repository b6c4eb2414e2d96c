//! The notification streams: the GET stream of a legacy session, and `subscriptions/listen` of 2026-07-28.
//!
//! List changes are announced from the catalog, after the new list is published, so that a client that reads
//! at once sees it. The servers' own list notifications are not passed on. Their messages to one session are
//! (log messages, updated resources, requests).

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
use super::resource_updates::{
    LegacySubscription, Receiver, ResourceEvent, SubscribeLegacy, acknowledged_in_time,
};
use super::task_updates;
use super::{AbortOnDrop, MessageStream, StreamItem};
use crate::catalog::{Endpoint, ListKind};
use crate::registry::{ListChange, ListChangeWatcher, Registry};
use crate::server::Server;
use crate::session::{MessageFilter, OutboxStream, Session, TooManyStreams};
use mcp::jsonrpc::message;
use mcp::jsonrpc::message::{SUBSCRIPTION_ID, strings};

pub use super::task_updates::FollowedTask;

/// Most resources that one stream subscribes to.
const MAX_RESOURCES: usize = 1024;

/// A GET stream of a legacy session; `pass` filters the messages of servers. A session may have several
/// streams: each message goes to one of them. List changes are reported as `caller` sees them, who opened the
/// newest stream. `timeout` is how long the client may take to read a message.
pub fn session_stream(
    runtime: &Handle,
    session: Arc<Session>,
    pass: MessageFilter,
    caller: Caller,
    list_changes: ListChangeWatcher,
    timeout: Duration,
    drain: CancellationToken,
) -> Result<MessageStream, TooManyStreams> {
    // As short as possible: what is in the channel is lost when the client disconnects.
    let (text, receiver) = mpsc::channel(1);
    let stream = session.attach(timeout)?;
    announce_list_changes(runtime, &session, caller, list_changes);
    let ended = session.end();
    let task = runtime.spawn(async move {
        tokio::select! {
            () = drain.cancelled() => {}
            () = ended.cancelled() => {}
            () = forward(&stream, &pass, &text) => {}
        }
    });
    Ok(MessageStream {
        items: receiver,
        stream: true,
        abort_on_drop: Some(AbortOnDrop(task.abort_handle())),
        final_message: None,
    })
}

/// Writes what waits for a session to one of its streams, until the stream was closed or its client has left.
pub(super) async fn forward(stream: &OutboxStream, pass: &MessageFilter, text: &mpsc::Sender<StreamItem>) {
    while let Ok(place) = text.reserve().await {
        let outgoing = loop {
            let Some(item) = stream.next().await else { return };
            match &item.server {
                Some(server) => match pass(server.clone(), item.message).await {
                    Some(message) => break message,
                    None => continue,
                },
                None => break item.message,
            }
        };
        place.send(StreamItem::Message(outgoing));
    }
}

/// Notifies a session of list changes from now on, as this caller sees them.
pub fn announce_list_changes(
    runtime: &Handle,
    session: &Arc<Session>,
    caller: Caller,
    list_changes: ListChangeWatcher,
) {
    if session.list_change_caller.swap(Some(Arc::new(caller.clone()))).is_none() {
        runtime.spawn(forward_list_changes(session.clone(), caller, list_changes));
    }
}

/// Notifies a session of list changes, once each and not once per stream, from its first stream to its end.
async fn forward_list_changes(session: Arc<Session>, first: Caller, mut list_changes: ListChangeWatcher) {
    let ended = session.end();
    let caller = || session.list_change_caller.load().as_deref().unwrap_or(&first).clone();
    loop {
        let change = tokio::select! {
            () = ended.cancelled() => return,
            change = list_changes.next(caller) => change,
        };
        match change {
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

/// What a client subscribed to, as far as it can be served.
pub struct SubscriptionFilter {
    tools: bool,
    prompts: bool,
    resources: bool,
    /// URIs by the server that reads them, and the era in which it is asked.
    updates: Vec<(Arc<Server>, Era, Vec<String>)>,
}

impl SubscriptionFilter {
    /// Reads `params.notifications`; notifications that the endpoint cannot send are left out.
    /// `can_subscribe` decides which resources the client may subscribe to.
    pub fn read(
        notifications: &[u8],
        endpoint: &Endpoint,
        can_subscribe: impl Fn(&str, &Server) -> bool,
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
        let mut updates: BTreeMap<u64, (Arc<Server>, Era, Vec<String>)> = BTreeMap::new();
        if let Some(span) = message::member(notifications, "resourceSubscriptions") {
            for uri in strings(span.of(notifications)).filter(|uris| uris.len() <= MAX_RESOURCES)? {
                let target = view.resource(&uri);
                if let Some(target) =
                    target.filter(|target| view.resource_servers.contains(&target.server.serial))
                    && can_subscribe(&uri, &target.server)
                {
                    let entry = updates.entry(target.server.serial);
                    let new = || (target.server.clone(), target.server_era, Vec::new());
                    entry.or_insert_with(new).2.push(uri);
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

    /// Whether a resource of it is at a server of the legacy era.
    pub fn has_legacy(&self) -> bool {
        self.updates.iter().any(|(_, server_era, _)| *server_era == Era::Legacy)
    }

    fn includes(&self, kind: ListKind) -> bool {
        match kind {
            ListKind::Tools => self.tools,
            ListKind::Prompts => self.prompts,
            ListKind::Resources | ListKind::Templates => self.resources,
        }
    }

    /// The acknowledged filter; `followed` and `tasks` are what servers have acknowledged.
    fn json(&self, followed: &[String], tasks: &[String]) -> String {
        let mut parts: Vec<String> = [
            (self.tools, "toolsListChanged"),
            (self.prompts, "promptsListChanged"),
            (self.resources, "resourcesListChanged"),
        ]
        .into_iter()
        .filter(|(on, _)| *on)
        .map(|(_, name)| format!(r#""{name}":true"#))
        .collect();
        for (name, all) in [("resourceSubscriptions", followed), ("taskIds", tasks)] {
            if !all.is_empty() {
                let all: Vec<String> = all.iter().map(|one| quote(one)).collect();
                parts.push(format!(r#""{name}":[{}]"#, all.join(",")));
            }
        }
        format!("{{{}}}", parts.join(","))
    }
}

/// A `subscriptions/listen` of a client.
pub struct Subscription {
    /// Its id, as written.
    pub id: Bytes,
    pub filter: SubscriptionFilter,
    pub tasks: Vec<FollowedTask>,
    pub caller: Caller,
    pub list_changes: ListChangeWatcher,
    /// The server info of the endpoint in results.
    pub server_info: Bytes,
    /// Subscribes at servers of the legacy era; set if there are resources of one.
    pub legacy: Option<SubscribeLegacy>,
}

/// `subscriptions/listen` (2026-07-28, basic/patterns/subscriptions): the acknowledgement first, then the
/// requested notifications, each with the id of the client's own request; a result at the end.
pub fn subscription_stream(
    runtime: &Handle,
    registry: Arc<Registry>,
    subscription_request: Subscription,
    drain: CancellationToken,
) -> MessageStream {
    let Subscription { id, mut filter, tasks, caller, mut list_changes, server_info, legacy } =
        subscription_request;
    let (message, receiver) = mpsc::channel(32);
    let handle = runtime.clone();
    let subscription = format!(r#""{SUBSCRIPTION_ID}":{}"#, String::from_utf8_lossy(&id));
    let last = Era::Modern.codec().subscription_result(&String::from_utf8_lossy(&id), &server_info);
    let last = message::result(&id, &last);
    let final_message = Some(last.clone());
    let task = runtime.spawn(async move {
        let (out, mut events) = mpsc::channel::<ResourceEvent>(32);
        // Only what the servers have acknowledged is acknowledged to the client.
        let opening = std::mem::take(&mut filter.updates).into_iter().map(|(server, server_era, uris)| {
            let (handle, registry, id, out) = (&handle, registry.clone(), id.clone(), out.clone());
            let legacy = legacy.as_ref();
            async move {
                match server_era {
                    Era::Modern => {
                        let receiver = Receiver::Subscription(id);
                        let begun =
                            resource_updates::begin(handle, registry, server, uris, receiver, out).await;
                        begun.map(|(abort_guard, uris)| (Some(abort_guard), uris))
                    }
                    Era::Legacy => {
                        let promise = legacy?(LegacySubscription { server, uris, id, out });
                        acknowledged_in_time(promise).await.map(|uris| (None, uris))
                    }
                }
            }
        });
        let (mut followed, mut abort_guards) = (Vec::new(), Vec::new());
        for (abort_guard, uris) in join_all(opening).await.into_iter().flatten() {
            followed.extend(uris);
            abort_guards.push(abort_guard);
        }
        let mut followed_tasks = Vec::new();
        let (kept, tasks): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|task| task.kept.is_some());
        let mut kept_changes = Vec::new();
        for FollowedTask { handle, kept, .. } in kept {
            followed_tasks.push(handle);
            kept_changes.extend(kept);
        }
        let tasks = by_server(tasks).into_iter().map(|tasks| {
            task_updates::begin(&handle, registry.clone(), tasks, id.clone(), out.clone())
        });
        for (abort_guard, handles) in join_all(tasks).await.into_iter().flatten() {
            followed_tasks.extend(handles);
            abort_guards.push(Some(abort_guard));
        }
        let ack = format!(r#"{{"_meta":{{{subscription}}},"notifications":{}}}"#, filter.json(&followed, &followed_tasks));
        let ack = message::notification(message::ACKNOWLEDGED, ack.as_bytes());
        if message.send(StreamItem::Message(ack)).await.is_err() {
            return;
        }
        // Nothing comes before the acknowledgement.
        for kept in kept_changes {
            abort_guards.push(Some(task_updates::follow(&handle, kept, id.clone(), out.clone())));
        }
        let params = format!(r#"{{"_meta":{{{subscription}}}}}"#);
        loop {
            let notes = tokio::select! {
                () = drain.cancelled() => break,
                update = events.recv(), if !followed.is_empty() || !followed_tasks.is_empty() => match update {
                    Some(ResourceEvent::Message(update)) => vec![update],
                    // The acknowledged subscription is lost: the client subscribes again, and gets what is
                    // available.
                    Some(ResourceEvent::Lost) | None => break,
                },
                change = list_changes.next(|| caller.clone()) => match change {
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
        final_message,
    }
}

/// The tasks of each server together.
fn by_server(tasks: Vec<FollowedTask>) -> Vec<Vec<FollowedTask>> {
    let mut all: BTreeMap<u64, Vec<FollowedTask>> = BTreeMap::new();
    for task in tasks {
        all.entry(task.server.serial).or_default().push(task);
    }
    all.into_values().collect()
}
