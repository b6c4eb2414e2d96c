//! The limits of a server's process, which its descendants inherit.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::ProcessLimits;

/// For a child between fork and exec: system calls alone. A higher limit than the gateway's own is that.
///
/// Memory is `RLIMIT_DATA`: `RLIMIT_AS` also counts addresses that are only reserved, of which Node and the JVM
/// take many gigabytes.
pub fn apply(limits: ProcessLimits) -> io::Result<()> {
    let (memory, processes) = (limits.memory.map(|size| size.bytes()), limits.processes.map(u64::from));
    for (resource, limit) in [(Resource::RLIMIT_DATA, memory), (Resource::RLIMIT_NPROC, processes)] {
        if let Some(limit) = limit {
            let (_, hard) = getrlimit(resource)?;
            setrlimit(resource, limit.min(hard), limit.min(hard))?;
        }
    }
    Ok(())
}
