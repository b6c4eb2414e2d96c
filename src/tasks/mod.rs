//! Tasks of the extension `io.modelcontextprotocol/tasks` (SEP-2663): calls of clients that declare it, to
//! servers that have it or for which the gateway offers it ([`kept`]), and the requests about these tasks.
//! Outside, a task has a sealed id ([`handle`]). With Redis, other gateway processes know the gateway's tasks
//! ([`saving`], [`elsewhere`], [`peers`]).
//!
//! Calls of clients that do not declare the extension never come here.

mod detached;
pub mod elsewhere;
pub mod handle;
pub mod kept;
mod peers;
mod saving;
mod state;
mod view;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use filters::rate_limit::Slots;
use http::HeaderValue;
use mcp::jsonrpc::message;
use mcp::{Rejection, tasks};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use crate::bridge::{Bridge, BridgedCall};
use crate::exchange::UpstreamRequest;
use crate::server::Server;
use crate::store::sealing::SharedKeyring;
use crate::streams::{AbortOnDrop, MessageStream, StreamItem, forwarded};
use crate::telemetry::Metrics;
use crate::upstream::UpstreamError;
use detached::LongCall;
use handle::{MAX_ID, TaskHandle, TaskKeeper, TaskOwner};
use kept::{KeptTask, KeptTasks};

/// What the tasks of a process have in common.
pub struct Tasks {
    pub keyring: SharedKeyring,
    pub bridge: Arc<Bridge>,
    pub metrics: Arc<Metrics>,
    pub runtime: Handle,
    /// Those that this process keeps.
    pub kept: KeptTasks,
    peers: peers::Peers,
    /// Turns to write a record.
    writers: Semaphore,
}

/// How often what is past its time is removed.
const SWEEP: Duration = Duration::from_secs(60);

/// A message on its way to a server, whose response may be about a task.
pub struct TaskCall {
    pub sent: SentCall,
    pub server: Arc<Server>,
    pub owner: TaskOwner,
    pub about: TaskMatter,
    /// The caller's slots in limits, held until the server is done.
    pub slots: Option<Arc<Slots>>,
}

/// What a message has to do with tasks.
pub enum TaskMatter {
    /// A call of a tool, by its qualified name. The server may answer with a task.
    Call { tool: Arc<str> },
    /// A call that the gateway makes a task of, if it takes longer; with the whole message.
    LongCall { tool: Arc<str>, call: Bytes, after: Duration },
    /// A call with the answers for a task of the gateway, in a request with this id.
    Answers { task: Arc<KeptTask>, id: Bytes },
    /// A request about a task of the server, by its id there and outside.
    Request { id: String, handle: String },
}

/// How a message is sent.
pub enum SentCall {
    Forward(Box<UpstreamRequest>),
    Stream(MessageStream),
    Bridge(Box<BridgedCall>),
}

/// The result of a request that has nothing to say.
pub const ACCEPTED: &[u8] = br#"{"resultType":"complete"}"#;

