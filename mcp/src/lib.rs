//! The MCP protocol: versions, methods, definitions, the gateway's own messages, server-sent events.
//!
//! Only this crate names protocol versions. It does no I/O.

pub mod bridge;
pub mod era;
pub mod era_codec;
pub mod header_name;
pub mod header_value;
pub mod json;
pub mod jsonrpc;
pub mod method;
pub mod reason;
pub mod rejection;
pub mod sse;
pub mod tasks;
pub mod version;

pub use era::Era;
pub use era_codec::EraCodec;
pub use json::{Span, Text};
pub use jsonrpc::{MessageKind, Rpc};
pub use reason::Reason;
pub use rejection::Rejection;
