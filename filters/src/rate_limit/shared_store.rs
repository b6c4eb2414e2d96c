//! Budgets that several gateways share, and what happens while the place where they are counted is away.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::acquire::{Acquisition, Slots, StoreBackoff, acquire_local};
use super::algorithms::Budget;
use super::key::Subject;
use super::messages;
use super::store::Counters;
use mcp::rejection::Rejection;

/// Where shared budgets are counted. Implementations have a deadline of their own, and one that is away says
/// so at once, not after the deadline each time.
pub trait RateLimitStore: Send + Sync {
    /// Takes one from each budget, or none from any, in one step and one round trip.
    fn take<'a>(
        &'a self,
        asks: &'a [StoreRequest],
    ) -> Pin<Box<dyn Future<Output = Result<StoreOutcome, StoreUnavailable>> + Send + 'a>>;
}

/// One budget of a shared store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreRequest {
    /// Bounded in length, printable ASCII; to be put behind the prefix of the gateway.
    pub key: String,
    /// A rate or a quota.
    pub budget: Budget,
}

/// Either all asks were granted, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    Granted,
    /// The request (by its place) that has no room for the longest time.
    Denied {
        ask: usize,
        wait: Duration,
    },
}

/// The store did not answer in time, or not with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shared limits cannot be judged")]
pub struct StoreUnavailable;

/// What is done with a call while the shared store is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It is judged by the counters of this process: each gateway has the whole budget meanwhile.
    #[default]
    Local,
    /// It passes (but not through `concurrent` limits, which need no store).
    Open,
    /// It is refused.
    Closed,
}

pub(super) async fn acquire_shared(
    counters: &Arc<Counters>,
    acquisitions: &[Acquisition<'_>],
    subject: &Subject<'_>,
    store: &dyn RateLimitStore,
    on_failure: OnFailure,
) -> Result<Slots, Box<Rejection>> {
    let slots: SmallVec<[Acquisition<'_>; 8]> =
        acquisitions.iter().filter(|acquisition| acquisition.is_slot()).copied().collect();
    let held = acquire_local(counters, &slots)?;
    let acquisitions: SmallVec<[Acquisition<'_>; 8]> =
        acquisitions.iter().filter(|acquisition| !acquisition.is_slot()).copied().collect();
    if acquisitions.is_empty() {
        return Ok(held);
    }
    let asked = counters.clock().nanos();
    // Who was told to wait and does not costs no round trip. This refuses nobody whom the store would let
    // pass: the wait counts from before the store was asked, and a budget never has room sooner than it said.
    for acquisition in &acquisitions {
        if let Some(wait) = StoreBackoff::of(acquisition, counters).wait(counters, asked) {
            return Err(messages::limit_reached(&acquisition.limit.rule, wait));
        }
    }
    let asks: Vec<StoreRequest> = acquisitions
        .iter()
        .map(|acquisition| StoreRequest {
            key: acquisition.store_key(subject),
            budget: acquisition.limit.rule.budget,
        })
        .collect();
    let short = match store.take(&asks).await {
        Ok(StoreOutcome::Granted) => return Ok(held),
        // An answer about a budget that was not asked for is none.
        Ok(StoreOutcome::Denied { ask, wait }) => {
            acquisitions.get(ask).map(|acquisition| (acquisition, wait))
        }
        Err(StoreUnavailable) => None,
    };
    if let Some((acquisition, wait)) = short {
        StoreBackoff::of(acquisition, counters).set(counters, asked, wait);
        return Err(messages::limit_reached(&acquisition.limit.rule, wait));
    }
    match on_failure {
        OnFailure::Local => acquire_local(counters, &acquisitions).map(|_| held),
        OnFailure::Open => Ok(held),
        OnFailure::Closed => Err(messages::unavailable()),
    }
}
