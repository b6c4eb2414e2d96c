//! What is handled inside the process: asking a server that Pingora cannot stream to, and the streams of
//! announcements. A room speaks in messages; `proxy/` writes them to the client.

pub mod call;
pub mod notifications;
mod resource_updates;

use bytes::Bytes;
use mcp::Rejection;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// One message of a room to the client.
#[derive(Debug)]
pub enum StreamItem {
    /// More will follow.
    Message(Bytes),
    /// The answer, the last message.
    Final(Bytes),
    /// Instead of an answer.
    Rejected(Box<Rejection>),
    /// The last word where there is no answer: the message was taken.
    Accepted,
}

/// A running room. The channel closes after the last word, or without one where there is no answer (a GET
/// stream).
pub struct MessageStream {
    pub items: mpsc::Receiver<StreamItem>,
    /// Speaks in events from the first byte; otherwise one answer may come as plain JSON.
    pub stream: bool,
    /// Ends the room when the client leaves.
    pub abort_on_drop: Option<AbortOnDrop>,
    /// The last message where the stream is ended from outside.
    pub final_message: Option<Bytes>,
}

/// Ends a task when dropped.
pub struct AbortOnDrop(pub AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
