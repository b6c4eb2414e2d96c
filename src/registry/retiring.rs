//! The end of a server that is no longer configured: its calls finish, then its connections are closed.

use std::sync::Arc;
use std::time::Duration;

use super::Replaced;
use crate::server::Server;

/// A server that no snapshot holds any more.
pub(super) struct Retiring {
    pub old: Replaced,
    /// No other server has taken over its connections.
    pub ends: bool,
}

impl Retiring {
    pub fn retire(self) {
        self.old.supervisor.abort();
        self.old.server.retired.cancel();
        if self.ends {
            tokio::spawn(retire(self.old.server));
        }
    }
}

/// Lets the calls of a server that is no longer configured finish, then closes it.
pub(super) async fn retire(server: Arc<Server>) {
    let timeout = tokio::time::Instant::now() + server.timeout + Duration::from_secs(1);
    // A request that has read the old snapshot may be about to start its call.
    tokio::time::sleep(Duration::from_millis(500)).await;
    while server.in_flight() > 0 && tokio::time::Instant::now() < timeout {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.upstream.close().await;
    tracing::info!(server = %server.name, "server closed");
}
