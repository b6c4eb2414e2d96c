//! Writes a message stream to a client: each item as it comes, until the final message or until the client
//! disconnects.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderValue, Version};
use mcp::Era;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio::time::Instant;

use super::accept_header::AcceptedTypes;
use super::respond::{add_common_headers, write_body, write_error, write_head, write_response};
use super::{RequestContext, request_head};
use crate::dispatch::{Dispatcher, Response};
use crate::registry::Snapshot;
use crate::streams::{MessageStream, StreamItem};
use crate::telemetry::Outcome;
use mcp::jsonrpc::message;
use mcp::sse;

/// How often the caller of a stream is authorized again.
pub(super) const REAUTH_INTERVAL: Duration = Duration::from_secs(5);

async fn begin_events(session: &mut Session, ctx: &RequestContext) -> pingora::Result<()> {
    let mut head = ResponseHeader::build_no_case(200, Some(6))?;
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))?;
    head.insert_header(CACHE_CONTROL, HeaderValue::from_static("no-cache"))?;
    if session.req_header().version == Version::HTTP_11 {
        head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
    }
    add_common_headers(&mut head, ctx)?;
    write_head(session, Box::new(head), false).await
}

/// Whether the caller of a stream is still the same, with the same roles under the same policy. If not, the
/// stream ends; the client opens it again and is authorized by the current rules. The current snapshot
/// replaces the one that the stream began with, which would otherwise stay in memory for as long as the
/// stream.
pub(super) async fn still_authorized(
    session: &Session,
    ctx: &mut RequestContext,
    dispatcher: &Dispatcher,
) -> bool {
    let snapshot = dispatcher.registry.snapshot();
    if snapshot.config.config.rbac != ctx.snapshot.config.config.rbac
        && !still_shown(session, ctx, dispatcher, &snapshot).await
    {
        return false;
    }
    ctx.snapshot = snapshot.clone();
    let Some(caller) = ctx.caller.as_ref().filter(|_| !ctx.client_cert) else { return true };
    match snapshot.config.chain.auth.identify(&request_head::head(session, ctx.client)).await {
        Ok(now) => now.same_principal(caller) && now.roles == caller.roles && now.scopes == caller.scopes,
        // A failure to read the keys says nothing about the caller.
        Err(rejection) => rejection.status >= 500,
    }
}

/// Whether a stream goes on under other roles. That of a client over HTTP+SSE does, because the client could not
/// come back to its session: its messages, and those of servers, are judged by the current rules anyway.
async fn still_shown(
    session: &Session,
    ctx: &RequestContext,
    dispatcher: &Dispatcher,
    snapshot: &Snapshot,
) -> bool {
    match (snapshot.catalog.served(session.req_header().uri.path()), &ctx.caller) {
        (Some((endpoint, _)), Some(caller)) if ctx.is_sse_client => {
            dispatcher.shows(snapshot, endpoint, caller).await
        }
        _ => false,
    }
}

/// The status of an error of a server that does not speak HTTP.
fn status_of(client_era: Era, error: &[u8]) -> u16 {
    message::error_code(error).map_or(200, |code| client_era.codec().status_of(code))
}

/// Writes a stream to the client until its final message or until the client disconnects. A single response
/// goes out as plain JSON. It becomes a stream if messages precede it, or if the wait is long enough for a
/// proxy to time out.
pub async fn stream_to_client(
    session: &mut Session,
    ctx: &mut RequestContext,
    client_era: Era,
    mut message_stream: MessageStream,
    dispatcher: &Dispatcher,
) -> pingora::Result<()> {
    let keep_alive = ctx.snapshot.config.config.limits.sse_keepalive.get();
    // Over HTTP+SSE there is no other type.
    let takes_events = ctx.is_sse_client || AcceptedTypes::of(session).events;
    let mut begun = false;
    let _counted = message_stream.stream.then(|| dispatcher.metrics.stream());
    if message_stream.stream {
        begin_events(session, ctx).await?;
        begun = true;
    }
    ctx.outcome = Some(Outcome::Ok);
    let mut again = tokio::time::interval_at(Instant::now() + REAUTH_INTERVAL, REAUTH_INTERVAL);
    // When something was last written to the client.
    let mut quiet = Instant::now();
    loop {
        let item = tokio::select! {
            biased;
            _ = again.tick(), if message_stream.stream => {
                if still_authorized(session, ctx, dispatcher).await {
                    continue;
                }
                let last = message_stream.final_message.as_deref().map(sse::message);
                return write_body(session, last.unwrap_or_default(), true).await;
            }
            item = message_stream.items.recv() => item,
            () = tokio::time::sleep_until(quiet + keep_alive), if takes_events => {
                if !begun {
                    begin_events(session, ctx).await?;
                    begun = true;
                }
                write_body(session, Bytes::from_static(sse::KEEP_ALIVE), false).await?;
                quiet = Instant::now();
                continue;
            }
            left = session.as_downstream_mut().read_body_or_idle(true) => {
                ctx.outcome = Some(Outcome::ClientAborted);
                return match left {
                    Err(error) => Err(error.into_down()),
                    Ok(_) => Err(Error::explain(ErrorType::ConnectionClosed, "more came than one request").into_down()),
                };
            }
        };
        match item {
            Some(StreamItem::Message(message)) if takes_events => {
                if !begun {
                    begin_events(session, ctx).await?;
                    begun = true;
                }
                write_body(session, sse::message(&message), false).await?;
                quiet = Instant::now();
            }
            Some(StreamItem::Message(_)) => {}
            Some(StreamItem::Endpoint(uri)) => {
                write_body(session, sse::endpoint(&uri), false).await?;
                quiet = Instant::now();
            }
            Some(StreamItem::Final(message)) => {
                let error = message::read(&message).and_then(|message| message.error);
                if error.is_some() {
                    ctx.outcome = Some(Outcome::Error);
                }
                if begun {
                    return write_body(session, sse::message(&message), true).await;
                }
                let status = error.map_or(200, |error| status_of(client_era, error.of(&message)));
                return write_response(
                    session,
                    ctx,
                    Response { status, body: message, session: None, events: false },
                )
                .await;
            }
            Some(StreamItem::Rejected(rejection)) => {
                ctx.refuse("upstream", rejection);
                return write_error(session, ctx).await;
            }
            Some(StreamItem::Accepted) => return write_response(session, ctx, Response::accepted()).await,
            None => return write_body(session, Bytes::new(), true).await,
        }
    }
}
