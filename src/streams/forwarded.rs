//! A message to an HTTP server as a stream, by the gateway's own client.

use std::sync::Arc;

use bytes::Bytes;
use filters::rate_limit::Slots;
use http::HeaderValue;
use mcp::Rejection;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::{AbortOnDrop, MessageStream, StreamItem};
use crate::exchange::UpstreamRequest;
use crate::telemetry::Metrics;

/// Sends the message with the gateway's own client. All that its server says before the response comes
/// before it. The caller's `slots` are held until then. `bearer` is for a server that is called in its
/// caller's name.
pub fn start(
    request: UpstreamRequest,
    bearer: Option<HeaderValue>,
    runtime: &Handle,
    slots: Option<Arc<Slots>>,
    metrics: Arc<Metrics>,
) -> MessageStream {
    let (out, items) = mpsc::channel(32);
    let task = runtime.spawn(async move {
        let (notes, mut received) = mpsc::channel::<Bytes>(8);
        let pass_on = async {
            while let Some(note) = received.recv().await {
                let _ = out.send(StreamItem::Message(note)).await;
            }
        };
        let (answer, ()) = tokio::join!(request.call(bearer, Some(notes), &metrics), pass_on);
        drop(slots);
        let _ = out.send(last(answer)).await;
    });
    let abort_on_drop = Some(AbortOnDrop(task.abort_handle()));
    MessageStream { items, stream: false, abort_on_drop, final_message: None }
}

/// The last item of a call, whose response may be empty.
pub fn last(answer: Result<Bytes, Box<Rejection>>) -> StreamItem {
    match answer {
        Ok(answer) if answer.is_empty() => StreamItem::Accepted,
        Ok(answer) => StreamItem::Final(answer),
        Err(rejection) => StreamItem::Rejected(rejection),
    }
}

#[cfg(test)]
mod tests;
