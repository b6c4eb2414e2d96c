//! Reads at a bounded rate. A process that writes more waits, as on a slow terminal.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep};

pub(crate) struct Paced<R> {
    from: R,
    /// Bytes per interval `time`.
    rate: usize,
    time: Duration,
    /// What may still be read until this moment.
    left: usize,
    until: Instant,
    wait: Option<Pin<Box<Sleep>>>,
}

impl<R> Paced<R> {
    pub fn new(from: R, rate: usize, time: Duration) -> Self {
        Self { from, rate, time, left: rate, until: Instant::now() + time, wait: None }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Paced<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if let Some(wait) = &mut this.wait {
                ready!(wait.as_mut().poll(cx));
                this.wait = None;
            }
            let now = Instant::now();
            if now >= this.until {
                (this.left, this.until) = (this.rate, now + this.time);
            }
            if this.left > 0 {
                break;
            }
            this.wait = Some(Box::pin(tokio::time::sleep_until(this.until)));
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut this.from).poll_read(cx, into))?;
        this.left = this.left.saturating_sub(into.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_flood_comes_at_its_rate_and_nothing_is_lost() {
        let time = Duration::from_millis(50);
        let (mut to, from) = tokio::io::duplex(4096);
        let mut paced = Paced::new(from, 100_000, time);
        let started = Instant::now();
        let sent: Vec<u8> = (0..350_000).map(|n: u32| n.to_le_bytes()[0]).collect();
        let again = sent.clone();
        let writer = tokio::spawn(async move { to.write_all(&again).await });
        let mut all = Vec::new();
        paced.read_to_end(&mut all).await.expect("all of it");
        writer.await.expect("it ends").expect("all was taken");
        assert!(all == sent);
        // Less than three waits would be too fast; more are the machine's.
        assert!(started.elapsed() >= time * 2, "{:?}", started.elapsed());
    }
}
