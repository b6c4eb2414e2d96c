//! How many connections and requests a listener has, and what becomes of connections over the limit.
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

use crate::dispatch::Door;
use crate::process::fd_limit::Descriptors;
use crate::process::state::State;

/// Refused clients that are still listened to, so that they can read why.
const HEARD: usize = 64;
/// How long.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often the log says that it is full.
const AGAIN: u64 = 10;

/// The places at a listener. A connection takes one, and so does each request that is under way on a connection of
/// HTTP/2 beside its first: each may need a connection to a server.
pub struct Places {
    door: Arc<Door>,
    descriptors: Descriptors,
    taken: AtomicUsize,
    started: Instant,
    /// When the log may say next that there are none, in seconds since the start.
    tell: AtomicU64,
}

/// One of them, until it is dropped.
pub struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Release);
    }
}

impl Places {
    pub fn new(door: Arc<Door>, descriptors: Descriptors) -> Arc<Self> {
        let (started, tell) = (Instant::now(), AtomicU64::new(0));
        Arc::new(Self { door, descriptors, taken: AtomicUsize::new(0), started, tell })
    }

    /// A place, if there is one left; the log is told if not.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let most = self.descriptors.connections(&self.door.registry.house().plan.config);
        // It is given back at once where there was none.
        let place = Place(self.clone());
        if self.taken.fetch_add(1, Ordering::Acquire) < most {
            return Some(place);
        }
        let (now, next) = (self.started.elapsed().as_secs(), self.tell.load(Ordering::Relaxed));
        let turn = self.tell.compare_exchange(next, now + AGAIN, Ordering::Relaxed, Ordering::Relaxed);
        if now >= next && turn.is_ok() {
            tracing::warn!(limit = most, "too many connections: further ones are refused");
        }
        None
    }
}

pub struct Crowd<A> {
    inner: Arc<A>,
    places: Arc<Places>,
    state: Arc<State>,
    /// What a client over the limit is told; nothing with TLS.
    full: Option<Bytes>,
    refused: AtomicUsize,
}

/// A refused client that is listened to.
struct Heard<'a>(&'a AtomicUsize);

impl Drop for Heard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<A> Crowd<A> {
    pub fn new(inner: A, places: Arc<Places>, state: Arc<State>, speaks: bool) -> Self {
        let body = r#"{"error":{"code":"max_connections","message":"the gateway has as many connections as it takes","retry_after_ms":1000}}"#;
        let full = speaks.then(|| {
            Bytes::from(format!(
                "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ))
        });
        Self { inner: Arc::new(inner), places, state, full, refused: AtomicUsize::new(0) }
    }

    /// Turns a client away. A connection that is closed over unread bytes is reset, and then the client may never read
    /// why (RFC 9112 §9.6): so it is listened to for a moment, unless too many are already.
    async fn refuse(&self, mut stream: Stream) {
        self.places.door.metrics.rejected("listener", "max_connections");
        let heard = Heard(&self.refused);
        let few = self.refused.fetch_add(1, Ordering::Relaxed) < HEARD;
        let (Some(full), true) = (&self.full, few) else { return };
        let say = async {
            if stream.write_all(full).await.is_err() || stream.shutdown().await.is_err() {
                return;
            }
            let mut rest = [0; 1024];
            while matches!(stream.read(&mut rest).await, Ok(1..)) {}
        };
        let _ = tokio::time::timeout(PATIENCE, say).await;
        drop(heard);
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> ServerApp for Crowd<A> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let connection = self.state.connect();
        let Some(place) = self.places.take() else {
            Box::pin(self.refuse(stream)).await;
            return None;
        };
        // In a task of its own: that of Pingora keeps the room for a handshake of TLS as long as it runs, 9 KiB.
        let (inner, shutdown) = (self.inner.clone(), shutdown.clone());
        tokio::spawn(async move {
            let _there = (connection, place);
            // The loop over the requests of a connection is inside; nothing comes back from there.
            inner.process_new(stream, &shutdown).await;
        });
        None
    }

    async fn cleanup(&self) {
        self.inner.cleanup().await;
    }
}
