//! The bridge between the eras: a call of a client of one era to a server of the other.
//!
//! A legacy client is asked on the stream of its call when a modern server needs input; a modern client gets a
//! result that asks for input when a legacy server asks during a call. What a text is in the other era is in
//! `mcp::bridge`; here are the waiting, the sessions and the retries.

mod client_sessions;
mod legacy_client;
mod legacy_subscriptions;
mod modern_client;
mod modern_subscriptions;
mod outside_questions;
mod relay;
pub mod request_state;
mod server_side;
mod start;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use filters::Caller;
use filters::rate_limit::Slots;
use http::{HeaderName, HeaderValue};
use mcp::Rejection;
use mcp::jsonrpc::message;
use mcp::method::Method;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::config::{Config, SecretsConfig};
use crate::process::fd_limit::descriptors;
use crate::registry::Registry;
use crate::server::Server;
use crate::session::{OwnerKey, Session, SessionLimits, SessionManager};
use crate::store::parking::{Digest, Parking};
use crate::store::process_messages::{ProcessId, ProcessMessages};
use crate::store::sealing::{Keyring, SharedKeyring};
use crate::streams::MessageStream;
use crate::streams::resource_updates::SubscribeLegacy;
use crate::telemetry::Metrics;
use crate::upstream::ResponseRedactor;
use client_sessions::ModernClientSessions;
use modern_client::Leg;
use modern_subscriptions::SubscribedSessions;
use relay::Relay;
pub use relay::{PeerMessage, RelayId, Sending};

/// How often a server may ask for input in one call.
const MAX_ROUNDS: usize = 10;
/// How long a person may take to answer.
const PERSON_TIMEOUT: Duration = Duration::from_secs(600);
/// How often what is past its time is removed.
const SWEEP: Duration = Duration::from_secs(60);
/// Calls that may wait for their clients at a time, a tenth of them of one caller. Each holds a connection to its
/// server: with few descriptors there may be fewer.
const MAX_PARKED: usize = 10_000;

/// Messages of other processes that wait for their reader.
const MAX_PEER_MESSAGES: usize = 256;

/// Log levels, from the least severe to the most (2025-11-25, server/utilities/logging).
pub const LOG_LEVELS: [&str; 8] =
    ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// What the calls of a process have in common.
pub struct Bridge {
    registry: Arc<Registry>,
    sessions: Arc<SessionManager>,
    metrics: Arc<Metrics>,
    runtime: Handle,
    /// The id of this process.
    process: ProcessId,
    keyring: SharedKeyring,
    /// The way to other processes that have the same key and the same Redis.
    relay: ArcSwapOption<Relay>,
    /// Told of each new connection to Redis.
    connected: Arc<watch::Sender<()>>,
    peer_messages: OnceLock<mpsc::Sender<PeerMessage>>,
    /// The settings that are in effect.
    secrets: Mutex<SecretsConfig>,
    parked: Parking<mpsc::Sender<Leg>>,
    client_sessions: ModernClientSessions,
    subscribed_sessions: SubscribedSessions,
}

/// A call to a server of the other era, complete but for the caller's credentials.
pub struct BridgedCall {
    pub client: BridgedClient,
    pub request: BridgedRequest,
}

/// What the client asks of the server.
pub struct BridgedRequest {
    pub server: Arc<Server>,
    pub method: Method,
    /// The client's params, with the server's own name of what they name.
    pub params: Bytes,
    /// The client's id, as written.
    pub id: Bytes,
    /// The client's progress token, as written.
    pub token: Option<Bytes>,
    pub redactor: Option<ResponseRedactor>,
    /// The caller's slots in limits, held until the server is done.
    pub slots: Option<Arc<Slots>>,
    /// Headers that repeat arguments, for a modern server.
    pub param_headers: Vec<(HeaderName, HeaderValue)>,
    pub idempotent: bool,
    pub affinity_key: u64,
    /// See `mcp::bridge::entries::tool_to_legacy`.
    pub wraps_output: bool,
    /// The client accepts an event stream.
    pub events: bool,
    /// What the results of a legacy server say of their server.
    pub server_info: Bytes,
}

/// The client of a bridged call.
pub enum BridgedClient {
    Legacy(Arc<Session>),
    Modern(Box<ModernClient>),
}

/// A modern client, as its request describes it.
pub struct ModernClient {
    pub caller: Caller,
    pub owner: OwnerKey,
    pub limits: SessionLimits,
    /// The path of the endpoint.
    pub endpoint: Arc<str>,
    /// The client address, which tells anonymous callers apart.
    pub address: Option<IpAddr>,
    pub capabilities: Bytes,
    pub client_info: Bytes,
    /// The level of log messages that it asked for, one of [`LOG_LEVELS`].
    pub log_level: Option<&'static str>,
    /// Set for a retry.
    pub request_state: Option<String>,
    pub input_responses: Option<Bytes>,
}

impl ModernClient {
    /// Who owns its sessions; anonymous callers of one address share a limit.
    pub fn owner_key(caller: &Caller, address: Option<IpAddr>) -> OwnerKey {
        OwnerKey::new(caller.clone(), address)
    }
}

