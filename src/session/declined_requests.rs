//! The answer to what a server asks and no client of this revision could be asked: without one it would wait, and the
//! call that it works on with it.

use mcp::rejection::code;
use mcp::{Refusal, Span};
use tokio::sync::Semaphore;

use super::Session;
use mcp::jsonrpc::message;

/// Such answers that are on their way at a time, of all sessions: servers may ask without end.
static ROOM: Semaphore = Semaphore::const_new(64);

impl Session {
    /// Says to the server of a seat that its question goes nowhere. Where too many wait, it hears nothing.
    pub(super) fn decline(&self, seat: u64, message: &[u8], id: Span) {
        let (Ok(room), Some((server, seat))) = (ROOM.try_acquire(), self.sitting(seat)) else { return };
        let words = "Method not found: the client cannot be asked this in its protocol revision";
        let refusal = Refusal::new(200, code::METHOD_NOT_FOUND, "unknown_method", words);
        let body = message::refusal(Some(id.of(message)), &refusal);
        self.core.spawn(async move {
            let _room = room;
            let Some(http) = server.upstream.http() else { return };
            if let Err(error) = http.pass(&seat, body).await {
                tracing::debug!(server = %server.name, %error, "a question was not declined");
            }
        });
    }
}
