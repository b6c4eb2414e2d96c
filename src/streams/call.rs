//! A call of a server without HTTP: stdio or builtin. The response comes back under the caller's id,
//! notifications on the way with the caller's token.

use std::sync::Arc;

use bytes::Bytes;
use filters::rate_limit::Slots;
use mcp::{Era, Reason, Rejection};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{AbortOnDrop, MessageStream, StreamItem};
use crate::server::CallGuard;
use crate::session::{InFlightGuard, StateChange};
use crate::upstream::server_messages::{ServerMessageFilter, redacted};
use crate::upstream::{Progress, ResponseRedactor, RpcOutcome, UpstreamCall};
use mcp::jsonrpc::message;

/// The call; all as the caller wrote it.
pub struct LocalCall {
    pub call_guard: CallGuard,
    /// The in-flight request of its session, until the server has answered, whether its client is connected
    /// or not.
    pub in_flight: Option<InFlightGuard>,
    /// The subscription that one client of a shared server wants, rather than a call for all.
    pub state_change: Option<StateChange>,
    /// The caller's slots in limits, which are held until the server is done: a legacy client that
    /// disconnects does not end its call.
    pub slots: Option<Arc<Slots>>,
    pub client_era: Era,
    pub server_era: Era,
    pub method: String,
    pub params: Bytes,
    /// The caller's id as written.
    pub id: Bytes,
    /// The progress token as written, and its span in `params`.
    pub token: Option<(Bytes, mcp::Span)>,
    /// Set if the response is searched for secrets.
    pub redactor: Option<ResponseRedactor>,
}

/// Starts the call on the long-lived runtime. Whether the disconnect of the client ends it depends on the
/// client's era.
pub fn start(runtime: &Handle, call: LocalCall, stop: CancellationToken) -> MessageStream {
    let (message, receiver) = mpsc::channel(32);
    let cancels = call.client_era.codec().disconnect_cancels();
    let task = runtime.spawn(async move {
        let last = tokio::select! {
            last = run(call, &message) => last,
            () = stop.cancelled() => {
                StreamItem::Rejected(Box::new(Rejection::http(499, Reason::Cancelled, "the request was cancelled by its sender")))
            }
        };
        let _ = message.send(last).await;
    });
    let abort_guard = cancels.then(|| AbortOnDrop(task.abort_handle()));
    MessageStream { items: receiver, stream: false, abort_on_drop: abort_guard, final_message: None }
}

async fn run(call: LocalCall, out: &mpsc::Sender<StreamItem>) -> StreamItem {
    let LocalCall {
        call_guard,
        in_flight,
        state_change,
        slots: _slots,
        client_era,
        server_era,
        method,
        params,
        id,
        token,
        redactor,
    } = call;
    let server = call_guard.server().clone();
    let version = match &in_flight {
        Some(in_flight) => in_flight.session().version,
        None => client_era.codec().newest_version(),
    };
    let filter = ServerMessageFilter { server: &server.name, version };
    let (sender, mut notifications) = mpsc::channel::<Bytes>(32);
    let response = async {
        if let (Some(state_change), Some(in_flight)) = (&state_change, &in_flight) {
            drop(sender);
            return in_flight.session().subscribe_shared(&server, state_change).await;
        }
        let progress = Some(Progress { token, notes: sender });
        server
            .upstream
            .call(UpstreamCall { server_era, method: &method, params, progress, timeout: server.timeout })
            .await
    };
    let forward = async {
        while let Some(note) = notifications.recv().await {
            let Some(note) = to_client(filter, redactor.as_ref(), note) else { continue };
            if out.send(StreamItem::Message(note)).await.is_err() {
                break;
            }
        }
    };
    let (outcome, ()) = tokio::join!(response, forward);
    call_guard.record(outcome.as_ref().err());
    match outcome {
        Ok(RpcOutcome::Result(result)) if result.len() > server.max_response => {
            too_large(&server.name, server.max_response)
        }
        Ok(outcome) => {
            let message = match outcome {
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

/// A message of the server before the response, as the client gets it.
pub fn to_client(
    filter: ServerMessageFilter<'_>,
    redactor: Option<&ResponseRedactor>,
    note: Bytes,
) -> Option<Bytes> {
    let read = filter.read(&note)?;
    if !filter.is_for_client(&note, &read) {
        return None;
    }
    redacted(redactor, note)
}

fn too_large(server: &Arc<str>, limit: usize) -> StreamItem {
    StreamItem::Rejected(Box::new(crate::upstream::UpstreamError::TooLarge(limit).rejection(server)))
}
