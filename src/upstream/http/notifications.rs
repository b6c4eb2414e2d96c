//! Notifications of an endpoint outside of calls: the GET stream of a legacy session, and
//! `subscriptions/listen` of the modern era.

use std::time::Duration;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderValue, StatusCode};
use mcp::Era;
use mcp::era_codec::is_rejection_status;
use tokio::sync::{Notify, mpsc};

use super::era_errors::is_refused;
use super::response::{ReadOptions, ResponseBody, is_sse};
use super::sending::Asks;
use super::{HttpEndpoint, UpstreamSession, is_session_expired, own_id};
use crate::upstream::{RpcOutcome, UpstreamError, WatchEnd};
use mcp::jsonrpc::message;
use mcp::sse;
use mcp::sse::EventSplitter;

/// The longest reconnection time that a server may set.
const MAX_RETRY: Duration = Duration::from_secs(3600);

const LISTEN: &str = Era::Modern.codec().listen_method().expect("modern servers have it");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// Where a notification stream is to be resumed.
#[derive(Debug, Default)]
pub struct StreamCursor {
    /// The id of the last event.
    pub last: Option<HeaderValue>,
    /// The server's reconnection time.
    pub retry: Option<Duration>,
}

/// Why a notification stream is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationsEnd {
    /// It ended; the server may open another.
    Ended,
    /// The server has none.
    Unsupported,
    /// The receiver is gone.
    NoReceiver,
}

/// The response to a request for the notification stream.
pub(crate) enum StreamOpen {
    Open(reqwest::Response),
    /// It has none.
    None,
    /// It opens none now.
    Busy(String),
}

impl HttpEndpoint {
    /// Reads notifications, message by message, until the stream ends properly.
    pub(crate) async fn listen(
        &self,
        server_era: Era,
        upstream_session: Option<&UpstreamSession>,
        listen: &Bytes,
        out: mpsc::Sender<Bytes>,
    ) -> Result<WatchEnd, UpstreamError> {
        match self.open_stream(server_era, upstream_session, listen).await? {
            StreamOpen::Open(response) => self
                .forward_events(response, batches(upstream_session), &mut StreamCursor::default(), &out)
                .await
                .map(|_| WatchEnd::Ended),
            StreamOpen::None => Ok(WatchEnd::Rejected),
            StreamOpen::Busy(why) => Err(UpstreamError::InvalidResponse(why)),
        }
    }

    /// Opens the notification stream: legacy GET, or modern `subscriptions/listen`.
    pub(crate) async fn open_stream(
        &self,
        server_era: Era,
        upstream_session: Option<&UpstreamSession>,
        listen: &Bytes,
    ) -> Result<StreamOpen, UpstreamError> {
        let (timeout, id) = (self.call_timeout(), own_id());
        let response = match server_era {
            Era::Legacy => {
                let mut headers = self.head(server_era, upstream_session);
                headers.insert(ACCEPT, EVENTS);
                self.stream(headers, timeout).await?
            }
            Era::Modern => {
                let method = LISTEN;
                let body = message::request(&id, method, listen);
                self.post(
                    server_era,
                    None,
                    server_era.codec().mirrored_headers(method, listen),
                    body,
                    timeout,
                    Asks::Alone,
                )
                .await?
                .0
            }
        };
        let status = response.status();
        match status {
            _ if is_session_expired(server_era, status, upstream_session) => {
                return Err(UpstreamError::SessionExpired);
            }
            _ if status.is_success() && is_sse(&response) => return Ok(StreamOpen::Open(response)),
            _ if server_era == Era::Legacy && has_no_stream(status) => return Ok(StreamOpen::None),
            _ if server_era == Era::Modern && is_rejection_status(status.as_u16()) => {
                return Ok(StreamOpen::None);
            }
            _ => {}
        }
        match self.read_response(response, ReadOptions::new(&id, timeout)).await {
            Ok(RpcOutcome::Error(error)) if status.is_success() && is_refused(&error) => Ok(StreamOpen::None),
            _ => Ok(StreamOpen::Busy(format!("HTTP {status} and no stream"))),
        }
    }

