//! What an endpoint says unasked: the GET stream of a legacy session, and `subscriptions/listen` of the modern era.

use std::time::Duration;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderValue, StatusCode};
use mcp::Era;
use tokio::sync::{Notify, mpsc};

use super::era_errors::{is_refusal, is_refusal_code};
use super::response::{Body, Wanted, is_sse};
use super::sending::Asks;
use super::{Http, Seat, mirror, own_id};
use crate::upstream::{Ending, Said, UpstreamError};
use mcp::jsonrpc::message;
use mcp::sse;
use mcp::sse::Splitter;

/// The longest time that a server may ask to be left alone.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// Where a stream of announcements is to be gone on with.
#[derive(Debug, Default)]
pub struct Place {
    /// The id of the last event.
    pub last: Option<HeaderValue>,
    /// How long the server wants to be left alone first.
    pub retry: Option<Duration>,
}

/// Why a stream of announcements is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// It ended; the server may give another.
    Ended,
    /// The server has none.
    Never,
    /// Nobody takes what it says.
    Unheard,
}

/// What an endpoint answers that is asked for the stream of what it says unasked.
pub(crate) enum Line {
    Open(reqwest::Response),
    /// It has none.
    None,
    /// It gives none now.
    Busy(String),
}

impl Http {
    /// What a server says unasked, message by message, until the stream ends in good order.
    pub(crate) async fn listen(
        &self,
        era: Era,
        seat: Option<&Seat>,
        listen: &Bytes,
        out: mpsc::Sender<Bytes>,
    ) -> Result<Ending, UpstreamError> {
        match self.line(era, seat, listen).await? {
            Line::Open(response) => {
                self.pour(response, batches(seat), &mut Place::default(), &out).await.map(|_| Ending::Over)
            }
            Line::None => Ok(Ending::Refused),
            Line::Busy(why) => Err(UpstreamError::Nonsense(why)),
        }
    }

    /// Opens the stream of what a server says unasked: legacy GET, or modern `subscriptions/listen`.
    pub(crate) async fn line(
        &self,
        era: Era,
        seat: Option<&Seat>,
        listen: &Bytes,
    ) -> Result<Line, UpstreamError> {
        let (patience, id) = (self.patience(), own_id());
        let response = match era {
            Era::Legacy => {
                let mut headers = self.head(era, seat);
                headers.insert(ACCEPT, EVENTS);
                self.stream(headers, patience).await?
            }
            Era::Modern => {
                let method = "subscriptions/listen";
                let body = message::request(&id, method, listen);
                self.post(era, None, mirror(method, listen), body, patience, Asks::Alone).await?.0
            }
        };
        let status = response.status();
        match status {
            StatusCode::NOT_FOUND if era == Era::Legacy && seat.is_some_and(|s| s.session.is_some()) => {
                return Err(UpstreamError::Forgotten);
            }
            _ if status.is_success() && is_sse(&response) => return Ok(Line::Open(response)),
            _ if era == Era::Legacy && has_none(status) => return Ok(Line::None),
            _ if era == Era::Modern && is_refusal(status) => return Ok(Line::None),
            _ => {}
        }
        match self.answer(response, Wanted::new(&id, patience)).await {
            Ok(Said::Error(error)) if status.is_success() && is_refusal_code(&error) => Ok(Line::None),
            _ => Ok(Line::Busy(format!("HTTP {status} and no stream"))),
        }
    }

    /// The legacy stream of what a server says to a session unasked, from `place` on; `begun` is told when it stands.
    pub async fn announcements(
        &self,
        seat: &Seat,
        place: &mut Place,
        begun: &Notify,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<Over, UpstreamError> {
        let mut headers = self.head(Era::Legacy, Some(seat));
        headers.insert(ACCEPT, EVENTS);
        if let Some(last) = &place.last {
            headers.insert("last-event-id", last.clone());
        }
        let response = self.stream(headers, self.patience()).await?;
        begun.notify_waiters();
        match response.status() {
            StatusCode::NOT_FOUND if seat.session.is_some() => Err(UpstreamError::Forgotten),
            status if status.is_success() && is_sse(&response) => {
                self.pour(response, seat.has_batches(), place, out).await
            }
            // If it cannot go on with the last stream, it may begin another.
            status if status.is_client_error() && place.last.take().is_some() => {
                Err(UpstreamError::Nonsense(format!("HTTP {status} for the id of an event")))
            }
            // So do many servers speak of a session that they do not know.
            StatusCode::BAD_REQUEST if seat.session.is_some() && self.knows(seat).await == Some(false) => {
                Err(UpstreamError::Forgotten)
            }
            status if has_none(status) => Ok(Over::Never),
            status => Err(UpstreamError::Nonsense(format!("HTTP {status}"))),
        }
    }

    /// Gives out the messages of a stream until it ends. `batches`: many may come as one.
    pub(crate) async fn pour(
        &self,
        response: reqwest::Response,
        batches: bool,
        place: &mut Place,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<Over, UpstreamError> {
        let (most, idle) = (self.bounds().max_response, self.bounds().stream_idle);
        let mut splitter = Splitter::new(most);
        let mut body = Body::of(response, most)?;
        let mut ended = false;
        while !ended {
            // A silent stream may be one whose other end is gone; the caller opens another.
            let Ok(piece) = tokio::time::timeout(idle, body.chunk()).await else {
                return Ok(Over::Ended);
            };
            match piece? {
                Some(piece) => splitter.push(&piece),
                None => {
                    splitter.finish();
                    ended = true;
                }
            }
            while let Some(event) = splitter.event().map_err(|_| UpstreamError::TooLarge(most))? {
                let read = sse::read(&event);
                if let Some(id) = &read.id {
                    place.last = HeaderValue::from_str(id).ok().filter(|id| !id.is_empty());
                }
                if let Some(retry) = read.retry.as_ref().and_then(|retry| retry.parse().ok()) {
                    place.retry = Some(Duration::from_millis(retry).min(LONGEST_RETRY));
                }
                let Some(data) = read.message() else { continue };
                let data = Bytes::copy_from_slice(data);
                let parts = if batches { message::batch(&data) } else { None };
                for message in parts.unwrap_or_else(|| vec![data]) {
                    if out.send(message).await.is_err() {
                        return Ok(Over::Unheard);
                    }
                }
            }
        }
        Ok(Over::Ended)
    }
}

/// A legacy server has no such stream; other refusals may pass.
fn has_none(status: StatusCode) -> bool {
    status.is_success() || matches!(status.as_u16(), 404 | 405 | 406 | 501)
}

fn batches(seat: Option<&Seat>) -> bool {
    seat.is_some_and(Seat::has_batches)
}
