//! How the gateway's own client sends: on shared connections, on those of an upstream session, or on one that serves
//! this request alone.
//!
//! On a reused HTTP/1 connection, a message may be the belated response to another request (RFC 9112 §9.2).
//! An id shows that. If a message without an id may come, and is for a caller, the connection must not have
//! carried other requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use mcp::Era;

use super::peer::PeerResolver;
use super::response;
use super::response::unreachable;
use super::{HttpEndpoint, UpstreamSession};
use super::{head_limits, redirect};
use crate::upstream::{Peer, UpstreamError, UpstreamLimits, cause};

/// Idle connections of one upstream session. They close after [`super::peer::IDLE`].
const MAX_IDLE: usize = 64;

/// For whom a message is sent, and on which connection.
#[derive(Clone, Copy)]
pub enum Asks {
    /// For the gateway itself. The response is for its own use and its operator, so that it is trusted.
    Gateway,
    /// For a caller, on a shared connection.
    Caller,
    /// For a caller, on a connection of its own, unless HTTP/2 streams separate the requests.
    Alone,
    /// The same for the caller whose upstream session it is alone: on a connection of that session.
    Session,
}

impl HttpEndpoint {
    /// Sends one message and returns the head of the response. `extra` replaces headers of the same names.
    ///
    /// # Errors
    ///
    /// If it is [`UpstreamError::Unreachable`], nothing was sent.
    pub async fn send(
        &self,
        server_era: Era,
        upstream_session: Option<&UpstreamSession>,
        extra: HeaderMap,
        body: Bytes,
        timeout: Duration,
    ) -> Result<reqwest::Response, UpstreamError> {
        let (response, certain) =
            self.post(server_era, upstream_session, extra, body, timeout, Asks::Gateway).await?;
        self.welcome(
            response,
            upstream_session.is_some_and(|upstream_session| upstream_session.bearer().is_some()),
            certain,
        )
        .await
    }

    pub(crate) async fn welcome(
        &self,
        response: reqwest::Response,
        with_bearer: bool,
        certain: bool,
    ) -> Result<reqwest::Response, UpstreamError> {
        match response.status().as_u16() {
            401 | 403 => Err(self.denied(response, with_bearer, certain).await),
            _ => Ok(response),
        }
    }

    /// The error for a rejection of the gateway's credentials (401, 403). If there were none, the server's
    /// message may explain it; it is passed on only if it certainly belongs to this request.
    pub async fn denied(
        &self,
        response: reqwest::Response,
        with_bearer: bool,
        certain: bool,
    ) -> UpstreamError {
        let status = response.status().as_u16();
        if with_bearer || !self.peer.headers.is_empty() {
            return UpstreamError::Credentials(status);
        }
        if !certain {
            self.peer.doubt();
            return UpstreamError::Denied(status, String::new());
        }
        UpstreamError::Denied(status, response::error_text(response).await)
    }

    /// The client whose connections serve one request each; any message on them answers it.
    fn alone(&self) -> Result<&reqwest::Client, UpstreamError> {
        if let Some(client) = self.alone.get() {
            return Ok(client);
        }
        let settings = settings(&self.peer, &self.redirects, &self.limits()).pool_max_idle_per_host(0);
        let made = self.upstream_tls.client(&self.at, settings).map_err(UpstreamError::InvalidResponse)?;
        Ok(self.alone.get_or_init(|| made.client))
    }

