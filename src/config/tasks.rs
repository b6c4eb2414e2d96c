//! Which calls the gateway makes tasks of.

use schemars::JsonSchema;
use serde::Deserialize;

use super::scalar::duration::ConfigDuration;
use super::scalar::globs::GlobList;

/// Calls that the gateway makes tasks of, for clients with the extension `io.modelcontextprotocol/tasks`. Not of
/// a server that has the extension itself.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TasksSetting {
    /// Patterns for its tools, by their own names or the federated ones.
    #[schemars(extend("minItems" = 1))]
    pub tools: GlobList,
    /// A call that takes longer becomes a task: 100ms to 1h. Default: `10s`.
    #[serde(default = "TasksSetting::after")]
    pub after: ConfigDuration,
}

impl TasksSetting {
    fn after() -> ConfigDuration {
        ConfigDuration::secs(10)
    }
}
