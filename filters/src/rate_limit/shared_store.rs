//! Budgets that several gateways share, and the fallback while their store is down.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::acquire::{Acquisition, Slots, StoreBackoff, acquire_local};
use super::algorithms::Budget;
use super::key::Subject;
use super::messages;
use super::store::Counters;
use mcp::rejection::Rejection;

/// The store of shared budgets. An implementation has its own deadline; if it is down, it fails at once
/// instead of after the deadline.
pub trait RateLimitStore: Send + Sync {
    /// Takes one from each budget or none from any, atomically and in one round trip.
    fn take<'a>(
        &'a self,
        requests: &'a [StoreRequest],
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

/// Either all requests were granted, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    Granted,
    /// The index of the request with the longest wait.
    Denied {
        ask: usize,
        wait: Duration,
    },
}

/// The store did not respond in time, or not with a valid response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shared limits cannot be judged")]
pub struct StoreUnavailable;

/// What happens while the shared counters are not available.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// Counts in this process: each gateway has the whole budget meanwhile.
    #[default]
    Local,
    /// Lets all calls pass, but not through `concurrent` limits, which need no store.
    Open,
    /// Refuses all calls.
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
    let asked_at = counters.clock().nanos();
    // A caller who ignores its wait costs no round trip. This denies no call that the store would grant: the
    // wait counts from before the store was asked, and a budget never has room earlier than it said.
    for acquisition in &acquisitions {
        if let Some(wait) = StoreBackoff::of(acquisition, counters).wait(counters, asked_at) {
            return Err(messages::limit_reached(&acquisition.limit.rule, wait));
        }
    }
    let requests: Vec<StoreRequest> = acquisitions
        .iter()
        .map(|acquisition| StoreRequest {
            key: acquisition.store_key(subject),
            budget: acquisition.limit.rule.budget,
        })
        .collect();
    let short = match store.take(&requests).await {
        Ok(StoreOutcome::Granted) => return Ok(held),
        // A response for another budget is invalid.
        Ok(StoreOutcome::Denied { ask, wait }) => {
            acquisitions.get(ask).map(|acquisition| (acquisition, wait))
        }
        Err(StoreUnavailable) => None,
    };
    if let Some((acquisition, wait)) = short {
        StoreBackoff::of(acquisition, counters).set(counters, asked_at, wait);
        return Err(messages::limit_reached(&acquisition.limit.rule, wait));
    }
    match on_failure {
        OnFailure::Local => acquire_local(counters, &acquisitions).map(|_| held),
        OnFailure::Open => Ok(held),
        OnFailure::Closed => Err(messages::unavailable()),
    }
}
