//! A server behind the gateway, over any transport: its operations.
//!
//! JSON passes as bytes. Nothing here depends on the client or on the form of its response.

pub mod call_timer;
pub mod demo;
pub mod entry_definitions;
mod error;
pub mod http;
mod limits;
pub mod redact_response;
pub mod request_ids;
mod server_handshake;
pub mod stdio;
pub mod tls_hint;
pub mod token_exchange;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mcp::{Era, Span};
use tokio::sync::mpsc;
use tokio::time::Instant;

use mcp::version;

use error::cause;
pub use error::{UpstreamError, client_message, is_exhausted};
pub use http::peer::Peer;
pub use http::pool::Pool;
pub use limits::UpstreamLimits;
pub use redact_response::ResponseRedactor;
pub use request_ids::WireId;
pub use server_handshake::ServerHandshake;
pub use stdio::child::is_own_child;
use stdio::subscriptions::UpdateQueue;

/// One request to a server.
pub struct UpstreamCall<'a> {
    pub server_era: Era,
    pub method: &'a str,
    /// A JSON object.
    pub params: Bytes,
    pub progress: Option<Progress>,
    pub timeout: Duration,
}

/// The receiver of notifications that belong to a request.
pub struct Progress {
    /// The caller's progress token as written, and its span in the params.
    pub token: Option<(Bytes, Span)>,
    /// Receives whole JSON-RPC messages, with the caller's own token.
    pub notes: mpsc::Sender<Bytes>,
}

/// The server's response, as JSON text of the member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RpcOutcome {
    Result(Bytes),
    Error(Bytes),
}

/// How a notification stream ended, if it did not break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// It was open.
    Ended,
    /// The server does not have it, and would say the same again.
    Rejected,
}

#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// Opens (or re-opens) the gateway's own connection in this era and runs the handshake, with `until` as
    /// its deadline. The handshakes of both eras may run at the same time.
    async fn connect(&self, server_era: Era, until: Instant) -> Result<ServerHandshake, UpstreamError>;

    /// Sends one request in the gateway's own connection of that era.
    async fn call(&self, ask: UpstreamCall<'_>) -> Result<RpcOutcome, UpstreamError>;

    /// Watches the list change notifications of the server in this era and reports each to `changed`.
    /// `Ok(())` if it sends none; an error when the connection is gone.
    async fn watch_lists(&self, server_era: Era, changed: &mpsc::Sender<()>) -> Result<(), UpstreamError> {
        let _ = (server_era, changed);
        Ok(())
    }

    /// Whether the legacy lists came as event streams at the last request.
    fn lists_as_events(&self) -> bool {
        false
    }

    /// Whether [`Upstream::subscribe_resources`] is supported.
    fn has_resource_subscriptions(&self) -> bool {
        false
    }

    /// Subscribes to resources in the modern era; `listen` are the params of a `subscriptions/listen`. Each
    /// message goes to `out` as it came; returns when the server ends the stream.
    async fn subscribe_resources(
        &self,
        listen: Bytes,
        out: mpsc::Sender<Bytes>,
    ) -> Result<WatchEnd, UpstreamError> {
        let _ = (listen, out);
        Ok(WatchEnd::Rejected)
    }

    /// Applies other limits, except those of the connection.
    fn update_limits(&self, limits: &UpstreamLimits) {
        let _ = limits;
    }

    /// Subscribes to a resource for one of the callers that share the connection, in the legacy era.
    async fn subscribe(&self, uri: &str, updates: &Arc<UpdateQueue>) -> Result<RpcOutcome, UpstreamError> {
        let _ = (uri, updates);
        Ok(RpcOutcome::Error(Bytes::from_static(
            br#"{"code":-32601,"message":"this server has no resources to follow"}"#,
        )))
    }

    /// Unsubscribes that caller from it.
    async fn unsubscribe(&self, uri: &str, updates: &Arc<UpdateQueue>) -> Result<RpcOutcome, UpstreamError> {
        self.subscribe(uri, updates).await
    }

    /// Removes all subscriptions of that caller.
    async fn drop_subscriber(&self, updates: &Arc<UpdateQueue>) {
        let _ = updates;
    }

    /// Whether [`Upstream::subscribe`] is supported.
    fn is_shared(&self) -> bool {
        false
    }

    /// The HTTP side of a server that has one. Pingora streams to these; calls of clients do not go through
    /// [`Upstream::call`].
    fn endpoint_pool(&self) -> Option<&Pool> {
        None
    }

    /// Runs the background tasks as long as the server is configured.
    async fn run_background(&self) {
        std::future::pending().await
    }

    /// For a server that checks its endpoints itself: whether any of them is healthy.
    fn is_healthy(&self) -> Option<bool> {
        None
    }

    /// Closes connections and ends processes.
    async fn close(&self);
}

/// The members of `params._meta` in the gateway's own requests to a modern server.
pub fn gateway_meta() -> String {
    format!(
        r#"{{"io.modelcontextprotocol/protocolVersion":"{}","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{}}}"#,
        version::NEWEST_MODERN,
        gateway_info()
    )
}

/// The notifications that the gateway itself subscribes to, as the inside of the params.
pub const LISTS_CHANGED: &str =
    r#""notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}"#;

/// The gateway's `Implementation` object.
pub fn gateway_info() -> &'static str {
    concat!(r#"{"name":"toolgate","title":"Toolgate","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#)
}

/// Params for a request of the gateway itself; `rest` is the inside of a JSON object, without braces.
pub fn gateway_params(server_era: Era, rest: &str) -> Bytes {
    match server_era {
        Era::Legacy => Bytes::from(format!("{{{rest}}}")),
        Era::Modern => {
            let comma = if rest.is_empty() { "" } else { "," };
            Bytes::from(format!(r#"{{{rest}{comma}"_meta":{}}}"#, gateway_meta()))
        }
    }
}

/// The params of the gateway's own `initialize`.
pub fn gateway_initialize() -> Bytes {
    Bytes::from(format!(
        r#"{{"protocolVersion":"{}","capabilities":{{}},"clientInfo":{}}}"#,
        version::NEWEST_LEGACY,
        gateway_info()
    ))
}
