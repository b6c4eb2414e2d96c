//! Pending requests of servers to a client. Only a pending request can be answered, only once, and only in
//! the upstream session it came from.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use bytes::Bytes;

use super::Session;
use crate::upstream::call_timer::CallTimer;
use mcp::jsonrpc::message;
use mcp::method::Method;

/// Pending requests of one upstream session; beyond that, the oldest is dropped.
const MAX_PENDING: usize = 256;
/// Bytes of an id that is kept. A request under a longer one cannot be answered.
pub const MAX_ID: usize = 1024;

/// By the upstream session in which it was sent.
#[derive(Default)]
pub struct PendingServerRequests(Mutex<HashMap<u64, VecDeque<ServerRequest>>>);

struct ServerRequest {
    /// The server's own id, as written.
    id: Bytes,
    /// The method of the request.
    method: Method,
    /// The timer of the call that it belongs to: paused until the response.
    timer: Weak<CallTimer>,
}

impl Drop for ServerRequest {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.upgrade() {
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
        self.add(upstream_session, ServerRequest { id: Bytes::copy_from_slice(id), method, timer });
    }

    fn add(&self, upstream_session: u64, request: ServerRequest) {
        let mut all = self.all();
        let asked = all.entry(upstream_session).or_default();
        // Sent again on a resumed stream, it is still one request.
        let known = asked.iter().position(|known| message::same_id(&known.id, &request.id));
        let old = match known {
            Some(slot) => Some(std::mem::replace(&mut asked[slot], request)),
            None => {
                asked.push_back(request);
                if asked.len() > MAX_PENDING { asked.pop_front() } else { None }
            }
        };
        drop(all);
        drop(old);
    }

    /// Takes a pending request; returns whether there was one.
    pub fn take(&self, upstream_session: u64, id: &[u8]) -> bool {
        self.remove(upstream_session, id).is_some()
    }

    fn remove(&self, upstream_session: u64, id: &[u8]) -> Option<ServerRequest> {
        let mut all = self.all();
        let asked = all.get_mut(&upstream_session)?;
        let slot = asked.iter().position(|known| message::same_id(&known.id, id))?;
        let request = asked.remove(slot);
        if asked.is_empty() {
            all.remove(&upstream_session);
        }
        request
    }

    /// Whether this upstream session has pending requests.
    pub fn has_pending(&self, upstream_session: u64) -> bool {
        self.all().contains_key(&upstream_session)
    }

    /// Drops all pending requests of an upstream session.
    pub fn remove_session(&self, upstream_session: u64) {
        let questions = self.all().remove(&upstream_session);
        drop(questions);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, VecDeque<ServerRequest>>> {
        self.0.lock().expect("no holder of the lock panics")
    }
}

/// A client's response on its way to the server that sent the request. If it is dropped before it was sent,
/// the request stays pending.
pub struct ClientAnswer {
    session: Arc<Session>,
    session_id: u64,
    request: Option<ServerRequest>,
}

impl ClientAnswer {
    /// `None` if no request of this id is pending.
    pub fn begin(session: &Arc<Session>, upstream_session: u64, id: &[u8]) -> Option<Self> {
        let request = session.server_requests.remove(upstream_session, id)?;
        Some(Self { session: session.clone(), session_id: upstream_session, request: Some(request) })
    }

    /// The method of the request that it answers.
    pub fn method(&self) -> Option<Method> {
        self.request.as_ref().map(|request| request.method)
    }

    /// It may have reached its server.
    pub fn sent(&mut self) {
        self.request = None;
    }
}

impl Drop for ClientAnswer {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            self.session.server_requests.add(self.session_id, request);
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
    fn the_timer_of_a_call_is_paused_until_the_answer() {
        let (asked, timer) = (PendingServerRequests::default(), Arc::new(CallTimer::default()));
        let is_paused = || timer.remaining(Duration::ZERO).is_none();
        asked.insert(1, b"7", Method::Elicit, Some(&timer));
        asked.insert(1, b"7", Method::Elicit, Some(&timer));
        asked.insert(2, b"7", Method::Elicit, Some(&timer));
        assert!(is_paused());
        assert!(asked.take(1, b"7") && is_paused(), "the other one is open");
        asked.remove_session(2);
        assert!(!is_paused());
    }
}