    /// Reads the legacy notification stream of a session, from the cursor `place` on; `begun` is notified
    /// when it is open.
    pub async fn announcements(
        &self,
        upstream_session: &UpstreamSession,
        place: &mut StreamCursor,
        begun: &Notify,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<NotificationsEnd, UpstreamError> {
        let mut headers = self.head(Era::Legacy, Some(upstream_session));
        headers.insert(ACCEPT, EVENTS);
        if let Some(last) = &place.last {
            headers.insert("last-event-id", last.clone());
        }
        let response = self.stream(headers, self.call_timeout()).await?;
        begun.notify_waiters();
        match response.status() {
            status if is_session_expired(Era::Legacy, status, Some(upstream_session)) => {
                Err(UpstreamError::SessionExpired)
            }
            status if status.is_success() && is_sse(&response) => {
                self.forward_events(response, upstream_session.has_batches(), place, out).await
            }
            // If the server cannot resume the last stream, it may begin another.
            status if status.is_client_error() && place.last.take().is_some() => {
                Err(UpstreamError::InvalidResponse(format!("HTTP {status} for the id of an event")))
            }
            // Many servers answer so for a session that they do not know.
            StatusCode::BAD_REQUEST
                if upstream_session.session.is_some()
                    && self.knows_session(upstream_session).await == Some(false) =>
            {
                Err(UpstreamError::SessionExpired)
            }
            status if has_no_stream(status) => Ok(NotificationsEnd::Unsupported),
            status => Err(UpstreamError::InvalidResponse(format!("HTTP {status}"))),
        }
    }

    /// Forwards the messages of a stream until it ends. `batches`: many may come as one.
    pub(crate) async fn forward_events(
        &self,
        response: reqwest::Response,
        batches: bool,
        place: &mut StreamCursor,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<NotificationsEnd, UpstreamError> {
        let (max, idle) = (self.limits().max_response, self.limits().stream_idle);
        let mut splitter = EventSplitter::new(max);
        let mut body = ResponseBody::of(response, max)?;
        let mut ended = false;
        while !ended {
            // The other end of a silent stream may be gone; the caller opens another.
            let Ok(piece) = tokio::time::timeout(idle, body.chunk()).await else {
                return Ok(NotificationsEnd::Ended);
            };
            match piece? {
                Some(piece) => splitter.push(&piece),
                None => {
                    splitter.finish();
                    ended = true;
                }
            }
            while let Some(event) = splitter.event().map_err(|_| UpstreamError::TooLarge(max))? {
                let read = sse::read(&event);
                if let Some(id) = &read.id {
                    place.last = HeaderValue::from_str(id).ok().filter(|id| !id.is_empty());
                }
                if let Some(retry) = read.retry.as_ref().and_then(|retry| retry.parse().ok()) {
                    place.retry = Some(Duration::from_millis(retry).min(MAX_RETRY));
                }
                let Some(data) = read.message() else { continue };
                let data = Bytes::copy_from_slice(data);
                let parts = if batches { message::batch(&data) } else { None };
                for message in parts.unwrap_or_else(|| vec![data]) {
                    if out.send(message).await.is_err() {
                        return Ok(NotificationsEnd::NoReceiver);
                    }
                }
            }
        }
        Ok(NotificationsEnd::Ended)
    }
}

/// A legacy server has no such stream; other rejections may be temporary.
fn has_no_stream(status: StatusCode) -> bool {
    status.is_success() || matches!(status.as_u16(), 404 | 405 | 406 | 501)
}

fn batches(upstream_session: Option<&UpstreamSession>) -> bool {
    upstream_session.is_some_and(UpstreamSession::has_batches)
}
