//! The equal endpoints of one server, and how they are kept in sight; which of them a message goes to: `choice`.
//!
//! The endpoints are an array that never changes; what changes are atomics in them. A reload that only changes which
//! endpoints there are makes a new pool around those that stay ([`Pool::new`]), with their connections, sessions and all
//! that is known of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::sync::{Notify, mpsc, watch};

use super::endpoint_health::{Fault, News};
use super::notifications::{Over, Place};
use super::retry::Retry;
use super::tls::Trust;
use super::{Http, Seat};
use crate::config::{self, Balance};
use crate::upstream::{Bounds, Hello, Peer, Said, UpstreamError};

/// The longest time that opening a session may take at one endpoint, if there is another.
const OPEN: Duration = Duration::from_secs(10);

pub struct Pool {
    pub(crate) name: Arc<str>,
    pub(crate) endpoints: Box<[Arc<Http>]>,
    pub(crate) balance: Balance,
    pub retry: Retry,
    /// Failures in a row that take an endpoint out.
    pub(crate) tolerance: u32,
    pub(crate) interval: Duration,
    pub(crate) turn: AtomicUsize,
    /// The endpoint that the gateway itself talks to.
    pub(crate) prime: AtomicUsize,
    /// The eras that the server speaks, once they are known.
    pub(crate) eras: watch::Sender<[bool; 2]>,
    started: Instant,
    pub(crate) closed: AtomicBool,
}

/// What a pool is made of.
pub struct Plan<'a> {
    pub name: &'a str,
    pub urls: &'a [config::Url],
    pub headers: HeaderMap,
    pub bounds: &'a Bounds,
    pub config: &'a config::Server,
    pub trust: Arc<Trust>,
}

/// A call at an endpoint, which counts as under way until it is dropped.
pub struct Visit {
    endpoint: Arc<Http>,
    index: usize,
    /// It was told how it went.
    told: bool,
}

impl Visit {
    pub fn endpoint(&self) -> &Arc<Http> {
        &self.endpoint
    }

    pub fn index(&self) -> usize {
        self.index
    }

    /// Whether this is the first word of how it went.
    pub fn tell(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }
}

impl Drop for Pool {
    /// One that never ran, since its configuration could not be used as a whole.
    fn drop(&mut self) {
        if !*self.closed.get_mut() {
            for endpoint in &self.endpoints {
                endpoint.let_go();
            }
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.endpoint.vitals.exit();
    }
}

impl Pool {
    /// Endpoints that were in `before` are taken over, which is for a pool of the same server that differs in
    /// nothing else.
    pub fn new(plan: Plan<'_>, before: Option<&Pool>) -> Result<Self, String> {
        let endpoints = plan.urls.iter().map(|url| {
            let url = url.uri().to_string();
            let known = before.iter().flat_map(|pool| &pool.endpoints).find(|known| known.is_at(&url));
            match known {
                Some(known) => Ok(known.clone()),
                None => Http::new(plan.name, &url, plan.headers.clone(), plan.bounds, plan.trust.clone()),
            }
        });
        let endpoints = endpoints.collect::<Result<Box<[Arc<Http>]>, String>>()?;
        for endpoint in &endpoints {
            endpoint.pools.fetch_add(1, Ordering::AcqRel);
        }
        Ok(Self {
            name: plan.name.into(),
            endpoints,
            balance: plan.config.balance,
            retry: Retry::new(plan.config.retry.as_ref()),
            tolerance: plan.config.health.unhealthy_after,
            interval: plan.config.health.interval.get(),
            turn: AtomicUsize::new(0),
            prime: AtomicUsize::new(0),
            eras: watch::Sender::new(before.map_or([false; 2], |pool| *pool.eras.borrow())),
            // One clock for all pools that an endpoint is ever in.
            started: before.map_or_else(Instant::now, |pool| pool.started),
            closed: AtomicBool::new(false),
        })
    }

    /// The endpoint of a seat, if it is one of this server's.
    pub fn place(&self, seat: &Seat) -> Option<usize> {
        let at = seat.at.as_ptr();
        self.endpoints.iter().position(|endpoint| std::ptr::eq(at, Arc::as_ptr(endpoint)))
    }

    /// Whether a seat can be used: its endpoint is one of this server's, and gets calls unless no other does.
    pub fn is_home(&self, seat: &Seat) -> bool {
        let Some(index) = self.place(seat) else { return false };
        self.endpoints.len() == 1 || self.well() & (1 << index) != 0 || !self.is_elsewhere(1 << index)
    }

    /// One of the endpoints, for what all have in common.
    pub fn any(&self) -> &Peer {
        &self.endpoints[0].peer
    }

    /// A call goes to this endpoint.
    pub fn visit(&self, index: usize) -> Visit {
        let endpoint = self.endpoints[index].clone();
        endpoint.vitals.enter();
        Visit { endpoint, index, told: false }
    }

    /// A call was answered, however.
    pub fn answered(&self, index: usize) {
        if self.endpoints.len() == 1 {
            return;
        }
        let news = self.endpoints[index].vitals.answered(self.clock());
        self.tell(index, news, "a call was answered");
    }

