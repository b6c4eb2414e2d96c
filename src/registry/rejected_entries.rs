//! Logs the entries that are left out of lists because clients could not read them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mcp::Era;

use super::EraLists;
use crate::catalog::{ListKind, RejectedEntry, ServerLists};
use crate::server::Server;
use crate::telemetry::Metrics;

/// Warnings of one list at a time.
const MAX_LOGGED: usize = 50;
/// Reasons in one warning.
const REASONS: usize = 3;

/// Counts what is left out of the lists of a server now, and warns of what was not logged before.
pub fn log(server: &Server, now: &EraLists, metrics: &Metrics) {
    for kind in ListKind::ALL {
        let count = now.iter().flatten().map(|lists| lists.lists.listing(kind).rejected.count()).max();
        let count = count.unwrap_or(0);
        metrics.catalog_rejected(&server.name, kind.member(), count);
        let news = news(server, now, kind);
        for (entry, found) in news.iter().take(MAX_LOGGED) {
            let mut eras: Vec<&str> = found.iter().map(|(server_era, _)| server_era.as_str()).collect();
            eras.dedup();
            // Entries of one name may have different reasons.
            let why: BTreeSet<&str> = found.iter().map(|(_, why)| *why).collect();
            let why: Vec<&str> = why.into_iter().take(REASONS).collect();
            let (eras, why) = (eras.join(","), why.join("; "));
            tracing::warn!(server = %server.name, kind = kind.member(), entry, eras, why, "clients could not read the entry; it is left out");
        }
        if news.len() > MAX_LOGGED {
            tracing::warn!(server = %server.name, kind = kind.member(), left_out = count, "more entries of the list are left out");
        }
    }
}

/// What is left out of a list for a reason that was not logged yet, by entry. One that is invalid in both
/// eras is logged once.
fn news<'a>(server: &Server, now: &'a EraLists, kind: ListKind) -> BTreeMap<&'a str, Vec<(Era, &'a str)>> {
    let mut all: BTreeMap<&RejectedEntry, Vec<Era>> = BTreeMap::new();
    for (server_era, lists) in [Era::Legacy, Era::Modern].into_iter().zip(now) {
        for one in lists.iter().flat_map(|lists| rejected(lists, kind)) {
            all.entry(one).or_default().push(server_era);
        }
    }
    all.retain(|one, _| server.warns((kind.member(), &one.key, &one.why)));
    let mut news: BTreeMap<&str, Vec<(Era, &str)>> = BTreeMap::new();
    for (one, eras) in all {
        news.entry(&one.key)
            .or_default()
            .extend(eras.into_iter().map(|server_era| (server_era, one.why.as_str())));
    }
    news.values_mut().for_each(|found| found.sort_unstable_by_key(|(server_era, _)| server_era.as_str()));
    news
}

fn rejected(lists: &Arc<ServerLists>, kind: ListKind) -> impl Iterator<Item = &RejectedEntry> {
    lists.lists.listing(kind).rejected.iter()
}