impl Bridge {
    pub fn new(
        registry: Arc<Registry>,
        sessions: Arc<SessionManager>,
        metrics: Arc<Metrics>,
        runtime: Handle,
        keyring: SharedKeyring,
    ) -> Arc<Self> {
        let config = registry.snapshot().config.config.clone();
        let mut process = ProcessId::default();
        getrandom::fill(&mut process).expect("the system gives random bytes");
        let bridge = Arc::new(Self {
            registry,
            sessions,
            metrics,
            runtime,
            process,
            keyring,
            relay: ArcSwapOption::empty(),
            connected: Arc::new(watch::channel(()).0),
            peer_messages: OnceLock::new(),
            secrets: Mutex::new(config.secrets.clone()),
            parked: Parking::new(descriptors().map_or(MAX_PARKED, |limit| (limit / 4).min(MAX_PARKED))),
            client_sessions: ModernClientSessions::default(),
            subscribed_sessions: SubscribedSessions::default(),
        });
        bridge.connect(&config);
        let swept = Arc::downgrade(&bridge);
        bridge.runtime.spawn(async move {
            loop {
                tokio::time::sleep(SWEEP).await;
                let Some(bridge) = swept.upgrade() else { return };
                bridge.parked.sweep();
                bridge.subscribed_sessions.retain(|_, session| session.strong_count() > 0);
            }
        });
        bridge
    }

    /// The settings of a reload: other keys from now on, another Redis.
    pub fn apply(self: &Arc<Self>, config: &Config) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        // A key that the process has made for itself stays.
        if *secrets != config.secrets {
            self.keyring.store(Arc::new(Keyring::new(&config.secrets.keys)));
            *secrets = config.secrets.clone();
        }
        self.connect(config);
    }

    /// The way to other processes. Without a common key they could not read each other's messages.
    fn connect(self: &Arc<Self>, config: &Config) {
        let redis = config.redis.as_ref().filter(|_| !config.secrets.keys.is_empty());
        let Some(redis) = redis else { return self.relay.store(None) };
        let (url, prefix) = (redis.url.expose(), redis.prefix.as_str());
        if self.relay.load().as_ref().is_none_or(|relay| !relay.is_of(url, prefix)) {
            self.relay.store(Relay::start(self, url, prefix));
        }
    }

    /// Whether other processes can be reached; `None` where that is not wanted.
    pub fn reaches_others(&self) -> Option<bool> {
        self.relay.load().as_ref().map(|relay| relay.is_there())
    }

    /// The id of this process.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// What is shared with other processes; `None` where nothing is.
    pub fn shared(&self) -> Option<Arc<ProcessMessages>> {
        self.relay.load().as_ref().map(|relay| relay.messages.clone())
    }

    /// Changes with each new connection to what is shared.
    pub fn connected(&self) -> watch::Receiver<()> {
        self.connected.subscribe()
    }

    /// The messages of other processes that are about no retry, for one reader.
    pub fn peer_messages(&self) -> mpsc::Receiver<PeerMessage> {
        let (out, messages) = mpsc::channel(MAX_PEER_MESSAGES);
        let _ = self.peer_messages.set(out);
        messages
    }

    /// Sends such a message.
    pub async fn tell(&self, to: ProcessId, id: RelayId, text: String) -> Sending {
        match self.relay.load_full() {
            Some(relay) => relay.tell(self, to, id, text).await,
            None => Sending::Failed,
        }
    }

    /// Starts a call; `bearer` is the `Authorization` for a server that is called in its caller's name.
    ///
    /// # Errors
    ///
    /// A `requestState` that is not valid, or too many sessions.
    pub fn start(
        self: &Arc<Self>,
        call: BridgedCall,
        bearer: Option<HeaderValue>,
    ) -> Result<MessageStream, Box<Rejection>> {
        match call.client {
            BridgedClient::Legacy(session)
                if matches!(call.request.method, Method::Subscribe | Method::Unsubscribe) =>
            {
                Ok(legacy_subscriptions::start(self, call.request, session))
            }
            BridgedClient::Legacy(session) => Ok(legacy_client::start(self, call.request, session, bearer)),
            BridgedClient::Modern(client) => start::start(self, call.request, *client, bearer),
        }
    }

    /// Subscribes to resources of legacy servers, for one `subscriptions/listen` of this client.
    pub fn subscribe_legacy(self: &Arc<Self>, client: ModernClient) -> SubscribeLegacy {
        modern_subscriptions::subscribe(self, client)
    }
}

/// The digest of a caller; `address` tells anonymous ones apart.
pub fn principal(caller: &Caller, address: Option<IpAddr>) -> Digest {
    request_state::principal(caller, address)
}

/// The rejection of a `requestState`, whatever is wrong with it.
pub fn invalid_state() -> Rejection {
    request_state::invalid()
}

/// The severity of a log level, by its index.
fn severity(level: &str) -> Option<usize> {
    LOG_LEVELS.iter().position(|known| *known == level)
}

/// The severity in the params of `logging/setLevel` or `notifications/message`.
fn log_level(params: &[u8]) -> Option<usize> {
    severity(&message::string(message::member(params, "level")?.of(params))?)
}
