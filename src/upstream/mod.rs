//! A server behind the gateway, whatever carries it: what it can be asked, and how it can fail.
//!
//! JSON goes through as bytes. Nothing here knows who the client is or how it is answered.

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

/// When a client may ask again that was told of a server which is starting.
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

/// Where notifications go that belong to a request.
pub struct Progress {
    /// The caller's progress token as written, and where it stands in the params.
    pub token: Option<(Bytes, Span)>,
    /// Takes whole JSON-RPC messages, with the caller's own token.
    pub notes: mpsc::Sender<Bytes>,
}

/// What a server answered, as JSON text of the member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RpcOutcome {
    Result(Bytes),
    Error(Bytes),
}

/// How a stream of what a server says unasked ended, if it did not break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// It was there.
    Ended,
    /// The server does not have it, and will say the same when it is asked again.
    Rejected,
}

#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// Opens (or re-opens) the gateway's own connection in this era and asks the server to introduce itself, which it may
    /// do until that moment. Both eras may be greeted at the same time.
    async fn connect(&self, era: Era, until: Instant) -> Result<ServerHandshake, UpstreamError>;

    /// One request in the gateway's own connection of that era.
    async fn call(&self, ask: UpstreamCall<'_>) -> Result<RpcOutcome, UpstreamError>;

    /// Follows what the server announces in this era and tells when its lists should be read again. `Ok(())` if it
    /// announces nothing; an error when the connection is gone.
    async fn watch_lists(&self, era: Era, changed: &mpsc::Sender<()>) -> Result<(), UpstreamError> {
        let _ = (era, changed);
        Ok(())
    }

    /// Whether the lists of the legacy era came as streams of events when they were last asked for.
    fn lists_as_events(&self) -> bool {
        false
    }

    /// Whether [`Upstream::subscribe_resources`] can follow anything.
    fn has_resource_subscriptions(&self) -> bool {
        false
    }

    /// Follows what the server says of some resources in the modern era; `listen` are the params of a
    /// `subscriptions/listen`. Each message goes to `out` as it came; ends when the server ends it.
    async fn subscribe_resources(
        &self,
        listen: Bytes,
        out: mpsc::Sender<Bytes>,
    ) -> Result<WatchEnd, UpstreamError> {
        let _ = (listen, out);
        Ok(WatchEnd::Rejected)
    }

    /// Takes other limits, as far as they do not hang on the connection.
    fn update_limits(&self, limits: &UpstreamLimits) {
        let _ = limits;
    }

    /// Follows a resource for one of the callers that share the connection, in the legacy era.
    async fn subscribe(&self, uri: &str, updates: &Arc<UpdateQueue>) -> Result<RpcOutcome, UpstreamError> {
        let _ = (uri, updates);
        Ok(RpcOutcome::Error(Bytes::from_static(
            br#"{"code":-32601,"message":"this server has no resources to follow"}"#,
        )))
    }

    /// No longer follows it for that caller.
    async fn unsubscribe(&self, uri: &str, updates: &Arc<UpdateQueue>) -> Result<RpcOutcome, UpstreamError> {
        self.subscribe(uri, updates).await
    }

    /// That caller follows nothing any more.
    async fn drop_subscriber(&self, updates: &Arc<UpdateQueue>) {
        let _ = updates;
    }

    /// Whether [`Upstream::subscribe`] can follow anything.
    fn is_shared(&self) -> bool {
        false
    }

    /// The HTTP side of a server that has one. Pingora streams to these; calls of clients do not go through
    /// [`Upstream::call`].
    fn endpoint_pool(&self) -> Option<&Pool> {
        None
    }

    /// What there is to do in the background for as long as the server is configured.
    async fn run_background(&self) {
        std::future::pending().await
    }

    /// For one that checks its endpoints itself: whether any of them is well.
    fn is_healthy(&self) -> Option<bool> {
        None
    }

    /// Ends connections and processes.
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
    /// The same, where a caller may have brought it about: by an id that the server cannot keep, or by asking for
    /// what it does not have.
    #[error("sent an answer that is not MCP: {0}")]
    ClientCaused(String),
    /// By its id: the connection that it came on does not keep requests and answers together.
    #[error("sent an answer that is not MCP: it answers another request")]
    UnexpectedServer,
    /// On a connection on which something else had been asked (RFC 9112 §9.2): nothing of it is told to anybody.
    #[error(
        "sent an error that names no request, which may be the answer to another's: it is not passed on, and the next calls get connections of their own"
    )]
    Nameless,
    #[error("sent more than the {0} bytes that an answer may have")]
    TooLarge(usize),
    #[error("does not accept the gateway's credentials (HTTP {0})")]
    Credentials(u16),
    /// To a gateway that has none to give. What the server said, as far as it may be told.
    #[error("{}", denied(*.0, .1))]
    Denied(u16, String),
    /// It has no time now.
    #[error("cannot answer now (HTTP {0})")]
    RetryLater(u16, Option<Duration>),
    /// Where it redirects to, if that may not or need not be followed.
    #[error("redirects to {1} (HTTP {0}), where nothing is sent; its `url` must be where it answers")]
    Redirected(u16, String),
    #[error("has forgotten the session")]
    SessionExpired,
    /// By its client, while this was under way.
    #[error("is not asked any more: the session has ended")]
    SessionClosed,
    /// It lasts longer than the gateway.
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
    /// What the token endpoint said, for the log.
    #[error("cannot be called in your name: the token exchange failed")]
    Exchange(String),
    #[error(
        "is called in its callers' names, which takes a token: neither an API key nor an anonymous call will do"
    )]
    TokenRequired,
}

