//! Legacy client sessions: what `initialize` opened, and their upstream sessions.
//!
//! A session id is 192 random bits and means nothing outside this process. A session belongs to the caller
//! that opened it and to the endpoint it was opened on; for another caller or on another path it does not
//! exist. Its upstream sessions are in `upstream_session`, `upstream_notifications` and `upstream_close`, its
//! requests in `in_flight`, and all sessions of the process in `manager`.

mod bridged_listens;
mod client_questions;
mod client_state;
mod declined_requests;
mod eviction;
pub mod id_map;
mod in_flight;
mod manager;
mod outbox;
mod server_requests;
mod session_limits;
mod shared_upstream;
mod sse_client;
mod upstream_close;
mod upstream_notifications;
mod upstream_session;

use std::collections::{BTreeMap, HashMap};
use std::hash::Hasher as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::{Bytes, BytesMut};
use filters::Caller;
use futures::future::BoxFuture;
use http::HeaderValue;
use mcp::json::splice::splice;
use mcp::{Era, MessageKind};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::server::Server;
use crate::upstream::WireId;
use crate::upstream::call_timer::CallTimer;
use crate::upstream::http::{Fnv, UpstreamSession};
use crate::upstream::server_messages::{Judged, ServerMessageFilter};
use id_map::ServerMessageKind;
use mcp::jsonrpc::message;
use mcp::method;
use mcp::method::{Method, Sender};

pub use bridged_listens::{BridgedListen, BridgedListens};
pub use client_questions::{AskedQuestion, ClientQuestions, ClientReply, OpenQuestion};
pub use client_state::{ClientState, StateChange};
pub use in_flight::{CancelOnDrop, InFlight, InFlightGuard, InFlightRequest, SentIds};
pub use manager::{ClientInit, SessionManager};
pub use outbox::{Outbox, OutboxItem, OutboxStream, TooManyStreams};
pub use server_requests::ClientAnswer;
use server_requests::PendingServerRequests;
pub use session_limits::{OwnerKey, SessionLimits, TooManySessions};
use shared_upstream::SharedSubscription;
pub use sse_client::{SseCall, SseCallGuard, SseClient, SseClients, SseStreamGuard};
use upstream_session::UpstreamSlot;

/// What one MCP client opened with `initialize`. Its `impl` is spread over these files:
///
/// - `mod`: messages of servers to the client.
/// - `session_limits`: whether it is used.
/// - `upstream_session`: its sessions at servers.
/// - `upstream_notifications`: their notification streams.
/// - `upstream_close`: their end.
/// - `shared_upstream`: servers that all sessions share.
/// - `declined_requests`: requests of servers that nobody answers.
pub struct Session {
    pub id: String,
    /// The endpoint that it was opened on.
    pub path: Arc<str>,
    owner: Caller,
    /// The owner whose share it counts in.
    owner_key: OwnerKey,
    /// The protocol version that was negotiated with the client.
    pub version: &'static str,
    /// The client's own `capabilities` and `clientInfo`, as JSON.
    capabilities: Bytes,
    client_info: Bytes,
    /// Servers may send requests to the client that a person must answer.
    pub supports_elicitation: bool,
    /// By the serial of the server.
    upstream_slots: Mutex<HashMap<u64, Arc<UpstreamSlot>>>,
    /// Replaced upstream sessions in which a request is still in flight.
    draining: Mutex<Vec<(Arc<Server>, Arc<UpstreamSession>)>>,
    /// Messages that wait for the client's notification streams.
    pub outbox: Arc<Outbox>,
    /// The caller whose view decides on list change notifications, once the session has a stream.
    pub list_change_caller: ArcSwapOption<Caller>,
    /// Subscriptions at servers that the session shares with others, by their serials.
    shared: Mutex<HashMap<u64, SharedSubscription>>,
    /// Subscriptions at modern servers.
    pub bridged_listens: BridgedListens,
    /// Servers' requests that the client may answer.
    server_requests: PendingServerRequests,
    /// Questions of the gateway itself, for servers that have no requests.
    pub questions: ClientQuestions,
    pub in_flight: InFlight,
    pub client_state: ClientState,
    /// A server of this session is called with the client's own `Authorization`.
    uses_client_auth: AtomicBool,
    /// Seconds from the start of the process to the last use.
    used: AtomicU64,
    /// No message has come in it since it was opened.
    unused: AtomicBool,
    started: Instant,
    ended: CancellationToken,
    runtime: Handle,
}

/// Servers by their names.
pub type Servers = BTreeMap<Arc<str>, Arc<Server>>;

/// The part of a server's message that may reach the client; `None` if nothing may.
pub type MessageFilter = Arc<dyn Fn(Arc<Server>, Bytes) -> BoxFuture<'static, Option<Bytes>> + Send + Sync>;

/// A server's message as its client gets it.
#[derive(Debug, PartialEq, Eq)]
pub enum Rewrite {
    Unchanged,
    Replaced(Bytes),
    /// It is not for the client.
    Drop,
}

