//! A message that the house's own client carries to a server: to which endpoint, in which seat, and again where that
//! is safe. It acts as Pingora's phases do in `proxy/` for all other messages.

use std::sync::Arc;

use bytes::Bytes;
use filters::Era;
use http::{HeaderMap, HeaderValue};

use crate::server::Server;
use crate::session::Session;
use crate::telemetry::Metrics;
use crate::upstream::UpstreamError;
use crate::upstream::http::Seat;
use crate::upstream::pool::Visit;
use crate::upstream::retry::{Mishap, Reason, Tries, retry_after};
use crate::upstream::vitals::Fault;

pub struct Errand {
    pub server: Arc<Server>,
    pub era: Era,
    pub session: Option<Arc<Session>>,
    pub bearer: Option<HeaderValue>,
    /// Headers beside those that the client sets itself.
    pub extra: HeaderMap,
    pub body: Bytes,
    /// It may be sent twice.
    pub safe: bool,
    /// Stands for the session or caller, where endpoints are chosen by it.
    pub key: u64,
}

impl Errand {
    /// Sends it and gives the answer as it begins, with the endpoint that it comes from, which is to be told how the rest
    /// went.
    pub async fn send(self, metrics: &Metrics) -> Result<(reqwest::Response, Visit), UpstreamError> {
        let Some(pool) = self.server.upstream.http() else {
            return Err(UpstreamError::Nonsense("it is not reached by HTTP".into()));
        };
        let mut tries = Tries::default();
        let mut reseated = false;
        pool.retry.begin();
        loop {
            let left = tries.left(self.server.timeout);
            let seat = match &self.session {
                Some(client) => {
                    let taking = client.seat(&self.server, self.bearer.clone());
                    let late = UpstreamError::TimedOut(self.server.timeout);
                    Some(tokio::time::timeout(left, taking).await.unwrap_or(Err(late))?)
                }
                None => None,
            };
            let left = tries.left(self.server.timeout);
            let index = match &seat {
                Some(seat) => pool.place(seat).ok_or(UpstreamError::Forgotten)?,
                None => pool.pick(self.key, tries.failed),
            };
            let mut visit = pool.visit(index);
            let (extra, body) = (self.extra.clone(), self.body.clone());
            let sent = visit.endpoint().send(self.era, seat.as_ref(), extra, body, left).await;
            let (reason, after, fate) = match sent {
                Ok(response) if response.status() == 404 && sits(&seat) => {
                    pool.answered(index);
                    self.forget(seat).await;
                    if reseated {
                        return Err(UpstreamError::Forgotten);
                    }
                    // It answered without looking at the call: once more, with a new seat.
                    reseated = true;
                    continue;
                }
                Ok(response) => match Reason::of_status(response.status().as_u16()) {
                    // Whether it comes to its end is seen by who reads it.
                    None => return Ok((response, visit)),
                    Some(reason) => {
                        visit.tell();
                        pool.failed(index, Fault::Answer, response.status().as_str());
                        (reason, retry_after(response.headers()), Ok((response, visit)))
                    }
                },
                Err(error) => {
                    pool.note(index, &error);
                    let reason = match &error {
                        UpstreamError::Unreachable(_) => Reason::Connect,
                        UpstreamError::Broke(_) => Reason::Reset,
                        _ => return Err(error),
                    };
                    (reason, None, Err(error))
                }
            };
            // A session goes elsewhere only when its endpoint cannot be reached at all.
            let moves = seat.is_none() || reason == Reason::Connect;
            let failed = if moves { tries.failed | 1 << index } else { tries.failed };
            let elsewhere = moves && pool.is_elsewhere(failed);
            let mishap = Mishap { reason, safe: self.safe, elsewhere, reused: false, after };
            if !pool.retry.again(&mut tries, mishap, self.server.timeout) {
                return fate;
            }
            pool.retry.count(metrics, &self.server.name, reason);
            drop(fate);
            tries.failed = failed;
            if elsewhere {
                self.forget(seat).await;
            }
            tokio::time::sleep(std::mem::take(&mut tries.wait)).await;
        }
    }

    async fn forget(&self, seat: Option<Seat>) {
        if let (Some(client), Some(seat)) = (&self.session, seat) {
            client.forget(&self.server, &seat).await;
        }
    }
}

fn sits(seat: &Option<Seat>) -> bool {
    seat.as_ref().is_some_and(|seat| seat.session.is_some())
}