impl UpstreamError {
    /// Whether it tells that the server is in trouble, rather than this call.
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

    /// Whether nobody is there who could be asked anything else.
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

    /// The answer that a client gets; `server` is the name in the config.
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
        // What a server's socket or library says stays in the log; the client learns what it can act on.
        let told = match self {
            Self::Unreachable(_) => {
                "is not reachable now, so none of its tools can be used; try again later".into()
            }
            Self::Exhausted(_) => "cannot be reached now: the gateway has too many connections".into(),
            other => other.to_string(),
        };
        let rejection = Rejection::http(status, reason, format!("the server `{server}` {told}"))
            .with_data(format!(r#"{{"server":{}}}"#, quote(server)));
        match self {
            Self::Busy(_) | Self::Exhausted(_) => rejection.retry_after(Duration::from_secs(1)),
            Self::CircuitOpen(wait) | Self::RetryLater(_, Some(wait)) => rejection.retry_after(*wait),
            Self::Starting => rejection.retry_after(STARTING_RETRY_AFTER),
            _ => rejection,
        }
    }
}

fn denied(status: u16, said: &str) -> String {
    match (status, said) {
        (401, _) => "asks for credentials (HTTP 401), and none are configured for it".into(),
        (_, "") => format!("refuses the gateway (HTTP {status}), for which no credentials are configured"),
        _ => format!("refuses the gateway (HTTP {status}): {said}"),
    }
}

/// Foreign words as they may stand in an error or a line of the log: one line without control characters or such as turn
/// the direction of writing, and not long.
pub fn client_message(message: &str) -> String {
    const MAX_SERVER_TEXT: usize = 200;
    let mut out = String::new();
    for word in message.split(|c: char| c.is_whitespace() || is_control(c)).filter(|word| !word.is_empty()) {
        if out.chars().count() + word.chars().count() >= MAX_SERVER_TEXT {
            let room = MAX_SERVER_TEXT.saturating_sub(out.chars().count() + 1);
            out.extend(if out.is_empty() { None } else { Some(' ') });
            out.extend(word.chars().take(room));
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

/// The members that the gateway puts into `params._meta` when it asks a modern server in its own name.
pub fn gateway_meta() -> String {
    format!(
        r#"{{"io.modelcontextprotocol/protocolVersion":"{}","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{}}}"#,
        version::NEWEST_MODERN,
        gateway_info()
    )
}

/// What the gateway listens for in its own name, as the inside of the params.
pub const LISTS_CHANGED: &str =
    r#""notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}"#;

/// The gateway's `Implementation` object.
pub fn gateway_info() -> &'static str {
    concat!(r#"{"name":"toolgate","title":"Toolgate","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#)
}

/// Params for a request in the gateway's own name; `rest` is the inside of a JSON object, without braces.
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

/// Whether no connection was made because the gateway's own system has none left to give, which says nothing of the
/// server. For IPv6 a lack of addresses is that of a family which is not there.
pub fn is_exhausted(error: &(dyn std::error::Error + 'static), to: Option<SocketAddr>) -> bool {
    let chain = std::iter::successors(Some(error), |error| error.source());
    let mut codes = chain.filter_map(|error| error.downcast_ref::<std::io::Error>()?.raw_os_error());
    codes.any(|code| match code {
        libc::EMFILE | libc::ENFILE | libc::ENOBUFS => true,
        libc::EADDRNOTAVAIL => to.is_some_and(|to| to.is_ipv4()),
        _ => false,
    })
}

/// What lies at the bottom of an error of the HTTP client, without the URL that it puts in front.
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
