//! What an endpoint says unasked: the GET stream of a legacy session, and `subscriptions/listen` of the modern era.

use std::time::Duration;

use bytes::Bytes;
use filters::Era;
use filters::call::header;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::sync::{Notify, mpsc};

use super::UpstreamError;
use super::answers::{is_sse, unreachable};
use super::http::{Http, Seat, answer_to, own_id};
use crate::protocol::sse::{self, Splitter};
use crate::protocol::wire;

/// The longest time that a server may ask to be left alone.
const LONGEST_RETRY: Duration = Duration::from_secs(3600);

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

impl Http {
    /// The stream of what a server says unasked: legacy GET, or modern `subscriptions/listen`. `Ok(())` when the
    /// stream ended in good order, or the server has none.
    pub async fn listen(
        &self,
        era: Era,
        seat: Option<&Seat>,
        listen: Bytes,
        out: mpsc::Sender<Bytes>,
    ) -> Result<(), UpstreamError> {
        let place = &mut Place::default();
        if let (Era::Legacy, Some(seat)) = (era, seat) {
            return self.announcements(seat, place, &Notify::new(), &out).await.map(drop);
        }
        let mut extra = HeaderMap::new();
        extra.insert(header::METHOD, HeaderValue::from_static("subscriptions/listen"));
        let body = wire::request(&own_id(), "subscriptions/listen", &listen);
        let response = self.send(era, None, extra, body, self.call_timeout).await?;
        if !response.status().is_success() || !is_sse(&response) {
            return Ok(());
        }
        self.pour(response, false, place, &out).await.map(drop)
    }

    /// The legacy stream of what a server says to a session unasked, from `place` on; `begun` is told when it stands.
    pub async fn announcements(
        &self,
        seat: &Seat,
        place: &mut Place,
        begun: &Notify,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<Over, UpstreamError> {
        let request = self.client.get(self.url.clone()).headers(self.head(Era::Legacy, Some(seat)));
        let mut request = request.header(ACCEPT, "text/event-stream");
        if let Some(last) = &place.last {
            request = request.header("last-event-id", last);
        }
        let response = answer_to(request, self.call_timeout).await?;
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
            StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_ACCEPTABLE
            | StatusCode::NOT_IMPLEMENTED => Ok(Over::Never),
            status if status.is_success() => Ok(Over::Never),
            status => Err(UpstreamError::Nonsense(format!("HTTP {status}"))),
        }
    }

    /// Gives out the messages of a stream until it ends. `batches`: many may come as one.
    async fn pour(
        &self,
        response: reqwest::Response,
        batches: bool,
        place: &mut Place,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<Over, UpstreamError> {
        let mut splitter = Splitter::new(self.max_response);
        let mut response = response;
        loop {
            // A silent stream may be one whose other end is gone; the caller opens another.
            let Ok(piece) = tokio::time::timeout(self.stream_idle, response.chunk()).await else {
                return Ok(Over::Ended);
            };
            let Some(piece) = piece.map_err(|e| unreachable(&e))? else { return Ok(Over::Ended) };
            splitter.push(&piece);
            while let Some(event) =
                splitter.event().map_err(|_| UpstreamError::TooLarge(self.max_response))?
            {
                let read = sse::read(&event);
                if let Some(id) = &read.id {
                    place.last = HeaderValue::from_str(id).ok().filter(|id| !id.is_empty());
                }
                if let Some(retry) = read.retry.as_ref().and_then(|retry| retry.parse().ok()) {
                    place.retry = Some(Duration::from_millis(retry).min(LONGEST_RETRY));
                }
                let Some(data) = read.message() else { continue };
                let data = Bytes::copy_from_slice(data);
                let parts = if batches { wire::batch(&data) } else { None };
                for message in parts.unwrap_or_else(|| vec![data]) {
                    if out.send(message).await.is_err() {
                        return Ok(Over::Unheard);
                    }
                }
            }
        }
    }
}
