//! The timer of a call. Each message about the call restarts it. While the server waits for the client (for a
//! person, perhaps) it is paused.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct CallTimer {
    started: Instant,
    /// Milliseconds from `started` to the last message.
    last_activity: AtomicU64,
    /// Open requests to the client.
    open: AtomicUsize,
}

impl Default for CallTimer {
    fn default() -> Self {
        Self { started: Instant::now(), last_activity: AtomicU64::new(0), open: AtomicUsize::new(0) }
    }
}

impl CallTimer {
    /// A message about the call has come.
    pub fn activity(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_activity.store(now, Ordering::Relaxed);
    }

    /// A request was sent to the client.
    pub fn pause(&self) {
        self.open.fetch_add(1, Ordering::Release);
    }

    /// A request was answered, or was dropped.
    pub fn resume(&self) {
        self.activity();
        self.open.fetch_sub(1, Ordering::Release);
    }

    /// The remaining time; `None` while it is paused.
    pub fn remaining(&self, timeout: Duration) -> Option<Duration> {
        let open = self.open.load(Ordering::Acquire) > 0;
        let active_at = Duration::from_millis(self.last_activity.load(Ordering::Relaxed));
        (!open).then(|| active_at.saturating_add(timeout).saturating_sub(self.started.elapsed()))
    }

    /// Returns when the time is over.
    pub async fn expired(&self, timeout: Duration) {
        loop {
            match self.remaining(timeout) {
                Some(Duration::ZERO) => return,
                Some(left) => tokio::time::sleep(left).await,
                // Whenever it resumes, it cannot expire before this.
                None => tokio::time::sleep(timeout).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_stands_still_while_a_question_is_open() {
        let timer = CallTimer::default();
        let timeout = Duration::from_secs(3600);
        assert!(timer.remaining(timeout).is_some());
        timer.pause();
        timer.pause();
        timer.resume();
        assert_eq!(timer.remaining(Duration::ZERO), None, "one is open still");
        timer.resume();
        assert_eq!(timer.remaining(Duration::ZERO), Some(Duration::ZERO));
        timer.expired(Duration::ZERO).await;
    }
}
