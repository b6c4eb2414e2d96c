//! How long a call has been waited for. Each message about it starts the time anew, and while its server waits for the
//! client (for a person, perhaps) the time stands still.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Clock {
    began: Instant,
    /// Milliseconds from then to the last message.
    heard: AtomicU64,
    /// Questions to the client that are open.
    open: AtomicUsize,
}

impl Default for Clock {
    fn default() -> Self {
        Self { began: Instant::now(), heard: AtomicU64::new(0), open: AtomicUsize::new(0) }
    }
}

impl Clock {
    /// A message about the call has come.
    pub fn heard(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }

    /// The client was asked.
    pub fn hold(&self) {
        self.open.fetch_add(1, Ordering::Release);
    }

    /// A question was answered, or is none any more.
    pub fn release(&self) {
        self.heard();
        self.open.fetch_sub(1, Ordering::Release);
    }

    /// What is left of the time; none while it stands still.
    pub fn left(&self, patience: Duration) -> Option<Duration> {
        let open = self.open.load(Ordering::Acquire) > 0;
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        (!open).then(|| heard.saturating_add(patience).saturating_sub(self.began.elapsed()))
    }

    /// Comes back when the time is over.
    pub async fn over(&self, patience: Duration) {
        loop {
            match self.left(patience) {
                Some(Duration::ZERO) => return,
                Some(left) => tokio::time::sleep(left).await,
                // Whenever it goes on, it is not over before this.
                None => tokio::time::sleep(patience).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_stands_still_while_a_question_is_open() {
        let clock = Clock::default();
        let patience = Duration::from_secs(3600);
        assert!(clock.left(patience).is_some());
        clock.hold();
        clock.hold();
        clock.release();
        assert_eq!(clock.left(Duration::ZERO), None, "one is open still");
        clock.release();
        assert_eq!(clock.left(Duration::ZERO), Some(Duration::ZERO));
        clock.over(Duration::ZERO).await;
    }
}
