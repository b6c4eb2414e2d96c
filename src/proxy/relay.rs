//! A message that the house's own HTTP client carries: because Pingora cannot replay its body (see `body`), because its
//! server may wait for a person and Pingora's clock does not stand still, because its client does not take an answer in
//! every form, or because it goes on with a stream that ends when its session or its caller's rights do. The same head, the same watch on the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Version};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::accept::Takes;
use super::negotiated_response::{Given, decline};
use super::respond::{failure, open, say, stamp};
use super::response_validator::{Watch, Way};
use super::stream_response::{AGAIN, may_stay};
use super::{Ctx, failed, tell, upstream_auth, upstream_request};
use crate::dispatch::client::{Arrived, Errand};
use crate::dispatch::{Door, Leave};
use crate::streams::Leash;
use crate::telemetry::Outcome;
use crate::upstream::UpstreamError;
use crate::upstream::http::Seat;
use crate::upstream::http::pool::Visit;
use mcp::sse;

/// Whether the server of a call may ask for what takes a person to answer.
pub fn waits_for_people(leave: &Leave) -> bool {
    leave.id.is_some() && leave.session.as_ref().is_some_and(|session| session.has_people)
}

/// Carries a message by the house's own client.
pub async fn carry(
    session: &mut Session,
    ctx: &mut Ctx,
    mut leave: Leave,
    door: &Door,
) -> pingora::Result<()> {
    let carried = carried(session, ctx, &mut leave, door).await;
    // Whatever came of it, it is told with the request: to the session, the breaker and the log.
    ctx.leave = Some(leave);
    match carried? {
        Ok(()) => Ok(()),
        Err(error) => {
            drop(failed(ctx, &error));
            failure(session, ctx).await
        }
    }
}

