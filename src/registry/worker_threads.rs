//! RBAC checks of many names at once, on threads that serve no requests: all names of a list, or all that one
//! request asks to follow.
//!
//! Unauthenticated callers choose the input of a condition, and each name costs its evaluation again. So the
//! sum is bounded ([`Fuel`]). A check that uses little of it does not wait; of those that use more, some run
//! at a time, and one per caller.

use mcp::Reason;
use std::sync::{Arc, OnceLock};

use ahash::RandomState;
use filters::Caller;
use filters::cel::{Fuel, LIST};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use crate::telemetry::Metrics;

/// Steps that a check may use before it waits for others: some milliseconds.
const LIGHT: u32 = LIST / 200;
/// Callers that hash to the same lane wait for one another.
const LANES: usize = 64;

pub struct WorkerThreads {
    runtime: Handle,
    lanes: Vec<Arc<Mutex<()>>>,
    keys: RandomState,
    heavy: Arc<Semaphore>,
    /// The steps that one request may use.
    steps: u32,
    metrics: Arc<Metrics>,
}

/// The work of one request.
pub struct Work {
    pub caller: Caller,
    fuel: Fuel,
    /// With less fuel than this left it waits for others.
    light: u32,
    heavy: Arc<Semaphore>,
    runtime: Handle,
    turn: OnceLock<Option<OwnedSemaphorePermit>>,
}

impl WorkerThreads {
    /// `runtime` outlives the listeners.
    pub fn new(runtime: Handle, metrics: Arc<Metrics>) -> Self {
        // Half of the machine stays for requests.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            runtime,
            lanes: std::iter::repeat_with(Arc::default).take(LANES).collect(),
            keys: RandomState::new(),
            heavy: Arc::new(Semaphore::new((cores / 2).max(1))),
            steps: LIST,
            metrics,
        }
    }

    /// Runs the work when nothing else runs for this caller; `known` is checked once more then. Work that has
    /// begun is finished, whether its caller waits for it or not. `None` if it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        caller: &Caller,
        known: impl Fn() -> Option<T>,
        work: impl FnOnce(&Work) -> T + Send + 'static,
    ) -> Option<T> {
        let who =
            self.keys.hash_one((caller.auth_method.as_str(), &caller.issuer, &caller.tenant, &caller.user));
        let lane = self.lanes[usize::try_from(who % LANES as u64).unwrap_or(0)].clone().lock_owned().await;
        if let Some(known) = known() {
            return Some(known);
        }
        let of = Work {
            caller: caller.clone(),
            fuel: Fuel::of(self.steps, caller),
            light: self.steps.saturating_sub(LIGHT),
            heavy: self.heavy.clone(),
            runtime: self.runtime.clone(),
            turn: OnceLock::new(),
        };
        let metrics = self.metrics.clone();
        let done = self.runtime.spawn_blocking(move || {
            let done = work(&of);
            drop(lane);
            if of.fuel.left() == 0 {
                metrics.rejected(filters::rbac::NAME, Reason::RuleTooCostly);
                tracing::warn!(user = %of.caller.user, reason = Reason::RuleTooCostly.as_str(), "rules take too many steps over the names of a list for this caller: those that were left are hidden");
            }
            done
        });
        done.await.ok()
    }
}

impl Work {
    /// The remaining fuel. Waits for a permit if this work has used more than a light check.
    pub fn fuel(&self) -> &Fuel {
        if self.fuel.left() < self.light {
            self.turn.get_or_init(|| self.runtime.block_on(self.heavy.clone().acquire_owned()).ok());
        }
        &self.fuel
    }
}

#[cfg(test)]
mod tests {
    use filters::cel::Condition;
    use filters::rbac::{Effect, Rbac, RbacSettings, Rule};
    use filters::{CallTarget, Identity, TargetKind};

    use super::*;

    fn caller(user: &str) -> Caller {
        let claims = serde_json::json!({"g": vec!["x"; 100]});
        let claims = claims.as_object().expect("an object").clone();
        Caller::new(Identity { user: user.into(), claims, ..Identity::default() })
    }

    fn costly() -> Rbac {
        let when = Condition::compile("caller.claims.g.exists(g, call.tool == g)").expect("a condition");
        let rule = Rule { name: "r".into(), when, effect: Effect::Deny, message: None };
        Rbac::new(RbacSettings { default: Effect::Allow, rules: vec![rule], ..RbacSettings::default() })
            .expect("a policy")
    }

    fn shown(rbac: &Rbac, of: &Work, names: usize) -> usize {
        let name = |n: usize| format!("s__{n}");
        let sees = |name: &str| {
            rbac.sees_within(&of.caller, &CallTarget { kind: TargetKind::Tool, name, server: "s" }, of.fuel())
        };
        (0..names).filter(|n| sees(&name(*n)) == Some(true)).count()
    }

    #[tokio::test]
    async fn what_is_hidden_for_lack_of_steps_is_counted_once() {
        let metrics = Metrics::new();
        let workers =
            WorkerThreads { steps: 10_000, ..WorkerThreads::new(Handle::current(), metrics.clone()) };
        let shown = workers.run(&caller("ann"), || None, |of| shown(&costly(), of, 100)).await;
        assert!(shown.is_some_and(|shown| (1..30).contains(&shown)), "{shown:?}");
        let metrics_text = String::from_utf8(metrics.text()).expect("a text");
        let line = "toolgate_filter_rejections_total{filter=\"rbac\",reason=\"rule_too_costly\"} 1";
        assert!(metrics_text.lines().any(|l| l == line), "{metrics_text}");
    }

    #[tokio::test]
    async fn a_light_check_does_not_wait() {
        let workers = WorkerThreads::new(Handle::current(), Metrics::new());
        // All permits are taken by others.
        let all = workers.heavy.available_permits();
        let taken = workers.heavy.clone().acquire_many_owned(u32::try_from(all).expect("few")).await;
        let light = workers.run(&caller("ann"), || None, |of| shown(&costly(), of, 10)).await;
        assert_eq!(light, Some(10));
        let bob = caller("bob");
        let heavy = workers.run(&bob, || None, |of| shown(&costly(), of, 3_000));
        let mut heavy = std::pin::pin!(heavy);
        assert!(futures::poll!(&mut heavy).is_pending());
        drop(taken);
        assert_eq!(heavy.await, Some(3_000));
    }

    #[tokio::test]
    async fn a_caller_has_one_check_at_a_time_and_reuses_a_result() {
        let workers = WorkerThreads::new(Handle::current(), Metrics::new());
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let ann = caller("ann");
        let first = workers.run(&ann, || None, move |_| wait.recv().is_ok());
        let mut first = std::pin::pin!(first);
        let second = workers.run(&ann, || Some(true), |_| panic!("it is known by then"));
        let mut second = std::pin::pin!(second);
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut second).is_pending(), "both at a time");
        go.send(()).expect("it waits");
        assert_eq!((first.await, second.await), (Some(true), Some(true)));
        // A panic is no result, and does not block the next one.
        assert_eq!(workers.run(&ann, || None, |_| -> bool { panic!("broken") }).await, None);
        assert_eq!(workers.run(&ann, || None, |_| true).await, Some(true));
    }
}
