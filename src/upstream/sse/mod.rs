//! A server over HTTP+SSE, the transport of 2024-11-05: an event stream for all that the server sends, and a
//! POST request for each message to it. All callers share one connection, as with a process; it speaks the
//! legacy era only.

mod endpoint;
mod events;
mod posts;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue};
use mcp::json::quote::quote;
use mcp::jsonrpc::message;
use mcp::{Era, version};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::http::HttpEndpoint;
use super::http::response::{is_sse, shorten};
use super::http::tls::UpstreamTls;
use super::shared_connection::{ConnectionError, ConnectionProgress, ConnectionResponse, SharedConnection};
use super::subscriptions::{self, ResourceSubscriptions, UpdateQueue};
use super::{
    ListChanges, RpcOutcome, ServerHandshake, SharedSubscriptions, Upstream, UpstreamCall, UpstreamError,
    UpstreamLimits, gateway_handshake,
};
use events::EventStream;
use posts::Posts;

/// Notifications that may wait for the supervisor of the server.
const MAX_NOTICES: usize = 64;

pub struct Sse {
    name: String,
    http: Arc<HttpEndpoint>,
    current: Mutex<Option<Arc<SseConnection>>>,
    connecting: AtomicBool,
    subscriptions: Arc<ResourceSubscriptions>,
}

struct SseConnection {
    messages: Arc<SharedConnection>,
    /// Locked by the task that watches the connection.
    notices: tokio::sync::Mutex<mpsc::Receiver<Bytes>>,
    /// Why it has ended.
    ended: watch::Receiver<Option<Arc<str>>>,
    close: CancellationToken,
    _guard: DropGuard,
}

impl Sse {
    /// Connects nothing yet; `headers` go with each request, and may be secrets.
    pub fn new(
        name: &str,
        url: &str,
        headers: HeaderMap,
        limits: &UpstreamLimits,
        tls: Arc<UpstreamTls>,
    ) -> Result<Self, String> {
        Ok(Self {
            name: name.to_owned(),
            http: HttpEndpoint::new(name, url, headers, limits, tls)?,
            current: Mutex::default(),
            connecting: AtomicBool::new(false),
            subscriptions: Arc::default(),
        })
    }

