//! A request of the client, as it came.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use mcp::Era;
use mcp::jsonrpc::request::Rpc;

use crate::upstream::http::param_headers_of;
use mcp::header_name;
use mcp::method::Method;

pub struct StdioRequest {
    /// As it came.
    pub line: Bytes,
    /// As written.
    pub id: Bytes,
    pub method: Method,
    pub rpc: Box<Rpc>,
}

impl StdioRequest {
    pub fn new(line: Bytes, rpc: Box<Rpc>) -> Self {
        let id = rpc.id.map(|id| line.slice(id.start..id.end)).unwrap_or_default();
        let method = Method::parse(&rpc.method_name(&line));
        Self { line, id, method, rpc }
    }

    /// It carries its version itself (2026-07-28 on) instead of belonging to a session.
    pub fn is_modern(&self) -> bool {
        self.rpc.meta.protocol_version.is_some() || self.rpc.meta.client_capabilities.is_some()
    }

    pub fn params(&self) -> Bytes {
        self.rpc.params.map(|span| self.line.slice(span.start..span.end)).unwrap_or_default()
    }

    /// Whether it may be sent again when its arrival is unknown.
    pub(super) fn is_idempotent(&self) -> bool {
        self.method.is_idempotent() || matches!(self.method, Method::Discover | Method::Ping)
    }

    /// The standard headers of a modern request (2026-07-28, streamable-http, "Standard Headers"); other
    /// code adds those that repeat arguments.
    pub fn head(&self) -> HeaderMap {
        let mut headers = param_headers_of(Era::Modern, &self.line);
        let version = self.rpc.meta.protocol_version.map(|version| version.read(&self.line));
        if let Some(version) = version.and_then(|version| HeaderValue::from_str(&version).ok()) {
            headers.insert(header_name::PROTOCOL_VERSION, version);
        }
        headers
    }
}
