//! What waits for a person: parked by its owner, taken exactly once, gone after its time.
//!
//! A repeat of the same message gets what the first one got, as long as that is kept. Everybody else, and
//! whoever says something else the second time, gets nothing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dashmap::{DashMap, Entry};
use tokio::sync::Notify;

/// The name of a parked value: 128 random bits.
pub type ParkingId = [u8; 16];

/// A SHA-256, of an owner or of a message.
pub type Digest = [u8; 32];

/// The longest result that is kept for repeats, and the bytes of all together.
const MAX_KEPT: usize = 64 * 1024;
const MAX_ALL_KEPT: usize = 64 * 1024 * 1024;

/// Values that wait. One owner has a tenth of the places.
pub struct Parking<T> {
    all: DashMap<ParkingId, Spot<T>, ahash::RandomState>,
    /// How many there may be.
    limit: usize,
    count: AtomicUsize,
    /// Bytes of the results that are kept.
    kept: AtomicUsize,
    changed: Notify,
}

struct Spot<T> {
    owner: Digest,
    until: Instant,
    state: State<T>,
}

enum State<T> {
    Waiting(T),
    /// Taken by this message, whose result is not known yet.
    Taken(Digest),
    /// Taken by this message, with its result.
    Done(Digest, Bytes),
}

impl<T> Spot<T> {
    /// Bytes of its result.
    fn kept(&self) -> usize {
        match &self.state {
            State::Done(_, result) => result.len(),
            State::Waiting(_) | State::Taken(_) => 0,
        }
    }
}

/// What [`Parking::take`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken<T> {
    Value(T),
    /// The same message was here before and is still worked on.
    InProgress,
    /// The result that the same message had.
    Done(Bytes),
    /// Nothing for this owner and message.
    Nothing,
}

/// There is no room.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} calls wait for an answer already")]
pub struct ParkingFull(pub usize);

impl<T> Parking<T> {
    pub fn new(limit: usize) -> Self {
        Self {
            all: DashMap::default(),
            limit,
            count: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            changed: Notify::new(),
        }
    }

    /// Parks a value for its owner, for this long.
    pub fn park(&self, owner: Digest, value: T, time: Duration) -> Result<ParkingId, ParkingFull> {
        if self.count.load(Ordering::Relaxed) >= self.limit {
            self.sweep();
            if self.count.load(Ordering::Relaxed) >= self.limit {
                return Err(ParkingFull(self.limit));
            }
        }
        // Counted only where one owner could have so many.
        let share = (self.limit / 10).max(1);
        if self.count.load(Ordering::Relaxed) >= share
            && self.all.iter().filter(|spot| spot.owner == owner).count() >= share
        {
            return Err(ParkingFull(share));
        }
        let mut id = ParkingId::default();
        getrandom::fill(&mut id).expect("the system gives random bytes");
        self.all.insert(id, Spot { owner, until: Instant::now() + time, state: State::Waiting(value) });
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(id)
    }

    /// Takes a value, for a message of this digest.
    pub fn take(&self, id: &ParkingId, owner: &Digest, message: Digest) -> Taken<T> {
        let Entry::Occupied(mut entry) = self.all.entry(*id) else { return Taken::Nothing };
        let spot = entry.get_mut();
        if spot.owner != *owner || spot.until <= Instant::now() {
            return Taken::Nothing;
        }
        match &spot.state {
            State::Waiting(_) => {}
            State::Taken(by) if *by == message => return Taken::InProgress,
            State::Done(by, result) if *by == message => return Taken::Done(result.clone()),
            State::Taken(_) | State::Done(..) => return Taken::Nothing,
        }
        match std::mem::replace(&mut spot.state, State::Taken(message)) {
            State::Waiting(value) => Taken::Value(value),
            State::Taken(_) | State::Done(..) => Taken::Nothing,
        }
    }

    /// Keeps the result of the message that took the value, for its repeats, until the time of the value is
    /// over. A long result is not kept: its repeats find nothing.
    pub fn keep(&self, id: &ParkingId, result: Bytes) {
        if result.len() > MAX_KEPT || self.kept.load(Ordering::Relaxed) + result.len() > MAX_ALL_KEPT {
            return self.remove(id);
        }
        if let Some(mut spot) = self.all.get_mut(id)
            && let State::Taken(by) = spot.state
        {
            self.kept.fetch_add(result.len(), Ordering::Relaxed);
            // A copy: a slice would keep the whole response.
            spot.state = State::Done(by, Bytes::copy_from_slice(&result));
            self.changed.notify_waiters();
        }
    }

