//! Speaking to a client for a room of the house: what is said as it comes, until the last word or until the client leaves.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderValue, Version};
use mcp::Era;
use mcp::rejection::code;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;
use pingora::{Error, ErrorType};
use tokio::time::Instant;

use super::accept::Takes;
use super::respond::{failure, open, say, stamp, whole};
use super::{Ctx, request_head};
use crate::dispatch::{Door, Reply};
use crate::streams::{Talk, Word};
use crate::telemetry::Outcome;
use mcp::jsonrpc::message;
use mcp::sse;

/// How often it is asked whether the caller of a stream may still have it.
pub(super) const AGAIN: Duration = Duration::from_secs(5);

async fn begin_events(session: &mut Session, ctx: &Ctx) -> pingora::Result<()> {
    let mut head = ResponseHeader::build_no_case(200, Some(6))?;
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))?;
    head.insert_header(CACHE_CONTROL, HeaderValue::from_static("no-cache"))?;
    if session.req_header().version == Version::HTTP_11 {
        head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
    }
    stamp(&mut head, ctx)?;
    open(session, Box::new(head), false).await
}

/// Whether the caller of a stream is by now still the one that began it, with the same roles under the same policy. A
/// stream that ends otherwise is opened anew by its client, and then judged by what holds then. The house of now takes
/// the place of the one that the stream began in, which would stay for as long as the stream.
pub(super) async fn may_stay(session: &Session, ctx: &mut Ctx, door: &Door) -> bool {
    let house = door.registry.house();
    if house.plan.config.rbac != ctx.house.plan.config.rbac {
        return false;
    }
    ctx.house = house.clone();
    let Some(caller) = ctx.caller.as_ref().filter(|_| !ctx.vouched) else { return true };
    match house.plan.chain.auth.identify(&request_head::head(session, ctx.client)).await {
        Ok(now) => now.is_same_as(caller) && now.roles == caller.roles && now.scopes == caller.scopes,
        // That the keys cannot be read says nothing about the caller.
        Err(refusal) => refusal.status >= 500,
    }
}

/// The status of an error of a server that speaks no HTTP itself: in the modern era some have one of their own
/// (2026-07-28, streamable-http).
fn status_of(era: Era, error: &[u8]) -> u16 {
    if era == Era::Legacy {
        return 200;
    }
    let code = message::member(error, "code")
        .and_then(|code| std::str::from_utf8(code.of(error)).ok()?.parse().ok());
    match code {
        Some(code::METHOD_NOT_FOUND) => 404,
        Some(
            code::PARSE
            | code::INVALID_REQUEST
            | code::INVALID_PARAMS
            | code::HEADER_MISMATCH
            | code::MISSING_CAPABILITY
            | code::UNSUPPORTED_VERSION,
        ) => 400,
        _ => 200,
    }
}

/// Speaks for a room until it has said its last word or the client leaves. A single answer goes out as plain
/// JSON; notes before it, or a wait that is long enough for a proxy to grow impatient, make it a stream.
pub async fn talk(
    session: &mut Session,
    ctx: &mut Ctx,
    era: Era,
    mut talk: Talk,
    door: &Door,
) -> pingora::Result<()> {
    let keep_alive = ctx.house.plan.config.limits.sse_keepalive.get();
    let takes_events = Takes::of(session).events;
    let mut begun = false;
    let _counted = talk.stream.then(|| door.metrics.stream());
    if talk.stream {
        begin_events(session, ctx).await?;
        begun = true;
    }
    ctx.outcome = Some(Outcome::Ok);
    let mut again = tokio::time::interval_at(Instant::now() + AGAIN, AGAIN);
    // Since when the client has heard nothing.
    let mut quiet = Instant::now();
    loop {
        let word = tokio::select! {
            biased;
            _ = again.tick(), if talk.stream => {
                if may_stay(session, ctx, door).await {
                    continue;
                }
                let last = talk.goodbye.as_deref().map(sse::message);
                return say(session, last.unwrap_or_default(), true).await;
            }
            word = talk.words.recv() => word,
            () = tokio::time::sleep_until(quiet + keep_alive), if takes_events => {
                if !begun {
                    begin_events(session, ctx).await?;
                    begun = true;
                }
                say(session, Bytes::from_static(sse::KEEP_ALIVE), false).await?;
                quiet = Instant::now();
                continue;
            }
            left = session.as_downstream_mut().read_body_or_idle(true) => {
                ctx.outcome = Some(Outcome::Left);
                return match left {
                    Err(error) => Err(error.into_down()),
                    Ok(_) => Err(Error::explain(ErrorType::ConnectionClosed, "more came than one request").into_down()),
                };
            }
        };
        match word {
            Some(Word::Note(message)) if takes_events => {
                if !begun {
                    begin_events(session, ctx).await?;
                    begun = true;
                }
                say(session, sse::message(&message), false).await?;
                quiet = Instant::now();
            }
            Some(Word::Note(_)) => {}
            Some(Word::Last(message)) => {
                let error = message::read(&message).and_then(|message| message.error);
                if error.is_some() {
                    ctx.outcome = Some(Outcome::Error);
                }
                if begun {
                    return say(session, sse::message(&message), true).await;
                }
                let status = error.map_or(200, |error| status_of(era, error.of(&message)));
                return whole(session, ctx, Reply { status, body: message, session: None, events: false })
                    .await;
            }
            Some(Word::Refused(refusal)) => {
                ctx.refuse("upstream", refusal);
                return failure(session, ctx).await;
            }
            Some(Word::Taken) => return whole(session, ctx, Reply::accepted()).await,
            None => return say(session, Bytes::new(), true).await,
        }
    }
}
