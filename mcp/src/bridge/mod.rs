//! What a message of one era is in the other, value by value: params, results, errors, entries of lists,
//! capabilities, and the questions of a server to its client.
//!
//! The legacy era has requests of the server to the client (2025-11-25, client/elicitation, sampling, roots);
//! the modern era has results that ask for input and are answered by a retry (2026-07-28,
//! basic/utilities/mrtr). This module translates texts. It keeps no state and waits for nobody: the gateway's
//! `bridge/` does.

pub mod capabilities;
pub mod content;
pub mod entries;
pub mod errors;
pub mod params;
pub mod questions;
pub mod results;

/// Members of `_meta` that 2026-07-28 puts into each request, and legacy requests do not have.
pub const ENVELOPE: [&str; 4] = [
    crate::jsonrpc::request::META_VERSION,
    crate::jsonrpc::request::META_CLIENT,
    crate::jsonrpc::request::META_CAPABILITIES,
    crate::jsonrpc::request::META_LOG_LEVEL,
];

/// Where a modern result names its server.
pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";

/// Where a message of 2025-11-25 names its task, which the modern era has not.
pub const RELATED_TASK: &str = "io.modelcontextprotocol/related-task";
