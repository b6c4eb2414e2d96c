//! What is handled inside the process: asking a server that Pingora cannot stream to, and the streams of
//! announcements. A room speaks in messages; `proxy/` writes them to the client.

pub mod call;
pub mod notifications;
mod resource_updates;

use bytes::Bytes;
use mcp::Refusal;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// One message of a room to the client.
#[derive(Debug)]
pub enum Word {
    /// More will follow.
    Note(Bytes),
    /// The answer, the last message.
    Last(Bytes),
    /// Instead of an answer.
    Refused(Box<Refusal>),
    /// The last word where there is no answer: the message was taken.
    Taken,
}

/// A running room. The channel closes after the last word, or without one where there is no answer (a GET
/// stream).
pub struct Talk {
    pub words: mpsc::Receiver<Word>,
    /// Speaks in events from the first byte; otherwise one answer may come as plain JSON.
    pub stream: bool,
    /// Ends the room when the client leaves.
    pub leash: Option<Leash>,
    /// The last message where the stream is ended from outside.
    pub goodbye: Option<Bytes>,
}

/// Ends a task when dropped.
pub struct Leash(pub AbortHandle);

impl Drop for Leash {
    fn drop(&mut self) {
        self.0.abort();
    }
}
