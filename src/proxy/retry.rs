//! Where a call goes now, and whether it goes again when that did not work. What may be repeated is decided in
//! `upstream/retry.rs`; here it is found out what happened, in Pingora's words.

use std::time::Duration;

use http::HeaderMap;
use http::header::LOCATION;
use pingora::http::ResponseHeader;
use pingora::prelude::HttpPeer;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType, OkOrErr};

use super::{Ctx, Gateway, failed, upstream_auth};
use crate::dispatch::Leave;
use crate::upstream::http::endpoint_health::Fault;
use crate::upstream::http::redirect;
use crate::upstream::http::retry::{Mishap, Reason, retry_after};
use crate::upstream::{Pool, UpstreamError};

/// Among the numbers that tell connections apart: those of connections that are used once.
const FRESH: u64 = 1 << 63;

/// The server said that it cannot answer now; the call goes once more.
pub const AGAIN: ErrorType = ErrorType::Custom("again");

fn pool(leave: &Leave) -> pingora::Result<&Pool> {
    leave.server.upstream.http().or_err(ErrorType::InternalError, "the server has no address")
}

/// Whether a message makes sense only where its seat is.
fn is_bound(leave: &Leave) -> bool {
    leave.seat.is_some() || leave.id.is_none()
}

impl Gateway {
    /// The address that the call goes to now.
    pub(super) async fn next_peer(&self, session: &Session, ctx: &mut Ctx) -> pingora::Result<Box<HttpPeer>> {
        let leave = ctx.leave.as_ref().or_err(ErrorType::InternalError, "no server was chosen")?;
        let server = leave.server.clone();
        let pool = pool(leave)?;
        if ctx.tries.began.is_none() {
            pool.retry.begin();
        }
        let bearer = match upstream_auth::bearer(session, ctx, leave).await {
            Ok(bearer) => bearer,
            Err(error) => return Err(failed(ctx, &error)),
        };
        loop {
            let wait = std::mem::take(&mut ctx.tries.wait);
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let leave = ctx.leave.as_ref().or_err(ErrorType::InternalError, "no server was chosen")?;
            let pool = self::pool(leave)?;
            let taken = match &leave.session {
                _ if leave.seat.is_some() => Ok(leave.seat.clone()),
                Some(client) => {
                    let lost = ctx.seat.take_if(|seat| {
                        pool.place(seat).is_none_or(|index| ctx.tries.failed & (1 << index) != 0)
                    });
                    if let Some(lost) = lost {
                        client.lose(&server, &lost);
                    }
                    match ctx.seat.take() {
                        Some(seat) => Ok(Some(seat)),
                        None => {
                            let (left, late) =
                                (ctx.tries.left(server.timeout), UpstreamError::TimedOut(server.timeout));
                            let taking = tokio::time::timeout(left, client.seat(&server, bearer.as_ref()));
                            taking.await.unwrap_or(Err(late)).map(Some)
                        }
                    }
                }
                None => Ok(None),
            };
            let index = match taken {
                Ok(Some(seat)) => {
                    if let Some(run) = &leave.run {
                        run.run().sits(&seat);
                    }
                    let index = pool.place(&seat);
                    ctx.seat = Some(seat);
                    index.ok_or(UpstreamError::Forgotten)
                }
                Ok(None) => Ok(pool.pick(leave.key, ctx.tries.failed)),
                Err(error) => Err(error),
            };
            let visit = match index {
                Ok(index) => pool.visit(index),
                Err(error) => return Err(failed(ctx, &error)),
            };
            let left = ctx.tries.left(server.timeout);
            let address = &visit.endpoint().peer;
            let mut found = address.now(ctx.seat.is_none());
            if found.is_none() {
                // A reload made it a moment ago, or the resolver was down until now.
                let _ = tokio::time::timeout(left, Box::pin(address.resolve())).await;
                found = address.now(ctx.seat.is_none());
            }
            let (shared, doubtful) = (address.has_streams(), address.is_doubtful());
            ctx.visit = Some(visit);
            let Some(mut peer) = found else {
                let error = UpstreamError::Unreachable("its name is not resolved".into());
                if self.connects_again(ctx, None, &error) {
                    continue;
                }
                return Err(failed(ctx, &error));
            };
            // Calls of a session share connections with none but its own; where there is one for all, none is needed.
            ctx.fresh |= (leave.logs || doubtful) && !shared;
            ctx.own = ctx.seat.is_some() && !shared;
            peer.group_key = match &ctx.seat {
                _ if ctx.fresh && !shared => ctx.request_id | FRESH,
                Some(seat) if ctx.own => seat.number,
                _ => 0,
            };
            // Never 0, which would be no limit.
            peer.options.read_timeout = Some(left.max(Duration::from_millis(1)));
            peer.options.write_timeout = Some(server.timeout);
            ctx.bearer = bearer;
            return Ok(peer);
        }
    }

