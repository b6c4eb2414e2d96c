//! One connection of HTTP/2, from its preface to its end: each stream becomes a request of its own, and what a client
//! can do to the connection itself is bounded here.
//!
//! Pingora has such a loop too, but no deadline for the preface or for a first request, and it does not count what
//! resets cost. Floods that the codec sees (CONTINUATION, empty frames, resets of streams that were not yet taken,
//! windows) are ended by the `h2` crate, by the figures that it is given here.

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

use super::connection_limit::{Place, Places};
use super::http1::{Ended, IDLE, Patient, Standing};
use super::lingering_close::Linger;
use super::reset_budget::Leaves;
use crate::process::state::State;

/// Requests of one connection at a time. What one of them may take is what a connection of HTTP/1 may take, and all but
/// the first take a place among those of connections.
const STREAMS: u32 = 100;
/// How many may still be winding up beside these, because their clients have reset them.
const WINDING_UP: usize = 100;
/// Requests that are turned away while those finish that run beside too many that were left.
const TURNED: usize = 100;
/// Requests that are refused for their form before they are one.
const MALFORMED: usize = 32;
/// Bytes that may be on their way to us, of one stream and of all of them.
const WINDOW: u32 = 256 * 1024;
const WINDOWS: u32 = 1024 * 1024;
/// Bytes of an answer that wait for a client which does not read.
const UNSENT: usize = 64 * 1024;
/// How long a connection that is at its end is waited for.
const LAST: Duration = Duration::from_secs(1);

pub struct Multiplex<P> {
    patient: Arc<Patient<P>>,
    places: Arc<Places>,
    state: Arc<State>,
    options: H2Options,
    patience: Duration,
}

/// How a request ended, and what it was.
#[derive(Clone, Copy)]
struct End {
    how: Ended,
    standing: Standing,
    began: Instant,
}

/// Told even if the task of the request is torn down.
struct Report {
    to: mpsc::UnboundedSender<End>,
    end: End,
    /// Given back before that.
    place: Option<Place>,
}

impl Drop for Report {
    fn drop(&mut self) {
        drop(self.place.take());
        // Nobody listens any more when the connection is gone.
        let _ = self.to.send(self.end);
    }
}

impl<P> Multiplex<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    /// `max_header` is what the filters take; they shall be asked first, since they can say what is wrong.
    pub fn new(
        patient: Arc<Patient<P>>,
        places: Arc<Places>,
        state: Arc<State>,
        patience: Duration,
        max_header: usize,
    ) -> Self {
        let mut options = H2Options::new();
        // RFC 9113 §6.5.2 counts 32 bytes more for each header.
        let list = u32::try_from(max_header.saturating_mul(2)).unwrap_or(u32::MAX).saturating_add(8 * 1024);
        options
            .max_header_list_size(list)
            .max_concurrent_streams(STREAMS)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOWS)
            .max_send_buffer_size(UNSENT);
        Self { patient, places, state, options, patience }
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
        let shaken = tokio::time::timeout(self.patience, handshake(stream, Some(self.options.clone()))).await;
        let Ok(Ok(mut connection)) = shaken else {
            tracing::debug!("a client did not begin HTTP/2 as it should, or not in time");
            return;
        };
        let (to, mut reports) = mpsc::unbounded_channel::<End>();
        let mut stopping = shutdown.clone();
        let (mut running, mut malformed) = (0_usize, 0_usize);
        let mut leaves = Leaves::new(Instant::now());
        // A client that says nothing at all gets the time of a head, one that has asked before the time of a pause.
        let mut pause = self.patience;
        // Whether the connection's own place is free for a request.
        let mut first = true;
        // Set when no new requests are wanted; and when none is taken any more, with how many were turned away.
        let (mut ending, mut turned) = (false, None);
        // The last bytes of an answer are written here, after its request is done: the process must wait for them.
        let mut present = None;
        // Whether it is the gateway that ends the connection, while its client may still be sending.
        let sent_away = loop {
            let wait = if ending { LAST } else { pause };
            let accepted = tokio::select! {
                biased;
                Some(end) = reports.recv() => {
                    running -= 1;
                    first |= end.standing == Standing::First;
                    match end.how {
                        Ended::Done => leaves.waited(),
                        Ended::Left => leaves.left(end.began.elapsed(), Instant::now()),
                        Ended::Last if ending => {}
                        Ended::Last => {
                            connection.graceful_shutdown();
                            ending = true;
                        }
                    }
                    None
                }
                changed = stopping.changed(), if !ending => {
                    if changed.is_ok() {
                        present = Some(self.state.enter());
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
            match (accepted, &mut turned) {
                (None, _) => {}
                (Some(Ok(Some(H2Accept::Session(mut session)))), Some(turned)) => {
                    session.shutdown_with_reason(Reason::REFUSED_STREAM);
                    *turned += 1;
                }
                (Some(Ok(Some(H2Accept::Session(session)))), None) => {
                    running += 1;
                    pause = self.patience + IDLE;
                    let place = if first { None } else { self.places.take() };
                    let standing = match &place {
                        _ if std::mem::take(&mut first) => Standing::First,
                        Some(_) => Standing::Further,
                        None => Standing::Beyond,
                    };
                    let end = End { how: Ended::Done, standing, began: Instant::now() };
                    let report = Report { to: to.clone(), end, place };
                    let (patient, shutdown) = (self.patient.clone(), shutdown.clone());
                    tokio::spawn(async move {
                        // The whole of it must come along: what is dropped here is told at once.
                        let mut report = report;
                        let session = ServerSession::new_http2(session);
                        report.end.how = patient.one(session, standing, &shutdown).await;
                    });
                }
                (Some(Ok(Some(H2Accept::Rejected))), _) => malformed += 1,
                (Some(Ok(None)), _) => break false,
                (Some(Err(error)), _) => {
                    tracing::debug!(%error, "a connection of HTTP/2 broke off");
                    break true;
                }
            }
            if leaves.are_gone() && running > 0 && turned.is_none() {
                // Calls that run beside are innocent: they come to their end, and the connection with the last of them.
                connection.graceful_shutdown();
                (ending, turned) = (true, Some(0));
            }
            let asked_enough = match turned {
                None => leaves.are_gone(),
                Some(turned) => turned >= TURNED,
            };
            if asked_enough || malformed >= MALFORMED || running > STREAMS as usize + WINDING_UP {
                tracing::info!(
                    running,
                    malformed,
                    "a client of HTTP/2 asks for more than it takes; it is sent away"
                );
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                let gone = async {
                    while let Ok(Some(_)) = HttpSession::from_h2_conn(&mut connection, digest.clone()).await {
                    }
                };
                let _ = tokio::time::timeout(LAST, gone).await;
                break true;
            }
        };
        drop(present);
        if sent_away && let Some(linger) = Linger::on(socket) {
            drop(connection);
            linger.drain(LAST).await;
        }
    }
}
