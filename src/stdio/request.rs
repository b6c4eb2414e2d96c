//! A request of the client: sent, answered, and sent again where that is safe.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use mcp::Rejection;
use mcp::rejection::code;

use super::in_flight::StdioCall;
use super::response::{ReadOutcome, code_of, passes};
use super::{ConnectRetry, StdioFrontend};
use mcp::jsonrpc::message;
use mcp::method::Method;

impl StdioFrontend {
    /// Processes a request to its end.
    pub(super) async fn run(self: Arc<Self>, call: Arc<StdioCall>) {
        let answer = tokio::select! {
            biased;
            () = call.stop.cancelled() => None,
            answer = self.answer(&call) => answer,
        };
        // A client that cancels a request wants no response (2025-11-25, basic/utilities/cancellation).
        if self.in_flight.done(&call)
            && let Some(answer) = answer.filter(|_| !call.is_cancelled())
        {
            self.out.write(answer).await;
        }
    }

    async fn answer(self: &Arc<Self>, call: &StdioCall) -> Option<Bytes> {
        let request = &call.request;
        let answer = match (request.is_modern(), request.method) {
            (true, Method::Listen) => self.subscribe(call).await,
            (true, _) => self.modern(call).await,
            (false, Method::Initialize) => self.initialize(call).await,
            (false, _) => self.in_session(call).await,
        };
        answer.unwrap_or_else(|rejection| Some(message::rejection_response(Some(&request.id), &rejection)))
    }

    /// A request that carries all that it needs.
    async fn modern(&self, call: &StdioCall) -> Result<Option<Bytes>, Rejection> {
        let request = &call.request;
        let (mut repeated, mut learned) = (false, false);
        let mut timeout = ConnectRetry::of(self.settings.wait);
        loop {
            let mut headers = request.head();
            if request.method == Method::ToolsCall {
                headers.extend(self.param_headers.of(request));
            }
            match self.once(call, headers, None).await {
                ReadOutcome::Response(answer) if request.method == Method::ToolsList => {
                    self.param_headers.note(&answer);
                    return Ok(Some(answer));
                }
                // The tool has arguments that the head must repeat, and the client has not listed it here.
                ReadOutcome::Response(answer)
                    if request.method == Method::ToolsCall && !learned && is_mismatch(&answer) =>
                {
                    learned = true;
                    if !self.learn(request).await {
                        return Ok(Some(answer));
                    }
                }
                // A client that is rejected at first continues with another version.
                ReadOutcome::Response(answer)
                    if request.method == Method::Discover && passes(&answer) && timeout.again().await => {}
                ReadOutcome::Response(answer) => return Ok(Some(answer)),
                ReadOutcome::Failed(_) if request.is_idempotent() && !repeated => repeated = true,
                ReadOutcome::Failed(rejection) => return Err(rejection),
                ReadOutcome::SessionExpired(answer) => return Ok(Some(answer)),
                ReadOutcome::Nothing => return Ok(None),
            }
        }
    }

    /// A request in the session, or without one if there is none yet: the gateway reports what is missing.
    async fn in_session(self: &Arc<Self>, call: &StdioCall) -> Result<Option<Bytes>, Rejection> {
        let request = &call.request;
        let (mut repeated, mut renewed) = (false, false);
        loop {
            let session = self.session.now();
            let headers = session.as_ref().map(|session| session.headers()).unwrap_or_default();
            match (self.once(call, headers, session.as_deref()).await, session) {
                (ReadOutcome::Response(answer), _) => {
                    self.session.remember(request, &answer);
                    return Ok(Some(answer));
                }
                // The gateway did not process it: it was restarted, or the session was idle for too long.
                (ReadOutcome::SessionExpired(_), Some(session)) if !renewed => {
                    renewed = true;
                    self.renew(&session).await?;
                }
                (ReadOutcome::Failed(_), _) if request.is_idempotent() && !repeated => repeated = true,
                (ReadOutcome::Failed(rejection), _) => return Err(rejection),
                (ReadOutcome::SessionExpired(answer), _) => return Ok(Some(answer)),
                (ReadOutcome::Nothing, _) => return Ok(None),
            }
        }
    }

    async fn once(
        &self,
        call: &StdioCall,
        headers: HeaderMap,
        session: Option<&super::gateway_session::GatewaySession>,
    ) -> ReadOutcome {
        match self.post(headers, call.request.line.clone(), Some(call.detached.clone())).await {
            Ok(response) => self.read(response, &call.request.id, Some(call), session).await,
            Err(error) => ReadOutcome::Failed(error.rejection()),
        }
    }
}

/// Whether a response reports that head and body do not match.
fn is_mismatch(answer: &[u8]) -> bool {
    let error = message::read(answer).and_then(|read| read.error);
    error.and_then(|error| code_of(error.of(answer))) == Some(code::HEADER_MISMATCH)
}
