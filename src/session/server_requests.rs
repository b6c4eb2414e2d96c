//! What servers asked a client and have no answer to yet: only that can be answered, only once, and only where it was
//! asked.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use bytes::Bytes;

use super::Session;
use crate::upstream::call_timer::Clock;
use mcp::jsonrpc::message;
use mcp::method::Method;

/// Questions of one seat that may wait for an answer; of more, the oldest is given up.
const MOST: usize = 256;
/// Bytes of an id that is kept. A question under a longer one cannot be answered.
pub const LONGEST: usize = 1024;

/// By the seat in which it was asked.
#[derive(Default)]
pub struct Asked(Mutex<HashMap<u64, VecDeque<Question>>>);

struct Question {
    /// The server's own id, as written.
    id: Bytes,
    /// What was asked.
    method: Method,
    /// Of the call that it belongs to: it stands still until the answer.
    clock: Weak<Clock>,
}

impl Drop for Question {
    fn drop(&mut self) {
        if let Some(clock) = self.clock.upgrade() {
            clock.release();
        }
    }
}

impl Asked {
    pub fn note(&self, seat: u64, id: &[u8], method: Method, clock: Option<&Arc<Clock>>) {
        if id.len() > LONGEST {
            return;
        }
        if let Some(clock) = clock {
            clock.hold();
        }
        let clock = clock.map(Arc::downgrade).unwrap_or_default();
        self.add(seat, Question { id: Bytes::copy_from_slice(id), method, clock });
    }

    fn add(&self, seat: u64, question: Question) {
        let mut all = self.all();
        let asked = all.entry(seat).or_default();
        // Said again on a stream that was gone on with, it is one question all the same.
        let known = asked.iter().position(|known| message::same_id(&known.id, &question.id));
        let old = match known {
            Some(place) => Some(std::mem::replace(&mut asked[place], question)),
            None => {
                asked.push_back(question);
                if asked.len() > MOST { asked.pop_front() } else { None }
            }
        };
        drop(all);
        drop(old);
    }

    /// Whether this waited for an answer; from now on it does not.
    pub fn take(&self, seat: u64, id: &[u8]) -> bool {
        self.out(seat, id).is_some()
    }

    fn out(&self, seat: u64, id: &[u8]) -> Option<Question> {
        let mut all = self.all();
        let asked = all.get_mut(&seat)?;
        let place = asked.iter().position(|known| message::same_id(&known.id, id))?;
        let question = asked.remove(place);
        if asked.is_empty() {
            all.remove(&seat);
        }
        question
    }

    /// Whether anything of this seat waits for an answer.
    pub fn waits(&self, seat: u64) -> bool {
        self.all().contains_key(&seat)
    }

    /// Nobody waits there for an answer any more.
    pub fn forget(&self, seat: u64) {
        let questions = self.all().remove(&seat);
        drop(questions);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, VecDeque<Question>>> {
        self.0.lock().expect("no holder of the lock panics")
    }
}

/// A client's answer on its way to the server that asked. Dropped before it has left, the question waits on.
pub struct Answering {
    session: Arc<Session>,
    seat: u64,
    question: Option<Question>,
}

impl Answering {
    /// None if nobody waits for this answer.
    pub fn begin(session: &Arc<Session>, seat: u64, id: &[u8]) -> Option<Self> {
        let question = session.asked.out(seat, id)?;
        Some(Self { session: session.clone(), seat, question: Some(question) })
    }

    /// What it answers.
    pub fn method(&self) -> Option<Method> {
        self.question.as_ref().map(|question| question.method)
    }

    /// It may have reached its server.
    pub fn left(&mut self) {
        self.question = None;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(question) = self.question.take() {
            self.session.asked.add(self.seat, question);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_asked_is_answered_once_and_by_its_own_id() {
        let asked = Asked::default();
        asked.note(1, b"7", Method::Elicit, None);
        asked.note(1, b"7", Method::Elicit, None);
        asked.note(2, b"\"a\\/b\"", Method::Elicit, None);
        for (seat, id) in [(2, &b"7"[..]), (1, b"\"7\""), (1, b"8"), (3, b"7")] {
            assert!(!asked.take(seat, id));
        }
        assert!(asked.take(1, b"7") && !asked.take(1, b"7"));
        assert!(asked.take(2, b"\"a/b\""), "the same string in other escapes");
    }

    #[test]
    fn a_server_that_asks_without_end_is_bounded_and_costs_no_other() {
        let asked = Asked::default();
        asked.note(2, b"0", Method::Elicit, None);
        for id in 0..=MOST {
            asked.note(1, id.to_string().as_bytes(), Method::Elicit, None);
        }
        assert!(!asked.take(1, b"0") && asked.take(1, b"1") && asked.take(2, b"0"));
        asked.note(1, &[b'1'; LONGEST + 1], Method::Elicit, None);
        assert!(!asked.take(1, &[b'1'; LONGEST + 1]));
        asked.forget(1);
        assert!(!asked.waits(1) && !asked.take(1, b"2"));
    }

    #[test]
    fn the_clock_of_a_call_stands_still_until_the_answer() {
        let (asked, clock) = (Asked::default(), Arc::new(Clock::default()));
        let stands = || clock.left(Duration::ZERO).is_none();
        asked.note(1, b"7", Method::Elicit, Some(&clock));
        asked.note(1, b"7", Method::Elicit, Some(&clock));
        asked.note(2, b"7", Method::Elicit, Some(&clock));
        assert!(stands());
        assert!(asked.take(1, b"7") && stands(), "the other one is open");
        asked.forget(2);
        assert!(!stands());
    }
}
