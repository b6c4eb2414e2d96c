//! Header names of MCP over HTTP (2026-07-28, basic/transports/streamable-http).

use http::HeaderName;

pub const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub const METHOD: HeaderName = HeaderName::from_static("mcp-method");
pub const NAME: HeaderName = HeaderName::from_static("mcp-name");
pub const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
