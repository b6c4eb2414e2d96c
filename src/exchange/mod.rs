//! One message to an HTTP server: what it is, and how the gateway's own client sends it. Pingora sends most of
//! them (`proxy/`); the decisions are the same.

mod call;
pub mod client_request;
mod upstream_request;

pub use upstream_request::{
    ForwardedAnswer, ForwardedCall, ResumedStream, UpstreamRequest, UpstreamRequestKind,
};
