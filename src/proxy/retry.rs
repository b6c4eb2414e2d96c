//! The target of a call, and whether a failed call is sent again. `upstream/http/retry.rs` decides what may
//! be repeated; this file translates Pingora's errors for it.

use std::time::Duration;

use http::HeaderMap;
use http::header::LOCATION;
use pingora::http::ResponseHeader;
use pingora::prelude::HttpPeer;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType, OkOrErr};

use super::context::Attempt;
use super::{Gateway, RequestContext, fail, upstream_auth};
use crate::exchange::UpstreamRequest;
use crate::upstream::http::endpoint_health::EndpointFault;
use crate::upstream::http::redirect;
use crate::upstream::http::retry::{Failure, RetryReason, retry_after};
use crate::upstream::{Pool, UpstreamError};

/// A bit in the group key that separates connections: set for connections that are used once.
const FRESH_SECS: u64 = 1 << 63;

/// The server reported that it cannot answer now; the call is sent again.
pub const RETRY: ErrorType = ErrorType::Custom("again");

fn pool(upstream_request: &UpstreamRequest) -> pingora::Result<&Pool> {
    upstream_request.server.endpoint_pool().or_err(ErrorType::InternalError, "the server has no address")
}

/// Whether a message makes sense only in its upstream session.
fn is_bound(upstream_request: &UpstreamRequest) -> bool {
    upstream_request.bound_session().is_some()
}

impl Gateway {
    /// The address of the next attempt.
    pub(super) async fn next_peer(
        &self,
        session: &Session,
        ctx: &mut RequestContext,
    ) -> pingora::Result<Box<HttpPeer>> {
        let upstream_request =
            ctx.request.as_ref().or_err(ErrorType::InternalError, "no server was chosen")?;
        let server = upstream_request.server.clone();
        let pool = pool(upstream_request)?;
        if ctx.attempts.began.is_none() {
            pool.retry.begin();
        }
        let bearer = match upstream_auth::bearer(session, ctx, &upstream_request.server).await {
            Ok(bearer) => bearer,
            Err(error) => return Err(fail(ctx, &error)),
        };
        loop {
            let wait = std::mem::take(&mut ctx.attempts.wait);
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let upstream_request =
                ctx.request.as_ref().or_err(ErrorType::InternalError, "no server was chosen")?;
            let (pool, call) = (self::pool(upstream_request)?, upstream_request.as_call());
            let taken = match (upstream_request.bound_session(), upstream_request.session()) {
                (Some(bound), _) => Ok(Some(bound.clone())),
                (None, Some(client)) => {
                    let lost = ctx.attempt.upstream_session.take_if(|upstream_session| {
                        pool.index_of(upstream_session)
                            .is_none_or(|index| ctx.attempts.failed & (1 << index) != 0)
                    });
                    if let Some(lost) = lost {
                        client.reconnect_upstream(&server, &lost);
                    }
                    match ctx.attempt.upstream_session.take() {
                        Some(upstream_session) => Ok(Some(upstream_session)),
                        None => {
                            let (left, late) = (
                                ctx.attempts.remaining(server.timeout),
                                UpstreamError::TimedOut(server.timeout),
                            );
                            let taking =
                                tokio::time::timeout(left, client.upstream_session(&server, bearer.as_ref()));
                            taking.await.unwrap_or(Err(late)).map(Some)
                        }
                    }
                }
                (None, None) => Ok(None),
            };
            let index = match taken {
                Ok(Some(upstream_session)) => {
                    if let Some(in_flight) = upstream_request.in_flight() {
                        in_flight.request().bind(&upstream_session);
                    }
                    let index = pool.index_of(&upstream_session);
                    ctx.attempt.upstream_session = Some(upstream_session);
                    index.ok_or(UpstreamError::SessionExpired)
                }
                Ok(None) => Ok(pool.pick(call.map_or(0, |call| call.affinity_key), ctx.attempts.failed)),
                Err(error) => Err(error),
            };
            let endpoint_guard = match index {
                Ok(index) => pool.acquire(index),
                Err(error) => return Err(fail(ctx, &error)),
            };
            let left = ctx.attempts.remaining(server.timeout);
            let address = &endpoint_guard.endpoint().peer;
            let mut found = address.now(ctx.attempt.upstream_session.is_none());
            if found.is_none() {
                // A reload created it a moment ago, or the resolver was down until now.
                let _ = tokio::time::timeout(left, Box::pin(address.resolve())).await;
                found = address.now(ctx.attempt.upstream_session.is_none());
            }
            let (shared, doubtful) = (address.has_streams(), address.is_doubtful());
            let upstream_session = ctx.attempt.upstream_session.take();
            ctx.attempt = Attempt::begin(endpoint_guard, upstream_session);
            let Some(mut peer) = found else {
                let error = UpstreamError::Unreachable("its name is not resolved".into());
                if self.should_retry_connect(ctx, None, &error) {
                    continue;
                }
                return Err(fail(ctx, &error));
            };
            // Calls of a session share connections only with other calls of the session. A shared upstream
            // session needs no separate connection.
            ctx.fresh |= (call.is_some_and(|call| call.logs) || doubtful) && !shared;
            ctx.attempt.first_party = ctx.attempt.upstream_session.is_some() && !shared;
            peer.group_key = match &ctx.attempt.upstream_session {
                _ if ctx.fresh && !shared => ctx.request_id | FRESH_SECS,
                Some(upstream_session) if ctx.attempt.first_party => upstream_session.id,
                _ => 0,
            };
            // Never 0, which would be no limit.
            peer.options.read_timeout = Some(left.max(Duration::from_millis(1)));
            peer.options.write_timeout = Some(server.timeout);
            ctx.attempt.bearer = bearer;
            return Ok(peer);
        }
    }

