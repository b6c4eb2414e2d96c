//! A server behind the gateway, whatever carries it: what it can be asked, and how it can fail.
//!
//! JSON goes through as bytes. Nothing here knows who the client is or how it is answered.

pub mod call_timer;
pub mod demo;
mod hello;
pub mod http;
mod limits;
pub mod redact_response;
pub mod request_ids;
pub mod stdio;
pub mod token_exchange;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mcp::json::quote::quote;
use mcp::{Era, Refusal, Span};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::listener::tls;
use crate::telemetry::acts;
use mcp::version;

pub use hello::Hello;
pub use http::peer::Peer;
pub use http::pool::Pool;
pub use limits::Bounds;
pub use redact_response::Screen;
pub use request_ids::WireId;
pub use stdio::child::is_ours;
use stdio::subscriptions::Ear;

/// When a client may ask again that was told of a server which is starting.
const STARTS_SOON: Duration = Duration::from_secs(2);

/// One request to a server.
pub struct Ask<'a> {
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
pub enum Said {
    Result(Bytes),
    Error(Bytes),
}

/// How a stream of what a server says unasked ended, if it did not break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was there.
    Over,
    /// The server does not have it, and will say the same when it is asked again.
    Refused,
}

#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// Opens (or re-opens) the gateway's own connection in this era and asks the server to introduce itself, which it may
    /// do until that moment. Both eras may be greeted at the same time.
    async fn greet(&self, era: Era, until: Instant) -> Result<Hello, UpstreamError>;

    /// One request in the gateway's own connection of that era.
    async fn ask(&self, ask: Ask<'_>) -> Result<Said, UpstreamError>;

    /// Follows what the server announces in this era and tells when its lists should be read again. `Ok(())` if it
    /// announces nothing; an error when the connection is gone.
    async fn watch(&self, era: Era, changed: &mpsc::Sender<()>) -> Result<(), UpstreamError> {
        let _ = (era, changed);
        Ok(())
    }

    /// Whether the lists of the legacy era came as streams of events when they were last asked for.
    fn lists_as_events(&self) -> bool {
        false
    }

    /// Whether [`Upstream::follow`] can follow anything.
    fn follows(&self) -> bool {
        false
    }

    /// Follows what the server says of some resources in the modern era; `listen` are the params of a
    /// `subscriptions/listen`. Each message goes to `out` as it came; ends when the server ends it.
    async fn follow(&self, listen: Bytes, out: mpsc::Sender<Bytes>) -> Result<Ending, UpstreamError> {
        let _ = (listen, out);
        Ok(Ending::Refused)
    }

    /// Takes other limits, as far as they do not hang on the connection.
    fn hold_to(&self, bounds: &Bounds) {
        let _ = bounds;
    }

    /// Follows a resource for one of the callers that share the connection, in the legacy era.
    async fn subscribe(&self, uri: &str, ear: &Arc<Ear>) -> Result<Said, UpstreamError> {
        let _ = (uri, ear);
        Ok(Said::Error(Bytes::from_static(
            br#"{"code":-32601,"message":"this server has no resources to follow"}"#,
        )))
    }

    /// No longer follows it for that caller.
    async fn unsubscribe(&self, uri: &str, ear: &Arc<Ear>) -> Result<Said, UpstreamError> {
        self.subscribe(uri, ear).await
    }

    /// That caller follows nothing any more.
    async fn unfollow(&self, ear: &Arc<Ear>) {
        let _ = ear;
    }

    /// Whether [`Upstream::subscribe`] can follow anything.
    fn is_shared(&self) -> bool {
        false
    }

    /// The HTTP side of a server that has one. Pingora streams to these; calls of clients do not go through
    /// [`Upstream::ask`].
    fn http(&self) -> Option<&Pool> {
        None
    }

    /// What there is to do in the background for as long as the server is configured.
    async fn tend(&self) {
        std::future::pending().await
    }

    /// For one that checks its endpoints itself: whether any of them is well.
    fn is_well(&self) -> Option<bool> {
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
    Broke(String),
    #[error("did not answer within {0:?}")]
    TimedOut(Duration),
    #[error("sent an answer that is not MCP: {0}")]
    Nonsense(String),
    /// The same, where a caller may have brought it about: by an id that the server cannot keep, or by asking for
    /// what it does not have.
    #[error("sent an answer that is not MCP: {0}")]
    Odd(String),
    /// By its id: the connection that it came on does not keep requests and answers together.
    #[error("sent an answer that is not MCP: it answers another request")]
    Foreign,
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
    Later(u16, Option<Duration>),
    /// Where it redirects to, if that may not or need not be followed.
    #[error("redirects to {1} (HTTP {0}), where nothing is sent; its `url` must be where it answers")]
    Moved(u16, String),
    #[error("has forgotten the session")]
    Forgotten,
    /// By its client, while this was under way.
    #[error("is not asked any more: the session has ended")]
    Ended,
    /// It lasts longer than the gateway.
    #[error("is not waited for any longer: the gateway stops")]
    Stopping,
    #[error("cannot go on with this stream: it knows no such event")]
    Unresumable,
    #[error("does not speak the {era} era: {why}", era = .0.word(), why = .1)]
    WrongEra(Era, String),
    #[error("is busy: {0} calls are running already")]
    Busy(usize),
    #[error("failed too often in a row, so no calls are sent to it for now")]
    Open(Duration),
    #[error("answered what the gateway does not let through: {0}")]
    Blocked(String),
    /// What the token endpoint said, for the log.
    #[error("cannot be called in your name: the token exchange failed")]
    Exchange(String),
    #[error(
        "is called in its callers' names, which takes a token: neither an API key nor an anonymous call will do"
    )]
    NoToken,
}

