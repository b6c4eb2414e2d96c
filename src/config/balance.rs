//! Load balancing over the endpoints of a server, and retries.
//!
//! Only the settings. `upstream/retry.rs` decides what is safe to retry.

use schemars::JsonSchema;
use serde::Deserialize;

/// Which of several endpoints receives a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Each endpoint in turn.
    #[default]
    RoundRobin,
    /// The endpoint with the fewest calls in flight.
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
    /// Calls of tools with the annotation `idempotentHint` or `readOnlyHint` are retried like reads. Only for
    /// trusted servers.
    pub idempotent: bool,
}

/// After which failure a call is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RetryOn {
    /// The connection failed, so nothing was sent: every call.
    Connect,
    /// The connection was reset before the response began: only reads.
    Reset,
    /// Bad gateway: only reads.
    #[serde(rename = "502")]
    BadGateway,
    /// Service unavailable: only reads.
    #[serde(rename = "503")]
    Unavailable,
    /// Gateway timeout: only reads.
    #[serde(rename = "504")]
    GatewayTimeout,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 2, on: vec![RetryOn::Connect], idempotent: false }
    }
}
