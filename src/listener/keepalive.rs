//! Keeps a client's connection after a call whose server failed.
//!
//! Pingora closes a connection of HTTP/1 when what it relays has failed, whatever it is told, though the client has read
//! a whole answer and may be sending its next request by now. Here the finished exchange is taken out of its hands, ended
//! as it ends others, and the connection given to whoever serves the next request of it.

use std::cell::Cell;
use std::io::Cursor;

use pingora::apps::{HttpPersistentSettings, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::proxy::Session;

tokio::task_local! {
    static REUSED: Cell<Option<ReusedHttpStream>>;
}

/// Serves a connection; what is kept in the course of it waits for [`taken`].
pub(crate) async fn with_reuse_slot<T>(serve: impl Future<Output = T>) -> T {
    REUSED.scope(Cell::default(), serve).await
}

/// The connection of the exchange that has ended, if it was kept.
pub(crate) fn take_reused() -> Option<ReusedHttpStream> {
    REUSED.with(Cell::take)
}

/// Ends an exchange that has failed; nothing is left of it for Pingora to close. To be called in its last phase, and only
/// if the client was told all that it was promised.
pub(crate) async fn reuse_connection(session: &mut Session) {
    if session.as_downstream().as_http1().is_none() {
        return;
    }
    let settings = HttpPersistentSettings::for_session(session.as_downstream());
    let nothing = ServerSession::new_http1(Box::new(Cursor::new(Vec::new())));
    let exchange = std::mem::replace(session.as_downstream_mut(), nothing);
    // One that is not to be used again is closed in good order by this. What fails here is the client's connection, and
    // that is over then.
    let Ok(Some(stream)) = exchange.finish().await else { return };
    let reused = ReusedHttpStream::from_reusable_stream(stream, settings);
    // A stream of HTTP/2 was sorted out above, so that there is somebody who serves the connection.
    let _ = REUSED.try_with(|kept| kept.set(Some(reused)));
}
