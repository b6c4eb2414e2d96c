//! How the gateway itself talks to a server that may have several endpoints, and what it does in the background to
//! know how they are: it looks their names up again, and asks each whether it is well.
//!
//! Lists and announcements come from one endpoint, the prime one, for as long as it is well: equal endpoints that
//! are being replaced by a newer version differ for a while, and lists should not swing between the two.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use mcp::Era;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Http;
use super::endpoint_health::News;
use super::pool::Pool;
use crate::upstream::{Ask, Bounds, Ending, Hello, Said, Upstream, UpstreamError, house_params};

/// Names are looked up again after this time, give or take a fifth.
const RESOLVE: Duration = Duration::from_secs(30);
/// After a name could not be looked up, or an address could not be connected to.
const SOON: Duration = Duration::from_secs(2);
/// The longest time that a greeting may take where there is another endpoint, and the shortest that a check gets.
const CHECK: Duration = Duration::from_secs(5);

impl Pool {
    /// Asks one endpoint after the other, the prime one first, until one is not at fault. Each has the time of what is
    /// asked, but no more than `hurry` while there is another.
    async fn first<'a, T: Send>(
        &self,
        hurry: Option<Duration>,
        ask: impl Fn(Arc<Http>) -> BoxFuture<'a, Result<T, UpstreamError>> + Send + Sync,
    ) -> Result<T, UpstreamError> {
        let mut failed = 0;
        let mut index = self.prime.load(Ordering::Relaxed);
        if index >= self.endpoints.len() || !self.endpoints[index].vitals.is_in(self.clock()) {
            index = self.pick(0, 0);
        }
        loop {
            let asking = ask(self.endpoints[index].clone());
            let more = self.is_elsewhere(failed | 1 << index);
            let asked = match hurry.filter(|_| more) {
                Some(hurry) => tokio::time::timeout(hurry, asking).await,
                None => Ok(asking.await),
            };
            // One that was hurried has not shown that it would not have answered in its time.
            let hurried = asked.is_err();
            match asked.unwrap_or_else(|_| Err(UpstreamError::TimedOut(hurry.unwrap_or_default()))) {
                Err(error) if error.is_fault() => {
                    if !hurried {
                        self.note(index, &error);
                    }
                    failed |= 1 << index;
                    if !self.is_elsewhere(failed) {
                        return Err(error);
                    }
                    index = self.pick(0, failed);
                }
                other => {
                    self.prime.store(index, Ordering::Relaxed);
                    return other;
                }
            }
        }
    }

    fn prime(&self) -> &Arc<Http> {
        self.endpoints.get(self.prime.load(Ordering::Relaxed)).unwrap_or(&self.endpoints[0])
    }

    async fn resolve(&self, endpoint: &Http) {
        if endpoint.peer.is_literal() {
            // Never done: who tends ends with its server.
            return std::future::pending().await;
        }
        loop {
            let pause = match endpoint.peer.resolve().await {
                Ok(()) => RESOLVE,
                Err(error) => {
                    tracing::debug!(server = %self.name, endpoint = endpoint.label, %error, "its last good addresses stay");
                    SOON
                }
            };
            tokio::time::sleep(SOON).await;
            let _ = tokio::time::timeout(jittered(pause - SOON), endpoint.peer.stale.notified()).await;
        }
    }

    async fn watch_over(&self, index: usize) {
        let endpoint = &self.endpoints[index];
        // A sign of life may be as slow as a greeting, which it is in the modern era and where a session was lost.
        let patience = CHECK.max(self.interval.min(endpoint.bounds().timeout));
        let mut eras = self.eras.subscribe();
        loop {
            let Ok(spoken) = eras.wait_for(|eras| eras.contains(&true)).await.map(|eras| *eras) else {
                return;
            };
            match tokio::time::timeout(patience, is_well(endpoint, spoken, patience)).await {
                Ok(Ok(())) => {
                    let news = endpoint.vitals.passed(self.clock());
                    self.tell(index, news, "its check passed");
                }
                // That says nothing of the endpoint.
                Ok(Err(UpstreamError::Exhausted(_))) => {}
                failed => {
                    let late = UpstreamError::TimedOut(patience);
                    let why = failed.ok().and_then(Result::err).unwrap_or(late);
                    let news: Option<News> = endpoint.vitals.missed(self.tolerance);
                    self.tell(index, news, &why.to_string());
                }
            }
            tokio::time::sleep(jittered(self.interval)).await;
        }
    }
}