    /// No connection could be made, so nothing was sent: whether the call is tried at another address.
    pub(super) fn should_retry_connect(
        &self,
        ctx: &mut RequestContext,
        peer: Option<&HttpPeer>,
        error: &UpstreamError,
    ) -> bool {
        let (Some(upstream_request), Some(endpoint_guard)) = (&ctx.request, ctx.attempt.endpoint.take())
        else {
            return false;
        };
        let Ok(pool) = pool(upstream_request) else { return false };
        let (index, bound) = (endpoint_guard.index(), is_bound(upstream_request));
        // Another address of the same name is the same endpoint.
        let near = peer.is_some_and(|peer| endpoint_guard.endpoint().peer.failed(peer));
        if !near {
            pool.failed(index, EndpointFault::Connect, &error.to_string());
        }
        let failed = ctx.attempts.failed | 1 << index;
        let far = !near && !bound && pool.has_alternative(failed);
        if far {
            ctx.attempts.failed = failed;
        }
        let elsewhere = near || far;
        let failure = Failure {
            reason: RetryReason::Connect,
            idempotent: upstream_request.is_idempotent(),
            has_alternative: elsewhere,
            reused: false,
            after: None,
        };
        let again = pool.retry.should_retry(&mut ctx.attempts, failure, upstream_request.server.timeout);
        if again {
            pool.retry.count(&self.dispatcher.metrics, &upstream_request.server.name, RetryReason::Connect);
        }
        again
    }

    /// The head of a response has arrived: whether the call is sent again instead, because the server
    /// cannot answer now.
    pub(super) fn should_retry_status(
        &self,
        ctx: &mut RequestContext,
        status: u16,
        headers: &HeaderMap,
    ) -> bool {
        // Any other head may still be followed by silence.
        let Some(reason) = RetryReason::of_status(status) else { return false };
        let (Some(upstream_request), Some(endpoint_guard)) = (&ctx.request, &mut ctx.attempt.endpoint) else {
            return false;
        };
        let Ok(pool) = pool(upstream_request) else { return false };
        let index = endpoint_guard.index();
        if endpoint_guard.record() {
            pool.failed(index, EndpointFault::Response, &format!("HTTP {status}"));
        }
        self.consume_retry(ctx, index, reason, false, false, retry_after(headers))
    }

