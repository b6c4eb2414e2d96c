//! A server behind the gateway, over any transport: its operations and its errors.
//!
//! JSON passes as bytes. Nothing here depends on the client or on the form of its response.

pub mod call_timer;
pub mod demo;
pub mod entry_definitions;
pub mod http;
mod limits;
pub mod redact_response;
pub mod request_ids;
mod server_handshake;
pub mod stdio;
pub mod tls_hint;
pub mod token_exchange;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mcp::json::quote::quote;
use mcp::{Era, Rejection, Span};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::telemetry::is_control;
use mcp::version;

pub use http::peer::Peer;
pub use http::pool::Pool;
pub use limits::UpstreamLimits;
pub use redact_response::ResponseRedactor;
pub use request_ids::WireId;
pub use server_handshake::ServerHandshake;
pub use stdio::child::is_own_child;
use stdio::subscriptions::UpdateQueue;

/// `Retry-After` for a call of a server that is starting.
const STARTING_RETRY_AFTER: Duration = Duration::from_secs(2);

/// One request to a server.
pub struct UpstreamCall<'a> {
    pub era: Era,
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
    async fn connect(&self, era: Era, until: Instant) -> Result<ServerHandshake, UpstreamError>;

    /// Sends one request in the gateway's own connection of that era.
    async fn call(&self, ask: UpstreamCall<'_>) -> Result<RpcOutcome, UpstreamError>;

    /// Watches the list change notifications of the server in this era and reports each to `changed`.
    /// `Ok(())` if it sends none; an error when the connection is gone.
    async fn watch_lists(&self, era: Era, changed: &mpsc::Sender<()>) -> Result<(), UpstreamError> {
        let _ = (era, changed);
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

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum UpstreamError {
    #[error("is not reachable: {0}")]
    Unreachable(String),
    /// It was started and has not answered yet; nothing was sent to it.
    #[error("is still starting; try again in a few seconds")]
    Starting,
    /// The gateway's own system has no descriptors or ports left.
    #[error("cannot be reached: the gateway has no descriptors or ports left: {0}")]
    Exhausted(String),
    /// It was connected, and the message may have reached it.
    #[error("broke off before it answered: {0}")]
    ConnectionReset(String),
    #[error("did not answer within {0:?}")]
    TimedOut(Duration),
    #[error("sent an answer that is not MCP: {0}")]
    InvalidResponse(String),
    /// The same, but a caller may have caused it: by an id that the server cannot keep, or a request for what
    /// it does not have.
    #[error("sent an answer that is not MCP: {0}")]
    ClientCaused(String),
    /// Its id belongs to another request: the connection mixes up requests and responses.
    #[error("sent an answer that is not MCP: it answers another request")]
    UnexpectedServer,
    /// On a connection that carried other requests (RFC 9112 §9.2): nothing of it is passed on.
    #[error(
        "sent an error that names no request, which may be the answer to another's: it is not passed on, and the next calls get connections of their own"
    )]
    Nameless,
    #[error("sent more than the {0} bytes that an answer may have")]
    TooLarge(usize),
    #[error("does not accept the gateway's credentials (HTTP {0})")]
    Credentials(u16),
    /// The gateway had no credentials. With the server's message, if it may be passed on.
    #[error("{}", denied(*.0, .1))]
    Denied(u16, String),
    /// It is busy now.
    #[error("cannot answer now (HTTP {0})")]
    RetryLater(u16, Option<Duration>),
    /// The target of a redirection that may not or need not be followed.
    #[error("redirects to {1} (HTTP {0}), where nothing is sent; its `url` must be where it answers")]
    Redirected(u16, String),
    #[error("has forgotten the session")]
    SessionExpired,
    /// Its client ended the session while the request was in flight.
    #[error("is not asked any more: the session has ended")]
    SessionClosed,
    /// The call lasts longer than the gateway.
    #[error("is not waited for any longer: the gateway stops")]
    Stopping,
    #[error("cannot go on with this stream: it knows no such event")]
    Unresumable,
    #[error("does not speak the {era} era: {why}", era = .0.as_str(), why = .1)]
    WrongEra(Era, String),
    #[error("is busy: {0} calls are running already")]
    Busy(usize),
    #[error("failed too often in a row, so no calls are sent to it for now")]
    CircuitOpen(Duration),
    #[error("answered what the gateway does not let through: {0}")]
    Blocked(String),
    /// The message of the token endpoint, for the log.
    #[error("cannot be called in your name: the token exchange failed")]
    Exchange(String),
    #[error(
        "is called in its callers' names, which takes a token: neither an API key nor an anonymous call will do"
    )]
    TokenRequired,
}