    /// Removes a value, whoever may want it.
    pub fn remove(&self, id: &ParkingId) {
        if let Some((_, spot)) = self.all.remove(id) {
            self.kept.fetch_sub(spot.kept(), Ordering::Relaxed);
            self.count.fetch_sub(1, Ordering::Relaxed);
            self.changed.notify_waiters();
        }
    }

    /// Resolves when any result was kept, or any value removed, after this call.
    pub fn changed(&self) -> impl Future<Output = ()> {
        self.changed.notified()
    }

    /// Removes what is past its time.
    pub fn sweep(&self) {
        let now = Instant::now();
        let (mut gone, mut bytes) = (0, 0);
        self.all.retain(|_, spot| {
            let is_past = spot.until <= now;
            if is_past {
                gone += 1;
                bytes += spot.kept();
            }
            !is_past
        });
        self.kept.fetch_sub(bytes, Ordering::Relaxed);
        self.count.fetch_sub(gone, Ordering::Relaxed);
    }

    /// How many there are, past their time or not.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);
    const OWNER: Digest = [1; 32];
    const SAID: Digest = [7; 32];

    #[test]
    fn a_value_is_taken_once_and_by_its_owner() {
        let parking = Parking::new(8);
        let id = parking.park(OWNER, "value", LONG).expect("room");
        assert_eq!(parking.take(&[0; 16], &OWNER, SAID), Taken::Nothing);
        assert_eq!(parking.take(&id, &[2; 32], SAID), Taken::Nothing, "another owner");
        assert_eq!(parking.take(&id, &OWNER, SAID), Taken::Value("value"));
        assert_eq!(parking.take(&id, &OWNER, SAID), Taken::InProgress);
        assert_eq!(parking.take(&id, &OWNER, [8; 32]), Taken::Nothing, "another answer");
        parking.keep(&id, Bytes::from_static(b"result"));
        assert_eq!(parking.take(&id, &OWNER, SAID), Taken::Done(Bytes::from_static(b"result")));
        assert_eq!(parking.take(&id, &OWNER, [8; 32]), Taken::Nothing);
        parking.remove(&id);
        assert_eq!(parking.take(&id, &OWNER, SAID), Taken::Nothing);
        assert!(parking.is_empty());
    }

    #[test]
    fn what_is_past_its_time_is_gone_and_makes_room() {
        let parking = Parking::new(1);
        let id = parking.park(OWNER, 1, Duration::ZERO).expect("room");
        assert_eq!(parking.take(&id, &OWNER, SAID), Taken::Nothing);
        parking.park(OWNER, 2, LONG).expect("the one before is past its time");
        assert_eq!(parking.park(OWNER, 3, LONG), Err(ParkingFull(1)));
        assert_eq!(parking.len(), 1);
    }

    #[test]
    fn one_owner_leaves_room_for_others() {
        let parking = Parking::new(20);
        for value in 0..2 {
            parking.park(OWNER, value, LONG).expect("room");
        }
        assert_eq!(parking.park(OWNER, 3, LONG), Err(ParkingFull(2)));
        parking.park([2; 32], 4, LONG).expect("room for another");
    }

    #[test]
    fn long_results_are_not_kept() {
        let parking = Parking::new(8);
        for (length, kept) in [(MAX_KEPT, true), (MAX_KEPT + 1, false)] {
            let id = parking.park(OWNER, (), LONG).expect("room");
            assert_eq!(parking.take(&id, &OWNER, SAID), Taken::Value(()));
            parking.keep(&id, vec![b'x'; length].into());
            assert_eq!(matches!(parking.take(&id, &OWNER, SAID), Taken::Done(_)), kept);
            parking.remove(&id);
            assert_eq!(parking.kept.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn of_many_who_come_at_once_one_takes_it() {
        let parking = Parking::new(8);
        let id = parking.park(OWNER, (), LONG).expect("room");
        let takers: usize = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| usize::from(parking.take(&id, &OWNER, SAID) == Taken::Value(()))))
                .collect();
            all.into_iter().map(|one| one.join().expect("it ends")).sum()
        });
        assert_eq!(takers, 1);
    }
}
