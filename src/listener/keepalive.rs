//! Keeps a client's connection after a call whose server failed.
//!
//! Pingora always closes an HTTP/1 connection when the exchange that it forwards has failed. But the client
//! has read a whole response and may already be sending its next request. So the finished exchange is taken
//! from Pingora here, ended as Pingora ends others, and the connection is passed to the loop that serves
//! its next request.

use std::cell::Cell;
use std::io::Cursor;

use pingora::apps::{HttpPersistentSettings, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::proxy::Session;

tokio::task_local! {
    static REUSED: Cell<Option<ReusedHttpStream>>;
}

/// Serves a connection; a connection that is kept during this waits for [`take_reused`].
pub(crate) async fn with_reuse_slot<T>(serve: impl Future<Output = T>) -> T {
    REUSED.scope(Cell::default(), serve).await
}

/// The connection of the exchange that has ended, if it was kept.
pub(crate) fn take_reused() -> Option<ReusedHttpStream> {
    REUSED.with(Cell::take)
}

/// Ends a failed exchange, so that Pingora has nothing to close. Call it in the last phase, and only if the
/// client has received the whole announced response.
pub(crate) async fn reuse_connection(session: &mut Session) {
    if session.as_downstream().as_http1().is_none() {
        return;
    }
    let settings = HttpPersistentSettings::for_session(session.as_downstream());
    let nothing = ServerSession::new_http1(Box::new(Cursor::new(Vec::new())));
    let exchange = std::mem::replace(session.as_downstream_mut(), nothing);
    // This closes a connection that is not reusable cleanly. A failure here is the client's connection,
    // which has ended then.
    let Ok(Some(stream)) = exchange.finish().await else { return };
    let reused = ReusedHttpStream::from_reusable_stream(stream, settings);
    // HTTP/2 streams returned above, so there is a loop that serves the connection.
    let _ = REUSED.try_with(|kept| kept.set(Some(reused)));
}