/// Asks for a sign of life in each era that the server speaks.
async fn is_well(endpoint: &Http, spoken: [bool; 2], timeout: Duration) -> Result<(), UpstreamError> {
    for (era, method) in [(Era::Legacy, "ping"), (Era::Modern, "server/discover")] {
        if spoken[era as usize] {
            let params = house_params(era, "");
            endpoint.ask(Ask { era, method, params, progress: None, timeout }).await?;
        }
    }
    Ok(())
}

/// A fifth more or less, so that many gateways do not ask at the same moment.
fn jittered(time: Duration) -> Duration {
    let random = getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX));
    time.mul_f64(0.8 + 0.4 * random)
}

#[async_trait]
impl Upstream for Pool {
    async fn greet(&self, era: Era, until: Instant) -> Result<Hello, UpstreamError> {
        let ask = |endpoint: Arc<Http>| {
            let greeting = async move { endpoint.greet(era, until).await };
            Box::pin(greeting) as BoxFuture<'_, _>
        };
        let greeted = self.first(Some(CHECK), ask).await;
        let speaks = greeted.is_ok();
        if speaks || matches!(greeted, Err(UpstreamError::WrongEra(..))) {
            self.eras.send_if_modified(|eras| std::mem::replace(&mut eras[era as usize], speaks) != speaks);
        }
        greeted
    }

    async fn ask(&self, ask: Ask<'_>) -> Result<Said, UpstreamError> {
        let (era, method, timeout) = (ask.era, ask.method, ask.timeout);
        self.first(None, |endpoint| {
            let params = ask.params.clone();
            Box::pin(async move { endpoint.ask(Ask { era, method, params, progress: None, timeout }).await })
        })
        .await
    }

    async fn watch(&self, era: Era, changed: &mpsc::Sender<()>) -> Result<(), UpstreamError> {
        self.prime().watch(era, changed).await
    }

    fn lists_as_events(&self) -> bool {
        self.prime().lists_as_events.load(Ordering::Relaxed)
    }

    fn follows(&self) -> bool {
        true
    }

    async fn follow(&self, listen: Bytes, out: mpsc::Sender<Bytes>) -> Result<Ending, UpstreamError> {
        self.endpoints[self.pick(0, 0)].listen(Era::Modern, None, &listen, out).await
    }

    fn hold_to(&self, bounds: &Bounds) {
        for endpoint in &self.endpoints {
            endpoint.hold_to(bounds);
        }
    }

    fn http(&self) -> Option<&Pool> {
        Some(self)
    }

    async fn tend(&self) {
        let resolving = join_all(self.endpoints.iter().map(|endpoint| self.resolve(endpoint)));
        // The one endpoint of a server is checked as the server.
        let watched = if self.endpoints.len() == 1 { 0 } else { self.endpoints.len() };
        let watching = join_all((0..watched).map(|index| self.watch_over(index)));
        tokio::join!(resolving, watching);
    }

    fn is_well(&self) -> Option<bool> {
        let any = self.endpoints.iter().any(|endpoint| !endpoint.vitals.is_down());
        (self.endpoints.len() > 1).then_some(any)
    }

    async fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        join_all(self.endpoints.iter().filter(|endpoint| endpoint.let_go()).map(|endpoint| endpoint.close()))
            .await;
    }
}
