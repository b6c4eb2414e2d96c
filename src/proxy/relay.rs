//! Sends a message by the gateway's own HTTP client and relays the response. The reasons: Pingora cannot
//! replay the body (see `request_body`); the server may wait for elicitation, and Pingora's timeout cannot
//! be paused; the client does not accept every type; or the stream is a resumed one, which ends with its
//! session or its caller's rights. The request head and the response validation are the same.

mod pieces;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Version};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio_util::sync::CancellationToken;

use super::accept_header::AcceptedTypes;
use super::context::Attempt;
use super::negotiated_response::{NegotiatedResponse, decline};
use super::respond::{add_common_headers, write_body, write_error, write_head};
use super::response_validator::{BodyFraming, ResponseValidator};
use super::stream_response::{REAUTH_INTERVAL, still_authorized};
use super::{RequestContext, fail, report_to_upstream, upstream_auth, upstream_request};
use crate::dispatch::Dispatcher;
use crate::exchange::client_request::ClientRequest;
use crate::exchange::{UpstreamRequest, UpstreamRequestKind};
use crate::streams::AbortOnDrop;
use crate::telemetry::Outcome;
use crate::upstream::UpstreamError;
use mcp::sse;
use pieces::{RelayHead, RelayItem, pieces};

/// Whether the server of a call may send an elicitation request, which a person must answer.
pub fn may_elicit(upstream_request: &UpstreamRequest) -> bool {
    upstream_request.id().is_some()
        && upstream_request.session().is_some_and(|session| session.supports_elicitation)
}

/// Relays a message by the gateway's own client.
pub async fn relay(
    session: &mut Session,
    ctx: &mut RequestContext,
    mut upstream_request: UpstreamRequest,
    dispatcher: &Dispatcher,
) -> pingora::Result<()> {
    let carried = run(session, ctx, &mut upstream_request, dispatcher).await;
    // The result is recorded with the request: for the session, the circuit breaker and the log.
    ctx.request = Some(upstream_request);
    match carried? {
        Ok(()) => Ok(()),
        Err(error) => {
            drop(fail(ctx, &error));
            write_error(session, ctx).await
        }
    }
}

