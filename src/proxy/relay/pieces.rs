//! The response to a relayed message, on its way from the long-lived runtime to the client's. What is there at once
//! goes in one step: each step wakes another thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::mpsc;

use crate::exchange::client_request::{ClientRequest, ClientResponse};
use crate::telemetry::Metrics;
use crate::upstream::UpstreamError;
use crate::upstream::http::UpstreamSession;
use crate::upstream::http::pool::EndpointGuard;

/// Steps that wait for the client to read.
const QUEUE: usize = 4;
/// Pieces of one step, so that a step has a bounded size.
const STEP: usize = 4;

pub(super) struct RelayHead {
    pub status: http::StatusCode,
    pub headers: http::HeaderMap,
    pub endpoint: EndpointGuard,
    pub upstream_session: Option<Arc<UpstreamSession>>,
    pub certain: bool,
}

pub(super) enum RelayItem {
    Head(Box<RelayHead>),
    Body(Bytes),
    End,
}

type RelayPiece = Result<RelayItem, UpstreamError>;

/// The client's end.
pub(super) struct Pieces {
    steps: mpsc::Receiver<Vec<RelayPiece>>,
    ready: VecDeque<RelayPiece>,
}

/// The server's end.
pub(super) struct PieceSender {
    steps: mpsc::Sender<Vec<RelayPiece>>,
    step: Vec<RelayPiece>,
}

pub(super) fn pieces() -> (PieceSender, Pieces) {
    let (sender, steps) = mpsc::channel(QUEUE);
    (PieceSender { steps: sender, step: Vec::new() }, Pieces { steps, ready: VecDeque::new() })
}

impl Pieces {
    /// The next piece; `None` after the last. Nothing is lost if it is dropped.
    pub async fn next(&mut self) -> Option<RelayPiece> {
        if self.ready.is_empty() {
            self.ready.extend(self.steps.recv().await?);
        }
        self.ready.pop_front()
    }
}

impl PieceSender {
    /// Sends what was collected; false if the client has left.
    async fn flush(&mut self) -> bool {
        self.step.is_empty() || self.steps.send(std::mem::take(&mut self.step)).await.is_ok()
    }

    /// Sends a request and passes on its response. `silence` is how long the body may be silent, which ends a
    /// resumed stream (`resumes`) and fails another.
    pub async fn relay(
        mut self,
        request: ClientRequest,
        metrics: &Metrics,
        silence: Option<Duration>,
        resumes: bool,
    ) {
        let ClientResponse { mut response, endpoint, upstream_session, certain } =
            match request.send(metrics).await {
                Ok(arrived) => arrived,
                Err(error) => {
                    self.step.push(Err(error));
                    self.flush().await;
                    return;
                }
            };
        let (status, headers) = (response.status(), response.headers().clone());
        let head = RelayHead { status, headers, endpoint, upstream_session, certain };
        self.step.push(Ok(RelayItem::Head(Box::new(head))));
        loop {
            // A chunk that is not there yet is asked for again: nothing is lost.
            let at_once = if self.step.len() < STEP { response.chunk().now_or_never() } else { None };
            let next = match at_once {
                Some(chunk) => Ok(chunk),
                None if !self.flush().await => return,
                None => match silence {
                    Some(silence) => tokio::time::timeout(silence, response.chunk()).await,
                    None => Ok(response.chunk().await),
                },
            };
            let piece = match next {
                Ok(Ok(Some(bytes))) => Ok(RelayItem::Body(bytes)),
                Ok(Ok(None)) => Ok(RelayItem::End),
                Ok(Err(error)) => {
                    Err(UpstreamError::InvalidResponse(format!("the connection broke off: {error}")))
                }
                Err(_) if resumes => Ok(RelayItem::End),
                Err(_) => Err(UpstreamError::TimedOut(silence.unwrap_or_default())),
            };
            let last = !matches!(piece, Ok(RelayItem::Body(_)));
            self.step.push(piece);
            if last {
                self.flush().await;
                return;
            }
        }
    }
}
