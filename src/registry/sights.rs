//! What callers see of an endpoint, where they do not all see the same: one narrowed endpoint for each class of
//! callers, made when one of them first looks, and kept for as long as the catalog and the roles stay.

use std::sync::Arc;

use filters::rbac::Class;
use filters::{Aim, Caller, Thing};
use moka::sync::Cache;

use super::House;
use crate::catalog::{Endpoint, Kind, View};
use crate::telemetry::Metrics;

/// Bytes of all kept sights together, of which each caller may have one where rules look at who calls.
const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// An entry beside its text in a page.
const ENTRY: usize = 500;

pub struct Sights(Cache<(Class, Arc<str>), Arc<Endpoint>>);

impl Default for Sights {
    fn default() -> Self {
        let size = |_: &(Class, Arc<str>), endpoint: &Arc<Endpoint>| endpoint.size();
        Self(Cache::builder().max_capacity(MAX_BYTES).weigher(size).build())
    }
}

impl House {
    /// The endpoint as this caller sees it.
    pub fn sight(&self, endpoint: &Arc<Endpoint>, caller: &Caller, metrics: &Arc<Metrics>) -> Arc<Endpoint> {
        let rbac = &self.plan.chain.rbac;
        if rbac.is_open() {
            return endpoint.clone();
        }
        let key = (rbac.class(caller), endpoint.path.clone());
        self.sights.0.get_with(key, || {
            let may = |aim: &Aim<'_>| match aim.thing {
                Thing::Server => rbac.sees_server(caller, aim.server),
                _ => rbac.sees(caller, aim),
            };
            Arc::new(self.catalog.narrowed(endpoint, &may, metrics))
        })
    }
}

impl Endpoint {
    /// About how many bytes it takes.
    fn size(&self) -> u32 {
        let of = |v: &View| {
            let entries = v.tools.len() + v.prompts.len() + v.resources.len() + v.templates.len();
            (entries + Kind::ALL.len()) * ENTRY + v.bytes()
        };
        u32::try_from(of(&self.legacy) + of(&self.modern)).unwrap_or(u32::MAX)
    }
}
