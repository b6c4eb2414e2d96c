//! How many connections and requests a listener has, and what happens to connections over the limit.
//!
//! They are answered with `503` and closed, as other proxies do. In the queue of the system they would wait
//! for an unknown time, and a load balancer would not try another gateway. With TLS they are closed without
//! a response, which would cost a handshake.

use mcp::Reason;
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

/// Maximum number of refused clients whose data is still read, so that they can read the reason.
const MAX_LINGERING: usize = 64;
/// For how long.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);
/// How often the log reports that the limit is reached.
const LOG_INTERVAL_SECS: u64 = 10;

/// The permits of a listener. A connection takes one, and so does each further concurrent request on an
/// HTTP/2 connection: each may need a connection to a server.
pub struct ConnectionPermits {
    dispatcher: Arc<Dispatcher>,
    fd_limit: FdLimit,
    taken: AtomicUsize,
    started: Instant,
    /// When the log may report the limit next, in seconds since the start.
    next_log: AtomicU64,
}

/// One permit, until it is dropped.
pub struct ConnectionPermit(Arc<ConnectionPermits>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Release);
    }
}

impl ConnectionPermits {
    pub fn new(dispatcher: Arc<Dispatcher>, descriptors: FdLimit) -> Arc<Self> {
        let (started, next_log) = (Instant::now(), AtomicU64::new(0));
        Arc::new(Self { dispatcher, fd_limit: descriptors, taken: AtomicUsize::new(0), started, next_log })
    }

    /// A permit, if there is one left; otherwise this is logged.
    pub fn acquire(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let max = self.fd_limit.connections(&self.dispatcher.registry.snapshot().config.config);
        // Released at once if the limit was reached.
        let permit = ConnectionPermit(self.clone());
        if self.taken.fetch_add(1, Ordering::Acquire) < max {
            return Some(permit);
        }
        let (now, next) = (self.started.elapsed().as_secs(), self.next_log.load(Ordering::Relaxed));
        let claimed = self.next_log.compare_exchange(
            next,
            now + LOG_INTERVAL_SECS,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if now >= next && claimed.is_ok() {
            tracing::warn!(limit = max, "too many connections: further ones are refused");
        }
        None
    }
}

pub struct ConnectionLimit<A> {
    inner: Arc<A>,
    permits: Arc<ConnectionPermits>,
    state: Arc<ProcessState>,
    /// The response to a client over the limit; `None` with TLS.
    full: Option<Bytes>,
    refused: AtomicUsize,
}

/// Counts a refused client whose data is still read.
struct Lingering<'a>(&'a AtomicUsize);

impl Drop for Lingering<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<A> ConnectionLimit<A> {
    pub fn new(inner: A, permits: Arc<ConnectionPermits>, state: Arc<ProcessState>, plaintext: bool) -> Self {
        let body = r#"{"error":{"code":"max_connections","message":"the gateway has as many connections as it takes","retry_after_ms":1000}}"#;
        let full = plaintext.then(|| {
            Bytes::from(format!(
                "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ))
        });
        Self { inner: Arc::new(inner), permits, state, full, refused: AtomicUsize::new(0) }
    }

    /// Refuses a client. A connection that is closed with unread bytes is reset, and then the client may
    /// never read the reason (RFC 9112 §9.6). So its data is read for a moment, unless too many clients
    /// already linger.
    async fn refuse(&self, mut stream: Stream) {
        self.permits.dispatcher.metrics.rejected("listener", Reason::MaxConnections);
        let lingering = Lingering(&self.refused);
        let few = self.refused.fetch_add(1, Ordering::Relaxed) < MAX_LINGERING;
        let (Some(full), true) = (&self.full, few) else { return };
        let respond = async {
            if stream.write_all(full).await.is_err() || stream.shutdown().await.is_err() {
                return;
            }
            let mut rest = [0; 1024];
            while matches!(stream.read(&mut rest).await, Ok(1..)) {}
        };
        let _ = tokio::time::timeout(LINGER_TIMEOUT, respond).await;
        drop(lingering);
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> ServerApp for ConnectionLimit<A> {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let connection = self.state.connect();
        let Some(permit) = self.permits.acquire() else {
            Box::pin(self.refuse(stream)).await;
            return None;
        };
        // In a task of its own: Pingora's task keeps the memory for a TLS handshake, 9 KiB, as long as it
        // runs.
        let (inner, shutdown) = (self.inner.clone(), shutdown.clone());
        tokio::spawn(async move {
            let _guards = (connection, permit);
            // The loop over the requests of a connection runs inside; nothing is returned from there.
            inner.process_new(stream, &shutdown).await;
        });
        None
    }

    async fn cleanup(&self) {
        self.inner.cleanup().await;
    }
}
