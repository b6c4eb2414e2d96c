//! How many connections a listener has, and what becomes of those over the limit.
//!
//! They are told `503` and closed, as other proxies close theirs: left in the queue of the system they would wait for
//! nobody knows how long, and a load balancer would not look for another gateway. With TLS they are closed without a
//! word, since a word would cost a handshake.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use pingora::apps::ServerApp;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::descriptors::Descriptors;
use crate::door::Door;
use crate::state::State;

/// Refused clients that are still listened to, so that they can read why.
const HEARD: usize = 64;
/// How long.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the log says that it is full.
const AGAIN: u64 = 10;

pub struct Crowd<A> {
    inner: Arc<A>,
    door: Arc<Door>,
    state: Arc<State>,
    descriptors: Descriptors,
    /// What a client over the limit is told; nothing with TLS.
    full: Option<Bytes>,
    inside: AtomicUsize,
    refused: AtomicUsize,
    started: Instant,
    /// When the log may say it next, in seconds since the start.
    tell: AtomicU64,
}

/// One place among those that there are.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

fn place(count: &AtomicUsize, most: usize) -> Option<Place<'_>> {
    let place = Place(count);
    // The place is given back at once where there is none.
    (count.fetch_add(1, Ordering::Acquire) < most).then_some(place)
}

impl<A> Crowd<A> {
    pub fn new(inner: A, door: Arc<Door>, state: Arc<State>, descriptors: Descriptors, speaks: bool) -> Self {
        let body = r#"{"error":{"code":"max_connections","message":"the gateway has as many connections as it takes","retry_after_ms":1000}}"#;
        let full = speaks.then(|| {
            Bytes::from(format!(
                "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ))
        });
        Self {
            inner: Arc::new(inner),
            door,
            state,
            descriptors,
            full,
            inside: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            started: Instant::now(),
            tell: AtomicU64::new(0),
        }
    }

    /// Turns a client away. A connection that is closed over unread bytes is reset, and then the client may never read
    /// why (RFC 9112 §9.6): so it is listened to for a moment, unless too many are already.
    async fn refuse(&self, mut stream: Stream, most: usize) {
        self.door.metrics.rejected("listener", "max_connections");
        let (now, next) = (self.started.elapsed().as_secs(), self.tell.load(Ordering::Relaxed));
        let turn = self.tell.compare_exchange(next, now + AGAIN, Ordering::Relaxed, Ordering::Relaxed);
        if now >= next && turn.is_ok() {
            tracing::warn!(limit = most, "too many connections: further ones are refused");
        }
        let (Some(full), Some(_heard)) = (&self.full, place(&self.refused, HEARD)) else { return };
        let say = async {
            if stream.write_all(full).await.is_err() || stream.shutdown().await.is_err() {
                return;
            }
            let mut rest = [0; 1024];
            while matches!(stream.read(&mut rest).await, Ok(1..)) {}
        };
        let _ = tokio::time::timeout(PATIENCE, say).await;
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> ServerApp for Crowd<A> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let _connection = self.state.connect();
        let most = self.descriptors.connections(&self.door.registry.house().plan.config);
        let Some(_place) = place(&self.inside, most) else {
            self.refuse(stream, most).await;
            return None;
        };
        // The loop over the requests of a connection is inside; nothing comes back from there.
        self.inner.process_new(stream, shutdown).await
    }

    async fn cleanup(&self) {
        self.inner.cleanup().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back() {
        let count = AtomicUsize::new(0);
        let first = place(&count, 2).expect("there are two");
        let second = place(&count, 2).expect("there are two");
        assert!(place(&count, 2).is_none());
        assert!(place(&count, 2).is_none(), "asking costs nothing");
        drop(first);
        let third = place(&count, 2).expect("one is free again");
        drop((second, third));
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }
}
