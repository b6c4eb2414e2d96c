//! A message by the gateway's own client, from its sending to the whole response.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use mcp::Rejection;
use mcp::json::splice::splice;
use tokio::sync::mpsc;

use super::client_request::{ClientRequest, ClientResponse};
use super::{ForwardedCall, UpstreamRequest};
use crate::session::{Rewrite, accept_without_session, id_map};
use crate::telemetry::Metrics;
use crate::upstream::call_timer::CallTimer;
use crate::upstream::http::response::ReadOptions;
use crate::upstream::http::{UpstreamSession, param_headers_of, passed};
use crate::upstream::server_messages::redacted;
use crate::upstream::{Progress, RpcOutcome, UpstreamError, WireId};
use mcp::jsonrpc::message;

impl UpstreamRequest {
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
        let (read, original) = (message::read(&note)?, note.clone());
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
        // A server that says something works, however long its answer takes.
        self.call_guard.record(None);
        let clean = redacted(self.redactor.as_ref(), note);
        if let (None, Some(id), Some(session), Some(upstream_session)) =
            (&clean, read.id.filter(|_| read.is_request()), &call.session, upstream_session)
        {
            session.decline_blocked(upstream_session.id, id.of(&original));
        }
        clean
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
