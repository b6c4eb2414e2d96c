//! The words of MCP: revisions, methods, the messages that the gateway itself makes, and server-sent events.
//!
//! Nobody else names a protocol revision. Nothing here does I/O.

pub mod method;
pub mod revision;
pub mod sse;
pub mod wire;

pub use filters::call::header;
