//! How calls are spread over the equal endpoints of a server, and which of them are tried again.
//!
//! Only what is written; what is safe to repeat is decided where it is done (`upstream/retry.rs`).

use schemars::JsonSchema;
use serde::Deserialize;

/// Which of several endpoints a call goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Each endpoint in turn.
    #[default]
    RoundRobin,
    /// The one with the fewest calls under way.
    LeastInFlight,
    /// Always the same for a session, or for a caller where there are no sessions: consistent hashing.
    Session,
}

/// Which failed calls are retried. A call that may change something is never sent twice.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Most times that a call is tried, the first included: 2 to 5.
    #[schemars(range(min = 2, max = 5))]
    pub attempts: u32,
    /// The failures after which a call is retried. Default: `[connect]`.
    #[schemars(extend("minItems" = 1))]
    pub on: Vec<RetryOn>,
    /// Calls of tools whose annotations say `idempotentHint` or `readOnlyHint` are repeated like reads. Only for
    /// servers whose word is trusted.
    pub idempotent: bool,
}

/// After what a call is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RetryOn {
    /// No connection could be made, so nothing was sent: every call.
    Connect,
    /// The connection broke before the answer began: what only reads.
    Reset,
    /// Bad gateway: what only reads.
    #[serde(rename = "502")]
    BadGateway,
    /// Service unavailable: what only reads.
    #[serde(rename = "503")]
    Unavailable,
    /// Gateway timeout: what only reads.
    #[serde(rename = "504")]
    GatewayTimeout,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 2, on: vec![RetryOn::Connect], idempotent: false }
    }
}
