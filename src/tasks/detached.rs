//! A call that the gateway turns into a task when it takes long. Until then, and if it ends before, it is a
//! call as any other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mcp::jsonrpc::message;
use mcp::{Reason, Rejection, tasks};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Tasks;
use super::handle::{TaskHandle, TaskKeeper, TaskOwner};
use super::kept::KeptTask;
use crate::server::Server;
use crate::streams::{MessageStream, StreamItem};
use crate::upstream::UpstreamError;

/// How soon a call becomes a task that could not become one for want of Redis.
const AGAIN: Duration = Duration::from_secs(1);

/// A call that may become a task of the gateway.
pub(super) struct LongCall {
    pub server: Arc<Server>,
    pub owner: TaskOwner,
    pub tool: Arc<str>,
    /// The whole message.
    pub call: Bytes,
    pub after: Duration,
}

/// Relays the messages of a call. To drop the stream before the call has become a task cancels it.
pub(super) fn start(all: &Arc<Tasks>, call: LongCall, messages: MessageStream) -> MessageStream {
    let (out, items) = mpsc::channel(32);
    let all = all.clone();
    let runtime = all.runtime.clone();
    runtime.spawn(async move { relay(&all, call, messages, out).await });
    MessageStream { items, stream: false, abort_on_drop: None, final_message: None }
}

async fn relay(all: &Arc<Tasks>, call: LongCall, mut messages: MessageStream, out: mpsc::Sender<StreamItem>) {
    let after = tokio::time::sleep(call.after);
    tokio::pin!(after);
    let mut is_late = false;
    loop {
        let item = tokio::select! {
            biased;
            item = messages.items.recv() => item,
            () = out.closed() => return,
            () = &mut after, if !is_late => {
                is_late = true;
                let Some((key, task, resumed)) = all.kept.begin(call.owner, call.call.clone()) else {
                    tracing::warn!(server = %call.server.name, "too many tasks are kept: the call stays a call");
                    continue;
                };
                if all.share(&key, &task).await.is_err() {
                    // It becomes a task once Redis is back.
                    all.kept.remove(&key);
                    is_late = false;
                    after.as_mut().reset(Instant::now() + AGAIN);
                    continue;
                }
                let handle = TaskHandle {
                    keeper: TaskKeeper::Gateway,
                    server: call.server.name.to_string(),
                    tool: call.tool.to_string(),
                    id: key,
                };
                let handle = handle.seal(&all.keyring.load(), &call.owner);
                let created = task.view().text(&handle, Some("task"));
                let id = message::member(&call.call, "id").map(|id| id.of(&call.call)).unwrap_or(b"null");
                let created = StreamItem::Final(message::result(id, &created));
                // The task exists before the client knows it. A client that has left meanwhile does not end it.
                let _ = out.send(created).await;
                drop(out);
                return run(&call.server, &task, Some(messages), resumed).await;
            }
        };
        let Some(item) = item else { return };
        let item = match item {
            StreamItem::Final(message) if is_undeclared(&message) => {
                StreamItem::Rejected(undeclared(&call.server))
            }
            item => item,
        };
        if out.send(item).await.is_err() {
            return;
        }
    }
}

/// The call as a task, to its end. Without messages it waits for those of the call with answers.
pub(super) async fn run(
    server: &Server,
    task: &KeptTask,
    messages: Option<MessageStream>,
    mut resumed: mpsc::Receiver<MessageStream>,
) {
    let Some(mut messages) = with_answers(task, messages, &mut resumed).await else { return };
    loop {
        let item = tokio::select! {
            biased;
            () = task.cancelled.cancelled() => return,
            item = messages.items.recv() => item,
        };
        let message = match item {
            // Nobody reads progress and logs any more (SEP-2663).
            Some(StreamItem::Message(_) | StreamItem::Endpoint(_)) => continue,
            Some(StreamItem::Final(message)) => message,
            Some(StreamItem::Rejected(rejection)) => return task.fail(&error_of(&rejection)),
            Some(StreamItem::Accepted) | None => {
                return task.fail(&error_of(&no_answer()));
            }
        };
        let read = message::read(&message).unwrap_or_default();
        let result = match (read.result, read.error) {
            (Some(result), None) => result.of(&message),
            (_, Some(error)) => return task.fail(error.of(&message)),
            (None, None) => return task.fail(&error_of(&undeclared(server))),
        };
        match tasks::result_type(result).as_deref() {
            Some("input_required") if task.ask(result) => {
                let Some(next) = with_answers(task, None, &mut resumed).await else { return };
                messages = next;
            }
            None | Some("complete") => return task.complete(result),
            Some(_) => return task.fail(&error_of(&undeclared(server))),
        }
    }
}

/// The messages that are there, or those of the call with answers.
async fn with_answers(
    task: &KeptTask,
    messages: Option<MessageStream>,
    resumed: &mut mpsc::Receiver<MessageStream>,
) -> Option<MessageStream> {
    if messages.is_some() {
        return messages;
    }
    tokio::select! {
        () = task.cancelled.cancelled() => None,
        next = resumed.recv() => next,
    }
}

/// Whether it is a task of a server that has not declared the extension.
fn is_undeclared(message: &[u8]) -> bool {
    let result = message::read(message).and_then(|read| read.result);
    result.is_some_and(|result| tasks::is_task(result.of(message)))
}

fn undeclared(server: &Server) -> Box<Rejection> {
    let error = UpstreamError::InvalidResponse("its result is of a type that it has not declared".into());
    tracing::warn!(server = %server.name, %error, "a call failed");
    Box::new(error.rejection(&server.name))
}

pub(super) fn no_answer() -> Rejection {
    Rejection::http(500, Reason::NoAnswer, "the call ended without an answer")
}

/// The JSON-RPC error that a client would have got.
pub(super) fn error_of(rejection: &Rejection) -> Vec<u8> {
    let message = message::rejection_response(None, rejection);
    let error = message::member(&message, "error").map(|error| error.of(&message).to_vec());
    error.unwrap_or_else(|| br#"{"code":-32603,"message":"the call failed"}"#.to_vec())
}
