//! A request of the client: sent, answered, sent again where that is safe.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use mcp::Refusal;
use mcp::rejection::code;

use super::in_flight::Run;
use super::response::{Read, code_of, passes};
use super::{Front, Patience};
use mcp::jsonrpc::message;
use mcp::method::Method;

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
        answer.unwrap_or_else(|refusal| Some(message::refusal(Some(&request.id), &refusal)))
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

    async fn once(
        &self,
        run: &Run,
        headers: HeaderMap,
        session: Option<&super::gateway_session::Session>,
    ) -> Read {
        match self.post(headers, run.request.line.clone(), Some(run.left.clone())).await {
            Ok(response) => self.read(response, &run.request.id, Some(run), session).await,
            Err(error) => Read::Broke(error.refusal()),
        }
    }
}

/// Whether an answer says that head and body disagree.
fn is_mismatch(answer: &[u8]) -> bool {
    let error = message::read(answer).and_then(|read| read.error);
    error.and_then(|error| code_of(error.of(answer))) == Some(code::HEADER_MISMATCH)
}