    fn replace(&self, connection: Option<Arc<SseConnection>>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, connection);
        if let Some(before) = before {
            before.close.cancel();
        }
    }

    fn current(&self) -> Result<Arc<SseConnection>, UpstreamError> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match current {
            Some(connection) if connection.messages.is_open() => Ok(connection),
            _ if self.connecting.load(Ordering::Relaxed) => Err(UpstreamError::Starting),
            Some(connection) => Err(connection.why()),
            None => Err(UpstreamError::Unreachable("it is not connected".into())),
        }
    }

    /// Opens the event stream, and learns where messages are sent.
    async fn open(&self, until: Instant) -> Result<SseConnection, UpstreamError> {
        let invalid = |why: String| UpstreamError::InvalidResponse(why);
        self.http.peer.resolve().await?;
        let mut headers = self.http.head(Era::Legacy, None);
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let left = until.saturating_duration_since(Instant::now());
        let response = self.http.stream(headers, left).await?;
        let response = self.http.welcome(response, false, true).await?;
        let status = response.status();
        // 400 is what servers with sessions say to a GET request without one.
        if matches!(status.as_u16(), 400 | 404..=406) {
            return Err(invalid(format!(
                "HTTP {status} to the GET request for its event stream; a server over Streamable HTTP needs `type: http`"
            )));
        }
        if !status.is_success() || !is_sse(&response) {
            return Err(invalid(format!("HTTP {status} without an event stream")));
        }
        // Of the configured origin; that of the request may have the name of the TLS handshake.
        let base = with_path(&self.http.at, response.url());
        let mut events = EventStream::of(response, self.http.limits().max_response)?;
        let data = timeout_at(until, events.endpoint())
            .await
            .map_err(|_| invalid("no `endpoint` event came within its `startup_timeout`".into()))??;
        let url = endpoint::resolve(&base, &data).map_err(|error| invalid(error.to_string()))?;
        let posts = Arc::new(Posts { http: Arc::clone(&self.http), url: with_path(&self.http.url, &url) });

        let (sender, notices) = mpsc::channel(MAX_NOTICES);
        let (messages, queue) = SharedConnection::new(&self.name, sender);
        let messages = Arc::new(messages);
        let (end, ended) = watch::channel(None);
        let close = CancellationToken::new();
        let (http, connection, closed) = (Arc::clone(&self.http), Arc::clone(&messages), close.clone());
        tokio::spawn(async move {
            let why = tokio::select! {
                why = events.read(&connection, || http.limits().max_response) => why,
                why = posts.send_all(Arc::clone(&connection), queue) => why,
                () = closed.cancelled() => "the gateway closes it".to_owned(),
            };
            let why: Arc<str> = super::client_message(&why).into();
            connection.close_input(None, Some(format!(": {why}").into()));
            end.send_replace(Some(why));
        });
        let guard = close.clone().drop_guard();
        Ok(SseConnection { messages, notices: tokio::sync::Mutex::new(notices), ended, close, _guard: guard })
    }

    async fn handshake(
        &self,
        connection: &SseConnection,
        until: Instant,
    ) -> Result<ServerHandshake, UpstreamError> {
        let wrong = |why: String| UpstreamError::WrongEra(Era::Legacy, why);
        let left = until.saturating_duration_since(Instant::now());
        let params = gateway_handshake(Era::Legacy);
        let result = match connection
            .messages
            .request(Era::Legacy.codec().handshake_method(), Some(&params), left, None)
            .await
        {
            Ok(ConnectionResponse::Result(result)) => result,
            Ok(ConnectionResponse::Error(error)) => return Err(wrong(shorten(&error))),
            Err(error) => return Err(failed(error)),
        };
        let version = Era::Legacy.codec().handshake_version(&result);
        let version = version.ok_or_else(|| wrong("`initialize` names no revision".into()))?;
        if !version::is_of_http_sse(&version) {
            return Err(wrong(format!("it offers revision {version:?}")));
        }
        let handshake = ServerHandshake::read(&result, version)?;
        let initialized =
            connection.messages.notify("notifications/initialized", None, self.http.call_timeout());
        initialized.await.map_err(failed)?;
        Ok(handshake)
    }

    /// A new connection has no subscriptions, and no notification came for changes before it.
    fn resubscribe(&self, connection: Arc<SseConnection>) {
        let (subscriptions, timeout) = (Arc::clone(&self.subscriptions), self.http.call_timeout());
        tokio::spawn(async move {
            let _turn = subscriptions.turn.lock().await;
            for uri in subscriptions.uris() {
                if let Err(error) = connection.follow("resources/subscribe", &uri, timeout).await {
                    tracing::debug!(uri, %error, "a resource is not subscribed on a new connection");
                }
                subscriptions.notify(&uri);
            }
        });
    }

    async fn follow(&self, method: &str, uri: &str) -> Result<RpcOutcome, UpstreamError> {
        self.current()?.follow(method, uri, self.http.call_timeout()).await
    }
}

impl SseConnection {
    fn why(&self) -> UpstreamError {
        let why = self.ended.borrow().clone();
        UpstreamError::Unreachable(match why {
            Some(why) => format!("its event stream has ended: {why}"),
            None => "its event stream is ending".into(),
        })
    }

    async fn follow(
        &self,
        method: &str,
        uri: &str,
        timeout: std::time::Duration,
    ) -> Result<RpcOutcome, UpstreamError> {
        let params = format!(r#"{{"uri":{}}}"#, quote(uri));
        outcome(self.messages.request(method, Some(params.as_bytes()), timeout, None).await)
    }
}

/// The URL with the path and the query of the other.
fn with_path(url: &reqwest::Url, other: &reqwest::Url) -> reqwest::Url {
    let mut url = url.clone();
    url.set_path(other.path());
    url.set_query(other.query());
    url
}

#[async_trait]
impl Upstream for Sse {
    async fn connect(&self, server_era: Era, until: Instant) -> Result<ServerHandshake, UpstreamError> {
        if server_era == Era::Modern {
            let why = "HTTP+SSE has only the legacy revisions".into();
            return Err(UpstreamError::WrongEra(server_era, why));
        }
        self.replace(None);
        let _connecting = Connecting::begin(&self.connecting);
        let connection = Arc::new(self.open(until).await?);
        let handshake = self.handshake(&connection, until).await?;
        self.replace(Some(Arc::clone(&connection)));
        self.resubscribe(connection);
        Ok(handshake)
    }