async fn run(
    session: &mut Session,
    ctx: &mut RequestContext,
    upstream_request: &mut UpstreamRequest,
    dispatcher: &Dispatcher,
) -> pingora::Result<Result<(), UpstreamError>> {
    let bearer = match upstream_auth::bearer(session, ctx, &upstream_request.server).await {
        Ok(bearer) => bearer,
        Err(error) => return Ok(Err(error)),
    };
    let Some(pool) = upstream_request.server.endpoint_pool() else {
        return Ok(Err(UpstreamError::InvalidResponse("it is not reached by HTTP".into())));
    };
    // The client adds the session id, which changes with the upstream session, and the address.
    let head = upstream_request::request(
        session,
        ctx,
        upstream_request,
        pool.any(),
        None,
        bearer.as_ref(),
        &dispatcher.metrics,
    )?;
    let mut extra = head.headers.clone();
    extra.remove(CONTENT_LENGTH);
    extra.remove(http::header::HOST);
    ctx.sent_at = Some(Instant::now());
    let client_request = ClientRequest::of(upstream_request, bearer, extra);
    let (resumes, keep_alive) =
        (upstream_request.resumes(), ctx.snapshot.config.config.limits.sse_keepalive.get());
    let metrics = dispatcher.metrics.clone();
    // The response validator holds the timeout of a call. A stream that is silent for so long may have lost
    // its other end.
    let silence = match &upstream_request.kind {
        UpstreamRequestKind::Resume(_) => Some(upstream_request.server.limits.stream_idle),
        UpstreamRequestKind::Answer(_) => Some(upstream_request.server.timeout),
        UpstreamRequestKind::Call(_) => None,
    };
    let (sender, mut arriving) = pieces();
    let task = dispatcher
        .runtime
        .spawn(async move { sender.relay(client_request, &metrics, silence, resumes).await });
    let _leash = AbortOnDrop(task.abort_handle());
    // A resumed stream is no call: it ends with its session, its caller's rights and the process.
    let never = CancellationToken::new();
    let session_end = upstream_request.session().filter(|_| resumes).map(|session| session.end());
    let session_end = session_end.unwrap_or_else(|| never.clone());
    let drain = if resumes { dispatcher.drain.clone() } else { never };
    let cut = dispatcher.cut.clone();
    let mut again = tokio::time::interval_at(tokio::time::Instant::now() + REAUTH_INTERVAL, REAUTH_INTERVAL);
    // The head waits for the first byte of a body that is validated first, so that the status can still be
    // an error.
    let mut waiting: Option<Box<ResponseHeader>> = None;
    let (takes, mut given) = (AcceptedTypes::of(session), NegotiatedResponse::Unchanged);
    let mut quiet = Instant::now();
    let mut ended = false;
    loop {
        let remaining = remaining(ctx, upstream_request);
        let piece = tokio::select! {
            // Bytes that have arrived count, however long the client took to read the ones before.
            biased;
            piece = arriving.next() => piece,
            () = tokio::time::sleep(remaining.unwrap_or_default()), if remaining.is_some() => {
                Some(Err(UpstreamError::TimedOut(upstream_request.server.timeout)))
            }
            () = tokio::time::sleep_until((quiet + keep_alive).into()), if given.is_as_it_came() && ctx.attempt.validator.as_ref().is_some_and(ResponseValidator::is_stream) => {
                // Events go out whole, so this is written between two of them.
                write_body(session, Bytes::from_static(sse::KEEP_ALIVE), false).await?;
                quiet = Instant::now();
                continue;
            }
            () = session_end.cancelled() => Some(ended_early(ctx)),
            () = drain.cancelled() => Some(ended_early(ctx)),
            () = cut.cancelled() => Some(Err(UpstreamError::Stopping)),
            _ = again.tick(), if resumes => match still_authorized(session, ctx, dispatcher).await {
                true => continue,
                false => Some(ended_early(ctx)),
            },
            left = session.as_downstream_mut().read_body_or_idle(true) => {
                ctx.outcome = Some(Outcome::ClientAborted);
                let message = "the client left";
                return Err(left.err().unwrap_or_else(|| Error::explain(ErrorType::ConnectionClosed, message)).into_down());
            }
        };
        // If there never was a connection, the client may send its answer again.
        if !matches!(piece, Some(Err(UpstreamError::Unreachable(_)))) {
            upstream_request.sent();
        }
        let step = match (piece, &mut ctx.attempt.validator) {
            (Some(Ok(RelayItem::Head(guard))), _) => {
                let RelayHead { status, headers, endpoint: endpoint_guard, upstream_session, certain } =
                    *guard;
                let status = status.as_u16();
                // It lasts as long as the response.
                ctx.attempt = Attempt::begin(endpoint_guard, upstream_session);
                let mut head = ResponseHeader::build(status, Some(headers.len()))?;
                for (name, value) in headers.iter() {
                    head.append_header(name, value)?;
                }
                // Connections of the gateway's own client are shared if no response without an id can come.
                // A response of that kind is not accepted there.
                let framing = BodyFraming { certain, sized: false };
                match ResponseValidator::begin(
                    &mut head,
                    upstream_request,
                    ctx.attempt.upstream_session.as_ref(),
                    framing,
                    Instant::now(),
                ) {
                    Ok(guard) => {
                        ctx.outcome = Some(if status < 300 { Outcome::Ok } else { Outcome::Error });
                        head.remove_header(&CONTENT_LENGTH);
                        head.remove_header(&TRANSFER_ENCODING);
                        head.remove_header(&http::header::CONNECTION);
                        if session.req_header().version == Version::HTTP_11 && status != 202 && status != 204
                        {
                            head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
                        }
                        upstream_request::response(&mut head)?;
                        if upstream_request.id().is_some() {
                            given = NegotiatedResponse::of(
                                takes,
                                upstream_request.server.max_response,
                                &mut head,
                            )?;
                        }
                        add_common_headers(&mut head, ctx)?;
                        if resumes {
                            // The server works. This is reported now, not at the end of the stream.
                            report_to_upstream(upstream_request, &mut ctx.attempt.endpoint, None);
                        }
                        let held = guard.is_held() || !given.is_as_it_came();
                        ctx.attempt.validator = Some(guard);
                        if held {
                            waiting = Some(Box::new(head));
                        } else {
                            write_head(session, Box::new(head), false).await?;
                        }
                        Ok(None)
                    }
                    Err(error) => Err(error),
                }
            }
            (Some(Ok(RelayItem::Body(bytes))), Some(validator)) => validator.push(Some(bytes), false),
            (Some(Ok(RelayItem::End)), Some(validator)) => {
                ended = true;
                validator.push(None, true)
            }
            (Some(Err(error)), _) => Err(error),
            _ => Err(UpstreamError::InvalidResponse("the answer ended early".into())),
        };
        if ctx.attempt.validator.as_ref().is_some_and(ResponseValidator::has_messages) {
            report_to_upstream(upstream_request, &mut ctx.attempt.endpoint, None);
        }
        let decline = |question: &[u8]| {
            if let Some(client) = upstream_request.session() {
                decline(dispatcher, client, question);
            }
        };
        let step = step.and_then(|bytes| given.take(bytes.unwrap_or_default(), ended, decline));
        let (bytes, last) = match step {
            Ok(step) => step,
            Err(error) => return Ok(Err(error)),
        };
        if last && ctx.attempt.validator.as_ref().is_some_and(ResponseValidator::saw_error) {
            ctx.outcome = Some(Outcome::Error);
        }
        if last || !bytes.is_empty() {
            if let Some(head) = waiting.take() {
                write_head(session, head, false).await?;
            }
            write_body(session, bytes, last).await?;
            quiet = Instant::now();
        }
        if last {
            return Ok(Ok(()));
        }
    }
}

/// Remaining time of a call whose response has begun; before that, the client counts it.
fn remaining(ctx: &RequestContext, upstream_request: &UpstreamRequest) -> Option<Duration> {
    let validator = ctx.attempt.validator.as_ref()?;
    if validator.is_held() {
        return Some(upstream_request.server.timeout.saturating_sub(ctx.sent_at?.elapsed()));
    }
    validator.remaining()
}

/// A stream ends early: cleanly if it has begun.
fn ended_early(ctx: &RequestContext) -> Result<RelayItem, UpstreamError> {
    if ctx.attempt.validator.is_some() { Ok(RelayItem::End) } else { Err(UpstreamError::SessionClosed) }
}

#[cfg(test)]
mod tests;
