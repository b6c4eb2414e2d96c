//! The gateway's own requests to one endpoint: handshakes, lists, notifications, in a legacy control session.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use mcp::Era;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::era_errors::classify_era_error;
use super::notifications::{StreamCursor, StreamOpen};
use super::response::{ReadOptions, is_sse};
use super::{HttpEndpoint, UpstreamSession, own_id};
use crate::upstream::{
    LISTS_CHANGED, RpcOutcome, ServerHandshake, UpstreamCall, UpstreamError, gateway_handshake,
    gateway_params,
};
use mcp::jsonrpc::message;
use mcp::rejection::code;

/// The health check of legacy servers.
const PING: &str = Era::Legacy.codec().health_check();
/// Pauses between two notification streams.
const MIN_BACKOFF: Duration = Duration::from_millis(200);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// A stream that lasted this long was useful; the next is opened soon.
const MIN_STREAM_AGE: Duration = Duration::from_secs(1);

impl HttpEndpoint {
    pub(crate) async fn connect(
        &self,
        server_era: Era,
        until: Instant,
    ) -> Result<ServerHandshake, UpstreamError> {
        let time = until.saturating_duration_since(Instant::now());
        let connected = tokio::time::timeout(time, async {
            self.peer.resolve().await?;
            match server_era {
                Era::Modern => self.discover(time).await,
                Era::Legacy => self.initialize(time).await,
            }
        });
        connected.await.unwrap_or(Err(UpstreamError::TimedOut(time)))
    }

    async fn initialize(&self, time: Duration) -> Result<ServerHandshake, UpstreamError> {
        let mut control_session = self.control_session.lock().await;
        if let Some(upstream_session) = control_session.take() {
            self.close_session(&upstream_session).await;
        }
        let (upstream_session, handshake) =
            self.open(&gateway_handshake(Era::Legacy), None, time, None).await?;
        *control_session = Some(Arc::new(upstream_session));
        Ok(handshake)
    }

    async fn discover(&self, timeout: Duration) -> Result<ServerHandshake, UpstreamError> {
        let server_era = Era::Modern;
        let codec = server_era.codec();
        let (method, params) = (codec.handshake_method(), gateway_handshake(server_era));
        let id = own_id();
        let body = message::request(&id, method, &params);
        let response =
            self.send(server_era, None, codec.mirrored_headers(method, &params), body, timeout).await?;
        let status = response.status();
        let result = classify_era_error(
            server_era,
            status,
            self.read_response(response, ReadOptions::new(&id, timeout)).await,
        )?;
        let handshake = ServerHandshake::read(&result, codec.newest_version().to_owned());
        // An old server may have another method of that name.
        handshake.map_err(|error| UpstreamError::WrongEra(server_era, error.to_string()))
    }

    pub(crate) async fn call(&self, ask: UpstreamCall<'_>) -> Result<RpcOutcome, UpstreamError> {
        let outcome = self.call_once(&ask).await;
        match &outcome {
            // The server has forgotten the session, so it did not process the request: once more in a new
            // one.
            Err(UpstreamError::SessionExpired) => *self.control_session.lock().await = None,
            // Some servers report that in other ways than by 404. A ping has no effect, and a server that
            // knows its session answers it.
            refused if is_refused_ping(&ask, refused) => {
                let Some(upstream_session) = self.control_session.lock().await.take() else { return outcome };
                self.close_session(&upstream_session).await;
            }
            _ => return outcome,
        }
        self.call_once(&ask).await
    }

