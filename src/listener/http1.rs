//! The timeout for the head of a request.
//!
//! Pingora bounds the wait for each *chunk* of a head but not for the whole, so a client that sends a byte
//! now and then holds a connection forever. This server gives Pingora's application one request of a
//! connection after the other, and ends the connection when a head is not complete in time. The first phase
//! that runs after the head reports it ([`head_received`]), in the same task.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use pingora::apps::{HttpServerApp as _, ReusedHttpStream};
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::proxy::{HttpProxy, ProxyHttp};
use pingora::server::ShutdownWatch;
use tokio::time::Instant;

use super::{keepalive, tcp_cork};
use crate::process::state::ProcessState;

/// How long a connection may wait for its next request (Pingora's own value).
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

tokio::task_local! {
    /// Deadline of the head that is awaited; `None` while a request is served.
    static HEADER_DEADLINE: Cell<Option<Instant>>;
    static REQUEST_END: Cell<RequestEnd>;
    static STREAM_SLOT: StreamSlot;
}

/// Which slot a request has in its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StreamSlot {
    /// It has the slot of its connection.
    #[default]
    Connection,
    /// An HTTP/2 request with a permit of its own.
    Extra,
    /// A request for which there was no permit.
    OverLimit,
}

/// The slot of the request that is being served.
pub(crate) fn stream_slot() -> StreamSlot {
    // A connection of HTTP/1 has one request at a time.
    STREAM_SLOT.try_with(|slot| *slot).unwrap_or_default()
}

/// What the end of a request means for its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RequestEnd {
    #[default]
    Done,
    /// The client disconnected before the response was complete.
    ClientAborted,
    /// The connection must not have further requests.
    CloseConnection,
}

/// Called by a phase of a request when its end concerns the connection.
pub(crate) fn request_ended(how: RequestEnd) {
    // A connection of HTTP/1 has one request at a time, and learns it by `keepalive`.
    let _ = REQUEST_END.try_with(|ended| ended.set(how));
}

/// Called by the first phase that runs after the head of a request.
pub fn head_received() {
    // In an HTTP/2 stream there is no such deadline.
    let _ = HEADER_DEADLINE.try_with(|due| due.set(None));
}

/// A request that is being served; its result is the connection, if that can be reused.
type Served<'a> = Pin<Box<dyn Future<Output = Option<ReusedHttpStream>> + Send + 'a>>;

/// Pingora's application for one listener, with a timeout for heads.
pub struct Http1Server<P> {
    proxy: Arc<HttpProxy<P>>,
    header_timeout: Duration,
    state: Arc<ProcessState>,
}

impl<P> Http1Server<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    pub fn new(mut proxy: HttpProxy<P>, timeout: Duration, state: Arc<ProcessState>) -> Self {
        proxy.handle_init_modules();
        Self { proxy: Arc::new(proxy), header_timeout: timeout, state }
    }

    /// Serves one HTTP/2 request whose head is there.
    pub(crate) async fn one(
        &self,
        session: ServerSession,
        slot: StreamSlot,
        shutdown: &ShutdownWatch,
    ) -> RequestEnd {
        let serve = async {
            self.proxy.process_new_http(session, shutdown).await;
            REQUEST_END.with(Cell::get)
        };
        tcp_cork::with_cork(STREAM_SLOT.scope(slot, REQUEST_END.scope(Cell::default(), serve))).await
    }

    /// Serves an HTTP/1 connection; the gateway has waited for its first bytes since `started`.
    pub(crate) async fn serve(&self, stream: Stream, started: Instant, shutdown: &ShutdownWatch) {
        let serve = self.watch(keepalive::with_reuse_slot(self.all(stream, shutdown)));
        tcp_cork::with_cork(HEADER_DEADLINE.scope(Cell::new(Some(started + self.header_timeout)), serve))
            .await;
    }

    /// Serves one request after the other. Pingora has such a loop too, but with HTTP/2 in it, and its
    /// memory would be kept for each connection.
    async fn all(&self, stream: Stream, shutdown: &ShutdownWatch) {
        let mut served = self.first(stream, shutdown);
        while let Some(reused) = served.await.or_else(keepalive::take_reused) {
            HEADER_DEADLINE.with(|due| due.set(Some(Instant::now() + self.header_timeout + IDLE_TIMEOUT)));
            served = self.next(reused, shutdown);
        }
    }

    fn first<'a>(&'a self, stream: Stream, shutdown: &'a ShutdownWatch) -> Served<'a> {
        let mut session = ServerSession::new_http1(stream);
        // When the listener closes, there is no next request.
        session.set_keepalive((!*shutdown.borrow()).then_some(IDLE_TIMEOUT.as_secs()));
        self.proxy.process_new_http(session, shutdown)
    }

    fn next<'a>(&'a self, reused: ReusedHttpStream, shutdown: &'a ShutdownWatch) -> Served<'a> {
        let (stream, settings) = reused.consume();
        let mut session = ServerSession::new_http1(stream);
        if let Some(settings) = settings {
            settings.apply_to_session(&mut session);
        }
        self.proxy.process_new_http(session, shutdown)
    }

    /// Ends a connection whose next head misses its deadline. One timer per connection checks from time to
    /// time, so a request needs none.
    async fn watch(&self, serve: impl Future<Output = ()>) {
        let mut serve = pin!(serve);
        loop {
            let due = HEADER_DEADLINE.with(Cell::get);
            let look = due.unwrap_or_else(|| Instant::now() + self.header_timeout);
            tokio::select! {
                biased;
                () = &mut serve => return,
                () = tokio::time::sleep_until(look) => {}
            }
            // A different value belongs to a later head.
            if due.is_some() && HEADER_DEADLINE.with(Cell::get) == due {
                return;
            }
        }
    }

    /// Called after the last accept. It closes idle connections; until then the next request of each
    /// connection is answered with `Connection: close`.
    pub(crate) async fn close(&self) {
        self.state.close_listener().await;
        self.proxy.http_cleanup().await;
    }
}
