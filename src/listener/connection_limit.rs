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

use crate::dispatch::Dispatcher;
use crate::process::fd_limit::FdLimit;
use crate::process::state::ProcessState;

/// Refused clients that are still listened to, so that they can read why.
const MAX_LINGERING: usize = 64;
/// How long.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);
/// How often the log says that it is full.
const LOG_INTERVAL_SECS: u64 = 10;

/// The places at a listener. A connection takes one, and so does each request that is under way on a connection of
/// HTTP/2 beside its first: each may need a connection to a server.
pub struct ConnectionPermits {
    dispatcher: Arc<Dispatcher>,
    fd_limit: FdLimit,
    taken: AtomicUsize,
    started: Instant,
    /// When the log may say next that there are none, in seconds since the start.
    next_log: AtomicU64,
}

/// One of them, until it is dropped.
pub struct ConnectionPermit(Arc<ConnectionPermits>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Release);
    }
}

impl ConnectionPermits {
    pub fn new(dispatcher: Arc<Dispatcher>, descriptors: FdLimit) -> Arc<Self> {
        let (started, tell) = (Instant::now(), AtomicU64::new(0));
        Arc::new(Self {
            dispatcher,
            fd_limit: descriptors,
            taken: AtomicUsize::new(0),
            started,
            next_log: tell,
        })
    }

    /// A place, if there is one left; the log is told if not.
    pub fn acquire(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let max = self.fd_limit.connections(&self.dispatcher.registry.snapshot().config.config);
        // It is given back at once where there was none.
        let place = ConnectionPermit(self.clone());
        if self.taken.fetch_add(1, Ordering::Acquire) < max {
            return Some(place);
        }
        let (now, next) = (self.started.elapsed().as_secs(), self.next_log.load(Ordering::Relaxed));
        let turn = self.next_log.compare_exchange(
            next,
            now + LOG_INTERVAL_SECS,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if now >= next && turn.is_ok() {
            tracing::warn!(limit = max, "too many connections: further ones are refused");
        }
        None
    }
}

pub struct ConnectionLimit<A> {
    inner: Arc<A>,
    permits: Arc<ConnectionPermits>,
    state: Arc<ProcessState>,
    /// What a client over the limit is told; nothing with TLS.
    full: Option<Bytes>,
    refused: AtomicUsize,
}

/// A refused client that is listened to.
struct Lingering<'a>(&'a AtomicUsize);

impl Drop for Lingering<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<A> ConnectionLimit<A> {
    pub fn new(inner: A, places: Arc<ConnectionPermits>, state: Arc<ProcessState>, speaks: bool) -> Self {
        let body = r#"{"error":{"code":"max_connections","message":"the gateway has as many connections as it takes","retry_after_ms":1000}}"#;
        let full = speaks.then(|| {
            Bytes::from(format!(
                "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ))
        });
        Self { inner: Arc::new(inner), permits: places, state, full, refused: AtomicUsize::new(0) }
    }

    /// Turns a client away. A connection that is closed over unread bytes is reset, and then the client may never read
    /// why (RFC 9112 §9.6): so it is listened to for a moment, unless too many are already.
    async fn refuse(&self, mut stream: Stream) {
        self.permits.dispatcher.metrics.rejected("listener", "max_connections");
        let heard = Lingering(&self.refused);
        let few = self.refused.fetch_add(1, Ordering::Relaxed) < MAX_LINGERING;
        let (Some(full), true) = (&self.full, few) else { return };
        let say = async {
            if stream.write_all(full).await.is_err() || stream.shutdown().await.is_err() {
                return;
            }
            let mut rest = [0; 1024];
            while matches!(stream.read(&mut rest).await, Ok(1..)) {}
        };
        let _ = tokio::time::timeout(LINGER_TIMEOUT, say).await;
        drop(heard);
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> ServerApp for ConnectionLimit<A> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let connection = self.state.connect();
        let Some(place) = self.permits.acquire() else {
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
