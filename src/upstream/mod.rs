//! A server behind the gateway, over any transport: its operations.
//!
//! JSON passes as bytes. Nothing here depends on the client or on the form of its response.

pub mod call_timer;
pub mod demo;
pub mod entry_definitions;
mod error;
mod facets;
pub mod http;
pub mod http_or_sse;
pub mod isolated_stdio;
mod limits;
mod process_starts;
pub mod redact_response;
pub mod request_ids;
mod server_handshake;
pub mod server_messages;
mod shared_connection;
pub mod sse;
pub mod stdio;
pub mod subscriptions;
pub mod tls_hint;
pub mod token_exchange;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mcp::{Era, Span};
use tokio::sync::mpsc;
use tokio::time::Instant;

use error::cause;
pub use error::{UpstreamError, client_message, is_exhausted};
pub use facets::{Background, Health, ListChanges, ResourceUpdates, SharedSubscriptions, WatchEnd};
pub use http::peer::Peer;
pub use http::pool::Pool;
pub use limits::UpstreamLimits;
pub use process_starts::{ProcessStart, ProcessStarts, WantedProcess};
pub use redact_response::ResponseRedactor;
pub use request_ids::WireId;
pub use server_handshake::ServerHandshake;
pub use stdio::child::is_own_child;

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

/// A server over one transport. What not every transport has is a facet, which is asked for by name; a kind of
/// server is a folder here and an `impl Upstream`.
#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// Opens (or re-opens) the gateway's own connection in this era and runs the handshake, with `until` as
    /// its deadline. The handshakes of both eras may run at the same time.
    async fn connect(&self, server_era: Era, until: Instant) -> Result<ServerHandshake, UpstreamError>;

    /// Sends one request in the gateway's own connection of that era.
    async fn call(&self, ask: UpstreamCall<'_>) -> Result<RpcOutcome, UpstreamError>;

    /// Gives up the connection of this era, if there is one; calls in flight there end first.
    async fn release(&self, server_era: Era) {
        let _ = server_era;
    }

    /// Closes connections and ends processes.
    async fn close(&self);

    /// Applies other limits, except those of the connection.
    fn update_limits(&self, limits: &UpstreamLimits) {
        let _ = limits;
    }

    /// Set if Pingora forwards to it: its calls do not go through [`Upstream::call`]. Others ask
    /// `Server::endpoint_pool`.
    fn endpoint_pool(&self) -> Option<&Pool> {
        None
    }

    /// Set if it may notify of changes of its lists.
    fn list_changes(&self) -> Option<&dyn ListChanges> {
        None
    }

    /// Set if it has `subscriptions/listen` of the modern era.
    fn resource_updates(&self) -> Option<&dyn ResourceUpdates> {
        None
    }

    /// Set if all callers share its legacy connection, and with it the subscriptions there.
    fn shared_subscriptions(&self) -> Option<&dyn SharedSubscriptions> {
        None
    }

    /// Set if it has background tasks.
    fn background(&self) -> Option<&dyn Background> {
        None
    }

    /// Set if it checks its endpoints itself.
    fn health(&self) -> Option<&dyn Health> {
        None
    }
}

/// The `_meta` of the gateway's own requests to a modern server.
pub fn gateway_meta() -> String {
    Era::Modern.codec().meta(gateway_info()).expect("modern requests have it")
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
    server_era.codec().params(rest, gateway_info())
}

/// The params of the gateway's own handshake.
pub fn gateway_handshake(server_era: Era) -> Bytes {
    server_era.codec().handshake_params(gateway_info())
}
