//! Streams that are produced in the process: calls of servers that Pingora cannot stream to, and the
//! notification streams. They consist of messages; `proxy/` writes them to the client.

pub mod call;
pub mod forwarded;
pub mod notifications;
pub mod resource_updates;
pub mod sse_client;
mod task_updates;

use bytes::Bytes;
use mcp::{Reason, Rejection};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// One message of a stream to the client.
#[derive(Debug)]
pub enum StreamItem {
    /// More will follow.
    Message(Bytes),
    /// The response, the last message.
    Final(Bytes),
    /// Instead of a response.
    Rejected(Box<Rejection>),
    /// The last item where there is no response: the message was accepted.
    Accepted,
    /// The first item over HTTP+SSE: the URI to which the client POSTs its messages.
    Endpoint(String),
}

/// A running stream. The channel closes after the last item, or without one where there is no response (a GET
/// stream).
pub struct MessageStream {
    pub items: mpsc::Receiver<StreamItem>,
    /// Always an event stream; otherwise a single response may come as plain JSON.
    pub stream: bool,
    /// Aborts the task when the client disconnects.
    pub abort_on_drop: Option<AbortOnDrop>,
    /// The last message where the stream is ended from outside.
    pub final_message: Option<Bytes>,
}

impl MessageStream {
    /// A stream of this last item.
    pub fn of(last: StreamItem) -> Self {
        let (out, items) = mpsc::channel(1);
        out.try_send(last).expect("there is room for one");
        Self { items, stream: false, abort_on_drop: None, final_message: None }
    }

    /// Reads to the end, and returns only the response; empty if there is none.
    pub async fn answer(mut self) -> Result<Bytes, Box<Rejection>> {
        loop {
            match self.items.recv().await {
                Some(StreamItem::Message(_) | StreamItem::Endpoint(_)) => {}
                Some(StreamItem::Final(message)) => return Ok(message),
                Some(StreamItem::Rejected(rejection)) => return Err(rejection),
                Some(StreamItem::Accepted) => return Ok(Bytes::new()),
                None => {
                    let message = "the call ended without an answer";
                    return Err(Box::new(Rejection::http(500, Reason::NoAnswer, message)));
                }
            }
        }
    }
}

/// Aborts a task when dropped.
pub struct AbortOnDrop(pub AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
