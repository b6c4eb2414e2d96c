//! Clients over HTTP+SSE, the transport of 2024-11-05. A client is its event stream: it is there from the GET on,
//! has a session once `initialize` has come, and ends with the stream. All that it gets comes on this stream, so
//! that a response waits in the outbox of its session like a message of a server.
//!
//! Its id is 128 random bits. It belongs to the caller and the endpoint of the GET; for another caller or on
//! another path it does not exist.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use dashmap::{DashMap, Entry};
use filters::Caller;
use mcp::jsonrpc::message;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::session_limits::{OwnerKey, SessionLimits, TooManySessions};
use super::{Outbox, OutboxItem, Session, SessionManager};

/// Requests of one client that may be in flight. Their POSTs are answered before they are done, so that the limits
/// of connections do not bound them.
const MAX_CALLS: usize = 64;
/// When a caller with too many streams may come again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// All clients over HTTP+SSE of this process.
pub struct SseClients {
    open: DashMap<String, Arc<SseClient>>,
    /// How many streams each owner has.
    by_owner: DashMap<OwnerKey, usize>,
    sessions: Arc<SessionManager>,
}

pub struct SseClient {
    pub id: String,
    /// The path of the endpoint.
    pub path: Arc<str>,
    owner_key: OwnerKey,
    outbox: Arc<Outbox>,
    state: Mutex<SseState>,
    calls: Mutex<Vec<Arc<SseCall>>>,
    /// Notified when no request is in flight any more.
    idle: Notify,
}

enum SseState {
    New,
    Open(Arc<Session>),
    Ended,
}

/// A request that is in flight.
pub struct SseCall {
    id: Bytes,
    /// Its sender has cancelled it: it gets no response.
    cancelled: CancellationToken,
    /// Its server was notified of that.
    stopped: CancellationToken,
}

impl SseClients {
    pub fn new(sessions: Arc<SessionManager>) -> Arc<Self> {
        Arc::new(Self { open: DashMap::new(), by_owner: DashMap::new(), sessions })
    }

    /// A new client, until the returned guard is dropped. Streams have the limits of sessions.
    pub fn open(
        self: &Arc<Self>,
        owner_key: OwnerKey,
        path: &Arc<str>,
        limits: SessionLimits,
    ) -> Result<SseStreamGuard, TooManySessions> {
        if self.open.len() >= limits.total {
            return Err(TooManySessions::Total(limits.total));
        }
        {
            let mut held = self.by_owner.entry(owner_key.clone()).or_default();
            if *held >= limits.per_caller {
                return Err(TooManySessions::PerCaller { most: limits.per_caller, wait: RETRY_AFTER });
            }
            *held += 1;
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random).expect("the system gives random bytes");
        let client = Arc::new(SseClient {
            id: format!("{:032x}", u128::from_be_bytes(random)),
            path: path.clone(),
            owner_key,
            outbox: Arc::default(),
            state: Mutex::new(SseState::New),
            calls: Mutex::default(),
            idle: Notify::new(),
        });
        self.open.insert(client.id.clone(), client.clone());
        Ok(SseStreamGuard { clients: self.clone(), client })
    }

    /// The client of this id, if it belongs to this caller and this path.
    pub fn get(&self, id: &str, path: &str, caller: &Caller) -> Option<Arc<SseClient>> {
        let is_theirs =
            |client: &SseClient| &*client.path == path && client.owner_key.owner().same_principal(caller);
        Some(self.open.get(id).filter(|client| is_theirs(client))?.clone())
    }

    fn end(&self, client: &SseClient) {
        self.open.remove(&client.id);
        if let Entry::Occupied(mut held) = self.by_owner.entry(client.owner_key.clone()) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
        let before = std::mem::replace(&mut *client.state(), SseState::Ended);
        client.outbox.close_streams();
        if let SseState::Open(session) = before {
            self.sessions.end(&session);
        }
    }
}

/// The event stream of a client: its end is the end of the client.
pub struct SseStreamGuard {
    clients: Arc<SseClients>,
    client: Arc<SseClient>,
}

