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

/// Values that wait.
pub struct Parking<T> {
    all: DashMap<ParkingId, Spot<T>, ahash::RandomState>,
    /// How many there may be.
    limit: usize,
    count: AtomicUsize,
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
        Self { all: DashMap::default(), limit, count: AtomicUsize::new(0), changed: Notify::new() }
    }

    /// Parks a value for its owner, for this long.
    pub fn park(&self, owner: Digest, value: T, time: Duration) -> Result<ParkingId, ParkingFull> {
        if self.count.load(Ordering::Relaxed) >= self.limit {
            self.sweep();
            if self.count.load(Ordering::Relaxed) >= self.limit {
                return Err(ParkingFull(self.limit));
            }
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
    /// over.
    pub fn keep(&self, id: &ParkingId, result: Bytes) {
        if let Some(mut spot) = self.all.get_mut(id)
            && let State::Taken(by) = spot.state
        {
            spot.state = State::Done(by, result);
            self.changed.notify_waiters();
        }
    }

    /// Removes a value, whoever may want it.
    pub fn remove(&self, id: &ParkingId) {
        if self.all.remove(id).is_some() {
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
        let mut gone = 0;
        self.all.retain(|_, spot| {
            let is_kept = spot.until > now;
            gone += usize::from(!is_kept);
            is_kept
        });
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
