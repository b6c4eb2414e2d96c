//! `subscriptions/listen` of a modern client.

use std::sync::Arc;

use bytes::Bytes;
use mcp::method::Method;
use mcp::{Reason, Rejection};

use super::bridged::modern_client;
use super::rejections::invalid;
use super::{AuthorizedRequest, Dispatch, Dispatcher};
use crate::catalog::Endpoint;
use crate::registry::ListChangeWatcher;
use crate::streams::notifications;

impl Dispatcher {
    /// A stream of notifications; `endpoint` is what the caller sees of the one that it asks.
    pub(super) async fn listen(
        &self,
        authorized: &AuthorizedRequest<'_>,
        endpoint: &Arc<Endpoint>,
    ) -> Result<Dispatch, Box<Rejection>> {
        let (rpc, client_era) = (&authorized.permit.rpc, authorized.permit.client_era);
        let id = rpc.id.expect("a request has an id").of(&authorized.body);
        self.require_era(endpoint, client_era)?;
        if !authorized.events {
            let message = "the answer is a stream, so Accept must list text/event-stream";
            return Err(Box::new(Rejection::http(406, Reason::NotAcceptable, message)));
        }
        let tasks = self.followed_tasks(authorized).await?;
        let filter = self.filter(authorized, endpoint, Method::Listen).await.ok_or_else(|| {
            invalid(
                client_era,
                Reason::FilterMissing,
                "params.notifications must be an object, with at most 1024 resourceSubscriptions",
            )
        })?;
        let legacy = match filter.has_legacy() {
            true => Some(self.bridge.subscribe_legacy(modern_client(authorized)?)),
            false => None,
        };
        let (registry, caller) = (self.registry.clone(), authorized.permit.caller.clone());
        let list_changes = ListChangeWatcher::new(
            registry.clone(),
            authorized.snapshot,
            authorized.endpoint,
            client_era,
            &caller,
        );
        let listening = notifications::Subscription {
            id: Bytes::copy_from_slice(id),
            filter,
            tasks,
            list_changes: list_changes.await,
            caller,
            server_info: Bytes::copy_from_slice(&endpoint.view(client_era).server_info),
            legacy,
        };
        let drain = self.drain.clone();
        Ok(Dispatch::Stream(notifications::subscription_stream(&self.runtime, registry, listening, drain)))
    }
}
