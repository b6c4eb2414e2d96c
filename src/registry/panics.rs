//! A panic caused by one server costs that server and no other. It is a bug of the gateway, which a server
//! must not be able to use against the others.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt as _;

use super::EraLists;
use super::Registry;
use super::supervisor::supervise;
use crate::server::Server;

/// The pause after a panic of a supervisor, before its server is connected again.
const PAUSE: Duration = Duration::from_secs(30);

/// Keeps a server connected; restarts its supervisor after a panic.
pub async fn supervise_with_restarts(
    server: Arc<Server>,
    registry: Weak<Registry>,
    mut known: Option<EraLists>,
) {
    loop {
        let kept = AssertUnwindSafe(supervise(server.clone(), registry.clone(), known.take()));
        let Err(panic) = kept.catch_unwind().await else { return };
        let why = format!("the gateway has a fault with what this server says: {}", panic_message(&*panic));
        tracing::error!(server = %server.name, "{why}; it is connected anew in {PAUSE:?}. Please report this");
        let Some(alive) = registry.upgrade() else { return };
        server.set_starting([false; 2]);
        alive.update(&server, Err(why));
        drop(alive);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Builds a value from all of these. An item that panics by itself is given to `leave_out` with the panic
/// message, and the rest is built without it. `None` if that panics too.
pub fn build<T, B>(
    all: &mut [T],
    build: impl Fn(&[T]) -> B,
    mut leave_out: impl FnMut(&mut T, &str),
) -> Option<B> {
    let attempt = |some: &[T]| catch_unwind(AssertUnwindSafe(|| build(some)));
    if let Ok(built) = attempt(all) {
        return Some(built);
    }
    for one in all.iter_mut() {
        if let Err(panic) = attempt(std::slice::from_ref(one)) {
            leave_out(one, panic_message(&*panic));
        }
    }
    attempt(all).ok()
}

/// The value, or the panic message.
pub fn of<V>(make: impl FnOnce() -> V) -> Result<V, String> {
    catch_unwind(AssertUnwindSafe(make)).map_err(|panic| panic_message(&*panic).to_owned())
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_panic_is_returned() {
        for (panic, expected) in [
            (catch_unwind(|| panic!("no {}", "good")), "no good"),
            (catch_unwind(|| panic!("bad")), "bad"),
            (catch_unwind(|| std::panic::resume_unwind(Box::new(7))), "no words"),
        ] {
            assert_eq!(panic_message(&*panic.expect_err("it panics")), expected);
        }
    }

    #[test]
    fn one_that_panics_is_left_out_and_the_rest_is_built() {
        let sum = |all: &[Option<u32>]| {
            all.iter().flatten().map(|n| if *n == 7 { panic!("seven") } else { *n }).sum::<u32>()
        };
        let mut expected = Vec::new();
        let mut all = [Some(1), Some(7), Some(2)];
        let built = build(&mut all, sum, |one, why| expected.push((one.take(), why.to_owned())));
        assert_eq!((built, expected), (Some(3), vec![(Some(7), "seven".to_owned())]));
        assert_eq!(all, [Some(1), None, Some(2)]);
        // Panics only with both together.
        let never = |all: &[u32]| if all.len() > 1 { panic!("two") } else { 0 };
        assert_eq!(build(&mut [1, 2], never, |_, _| unreachable!("each is good")), None);
        assert_eq!(of(|| panic!("x")), Err::<(), _>("x".to_owned()));
    }
}
