//! The time that the head of a request may take.
//!
//! Pingora bounds the wait for each *piece* of a head and not for the whole, so a client that sends a byte now and
//! then holds a connection for ever. This stands around Pingora's own application, gives it the connection, and
//! ends the connection when the head is not there in time. When the head is there is told by the first phase that
//! runs after it ([`arrived`]), in the same task.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::proxy::HttpProxy;
use pingora::server::ShutdownWatch;
use pingora::time::fast_timeout::fast_sleep;
use tokio::time::Instant;

use super::{Gateway, cork};
use crate::state::State;

/// How long a connection may wait for its next request (Pingora's own figure).
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// Requests on one connection; high enough to mean no limit, and tells a fresh connection from a used one.
const REUSES: u32 = u32::MAX;

tokio::task_local! {
    static ARRIVED: Cell<bool>;
    static BEGUN: Instant;
    static ENDED: Cell<Ended>;
}

/// Runs what serves a connection whose first bytes were waited for since then: that counts.
pub(super) async fn begun<T>(since: Instant, serve: impl Future<Output = T>) -> T {
    BEGUN.scope(since, serve).await
}

/// What the end of a request means for its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ended {
    #[default]
    Done,
    /// The client left before the answer was whole.
    Left,
    /// The connection shall have no further requests.
    Last,
}

/// Called by a phase of a request that means something for its connection.
pub(super) fn ended(how: Ended) {
    // A connection of HTTP/1 has one request at a time, and learns it by `keepalive`.
    let _ = ENDED.try_with(|ended| ended.set(how));
}

/// Called by the first phase that runs when the head of a request is there.
pub fn arrived() {
    // Outside of a connection (a unit test) nobody waits.
    let _ = ARRIVED.try_with(|arrived| arrived.set(true));
}

/// Pingora's application for one listener, with a limit on heads.
pub struct Patient {
    proxy: Arc<HttpProxy<Gateway>>,
    patience: Duration,
    state: Arc<State>,
}

impl Patient {
    pub fn new(mut proxy: HttpProxy<Gateway>, patience: Duration, state: Arc<State>) -> Self {
        let mut options = HttpServerOptions::default();
        options.keepalive_request_limit = Some(REUSES);
        proxy.server_options = Some(options);
        proxy.handle_init_modules();
        Self { proxy: Arc::new(proxy), patience, state }
    }

    /// Serves one request of HTTP/2, whose head is there.
    pub(super) async fn one(&self, session: ServerSession, shutdown: &ShutdownWatch) -> Ended {
        let serve = async {
            self.proxy.process_new_http(session, shutdown).await;
            ENDED.with(Cell::get)
        };
        ENDED.scope(Cell::default(), serve).await
    }
}

#[async_trait]
impl HttpServerApp for Patient {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let fresh = session.get_keepalive_reuses_remaining().is_none_or(|left| left == REUSES);
        let waited = BEGUN.try_with(Instant::elapsed).unwrap_or_default();
        let patience = if fresh { self.patience.saturating_sub(waited) } else { self.patience + IDLE };
        let serve = async {
            let request = self.proxy.process_new_http(session, shutdown);
            tokio::pin!(request);
            tokio::select! {
                biased;
                served = &mut request => return served,
                () = fast_sleep(patience) => {}
            }
            if ARRIVED.with(Cell::get) { request.await } else { None }
        };
        cork::together(ARRIVED.scope(Cell::new(false), serve)).await
    }

    /// After the last accept. Idle connections are closed by this; until then the next request of each is answered
    /// with `Connection: close`.
    async fn http_cleanup(&self) {
        self.state.close_listener().await;
        self.proxy.http_cleanup().await;
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.proxy.server_options.as_ref()
    }
}
