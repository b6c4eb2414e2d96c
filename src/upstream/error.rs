//! Why a call of a server failed, and the rejection that the client gets for it.

use std::net::SocketAddr;
use std::time::Duration;

use mcp::json::quote::quote;
use mcp::{Era, Reason, Rejection};

use super::tls_hint;
use crate::telemetry::is_control;

/// `Retry-After` for a call of a server that is starting.
const STARTING_RETRY_AFTER: Duration = Duration::from_secs(2);
/// The same while all processes are taken, which end with their sessions.
const PROCESSES_RETRY_AFTER: Duration = Duration::from_secs(5);

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
    /// Of a stdio server with a process for each session.
    #[error("has as many processes as its max_processes allows ({0}); try again later")]
    TooManyProcesses(usize),
    #[error(
        "has as many processes for you as its max_processes_per_caller allows ({0}): end sessions (DELETE), or wait"
    )]
    TooManyProcessesOfCaller(usize),
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
            Self::Unreachable(_) => (502, Reason::UpstreamUnreachable),
            Self::Starting => (503, Reason::UpstreamStarting),
            Self::TimedOut(_) => (504, Reason::UpstreamTimeout),
            Self::ConnectionReset(_)
            | Self::InvalidResponse(_)
            | Self::ClientCaused(_)
            | Self::UnexpectedServer
            | Self::Nameless => (502, Reason::UpstreamNonsense),
            Self::TooLarge(_) => (502, Reason::UpstreamTooLarge),
            Self::Credentials(_) | Self::Denied(..) => (502, Reason::UpstreamCredentials),
            Self::RetryLater(status, _) => (*status, Reason::UpstreamUnavailable),
            Self::Redirected(..) => (502, Reason::UpstreamRedirects),
            Self::SessionExpired => (502, Reason::UpstreamSession),
            Self::SessionClosed => (404, Reason::NoSession),
            Self::Stopping => (503, Reason::Stopping),
            Self::Unresumable => (400, Reason::UnknownEvent),
            Self::WrongEra(..) => (502, Reason::EraMismatch),
            Self::Busy(_) => (503, Reason::UpstreamBusy),
            Self::TooManyProcesses(_) => (503, Reason::UpstreamBusy),
            Self::TooManyProcessesOfCaller(_) => (429, Reason::TooManySessionsOfCaller),
            Self::Exhausted(_) => (503, Reason::Descriptors),
            Self::Blocked(_) => (403, Reason::ResultBlocked),
            Self::Exchange(_) => (502, Reason::TokenExchange),
            Self::TokenRequired => (403, Reason::TokenNeeded),
            Self::CircuitOpen(_) => (503, Reason::UpstreamCircuitOpen),
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
            Self::TooManyProcesses(_) | Self::TooManyProcessesOfCaller(_) => {
                rejection.retry_after(PROCESSES_RETRY_AFTER)
            }
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
pub(super) fn cause(error: &reqwest::Error) -> String {
    let mut source = std::error::Error::source(error);
    let mut message = None;
    while let Some(cause) = source {
        message = Some(cause.to_string());
        source = cause.source();
    }
    let unsaid = || if error.is_timeout() { "timed out".into() } else { "the request failed".into() };
    message.map_or_else(unsaid, tls_hint::with_hint)
}