    pub(crate) async fn watch_lists(
        &self,
        server_era: Era,
        changed: &mpsc::Sender<()>,
    ) -> Result<(), UpstreamError> {
        let listen = gateway_params(server_era, LISTS_CHANGED);
        let mut pause = MIN_BACKOFF;
        loop {
            let upstream_session = match server_era {
                Era::Legacy => self.control_session.lock().await.clone(),
                Era::Modern => None,
            };
            let started = Instant::now();
            match self.open_stream(server_era, upstream_session.as_deref(), &listen).await? {
                StreamOpen::None => return Ok(()),
                StreamOpen::Busy(why) => {
                    tracing::debug!(endpoint = self.label, why, "no notification stream now")
                }
                StreamOpen::Open(response) => {
                    // No notification came for changes before the stream was open. A modern server notifies
                    // of them itself.
                    if server_era == Era::Legacy && changed.send(()).await.is_err() {
                        return Ok(());
                    }
                    let (out, mut messages) = mpsc::channel::<Bytes>(64);
                    let forward = async {
                        while let Some(message) = messages.recv().await {
                            if let (Some(upstream_session), Some(me)) = (&upstream_session, self.me.upgrade())
                            {
                                me.handle(upstream_session, &message);
                            }
                            if message::is_list_change(&message) && changed.send(()).await.is_err() {
                                return;
                            }
                        }
                    };
                    let batches = upstream_session.as_deref().is_some_and(UpstreamSession::has_batches);
                    let forwarding = async move {
                        self.forward_events(response, batches, &mut StreamCursor::default(), &out).await
                    };
                    let (end, ()) = tokio::join!(forwarding, forward);
                    end?;
                }
            }
            // Every proxy on the way may end the stream. But streams that end as soon as they begin cost both
            // sides.
            if started.elapsed() > MIN_STREAM_AGE.max(pause) {
                pause = MIN_BACKOFF;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_BACKOFF);
        }
    }

    pub(crate) async fn close(&self) {
        if let Some(upstream_session) = self.control_session.lock().await.take() {
            self.close_session(&upstream_session).await;
        }
    }

    async fn control_session(&self) -> Result<Arc<UpstreamSession>, UpstreamError> {
        let mut control_session = self.control_session.lock().await;
        if let Some(upstream_session) = &*control_session {
            return Ok(upstream_session.clone());
        }
        let upstream_session =
            Arc::new(self.open(&gateway_handshake(Era::Legacy), None, self.call_timeout(), None).await?.0);
        *control_session = Some(upstream_session.clone());
        Ok(upstream_session)
    }

    async fn call_once(&self, ask: &UpstreamCall<'_>) -> Result<RpcOutcome, UpstreamError> {
        let (upstream_session, extra) = match ask.server_era {
            Era::Legacy => (Some(self.control_session().await?), HeaderMap::new()),
            Era::Modern => (None, ask.server_era.codec().mirrored_headers(ask.method, &ask.params)),
        };
        let id = own_id();
        let body = message::request(&id, ask.method, &ask.params);
        let response =
            self.send(ask.server_era, upstream_session.as_deref(), extra, body, ask.timeout).await?;
        let batches =
            upstream_session.as_ref().is_some_and(|upstream_session| upstream_session.has_batches());
        if let Some(upstream_session) =
            upstream_session.as_ref().filter(|upstream_session| upstream_session.session.is_some())
        {
            match response.status() {
                StatusCode::NOT_FOUND => return Err(UpstreamError::SessionExpired),
                // The response to a ping is evaluated below.
                StatusCode::BAD_REQUEST
                    if ask.method != PING && self.knows_session(upstream_session).await == Some(false) =>
                {
                    return Err(UpstreamError::SessionExpired);
                }
                _ => {}
            }
        }
        if ask.server_era == Era::Legacy && ask.method.ends_with("/list") {
            self.lists_as_events.store(is_sse(&response), Ordering::Relaxed);
        }
        let (upstream_session, progress) = (upstream_session.as_deref(), ask.progress.as_ref());
        self.read_response(
            response,
            ReadOptions { batches, upstream_session, progress, ..ReadOptions::new(&id, ask.timeout) },
        )
        .await
    }
}

/// Whether an error means that the server has no such method.
pub(crate) fn is_unknown_method(error: &[u8]) -> bool {
    message::error_code(error) == Some(code::METHOD_NOT_FOUND)
}

/// Whether a legacy server has answered, but with an error to a ping. A server that does not implement ping
/// is healthy all the same.
fn is_refused_ping(ask: &UpstreamCall<'_>, outcome: &Result<RpcOutcome, UpstreamError>) -> bool {
    ask.server_era == Era::Legacy
        && ask.method == PING
        && match outcome {
            Err(UpstreamError::InvalidResponse(_)) => true,
            Ok(RpcOutcome::Error(error)) => !is_unknown_method(error),
            _ => false,
        }
}
