//! Why a request is rejected, with everything that a response needs. A filter decides; it never responds.

use std::borrow::Cow;
use std::time::Duration;

use crate::reason::Reason;

/// JSON-RPC 2.0 and MCP error codes that the gateway uses.
pub mod code {
    pub const PARSE: i64 = -32700;
    pub const INVALID_REQUEST: i64 = -32600;
    pub const METHOD_NOT_FOUND: i64 = -32601;
    pub const INVALID_PARAMS: i64 = -32602;
    pub const INTERNAL: i64 = -32603;
    /// MCP up to 2025-11-25 (server/resources, "Error Handling"); later versions use [`INVALID_PARAMS`].
    pub const RESOURCE_NOT_FOUND: i64 = -32002;
    /// MCP 2026-07-28: header and body disagree, or a needed header is missing or doubled.
    pub const HEADER_MISMATCH: i64 = -32020;
    /// MCP 2026-07-28: the client lacks a required capability.
    pub const MISSING_CAPABILITY: i64 = -32021;
    /// MCP 2026-07-28: the revision is not one that is served.
    pub const UNSUPPORTED_VERSION: i64 = -32022;
}

/// Why a call is rejected: message and codes for the caller, and a label for the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// HTTP status.
    pub status: u16,
    /// JSON-RPC error code; the HTTP status again if no JSON-RPC code matches.
    pub code: i64,
    pub message: Cow<'static, str>,
    /// `error.data` as JSON text.
    pub data: Option<String>,
    pub reason: Reason,
    /// The connection must not be reused: it holds unread bytes.
    pub close: bool,
    /// For the header `WWW-Authenticate` (RFC 9110 §11.6.1).
    pub challenge: Option<String>,
    /// When the same call would pass, for `Retry-After` (RFC 9110 §10.2.3) and `data.retry_after_ms`.
    pub retry_after: Option<Duration>,
}

impl Rejection {
    pub fn new(status: u16, code: i64, reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            data: None,
            reason,
            close: false,
            challenge: None,
            retry_after: None,
        }
    }

    /// A rejection at the HTTP level: the status is the code.
    pub fn http(status: u16, reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(status, status.into(), reason, message)
    }

    pub fn with_data(mut self, data: String) -> Self {
        self.data = Some(data);
        self
    }

    pub fn with_challenge(mut self, challenge: String) -> Self {
        self.challenge = Some(challenge);
        self
    }

    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }
}
