//! Budgets that several gateways share, and what happens while the place where they are counted is away.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::acquire::{Held, Shut, Want, local};
use super::algorithms::Budget;
use super::key::Subject;
use super::messages;
use super::store::Counters;
use mcp::rejection::Refusal;

/// Where shared budgets are counted. Implementations have a deadline of their own, and one that is away says
/// so at once, not after the deadline each time.
pub trait Shared: Send + Sync {
    /// Takes one from each budget, or none from any, in one step and one round trip.
    fn take<'a>(
        &'a self,
        asks: &'a [Ask],
    ) -> Pin<Box<dyn Future<Output = Result<Answer, Unavailable>> + Send + 'a>>;
}

/// One budget of a shared store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Bounded in length, printable ASCII; to be put behind the prefix of the gateway.
    pub key: String,
    /// A rate or a quota.
    pub budget: Budget,
}

/// Either all asks were granted, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Taken,
    /// The ask (by its place) that has no room for the longest time.
    Short {
        ask: usize,
        wait: Duration,
    },
}

/// The store did not answer in time, or not with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shared limits cannot be judged")]
pub struct Unavailable;

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

pub(super) async fn judge(
    counters: &Arc<Counters>,
    wants: &[Want<'_>],
    subject: &Subject<'_>,
    shared: &dyn Shared,
    on_failure: OnFailure,
) -> Result<Held, Box<Refusal>> {
    let slots: SmallVec<[Want<'_>; 8]> = wants.iter().filter(|want| want.is_slot()).copied().collect();
    let held = local(counters, &slots)?;
    let wants: SmallVec<[Want<'_>; 8]> = wants.iter().filter(|want| !want.is_slot()).copied().collect();
    if wants.is_empty() {
        return Ok(held);
    }
    let asked = counters.clock().nanos();
    // Who was told to wait and does not costs no round trip. This refuses nobody whom the store would let
    // pass: the wait counts from before the store was asked, and a budget never has room sooner than it said.
    for want in &wants {
        if let Some(wait) = Shut::of(want, counters).wait(counters, asked) {
            return Err(messages::refusal(&want.limit.rule, wait));
        }
    }
    let asks: Vec<Ask> =
        wants.iter().map(|want| Ask { key: want.spell(subject), budget: want.limit.rule.budget }).collect();
    let short = match shared.take(&asks).await {
        Ok(Answer::Taken) => return Ok(held),
        // An answer about a budget that was not asked for is none.
        Ok(Answer::Short { ask, wait }) => wants.get(ask).map(|want| (want, wait)),
        Err(Unavailable) => None,
    };
    if let Some((want, wait)) = short {
        Shut::of(want, counters).set(counters, asked, wait);
        return Err(messages::refusal(&want.limit.rule, wait));
    }
    match on_failure {
        OnFailure::Local => local(counters, &wants).map(|_| held),
        OnFailure::Open => Ok(held),
        OnFailure::Closed => Err(messages::unavailable()),
    }
}
