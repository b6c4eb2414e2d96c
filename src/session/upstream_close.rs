//! Closes upstream sessions: one when nothing is in flight there any more, and all of them at the end of the
//! session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;

use super::Session;
use super::upstream_session::{UpstreamSlot, close_session};
use crate::server::Server;
use crate::upstream::WireId;
use crate::upstream::http::UpstreamSession;

/// Interval of the check whether a request is still in flight in a draining upstream session.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long a server request that belongs to no call may keep an upstream session.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

impl Session {
    /// Removes a slot whose server is no longer configured; its upstream session is drained.
    pub(super) fn remove(self: &Arc<Self>, slot: &Arc<UpstreamSlot>) {
        let server = slot.server.load_full();
        {
            let mut slots = self.upstream_slots.lock().expect("no holder of the lock panics");
            if slots.get(&server.serial).is_some_and(|known| Arc::ptr_eq(known, slot)) {
                slots.remove(&server.serial);
            }
        }
        slot.stop();
        if let Some(upstream_session) = slot.set(None) {
            self.drain(server, upstream_session);
        }
    }

    /// Closes an upstream session when no request is in flight or pending there.
    pub(super) fn drain(self: &Arc<Self>, server: Arc<Server>, upstream_session: Arc<UpstreamSession>) {
        let number = upstream_session.id;
        self.draining.lock().expect("no holder of the lock panics").push((server, upstream_session));
        let session = self.clone();
        self.runtime.spawn(async move {
            let ended = session.end();
            let started = Instant::now();
            loop {
                // Not at once: a call that just got the upstream session may not be recorded yet.
                tokio::select! {
                    () = tokio::time::sleep(POLL_INTERVAL) => {}
                    // The end of the session closes this one too, if it is known there.
                    () = ended.cancelled() => break tokio::time::sleep(POLL_INTERVAL).await,
                }
                // A server request that belongs to no call may never be answered.
                let is_pending =
                    session.server_requests.has_pending(number) && started.elapsed() < DRAIN_TIMEOUT;
                if !is_pending && !session.in_flight.any(session.clock(), Some(number)) {
                    break;
                }
            }
            let draining = {
                let mut draining = session.draining.lock().expect("no holder of the lock panics");
                let slot = draining.iter().position(|(_, upstream_session)| upstream_session.id == number);
                slot.map(|slot| draining.swap_remove(slot))
            };
            session.server_requests.remove_session(number);
            if let Some((server, upstream_session)) = draining {
                close_session(&server, &upstream_session, &[]).await;
            }
        });
    }

    /// Cancels what is in flight and closes all upstream sessions.
    pub(super) async fn close_upstreams(&self) {
        // Before those that wait for them notice the end and drop them.
        let in_flight_requests = self.in_flight.drain();
        self.ended.cancel();
        for in_flight in &in_flight_requests {
            if let Some(stop) = &in_flight.stop {
                stop.cancel();
            }
        }
        let slots: Vec<Arc<UpstreamSlot>> = {
            let mut slots = self.upstream_slots.lock().expect("no holder of the lock panics");
            slots.drain().map(|(_, slot)| slot).collect()
        };
        let closing = slots.into_iter().map(|slot| async move {
            slot.stop();
            let _taking = slot.connecting.lock().await;
            Some((slot.server.load_full(), slot.set(None)?))
        });
        let mut upstream_sessions: Vec<_> = join_all(closing).await.into_iter().flatten().collect();
        upstream_sessions.append(&mut self.draining.lock().expect("no holder of the lock panics"));
        let closings = upstream_sessions.iter().map(|(server, upstream_session)| {
            let here = |in_flight: &super::InFlightRequest| {
                in_flight.upstream_session().is_some_and(|at| at.id == upstream_session.id)
            };
            let sent = |in_flight: &Arc<super::InFlightRequest>| in_flight.sent().map(|sent| sent.wire);
            let ids: Vec<WireId> =
                in_flight_requests.iter().filter(|in_flight| here(in_flight)).filter_map(sent).collect();
            async move { close_session(server, upstream_session, &ids).await }
        });
        tokio::join!(join_all(closings), self.unsubscribe_shared());
    }
}
