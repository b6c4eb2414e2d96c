//! How seats are left: when nothing runs in them any more, and all of them at the end of the session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;

use super::Session;
use super::upstream_session::{Place, left};
use crate::server::Server;
use crate::upstream::WireId;
use crate::upstream::http::Seat;

/// How often it is looked whether anything still runs in a seat that is to be left.
const LOOK: Duration = Duration::from_millis(100);
/// How long a question that belongs to no call may keep a seat.
const UNANSWERED: Duration = Duration::from_secs(30);

impl Session {
    /// Leaves a place whose server is not configured any more, when nothing runs there.
    pub(super) fn retire(self: &Arc<Self>, place: &Arc<Place>) {
        let server = place.server.load_full();
        {
            let mut places = self.places.lock().expect("no holder of the lock panics");
            if places.get(&server.serial).is_some_and(|known| Arc::ptr_eq(known, place)) {
                places.remove(&server.serial);
            }
        }
        place.stop();
        if let Some(seat) = place.set(None) {
            self.part(server, seat);
        }
    }

    /// Leaves a seat when nothing runs in it and nothing waits for an answer.
    pub(super) fn part(self: &Arc<Self>, server: Arc<Server>, seat: Arc<Seat>) {
        let number = seat.number;
        self.parting.lock().expect("no holder of the lock panics").push((server, seat));
        let session = self.clone();
        self.core.spawn(async move {
            let ended = session.end();
            let since = Instant::now();
            loop {
                // Not at once: a call that was just given the seat may not be noted yet.
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    // Whoever ends the session leaves this seat too, if he knows of it.
                    () = ended.cancelled() => break tokio::time::sleep(LOOK).await,
                }
                // A question that belongs to no call may never be answered.
                let waits = session.asked.waits(number) && since.elapsed() < UNANSWERED;
                if !waits && !session.runs.any(session.clock(), Some(number)) {
                    break;
                }
            }
            let parting = {
                let mut parting = session.parting.lock().expect("no holder of the lock panics");
                let place = parting.iter().position(|(_, seat)| seat.number == number);
                place.map(|place| parting.swap_remove(place))
            };
            session.asked.forget(number);
            if let Some((server, seat)) = parting {
                left(&server, &seat, &[]).await;
            }
        });
    }

    /// Ends what runs and leaves all seats.
    pub(super) async fn leave(&self) {
        self.ended.cancel();
        let runs = self.runs.drain();
        for run in &runs {
            if let Some(stop) = &run.stop {
                stop.cancel();
            }
        }
        let places: Vec<Arc<Place>> = {
            let mut places = self.places.lock().expect("no holder of the lock panics");
            places.drain().map(|(_, place)| place).collect()
        };
        let seated = places.into_iter().map(|place| async move {
            place.stop();
            let _taking = place.taking.lock().await;
            Some((place.server.load_full(), place.set(None)?))
        });
        let mut seats: Vec<_> = join_all(seated).await.into_iter().flatten().collect();
        seats.append(&mut self.parting.lock().expect("no holder of the lock panics"));
        let leaving = seats.iter().map(|(server, seat)| {
            let here = |run: &super::Run| run.seat().is_some_and(|at| at.number == seat.number);
            let sent = |run: &Arc<super::Run>| run.sent().map(|sent| sent.wire);
            let ids: Vec<WireId> = runs.iter().filter(|run| here(run)).filter_map(sent).collect();
            async move { left(server, seat, &ids).await }
        });
        tokio::join!(join_all(leaving), self.leave_shared());
    }
}
