//! Declines server requests that no client of this protocol version can answer. Without a response the server
//! would wait, and the call that it works on with it.

use std::sync::Arc;

use mcp::rejection::code;
use mcp::{Reason, Rejection, Span};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Session;
use crate::server::Server;
use crate::upstream::http::UpstreamSession;
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
        self.send_declined(permit, server, upstream_session, id.of(message), &rejection);
    }

    /// Declines a request that holds what its client may not get. `id` as the server wrote it.
    pub fn decline_blocked(&self, upstream_session: u64, id: &[u8]) {
        self.decline_pending(
            upstream_session,
            id,
            "the gateway does not let this request through: it holds secrets",
        );
    }

    /// Declines a request that would have gone to the client, and says why. `id` as the server wrote it.
    pub fn decline_pending(&self, upstream_session: u64, id: &[u8], text: &'static str) {
        if !self.server_requests.take(upstream_session, id) {
            return;
        }
        let (Ok(permit), Some((server, upstream_session))) =
            (IN_FLIGHT.try_acquire(), self.upstream_session_by_id(upstream_session))
        else {
            return;
        };
        let rejection = Rejection::new(200, code::INTERNAL, Reason::InputRefused, text);
        self.send_declined(permit, server, upstream_session, id, &rejection);
    }

    fn send_declined(
        &self,
        permit: SemaphorePermit<'static>,
        server: Arc<Server>,
        upstream_session: Arc<UpstreamSession>,
        id: &[u8],
        rejection: &Rejection,
    ) {
        let body = message::rejection_response(Some(id), rejection);
        self.runtime.spawn(async move {
            let _permit = permit;
            let Some(http) = server.endpoint_pool() else { return };
            if let Err(error) = http.forward(&upstream_session, body).await {
                tracing::debug!(server = %server.name, %error, "a request of the server was not declined");
            }
        });
    }
}