    /// The request is redirected: whether it is sent there. The server did not process it, so it may be
    /// sent again.
    pub(super) fn should_follow_redirect(&self, ctx: &mut RequestContext, head: &ResponseHeader) -> bool {
        let Some(endpoint_guard) =
            ctx.attempt.endpoint.as_ref().filter(|_| ctx.redirects < redirect::MAX_REDIRECTS)
        else {
            return false;
        };
        let (index, endpoint) = (endpoint_guard.index(), endpoint_guard.endpoint());
        let from = ctx
            .redirect
            .as_ref()
            .filter(|(at, _)| *at == index)
            .map_or(&endpoint.peer.path, |(_, path)| path);
        let to = head.headers.get(LOCATION).and_then(|to| to.to_str().ok());
        let Some(to) = to.and_then(|to| endpoint.peer.redirected(from, to)) else { return false };
        endpoint.redirects.follow(head.status.as_u16(), to.path());
        ctx.redirects += 1;
        ctx.redirect = Some((index, to));
        true
    }

    /// The connection broke or was silent for too long: whether the call is sent again.
    pub(super) fn should_retry_reset(&self, ctx: &mut RequestContext, e: &Error, reused: bool) -> bool {
        if !matches!(e.esource(), ErrorSource::Upstream) || ctx.rejection.is_some() {
            return false;
        }
        let (Some(upstream_request), Some(endpoint_guard)) = (&ctx.request, &mut ctx.attempt.endpoint) else {
            return false;
        };
        let Ok(pool) = pool(upstream_request) else { return false };
        let index = endpoint_guard.index();
        let silent = matches!(e.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout);
        // A server may close an idle connection. That says nothing about its health, unless it has begun a
        // response.
        let is_failure = (silent || !reused || ctx.attempt.validator.is_some()) && !is_early(e);
        if endpoint_guard.record() && is_failure {
            pool.failed(
                index,
                EndpointFault::Response,
                if silent { "it is silent" } else { "the connection broke off" },
            );
        }
        let unseen = was_unprocessed(e);
        // Once a response has begun, it cannot be taken back.
        !silent
            && ctx.attempt.validator.is_none()
            && self.consume_retry(ctx, index, RetryReason::Reset, reused || unseen, unseen, None)
    }

    fn consume_retry(
        &self,
        ctx: &mut RequestContext,
        index: usize,
        reason: RetryReason,
        reused: bool,
        unseen: bool,
        after: Option<Duration>,
    ) -> bool {
        let Some(upstream_request) = &ctx.request else { return false };
        let Ok(pool) = pool(upstream_request) else { return false };
        let failed = ctx.attempts.failed | 1 << index;
        // A session changes its endpoint only when no connection can be made.
        let elsewhere = ctx.attempt.upstream_session.is_none() && pool.has_alternative(failed);
        let failure = Failure {
            reason,
            idempotent: upstream_request.is_idempotent() || unseen,
            has_alternative: elsewhere,
            reused,
            after,
        };
        let again = pool.retry.should_retry(&mut ctx.attempts, failure, upstream_request.server.timeout);
        if again {
            pool.retry.count(&self.dispatcher.metrics, &upstream_request.server.name, reason);
            // One closed pooled connection is no reason to try another endpoint.
            if elsewhere && !reused {
                ctx.attempts.failed = failed;
            }
        }
        again
    }
}

/// Whether an HTTP/2 connection ended before anything of a call was sent. Another one may exist or can be
/// made.
pub(super) fn is_stale(e: &Error) -> bool {
    *e.etype() == ErrorType::H2Error && header_says(e, "while creating new stream")
}

/// Whether an HTTP/2 server ended a call before it had read all of it (RFC 9113 §8.1). Its response is
/// lost, because Pingora reads none before it has written the request.
pub(super) fn is_early(e: &Error) -> bool {
    *e.etype() == ErrorType::H2Error && header_says(e, "cannot reserve capacity")
}

fn header_says(e: &Error, message: &str) -> bool {
    e.context.as_ref().is_some_and(|context| context.as_str() == message)
}

/// Whether an HTTP/2 server reports that it did not process the request: it refused the stream, or named an
/// earlier one as its last (RFC 9113 §8.7).
fn was_unprocessed(error: &Error) -> bool {
    error.root_cause().downcast_ref::<h2::Error>().is_some_and(|error| {
        let (reason, remote) = (error.reason(), error.is_remote());
        remote
            && (error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM)
                || error.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
    })
}

#[cfg(test)]
mod tests;
