//! JSON-RPC 2.0: what a request says, and the messages of the gateway itself.

pub mod message;
pub mod request;

pub use request::{MessageKind, Rpc};
