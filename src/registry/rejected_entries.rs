//! Tells of the entries that are left out of lists because clients could not read them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mcp::Era;

use super::supervisor::Faces;
use crate::catalog::{Face, Kind, Rejected};
use crate::server::Server;
use crate::telemetry::Metrics;

/// Warnings of one list at a time.
const TOLD: usize = 50;
/// Reasons in one warning.
const REASONS: usize = 3;

/// Counts what is left out of the lists of a server now, and warns of what was not told of before.
pub fn tell(server: &Server, now: &Faces, metrics: &Metrics) {
    for kind in Kind::ALL {
        let count = now.iter().flatten().map(|face| face.lists.listing(kind).rejects.count()).max();
        let count = count.unwrap_or(0);
        metrics.catalog_rejected(&server.name, kind.member(), count);
        let news = news(server, now, kind);
        for (entry, found) in news.iter().take(TOLD) {
            let mut eras: Vec<&str> = found.iter().map(|(era, _)| era.word()).collect();
            eras.dedup();
            // Entries of one name may have reasons of their own.
            let why: BTreeSet<&str> = found.iter().map(|(_, why)| *why).collect();
            let why: Vec<&str> = why.into_iter().take(REASONS).collect();
            let (eras, why) = (eras.join(","), why.join("; "));
            tracing::warn!(server = %server.name, kind = kind.member(), entry, eras, why, "clients could not read the entry; it is left out");
        }
        if news.len() > TOLD {
            tracing::warn!(server = %server.name, kind = kind.member(), left_out = count, "more entries of the list are left out");
        }
    }
}

/// What is left out of a list for a reason that was not told yet, by entry. One that fits no era is told of once.
fn news<'a>(server: &Server, now: &'a Faces, kind: Kind) -> BTreeMap<&'a str, Vec<(Era, &'a str)>> {
    let mut all: BTreeMap<&Rejected, Vec<Era>> = BTreeMap::new();
    for (era, face) in [Era::Legacy, Era::Modern].into_iter().zip(now) {
        for one in face.iter().flat_map(|face| rejected(face, kind)) {
            all.entry(one).or_default().push(era);
        }
    }
    all.retain(|one, _| server.warns((kind.member(), &one.key, &one.why)));
    let mut news: BTreeMap<&str, Vec<(Era, &str)>> = BTreeMap::new();
    for (one, eras) in all {
        news.entry(&one.key).or_default().extend(eras.into_iter().map(|era| (era, one.why.as_str())));
    }
    news.values_mut().for_each(|found| found.sort_unstable_by_key(|(era, _)| era.word()));
    news
}

fn rejected(face: &Arc<Face>, kind: Kind) -> impl Iterator<Item = &Rejected> {
    face.lists.listing(kind).rejects.iter()
}
