//! The servers of an endpoint that a caller may reach, for messages that name no target that roles can decide
//! on, or many targets at once.

use std::sync::Arc;

use bytes::Bytes;
use filters::rbac::AccessQuery;
use filters::{CallTarget, Caller, TargetKind};

use super::{AuthorizedRequest, Dispatcher};
use crate::catalog::Endpoint;
use crate::registry::{Snapshot, Work};
use crate::server::Server;
use crate::streams::notifications::SubscriptionFilter;
use mcp::method::Method;

/// The servers of an endpoint of which a caller may use anything.
pub struct Reach(Option<Arc<Endpoint>>);

impl Reach {
    pub(super) fn nothing() -> Self {
        Self(Some(Arc::default()))
    }

    pub fn covers(&self, server: &Server) -> bool {
        self.0.as_ref().is_none_or(|seen| seen.members.iter().any(|member| member.name == server.name))
    }
}

impl AuthorizedRequest<'_> {
    pub(super) async fn reach(&self, dispatcher: &Dispatcher) -> Reach {
        dispatcher.reach(self.snapshot, self.endpoint, &self.permit.caller).await
    }
}

impl Dispatcher {
    /// Used for a message that goes to a server as a whole, and so names no target that roles can decide on.
    pub async fn reach(&self, snapshot: &Snapshot, endpoint: &Arc<Endpoint>, caller: &Caller) -> Reach {
        Reach(match snapshot.config.chain.rbac.is_open() {
            true => None,
            false => Some(self.registry.visible_to(snapshot, endpoint, caller).await),
        })
    }

    /// Whether the endpoint exists for the caller: it may use something there. `/mcp` is no secret.
    pub async fn shows(&self, snapshot: &Snapshot, endpoint: &Arc<Endpoint>, caller: &Caller) -> bool {
        Self::shows_all(snapshot, endpoint)
            || !self.registry.visible_to(snapshot, endpoint, caller).await.members.is_empty()
    }

    /// Whether the endpoint exists for every caller.
    pub fn shows_all(snapshot: &Snapshot, endpoint: &Endpoint) -> bool {
        snapshot.config.chain.rbac.is_open() || (endpoint.single.is_none() && endpoint.toolset.is_none())
    }

    /// The only server of the endpoint, if there is only one and the caller may use anything of it.
    pub(super) async fn alone(
        &self,
        authorized: &AuthorizedRequest<'_>,
        fits: impl Fn(&Server) -> bool,
    ) -> Option<Arc<Server>> {
        let only = authorized.endpoint.single.as_ref().filter(|server| fits(server))?;
        authorized.reach(self).await.covers(only).then(|| only.clone())
    }

    /// What a client subscribes to. Each resource is authorized by itself: a visible template may match URIs
    /// that are not.
    pub(super) async fn filter(
        &self,
        authorized: &AuthorizedRequest<'_>,
        seen: &Arc<Endpoint>,
        method: Method,
    ) -> Option<SubscriptionFilter> {
        let wanted =
            authorized.permit.rpc.notifications.map(|span| span.of(&authorized.body)).unwrap_or_default();
        if authorized.snapshot.config.chain.rbac.is_open() {
            return SubscriptionFilter::read(wanted, seen, |_, _| true);
        }
        let (runtime_config, seen, ip) =
            (authorized.snapshot.config.clone(), seen.clone(), authorized.client);
        let wanted = Bytes::copy_from_slice(wanted);
        let work = move |of: &Work| {
            let may = |uri: &str, server: &Server| {
                let target = CallTarget { kind: TargetKind::Resource, name: uri, server: &server.name };
                let query =
                    AccessQuery { method: method.as_str(), target: Some(target), arguments: None, ip };
                runtime_config.chain.rbac.allows_within(&of.caller, &query, of.fuel())
            };
            SubscriptionFilter::read(&wanted, &seen, may)
        };
        self.registry.worker_threads().run(&authorized.permit.caller, || None, work).await.flatten()
    }
}