impl SseStreamGuard {
    pub fn client(&self) -> &Arc<SseClient> {
        &self.client
    }
}

impl Drop for SseStreamGuard {
    fn drop(&mut self) {
        self.clients.end(&self.client);
    }
}

impl SseClient {
    /// Where all messages for the client wait; that of its session too.
    pub fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// The session, once the client has sent `initialize`.
    pub fn session(&self) -> Option<Arc<Session>> {
        let state = self.state();
        let SseState::Open(session) = &*state else { return None };
        session.touch();
        Some(session.clone())
    }

    /// The client has opened this session. A second `initialize` replaces the first; a client that has left
    /// meanwhile gets none.
    pub fn adopt(&self, sessions: &SessionManager, session: &Arc<Session>) {
        let mut state = self.state();
        let ended = match &*state {
            SseState::Ended => Some(session.clone()),
            SseState::New | SseState::Open(_) => {
                match std::mem::replace(&mut *state, SseState::Open(session.clone())) {
                    SseState::Open(before) => Some(before),
                    SseState::New | SseState::Ended => None,
                }
            }
        };
        drop(state);
        if let Some(ended) = ended {
            sessions.end(&ended);
        }
    }

    /// Queues a message of the gateway, or one that it has judged, as soon as there is space. It is lost if the
    /// client leaves.
    pub async fn send(&self, message: Bytes) {
        self.outbox.send(OutboxItem { server: None, message }).await;
    }

    /// Counts a request; `None` if there are too many.
    pub fn begin_call(self: &Arc<Self>, id: Bytes) -> Option<SseCallGuard> {
        let mut calls = self.calls();
        if calls.len() >= MAX_CALLS {
            return None;
        }
        let (cancelled, stopped) = Default::default();
        let call = Arc::new(SseCall { id, cancelled, stopped });
        calls.push(call.clone());
        Some(SseCallGuard { client: self.clone(), call })
    }

    /// The request of this id, if it is in flight.
    pub fn call(&self, id: &[u8]) -> Option<Arc<SseCall>> {
        self.calls().iter().find(|call| message::same_id(&call.id, id)).cloned()
    }

