//! A message that the house's own client carries to a server: to which endpoint, in which seat, and again where that
//! is safe. It acts as Pingora's phases do in `proxy/` for all other messages.

use std::sync::Arc;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use mcp::Era;

use super::Leave;
use crate::server::Server;
use crate::session::{Run, Session};
use crate::telemetry::Metrics;
use crate::upstream::UpstreamError;
use crate::upstream::http::Seat;
use crate::upstream::http::endpoint_health::Fault;
use crate::upstream::http::pool::Visit;
use crate::upstream::http::retry::{Mishap, Reason, Tries, retry_after};
use crate::upstream::http::sending::Asks;

pub struct Errand {
    pub server: Arc<Server>,
    pub era: Era,
    pub session: Option<Arc<Session>>,
    /// Set where no other seat will do.
    pub seat: Option<Arc<Seat>>,
    /// Set for a request of a session, which is to know in which seat it is.
    pub run: Option<Arc<Run>>,
    pub bearer: Option<HeaderValue>,
    /// Headers beside those that the client sets itself.
    pub extra: HeaderMap,
    pub body: Bytes,
    /// It may be sent twice.
    pub safe: bool,
    /// Alone where what names no request may come, and is for its caller.
    pub asks: Asks,
    /// It goes on with a stream, and has no body.
    pub resumes: bool,
    /// Stands for the session or caller, where endpoints are chosen by it.
    pub key: u64,
}

/// An answer as it begins, and where it comes from.
pub struct Arrived {
    pub response: reqwest::Response,
    pub visit: Visit,
    pub seat: Option<Arc<Seat>>,
    /// What comes can mean nothing else, whether it names a request or not.
    pub certain: bool,
}

impl Errand {
    pub fn of(leave: &Leave, bearer: Option<HeaderValue>, extra: HeaderMap) -> Self {
        Self {
            server: leave.server.clone(),
            era: leave.era,
            session: leave.session.clone(),
            seat: leave.seat.clone(),
            run: leave.run.as_ref().map(|begun| begun.run().clone()),
            bearer,
            extra,
            body: leave.body.clone(),
            safe: leave.safe,
            asks: if leave.era == Era::Legacy || leave.logs { Asks::Alone } else { Asks::Caller },
            resumes: leave.resume.is_some(),
            key: leave.key,
        }
    }

    /// Sends it and gives the answer as it begins, with the endpoint that it comes from, which is to be told how the rest
    /// went.
    pub async fn send(mut self, metrics: &Metrics) -> Result<Arrived, UpstreamError> {
        let Some(pool) = self.server.upstream.http() else {
            return Err(UpstreamError::Nonsense("it is not reached by HTTP".into()));
        };
        if let Some(bearer) = &self.bearer {
            self.extra.insert(AUTHORIZATION, bearer.clone());
        }
        let mut tries = Tries::default();
        // One that must stay where it is takes no other seat.
        let mut reseated = self.seat.is_some();
        pool.retry.begin();
        loop {
            let left = tries.left(self.server.timeout);
            let seat = match (&self.seat, &self.session) {
                (Some(seat), _) => Some(seat.clone()),
                (None, Some(client)) => {
                    let taking = client.seat(&self.server, self.bearer.as_ref());
                    let late = UpstreamError::TimedOut(self.server.timeout);
                    Some(tokio::time::timeout(left, taking).await.unwrap_or(Err(late))?)
                }
                (None, None) => None,
            };
            if let (Some(run), Some(seat)) = (&self.run, &seat) {
                run.sits(seat);
            }
            let left = tries.left(self.server.timeout);
            let index = match &seat {
                Some(seat) => pool.place(seat).ok_or(UpstreamError::Forgotten)?,
                None => pool.pick(self.key, tries.failed),
            };
            let mut visit = pool.visit(index);
            let (extra, body) = (self.extra.clone(), self.body.clone());
            let sent = match &seat {
                Some(seat) if self.resumes => {
                    visit.endpoint().resume(seat, extra, left).await.map(|response| (response, true))
                }
                seat => visit.endpoint().post(self.era, seat.as_deref(), extra, body, left, self.asks).await,
            };
            let (reason, after, fate) = match sent {
                // What its caller's own credentials are good for, the server tells its caller.
                Ok((response, certain))
                    if matches!(response.status().as_u16(), 401 | 403) && !self.server.passthrough =>
                {
                    pool.answered(index);
                    let with_bearer = self.bearer.is_some();
                    return Err(visit.endpoint().denied(response, with_bearer, certain).await);
                }
                Ok((response, _)) if self.is_forgotten(&seat, response.status().as_u16(), reseated).await => {
                    pool.answered(index);
                    if self.resumes {
                        // What the server has forgotten may be the stream alone.
                        return Err(UpstreamError::Unresumable);
                    }
                    if let (Some(client), Some(seat)) = (&self.session, &seat) {
                        client.forget(&self.server, seat);
                    }
                    if reseated {
                        return Err(UpstreamError::Forgotten);
                    }
                    // It answered without looking at the call: once more, with a new seat.
                    reseated = true;
                    continue;
                }
                Ok((response, certain)) => match Reason::of_status(response.status().as_u16()) {
                    // Whether it comes to its end is seen by who reads it.
                    None => return Ok(Arrived { response, visit, seat, certain }),
                    Some(reason) => {
                        visit.tell();
                        pool.failed(index, Fault::Answer, response.status().as_str());
                        (
                            reason,
                            retry_after(response.headers()),
                            Ok(Arrived { response, visit, seat: seat.clone(), certain }),
                        )
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
            let moves = self.seat.is_none() && (seat.is_none() || reason == Reason::Connect);
            let failed = if moves { tries.failed | 1 << index } else { tries.failed };
            let elsewhere = moves && pool.is_elsewhere(failed);
            let mishap = Mishap { reason, safe: self.safe, elsewhere, reused: false, after };
            if !pool.retry.again(&mut tries, mishap, self.server.timeout) {
                return fate;
            }
            pool.retry.count(metrics, &self.server.name, reason);
            drop(fate);
            tries.failed = failed;
            if let (true, Some(client), Some(seat)) = (elsewhere, &self.session, &seat) {
                client.lose(&self.server, seat);
            }
            tokio::time::sleep(std::mem::take(&mut tries.wait)).await;
        }
    }

    /// Whether an answer says that the server has forgotten the seat. One that says 400 in a new seat too means the call.
    async fn is_forgotten(&self, seat: &Option<Arc<Seat>>, status: u16, reseated: bool) -> bool {
        let Some(seat) = seat.as_ref().filter(|seat| seat.session.is_some()) else { return false };
        match (&self.session, status) {
            (_, 404) => true,
            (Some(client), 400) if !reseated && !self.resumes => {
                client.is_forgotten(&self.server, seat, status).await
            }
            _ => false,
        }
    }
}