/// Whether a message of a server on the stream of a modern call, where there are no sessions, may go to its
/// client. Requests are never allowed there.
pub fn accept_without_session(server: &Server, message: &[u8], read: &message::ServerMessage) -> bool {
    let version = Era::Modern.codec().newest_version();
    ServerMessageFilter { server: &server.name, version }.is_for_client(message, read)
}

impl Session {
    /// The affinity key of the session: the same in every gateway.
    pub fn key(&self) -> u64 {
        let mut key = Fnv::default();
        key.write(self.id.as_bytes());
        key.finish()
    }

    /// Handles a message of a server in an upstream session of this session, except responses. `timer` is
    /// that of the call to which it belongs.
    pub fn on_server_message(
        &self,
        server: &Server,
        upstream_session: u64,
        message: &[u8],
        read: &message::ServerMessage,
        timer: Option<&Arc<CallTimer>>,
    ) -> Rewrite {
        let filter = ServerMessageFilter { server: &server.name, version: self.version };
        let row = match filter.judge(message, read, |kind, word| self.declared(kind, word)) {
            Judged::Allowed(row) => row,
            Judged::Response => return Rewrite::Unchanged,
            Judged::Dropped => {
                if let (Some(_), Some(id)) = (read.method, read.id) {
                    self.decline(upstream_session, message, id);
                }
                return Rewrite::Drop;
            }
        };
        match ServerMessageKind::of(message, read, row.method) {
            ServerMessageKind::Request(id) if id.end - id.start > server_requests::MAX_ID => {
                tracing::warn!(server = %server.name, "a request of the server is dropped: its id is too long");
                Rewrite::Drop
            }
            // A ping. The gateway answers, as the client may have no stream open, and a server without a
            // response ends the session.
            ServerMessageKind::Request(id) if row.method == Method::Ping => {
                if let Some((server, upstream_session)) = self.upstream_session_by_id(upstream_session) {
                    let reply = message::result(id.of(message), b"{}");
                    self.runtime.spawn(async move {
                        if let Some(http) = server.endpoint_pool() {
                            http.reply(&upstream_session, reply).await;
                        }
                    });
                }
                Rewrite::Drop
            }
            ServerMessageKind::Request(id) => {
                self.server_requests.insert(upstream_session, id.of(message), row.method, timer);
                Rewrite::Replaced(id_map::tag_request(message, read, upstream_session))
            }
            ServerMessageKind::Cancelled(id) => {
                self.server_requests.take(upstream_session, id.of(message));
                Rewrite::Replaced(id_map::tag_id(message, id, upstream_session))
            }
            // The server's supervisor reads the list, and all clients are notified when the new list is
            // published.
            ServerMessageKind::ListChanged => {
                server.lists_stale.notify_one();
                Rewrite::Drop
            }
            // Under the gateway's token; a token that no request of this session has is not for its client.
            ServerMessageKind::Progress(token) if WireId::is_one(token.of(message)) => {
                match self.in_flight.answered_as(token.of(message)).and_then(|known| known.sent.token) {
                    Some(own) => Rewrite::Replaced(splice(BytesMut::from(message), token, &own)),
                    None => Rewrite::Drop,
                }
            }
            ServerMessageKind::Progress(_) | ServerMessageKind::Other => Rewrite::Unchanged,
        }
    }

    /// A request that the client's protocol version does not define, but that the client has declared to
    /// support.
    fn declared(&self, kind: MessageKind, word: &str) -> Option<&'static method::MethodRule> {
        let row = Era::Legacy.codec().rule(Sender::Server, kind, word)?;
        let able =
            row.method == Method::Elicit && message::member(&self.capabilities, "elicitation").is_some();
        able.then_some(row)
    }

    /// Attaches another stream of the client; `timeout` is how long it may take to read a message. A server
    /// notification goes to one of the streams.
    pub fn attach(self: &Arc<Self>, timeout: Duration) -> Result<OutboxStream, TooManyStreams> {
        let stream = self.outbox.attach(timeout)?;
        for slot in self.upstream_slots() {
            if slot.is_connected() || self.client_state.is_subscribed(&slot.name()) {
                self.subscribe(&slot);
            }
        }
        Ok(stream)
    }

    /// The client's own `capabilities`, as JSON.
    pub fn capabilities(&self) -> &[u8] {
        &self.capabilities
    }

    /// The client's own `clientInfo`, as JSON.
    pub fn client_info(&self) -> &[u8] {
        &self.client_info
    }

    /// It is in use.
    pub fn touch(&self) {
        self.unused.store(false, Ordering::Relaxed);
        self.used.store(self.clock(), Ordering::Relaxed);
    }

    /// Seconds since the process started.
    fn clock(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    /// Cancelled when the session is over.
    pub fn end(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Updates the client's `Authorization` for servers that are called with it.
    pub fn renew(&self, own: Option<&HeaderValue>) {
        if own.is_some() && self.uses_client_auth.load(Ordering::Relaxed) {
            for slot in self.upstream_slots() {
                slot.renew(own);
            }
        }
    }
}
