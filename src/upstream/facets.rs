//! What some transports have beside calls. An `Upstream` has a method for each, which returns it or `None`.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use mcp::Era;
use tokio::sync::mpsc;

use super::subscriptions::UpdateQueue;
use super::{RpcOutcome, UpstreamError};

/// How a notification stream ended, if it did not break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// It was open.
    Ended,
    /// The server does not have it, and would say the same again.
    Rejected,
}

/// Notifications of list changes.
#[async_trait]
pub trait ListChanges: Send + Sync {
    /// Watches the list change notifications of the server in this era and reports each to `changed`.
    /// `Ok(())` if it sends none; an error when the connection is gone.
    async fn watch_lists(&self, server_era: Era, changed: &mpsc::Sender<()>) -> Result<(), UpstreamError>;
}

/// Resource subscriptions of the modern era: a stream for each.
#[async_trait]
pub trait ResourceUpdates: Send + Sync {
    /// Subscribes to resources; `listen` are the params of a `subscriptions/listen`. Each message goes to `out`
    /// as it came; returns when the server ends the stream.
    async fn subscribe_resources(
        &self,
        listen: Bytes,
        out: mpsc::Sender<Bytes>,
    ) -> Result<WatchEnd, UpstreamError>;
}

/// Resource subscriptions of the legacy era, over a connection that callers share.
#[async_trait]
pub trait SharedSubscriptions: Send + Sync {
    /// Subscribes to a resource for one of the callers.
    async fn subscribe(&self, uri: &str, updates: &Arc<UpdateQueue>) -> Result<RpcOutcome, UpstreamError>;

    /// Unsubscribes that caller from it.
    async fn unsubscribe(&self, uri: &str, updates: &Arc<UpdateQueue>) -> Result<RpcOutcome, UpstreamError>;

    /// Removes all subscriptions of that caller.
    async fn drop_subscriber(&self, updates: &Arc<UpdateQueue>);
}

/// Tasks that run as long as the server is configured.
#[async_trait]
pub trait Background: Send + Sync {
    /// Runs them; need not end.
    async fn run_background(&self);
}

/// Its own health checks.
pub trait Health: Send + Sync {
    /// Whether any of its endpoints is healthy.
    fn is_healthy(&self) -> bool;
}
