//! A request of the client: sent, answered, sent again where that is safe.

use std::sync::Arc;

use bytes::Bytes;
use filters::Refusal;
use filters::rpc::Rpc;
use filters::verdict::code;
use http::{HeaderMap, HeaderValue};

use super::answer::{Read, code_of, passes};
use super::runs::Run;
use super::{Front, Patience};
use crate::protocol::method::Method;
use crate::protocol::{header, wire};
use crate::upstream::http::mirror_of;

pub struct Request {
    /// As it came.
    pub line: Bytes,
    /// As written.
    pub id: Bytes,
    pub method: Method,
    pub rpc: Box<Rpc>,
}

impl Request {
    pub fn new(line: Bytes, rpc: Box<Rpc>) -> Self {
        let id = rpc.id.map(|id| line.slice(id.start..id.end)).unwrap_or_default();
        let method = Method::of(&rpc.method_name(&line));
        Self { line, id, method, rpc }
    }

    /// It carries its revision itself (2026-07-28 on) instead of belonging to a session.
    pub fn is_modern(&self) -> bool {
        self.rpc.meta.protocol_version.is_some() || self.rpc.meta.client_capabilities.is_some()
    }

    pub fn params(&self) -> Bytes {
        self.rpc.params.map(|span| self.line.slice(span.start..span.end)).unwrap_or_default()
    }

    /// Whether it may go again when nobody knows whether it arrived.
    fn repeats(&self) -> bool {
        self.method.is_safe() || matches!(self.method, Method::Discover | Method::Ping)
    }

    /// The head that a modern request has (2026-07-28, streamable-http, "Standard Headers"); what arguments are
    /// repeated is for others.
    pub fn head(&self) -> HeaderMap {
        let mut headers = mirror_of(&self.line);
        let version = self.rpc.meta.protocol_version.map(|version| version.read(&self.line));
        if let Some(version) = version.and_then(|version| HeaderValue::from_str(&version).ok()) {
            headers.insert(header::PROTOCOL_VERSION, version);
        }
        headers
    }
}

impl Front {
    /// Works on a request to its end.
    pub(super) async fn run(self: Arc<Self>, run: Arc<Run>) {
        let answer = tokio::select! {
            biased;
            () = run.stop.cancelled() => None,
            answer = self.answer(&run) => answer,
        };
        // Who cancels a request wants no answer (2025-11-25, basic/utilities/cancellation).
        if self.runs.done(&run)
            && let Some(answer) = answer.filter(|_| !run.is_cancelled())
        {
            self.out.say(answer).await;
        }
    }

    async fn answer(self: &Arc<Self>, run: &Run) -> Option<Bytes> {
        let request = &run.request;
        let answer = match (request.is_modern(), request.method) {
            (true, Method::Listen) => self.subscribe(run).await,
            (true, _) => self.modern(run).await,
            (false, Method::Initialize) => self.initialize(run).await,
            (false, _) => self.in_session(run).await,
        };
        answer.unwrap_or_else(|refusal| Some(wire::refusal(Some(&request.id), &refusal)))
    }

    /// A request that carries all that it needs.
    async fn modern(&self, run: &Run) -> Result<Option<Bytes>, Refusal> {
        let request = &run.request;
        let (mut repeated, mut learned) = (false, false);
        let mut patience = Patience::of(self.settings.wait);
        loop {
            let mut headers = request.head();
            if request.method == Method::ToolsCall {
                headers.extend(self.mirrors.of(request));
            }
            match self.once(run, headers, None).await {
                Read::Answer(answer) if request.method == Method::ToolsList => {
                    self.mirrors.note(&answer);
                    return Ok(Some(answer));
                }
                // The tool has arguments to be repeated in the head, and the client has not listed it here.
                Read::Answer(answer)
                    if request.method == Method::ToolsCall && !learned && is_mismatch(&answer) =>
                {
                    learned = true;
                    if !self.learn(request).await {
                        return Ok(Some(answer));
                    }
                }
                // A client that hears no at first goes on with another revision.
                Read::Answer(answer)
                    if request.method == Method::Discover && passes(&answer) && patience.again().await => {}
                Read::Answer(answer) => return Ok(Some(answer)),
                Read::Broke(_) if request.repeats() && !repeated => repeated = true,
                Read::Broke(refusal) => return Err(refusal),
                Read::Forgotten(answer) => return Ok(Some(answer)),
                Read::Nothing => return Ok(None),
            }
        }
    }

    /// A request in the session, or without one if there is none yet: the gateway says what is missing.
    async fn in_session(self: &Arc<Self>, run: &Run) -> Result<Option<Bytes>, Refusal> {
        let request = &run.request;
        let (mut repeated, mut renewed) = (false, false);
        loop {
            let session = self.session.now();
            let headers = session.as_ref().map(|session| session.headers()).unwrap_or_default();
            match (self.once(run, headers, session.as_deref()).await, session) {
                (Read::Answer(answer), _) => {
                    self.session.remember(request, &answer);
                    return Ok(Some(answer));
                }
                // The gateway did not look at it: it was restarted, or the session lay idle for too long.
                (Read::Forgotten(_), Some(session)) if !renewed => {
                    renewed = true;
                    self.renew(&session).await?;
                }
                (Read::Broke(_), _) if request.repeats() && !repeated => repeated = true,
                (Read::Broke(refusal), _) => return Err(refusal),
                (Read::Forgotten(answer), _) => return Ok(Some(answer)),
                (Read::Nothing, _) => return Ok(None),
            }
        }
    }

    async fn once(&self, run: &Run, headers: HeaderMap, session: Option<&super::session::Session>) -> Read {
        match self.post(headers, run.request.line.clone(), Some(run.left.clone())).await {
            Ok(response) => self.read(response, &run.request.id, Some(run), session).await,
            Err(error) => Read::Broke(error.refusal()),
        }
    }
}

/// Whether an answer says that head and body disagree.
fn is_mismatch(answer: &[u8]) -> bool {
    let error = wire::read(answer).and_then(|read| read.error);
    error.and_then(|error| code_of(error.of(answer))) == Some(code::HEADER_MISMATCH)
}
