//! The equal endpoints of one server: which of them a message goes to, and how they are kept in sight.
//!
//! The endpoints are an array that never changes; what changes are atomics in them. Choosing takes no lock and no
//! memory. A reload that only changes which endpoints there are makes a new pool around those that stay
//! ([`Pool::new`]), with their connections, sessions and all that is known of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::sync::{Notify, mpsc, watch};

use super::http::{Http, Seat, mix};
use super::retry::Retry;
use super::trust::Trust;
use super::unasked::{Over, Place};
use super::vitals::{Fault, News, WHOLE};
use super::{Bounds, Hello, Peer, Said, UpstreamError};
use crate::config::{self, Balance};

/// The longest time that opening a session may take at one endpoint, if there is another.
const OPEN: Duration = Duration::from_secs(10);

pub struct Pool {
    pub(super) name: Arc<str>,
    pub(super) endpoints: Box<[Arc<Http>]>,
    balance: Balance,
    pub retry: Retry,
    /// Failures in a row that take an endpoint out.
    pub(super) tolerance: u32,
    pub(super) interval: Duration,
    turn: AtomicUsize,
    /// The endpoint that the gateway itself talks to.
    pub(super) prime: AtomicUsize,
    /// The eras that the server speaks, once they are known.
    pub(super) eras: watch::Sender<[bool; 2]>,
    started: Instant,
    pub(super) closed: AtomicBool,
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

    /// Whether calls are spread by who makes them.
    pub fn is_by_session(&self) -> bool {
        self.balance == Balance::Session && self.endpoints.len() > 1
    }

    /// Chooses an endpoint; `failed` has a bit for each that it was tried at, `key` stands for the session or caller.
    pub fn pick(&self, key: u64, failed: u64) -> usize {
        if self.endpoints.len() == 1 {
            return 0;
        }
        let well = self.well();
        // With none that is well, any may be: none is given up for good.
        let all = u64::MAX >> (64 - self.endpoints.len());
        let from =
            [well & !failed, well, all & !failed, all].into_iter().find(|set| *set != 0).unwrap_or(all);
        match self.balance {
            Balance::RoundRobin => self.in_turn(from),
            Balance::LeastInFlight => self.least(from),
            Balance::Session => {
                let score = |index: &usize| mix(key ^ self.endpoints[*index].place);
                bits(from).max_by_key(score).unwrap_or(0)
            }
        }
    }

