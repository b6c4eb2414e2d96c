//! What rules say of many names at once, on threads that serve nobody: all names of a list, or all that one request asks
//! to follow.
//!
//! Strangers choose what a condition goes over, and each name costs it anew. So the sum is bounded ([`Fuel`]); whoever
//! uses little of it waits for nobody; of those who use more, some at a time, and of each caller one.

use std::sync::{Arc, OnceLock};

use ahash::RandomState;
use filters::Caller;
use filters::cel::{Fuel, LIST};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use crate::telemetry::Metrics;

/// What somebody may use before waiting for others: some milliseconds.
const LIGHT: u32 = LIST / 200;
const COSTLY: &str = "rule_too_costly";
/// Callers whose numbers are the same wait for one another.
const LANES: usize = 64;

pub struct Apart {
    core: Handle,
    lanes: Vec<Arc<Mutex<()>>>,
    keys: RandomState,
    heavy: Arc<Semaphore>,
    /// What one request may use.
    steps: u32,
    metrics: Arc<Metrics>,
}

/// The work of one request.
pub struct Work {
    pub caller: Caller,
    fuel: Fuel,
    /// Where it begins to wait for others.
    light: u32,
    heavy: Arc<Semaphore>,
    core: Handle,
    turn: OnceLock<Option<OwnedSemaphorePermit>>,
}

impl Apart {
    /// `core` is the runtime that outlives the listeners.
    pub fn new(runtime: Handle, metrics: Arc<Metrics>) -> Self {
        // Half of the machine stays for those who are served.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            core: runtime,
            lanes: std::iter::repeat_with(Arc::default).take(LANES).collect(),
            keys: RandomState::new(),
            heavy: Arc::new(Semaphore::new((cores / 2).max(1))),
            steps: LIST,
            metrics,
        }
    }

    /// Does it when nothing else is done for this caller; `known` is asked once more then. What was begun is finished,
    /// whether its caller waits for it or not. None if it broke off.
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
            core: self.core.clone(),
            turn: OnceLock::new(),
        };
        let metrics = self.metrics.clone();
        let done = self.core.spawn_blocking(move || {
            let done = work(&of);
            drop(lane);
            if of.fuel.left() == 0 {
                metrics.rejected(filters::rbac::NAME, COSTLY);
                tracing::warn!(user = %of.caller.user, reason = COSTLY, "rules take too many steps over the names of a list for this caller: those that were left are hidden");
            }
            done
        });
        done.await.ok()
    }
}

impl Work {
    /// What is left; waits for a turn if more was used than is used by most.
    pub fn fuel(&self) -> &Fuel {
        if self.fuel.left() < self.light {
            self.turn.get_or_init(|| self.core.block_on(self.heavy.clone().acquire_owned()).ok());
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
    async fn what_is_left_out_for_want_of_steps_is_counted_once() {
        let metrics = Metrics::new();
        let apart = Apart { steps: 10_000, ..Apart::new(Handle::current(), metrics.clone()) };
        let shown = apart.run(&caller("ann"), || None, |of| shown(&costly(), of, 100)).await;
        assert!(shown.is_some_and(|shown| (1..30).contains(&shown)), "{shown:?}");
        let told = String::from_utf8(metrics.text()).expect("a text");
        let line = "toolgate_filter_rejections_total{filter=\"rbac\",reason=\"rule_too_costly\"} 1";
        assert!(told.lines().any(|l| l == line), "{told}");
    }

    #[tokio::test]
    async fn who_uses_little_waits_for_nobody() {
        let apart = Apart::new(Handle::current(), Metrics::new());
        // All turns are taken by others.
        let all = apart.heavy.available_permits();
        let taken = apart.heavy.clone().acquire_many_owned(u32::try_from(all).expect("few")).await;
        let light = apart.run(&caller("ann"), || None, |of| shown(&costly(), of, 10)).await;
        assert_eq!(light, Some(10));
        let bob = caller("bob");
        let heavy = apart.run(&bob, || None, |of| shown(&costly(), of, 3_000));
        let mut heavy = std::pin::pin!(heavy);
        assert!(futures::poll!(&mut heavy).is_pending());
        drop(taken);
        assert_eq!(heavy.await, Some(3_000));
    }

    #[tokio::test]
    async fn a_caller_has_one_at_a_time_and_learns_what_another_found() {
        let apart = Apart::new(Handle::current(), Metrics::new());
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let ann = caller("ann");
        let first = apart.run(&ann, || None, move |_| wait.recv().is_ok());
        let mut first = std::pin::pin!(first);
        let second = apart.run(&ann, || Some(true), |_| panic!("it is known by then"));
        let mut second = std::pin::pin!(second);
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut second).is_pending(), "both at a time");
        go.send(()).expect("it waits");
        assert_eq!((first.await, second.await), (Some(true), Some(true)));
        // What panics is no answer, and the next one is not kept out by it.
        assert_eq!(apart.run(&ann, || None, |_| -> bool { panic!("broken") }).await, None);
        assert_eq!(apart.run(&ann, || None, |_| true).await, Some(true));
    }
}