    /// Waits until no request is in flight.
    pub async fn idle(&self) {
        loop {
            // Created before the check, so that no later notification is missed.
            let idle = self.idle.notified();
            if self.calls().is_empty() {
                return;
            }
            idle.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, SseState> {
        self.state.lock().expect("no holder of the lock panics")
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Arc<SseCall>>> {
        self.calls.lock().expect("no holder of the lock panics")
    }
}

impl SseCall {
    /// Its sender waits no longer.
    pub fn cancel(&self) {
        self.cancelled.cancel();
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// Its server knows that too, as far as it has to.
    pub fn stop(&self) {
        self.stopped.cancel();
    }

    pub async fn stopped(&self) {
        self.stopped.cancelled().await;
    }
}

/// A request in flight, until it is dropped.
pub struct SseCallGuard {
    client: Arc<SseClient>,
    call: Arc<SseCall>,
}

impl SseCallGuard {
    pub fn call(&self) -> &SseCall {
        &self.call
    }
}

impl Drop for SseCallGuard {
    fn drop(&mut self) {
        let mut calls = self.client.calls();
        calls.retain(|call| !Arc::ptr_eq(call, &self.call));
        if calls.is_empty() {
            self.client.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use filters::request::{AuthMethod, Identity};
    use tokio::runtime::Handle;

    use super::*;
    use crate::telemetry::Metrics;

    const LIMITS: SessionLimits = SessionLimits { total: 3, per_caller: 2 };

    fn caller(user: &str) -> Caller {
        let identity = Identity { user: user.into(), auth_method: AuthMethod::ApiKey, ..Identity::default() };
        Caller::new(identity)
    }

    fn clients() -> Arc<SseClients> {
        SseClients::new(SessionManager::new(Metrics::new(), Handle::current()))
    }

    fn opened(clients: &Arc<SseClients>, user: &str) -> Result<SseStreamGuard, TooManySessions> {
        clients.open(OwnerKey::new(caller(user), None), &Arc::from("/mcp"), LIMITS)
    }

    fn session(clients: &SseClients, client: &SseClient) -> Arc<Session> {
        let none = Bytes::from_static(b"{}");
        let owner_key = client.owner_key.clone();
        let opened = clients.sessions.open(owner_key, &client.path, "2024-11-05", none.clone(), none, LIMITS);
        opened.expect("a session")
    }

    #[tokio::test]
    async fn a_client_exists_for_its_caller_on_its_path_until_its_stream_ends() {
        let clients = clients();
        let (ann, bob) =
            (opened(&clients, "ann").expect("a place"), opened(&clients, "bob").expect("a place"));
        let id = ann.client().id.clone();
        assert!(id.len() == 32 && id != bob.client().id, "{id}");
        assert!(clients.get(&id, "/mcp", &caller("ann")).is_some());
        for (id, path, user) in [
            (&id[..], "/mcp", "bob"),
            (&id, "/servers/a/mcp", "ann"),
            (&id[1..], "/mcp", "ann"),
            ("", "/mcp", "ann"),
        ] {
            assert!(clients.get(id, path, &caller(user)).is_none(), "{id} {path} {user}");
        }
        let session = session(&clients, ann.client());
        ann.client().adopt(&clients.sessions, &session);
        let client = ann.client().clone();
        drop(ann);
        assert!(clients.get(&id, "/mcp", &caller("ann")).is_none());
        session.end().cancelled().await;
        assert!(client.session().is_none());
        assert_eq!(clients.sessions.count(), 0);
    }

    #[tokio::test]
    async fn streams_are_limited_for_each_caller_and_in_all() {
        let clients = clients();
        let mut open: Vec<_> = (0..2).map(|_| opened(&clients, "ann").expect("a place")).collect();
        let refused = opened(&clients, "ann").err().expect("no place for ann");
        assert!(matches!(refused, TooManySessions::PerCaller { most: 2, .. }), "{refused:?}");
        open.push(opened(&clients, "bob").expect("a place"));
        assert_eq!(opened(&clients, "bob").err(), Some(TooManySessions::Total(3)));
        open.remove(0);
        open.push(opened(&clients, "ann").expect("a place is free again"));
        drop(open);
        assert!(clients.open.is_empty() && clients.by_owner.is_empty());
    }

    #[tokio::test]
    async fn a_session_that_comes_after_the_end_ends_and_a_second_one_replaces_the_first() {
        let clients = clients();
        let guard = opened(&clients, "ann").expect("a place");
        let client = guard.client().clone();
        let (first, second) = (session(&clients, &client), session(&clients, &client));
        client.adopt(&clients.sessions, &first);
        client.adopt(&clients.sessions, &second);
        first.end().cancelled().await;
        assert_eq!(client.session().expect("a session").id, second.id);
        drop(guard);
        let late = session(&clients, &client);
        client.adopt(&clients.sessions, &late);
        late.end().cancelled().await;
        assert!(client.session().is_none());
    }

    #[tokio::test]
    async fn requests_in_flight_are_limited_found_and_waited_for() {
        let clients = clients();
        let guard = opened(&clients, "ann").expect("a place");
        let client = guard.client();
        client.idle().await;
        let mut calls: Vec<_> =
            (0..MAX_CALLS).map(|id| client.begin_call(id.to_string().into()).expect("a place")).collect();
        assert!(client.begin_call("x".into()).is_none());
        client.call(b"7").expect("it is in flight").cancel();
        assert!(calls[7].call().is_cancelled() && !calls[8].call().is_cancelled());
        drop(calls.remove(7));
        assert!(client.call(b"7").is_none() && client.begin_call("x".into()).is_some());
        let mut idle = std::pin::pin!(client.idle());
        assert!(futures::poll!(&mut idle).is_pending());
        drop(calls);
        idle.await;
    }
}
