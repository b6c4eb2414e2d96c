//! The words of MCP: revisions, methods, definitions, the messages that the gateway itself makes, server-sent events.
//!
//! Nobody else names a protocol revision. Nothing here does I/O.

pub mod definitions;
pub mod handles;
pub mod method;
pub mod revision;
pub mod sse;
pub mod wire;

pub use filters::call::header;
