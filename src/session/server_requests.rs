//! What servers asked a client and have no answer to yet: only that can be answered, only once, and only where it was
//! asked.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use bytes::Bytes;

use super::Session;
use crate::upstream::call_timer::CallTimer;
use mcp::jsonrpc::message;
use mcp::method::Method;

/// Questions of one seat that may wait for an answer; of more, the oldest is given up.
const MAX_PENDING: usize = 256;
/// Bytes of an id that is kept. A question under a longer one cannot be answered.
pub const MAX_ID: usize = 1024;

/// By the seat in which it was asked.
#[derive(Default)]
pub struct PendingServerRequests(Mutex<HashMap<u64, VecDeque<ServerRequest>>>);

struct ServerRequest {
    /// The server's own id, as written.
    id: Bytes,
    /// What was asked.
    method: Method,
    /// Of the call that it belongs to: it stands still until the answer.
    clock: Weak<CallTimer>,
}

impl Drop for ServerRequest {
    fn drop(&mut self) {
        if let Some(timer) = self.clock.upgrade() {
            timer.resume();
        }
    }
}

impl PendingServerRequests {
    pub fn insert(&self, upstream_session: u64, id: &[u8], method: Method, timer: Option<&Arc<CallTimer>>) {
        if id.len() > MAX_ID {
            return;
        }
        if let Some(timer) = timer {
            timer.pause();
        }
        let timer = timer.map(Arc::downgrade).unwrap_or_default();
        self.add(upstream_session, ServerRequest { id: Bytes::copy_from_slice(id), method, clock: timer });
    }

    fn add(&self, upstream_session: u64, question: ServerRequest) {
        let mut all = self.all();
        let asked = all.entry(upstream_session).or_default();
        // Said again on a stream that was gone on with, it is one question all the same.
        let known = asked.iter().position(|known| message::same_id(&known.id, &question.id));
        let old = match known {
            Some(slot) => Some(std::mem::replace(&mut asked[slot], question)),
            None => {
                asked.push_back(question);
                if asked.len() > MAX_PENDING { asked.pop_front() } else { None }
            }
        };
        drop(all);
        drop(old);
    }

    /// Whether this waited for an answer; from now on it does not.
    pub fn take(&self, upstream_session: u64, id: &[u8]) -> bool {
        self.remove(upstream_session, id).is_some()
    }

    fn remove(&self, upstream_session: u64, id: &[u8]) -> Option<ServerRequest> {
        let mut all = self.all();
        let asked = all.get_mut(&upstream_session)?;
        let slot = asked.iter().position(|known| message::same_id(&known.id, id))?;
        let question = asked.remove(slot);
        if asked.is_empty() {
            all.remove(&upstream_session);
        }
        question
    }

    /// Whether anything of this seat waits for an answer.
    pub fn has_pending(&self, upstream_session: u64) -> bool {
        self.all().contains_key(&upstream_session)
    }

    /// Nobody waits there for an answer any more.
    pub fn remove_session(&self, upstream_session: u64) {
        let questions = self.all().remove(&upstream_session);
        drop(questions);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, VecDeque<ServerRequest>>> {
        self.0.lock().expect("no holder of the lock panics")
    }
}

/// A client's answer on its way to the server that asked. Dropped before it has left, the question waits on.
pub struct ClientAnswer {
    session: Arc<Session>,
    session_id: u64,
    request: Option<ServerRequest>,
}

impl ClientAnswer {
    /// None if nobody waits for this answer.
    pub fn begin(session: &Arc<Session>, upstream_session: u64, id: &[u8]) -> Option<Self> {
        let question = session.server_requests.remove(upstream_session, id)?;
        Some(Self { session: session.clone(), session_id: upstream_session, request: Some(question) })
    }

    /// What it answers.
    pub fn method(&self) -> Option<Method> {
        self.request.as_ref().map(|question| question.method)
    }

    /// It may have reached its server.
    pub fn sent(&mut self) {
        self.request = None;
    }
}

impl Drop for ClientAnswer {
    fn drop(&mut self) {
        if let Some(question) = self.request.take() {
            self.session.server_requests.add(self.session_id, question);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_asked_is_answered_once_and_by_its_own_id() {
        let asked = PendingServerRequests::default();
        asked.insert(1, b"7", Method::Elicit, None);
        asked.insert(1, b"7", Method::Elicit, None);
        asked.insert(2, b"\"a\\/b\"", Method::Elicit, None);
        for (upstream_session, id) in [(2, &b"7"[..]), (1, b"\"7\""), (1, b"8"), (3, b"7")] {
            assert!(!asked.take(upstream_session, id));
        }
        assert!(asked.take(1, b"7") && !asked.take(1, b"7"));
        assert!(asked.take(2, b"\"a/b\""), "the same string in other escapes");
    }

    #[test]
    fn a_server_that_asks_without_end_is_bounded_and_costs_no_other() {
        let asked = PendingServerRequests::default();
        asked.insert(2, b"0", Method::Elicit, None);
        for id in 0..=MAX_PENDING {
            asked.insert(1, id.to_string().as_bytes(), Method::Elicit, None);
        }
        assert!(!asked.take(1, b"0") && asked.take(1, b"1") && asked.take(2, b"0"));
        asked.insert(1, &[b'1'; MAX_ID + 1], Method::Elicit, None);
        assert!(!asked.take(1, &[b'1'; MAX_ID + 1]));
        asked.remove_session(1);
        assert!(!asked.has_pending(1) && !asked.take(1, b"2"));
    }

    #[test]
    fn the_clock_of_a_call_stands_still_until_the_answer() {
        let (asked, timer) = (PendingServerRequests::default(), Arc::new(CallTimer::default()));
        let stands = || timer.remaining(Duration::ZERO).is_none();
        asked.insert(1, b"7", Method::Elicit, Some(&timer));
        asked.insert(1, b"7", Method::Elicit, Some(&timer));
        asked.insert(2, b"7", Method::Elicit, Some(&timer));
        assert!(stands());
        assert!(asked.take(1, b"7") && stands(), "the other one is open");
        asked.remove_session(2);
        assert!(!stands());
    }
}