async fn carried(
    session: &mut Session,
    ctx: &mut Ctx,
    leave: &mut Leave,
    door: &Door,
) -> pingora::Result<Result<(), UpstreamError>> {
    let bearer = match upstream_auth::bearer(session, ctx, leave).await {
        Ok(bearer) => bearer,
        Err(error) => return Ok(Err(error)),
    };
    let Some(pool) = leave.server.upstream.http() else {
        return Ok(Err(UpstreamError::Nonsense("it is not reached by HTTP".into())));
    };
    // Its session, which changes with the seat, and its address are for whoever sends it.
    let head =
        upstream_request::request(session, ctx, leave, pool.any(), None, bearer.as_ref(), &door.metrics)?;
    let mut extra = head.headers.clone();
    extra.remove(CONTENT_LENGTH);
    extra.remove(http::header::HOST);
    ctx.sent_at = Some(Instant::now());
    let errand = Errand::of(leave, bearer, extra);
    let (resumes, keep_alive) = (leave.resume.is_some(), ctx.house.plan.config.limits.sse_keepalive.get());
    let metrics = door.metrics.clone();
    // How long is waited for a call, its watch says. A stream that is silent for so long may be one whose other end is
    // gone.
    let silence = match (&leave.resume, &leave.id) {
        (Some(_), _) => Some(leave.server.bounds.stream_idle),
        (None, None) => Some(leave.server.timeout),
        (None, Some(_)) => None,
    };
    let (pieces, mut arriving) = mpsc::channel::<Result<Piece, UpstreamError>>(4);
    let task = door.core.spawn(async move {
        let sent = errand.send(&metrics).await;
        let Arrived { mut response, visit, seat, certain } = match sent {
            Ok(arrived) => arrived,
            Err(error) => return drop(pieces.send(Err(error)).await),
        };
        let (status, headers) = (response.status(), response.headers().clone());
        let head = Head { status, headers, visit, seat, certain };
        let head = Piece::Head(Box::new(head));
        if pieces.send(Ok(head)).await.is_err() {
            return;
        }
        loop {
            let next = match silence {
                Some(silence) => tokio::time::timeout(silence, response.chunk()).await,
                None => Ok(response.chunk().await),
            };
            let piece = match next {
                Ok(Ok(Some(bytes))) => Ok(Piece::Body(bytes)),
                Ok(Ok(None)) => Ok(Piece::End),
                Ok(Err(error)) => Err(UpstreamError::Nonsense(format!("the connection broke off: {error}"))),
                Err(_) if resumes => Ok(Piece::End),
                Err(_) => Err(UpstreamError::TimedOut(silence.unwrap_or_default())),
            };
            let last = !matches!(piece, Ok(Piece::Body(_)));
            if pieces.send(piece).await.is_err() || last {
                return;
            }
        }
    });
    let _leash = Leash(task.abort_handle());
    // A stream that is gone on with is no call: it ends with its session, its caller's rights and the process.
    let never = CancellationToken::new();
    let session_end = leave.session.as_ref().filter(|_| resumes).map(|session| session.end());
    let session_end = session_end.unwrap_or_else(|| never.clone());
    let drain = if resumes { door.drain.clone() } else { never };
    let cut = door.cut.clone();
    let mut again = tokio::time::interval_at(tokio::time::Instant::now() + AGAIN, AGAIN);
    // The head waits for the first byte of a body that is judged first, so that the status can still be an error.
    let mut waiting: Option<Box<ResponseHeader>> = None;
    let (takes, mut given) = (Takes::of(session), Given::AsItCame);
    let mut quiet = Instant::now();
    let mut ended = false;
    loop {
        let left = left(ctx, leave);
        let piece = tokio::select! {
            // What has come counts, however long the client took to read what came before it.
            biased;
            piece = arriving.recv() => piece,
            () = tokio::time::sleep(left.unwrap_or_default()), if left.is_some() => {
                Some(Err(UpstreamError::TimedOut(leave.server.timeout)))
            }
            () = tokio::time::sleep_until((quiet + keep_alive).into()), if given.is_as_it_came() && ctx.watch.as_ref().is_some_and(Watch::is_stream) => {
                // Events go out whole, so that this stands between two of them.
                say(session, Bytes::from_static(sse::KEEP_ALIVE), false).await?;
                quiet = Instant::now();
                continue;
            }
            () = session_end.cancelled() => Some(over(ctx)),
            () = drain.cancelled() => Some(over(ctx)),
            () = cut.cancelled() => Some(Err(UpstreamError::Stopping)),
            _ = again.tick(), if resumes => match may_stay(session, ctx, door).await {
                true => continue,
                false => Some(over(ctx)),
            },
            left = session.as_downstream_mut().read_body_or_idle(true) => {
                ctx.outcome = Some(Outcome::Left);
                let words = "the client left";
                return Err(left.err().unwrap_or_else(|| Error::explain(ErrorType::ConnectionClosed, words)).into_down());
            }
        };
        // If it never had a connection, the answer of a client may come again.
        if let (Some(answering), false) =
            (&mut leave.answering, matches!(piece, Some(Err(UpstreamError::Unreachable(_)))))
        {
            answering.left();
        }
        let step = match (piece, &mut ctx.watch) {
            (Some(Ok(Piece::Head(begun))), _) => {
                let Head { status, headers, visit, seat, certain } = *begun;
                let status = status.as_u16();
                // It lasts as long as the answer.
                ctx.visit = Some(visit);
                let mut head = ResponseHeader::build(status, Some(headers.len()))?;
                for (name, value) in headers.iter() {
                    head.append_header(name, value)?;
                }
                // Connections of the house's own client are shared where nothing is to come that names no request: nothing
                // of that kind is believed there.
                let way = Way { certain, sized: false };
                match Watch::begin(&mut head, leave, seat.as_ref(), way, Instant::now()) {
                    Ok(begun) => {
                        ctx.outcome = Some(if status < 300 { Outcome::Ok } else { Outcome::Error });
                        head.remove_header(&CONTENT_LENGTH);
                        head.remove_header(&TRANSFER_ENCODING);
                        head.remove_header(&http::header::CONNECTION);
                        if session.req_header().version == Version::HTTP_11 && status != 202 && status != 204
                        {
                            head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
                        }
                        upstream_request::response(&mut head)?;
                        if leave.id.is_some() {
                            given = Given::of(takes, leave.server.max_response, &mut head)?;
                        }
                        stamp(&mut head, ctx)?;
                        if resumes {
                            // It works; nobody shall wait for the end of a stream to hear that.
                            tell(leave, &mut ctx.visit, None);
                        }
                        let held = begun.is_held() || !given.is_as_it_came();
                        ctx.watch = Some(begun);
                        if held {
                            waiting = Some(Box::new(head));
                        } else {
                            open(session, Box::new(head), false).await?;
                        }
                        Ok(None)
                    }
                    Err(error) => Err(error),
                }
            }
            (Some(Ok(Piece::Body(bytes))), Some(watch)) => watch.pass(Some(bytes), false),
            (Some(Ok(Piece::End)), Some(watch)) => {
                ended = true;
                watch.pass(None, true)
            }
            (Some(Err(error)), _) => Err(error),
            _ => Err(UpstreamError::Nonsense("the answer ended early".into())),
        };
        if ctx.watch.as_ref().is_some_and(Watch::spoke) {
            tell(leave, &mut ctx.visit, None);
        }
        let decline = |question: &[u8]| {
            if let Some(client) = &leave.session {
                decline(door, client, question);
            }
        };
        let step = step.and_then(|bytes| given.take(bytes.unwrap_or_default(), ended, decline));
        let (bytes, last) = match step {
            Ok(step) => step,
            Err(error) => return Ok(Err(error)),
        };
        if last && ctx.watch.as_ref().is_some_and(Watch::saw_error) {
            ctx.outcome = Some(Outcome::Error);
        }
        if last || !bytes.is_empty() {
            if let Some(head) = waiting.take() {
                open(session, head, false).await?;
            }
            say(session, bytes, last).await?;
            quiet = Instant::now();
        }
        if last {
            return Ok(Ok(()));
        }
    }
}

/// What is left of the time of a call whose answer has begun; before that, whoever sends it counts.
fn left(ctx: &Ctx, leave: &Leave) -> Option<Duration> {
    let watch = ctx.watch.as_ref()?;
    if watch.is_held() {
        return Some(leave.server.timeout.saturating_sub(ctx.sent_at?.elapsed()));
    }
    watch.left()
}

/// A stream ends before its time: in good order where it has begun.
fn over(ctx: &Ctx) -> Result<Piece, UpstreamError> {
    if ctx.watch.is_some() { Ok(Piece::End) } else { Err(UpstreamError::Ended) }
}

struct Head {
    status: http::StatusCode,
    headers: http::HeaderMap,
    visit: Visit,
    seat: Option<Arc<Seat>>,
    certain: bool,
}

enum Piece {
    Head(Box<Head>),
    Body(Bytes),
    End,
}
