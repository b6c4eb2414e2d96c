//! Limits of the processes of a stdio server: of each, and of their number.

use schemars::JsonSchema;
use serde::Deserialize;

use super::diagnostics::NodeRef;
use super::limits::within;
use super::scalar::size::ByteSize;

/// Processes of one server for all callers together, by default.
const MAX_PROCESSES: u32 = 64;
const MOST_PROCESSES: u32 = 10_000;

/// What the system lets each process of a stdio server have (rlimits).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessLimits {
    /// Data of each process, in bytes: heap and private writable memory (RLIMIT_DATA). 16MiB to 1024GiB. Default: no
    /// limit.
    pub memory: Option<ByteSize>,
    /// Processes and threads of the gateway's user at which the program can start no more (RLIMIT_NPROC). It does
    /// not hold for root. 1 to 1000000. Default: no limit.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub processes: Option<u32>,
}

impl ProcessLimits {
    pub(super) fn check(self, node_ref: &NodeRef<'_>) {
        if let Some(memory) = self.memory {
            within(node_ref, "memory", memory, (ByteSize::mib(16), ByteSize::mib(1 << 20)));
        }
        if let Some(processes) = self.processes {
            within(node_ref, "processes", processes, (1, 1_000_000));
        }
    }
}

/// All limits of the processes of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StdioLimits {
    pub process: ProcessLimits,
    /// See [`StdioLimits::max_processes`].
    pub max_processes: Option<u32>,
    /// See [`StdioLimits::share`].
    pub max_processes_per_caller: Option<u32>,
}

impl StdioLimits {
    /// How many processes all callers may have.
    pub fn max_processes(self) -> usize {
        self.max_processes.unwrap_or(MAX_PROCESSES) as usize
    }

    /// How many processes one caller may have.
    pub fn share(self) -> usize {
        let all = self.max_processes();
        self.max_processes_per_caller.map_or((all / 4).max(4), |share| share as usize).min(all)
    }

    pub(super) fn check(self, node_ref: &NodeRef<'_>, is_isolated: bool) {
        if let Some(limits) = node_ref.child("limits") {
            self.process.check(&limits);
        }
        for (key, value) in [
            ("max_processes", self.max_processes),
            ("max_processes_per_caller", self.max_processes_per_caller),
        ] {
            let (Some(value), Some(key_ref)) = (value, node_ref.child(key)) else { continue };
            within(node_ref, key, value, (1, MOST_PROCESSES));
            if !is_isolated {
                let message = format!("{}: requires `isolation: session`", key_ref.path);
                key_ref.reject_key(message, "set `isolation: session`, or remove this", "");
            }
        }
    }
}
