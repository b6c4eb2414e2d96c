//! A legacy client subscribes to resources of a modern server. The server knows no session and no single
//! subscription: one `subscriptions/listen` for all resources of the session is held there, and opened anew
//! with each change (2026-07-28, basic/patterns/subscriptions). Its updates go to the client's GET streams.

use std::collections::BTreeSet;
use std::sync::Arc;

use mcp::jsonrpc::message;
use mcp::method::Method;
use mcp::rejection::code;
use mcp::{Reason, Rejection};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{Bridge, BridgedRequest};
use crate::server::Server;
use crate::session::{OutboxItem, Session, StateChange};
use crate::streams::resource_updates::{self, Receiver, ResourceEvent};
use crate::streams::{MessageStream, StreamItem};
use crate::upstream::{UpstreamError, subscriptions};

/// Starts a `resources/subscribe` or `resources/unsubscribe`.
pub(super) fn start(bridge: &Arc<Bridge>, call: BridgedRequest, session: Arc<Session>) -> MessageStream {
    let (out, items) = mpsc::channel(1);
    let (bridge, runtime) = (bridge.clone(), bridge.runtime.clone());
    // On the long-lived runtime: what was begun for the session is also recorded in it.
    runtime.spawn(async move {
        let last = match run(&bridge, &call, &session).await {
            Ok(()) => StreamItem::Final(message::result(&call.id, b"{}")),
            Err(rejection) => StreamItem::Rejected(rejection),
        };
        let _ = out.send(last).await;
    });
    MessageStream { items, stream: false, abort_on_drop: None, final_message: None }
}

async fn run(
    bridge: &Arc<Bridge>,
    call: &BridgedRequest,
    session: &Arc<Session>,
) -> Result<(), Box<Rejection>> {
    let server = &call.server;
    let uri = message::member(&call.params, "uri").and_then(|uri| message::string(uri.of(&call.params)));
    let uri = uri.ok_or_else(|| refused(server, "`params.uri` is no string"))?;
    let listen = session.bridged_listens.at(&server.name);
    let mut listen = listen.lock().await;
    if call.method == Method::Unsubscribe {
        let union = listen.without(&uri);
        session.client_state.apply(&server.name, &StateChange::Unsubscribe(uri));
        match union {
            None => {}
            Some(union) if union.is_empty() => listen.set(union, None),
            Some(union) => {
                // Until the server takes the smaller union, the reader drops what nobody wants any more.
                if let Some((reader, followed)) = open(bridge, server, session, &union).await {
                    listen.set(followed, Some(reader));
                }
            }
        }
        return Ok(());
    }
    let _call_guard = server.begin_call().map_err(|error| Box::new(error.rejection(&server.name)))?;
    let Some(union) = listen.with(&uri) else { return Ok(()) };
    match open(bridge, server, session, &union).await {
        Some((reader, followed)) if followed.contains(&uri) => {
            session.client_state.apply(&server.name, &StateChange::Subscribe(uri));
            listen.set(followed, Some(reader));
            Ok(())
        }
        None if !server.is_up() => {
            Err(Box::new(UpstreamError::Unreachable(String::new()).rejection(&server.name)))
        }
        _ => Err(refused(server, "the server does not follow this resource")),
    }
}

/// Opens a stream for these resources, and returns those that the server has acknowledged. The former stream
/// stays open until then, so that no update is lost in between.
async fn open(
    bridge: &Arc<Bridge>,
    server: &Arc<Server>,
    session: &Arc<Session>,
    union: &BTreeSet<String>,
) -> Option<(AbortOnDropHandle<()>, BTreeSet<String>)> {
    let (out, mut events) = mpsc::channel::<ResourceEvent>(32);
    let uris = union.iter().cloned().collect();
    let registry = bridge.registry.clone();
    let names = registry.clone();
    let begun =
        resource_updates::begin(&bridge.runtime, registry, server.clone(), uris, Receiver::Session, out);
    let (abort_guard, followed) = begun.await?;
    let followed: BTreeSet<String> = followed.into_iter().collect();
    let (ended, weak, server) = (session.end(), Arc::downgrade(session), server.clone());
    let lost = followed.clone();
    let reader = bridge.runtime.spawn(async move {
        let _abort_guard = abort_guard;
        loop {
            let event = tokio::select! {
                () = ended.cancelled() => return,
                event = events.recv() => event,
            };
            let Some(session) = weak.upgrade() else { return };
            let Some(ResourceEvent::Message(message)) = event else {
                // The client cannot learn of it: it may subscribe again at any time.
                for uri in lost {
                    session.client_state.apply(&server.name, &StateChange::Unsubscribe(uri));
                }
                return;
            };
            let wanted = subscriptions::updated(&message)
                .is_some_and(|uri| session.client_state.covers(&server.name, &uri));
            if wanted {
                let outbox = session.outbox.clone();
                drop(session);
                // A reload may have replaced it; what came from a former server is dropped.
                let now = names.snapshot().servers.get(&server.name).cloned();
                let server = Some(now.unwrap_or_else(|| server.clone()));
                outbox.send(OutboxItem { server, message }).await;
            }
        }
    });
    Some((AbortOnDropHandle::new(reader), followed))
}

fn refused(server: &Server, why: &str) -> Box<Rejection> {
    let text = format!("no subscription at the server `{}`: {why}", server.name);
    Box::new(Rejection::new(200, code::INVALID_PARAMS, Reason::SubscriptionRefused, text))
}
