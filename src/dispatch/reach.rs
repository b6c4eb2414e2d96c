//! What a caller may reach of an endpoint, where a message names nothing that roles could be asked about, or many things
//! at once.

use std::sync::Arc;

use bytes::Bytes;
use filters::rbac::Query;
use filters::{Aim, Caller, Thing};

use super::{Door, Led};
use crate::catalog::Endpoint;
use crate::registry::{House, Work};
use crate::server::Server;
use crate::streams::notifications::Filter;
use mcp::method::Method;

/// Of which servers of an endpoint a caller may use anything.
pub struct Reach(Option<Arc<Endpoint>>);

impl Reach {
    pub(super) fn nothing() -> Self {
        Self(Some(Arc::default()))
    }

    pub fn covers(&self, server: &Server) -> bool {
        self.0.as_ref().is_none_or(|seen| seen.members.iter().any(|member| member.name == server.name))
    }
}

impl Led<'_> {
    pub(super) async fn reach(&self, door: &Door) -> Reach {
        door.reach(self.house, self.endpoint, &self.permit.caller).await
    }
}

impl Door {
    /// Asked where a message goes to a server as a whole, and so names nothing that roles could be asked about.
    pub async fn reach(&self, house: &House, endpoint: &Arc<Endpoint>, caller: &Caller) -> Reach {
        Reach(match house.plan.chain.rbac.is_open() {
            true => None,
            false => Some(self.registry.sight(house, endpoint, caller).await),
        })
    }

    /// Whether the caller is told that there is this endpoint: it may use something there. `/mcp` is no secret.
    pub async fn shows(&self, house: &House, endpoint: &Arc<Endpoint>, caller: &Caller) -> bool {
        Self::shows_all(house, endpoint)
            || !self.registry.sight(house, endpoint, caller).await.members.is_empty()
    }

    /// Whether every caller is told that there is this endpoint.
    pub fn shows_all(house: &House, endpoint: &Endpoint) -> bool {
        house.plan.chain.rbac.is_open() || (endpoint.only.is_none() && endpoint.toolset.is_none())
    }

    /// The only server of the endpoint, if it is such a one and the caller may use anything of it.
    pub(super) async fn alone(&self, led: &Led<'_>, fits: impl Fn(&Server) -> bool) -> Option<Arc<Server>> {
        let only = led.endpoint.only.as_ref().filter(|server| fits(server))?;
        led.reach(self).await.covers(only).then(|| only.clone())
    }

    /// What a client wants to hear of. Each resource is judged by itself: a template that shows may cover addresses that
    /// do not.
    pub(super) async fn filter(&self, led: &Led<'_>, seen: &Arc<Endpoint>, method: Method) -> Option<Filter> {
        let wanted = led.permit.rpc.notifications.map(|span| span.of(&led.body)).unwrap_or_default();
        if led.house.plan.chain.rbac.is_open() {
            return Filter::read(wanted, seen, |_, _| true);
        }
        let (plan, seen, ip) = (led.house.plan.clone(), seen.clone(), led.client);
        let wanted = Bytes::copy_from_slice(wanted);
        let work = move |of: &Work| {
            let may = |uri: &str, server: &Server| {
                let aim = Aim { thing: Thing::Resource, name: uri, server: &server.name };
                let query = Query { method: method.word(), aim: Some(aim), arguments: None, ip };
                plan.chain.rbac.allows_within(&of.caller, &query, of.fuel())
            };
            Filter::read(&wanted, &seen, may)
        };
        self.registry.apart().run(&led.permit.caller, || None, work).await.flatten()
    }
}
