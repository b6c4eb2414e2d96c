//! A panic over what one server says costs that server, and nobody else: it is a fault of the gateway, which a server shall
//! not be able to use against all others.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt as _;

use super::Registry;
use super::keeper::{Faces, keep};
use crate::catalog::{Catalog, Seen};
use crate::server::Server;

/// How long a server is left alone whose keeper has panicked.
const PAUSE: Duration = Duration::from_secs(30);

/// Keeps a server connected, whatever it says.
pub async fn keep_on(server: Arc<Server>, registry: Weak<Registry>, mut known: Option<Faces>) {
    loop {
        let kept = AssertUnwindSafe(keep(server.clone(), registry.clone(), known.take()));
        let Err(panic) = kept.catch_unwind().await else { return };
        let why = format!("the gateway has a fault with what this server says: {}", words(&*panic));
        tracing::error!(server = %server.name, "{why}; it is connected anew in {PAUSE:?}. Please report this");
        let Some(alive) = registry.upgrade() else { return };
        server.starts([false; 2]);
        alive.report(&server, Err(why));
        drop(alive);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Builds a catalog of these servers. One with which that panics by itself is left out; `None` if it panics all the same.
pub fn build(seen: &mut [Seen], build: impl Fn(&[Seen]) -> Catalog) -> Option<Catalog> {
    let try_with = |seen: &[Seen]| catch_unwind(AssertUnwindSafe(|| build(seen)));
    if let Ok(catalog) = try_with(seen) {
        return Some(catalog);
    }
    for one in seen.iter_mut() {
        if let Err(panic) = try_with(std::slice::from_ref(one)) {
            let why = words(&*panic);
            tracing::error!(server = %one.server.name, "the gateway has a fault with the lists of this server, which are left out: {why}. Please report this");
            (one.legacy, one.modern) = (None, None);
        }
    }
    try_with(seen).ok()
}

fn words(panic: &(dyn Any + Send)) -> &str {
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
    fn the_words_of_a_panic_are_told() {
        for (panic, told) in [
            (catch_unwind(|| panic!("no {}", "good")), "no good"),
            (catch_unwind(|| panic!("bad")), "bad"),
            (catch_unwind(|| std::panic::resume_unwind(Box::new(7))), "no words"),
        ] {
            assert_eq!(words(&*panic.expect_err("it panics")), told);
        }
    }
}
