//! Messages that are dropped because their sender may not send them: each is counted, some are logged.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use prometheus::{IntCounterVec, Opts};

/// Minimum interval between log lines, in milliseconds: such a sender may send many messages.
const LOG_INTERVAL: u64 = 1000;

static DROPPED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Messages that went nowhere because their sender may not send them.";
    let labels = ["from", "kind", "method", "server"];
    IntCounterVec::new(Opts::new("toolgate_messages_dropped_total", help), &labels)
        .expect("the names and labels of metrics are constants")
});

/// A dropped message. Its strings come from closed lists, never from the sender.
#[derive(Clone, Copy, Debug)]
pub struct DroppedMessage<'a> {
    /// `client` or `server`.
    pub from: &'static str,
    /// `request`, `notification`, or `_other` for what is no message.
    pub kind: &'static str,
    pub method: &'static str,
    /// The configured name of the server that sent it; empty for a client's.
    pub server: &'a str,
}

impl DroppedMessage<'_> {
    pub fn count(self) {
        static LOG_PACE: LogPace = LogPace::new();
        let Self { from, kind, method, server } = self;
        DROPPED.with_label_values(&[from, kind, method, server]).inc();
        let now = u64::try_from(STARTED.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Some(suppressed) = LOG_PACE.take(now) {
            tracing::warn!(
                from,
                kind,
                method,
                server,
                suppressed,
                "a message that its sender may not send was dropped"
            );
        }
    }
}

pub(super) fn counters() -> IntCounterVec {
    DROPPED.clone()
}

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// One log line per interval, and the number suppressed since the last.
struct LogPace {
    next: AtomicU64,
    suppressed: AtomicU64,
}

impl LogPace {
    const fn new() -> Self {
        Self { next: AtomicU64::new(0), suppressed: AtomicU64::new(0) }
    }

    fn take(&self, now: u64) -> Option<u64> {
        let next = self.next.load(Ordering::Relaxed);
        let taken = now >= next
            && self
                .next
                .compare_exchange(next, now + LOG_INTERVAL, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !taken {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.suppressed.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_in_a_while_and_the_next_says_how_many_were_not() {
        let pace = LogPace::new();
        assert_eq!(pace.take(5), Some(0));
        assert_eq!((pace.take(6), pace.take(1004)), (None, None));
        assert_eq!(pace.take(1005), Some(2));
        assert_eq!(pace.take(1006), None);
    }
}
