//! The judging of MCP calls: values in, verdicts out.
//!
//! Nothing here opens a socket, knows a web framework or names a protocol revision; what needs the outside
//! (counters, keys) is handed in as a trait. So every filter can be read, tested, benched and fuzzed by itself.

pub mod agree;
pub mod auth;
pub mod call;
pub mod chain;
pub mod filter;
pub mod guard;
pub mod json;
pub mod mirror;
pub mod origin;
pub mod rate;
pub mod rbac;
pub mod rebuild;
pub mod rpc;
pub mod rules;
pub mod size;
pub mod uri;
pub mod verdict;

pub use call::{Aim, Call, Caller, Era, Head, Identity, Means, Refused, Thing};
pub use chain::{Chain, Permit, Stop};
pub use filter::Filter;
pub use json::{Span, Text};
pub use rpc::{Kind, Rpc};
pub use verdict::{Refusal, Verdict};