    /// A call was not answered.
    pub fn failed(&self, index: usize, fault: Fault, why: &str) {
        if self.endpoints.len() == 1 {
            return;
        }
        // The last one that is well is not sent away.
        let may_eject = self.well() & !(1 << index) != 0;
        let news = self.endpoints[index].vitals.failed(fault, self.tolerance, may_eject, self.clock());
        self.tell(index, news, why);
    }

    /// Notes how a call went at an endpoint, if that was not told before. What is no fault was an answer.
    pub fn went(&self, visit: &mut Visit, error: Option<&UpstreamError>) {
        if !visit.tell() {
            return;
        }
        match error.filter(|error| error.is_fault()) {
            Some(fault) => self.note(visit.index, fault),
            None => self.answered(visit.index),
        }
    }

    /// What an error says of an endpoint, to which this call went.
    pub fn note(&self, index: usize, error: &UpstreamError) {
        match error {
            UpstreamError::Unreachable(why) => self.failed(index, Fault::Connect, why),
            error if error.is_fault() => self.failed(index, Fault::Answer, &error.to_string()),
            _ => {}
        }
    }

    pub(crate) fn tell(&self, index: usize, news: Option<News>, why: &str) {
        let (server, endpoint) = (&self.name, &self.endpoints[index].label);
        if self.endpoints.len() == 1 {
            return;
        }
        match news {
            Some(News::Down) => tracing::warn!(%server, endpoint, why, "endpoint is down: its checks fail"),
            Some(News::Ejected(time)) => {
                tracing::warn!(%server, endpoint, ?time, why, "endpoint gets no calls for a while: they fail");
            }
            Some(News::Back) => tracing::info!(%server, endpoint, why, "endpoint is back"),
            None => {}
        }
    }

    /// Each endpoint by its label, with whether it gets calls; none for a server that has only one.
    pub fn states(&self) -> Vec<(&str, bool)> {
        let now = self.clock();
        let states = self.endpoints.iter().map(|end| (end.label.as_str(), end.vitals.is_in(now)));
        if self.endpoints.len() == 1 { Vec::new() } else { states.collect() }
    }

    pub(crate) fn clock(&self) -> u64 {
        // Never 0, which means "not" in what is kept.
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// Opens a session for a client: at another endpoint, if one cannot.
    pub async fn open(
        &self,
        key: u64,
        params: &[u8],
        bearer: Option<HeaderValue>,
    ) -> Result<(Seat, Hello), UpstreamError> {
        let mut failed = 0;
        loop {
            let index = self.pick(key, failed);
            let visit = self.visit(index);
            let more = self.is_elsewhere(failed | 1 << index);
            let opening = visit.endpoint.open(params, bearer.clone(), visit.endpoint.patience());
            let opened = if more {
                tokio::time::timeout(OPEN, opening).await.unwrap_or(Err(UpstreamError::TimedOut(OPEN)))
            } else {
                opening.await
            };
            match opened {
                Err(error) if error.is_fault() => {
                    self.note(index, &error);
                    failed |= 1 << index;
                    if !self.is_elsewhere(failed) {
                        return Err(error);
                    }
                }
                // That says nothing of the endpoint.
                Err(error @ UpstreamError::Exhausted(_)) => return Err(error),
                other => {
                    self.answered(index);
                    return other;
                }
            }
        }
    }

    /// Ends a session, wherever it is.
    pub async fn leave(&self, seat: &Seat) {
        if let Some(endpoint) = seat.at.upgrade() {
            endpoint.leave(seat).await;
        }
    }

    pub async fn notify(&self, seat: &Seat, method: &str, params: Bytes) -> Result<(), UpstreamError> {
        seat.at.upgrade().ok_or(UpstreamError::Forgotten)?.notify(seat, method, params).await
    }

    /// A message of a session that has no answer, as it is.
    pub async fn pass(&self, seat: &Seat, body: Bytes) -> Result<(), UpstreamError> {
        seat.at.upgrade().ok_or(UpstreamError::Forgotten)?.pass(mcp::Era::Legacy, Some(seat), body).await
    }

    /// One request in a session.
    pub async fn request_in(&self, seat: &Seat, method: &str, params: Bytes) -> Result<Said, UpstreamError> {
        seat.at.upgrade().ok_or(UpstreamError::Forgotten)?.request_in(seat, method, params).await
    }

    /// Sends a reply to what the server asked in a seat.
    pub async fn reply(&self, seat: &Seat, body: Bytes) {
        if let Some(endpoint) = seat.at.upgrade() {
            endpoint.reply(seat, body).await;
        }
    }

    /// Whether the server knows a seat; see [`Http::knows`](super::Http::knows).
    pub async fn knows(&self, seat: &Seat) -> Option<bool> {
        seat.at.upgrade()?.knows(seat).await
    }

    /// What a server says to a session unasked; see [`Http::announcements`](super::Http::announcements).
    pub async fn announcements(
        &self,
        seat: &Seat,
        mark: &mut Place,
        begun: &Notify,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<Over, UpstreamError> {
        seat.at.upgrade().ok_or(UpstreamError::Forgotten)?.announcements(seat, mark, begun, out).await
    }
}
