//! The filters for MCP calls: values in, decisions out.
//!
//! Nothing here opens a socket, uses a web framework or names a protocol version. External needs (counters,
//! keys) are traits. So every filter can be read, tested, benchmarked and fuzzed alone.

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
