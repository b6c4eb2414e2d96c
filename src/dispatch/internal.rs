//! Callers inside the process: the same chain, the same dispatch, the answer as a stream of messages.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use filters::rate_limit::Slots;
use filters::{Caller, RequestHead};
use http::{HeaderMap, HeaderValue};
use mcp::json::splice::splice;
use mcp::{Era, Reason, Rejection};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::authorize::{Authorized, RejectedRequest, share_slots};
use super::client::{ClientRequest, ClientResponse};
use super::rejections::{session_limits, too_many_sessions};
use super::{AuthorizedRequest, Dispatch, Dispatcher, ForwardedCall, RequestLabels, UpstreamRequest};
use crate::session::id_map;
use crate::session::{OwnerKey, Rewrite, Session, accept_without_session};
use crate::streams::{AbortOnDrop, MessageStream, StreamItem};
use crate::telemetry::Metrics;
use crate::upstream::call_timer::CallTimer;
use crate::upstream::http::response::ReadOptions;
use crate::upstream::http::{UpstreamSession, param_headers_of, passed};
use crate::upstream::server_messages::redacted;
use crate::upstream::{Progress, RpcOutcome, UpstreamError, WireId};
use mcp::jsonrpc::message;
use mcp::version;

impl Dispatcher {
    /// Handles one message from inside the process, authorized by the whole chain. The progress and the log
    /// messages of its server come before the response. A caller with a session keeps it; for others a legacy
    /// one is opened, and ends with the stream. To drop the stream is to disconnect.
    pub async fn call_internal(
        &self,
        caller: Option<Caller>,
        session: Option<Arc<Session>>,
        path: &str,
        body: Bytes,
    ) -> Result<MessageStream, RejectedRequest> {
        self.begin_internal(caller, session, path, body).await.map(|(messages, _)| messages)
    }

