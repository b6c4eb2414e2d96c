//! The time that the head of a request may take.
//!
//! Pingora bounds the wait for each *piece* of a head and not for the whole, so a client that sends a byte now and
//! then holds a connection for ever. This gives Pingora's own application one request of a connection after the other,
//! and ends the connection when a head is not there in time. When the head is there is told by the first phase that
//! runs after it ([`arrived`]), in the same task.

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

/// How long a connection may wait for its next request (Pingora's own figure).
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

tokio::task_local! {
    /// Until when the head that is waited for has to be there; none while a request is served.
    static HEADER_DEADLINE: Cell<Option<Instant>>;
    static REQUEST_END: Cell<RequestEnd>;
    static STREAM_SLOT: StreamSlot;
}

/// What a request is among those of its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StreamSlot {
    /// It has the place of its connection.
    #[default]
    Connection,
    /// One of HTTP/2 that has a place of its own.
    Extra,
    /// One for which there was no place.
    OverLimit,
}

/// What the request that is being served is among those of its connection.
pub(crate) fn stream_slot() -> StreamSlot {
    // A connection of HTTP/1 has one at a time.
    STREAM_SLOT.try_with(|standing| *standing).unwrap_or_default()
}

/// What the end of a request means for its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RequestEnd {
    #[default]
    Done,
    /// The client left before the answer was whole.
    ClientAborted,
    /// The connection shall have no further requests.
    CloseConnection,
}

/// Called by a phase of a request that means something for its connection.
pub(crate) fn request_ended(how: RequestEnd) {
    // A connection of HTTP/1 has one request at a time, and learns it by `keepalive`.
    let _ = REQUEST_END.try_with(|ended| ended.set(how));
}

/// Called by the first phase that runs when the head of a request is there.
pub fn head_received() {
    // In a stream of HTTP/2 nobody waits here.
    let _ = HEADER_DEADLINE.try_with(|due| due.set(None));
}

/// A request that is being served; what it gives is the connection, if it can be used again.
type Served<'a> = Pin<Box<dyn Future<Output = Option<ReusedHttpStream>> + Send + 'a>>;

/// Pingora's application for one listener, with a limit on heads.
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

    /// Serves one request of HTTP/2, whose head is there.
    pub(crate) async fn one(
        &self,
        session: ServerSession,
        standing: StreamSlot,
        shutdown: &ShutdownWatch,
    ) -> RequestEnd {
        let serve = async {
            self.proxy.process_new_http(session, shutdown).await;
            REQUEST_END.with(Cell::get)
        };
        tcp_cork::with_cork(STREAM_SLOT.scope(standing, REQUEST_END.scope(Cell::default(), serve))).await
    }

    /// Serves a connection of HTTP/1, whose first bytes were waited for since then.
    pub(crate) async fn serve(&self, stream: Stream, started: Instant, shutdown: &ShutdownWatch) {
        let serve = self.watch(keepalive::with_reuse_slot(self.all(stream, shutdown)));
        tcp_cork::with_cork(HEADER_DEADLINE.scope(Cell::new(Some(started + self.header_timeout)), serve))
            .await;
    }

    /// One request after the other. Pingora has such a loop too, with HTTP/2 in it, and what that needs would be kept for
    /// each connection.
    async fn all(&self, stream: Stream, shutdown: &ShutdownWatch) {
        let mut served = self.first(stream, shutdown);
        while let Some(reused) = served.await.or_else(keepalive::take_reused) {
            HEADER_DEADLINE.with(|due| due.set(Some(Instant::now() + self.header_timeout + IDLE_TIMEOUT)));
            served = self.next(reused, shutdown);
        }
    }

    fn first<'a>(&'a self, stream: Stream, shutdown: &'a ShutdownWatch) -> Served<'a> {
        let mut session = ServerSession::new_http1(stream);
        // Where the listener is closing there is no next one.
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

    /// Ends a connection whose next head is not there when it is due. One timer a connection looks now and then, so that a
    /// request costs none.
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
            // Another moment would be that of a later head.
            if due.is_some() && HEADER_DEADLINE.with(Cell::get) == due {
                return;
            }
        }
    }

    /// After the last accept. Idle connections are closed by this; until then the next request of each is answered
    /// with `ConnectionGuard: close`.
    pub(crate) async fn close(&self) {
        self.state.close_listener().await;
        self.proxy.http_cleanup().await;
    }
}
