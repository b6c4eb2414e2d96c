//! The legacy session at the gateway for the client. The client's `initialize` opens it. It is opened again
//! when the gateway has forgotten it (a restart, a long pause), so that the client does not notice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use mcp::{Reason, Rejection};
use tokio_util::sync::CancellationToken;

use super::client_request::StdioRequest;
use super::gateway_session::GatewaySession;
use super::in_flight::StdioCall;
use super::response::{ReadOutcome, passes};
use super::{ConnectRetry, StdioFrontend};
use mcp::header_name;
use mcp::jsonrpc::message;
use mcp::method::Method;

/// How long the opening of a stream delays the client's next message.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct ClientSessions {
    state: Mutex<SavedState>,
    /// Held while a session is opened again.
    renewing: tokio::sync::Mutex<()>,
}

/// The state that is repeated in a new session.
#[derive(Default)]
struct SavedState {
    now: Option<Arc<GatewaySession>>,
    /// The client's own, of `initialize`.
    params: Bytes,
    /// The client has sent `notifications/initialized`.
    initialized: bool,
    level: Option<Bytes>,
    /// The subscribed resources, by URI.
    followed: BTreeMap<String, Bytes>,
}

impl ClientSessions {
    pub fn now(&self) -> Option<Arc<GatewaySession>> {
        self.state().now.clone()
    }

    /// Removes the session.
    pub fn end(&self) -> Option<Arc<GatewaySession>> {
        let session = self.state().now.take()?;
        session.over.cancel();
        Some(session)
    }

    /// Records what the client has set, if that was successful.
    pub fn remember(&self, request: &StdioRequest, answer: &[u8]) {
        if !matches!(request.method, Method::SetLevel | Method::Subscribe | Method::Unsubscribe)
            || message::read(answer).is_none_or(|read| read.result.is_none())
        {
            return;
        }
        let uri = request.rpc.uri.map(|uri| uri.read(&request.line).into_owned());
        let mut state = self.state();
        match (request.method, uri) {
            (Method::SetLevel, _) => state.level = Some(request.params()),
            (Method::Subscribe, Some(uri)) => drop(state.followed.insert(uri, request.params())),
            (Method::Unsubscribe, Some(uri)) => drop(state.followed.remove(&uri)),
            _ => {}
        }
    }

    fn state(&self) -> MutexGuard<'_, SavedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StdioFrontend {
    /// The client opens a session.
    pub(super) async fn initialize(self: &Arc<Self>, call: &StdioCall) -> Result<Option<Bytes>, Rejection> {
        let request = &call.request;
        let (answer, session) = self.open(request.line.clone(), &request.id, Some(call)).await?;
        if let Some(session) = session {
            let mut state = self.session.state();
            let before = std::mem::take(&mut *state).now;
            (state.now, state.params) = (Some(session.into()), request.params());
            drop(state);
            if let Some(before) = before {
                before.over.cancel();
                let front = self.clone();
                self.tasks.spawn(async move { front.transport.delete(before.headers()).await.map(drop) });
            }
        }
        Ok(Some(answer))
    }

    /// The client is ready: unrequested messages of the gateway may come.
    pub(super) async fn initialized(self: &Arc<Self>) {
        let session = {
            let mut state = self.session.state();
            let first = !std::mem::replace(&mut state.initialized, true);
            state.now.clone().filter(|_| first)
        };
        if let Some(session) = session {
            self.listen_in(&session).await;
        }
    }

    /// Opens the stream of a session. It may carry messages that result from the client's next requests.
    async fn listen_in(self: &Arc<Self>, session: &Arc<GatewaySession>) {
        tokio::spawn(self.clone().listen_loop(session.clone()));
        let _ = tokio::time::timeout(OPEN_TIMEOUT, session.stream_settled.cancelled()).await;
    }

