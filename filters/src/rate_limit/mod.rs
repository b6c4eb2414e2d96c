//! How often: rates, quotas and how many at once.
//!
//! A limit is a rule: which calls it counts (`match`), for whom it counts them apart (`key`), and how many it
//! lets through (a budget). A call must fit into the budgets of all rules that it matches, and takes from all
//! of them or from none.
//!
//! Rules keyed by address alone (or by nothing) and without `match` judge the head, before a byte is read and
//! before anybody is authenticated; they count every request, GET and DELETE too. All others judge the
//! message: each one that is POSTed counts, request, notification or response. Callers are told apart by who
//! they are, never by session or token, so a new one of these buys no new budget.
//!
//! It deliberately does not queue or delay a call, and knows no store: counters that several gateways share
//! are behind the trait [`RateLimitStore`]. How many are under way at once is always counted in this process, because
//! a gateway that dies must not take its slots with it: with several gateways each lets that many through.

mod acquire;
mod algorithms;
mod clock;
mod globs;
mod key;
mod messages;
mod rule;
mod shared_store;
mod store;

use std::net::IpAddr;
use std::sync::Arc;

pub use acquire::Slots;
pub use algorithms::Budget;
pub use clock::{Clock, SystemClock};
pub use globs::Globs;
pub use key::{KeyPart, subnet};
pub use rule::{Match, RateRule};
pub use shared_store::{OnFailure, RateLimitStore, StoreOutcome, StoreRequest, StoreUnavailable};
pub use store::Counters;

use crate::request::{Call, RequestHead};
use key::Subject;
use mcp::rejection::Rejection;
use rule::Limit;

/// All limits of one plan. A reload makes a new one around the same [`Counters`].
#[derive(Default)]
pub struct Rate {
    /// Judge the head.
    head_limits: Vec<Limit>,
    /// Judge the message.
    message_limits: Vec<Limit>,
    counters: Option<Arc<Counters>>,
    shared: Option<Arc<dyn RateLimitStore>>,
    on_failure: OnFailure,
}

impl Rate {
    /// Label in metrics and logs.
    pub const NAME: &'static str = "rate";

    /// No limits.
    pub fn none() -> Self {
        Self::default()
    }

    /// With `shared`, rates and quotas are counted there and `counters` only stand in for it, if `on_failure`
    /// says so. In that case each gateway has the whole budget for as long as the store is away.
    pub fn new(
        rules: Vec<RateRule>,
        counters: Arc<Counters>,
        store: Option<Arc<dyn RateLimitStore>>,
        on_failure: OnFailure,
    ) -> Self {
        let (early, late) =
            rules.into_iter().map(|rule| Limit::new(rule, &counters)).partition(Limit::applies_to_head);
        Self { head_limits: early, message_limits: late, counters: Some(counters), shared: store, on_failure }
    }

    /// Judges the head, for the client's address `ip` (that of its connection, or what a trusted proxy says).
    /// Callers inside the process have no address and pass.
    pub async fn on_head(&self, head: &RequestHead<'_>, ip: Option<IpAddr>) -> Result<(), Box<Rejection>> {
        if self.head_limits.is_empty() || !head.is_network {
            return Ok(());
        }
        self.acquire(&self.head_limits, &Subject::head(ip)).await.map(drop)
    }

    /// Judges the message. What is given is to be kept until the call has ended.
    pub async fn on_request(&self, call: &Call<'_>, ip: Option<IpAddr>) -> Result<Slots, Box<Rejection>> {
        if self.message_limits.is_empty() {
            return Ok(Slots::default());
        }
        let method = call.rpc.method_name(call.body);
        self.acquire(&self.message_limits, &Subject::call(call, &method, ip)).await
    }

    /// Names of the limits that count this call, without counting it.
    pub fn counting_rules(&self, call: &Call<'_>, ip: Option<IpAddr>) -> Vec<&str> {
        let method = call.rpc.method_name(call.body);
        let subject = Subject::call(call, &method, ip);
        let all = self.head_limits.iter().chain(&self.message_limits);
        all.filter(|limit| limit.counts(&subject)).map(|limit| limit.rule.name.as_str()).collect()
    }

    async fn acquire(&self, limits: &[Limit], subject: &Subject<'_>) -> Result<Slots, Box<Rejection>> {
        let Some(counters) = &self.counters else {
            return Ok(Slots::default());
        };
        let acquisitions = acquire::acquisitions(limits, subject, counters);
        match &self.shared {
            None => acquire::acquire_local(counters, &acquisitions),
            Some(store) => {
                // In a box, so that calls whose budgets are here do not carry its room about.
                Box::pin(shared_store::acquire_shared(
                    counters,
                    &acquisitions,
                    subject,
                    &**store,
                    self.on_failure,
                ))
                .await
            }
        }
    }
}
