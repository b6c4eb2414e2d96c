//! Any client at any server: three clients at six kinds of server, with each feature of the protocol. What the page
//! docs/protocol/compatibility.md says is what this test has seen; with `BLESS=1` it writes the page.

mod clients;
mod features;
mod impossible;
mod page;
mod servers;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use futures::future::join_all;

use clients::{Client, Legacy, Modern, Sse};
use features::{At, FEATURES, Feature, attempt, counted, crash, goes_on};
use servers::{UPSTREAMS, Upstream, World};

/// The clients, by the names of their drivers.
const CLIENTS: [&str; 3] = [Legacy::NAME, Sse::NAME, Modern::NAME];

/// How a feature came through, or the words of its failure.
type Outcome = Result<(), String>;
type Table = BTreeMap<(&'static str, &'static str, Feature), Outcome>;

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

async fn caught(attempt: impl Future<Output = ()>) -> Outcome {
    AssertUnwindSafe(Box::pin(attempt)).catch_unwind().await.map_err(|panic| words(&*panic))
}

fn at<C: Client>(world: &World, up: Upstream, feature: Feature) -> At<'_> {
    At { world, up, feature, mark: format!("{}-{}-{feature:?}", C::NAME, up.name()) }
}

/// The features that disturb no other client of the server.
async fn cell<C: Client>(world: &World, up: Upstream) -> Table {
    let mut table = Table::new();
    let quiet = FEATURES.iter().filter(|one| !matches!(one, Feature::ListChange | Feature::Reconnect));
    let mut client = C::open(&world.gateway, "/mcp").await;
    for feature in quiet.copied() {
        let outcome = caught(attempt(&at::<C>(world, up, feature), &mut client)).await;
        table.insert((C::NAME, up.name(), feature), outcome);
    }
    table
}

async fn list_change<C: Client>(world: &World, up: Upstream) -> Outcome {
    let at = at::<C>(world, up, Feature::ListChange);
    caught(async { attempt(&at, &mut C::open(&world.gateway, "/mcp").await).await }).await
}

/// The features that all clients of a server see.
async fn column(world: &World, up: Upstream) -> Table {
    let mut table = Table::new();
    let mut insert = |client, feature, outcome| {
        table.insert((client, up.name(), feature), outcome);
    };
    insert(Legacy::NAME, Feature::ListChange, list_change::<Legacy>(world, up).await);
    insert(Sse::NAME, Feature::ListChange, list_change::<Sse>(world, up).await);
    insert(Modern::NAME, Feature::ListChange, list_change::<Modern>(world, up).await);

    let feature = Feature::Reconnect;
    let (one, two, three) =
        (at::<Legacy>(world, up, feature), at::<Sse>(world, up, feature), at::<Modern>(world, up, feature));
    let path = "/mcp";
    let mut legacy = Legacy::open(&world.gateway, path).await;
    let mut sse = Sse::open(&world.gateway, path).await;
    let mut modern = Modern::open(&world.gateway, path).await;
    let before = (
        counted(&one, &mut legacy, 7).await,
        counted(&two, &mut sse, 7).await,
        counted(&three, &mut modern, 7).await,
    );
    let outcomes = if before == (Some(7), Some(7), Some(7)) {
        crash(&one, &mut legacy).await;
        world.restart(up).await;
        let (one, two, three) = tokio::join!(
            caught(goes_on(&one, &mut legacy)),
            caught(goes_on(&two, &mut sse)),
            caught(goes_on(&three, &mut modern))
        );
        [one, two, three]
    } else {
        [(); 3].map(|()| Err(format!("no process that counts: {before:?}")))
    };
    for (client, outcome) in CLIENTS.into_iter().zip(outcomes) {
        insert(client, feature, outcome);
    }
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn any_client_at_any_server() {
    let world = World::start().await;
    let cells =
        UPSTREAMS.map(|up| {
            let world = &world;
            async move {
                tokio::join!(cell::<Legacy>(world, up), cell::<Sse>(world, up), cell::<Modern>(world, up))
            }
        });
    let mut table = Table::new();
    for (legacy, sse, modern) in join_all(cells).await {
        table.extend(legacy.into_iter().chain(sse).chain(modern));
    }
    for column in join_all(UPSTREAMS.map(|up| column(&world, up))).await {
        table.extend(column);
    }
    assert_eq!(table.len(), CLIENTS.len() * UPSTREAMS.len() * FEATURES.len());
    let faults = impossible::faults(&table);
    assert!(faults.is_empty(), "{}\n{}", faults.join("\n"), world.gateway.process.story());
    page::compare(&table);
}
