//! JSON-RPC 2.0: parsing of requests, and the gateway's own messages.

pub mod message;
pub mod request;

pub use request::{MessageKind, Rpc};
