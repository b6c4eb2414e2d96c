//! How often: rates, quotas and how many at once.
//!
//! A limit is a rule: the calls that it counts (`match`), the key of its counters (`key`), and the number
//! that it lets through (a budget). A call must fit into the budgets of all matching rules. It takes from all
//! of them or from none.
//!
//! Rules keyed only by address (or by nothing) and without `match` check the head, before any byte of the
//! body and before authentication. They count every request, GET and DELETE too. All other rules check the
//! message: each POSTed one counts, request, notification or response. Callers are distinguished by identity,
//! never by session or token. So a new session or token gives no new budget.
//!
//! It does not queue or delay a call, and knows no store: shared counters are behind the trait
//! [`RateLimitStore`]. Concurrent calls are always counted in this process, because a crashed gateway must
//! not keep its slots. With several gateways each lets that many through.

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
    /// Rules for the head.
    head_limits: Vec<Limit>,
    /// Rules for the message.
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

    /// With `shared`, rates and quotas are counted there, and `counters` only replace it if `on_failure` says
    /// so. Then each gateway has the whole budget while the store is down.
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

    /// Checks the head, for the client's address `ip` (of its connection, or as given by a trusted proxy).
    /// Callers inside the process have no address and pass.
    pub async fn on_head(&self, head: &RequestHead<'_>, ip: Option<IpAddr>) -> Result<(), Box<Rejection>> {
        if self.head_limits.is_empty() || !head.is_network {
            return Ok(());
        }
        self.acquire(&self.head_limits, &Subject::head(ip)).await.map(drop)
    }

    /// Checks the message. The caller keeps the result until the call has ended.
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
                // Boxed, so that calls with local budgets do not pay for its size.
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