    /// The client of an upstream session for messages that may name no request: whatever comes on its
    /// connections is for the caller of the session. The first request of a session gets a connection of its
    /// own, since many sessions have no second one.
    fn within<'a>(
        &'a self,
        upstream_session: &'a UpstreamSession,
    ) -> Result<&'a reqwest::Client, UpstreamError> {
        if let Some(client) = upstream_session.connections.get() {
            return Ok(client);
        }
        if !upstream_session.has_sent.swap(true, Ordering::Relaxed) {
            return self.alone();
        }
        let settings = settings(&self.peer, &self.redirects, &self.limits()).pool_max_idle_per_host(MAX_IDLE);
        let made = self.upstream_tls.client(&self.at, settings).map_err(UpstreamError::InvalidResponse)?;
        Ok(upstream_session.connections.get_or_init(|| made.client))
    }

    /// The same, but the caller handles a rejection of credentials. Also returns whether a message that names
    /// no request is trusted.
    pub async fn post(
        &self,
        server_era: Era,
        upstream_session: Option<&UpstreamSession>,
        extra: HeaderMap,
        body: Bytes,
        timeout: Duration,
        asks: Asks,
    ) -> Result<(reqwest::Response, bool), UpstreamError> {
        let doubtful = self.peer.is_doubtful();
        let separate = match asks {
            Asks::Gateway => false,
            Asks::Caller => doubtful,
            Asks::Alone | Asks::Session => true,
        };
        let separate = separate && !self.peer.has_streams();
        let believed = separate || matches!(asks, Asks::Gateway);
        let client = match upstream_session {
            _ if !separate => &self.client,
            Some(upstream_session) if matches!(asks, Asks::Session) && !doubtful => {
                self.within(upstream_session)?
            }
            _ => self.alone()?,
        };
        let mut headers = self.head(server_era, upstream_session);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.extend(extra);
        let request = client.post(self.url.clone()).headers(headers).body(body);
        let response = response_to(request, timeout, believed).await;
        if matches!(response, Err(UpstreamError::Redirected(..))) && !believed {
            self.peer.doubt();
        }
        let response = response?;
        let believed = believed || response.version() == http::Version::HTTP_2;
        Ok((response, believed))
    }

    /// Opens a stream on a connection without other requests: many messages there name no request.
    pub(crate) async fn stream(
        &self,
        headers: HeaderMap,
        timeout: Duration,
    ) -> Result<reqwest::Response, UpstreamError> {
        if self.peer.has_streams() {
            let request = self.client.get(self.url.clone()).headers(headers.clone());
            let response = response_to(request, timeout, false).await?;
            if response.version() == http::Version::HTTP_2 {
                return Ok(response);
            }
            self.peer.has_http2(response.version());
        }
        response_to(self.alone()?.get(self.url.clone()).headers(headers), timeout, true).await
    }

    /// Resumes a stream of a session; `extra` has the last event id.
    pub async fn resume(
        &self,
        upstream_session: &UpstreamSession,
        extra: HeaderMap,
        timeout: Duration,
    ) -> Result<reqwest::Response, UpstreamError> {
        let mut headers = self.head(Era::Legacy, Some(upstream_session));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.extend(extra);
        self.stream(headers, timeout).await
    }
}

/// The settings of the gateway's own client of an endpoint.
pub(crate) fn settings(
    peer: &Arc<Peer>,
    redirects: &Arc<redirect::Redirects>,
    limits: &UpstreamLimits,
) -> reqwest::ClientBuilder {
    let watched = super::peer::with_probes(limits.timeout);
    let builder = reqwest::Client::builder()
        .redirect(redirect::policy(redirects.clone()))
        .referer(false)
        .no_proxy()
        .connect_timeout(limits.connect_timeout)
        .http1_max_headers(head_limits::MAX_LINES)
        .pool_idle_timeout(super::peer::IDLE)
        .tcp_keepalive(watched.idle)
        .tcp_keepalive_interval(watched.interval)
        .tcp_keepalive_retries(u32::try_from(watched.count).ok())
        .dns_resolver(Arc::new(PeerResolver(peer.clone())));
    #[cfg(target_os = "linux")]
    let builder = builder.tcp_user_timeout(watched.user_timeout);
    builder
}

/// The error of hyper for a head with too many lines or bytes.
const HEAD_TOO_LARGE: &str = "message head is too large";

/// Sends a request and returns the head of the response. `believed`: a message that names no request belongs
/// to this one.
pub(crate) async fn response_to(
    request: reqwest::RequestBuilder,
    timeout: Duration,
    believed: bool,
) -> Result<reqwest::Response, UpstreamError> {
    match tokio::time::timeout(timeout, request.send()).await {
        Err(_) => Err(UpstreamError::TimedOut(timeout)),
        Ok(Err(error)) if error.is_connect() => Err(unreachable(&error)),
        Ok(Err(error)) => match cause(&error) {
            message if message == HEAD_TOO_LARGE => Err(head_limits::too_large()),
            message => Err(UpstreamError::ConnectionReset(message)),
        },
        Ok(Ok(response)) if response.status().is_redirection() => {
            let (none, is_sure) = (HeaderMap::new(), believed || response.version() == http::Version::HTTP_2);
            let headers = if is_sure { response.headers() } else { &none };
            Err(redirect::elsewhere(response.status().as_u16(), headers))
        }
        Ok(Ok(response)) => head_limits::fits(response.headers()).map(|()| response),
    }
}