    /// A bit for each endpoint that is well.
    fn well(&self) -> u64 {
        let now = self.clock();
        let well = self.endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.vitals.is_in(now));
        well.fold(0, |set, (index, _)| set | 1 << index)
    }

    fn in_turn(&self, from: u64) -> usize {
        let now = self.clock();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = from.count_ones() as usize;
        let nth = |at: usize| bits(from).nth(at % count).unwrap_or(0);
        for step in 0..count {
            let index = nth(turn + step);
            let share = self.endpoints[index].vitals.share(now);
            // One that has just come back passes on some of its turns.
            if share == WHOLE || mix(turn as u64) % WHOLE < share {
                return index;
            }
        }
        nth(turn)
    }

    fn least(&self, from: u64) -> usize {
        let now = self.clock();
        // Among equals each in turn.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.endpoints.len();
        let load = |index: &usize| {
            let vitals = &self.endpoints[*index].vitals;
            let load = (u64::from(vitals.in_flight()) + 1) * WHOLE * WHOLE / vitals.share(now);
            (load, (index + self.endpoints.len() - turn) % self.endpoints.len())
        };
        bits(from).min_by_key(load).unwrap_or(0)
    }

    /// Whether there is an endpoint to go to that `failed` does not name.
    pub fn is_elsewhere(&self, failed: u64) -> bool {
        let all = u64::MAX >> (64 - self.endpoints.len());
        let well = self.well();
        (if well == 0 { all } else { well }) & !failed != 0
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

    pub(super) fn tell(&self, index: usize, news: Option<News>, why: &str) {
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

    pub(super) fn clock(&self) -> u64 {
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
            let opening = visit.endpoint.open(params, bearer.clone());
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

    /// One request in a session.
    pub async fn request_in(&self, seat: &Seat, method: &str, params: Bytes) -> Result<Said, UpstreamError> {
        seat.at.upgrade().ok_or(UpstreamError::Forgotten)?.request_in(seat, method, params).await
    }

    /// What a server says to a session unasked; see [`Http::announcements`](super::http::Http::announcements).
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

/// The places of the bits that are set.
fn bits(mut set: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let index = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(index)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Limits, parse};

    fn pool(settings: &str, before: Option<&Pool>) -> Pool {
        let text = format!("mcpServers: {{s: {{{settings}}}}}");
        let config = parse("c", &text, &|_| None).expect("a good config").servers["s"].clone();
        let config::Kind::Http { urls, .. } = &config.kind else { panic!("not http") };
        let bounds = Bounds::of(&config, &Limits::default());
        let plan = Plan {
            name: "s",
            urls,
            headers: HeaderMap::new(),
            bounds: &bounds,
            config: &config,
            trust: Arc::default(),
        };
        Pool::new(plan, before).expect("a pool")
    }

    const THREE: &str = "urls: [\"http://10.0.0.1/mcp\", \"http://10.0.0.2/mcp\", \"http://10.0.0.3/mcp\"]";

    fn eject(pool: &Pool, index: usize) {
        for _ in 0..3 {
            pool.failed(index, Fault::Connect, "test");
        }
    }

    fn picks(pool: &Pool, count: usize) -> Vec<usize> {
        (0..count).map(|_| pool.pick(0, 0)).collect()
    }

    #[test]
    fn each_in_turn_and_none_that_is_out() {
        let pool = pool(THREE, None);
        assert_eq!(picks(&pool, 4), [0, 1, 2, 0]);
        eject(&pool, 1);
        let after = picks(&pool, 10);
        assert!(!after.contains(&1) && after.iter().filter(|index| **index == 0).count() == 5, "{after:?}");
        // A call that failed at one goes to another, as long as there is another.
        assert_eq!((pool.pick(0, 0b001), pool.pick(0, 0b100)), (2, 0));
        assert!(pool.is_elsewhere(0b001) && !pool.is_elsewhere(0b101));
    }

    #[test]
    fn the_last_one_stays_and_with_none_all_are_tried() {
        let pool = pool(THREE, None);
        for index in 0..3 {
            eject(&pool, index);
        }
        assert_eq!(picks(&pool, 3), [2, 2, 2], "the last one is not sent away");
        pool.endpoints[2].vitals.missed(1);
        let mut tried = picks(&pool, 3);
        tried.sort_unstable();
        assert_eq!(tried, [0, 1, 2], "all are out");
    }

    #[test]
    fn the_least_busy_is_chosen() {
        let pool = pool(&format!("{THREE}, balance: least_in_flight"), None);
        let _busy = [pool.visit(0), pool.visit(0), pool.visit(2)];
        assert_eq!(picks(&pool, 2), [1, 1]);
        let _more = [pool.visit(1), pool.visit(1)];
        assert_eq!(picks(&pool, 2), [2, 2]);
    }

    #[test]
    fn a_session_keeps_its_endpoint_and_few_move_when_one_goes() {
        let settings = format!("{THREE}, balance: session");
        let pool = pool(&settings, None);
        let before: Vec<usize> = (0..300).map(|key| pool.pick(mix(key), 0)).collect();
        for index in 0..3 {
            let share = before.iter().filter(|chosen| **chosen == index).count();
            assert!((60..140).contains(&share), "{index} has {share} of 300");
        }
        eject(&pool, 1);
        for (key, old) in (0..300).zip(&before) {
            let new = pool.pick(mix(key), 0);
            assert!(new == *old || *old == 1, "only those of the one that is out move");
        }
    }

    #[test]
    fn one_that_comes_back_gets_little_at_first() {
        let pool = pool(THREE, None);
        pool.endpoints[0].vitals.passed(1);
        for _ in 0..3 {
            pool.endpoints[0].vitals.missed(3);
        }
        assert!(!picks(&pool, 100).contains(&0));
        pool.endpoints[0].vitals.passed(pool.clock());
        let share = picks(&pool, 300).iter().filter(|index| **index == 0).count();
        assert!((1..60).contains(&share), "{share} of 300");
    }

    #[test]
    fn a_reload_keeps_the_endpoints_that_stay() {
        let old = pool(THREE, None);
        eject(&old, 2);
        let new = pool("urls: [\"http://10.0.0.3/mcp\", \"http://10.0.0.4/mcp\"]", Some(&old));
        assert!(Arc::ptr_eq(&old.endpoints[2], &new.endpoints[0]));
        assert_eq!(picks(&new, 2), [1, 1], "what is known of it stays too");
        assert_eq!(new.endpoints[0].pools.load(Ordering::Relaxed), 2);
        drop(old);
        assert!(new.endpoints[0].let_go(), "nobody else has it now");
        new.endpoints[0].pools.fetch_add(1, Ordering::Relaxed);
    }
}
