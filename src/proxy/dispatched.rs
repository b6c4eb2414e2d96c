//! A dispatched message whose response is not the body of its own HTTP response: one of a batch, or of a client over
//! HTTP+SSE.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, ready};
use http::HeaderValue;
use mcp::{Reason, Rejection};
use pingora::proxy::Session;
use tokio::sync::mpsc;

use super::negotiated_response::decline;
use super::{Gateway, RequestContext, upstream_auth};
use crate::dispatch::{Dispatch, Dispatcher};
use crate::exchange::UpstreamRequest;
use crate::session;
use crate::streams::{MessageStream, StreamItem};

/// The work on a message, up to its response; empty if it has none.
pub type PendingResponse = BoxFuture<'static, Result<Bytes, Box<Rejection>>>;

impl Gateway {
    /// The work that remains on a message. `notes` receives the server's messages before the response.
    /// `no_stream` is set if its client cannot receive them, and so cannot be asked.
    pub(super) async fn pending_response(
        &self,
        session: &Session,
        ctx: &RequestContext,
        exit: Dispatch,
        notes: mpsc::Sender<StreamItem>,
        no_stream: Option<Arc<session::Session>>,
    ) -> PendingResponse {
        match exit {
            Dispatch::Respond(reply) => ready(Ok(reply.body)).boxed(),
            Dispatch::Stream(message_stream) => listen(message_stream, notes).boxed(),
            Dispatch::Bridge(call) => match self.bridge(session, ctx, *call).await {
                Ok(message_stream) => listen(message_stream, notes).boxed(),
                Err(rejection) => ready(Err(rejection)).boxed(),
            },
            // These are messages of the legacy era, which has no such calls.
            Dispatch::Task(call) => match self.dispatcher.tasks.start(*call, None) {
                Ok(message_stream) => listen(message_stream, notes).boxed(),
                Err(rejection) => ready(Err(rejection)).boxed(),
            },
            Dispatch::Forward(upstream_request) => {
                match upstream_auth::bearer(session, ctx, &upstream_request.server).await {
                    Ok(bearer) => {
                        send(upstream_request, bearer, notes, self.dispatcher.clone(), no_stream).boxed()
                    }
                    Err(error) => {
                        ready(Err(Box::new(error.rejection(&upstream_request.server.name)))).boxed()
                    }
                }
            }
        }
    }
}

/// Reads a message stream: its final message is the response, the others go to the client at once.
async fn listen(
    mut message_stream: MessageStream,
    notes: mpsc::Sender<StreamItem>,
) -> Result<Bytes, Box<Rejection>> {
    loop {
        match message_stream.items.recv().await {
            Some(StreamItem::Final(answer)) => return Ok(answer),
            Some(StreamItem::Rejected(rejection)) => return Err(rejection),
            Some(StreamItem::Accepted) => return Ok(Bytes::new()),
            Some(note) => drop(notes.send(note).await),
            None => {
                return Err(Box::new(Rejection::http(
                    500,
                    Reason::NoAnswer,
                    "the call ended without an answer",
                )));
            }
        }
    }
}

/// Sends a message by the gateway's own client.
async fn send(
    upstream_request: UpstreamRequest,
    bearer: Option<HeaderValue>,
    message: mpsc::Sender<StreamItem>,
    dispatcher: Arc<Dispatcher>,
    no_stream: Option<Arc<session::Session>>,
) -> Result<Bytes, Box<Rejection>> {
    let (server, started) = (upstream_request.server.clone(), Instant::now());
    let (notes, mut received) = mpsc::channel::<Bytes>(8);
    let pass_on = async {
        while let Some(note) = received.recv().await {
            match &no_stream {
                Some(client) => decline(&dispatcher, client, &note),
                // If the client has disconnected, the rest is only read.
                None => drop(message.send(StreamItem::Message(note)).await),
            }
        }
    };
    let (answer, ()) = tokio::join!(upstream_request.call(bearer, Some(notes), &dispatcher.metrics), pass_on);
    server.latency(&dispatcher.metrics).observe(started.elapsed().as_secs_f64());
    if let Err(rejection) = &answer {
        tracing::warn!(server = %server.name, error = %rejection.message, "a call failed");
    }
    answer
}