impl UpstreamError {
    /// Whether it tells that the server is in trouble, rather than this call.
    pub fn is_fault(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_)
                | Self::Broke(_)
                | Self::TimedOut(_)
                | Self::Nonsense(_)
                | Self::Later(503, _)
                | Self::Moved(..)
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
                | Self::Moved(..)
        )
    }

    /// The answer that a client gets; `server` is the name in the config.
    pub fn refusal(&self, server: &str) -> Refusal {
        let (status, reason) = match self {
            Self::Unreachable(_) => (502, "upstream_unreachable"),
            Self::Starting => (503, "upstream_starting"),
            Self::TimedOut(_) => (504, "upstream_timeout"),
            Self::Broke(_) | Self::Nonsense(_) | Self::Odd(_) | Self::Foreign | Self::Nameless => {
                (502, "upstream_nonsense")
            }
            Self::TooLarge(_) => (502, "upstream_too_large"),
            Self::Credentials(_) | Self::Denied(..) => (502, "upstream_credentials"),
            Self::Later(status, _) => (*status, "upstream_unavailable"),
            Self::Moved(..) => (502, "upstream_redirects"),
            Self::Forgotten => (502, "upstream_session"),
            Self::Ended => (404, "no_session"),
            Self::Stopping => (503, "stopping"),
            Self::Unresumable => (400, "unknown_event"),
            Self::WrongEra(..) => (502, "era_mismatch"),
            Self::Busy(_) => (503, "upstream_busy"),
            Self::Exhausted(_) => (503, "descriptors"),
            Self::Blocked(_) => (403, "result_blocked"),
            Self::Exchange(_) => (502, "token_exchange"),
            Self::NoToken => (403, "token_needed"),
            Self::Open(_) => (503, "upstream_circuit_open"),
        };
        // What a server's socket or library says stays in the log; the client learns what it can act on.
        let told = match self {
            Self::Unreachable(_) => {
                "is not reachable now, so none of its tools can be used; try again later".into()
            }
            Self::Exhausted(_) => "cannot be reached now: the gateway has too many connections".into(),
            other => other.to_string(),
        };
        let refusal = Refusal::http(status, reason, format!("the server `{server}` {told}"))
            .with_data(format!(r#"{{"server":{}}}"#, quote(server)));
        match self {
            Self::Busy(_) | Self::Exhausted(_) => refusal.retry_after(Duration::from_secs(1)),
            Self::Open(wait) | Self::Later(_, Some(wait)) => refusal.retry_after(*wait),
            Self::Starting => refusal.retry_after(STARTS_SOON),
            _ => refusal,
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
pub fn safe(words: &str) -> String {
    const LONGEST: usize = 200;
    let mut out = String::new();
    for word in words.split(|c: char| c.is_whitespace() || acts(c)).filter(|word| !word.is_empty()) {
        if out.chars().count() + word.chars().count() >= LONGEST {
            let room = LONGEST.saturating_sub(out.chars().count() + 1);
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
pub fn house_meta() -> String {
    format!(
        r#"{{"io.modelcontextprotocol/protocolVersion":"{}","io.modelcontextprotocol/clientCapabilities":{{}},"io.modelcontextprotocol/clientInfo":{}}}"#,
        version::NEWEST_MODERN,
        house_info()
    )
}

/// What the gateway listens for in its own name, as the inside of the params.
pub const LISTS_CHANGED: &str =
    r#""notifications":{"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true}"#;

/// The gateway's `Implementation` object.
pub fn house_info() -> &'static str {
    concat!(r#"{"name":"toolgate","title":"Toolgate","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#)
}

/// Params for a request in the gateway's own name; `rest` is the inside of a JSON object, without braces.
pub fn house_params(era: Era, rest: &str) -> Bytes {
    match era {
        Era::Legacy => Bytes::from(format!("{{{rest}}}")),
        Era::Modern => {
            let comma = if rest.is_empty() { "" } else { "," };
            Bytes::from(format!(r#"{{{rest}{comma}"_meta":{}}}"#, house_meta()))
        }
    }
}

/// The params of the gateway's own `initialize`.
pub fn house_initialize() -> Bytes {
    Bytes::from(format!(
        r#"{{"protocolVersion":"{}","capabilities":{{}},"clientInfo":{}}}"#,
        version::NEWEST_LEGACY,
        house_info()
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
    let mut words = None;
    while let Some(cause) = source {
        words = Some(cause.to_string());
        source = cause.source();
    }
    let unsaid = || if error.is_timeout() { "timed out".into() } else { "the request failed".into() };
    words.map_or_else(unsaid, tls::hinted)
}
