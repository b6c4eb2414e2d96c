//! The words of MCP: revisions, methods, definitions, the messages that the gateway itself makes, server-sent events.
//!
//! Nobody else names a protocol revision. Nothing here does I/O.

pub mod era;
pub mod header_name;
pub mod header_value;
pub mod json;
pub mod jsonrpc;
pub mod method;
pub mod rejection;
pub mod sse;
pub mod version;

pub use era::Era;
pub use json::{Span, Text};
pub use jsonrpc::{MessageKind, Rpc};
pub use rejection::Rejection;
