//! The answer to what a server asks and no client of this revision could be asked: without one it would wait, and the
//! call that it works on with it.

use mcp::rejection::code;
use mcp::{Rejection, Span};
use tokio::sync::Semaphore;

use super::Session;
use mcp::jsonrpc::message;

/// Such answers that are on their way at a time, of all sessions: servers may ask without end.
static IN_FLIGHT: Semaphore = Semaphore::const_new(64);

impl Session {
    /// Says to the server of a seat that its question goes nowhere. Where too many wait, it hears nothing.
    pub(super) fn decline(&self, upstream_session: u64, message: &[u8], id: Span) {
        let (Ok(room), Some((server, upstream_session))) =
            (IN_FLIGHT.try_acquire(), self.upstream_session_by_id(upstream_session))
        else {
            return;
        };
        let text = "Method not found: the client cannot be asked this in its protocol revision";
        let rejection = Rejection::new(200, code::METHOD_NOT_FOUND, "unknown_method", text);
        let body = message::rejection_response(Some(id.of(message)), &rejection);
        self.runtime.spawn(async move {
            let _room = room;
            let Some(http) = server.upstream.endpoint_pool() else { return };
            if let Err(error) = http.forward(&upstream_session, body).await {
                tracing::debug!(server = %server.name, %error, "a question was not declined");
            }
        });
    }
}