    async fn call(&self, ask: UpstreamCall<'_>) -> Result<RpcOutcome, UpstreamError> {
        let connection = self.current()?;
        let progress = ask.progress.and_then(|progress| {
            let (_, span) = progress.token?;
            Some(ConnectionProgress { token: span.start..span.end, notes: progress.notes })
        });
        outcome(connection.messages.request(ask.method, Some(&ask.params), ask.timeout, progress).await)
    }

    async fn close(&self) {
        self.replace(None);
    }

    fn update_limits(&self, limits: &UpstreamLimits) {
        self.http.update_limits(limits);
    }

    fn list_changes(&self) -> Option<&dyn ListChanges> {
        Some(self)
    }

    fn shared_subscriptions(&self) -> Option<&dyn SharedSubscriptions> {
        Some(self)
    }
}

#[async_trait]
impl ListChanges for Sse {
    async fn watch_lists(&self, _: Era, changed: &mpsc::Sender<()>) -> Result<(), UpstreamError> {
        let connection = self.current()?;
        let mut ended = connection.ended.clone();
        let mut notices = connection.notices.lock().await;
        loop {
            tokio::select! {
                // An error means that the task is gone, and with it the stream.
                () = async { drop(ended.wait_for(Option::is_some).await) } => return Err(connection.why()),
                Some(message) = notices.recv() => {
                    if let Some(uri) = subscriptions::updated(&message) {
                        self.subscriptions.notify(&uri);
                    }
                    if message::is_list_change(&message) && changed.send(()).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

#[async_trait]
impl SharedSubscriptions for Sse {
    async fn subscribe(&self, uri: &str, updates: &Arc<UpdateQueue>) -> Result<RpcOutcome, UpstreamError> {
        self.subscriptions.subscribe(uri, updates, self.follow("resources/subscribe", uri)).await
    }

    async fn unsubscribe(&self, uri: &str, updates: &Arc<UpdateQueue>) -> Result<RpcOutcome, UpstreamError> {
        self.subscriptions.unsubscribe(uri, updates, self.follow("resources/unsubscribe", uri)).await
    }

    async fn drop_subscriber(&self, updates: &Arc<UpdateQueue>) {
        for uri in self.subscriptions.of(updates) {
            if let Err(error) = self.unsubscribe(&uri, updates).await {
                tracing::debug!(uri, %error, "a resource was not unsubscribed from, though it has no subscriber");
            }
        }
    }
}

/// Marks that a connection is being made, until it is dropped.
struct Connecting<'a>(&'a AtomicBool);

impl<'a> Connecting<'a> {
    fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

fn outcome(answer: Result<ConnectionResponse, ConnectionError>) -> Result<RpcOutcome, UpstreamError> {
    match answer {
        Ok(ConnectionResponse::Result(result)) => Ok(RpcOutcome::Result(result)),
        Ok(ConnectionResponse::Error(error)) => Ok(RpcOutcome::Error(error)),
        Err(error) => Err(failed(error)),
    }
}

fn failed(error: ConnectionError) -> UpstreamError {
    match error {
        ConnectionError::Refused(error) => error,
        ConnectionError::Timeout { after, .. } => UpstreamError::TimedOut(after),
        ConnectionError::InvalidResponse(why) => UpstreamError::InvalidResponse(why.into()),
        ConnectionError::TooLong(limit) => UpstreamError::TooLarge(limit),
        ConnectionError::Exited { said, .. } => UpstreamError::Unreachable(format!(
            "its event stream has ended{}",
            said.as_deref().unwrap_or_default()
        )),
        error => UpstreamError::Unreachable(error.to_string()),
    }
}
