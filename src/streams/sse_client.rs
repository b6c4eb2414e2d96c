//! The event stream of a client over HTTP+SSE: the URI for its messages first, then all that it gets.

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::notifications::forward;
use super::{AbortOnDrop, MessageStream, StreamItem};
use crate::session::{MessageFilter, SseStreamGuard, TooManyStreams};
use std::time::Duration;

/// Starts the stream; the client ends with it. `pass` filters the messages of servers, `timeout` is how long the
/// client may take to read a message. When the gateway stops, requests in flight get their responses first.
pub fn event_stream(
    runtime: &Handle,
    guard: SseStreamGuard,
    endpoint: String,
    pass: MessageFilter,
    timeout: Duration,
    drain: CancellationToken,
) -> Result<MessageStream, TooManyStreams> {
    // As short as possible: what is in the channel is lost when the client disconnects.
    let (text, items) = mpsc::channel(1);
    let stream = guard.client().outbox().attach(timeout)?;
    let task = runtime.spawn(async move {
        let client = guard.client().clone();
        if text.send(StreamItem::Endpoint(endpoint)).await.is_err() {
            return;
        }
        let stopped = async {
            drain.cancelled().await;
            client.idle().await;
        };
        tokio::select! {
            () = forward(&stream, &pass, &text) => return,
            () = stopped => {}
        }
        // What waits are responses, for the most part. Nothing of it is worth to wait for more.
        while let Some(Some(item)) = stream.next().now_or_never() {
            let message: Option<Bytes> = match &item.server {
                Some(server) => pass(server.clone(), item.message).await,
                None => Some(item.message),
            };
            if let Some(message) = message
                && text.send(StreamItem::Message(message)).await.is_err()
            {
                return;
            }
        }
    });
    Ok(MessageStream {
        items,
        stream: true,
        abort_on_drop: Some(AbortOnDrop(task.abort_handle())),
        final_message: None,
    })
}