    /// Sends an `initialize`; returns the response, and the session if one was opened.
    async fn open(
        &self,
        body: Bytes,
        id: &[u8],
        call: Option<&StdioCall>,
    ) -> Result<(Bytes, Option<GatewaySession>), Rejection> {
        let mut timeout = ConnectRetry::of(self.settings.wait);
        let (answer, session) = loop {
            let detached = call.map(|call| call.detached.clone());
            let response = self.post(HeaderMap::new(), body.clone(), detached).await;
            let response = response.map_err(|error| error.rejection())?;
            let session = response.headers().get(header_name::SESSION).cloned();
            match self.read(response, id, call, None).await {
                // A gateway that has no server yet opens no session.
                ReadOutcome::Response(answer) if passes(&answer) && timeout.again().await => {}
                ReadOutcome::Response(answer) | ReadOutcome::SessionExpired(answer) => {
                    break (answer, session);
                }
                ReadOutcome::Failed(rejection) => return Err(rejection),
                ReadOutcome::Nothing => {
                    return Err(Rejection::http(503, Reason::Cancelled, "the call was cancelled"));
                }
            }
        };
        let result = message::read(&answer).and_then(|read| read.result);
        let opened = result.map(|span| {
            let result = answer.slice(span.start..span.end);
            let member = |name| message::member(&result, name).map(|span| result.slice(span.start..span.end));
            let version = member("protocolVersion").and_then(|version| message::string(&version));
            GatewaySession {
                id: session,
                version: version.and_then(|version| HeaderValue::from_str(&version).ok()),
                capabilities: member("capabilities").unwrap_or_default(),
                stream_settled: CancellationToken::new(),
                over: CancellationToken::new(),
            }
        });
        Ok((answer, opened))
    }

    /// Opens the session again if the gateway has forgotten it, and repeats the client's state. A
    /// concurrent second caller gets the session that the first has opened.
    pub(super) async fn renew(self: &Arc<Self>, lost: &Arc<GatewaySession>) -> Result<(), Rejection> {
        let _turn = self.session.renewing.lock().await;
        let (params, initialized, level, followed) = {
            let state = self.session.state();
            match &state.now {
                Some(now) if Arc::ptr_eq(now, lost) => {}
                Some(_) => return Ok(()),
                None => return Err(Rejection::http(503, Reason::Stopping, "the session is over")),
            }
            let followed: Vec<Bytes> = state.followed.values().cloned().collect();
            (state.params.clone(), state.initialized, state.level.clone(), followed)
        };
        let (id, body) = self.own_request("initialize", &params);
        let (answer, session) = self.open(body, id.as_bytes(), None).await?;
        let Some(session) = session.map(Arc::new) else {
            let error = message::read(&answer).and_then(|read| read.error).map(|span| span.of(&answer));
            let why = String::from_utf8_lossy(error.unwrap_or_default()).into_owned();
            let message = format!("the gateway has lost the session and opens no other: {why}");
            return Err(Rejection::http(503, Reason::NoSession, message));
        };
        if initialized {
            let ready = message::notification("notifications/initialized", b"");
            self.post(session.headers(), ready, None).await.map_err(|error| error.rejection())?;
        }
        let again = level.into_iter().map(|level| ("logging/setLevel", level));
        for (method, params) in again.chain(followed.into_iter().map(|uri| ("resources/subscribe", uri))) {
            let (id, body) = self.own_request(method, &params);
            let outcome = match self.post(session.headers(), body, None).await {
                Ok(response) => self.read(response, id.as_bytes(), None, Some(&session)).await,
                Err(error) => ReadOutcome::Failed(error.rejection()),
            };
            let successful = matches!(&outcome, ReadOutcome::Response(answer) if message::read(answer).is_some_and(|read| read.error.is_none()));
            if !successful {
                tracing::warn!(method, "a setting of the session could not be restored");
            }
        }
        {
            let mut state = self.session.state();
            if !state.now.as_ref().is_some_and(|now| Arc::ptr_eq(now, lost)) {
                return Err(Rejection::http(503, Reason::Stopping, "the session is over"));
            }
            state.now = Some(session.clone());
        }
        tracing::info!("the gateway had lost the session; it was opened again");
        if initialized {
            self.listen_in(&session).await;
            // Changes in the meantime were not reported.
            for notification in session.announcements() {
                self.out.write(notification).await;
            }
        }
        // The last step: this may run on the stream of the lost session.
        lost.over.cancel();
        Ok(())
    }

    /// A request of the bridge itself: its id, which differs from all client ids, and the message.
    pub(super) fn own_request(&self, method: &str, params: &[u8]) -> (String, Bytes) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id =
            format!("\"toolgate-stdio-{}-{}\"", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let body = message::request(&id, method, if params.is_empty() { b"{}" } else { params });
        (id, body)
    }
}
