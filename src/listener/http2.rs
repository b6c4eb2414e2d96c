//! One HTTP/2 connection, from its preface to its end. Each stream becomes a request of its own, and the
//! load that a client can put on the connection itself is bounded here.
//!
//! Pingora has such a loop too, but without a deadline for the preface or for a first request, and it does
//! not count the cost of resets. Floods that the codec sees (CONTINUATION, empty frames, resets of streams
//! that were not yet accepted, windows) are ended by the `h2` crate, with the limits that are set here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use h2::Reason;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Accept, H2Options, HttpSession, handshake};
use pingora::protocols::{Digest, Stream};
use pingora::proxy::ProxyHttp;
use pingora::server::ShutdownWatch;
use pingora::time::fast_timeout::fast_sleep;
use tokio::sync::mpsc;

use super::connection_limit::{ConnectionPermit, ConnectionPermits};
use super::http1::{Http1Server, IDLE_TIMEOUT, RequestEnd, StreamSlot};
use super::lingering_close::LingeringClose;
use super::reset_budget::ResetBudget;
use crate::process::state::ProcessState;

/// Concurrent requests of one connection. Each may use as much as an HTTP/1 connection, and all but the
/// first take a permit of the connection limit.
const MAX_STREAMS: u32 = 100;
/// Streams that may still be closing beside these, because their clients have reset them.
const MAX_CLOSING_STREAMS: usize = 100;
/// Requests that are rejected while too many aborted requests are still finishing.
const MAX_REFUSED_STREAMS: usize = 100;
/// Requests that are rejected because they are malformed.
const MAX_MALFORMED: usize = 32;
/// Receive window in bytes, of one stream and of all of them.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of a response that wait for a client which does not read.
const MAX_SEND_BUFFER: usize = 64 * 1024;
/// Timeout for closing a connection that is at its end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

pub struct Http2Server<P> {
    http1: Arc<Http1Server<P>>,
    permits: Arc<ConnectionPermits>,
    state: Arc<ProcessState>,
    options: H2Options,
    header_timeout: Duration,
}

/// How a request ended, and which slot it had.
#[derive(Clone, Copy)]
struct Http2StreamEnd {
    how: RequestEnd,
    slot: StreamSlot,
    started: Instant,
}

/// Reports the end even if the task of the request is dropped.
struct StreamGuard {
    to: mpsc::UnboundedSender<Http2StreamEnd>,
    end: Http2StreamEnd,
    /// Released before that.
    permit: Option<ConnectionPermit>,
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        drop(self.permit.take());
        // There is no receiver any more when the connection is gone.
        let _ = self.to.send(self.end);
    }
}