impl UpstreamError {
    /// Whether the server is at fault, rather than this call.
    pub fn is_fault(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_)
                | Self::ConnectionReset(_)
                | Self::TimedOut(_)
                | Self::InvalidResponse(_)
                | Self::RetryLater(503, _)
                | Self::Redirected(..)
        )
    }

    /// Whether the server is absent, so that no other request can succeed.
    pub fn is_absence(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_)
                | Self::Exhausted(_)
                | Self::Credentials(_)
                | Self::Denied(..)
                | Self::Redirected(..)
        )
    }

    /// The rejection for a client; `server` is the name in the config.
    pub fn rejection(&self, server: &str) -> Rejection {
        let (status, reason) = match self {
            Self::Unreachable(_) => (502, "upstream_unreachable"),
            Self::Starting => (503, "upstream_starting"),
            Self::TimedOut(_) => (504, "upstream_timeout"),
            Self::ConnectionReset(_)
            | Self::InvalidResponse(_)
            | Self::ClientCaused(_)
            | Self::UnexpectedServer
            | Self::Nameless => (502, "upstream_nonsense"),
            Self::TooLarge(_) => (502, "upstream_too_large"),
            Self::Credentials(_) | Self::Denied(..) => (502, "upstream_credentials"),
            Self::RetryLater(status, _) => (*status, "upstream_unavailable"),
            Self::Redirected(..) => (502, "upstream_redirects"),
            Self::SessionExpired => (502, "upstream_session"),
            Self::SessionClosed => (404, "no_session"),
            Self::Stopping => (503, "stopping"),
            Self::Unresumable => (400, "unknown_event"),
            Self::WrongEra(..) => (502, "era_mismatch"),
            Self::Busy(_) => (503, "upstream_busy"),
            Self::Exhausted(_) => (503, "descriptors"),
            Self::Blocked(_) => (403, "result_blocked"),
            Self::Exchange(_) => (502, "token_exchange"),
            Self::TokenRequired => (403, "token_needed"),
            Self::CircuitOpen(_) => (503, "upstream_circuit_open"),
        };
        // The texts of the server's socket or library stay in the log; the client gets what it can act on.
        let text = match self {
            Self::Unreachable(_) => {
                "is not reachable now, so none of its tools can be used; try again later".into()
            }
            Self::Exhausted(_) => "cannot be reached now: the gateway has too many connections".into(),
            other => other.to_string(),
        };
        let rejection = Rejection::http(status, reason, format!("the server `{server}` {text}"))
            .with_data(format!(r#"{{"server":{}}}"#, quote(server)));
        match self {
            Self::Busy(_) | Self::Exhausted(_) => rejection.retry_after(Duration::from_secs(1)),
            Self::CircuitOpen(wait) | Self::RetryLater(_, Some(wait)) => rejection.retry_after(*wait),
            Self::Starting => rejection.retry_after(STARTING_RETRY_AFTER),
            _ => rejection,
        }
    }
}

fn denied(status: u16, server_text: &str) -> String {
    match (status, server_text) {
        (401, _) => "asks for credentials (HTTP 401), and none are configured for it".into(),
        (_, "") => format!("refuses the gateway (HTTP {status}), for which no credentials are configured"),
        _ => format!("refuses the gateway (HTTP {status}): {server_text}"),
    }
}

/// Text of a server, made safe for an error or a log line: short, one line, without control characters and
/// without those that change the writing direction.
pub fn client_message(message: &str) -> String {
    const MAX_SERVER_TEXT: usize = 200;
    let mut out = String::new();
    for word in message.split(|c: char| c.is_whitespace() || is_control(c)).filter(|word| !word.is_empty()) {
        if out.chars().count() + word.chars().count() >= MAX_SERVER_TEXT {
            let space = MAX_SERVER_TEXT.saturating_sub(out.chars().count() + 1);
            out.extend(if out.is_empty() { None } else { Some(' ') });
            out.extend(word.chars().take(space));
            out.push('…');
            break;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
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
pub fn gateway_params(era: Era, rest: &str) -> Bytes {
    match era {
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

/// Whether no connection was made because the gateway's own system has none left, which is no evidence
/// against the server. For IPv6, a lack of addresses only means that the family is not available.
pub fn is_exhausted(error: &(dyn std::error::Error + 'static), to: Option<SocketAddr>) -> bool {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let mut codes = chain.filter_map(|error| error.downcast_ref::<std::io::Error>()?.raw_os_error());
    codes.any(|code| match code {
        libc::EMFILE | libc::ENFILE | libc::ENOBUFS => true,
        libc::EADDRNOTAVAIL => to.is_some_and(|to| to.is_ipv4()),
        _ => false,
    })
}

/// The innermost cause of an error of the HTTP client, without the URL that it puts in front.
fn cause(error: &reqwest::Error) -> String {
    let mut source = std::error::Error::source(error);
    let mut message = None;
    while let Some(cause) = source {
        message = Some(cause.to_string());
        source = cause.source();
    }
    let unsaid = || if error.is_timeout() { "timed out".into() } else { "the request failed".into() };
    message.map_or_else(unsaid, tls_hint::with_hint)
}
