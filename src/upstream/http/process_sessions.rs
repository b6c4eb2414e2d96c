//! Sessions of clients at an endpoint, each of which may be a process.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::{HttpEndpoint, UpstreamSession, own_id};
use crate::upstream::{ProcessStarts, ServerHandshake, UpstreamError, WantedProcess};

impl HttpEndpoint {
    /// Each session is a process, whose start is told here.
    pub(super) fn set_starts(&self, starts: Arc<ProcessStarts>) {
        let _ = self.starts.set(starts);
    }

    /// Timeout of the `initialize` of a client's session.
    pub(super) fn open_timeout(&self) -> Duration {
        let limits = self.limits();
        if self.starts.get().is_some() { limits.startup } else { limits.timeout }
    }

    /// Opens a session for a client: its own `initialize` params go to the server, with the protocol version
    /// that the gateway negotiated with it. `owner` is the caller, if it is not the gateway.
    pub async fn open(
        &self,
        params: &[u8],
        bearer: Option<HeaderValue>,
        timeout: Duration,
        owner: Option<u64>,
    ) -> Result<(UpstreamSession, ServerHandshake), UpstreamError> {
        let id = own_id();
        let Some(starts) = self.starts.get() else {
            return self.open_as(&id, params, bearer, timeout).await;
        };
        let start = starts.begin(&id, WantedProcess { owner, timeout });
        // The adapter says first that the time is over, and knows more.
        let opened = self.open_as(&id, params, bearer, timeout + Duration::from_secs(5)).await;
        opened.map_err(|error| start.explain(error))
    }
}
