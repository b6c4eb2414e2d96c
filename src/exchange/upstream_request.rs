//! A message on its way to an HTTP server. Each kind of message has what only that kind can have, so that no
//! builder can mix them. The head that goes with it is made in `proxy/`.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use mcp::Era;

use crate::server::{CallGuard, Server};
use crate::session::{ClientAnswer, InFlightGuard, SentIds, Session, StateChange};
use crate::upstream::ResponseRedactor;
use crate::upstream::http::UpstreamSession;

pub struct UpstreamRequest {
    pub server: Arc<Server>,
    pub kind: UpstreamRequestKind,
    pub call_guard: CallGuard,
    /// Set if the response is searched for secrets.
    pub redactor: Option<ResponseRedactor>,
}

/// What is sent. Notifications are not here: they go to many servers (`sessions`).
pub enum UpstreamRequestKind {
    /// A request of a client, in either era. The client waits for its response.
    Call(ForwardedCall),
    /// A client's response to a server's request. The server has nothing to say to it.
    Answer(ForwardedAnswer),
    /// A GET that resumes a stream.
    Resume(ResumedStream),
}

pub struct ForwardedCall {
    /// The client's id for the response, as written.
    pub id: Bytes,
    /// The ids that the server gets instead: only a response under this id counts.
    pub sent: SentIds,
    /// The bytes to send.
    pub body: Bytes,
    /// The era in which its server is asked.
    pub server_era: Era,
    /// The session whose upstream session is used.
    pub session: Option<Arc<Session>>,
    /// The in-flight request of its session.
    pub in_flight: Option<InFlightGuard>,
    /// The state change of the session once this has succeeded.
    pub state_change: Option<Box<StateChange>>,
    /// For the header `Mcp-Name`, if the server's own name is another.
    pub name: Option<Arc<str>>,
    /// Headers that repeat arguments, as these are now.
    pub param_headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the request may be sent again when the connection broke.
    pub idempotent: bool,
    /// The affinity key of the session or caller.
    pub affinity_key: u64,
    /// Before the response the server may send more than progress, and nothing in that names the request.
    pub logs: bool,
}

pub struct ForwardedAnswer {
    /// The bytes to send.
    pub body: Bytes,
    pub session: Arc<Session>,
    /// The one that the server's request came in.
    pub upstream_session: Arc<UpstreamSession>,
    /// Keeps the server's request pending until this is sent.
    pub pending: ClientAnswer,
}

pub struct ResumedStream {
    pub last_event_id: HeaderValue,
    pub session: Arc<Session>,
    /// The one that the stream began in.
    pub upstream_session: Arc<UpstreamSession>,
}

impl UpstreamRequest {
    pub fn new(
        server: Arc<Server>,
        kind: UpstreamRequestKind,
        call_guard: CallGuard,
        redactor: Option<ResponseRedactor>,
    ) -> Self {
        Self { server, kind, call_guard, redactor }
    }

    /// What only a call has.
    pub fn as_call(&self) -> Option<&ForwardedCall> {
        match &self.kind {
            UpstreamRequestKind::Call(call) => Some(call),
            UpstreamRequestKind::Answer(_) | UpstreamRequestKind::Resume(_) => None,
        }
    }

    /// The client's id for the response; `None` if the client waits for none.
    pub fn id(&self) -> Option<&Bytes> {
        self.as_call().map(|call| &call.id)
    }

    /// The era in which its server is asked: only the legacy era has the other kinds.
    pub fn server_era(&self) -> Era {
        self.as_call().map_or(Era::Legacy, |call| call.server_era)
    }

    /// The bytes to send; a GET has none.
    pub fn body(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        match &self.kind {
            UpstreamRequestKind::Call(call) => &call.body,
            UpstreamRequestKind::Answer(answer) => &answer.body,
            UpstreamRequestKind::Resume(_) => &NONE,
        }
    }

    /// The session of the client.
    pub fn session(&self) -> Option<&Arc<Session>> {
        match &self.kind {
            UpstreamRequestKind::Call(call) => call.session.as_ref(),
            UpstreamRequestKind::Answer(answer) => Some(&answer.session),
            UpstreamRequestKind::Resume(stream) => Some(&stream.session),
        }
    }

    /// Set if no other upstream session will do.
    pub fn bound_session(&self) -> Option<&Arc<UpstreamSession>> {
        match &self.kind {
            UpstreamRequestKind::Call(_) => None,
            UpstreamRequestKind::Answer(answer) => Some(&answer.upstream_session),
            UpstreamRequestKind::Resume(stream) => Some(&stream.upstream_session),
        }
    }

    pub fn in_flight(&self) -> Option<&InFlightGuard> {
        self.as_call()?.in_flight.as_ref()
    }

    /// Whether it may be sent again when the connection broke.
    pub fn is_idempotent(&self) -> bool {
        match &self.kind {
            UpstreamRequestKind::Call(call) => call.idempotent,
            UpstreamRequestKind::Answer(_) => false,
            UpstreamRequestKind::Resume(_) => true,
        }
    }

    /// Whether it resumes a stream, and has no body.
    pub fn resumes(&self) -> bool {
        matches!(self.kind, UpstreamRequestKind::Resume(_))
    }

    /// It has succeeded: applies the state change of the session, if it makes one.
    pub fn apply_state_change(&self) {
        if let Some(ForwardedCall { session: Some(session), state_change: Some(change), .. }) = self.as_call()
        {
            session.client_state.apply(&self.server.name, change);
        }
    }

    /// It may have reached its server: a client's answer is no longer pending.
    pub fn sent(&mut self) {
        if let UpstreamRequestKind::Answer(answer) = &mut self.kind {
            answer.pending.sent();
        }
    }
}
