//! The judging of MCP calls: values in, verdicts out.
//!
//! Nothing here opens a socket, knows a web framework or names a protocol revision; what needs the outside
//! (counters, keys) is handed in as a trait. So every filter can be read, tested, benched and fuzzed by itself.

pub mod auth;
pub mod cel;
pub mod chain;
pub mod filter;
pub mod guard;
pub mod header_match;
pub mod origin;
pub mod param_headers;
pub mod rate_limit;
pub mod rbac;
pub mod request;
pub mod size_limits;
pub mod uri;

pub use crate::request::{
    AuthMethod, Call, CallTarget, Caller, Identity, RejectedMessage, RequestHead, TargetKind,
};
pub use chain::{Chain, ChainRejection, Permit};
pub use filter::Filter;
