//! One request to the server of a bridged call, in the server's own era, by the gateway's own client or over
//! its connection to a process.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use mcp::json::object::Object;
use mcp::jsonrpc::message;
use mcp::method::Method;
use mcp::{Era, Rejection, Span};
use tokio::sync::mpsc;

use crate::exchange::{ForwardedCall, UpstreamRequest, UpstreamRequestKind};
use crate::server::{CallGuard, Server};
use crate::session::{InFlightGuard, SentIds, Session};
use crate::telemetry::Metrics;
use crate::upstream::{Progress, ResponseRedactor, RpcOutcome, UpstreamCall, UpstreamError, WireId};

/// The server of a call, and what each request of the call to it has in common.
#[derive(Clone)]
pub(super) struct ServerSide {
    pub server: Arc<Server>,
    pub server_era: Era,
    pub method: Method,
    /// The session whose upstream session is used, for a legacy HTTP server.
    pub session: Option<Arc<Session>>,
    /// The client's progress token, as written.
    pub token: Option<Bytes>,
    pub param_headers: Vec<(HeaderName, HeaderValue)>,
    pub idempotent: bool,
    pub affinity_key: u64,
    /// The client asked for log messages.
    pub logs: bool,
    pub redactor: Option<ResponseRedactor>,
    /// The `Authorization` for a server that is called in its caller's name.
    pub bearer: Option<HeaderValue>,
    pub metrics: Arc<Metrics>,
}

/// The ids of one request at an HTTP server, and its entry in the session that it runs in.
pub(super) struct SentRequest {
    pub ids: SentIds,
    pub in_flight: Option<InFlightGuard>,
}

impl ServerSide {
    /// New ids for a request.
    pub fn ids(&self) -> SentIds {
        SentIds { wire: WireId::next(), token: self.token.clone() }
    }

    /// Sends a request and returns the server's answer. `notes` receives its messages before that.
    pub async fn request(
        &self,
        params: Vec<u8>,
        call_guard: CallGuard,
        sent: SentRequest,
        notes: mpsc::Sender<Bytes>,
    ) -> Result<RpcOutcome, Box<Rejection>> {
        match self.server.endpoint_pool() {
            Some(_) => self.request_over_http(params, call_guard, sent, notes).await,
            None => self.request_over_connection(params, call_guard, notes).await,
        }
    }

    async fn request_over_http(
        &self,
        params: Vec<u8>,
        call_guard: CallGuard,
        sent: SentRequest,
        notes: mpsc::Sender<Bytes>,
    ) -> Result<RpcOutcome, Box<Rejection>> {
        let SentRequest { ids, in_flight } = sent;
        // The server gets the same id as progress token, which no other request has.
        let params = match &self.token {
            Some(_) => with_token(&params, &ids.wire).unwrap_or(params),
            None => params,
        };
        let call = ForwardedCall {
            id: Bytes::from_static(b"0"),
            body: message::request(ids.wire.as_str(), self.method.as_str(), &params),
            sent: ids,
            server_era: self.server_era,
            session: self.session.clone(),
            in_flight,
            state_change: None,
            name: None,
            param_headers: self.param_headers.clone(),
            idempotent: self.idempotent,
            affinity_key: self.affinity_key,
            logs: self.logs,
        };
        let kind = UpstreamRequestKind::Call(call);
        let request = UpstreamRequest::new(self.server.clone(), kind, call_guard, self.redactor.clone());
        let answer = request.call(self.bearer.clone(), Some(notes), &self.metrics).await?;
        let read = message::read(&answer).unwrap_or_default();
        let part = |span: Span| answer.slice(span.start..span.end);
        match (read.result, read.error) {
            (Some(result), None) => Ok(RpcOutcome::Result(part(result))),
            (None, Some(error)) => Ok(RpcOutcome::Error(part(error))),
            _ => Err(self.nonsense("the answer is neither a result nor an error")),
        }
    }

    async fn request_over_connection(
        &self,
        params: Vec<u8>,
        call_guard: CallGuard,
        notes: mpsc::Sender<Bytes>,
    ) -> Result<RpcOutcome, Box<Rejection>> {
        let params = Bytes::from(params);
        let token = self.token.as_ref().and_then(|_| {
            let meta = message::member(&params, "_meta")?;
            let token = message::member(meta.of(&params), "progressToken")?;
            let place = Span { start: meta.start + token.start, end: meta.start + token.end };
            Some((params.slice(place.start..place.end), place))
        });
        let (raw, mut received) = mpsc::channel::<Bytes>(32);
        let call = UpstreamCall {
            server_era: self.server_era,
            method: self.method.as_str(),
            params,
            progress: Some(Progress { token, notes: raw }),
            timeout: self.server.timeout,
        };
        let pass_on = async {
            while let Some(note) = received.recv().await {
                let clean = self.redactor.as_ref().map_or(Ok(None), |redactor| redactor.message(&note));
                // A notification that must not be passed on is no response: it is dropped.
                let Ok(clean) = clean else { continue };
                if notes.send(clean.unwrap_or(note)).await.is_err() {
                    break;
                }
            }
        };
        let (outcome, ()) = tokio::join!(self.server.upstream.call(call), pass_on);
        call_guard.record(outcome.as_ref().err());
        let refused = |error: UpstreamError| Box::new(error.rejection(&self.server.name));
        let outcome = outcome.map_err(|error| {
            tracing::warn!(server = %self.server.name, method = self.method.as_str(), %error, "a call failed");
            refused(error)
        })?;
        let text = match &outcome {
            RpcOutcome::Result(text) | RpcOutcome::Error(text) => text,
        };
        if text.len() > self.server.max_response {
            return Err(refused(UpstreamError::TooLarge(self.server.max_response)));
        }
        let clean =
            self.redactor.as_ref().map_or(Ok(None), |redactor| redactor.text(text)).map_err(refused)?;
        Ok(match (outcome, clean) {
            (outcome, None) => outcome,
            (RpcOutcome::Result(_), Some(clean)) => RpcOutcome::Result(clean),
            (RpcOutcome::Error(_), Some(clean)) => RpcOutcome::Error(clean),
        })
    }

    /// An answer that the protocol does not have.
    pub fn nonsense(&self, why: impl Into<String>) -> Box<Rejection> {
        Box::new(UpstreamError::InvalidResponse(why.into()).rejection(&self.server.name))
    }
}

/// The params with another progress token; `None` if they have none.
fn with_token(params: &[u8], token: &[u8]) -> Option<Vec<u8>> {
    let object = Object::read(params)?;
    let meta = Object::read(object.get("_meta")?)?;
    meta.get("progressToken")?;
    Some(object.with(&[("_meta", &meta.with(&[("progressToken", token)]))]))
}