    /// The same for a caller that wants only the response (empty for none).
    pub async fn answer_internal(
        &self,
        caller: Option<Caller>,
        session: Option<Arc<Session>>,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, RejectedRequest> {
        let (messages, id) = self.begin_internal(caller, session, path, body).await?;
        let rejected = |rejection| RejectedRequest { filter: "dispatch", rejection, id };
        messages.answer().await.map_err(rejected)
    }

    /// The stream of a message's answer, and the id of the message.
    async fn begin_internal(
        &self,
        caller: Option<Caller>,
        session: Option<Arc<Session>>,
        path: &str,
        body: Bytes,
    ) -> Result<(MessageStream, Option<Bytes>), RejectedRequest> {
        let snapshot = self.registry.snapshot();
        let chain = &snapshot.config.chain;
        let headers = http::HeaderMap::new();
        let http_method = &http::Method::POST;
        let head = RequestHead {
            http_method,
            path,
            headers: &headers,
            authority: None,
            peer: None,
            certificate: None,
            is_network: false,
        };
        chain.on_head_unauthenticated(&head).await.map_err(|stop| RejectedRequest::of(stop, &body))?;
        let caller = caller.unwrap_or_else(|| chain.anonymous());
        let endpoint = snapshot.catalog.endpoint(path);
        let shown = match endpoint {
            Some(endpoint) => self.shows(&snapshot, endpoint, &caller).await,
            None => false,
        };
        let Some(endpoint) = endpoint.filter(|_| shown) else {
            let rejection = Box::new(Rejection::http(404, Reason::NoEndpoint, "no such endpoint"));
            return Err(RejectedRequest { filter: "dispatch", rejection, id: None });
        };
        let Authorized { mut permit, body, id } =
            self.authorize(&snapshot, endpoint, head, caller, body, &mut RequestLabels::default()).await?;
        let slots = share_slots(std::mem::take(&mut permit.slots));
        let rejected = |rejection| RejectedRequest { filter: "dispatch", rejection, id: id.clone() };
        let mut temporary = None;
        let session = match (permit.client_era, session) {
            (Era::Modern, _) => None,
            (Era::Legacy, Some(session)) => Some(session),
            (Era::Legacy, None) => {
                let info = Bytes::from_static(crate::upstream::gateway_info().as_bytes());
                let none = Bytes::from_static(b"{}");
                let holder = OwnerKey::new(permit.caller.clone(), None);
                let opened = self.sessions.open(
                    holder,
                    &endpoint.path,
                    version::NEWEST_LEGACY,
                    none,
                    info,
                    session_limits(&snapshot),
                );
                match opened {
                    Ok(opened) => temporary = Some(opened),
                    Err(full) => return Err(rejected(Box::new(too_many_sessions(&full)))),
                }
                temporary.clone()
            }
        };
        let authorized = AuthorizedRequest {
            snapshot: &snapshot,
            endpoint,
            session: session.as_ref(),
            client: None,
            permit,
            slots: slots.clone(),
            body,
            events: false,
        };
        let messages = match self.dispatch(authorized, &mut RequestLabels::default()).await {
            Ok(Dispatch::Respond(reply)) => MessageStream::of(last(Ok(reply.body))),
            Ok(Dispatch::Stream(messages)) => messages,
            Ok(Dispatch::Forward(upstream_request)) => {
                upstream_request.stream(&self.runtime, slots, self.metrics.clone())
            }
            Err(rejection) => {
                if let Some(temporary) = temporary {
                    self.sessions.end(&temporary);
                }
                return Err(rejected(rejection));
            }
        };
        let messages = match temporary {
            Some(temporary) => self.in_temporary(temporary, messages),
            None => messages,
        };
        Ok((messages, id))
    }
}

impl Dispatcher {
    /// Ends the session with the stream, before its last message: its reader may end the process then.
    fn in_temporary(&self, temporary: Arc<Session>, messages: MessageStream) -> MessageStream {
        let (out, items) = mpsc::channel(1);
        let MessageStream { items: mut inner, stream, abort_on_drop, final_message } = messages;
        let sessions = self.sessions.clone();
        self.runtime.spawn(async move {
            let _abort_on_drop = abort_on_drop;
            loop {
                let item = tokio::select! {
                    item = inner.recv() => item,
                    () = out.closed() => None,
                };
                match item {
                    Some(item @ StreamItem::Message(_)) => drop(out.send(item).await),
                    item => {
                        sessions.end(&temporary);
                        if let Some(item) = item {
                            let _ = out.send(item).await;
                        }
                        return;
                    }
                }
            }
        });
        MessageStream { items, stream, abort_on_drop: None, final_message }
    }
}

/// The last item of a call, whose response may be empty.
fn last(answer: Result<Bytes, Box<Rejection>>) -> StreamItem {
    match answer {
        Ok(answer) if answer.is_empty() => StreamItem::Accepted,
        Ok(answer) => StreamItem::Final(answer),
        Err(rejection) => StreamItem::Rejected(rejection),
    }
}

impl UpstreamRequest {
    /// Sends the message with the gateway's own client. All that its server says before the response comes
    /// before it. The caller's `slots` are held until then.
    pub fn stream(self, runtime: &Handle, slots: Option<Arc<Slots>>, metrics: Arc<Metrics>) -> MessageStream {
        let (out, items) = mpsc::channel(32);
        let task = runtime.spawn(async move {
            let (notes, mut received) = mpsc::channel::<Bytes>(8);
            let pass_on = async {
                while let Some(note) = received.recv().await {
                    let _ = out.send(StreamItem::Message(note)).await;
                }
            };
            let (answer, ()) = tokio::join!(self.call(None, Some(notes), &metrics), pass_on);
            drop(slots);
            let _ = out.send(last(answer)).await;
        });
        let abort_on_drop = Some(AbortOnDrop(task.abort_handle()));
        MessageStream { items, stream: false, abort_on_drop, final_message: None }
    }

    /// Sends the message with the gateway's own client and returns the whole response; empty if it is no
    /// request. `bearer` is for a server that is called in its caller's name; `notes` receives the server's
    /// messages before the response.
    pub async fn call(
        mut self,
        bearer: Option<HeaderValue>,
        notes: Option<mpsc::Sender<Bytes>>,
        metrics: &Metrics,
    ) -> Result<Bytes, Box<Rejection>> {
        let outcome = self.round_trip(bearer, notes, metrics).await;
        // If there never was a connection, the client's answer may come again.
        if !matches!(outcome, Err(UpstreamError::Unreachable(_))) {
            self.sent();
        }
        // The response is not needed any more, which a server does not notice by itself.
        if let (Err(UpstreamError::TimedOut(_)), Some(in_flight)) = (&outcome, self.in_flight()) {
            in_flight.cancel("timed out");
        }
        if let Ok(Some(RpcOutcome::Result(_)) | None) = &outcome {
            self.apply_state_change();
        }
        self.call_guard.record(outcome.as_ref().err());
        let refused = |error: UpstreamError| Box::new(error.rejection(&self.server.name));
        let id = self.id().map(|id| &**id).unwrap_or_default();
        let message = match outcome.map_err(refused)? {
            None => return Ok(Bytes::new()),
            Some(RpcOutcome::Result(result)) => message::result(id, &result),
            Some(RpcOutcome::Error(error)) => message::error_response(id, &error),
        };
        let clean = self
            .redactor
            .as_ref()
            .map_or(Ok(None), |redactor| redactor.message(&message))
            .map_err(refused)?;
        Ok(clean.unwrap_or(message))
    }

