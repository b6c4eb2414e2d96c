//! Declines server requests that no client of this protocol version can answer. Without a response the server
//! would wait, and the call that it works on with it.

use mcp::rejection::code;
use mcp::{Reason, Rejection, Span};
use tokio::sync::Semaphore;

use super::Session;
use mcp::jsonrpc::message;

/// Such responses that are sent at a time, of all sessions: servers may send requests without end.
static IN_FLIGHT: Semaphore = Semaphore::const_new(64);

impl Session {
    /// Declines the request of an upstream session. If too many responses are waiting, none is sent.
    pub(super) fn decline(&self, upstream_session: u64, message: &[u8], id: Span) {
        let (Ok(permit), Some((server, upstream_session))) =
            (IN_FLIGHT.try_acquire(), self.upstream_session_by_id(upstream_session))
        else {
            return;
        };
        let text = "Method not found: the client cannot be asked this in its protocol revision";
        let rejection = Rejection::new(200, code::METHOD_NOT_FOUND, Reason::UnknownMethod, text);
        let body = message::rejection_response(Some(id.of(message)), &rejection);
        self.runtime.spawn(async move {
            let _permit = permit;
            let Some(http) = server.endpoint_pool() else { return };
            if let Err(error) = http.forward(&upstream_session, body).await {
                tracing::debug!(server = %server.name, %error, "a request of the server was not declined");
            }
        });
    }
}
