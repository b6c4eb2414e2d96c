//! The room of one request to a server in this process's reach: stdio, built in. The answer comes back under the
//! caller's id, notes on the way with the caller's token.

use std::sync::Arc;

use bytes::Bytes;
use filters::rate_limit::Slots;
use mcp::{Era, Rejection};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{AbortOnDrop, MessageStream, StreamItem};
use crate::server::CallGuard;
use crate::session::{InFlightGuard, StateChange};
use crate::upstream::{Progress, ResponseRedactor, RpcOutcome, UpstreamCall};
use mcp::jsonrpc::message;

/// What is asked; all in the caller's own words.
pub struct LocalCall {
    pub call_guard: CallGuard,
    /// The request, as its session knows it: for as long as the server is asked, whether its client is there or not.
    pub in_flight: Option<InFlightGuard>,
    /// What it asks for one of those who share the server, rather than for all.
    pub state_change: Option<StateChange>,
    /// The caller's places in limits, which are taken until the server is done: a legacy client that leaves does not
    /// end its call.
    pub slots: Option<Arc<Slots>>,
    pub era: Era,
    pub method: String,
    pub params: Bytes,
    /// The caller's id as written.
    pub id: Bytes,
    /// The progress token as written, and its place in `params`.
    pub token: Option<(Bytes, mcp::Span)>,
    /// Set where the answer is searched for secrets.
    pub redactor: Option<ResponseRedactor>,
}

/// Asks on the long-lived runtime. In the modern era a client that leaves takes its question with it; in the
/// legacy era it must cancel in words (2025-11-25, transports: disconnection is not cancellation).
pub fn start(runtime: &Handle, question: LocalCall, stop: CancellationToken) -> MessageStream {
    let (message, receiver) = mpsc::channel(32);
    let modern = question.era == Era::Modern;
    let task = runtime.spawn(async move {
        let word = tokio::select! {
            word = run(question, &message) => word,
            () = stop.cancelled() => {
                StreamItem::Rejected(Box::new(Rejection::http(499, "cancelled", "the request was cancelled by its sender")))
            }
        };
        let _ = message.send(word).await;
    });
    let leash = modern.then(|| AbortOnDrop(task.abort_handle()));
    MessageStream { items: receiver, stream: false, abort_on_drop: leash, final_message: None }
}

async fn run(question: LocalCall, text: &mpsc::Sender<StreamItem>) -> StreamItem {
    let LocalCall {
        call_guard: running,
        in_flight,
        state_change,
        slots: _held,
        era,
        method,
        params,
        id,
        token,
        redactor,
    } = question;
    let server = running.server().clone();
    let (notes, mut noted) = mpsc::channel::<Bytes>(32);
    let asked = async {
        if let (Some(state_change), Some(in_flight)) = (&state_change, &in_flight) {
            drop(notes);
            return in_flight.session().subscribe_shared(&server, state_change).await;
        }
        let progress = Some(Progress { token, notes });
        server
            .upstream
            .call(UpstreamCall { era, method: &method, params, progress, timeout: server.timeout })
            .await
    };
    let pass_on = async {
        while let Some(note) = noted.recv().await {
            let clean = redactor.as_ref().map_or(Ok(None), |redactor| redactor.message(&note));
            // A note that may not go is no answer: it is left out.
            let Ok(clean) = clean else { continue };
            if text.send(StreamItem::Message(clean.unwrap_or(note))).await.is_err() {
                break;
            }
        }
    };
    let (said, ()) = tokio::join!(asked, pass_on);
    running.record(said.as_ref().err());
    match said {
        Ok(RpcOutcome::Result(result)) if result.len() > server.max_response => {
            too_large(&server.name, server.max_response)
        }
        Ok(said) => {
            let message = match said {
                RpcOutcome::Result(result) => message::result(&id, &result),
                RpcOutcome::Error(error) => message::error_response(&id, &error),
            };
            match redactor.as_ref().map_or(Ok(None), |redactor| redactor.message(&message)) {
                Ok(clean) => StreamItem::Final(clean.unwrap_or(message)),
                Err(error) => StreamItem::Rejected(Box::new(error.rejection(&server.name))),
            }
        }
        Err(error) => {
            tracing::warn!(server = %server.name, method, %error, "a call failed");
            StreamItem::Rejected(Box::new(error.rejection(&server.name)))
        }
    }
}

fn too_large(server: &Arc<str>, limit: usize) -> StreamItem {
    StreamItem::Rejected(Box::new(crate::upstream::UpstreamError::TooLarge(limit).rejection(server)))
}
