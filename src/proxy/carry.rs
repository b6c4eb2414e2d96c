//! A call that the house's own HTTP client carries, because Pingora cannot replay its body (see `body`). The same
//! head, the same watch on the answer.

use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, Version};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio::sync::mpsc;

use super::answer::Watch;
use super::reply::{failure, open, say, stamp};
use super::{Ctx, credentials, failed, outgoing, tell};
use crate::door::errand::Errand;
use crate::door::{Door, Leave};
use crate::rooms::Leash;
use crate::telemetry::Outcome;
use crate::upstream::UpstreamError;
use crate::upstream::pool::Visit;

/// Carries a call by the house's own client, where Pingora cannot replay its body. The same head, the same
/// watching of the answer.
pub async fn carry(session: &mut Session, ctx: &mut Ctx, leave: Leave, door: &Door) -> pingora::Result<()> {
    let carried = carried(session, ctx, &leave, door).await;
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
    leave: &Leave,
    door: &Door,
) -> pingora::Result<Result<(), UpstreamError>> {
    let bearer = match credentials::bearer(session, ctx, leave).await {
        Ok(bearer) => bearer,
        Err(error) => return Ok(Err(error)),
    };
    let Some(pool) = leave.server.upstream.http() else {
        return Ok(Err(UpstreamError::Nonsense("it is not reached by HTTP".into())));
    };
    // Its session, which changes with the seat, and its address are for whoever sends it.
    let head = outgoing::request(session, ctx, leave, pool.any(), None, bearer.as_ref())?;
    let mut extra = head.headers.clone();
    extra.remove(CONTENT_LENGTH);
    extra.remove(http::header::HOST);
    ctx.sent_at = Some(Instant::now());
    let errand = Errand {
        server: leave.server.clone(),
        era: leave.era,
        session: leave.session.clone(),
        bearer,
        extra,
        body: leave.body.clone(),
        safe: leave.safe,
        key: leave.key,
    };
    let (metrics, patience) = (door.metrics.clone(), leave.server.timeout);
    let (pieces, mut arriving) = mpsc::channel::<Result<Piece, UpstreamError>>(4);
    let task = door.core.spawn(async move {
        let sent = errand.send(&metrics).await;
        let (mut response, visit) = match sent {
            Ok(arrived) => arrived,
            Err(error) => return drop(pieces.send(Err(error)).await),
        };
        let head = Piece::Head(response.status().as_u16(), Box::new(response.headers().clone()), visit);
        if pieces.send(Ok(head)).await.is_err() {
            return;
        }
        loop {
            let piece = match tokio::time::timeout(patience, response.chunk()).await {
                Ok(Ok(Some(bytes))) => Ok(Piece::Body(bytes)),
                Ok(Ok(None)) => Ok(Piece::End),
                Ok(Err(error)) => Err(UpstreamError::Nonsense(format!("the connection broke off: {error}"))),
                Err(_) => Err(UpstreamError::TimedOut(patience)),
            };
            let last = !matches!(piece, Ok(Piece::Body(_)));
            if pieces.send(piece).await.is_err() || last {
                return;
            }
        }
    });
    let _leash = Leash(task.abort_handle());
    let mut watch: Option<Watch> = None;
    // The head waits for the first byte of a body that is judged first, so that the status can still be an error.
    let mut waiting: Option<Box<ResponseHeader>> = None;
    loop {
        let piece = tokio::select! {
            piece = arriving.recv() => piece,
            left = session.as_downstream_mut().read_body_or_idle(true) => {
                ctx.outcome = Some(Outcome::Left);
                let words = "the client left";
                return Err(left.err().unwrap_or_else(|| Error::explain(ErrorType::ConnectionClosed, words)).into_down());
            }
        };
        let step = match (piece, &mut watch) {
            (Some(Ok(Piece::Head(status, headers, visit))), _) => {
                // It lasts as long as the answer.
                ctx.visit = Some(visit);
                let mut head = ResponseHeader::build(status, Some(headers.len()))?;
                for (name, value) in headers.iter() {
                    head.append_header(name, value)?;
                }
                match Watch::begin(&mut head, leave) {
                    Ok(begun) => {
                        watch = Some(begun);
                        ctx.outcome = Some(if status < 300 { Outcome::Ok } else { Outcome::Error });
                        head.remove_header(&CONTENT_LENGTH);
                        head.remove_header(&TRANSFER_ENCODING);
                        head.remove_header(&http::header::CONNECTION);
                        if session.req_header().version == Version::HTTP_11 && status != 202 && status != 204
                        {
                            head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
                        }
                        outgoing::response(&mut head);
                        stamp(&mut head, ctx)?;
                        if watch.as_ref().is_some_and(Watch::is_held) {
                            waiting = Some(Box::new(head));
                        } else {
                            open(session, Box::new(head), false).await?;
                        }
                        Ok(None)
                    }
                    Err(error) => Err(error),
                }
            }
            (Some(Ok(Piece::Body(_))), Some(watch))
                if watch.is_held() && ctx.sent_at.is_some_and(|at| at.elapsed() > leave.server.timeout) =>
            {
                Err(UpstreamError::TimedOut(leave.server.timeout))
            }
            (Some(Ok(Piece::Body(bytes))), Some(watch)) => watch.pass(Some(bytes), false),
            (Some(Ok(Piece::End)), Some(watch)) => match watch.pass(None, true) {
                Ok(rest) => {
                    if let Some(head) = waiting.take() {
                        open(session, head, false).await?;
                    }
                    return say(session, rest.unwrap_or_default(), true).await.map(Ok);
                }
                Err(error) => Err(error),
            },
            (Some(Err(error)), _) => Err(error),
            _ => Err(UpstreamError::Nonsense("the answer ended early".into())),
        };
        if watch.as_ref().is_some_and(|watch| watch.spoke) {
            tell(leave, &mut ctx.visit, None);
        }
        match step {
            Ok(Some(bytes)) if !bytes.is_empty() => {
                if let Some(head) = waiting.take() {
                    open(session, head, false).await?;
                }
                say(session, bytes, false).await?;
            }
            Ok(_) => {}
            Err(error) => return Ok(Err(error)),
        }
    }
}

enum Piece {
    Head(u16, Box<http::HeaderMap>, Visit),
    Body(Bytes),
    End,
}