    /// No connection could be made, so nothing was sent: whether the call is tried at another address.
    pub(super) fn connects_again(
        &self,
        ctx: &mut Ctx,
        peer: Option<&HttpPeer>,
        error: &UpstreamError,
    ) -> bool {
        let (Some(leave), Some(visit)) = (&ctx.leave, ctx.visit.take()) else { return false };
        let Ok(pool) = pool(leave) else { return false };
        let (index, bound) = (visit.index(), is_bound(leave));
        // Another address of the same name is the same endpoint.
        let near = peer.is_some_and(|peer| visit.endpoint().peer.failed(peer));
        if !near {
            pool.failed(index, Fault::Connect, &error.to_string());
        }
        let failed = ctx.tries.failed | 1 << index;
        let far = !near && !bound && pool.is_elsewhere(failed);
        if far {
            ctx.tries.failed = failed;
        }
        let elsewhere = near || far;
        let mishap =
            Mishap { reason: Reason::Connect, safe: leave.safe, elsewhere, reused: false, after: None };
        let again = pool.retry.again(&mut ctx.tries, mishap, leave.server.timeout);
        if again {
            pool.retry.count(&self.door.metrics, &leave.server.name, Reason::Connect);
        }
        again
    }

    /// The head of an answer has come: whether the call goes again instead, because the server cannot answer now.
    pub(super) fn asks_again(&self, ctx: &mut Ctx, status: u16, headers: &HeaderMap) -> bool {
        // Any other head may still be followed by silence.
        let Some(reason) = Reason::of_status(status) else { return false };
        let (Some(leave), Some(visit)) = (&ctx.leave, &mut ctx.visit) else { return false };
        let Ok(pool) = pool(leave) else { return false };
        let index = visit.index();
        if visit.tell() {
            pool.failed(index, Fault::Answer, &format!("HTTP {status}"));
        }
        self.goes_again(ctx, index, reason, false, false, retry_after(headers))
    }

    /// The request is redirected: whether it goes there. It was not looked at, so that it may be sent again.
    pub(super) fn moves(&self, ctx: &mut Ctx, head: &ResponseHeader) -> bool {
        let Some(visit) = ctx.visit.as_ref().filter(|_| ctx.moves < redirect::MOST) else { return false };
        let (index, endpoint) = (visit.index(), visit.endpoint());
        let from =
            ctx.moved.as_ref().filter(|(at, _)| *at == index).map_or(&endpoint.peer.path, |(_, path)| path);
        let to = head.headers.get(LOCATION).and_then(|to| to.to_str().ok());
        let Some(to) = to.and_then(|to| endpoint.peer.redirected(from, to)) else { return false };
        endpoint.redirects.follow(head.status.as_u16(), to.path());
        ctx.moves += 1;
        ctx.moved = Some((index, to));
        true
    }

    /// The connection broke, or was silent for too long: whether the call goes again.
    pub(super) fn sends_again(&self, ctx: &mut Ctx, e: &Error, reused: bool) -> bool {
        if !matches!(e.esource(), ErrorSource::Upstream) || ctx.refused.is_some() {
            return false;
        }
        let (Some(leave), Some(visit)) = (&ctx.leave, &mut ctx.visit) else { return false };
        let Ok(pool) = pool(leave) else { return false };
        let index = visit.index();
        let silent = matches!(e.etype(), ErrorType::ReadTimedout | ErrorType::WriteTimedout);
        // A server may close a connection that lies idle; that says nothing of how it is, unless it has begun an answer.
        let says = (silent || !reused || ctx.watch.is_some()) && !is_early(e);
        if visit.tell() && says {
            pool.failed(
                index,
                Fault::Answer,
                if silent { "it is silent" } else { "the connection broke off" },
            );
        }
        let unseen = was_unseen(e);
        // Once an answer has begun it cannot be taken back.
        !silent
            && ctx.watch.is_none()
            && self.goes_again(ctx, index, Reason::Reset, reused || unseen, unseen, None)
    }

    fn goes_again(
        &self,
        ctx: &mut Ctx,
        index: usize,
        reason: Reason,
        reused: bool,
        unseen: bool,
        after: Option<Duration>,
    ) -> bool {
        let Some(leave) = &ctx.leave else { return false };
        let Ok(pool) = pool(leave) else { return false };
        let failed = ctx.tries.failed | 1 << index;
        // A session leaves its endpoint only when no connection can be made.
        let elsewhere = ctx.seat.is_none() && pool.is_elsewhere(failed);
        let mishap = Mishap { reason, safe: leave.safe || unseen, elsewhere, reused, after };
        let again = pool.retry.again(&mut ctx.tries, mishap, leave.server.timeout);
        if again {
            pool.retry.count(&self.door.metrics, &leave.server.name, reason);
            // One closed pooled connection is no reason to go elsewhere.
            if elsewhere && !reused {
                ctx.tries.failed = failed;
            }
        }
        again
    }
}

/// Whether a connection of HTTP/2 was at its end before anything of a call was sent: another may stand, or can be made.
pub(super) fn is_stale(e: &Error) -> bool {
    *e.etype() == ErrorType::H2Error && says(e, "while creating new stream")
}

/// Whether a server of HTTP/2 has ended a call before it had read all of it (RFC 9113 §8.1). Its answer is lost, since
/// Pingora reads none before it has written.
pub(super) fn is_early(e: &Error) -> bool {
    *e.etype() == ErrorType::H2Error && says(e, "cannot reserve capacity")
}

fn says(e: &Error, words: &str) -> bool {
    e.context.as_ref().is_some_and(|context| context.as_str() == words)
}

/// Whether a server of HTTP/2 says that it did not look at the request: it refused the stream, or named an earlier one as
/// its last (RFC 9113 §8.7).
fn was_unseen(error: &Error) -> bool {
    error.root_cause().downcast_ref::<h2::Error>().is_some_and(|error| {
        let (reason, remote) = (error.reason(), error.is_remote());
        remote
            && (error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM)
                || error.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
    })
}
