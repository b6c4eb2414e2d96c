//! Changes of tasks at one server, for one stream of one client (SEP-2663, `notifications/tasks`): with the
//! outward ids and under the id of the client's own request. What ends at the server ends at the client, who
//! asks again or polls.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use mcp::era_codec::META_SERVER;
use mcp::json::object::Object;
use mcp::json::quote::quote;
use mcp::jsonrpc::message;
use mcp::jsonrpc::message::{SUBSCRIPTION_ID, strings};
use mcp::jsonrpc::request::META_CAPABILITIES;
use mcp::method::Method;
use mcp::{Era, tasks};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use super::AbortOnDrop;
use super::resource_updates::{ACKNOWLEDGE_TIMEOUT, ResourceEvent};
use crate::registry::Registry;
use crate::server::Server;
use crate::upstream::server_messages::{ServerMessageFilter, redacted};
use crate::upstream::{ResponseRedactor, gateway_meta};

/// A task that a client follows.
#[derive(Clone)]
pub struct FollowedTask {
    pub server: Arc<Server>,
    /// The id at the server.
    pub id: String,
    /// The outward id.
    pub handle: String,
    /// Set if the gateway keeps it: the task under its outward id, as it is now and after each change.
    pub kept: Option<watch::Receiver<Bytes>>,
}

/// Follows a task that the gateway keeps: what it is now, and each change.
pub fn follow(
    runtime: &Handle,
    mut kept: watch::Receiver<Bytes>,
    id: Bytes,
    out: mpsc::Sender<ResourceEvent>,
) -> AbortOnDrop {
    let follow = runtime.spawn(async move {
        kept.mark_changed();
        while kept.changed().await.is_ok() {
            let task = kept.borrow_and_update().clone();
            let Some(note) = noted(&task, &id) else { return };
            if out.send(ResourceEvent::Message(note)).await.is_err() {
                return;
            }
        }
    });
    AbortOnDrop(follow.abort_handle())
}

/// The notification about a task, for the client's request with this id.
fn noted(task: &[u8], id: &[u8]) -> Option<Bytes> {
    let object = Object::read(task)?;
    let mut meta = Object::read(object.get("_meta").unwrap_or(b"{}")).or_else(|| Object::read(b"{}"))?;
    meta.remove(|name| name == META_SERVER);
    let params = object.with(&[("_meta", &meta.with(&[(SUBSCRIPTION_ID, id)]))]);
    Some(message::notification(Method::TaskChanged.as_str(), &params))
}

/// Follows tasks of one server; returns the outward ids that the server has acknowledged. `None` if it
/// acknowledges none in time. A server that is called in its callers' names would need a subscription for each
/// of them: its tasks are polled.
pub async fn begin(
    runtime: &Handle,
    registry: Arc<Registry>,
    followed: Vec<FollowedTask>,
    id: Bytes,
    out: mpsc::Sender<ResourceEvent>,
) -> Option<(AbortOnDrop, Vec<String>)> {
    let server = followed.first()?.server.clone();
    if server.is_personal() || server.upstream.resource_updates().is_none() {
        return None;
    }
    let (promised, promise) = oneshot::channel();
    let handles = followed.into_iter().map(|task| (task.id, task.handle)).collect();
    let subscriber = TaskSubscriber { registry, server, handles, id, out, promised: Some(promised) };
    let abort_guard = AbortOnDrop(runtime.spawn(subscriber.run()).abort_handle());
    let handles = tokio::time::timeout(ACKNOWLEDGE_TIMEOUT, promise).await.ok()?.ok()?;
    (!handles.is_empty()).then_some((abort_guard, handles))
}

struct TaskSubscriber {
    registry: Arc<Registry>,
    server: Arc<Server>,
    /// The outward ids by those of the server.
    handles: BTreeMap<String, String>,
    /// The client's own id, as written.
    id: Bytes,
    out: mpsc::Sender<ResourceEvent>,
    promised: Option<oneshot::Sender<Vec<String>>>,
}

impl TaskSubscriber {
    async fn run(mut self) {
        let server = self.server.clone();
        let Some(updates) = server.upstream.resource_updates() else { return };
        let (sender, mut messages) = mpsc::channel::<Bytes>(32);
        let listen = updates.subscribe_resources(self.params(), sender);
        let reading = async {
            while let Some(message) = messages.recv().await {
                self.on_message(&message).await?;
            }
            Some(())
        };
        tokio::select! {
            ended = async { tokio::join!(listen, reading).0 } => {
                if let Err(error) = ended {
                    tracing::debug!(server = %server.name, %error, "a subscription to tasks ended");
                }
            }
            () = server.retired.cancelled() => {}
        }
        let _ = self.out.send(ResourceEvent::Lost).await;
    }

    fn params(&self) -> Bytes {
        let ids: Vec<String> = self.handles.keys().map(|id| quote(id)).collect();
        let meta = gateway_meta();
        let capabilities = tasks::declare(b"{}", true).unwrap_or_default();
        let meta = Object::read(meta.as_bytes())
            .map(|meta| meta.with(&[(META_CAPABILITIES, &capabilities)]))
            .unwrap_or_default();
        let ids = format!(r#"{{"notifications":{{"taskIds":[{}]}},"_meta":"#, ids.join(","));
        [ids.as_bytes(), &meta, b"}"].concat().into()
    }

    /// Handles one message of the server; `None` where there is nothing to follow any more.
    async fn on_message(&mut self, message: &Bytes) -> Option<()> {
        let version = Era::Modern.codec().newest_version();
        let filter = ServerMessageFilter { server: &self.server.name, version };
        let Some(read) = filter.read(message) else { return Some(()) };
        let params = read.params.map(|params| params.of(message)).unwrap_or_default();
        match filter.for_gateway(message, &read) {
            Some(Method::Acknowledged) => {
                let Some(promised) = self.promised.take() else { return Some(()) };
                let accepted = acknowledged(params).unwrap_or_default();
                self.handles.retain(|id, _| accepted.contains(id));
                let handles: Vec<String> = self.handles.values().cloned().collect();
                let is_empty = handles.is_empty();
                promised.send(handles).ok().filter(|()| !is_empty)
            }
            Some(Method::TaskChanged) if self.promised.is_none() => {
                let Some(note) = self.outward(params) else { return Some(()) };
                let Some(note) = redacted(self.redactor().as_ref(), note) else { return Some(()) };
                self.out.send(ResourceEvent::Message(note)).await.ok()
            }
            _ => Some(()),
        }
    }

    /// The notification for the client; `None` if it is about no task of the subscription.
    fn outward(&self, params: &[u8]) -> Option<Bytes> {
        let handle = self.handles.get(&tasks::task_id(params)?)?;
        noted(&tasks::with_task_id(params, handle, None)?, &self.id)
    }

    fn redactor(&self) -> Option<ResponseRedactor> {
        let snapshot = self.registry.snapshot();
        let redactor = snapshot.config.redactor.as_ref();
        ResponseRedactor::of(&self.server.name, &self.server.config, redactor, &self.registry.metrics)
    }
}

/// The ids that an acknowledgement names.
fn acknowledged(params: &[u8]) -> Option<Vec<String>> {
    let notifications = message::member(params, "notifications")?.of(params);
    strings(message::member(notifications, "taskIds")?.of(notifications))
}
