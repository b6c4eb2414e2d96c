//! Reads a body before a server is chosen, and makes Pingora send it afterwards.
//!
//! Pingora 0.9 picks the upstream first and streams the body after. A body that was read early is sent only
//! if Pingora's retry buffer holds something, and that buffer holds at most 64 KiB. With a larger body
//! nothing is sent, no error is reported, and the upstream waits forever. So the buffer is only a *signal*,
//! never the data: it is switched on when at most 64 KiB remain, the last chunk goes into it, Pingora calls
//! the body filter once, and the filter replaces that chunk with the stored body. If the length is not
//! known in advance and the body turns out longer, the signal cannot be set. [`can_replay`] reports this,
//! and the message is sent in another way.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT};
use mcp::{Reason, Rejection};
use pingora::ErrorType;
use pingora::proxy::Session;

use crate::listener::http1::StreamSlot;
use crate::process::state::BufferedBytes;

/// The capacity of Pingora's retry buffer (`BODY_BUF_LIMIT`, not public).
const PROGRESS_BYTES: usize = 64 * 1024;

/// Limits of a body.
pub struct BodyLimits {
    /// Maximum size, in bytes.
    pub limit: usize,
    pub timeout: Duration,
    /// Maximum bytes of all bodies that are in memory at the same time.
    pub total: usize,
    /// A body up to this size, in bytes, is not counted in `total`.
    pub free: usize,
}

/// Bytes of a body that are not counted. The number of connections is bounded, and a connection has one
/// body at a time; on an HTTP/2 connection this applies to one of its bodies.
pub fn free(slot: StreamSlot) -> usize {
    if slot == StreamSlot::Connection { PROGRESS_BYTES } else { 0 }
}

/// Reads the whole body, or returns the rejection. An error means that the client's connection failed.
/// `load` counts the received bytes of a body that is not small; bytes that are only announced use no
/// memory.
pub async fn read(
    session: &mut Session,
    limits: &BodyLimits,
    load: &mut BufferedBytes,
) -> pingora::Result<Result<Bytes, Rejection>> {
    let (limit, timeout) = (limits.limit, limits.timeout);
    let headers = &session.req_header().headers;
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let waits =
        headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if length.is_some_and(|length| length > limit) {
        return Ok(Err(too_large(limit)));
    }
    // Known before the first byte is read or requested.
    if length.is_some_and(|length| length > limits.free && !load.fits(length, limits.total)) {
        return Ok(Err(too_many()));
    }
    if waits {
        let downstream = session.as_downstream_mut();
        let keepalive = downstream.get_keepalive();
        downstream.write_continue_response().await.map_err(|error| error.into_down())?;
        // Pingora takes this for a response before the end of the body, after which it would close the
        // connection.
        downstream.set_keepalive(keepalive);
    }
    let mut collecting = pin!(collect(session, length, limits, load));
    // Most bodies arrive with their head and need no timer.
    let read = match futures::poll!(collecting.as_mut()) {
        Poll::Ready(read) => Ok(read),
        Poll::Pending => tokio::time::timeout(timeout, collecting).await,
    };
    match read {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) => match error.etype() {
            ErrorType::ReadError => Err(error.into_down()),
            ErrorType::ReadTimedout => Ok(Err(too_slow(timeout))),
            // The remaining bytes on the connection could be taken for another request.
            _ => {
                let message = "the body ends early, or its chunks are not as RFC 9112 has them";
                Ok(Err(Rejection::http(400, Reason::BodyBroken, message).closing()))
            }
        },
        Err(_) => Ok(Err(too_slow(timeout))),
    }
}

fn too_slow(timeout: Duration) -> Rejection {
    Rejection::http(408, Reason::BodyTimeout, format!("the body did not arrive within {timeout:?}")).closing()
}

async fn collect(
    session: &mut Session,
    length: Option<usize>,
    limits: &BodyLimits,
    load: &mut BufferedBytes,
) -> pingora::Result<Result<Bytes, Rejection>> {
    let limit = limits.limit;
    let downstream = session.as_downstream_mut();
    if length.is_none_or(|length| length <= PROGRESS_BYTES) {
        downstream.enable_retry_buffering();
    }
    let mut counts = |came: usize| {
        let small = length.unwrap_or(came).max(came) <= limits.free;
        small || load.grow(came - load.bytes(), limits.total)
    };
    let Some(first) = downstream.read_request_body().await? else { return Ok(Ok(Bytes::new())) };
    if !counts(first.len()) {
        return Ok(Err(too_many()));
    }
    if length == Some(first.len()) {
        // The one chunk is the body. The end must still be read, or Pingora takes the body for unfinished.
        while downstream.read_request_body().await?.is_some() {}
        return Ok(Ok(first));
    }
    // Reserves the size of a small body, otherwise twice what has arrived.
    let capacity = length.filter(|length| *length <= PROGRESS_BYTES).unwrap_or(2 * first.len());
    let mut body = BytesMut::with_capacity(capacity.max(first.len()));
    body.extend_from_slice(&first);
    drop(first);
    loop {
        if body.len() > limit {
            return Ok(Err(too_large(limit)));
        }
        if length.is_some_and(|length| length.saturating_sub(body.len()) <= PROGRESS_BYTES) {
            downstream.enable_retry_buffering();
        }
        match downstream.read_request_body().await? {
            Some(piece) if !counts(body.len() + piece.len()) => return Ok(Err(too_many())),
            Some(piece) => body.extend_from_slice(&piece),
            None => return Ok(Ok(body.freeze())),
        }
    }
}

/// Verifies that a request has no body. Nothing would read it, and on HTTP/2 unread data holds up other
/// streams.
pub async fn none(session: &mut Session, timeout: Duration) -> pingora::Result<Result<(), Rejection>> {
    let downstream = session.as_downstream_mut();
    // Only after the head it is known whether the body is empty.
    while !downstream.is_body_empty() {
        match tokio::time::timeout(timeout, downstream.read_request_body()).await {
            Ok(Ok(None)) => break,
            Ok(Ok(Some(piece))) if piece.is_empty() => {}
            Ok(Ok(Some(_))) => {
                let message = "GET and DELETE have no body here";
                return Ok(Err(Rejection::http(400, Reason::BodyUnwanted, message).closing()));
            }
            Ok(Err(error)) => return Err(error.into_down()),
            Err(_) => return Ok(Err(too_slow(timeout))),
        }
    }
    Ok(Ok(()))
}

/// Whether Pingora will call the body filter for this request.
pub fn can_replay(session: &Session) -> bool {
    session.as_downstream().get_retry_buffer().is_some()
}

fn too_many() -> Rejection {
    let message =
        "the bodies of other requests fill the memory that is set aside for them (limits.max_buffered)";
    Rejection::http(503, Reason::MaxBuffered, message).retry_after(Duration::from_secs(1)).closing()
}

fn too_large(limit: usize) -> Rejection {
    Rejection::http(413, Reason::BodyTooLarge, format!("the body is larger than the limit of {limit} bytes"))
        .closing()
}