impl<P> Http2Server<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    /// `max_header` is the limit of the filters. They check first, because they can report the reason.
    pub fn new(
        http1: Arc<Http1Server<P>>,
        permits: Arc<ConnectionPermits>,
        state: Arc<ProcessState>,
        timeout: Duration,
        max_header: usize,
    ) -> Self {
        let mut options = H2Options::new();
        // RFC 9113 §6.5.2 counts 32 bytes more for each header.
        let list = u32::try_from(max_header.saturating_mul(2)).unwrap_or(u32::MAX).saturating_add(8 * 1024);
        options
            .max_header_list_size(list)
            .max_concurrent_streams(MAX_STREAMS)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(MAX_SEND_BUFFER);
        Self { http1, permits, state, options, header_timeout: timeout }
    }

    /// Serves all requests of a connection.
    pub async fn serve(&self, stream: Stream, shutdown: &ShutdownWatch) {
        let digest = Arc::new(Digest {
            ssl_digest: stream.get_ssl_digest(),
            timing_digest: stream.get_timing_digest(),
            proxy_digest: stream.get_proxy_digest(),
            socket_digest: stream.get_socket_digest(),
        });
        let socket = stream.id();
        let shaken =
            tokio::time::timeout(self.header_timeout, handshake(stream, Some(self.options.clone()))).await;
        let Ok(Ok(mut connection)) = shaken else {
            tracing::debug!("a client sent no valid HTTP/2 preface in time");
            return;
        };
        let (to, mut reports) = mpsc::unbounded_channel::<Http2StreamEnd>();
        let mut stopping = shutdown.clone();
        let (mut running, mut malformed) = (0_usize, 0_usize);
        let mut resets = ResetBudget::new(Instant::now());
        // A client that sends nothing at all gets the timeout of a head; after its first request, the idle
        // timeout.
        let mut pause = self.header_timeout;
        // Whether the connection's own slot is free for a request.
        let mut first = true;
        // Set when no new requests are wanted; and when none is accepted any more, with the number that
        // were rejected.
        let (mut ending, mut rejected) = (false, None);
        // The last bytes of a response are written here, after its request is done: the process must wait
        // for them.
        let mut present = None;
        // Whether the gateway ends the connection, while its client may still be sending.
        let sent_away = loop {
            let wait = if ending { CLOSE_TIMEOUT } else { pause };
            let accepted = tokio::select! {
                biased;
                Some(end) = reports.recv() => {
                    running -= 1;
                    first |= end.slot == StreamSlot::Connection;
                    match end.how {
                        RequestEnd::Done => resets.waited(),
                        RequestEnd::ClientAborted => resets.record_reset(end.started.elapsed(), Instant::now()),
                        RequestEnd::CloseConnection if ending => {}
                        RequestEnd::CloseConnection => {
                            connection.graceful_shutdown();
                            ending = true;
                        }
                    }
                    None
                }
                changed = stopping.changed(), if !ending => {
                    if changed.is_ok() {
                        present = Some(self.state.begin_request());
                    }
                    connection.graceful_shutdown();
                    ending = true;
                    continue;
                }
                accepted = HttpSession::from_h2_conn(&mut connection, digest.clone()) => Some(accepted),
                () = fast_sleep(wait), if running == 0 => {
                    if ending {
                        break false;
                    }
                    connection.graceful_shutdown();
                    ending = true;
                    continue;
                }
            };
            match (accepted, &mut rejected) {
                (None, _) => {}
                (Some(Ok(Some(H2Accept::Session(mut session)))), Some(rejected)) => {
                    session.shutdown_with_reason(Reason::REFUSED_STREAM);
                    *rejected += 1;
                }
                (Some(Ok(Some(H2Accept::Session(session)))), None) => {
                    running += 1;
                    pause = self.header_timeout + IDLE_TIMEOUT;
                    let permit = if first { None } else { self.permits.acquire() };
                    let slot = match &permit {
                        _ if std::mem::take(&mut first) => StreamSlot::Connection,
                        Some(_) => StreamSlot::Extra,
                        None => StreamSlot::OverLimit,
                    };
                    let end = Http2StreamEnd { how: RequestEnd::Done, slot, started: Instant::now() };
                    let report = StreamGuard { to: to.clone(), end, permit };
                    let (http1, shutdown) = (self.http1.clone(), shutdown.clone());
                    tokio::spawn(async move {
                        // Move the whole of it: a part that is dropped here would report at once.
                        let mut report = report;
                        let session = ServerSession::new_http2(session);
                        report.end.how = http1.one(session, slot, &shutdown).await;
                    });
                }
                (Some(Ok(Some(H2Accept::Rejected))), _) => malformed += 1,
                (Some(Ok(None)), _) => break false,
                (Some(Err(error)), _) => {
                    tracing::debug!(%error, "a connection of HTTP/2 broke off");
                    break true;
                }
            }
            if resets.is_exhausted() && running > 0 && rejected.is_none() {
                // Other running calls finish, and the connection ends with the last of them.
                connection.graceful_shutdown();
                (ending, rejected) = (true, Some(0));
            }
            let asked_enough = match rejected {
                None => resets.is_exhausted(),
                Some(rejected) => rejected >= MAX_REFUSED_STREAMS,
            };
            if asked_enough
                || malformed >= MAX_MALFORMED
                || running > MAX_STREAMS as usize + MAX_CLOSING_STREAMS
            {
                tracing::info!(
                    running,
                    malformed,
                    "an HTTP/2 client exceeds its limits; its connection is closed"
                );
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                let gone = async {
                    while let Ok(Some(_)) = HttpSession::from_h2_conn(&mut connection, digest.clone()).await {
                    }
                };
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, gone).await;
                break true;
            }
        };
        drop(present);
        if sent_away && let Some(linger) = LingeringClose::on(socket) {
            drop(connection);
            linger.drain(CLOSE_TIMEOUT).await;
        }
    }
}
