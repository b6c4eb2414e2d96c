//! How many descriptors this process may have open, and how many connections they suffice for.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::{Config, Limits};

/// Descriptors that the gateway uses without any client: logs, listeners, runtimes, watches, the store of
/// limits, refused connections.
const RESERVED: u64 = 128;
/// Descriptors of one server: pipes of two processes, or connections for its notifications.
const PER_SERVER: u64 = 8;
/// Descriptors of one client: its connection, and one to a server.
const PER_CLIENT: u64 = 2;

/// The share of all descriptors that may be idle connections to servers: one in this many, and at most this
/// many per worker.
const IDLE: u64 = 8;
const IDLE_OF_WORKER: u64 = 1024;

/// A connection limit below this is logged even with the default setting.
const LOW_LIMIT: u64 = 4096;

/// The limit before it was raised; 0 if it was not raised.
static ORIGINAL_LIMIT: AtomicU64 = AtomicU64::new(0);

/// For a child between fork and exec. The raised limit is not for programs that may use `select`, or that
/// close all possible descriptors.
pub fn restore() -> io::Result<()> {
    let before = ORIGINAL_LIMIT.load(Ordering::Relaxed);
    if before == 0 {
        return Ok(());
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, before.min(hard), hard)?)
}

/// The descriptors that this process may have open, as far as the system says.
pub fn descriptors() -> Option<usize> {
    usize::try_from(getrlimit(Resource::RLIMIT_NOFILE).ok()?.0).ok()
}

/// The limit of this process, as raised at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdLimit(u64);

impl FdLimit {
    /// Raises the soft limit to the hard limit.
    pub fn raise() -> Self {
        let limits = getrlimit(Resource::RLIMIT_NOFILE);
        let Ok((soft, hard)) = limits else {
            tracing::warn!("the limit of open files cannot be read");
            return Self(1024);
        };
        match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => {
                ORIGINAL_LIMIT.store(soft, Ordering::Relaxed);
                Self(hard)
            }
            Err(error) => {
                tracing::warn!(%error, soft, hard, "the limit of open files cannot be raised");
                Self(soft)
            }
        }
    }

    /// Logs what the limit suffices for.
    pub fn log(self, config: &Config) {
        let (wanted, max) = (config.limits.max_connections, self.connections(config));
        // Few deployments need the default number of connections, so it is compared with a lower value. An
        // explicit number counts in full.
        let enough = if wanted == Limits::default().max_connections { wanted.min(LOW_LIMIT) } else { wanted };
        if max as u64 >= enough {
            tracing::info!(open_files = self.0, max_connections = max, "limits of this process");
        } else {
            let needs = self.required(config);
            tracing::warn!(
                open_files = self.0,
                max_connections = max,
                "open files are too few for limits.max_connections ({wanted}): {needs} would do; fewer connections are taken"
            );
        }
    }

    /// Descriptors that everything the file allows would take.
    fn required(self, config: &Config) -> u64 {
        let listeners = 1 + u64::from(config.admin.is_some());
        let used = RESERVED
            + PER_SERVER * config.servers.len() as u64
            + PER_CLIENT * listeners * config.limits.max_connections;
        (used + used.div_ceil(IDLE - 1)).min(used + Self::idle_of_all(config))
    }

    fn idle_of_all(config: &Config) -> u64 {
        IDLE_OF_WORKER * config.workers.count() as u64
    }

    /// Idle connections to servers that one worker keeps for the next call. Client sessions have
    /// connections of their own to each server. Without a bound, those of many sessions would use up all
    /// descriptors.
    pub fn idle(self, config: &Config) -> usize {
        let all = (self.0 / IDLE).min(Self::idle_of_all(config));
        usize::try_from(all / config.workers.count() as u64).unwrap_or(usize::MAX).max(1)
    }

    /// Client connections that a listener accepts: those that the file allows, as far as there are
    /// descriptors for them and their servers. A refused connection does less harm than a call that cannot
    /// reach its server.
    pub fn connections(self, config: &Config) -> usize {
        let listeners = 1 + u64::from(config.admin.is_some());
        let idle = (self.idle(config) * config.workers.count()) as u64;
        let rest = self.0.saturating_sub(RESERVED + PER_SERVER * config.servers.len() as u64 + idle);
        let max = (rest / (PER_CLIENT * listeners)).max(1).min(config.limits.max_connections);
        usize::try_from(max).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::config::Workers;

    #[test]
    fn connections_fit_into_the_descriptors() {
        let mut config = Config::quickstart();
        assert_eq!(config.servers.len(), 1);
        config.limits.max_connections = 1000;
        config.workers = Workers::Count(NonZeroUsize::new(4).expect("some"));
        for (open, max, idle) in [
            (u64::MAX, 1000, 1024),
            (1_000_000, 1000, 1024),
            (2442, 1000, 76),
            (2438, 999, 76),
            (1024, 380, 32),
            (138, 1, 4),
            (16, 1, 1),
        ] {
            let found = FdLimit(open);
            assert_eq!((found.connections(&config), found.idle(&config)), (max, idle), "{open}");
        }
        let needs = FdLimit(16).required(&config);
        assert_eq!((needs, FdLimit(needs).connections(&config)), (2442, 1000));
    }
}
