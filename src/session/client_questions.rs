//! Questions of the gateway to a legacy client, for a server that has no requests of its own: asked on the
//! stream of a call, answered once, by the session that was asked.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use mcp::jsonrpc::message;
use mcp::method::Method;
use tokio::sync::oneshot;

use crate::server::Server;

/// Before the number of a question. Ids of servers' requests begin otherwise (`id_map`).
const PREFIX: &str = "tgq:";

/// A client's answer, as JSON text.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientReply {
    Result(Bytes),
    Error(Bytes),
}

/// The open questions of a session, by their numbers.
#[derive(Default)]
pub struct ClientQuestions {
    open: Arc<Mutex<HashMap<u64, OpenQuestion>>>,
    next: AtomicU64,
}

/// A question that was taken out to be answered. Dropped without an answer, it counts as not answered.
pub struct OpenQuestion {
    /// The server that asks.
    pub server: Arc<Server>,
    pub method: Method,
    reply: oneshot::Sender<ClientReply>,
}

impl OpenQuestion {
    /// Hands the client's answer to the call that waits for it.
    pub fn answer(self, reply: ClientReply) {
        // The call may have ended meanwhile.
        let _ = self.reply.send(reply);
    }
}

/// A question that was asked; gone when this is dropped.
pub struct AskedQuestion {
    open: Arc<Mutex<HashMap<u64, OpenQuestion>>>,
    number: u64,
    id: String,
    reply: oneshot::Receiver<ClientReply>,
}

impl AskedQuestion {
    /// The id of the request to the client, as JSON text.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The client's answer; `None` if there will be none.
    pub async fn reply(mut self) -> Option<ClientReply> {
        (&mut self.reply).await.ok()
    }
}

impl Drop for AskedQuestion {
    fn drop(&mut self) {
        lock(&self.open).remove(&self.number);
    }
}

impl ClientQuestions {
    /// Opens a question.
    pub fn ask(&self, server: &Arc<Server>, method: Method) -> AskedQuestion {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, reply) = oneshot::channel();
        lock(&self.open).insert(number, OpenQuestion { server: server.clone(), method, reply: sender });
        AskedQuestion { open: self.open.clone(), number, id: format!(r#""{PREFIX}{number}""#), reply }
    }

    /// The server that asked the question of an id, as the client wrote it, and the method of the question.
    pub fn find(&self, id: &[u8]) -> Option<(Arc<Server>, Method)> {
        let open = lock(&self.open);
        open.get(&number(id)?).map(|question| (question.server.clone(), question.method))
    }

    /// Takes the question of an id, as the client wrote it.
    pub fn take(&self, id: &[u8]) -> Option<OpenQuestion> {
        let number = number(id)?;
        lock(&self.open).remove(&number)
    }
}

/// The number in an id: only in the exact form that was given out, without sign or leading zeros.
fn number(id: &[u8]) -> Option<u64> {
    let text = message::string(id)?;
    let number = text.strip_prefix(PREFIX)?;
    let is_plain = number.starts_with(|c: char| matches!(c, '1'..='9'));
    number.parse().ok().filter(|_| is_plain)
}

fn lock(open: &Mutex<HashMap<u64, OpenQuestion>>) -> MutexGuard<'_, HashMap<u64, OpenQuestion>> {
    open.lock().expect("no holder of the lock panics")
}
