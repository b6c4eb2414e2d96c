//! Messages to the server, each as a POST request. The response to one says only that it was accepted; the
//! answer comes as an event.
//!
//! Calls are sent at the same time, since some servers answer a POST only after the call. A notification is sent
//! when those before it were accepted, and a cancellation after its call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use mcp::Era;
use reqwest::Url;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::upstream::UpstreamError;
use crate::upstream::http::HttpEndpoint;
use crate::upstream::http::response::error_text;
use crate::upstream::http::retry::retry_after;
use crate::upstream::http::sending::response_to;
use crate::upstream::shared_connection::{ConnectionError, OutgoingLine, SharedConnection};

/// Requests at the same time.
const MAX_POSTS: usize = 64;
/// How long a cancellation waits until its call was accepted, and a notification until it was accepted.
const ORDER_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Posts {
    pub http: Arc<HttpEndpoint>,
    pub url: Url,
}

/// What became of a message.
enum PostEnd {
    Accepted,
    /// This message was refused.
    Refused(UpstreamError),
    /// The server does not know the stream any more.
    Lost(String),
}

impl Posts {
    /// Sends the queue until the server has forgotten the stream; returns the reason.
    pub async fn send_all(
        self: Arc<Self>,
        connection: Arc<SharedConnection>,
        mut queue: mpsc::UnboundedReceiver<OutgoingLine>,
    ) -> String {
        let slots = Arc::new(Semaphore::new(MAX_POSTS));
        let mut posts = JoinSet::new();
        let mut accepted: HashMap<u64, oneshot::Receiver<()>> = HashMap::new();
        loop {
            let message = tokio::select! {
                Some(done) = posts.join_next() => match done {
                    Ok(Some(why)) => return why,
                    _ => continue,
                },
                Some(message) = queue.recv() => message,
                else => return "the gateway closes it".into(),
            };
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { continue };
            if !connection.begin(&message) {
                continue;
            }
            accepted.retain(|_, accepted| accepted.try_recv() == Err(oneshot::error::TryRecvError::Empty));
            let (me, connection) = (Arc::clone(&self), Arc::clone(&connection));
            match (message.call, message.cancels) {
                (Some(id), _) => {
                    let (sent, is_sent) = oneshot::channel::<()>();
                    accepted.insert(id, is_sent);
                    posts.spawn(async move {
                        let end = me.post(&message, me.http.call_timeout()).await;
                        drop((sent, slot));
                        match end {
                            PostEnd::Accepted => None,
                            PostEnd::Refused(error) => {
                                connection.finish(Some(id), Err(ConnectionError::Refused(error)));
                                None
                            }
                            PostEnd::Lost(why) => Some(why),
                        }
                    });
                }
                (None, Some(id)) => {
                    let before = accepted.remove(&id);
                    posts.spawn(async move {
                        if let Some(before) = before {
                            // An error only means that it has ended.
                            let _ = timeout(ORDER_TIMEOUT, before).await;
                        }
                        let end = me.post(&message, ORDER_TIMEOUT).await;
                        drop(slot);
                        me.lost(end)
                    });
                }
                (None, None) => {
                    let end = self.post(&message, ORDER_TIMEOUT).await;
                    if let Some(why) = self.lost(end) {
                        return why;
                    }
                }
            }
        }
    }

    fn lost(&self, end: PostEnd) -> Option<String> {
        match end {
            PostEnd::Accepted => None,
            PostEnd::Refused(error) => {
                tracing::debug!(server = %self.http.label, %error, "a notification was not accepted");
                None
            }
            PostEnd::Lost(why) => Some(why),
        }
    }

    async fn post(&self, message: &OutgoingLine, timeout: Duration) -> PostEnd {
        let mut headers: HeaderMap = self.http.head(Era::Legacy, None);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        let body = message.line.trim_ascii_end().to_vec();
        let request = self.http.client.post(self.url.clone()).headers(headers).body(body);
        let response = match response_to(request, timeout, false).await {
            Ok(response) => response,
            // The server may have read it, and its answer may still come.
            Err(UpstreamError::TimedOut(_)) => return PostEnd::Accepted,
            Err(error) => return PostEnd::Refused(error),
        };
        let status = response.status();
        match status.as_u16() {
            200..=299 => {
                // Read to its end, so that the connection can serve another request.
                error_text(response).await;
                PostEnd::Accepted
            }
            401 | 403 => PostEnd::Refused(self.http.denied(response, false, false).await),
            404 | 410 => PostEnd::Lost(format!("the server answers HTTP {status} to a message")),
            429 | 503 => {
                PostEnd::Refused(UpstreamError::RetryLater(status.as_u16(), retry_after(response.headers())))
            }
            502 | 504 => PostEnd::Refused(UpstreamError::Unreachable(format!("HTTP {status}"))),
            _ => PostEnd::Refused(UpstreamError::InvalidResponse(format!("HTTP {status}"))),
        }
    }
}