    async fn round_trip(
        &self,
        bearer: Option<HeaderValue>,
        notes: Option<mpsc::Sender<Bytes>>,
        metrics: &Metrics,
    ) -> Result<Option<RpcOutcome>, UpstreamError> {
        let mut extra: HeaderMap =
            self.as_call().iter().flat_map(|call| call.param_headers.iter().cloned()).collect();
        extra.extend(param_headers_of(self.server_era(), self.body()));
        let ClientResponse { response, endpoint: mut endpoint_guard, upstream_session, certain } =
            ClientRequest::of(self, bearer, extra).send(metrics).await?;
        let Some(call) = self.as_call() else {
            let outcome = passed(&response).map(|()| None);
            if let Some(pool) = self.server.endpoint_pool() {
                pool.record(&mut endpoint_guard, outcome.as_ref().err());
            }
            return outcome;
        };
        let (timer, (raw, mut messages)) = (Arc::new(CallTimer::default()), mpsc::channel::<Bytes>(8));
        let pass_on = async {
            while let Some(note) = messages.recv().await {
                let note = self.to_client(call, note, upstream_session.as_deref(), &timer);
                if let (Some(notes), Some(note)) = (&notes, note) {
                    let _ = notes.send(note).await;
                }
            }
        };
        let answer = async {
            let progress = Progress { token: None, notes: raw };
            let wanted = ReadOptions {
                id: &call.sent.wire,
                batches: upstream_session
                    .as_ref()
                    .is_some_and(|upstream_session| upstream_session.has_batches()),
                upstream_session: None,
                progress: Some(&progress),
                certain,
                timeout: self.server.timeout,
                timer: Some(&*timer),
            };
            endpoint_guard.endpoint().read_response(response, wanted).await
        };
        let outcome = tokio::join!(answer, pass_on).0.map(Some);
        if matches!(outcome, Err(UpstreamError::Nameless)) {
            endpoint_guard.endpoint().peer.doubt();
        }
        if let Some(pool) = self.server.endpoint_pool() {
            pool.record(&mut endpoint_guard, outcome.as_ref().err());
        }
        outcome
    }

    /// A message of the server before the response, as the client gets it.
    pub fn to_client(
        &self,
        call: &ForwardedCall,
        note: Bytes,
        upstream_session: Option<&UpstreamSession>,
        timer: &Arc<CallTimer>,
    ) -> Option<Bytes> {
        let read = message::read(&note)?;
        let note = match (&call.session, upstream_session) {
            (Some(session), Some(upstream_session)) => {
                match session.on_server_message(&self.server, upstream_session.id, &note, &read, Some(timer))
                {
                    Rewrite::Unchanged => note,
                    Rewrite::Replaced(note) => note,
                    Rewrite::Drop => return None,
                }
            }
            _ => accept_without_session(&self.server, &note, &read).then(|| call.progress(note, &read))??,
        };
        redacted(self.redactor.as_ref(), note)
    }
}

impl ForwardedCall {
    /// A notification without a session: with the client's own token if it has ours, `None` if it belongs to
    /// another request.
    fn progress(&self, note: Bytes, read: &message::ServerMessage) -> Option<Bytes> {
        match id_map::progress_token(&note, read) {
            Some(token) if message::same_id(token.of(&note), &self.sent.wire) => {
                let client_token = self.sent.token.as_ref()?;
                Some(splice(BytesMut::from(&note[..]), token, client_token))
            }
            Some(token) if WireId::is_one(token.of(&note)) => None,
            _ => Some(note),
        }
    }
}

#[cfg(test)]
mod tests;