impl Tasks {
    pub fn new(
        keyring: SharedKeyring,
        bridge: Arc<Bridge>,
        metrics: Arc<Metrics>,
        runtime: Handle,
    ) -> Arc<Self> {
        let messages = bridge.peer_messages();
        let tasks = Arc::new(Self {
            keyring,
            bridge,
            metrics,
            runtime,
            kept: KeptTasks::default(),
            peers: peers::Peers::default(),
            writers: Semaphore::new(saving::WRITERS),
        });
        tasks.runtime.spawn(peers::serve(Arc::downgrade(&tasks), messages));
        let swept = Arc::downgrade(&tasks);
        tasks.runtime.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(tasks) = swept.upgrade() else { return };
                tasks.kept.sweep();
                tasks.peers.sweep();
            }
        });
        tasks
    }

    /// Sends the message; `bearer` is the `Authorization` for a server that is called in its caller's name. To
    /// drop the stream is to disconnect.
    ///
    /// # Errors
    ///
    /// What the bridge refuses.
    pub fn start(
        self: &Arc<Self>,
        call: TaskCall,
        bearer: Option<HeaderValue>,
    ) -> Result<MessageStream, Box<Rejection>> {
        let TaskCall { sent, server, owner, about, slots } = call;
        let messages = self.send(sent, bearer, slots);
        let about = match about {
            TaskMatter::Answers { task, id } => {
                match messages {
                    Ok(messages) => task.resume(messages),
                    Err(rejection) => task.fail(&detached::error_of(&rejection)),
                }
                return Ok(MessageStream::of(StreamItem::Final(message::result(&id, ACCEPTED))));
            }
            TaskMatter::LongCall { tool, call, after } => {
                return Ok(detached::start(self, LongCall { server, owner, tool, call, after }, messages?));
            }
            about => about,
        };
        let messages = messages?;
        let (out, items) = mpsc::channel(32);
        let tasks = self.clone();
        let relay = self.runtime.spawn(async move {
            // The whole of it is moved here: to drop a part of it is to disconnect.
            let mut messages = messages;
            loop {
                let (item, is_last) = match messages.items.recv().await {
                    Some(message @ StreamItem::Message(_)) => (message, false),
                    Some(StreamItem::Final(message)) => {
                        (tasks.outward(&server, &owner, &about, message), true)
                    }
                    Some(other) => (other, true),
                    None => (StreamItem::Rejected(Box::new(detached::no_answer())), true),
                };
                if out.send(item).await.is_err() || is_last {
                    return;
                }
            }
        });
        let abort_on_drop = Some(AbortOnDrop(relay.abort_handle()));
        Ok(MessageStream { items, stream: false, abort_on_drop, final_message: None })
    }

    fn send(
        &self,
        sent: SentCall,
        bearer: Option<HeaderValue>,
        slots: Option<Arc<Slots>>,
    ) -> Result<MessageStream, Box<Rejection>> {
        match sent {
            SentCall::Forward(request) => {
                Ok(forwarded::start(*request, bearer, &self.runtime, slots, self.metrics.clone()))
            }
            SentCall::Stream(messages) => Ok(messages),
            SentCall::Bridge(call) => self.bridge.start(*call, bearer),
        }
    }

    /// The response of the server with the outward id of its task.
    fn outward(&self, server: &Server, owner: &TaskOwner, about: &TaskMatter, message: Bytes) -> StreamItem {
        let read = message::read(&message).unwrap_or_default();
        let (Some(id), Some(result)) = (read.id, read.result.map(|result| result.of(&message))) else {
            return StreamItem::Final(message);
        };
        let result = match about {
            TaskMatter::Call { .. } if !tasks::is_task(result) => return StreamItem::Final(message),
            TaskMatter::Call { tool } => self.created(server, owner, tool, result),
            TaskMatter::Request { id, handle } => of_task(id, handle, result),
            // Those are not relayed here.
            TaskMatter::LongCall { .. } | TaskMatter::Answers { .. } => return StreamItem::Final(message),
        };
        match result {
            Ok(result) => StreamItem::Final(message::result(id.of(&message), &result)),
            Err(why) => {
                let error = UpstreamError::InvalidResponse(why.into());
                tracing::warn!(server = %server.name, %error, "a task cannot be passed on");
                StreamItem::Rejected(Box::new(error.rejection(&server.name)))
            }
        }
    }

    /// A `CreateTaskResult` of the server.
    fn created(
        &self,
        server: &Server,
        owner: &TaskOwner,
        tool: &str,
        result: &[u8],
    ) -> Result<Vec<u8>, &'static str> {
        let id = tasks::task_id(result).filter(|id| !id.is_empty() && id.len() <= MAX_ID);
        let id = id.ok_or("its task has no taskId, or one that is too long")?;
        let handle = TaskHandle {
            keeper: TaskKeeper::Server,
            server: server.name.to_string(),
            tool: tool.to_owned(),
            id,
        };
        let handle = handle.seal(&self.keyring.load(), owner);
        tasks::with_task_id(result, &handle, None).ok_or("its result is no object")
    }
}

/// The result of a request about a task. Its type is "complete", whatever the task's state.
fn of_task(id: &str, handle: &str, result: &[u8]) -> Result<Vec<u8>, &'static str> {
    if tasks::task_id(result).is_some_and(|of| of != id) {
        return Err("it answers about another task");
    }
    tasks::with_task_id(result, handle, Some("complete")).ok_or("its result is no object")
}
