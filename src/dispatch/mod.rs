//! Dispatch: the one way of an authorized call to a server.
//!
//! Callers outside come through `proxy/`, callers inside (the command line, later the agent) through
//! [`Dispatcher::call_internal`]. Both are authorized by the same chain and dispatched by the same
//! [`Dispatcher::dispatch`].

pub mod authorize;
mod bridged;
mod forward;
mod internal;
mod listen;
mod reach;
pub mod rejections;
mod sanitize;
mod sessions;
pub mod target;
mod tasks;
pub mod text_places;

use std::hash::{Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use filters::rate_limit::Slots;
use filters::rbac::not_found;
use filters::{AuthMethod, Permit, TargetKind};
use mcp::{Era, MessageKind as Shape, Reason, Rejection};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::bridge::{Bridge, BridgedCall};
use crate::catalog::{Endpoint, ListKind};
use crate::exchange::UpstreamRequest;
use crate::registry::{Registry, Snapshot};
use crate::session::{Session, SessionManager, SseClient, SseClients, StateChange};
use crate::store::sealing::{Keyring, SharedKeyring};
use crate::streams::MessageStream;
use crate::tasks::{TaskCall, Tasks};
use crate::telemetry::{CallCounters, DroppedMessage, Metrics, Outcome};
use crate::upstream::http::Fnv;
use forward::state_change;
use mcp::jsonrpc::message;
use mcp::method;
use mcp::method::{Method, Sender};
use rejections::{invalid, unknown_method};

/// Its `impl` is spread over these files:
///
/// - `authorize`: a message through the chain.
/// - `sanitize`: redaction before it.
/// - `mod`: the way of a permitted message.
/// - `sessions`: messages that only the legacy era has.
/// - `forward`: the message for a server.
/// - `reach`: which servers a caller may use.
/// - `rejections`: eras and names that an endpoint does not have.
/// - `listen`: subscriptions of modern clients.
/// - `tasks`: what has to do with tasks.
/// - `internal`: callers inside the process.
pub struct Dispatcher {
    pub registry: Arc<Registry>,
    pub sessions: Arc<SessionManager>,
    /// Clients over HTTP+SSE.
    pub sse_clients: Arc<SseClients>,
    /// Calls to servers of the other era.
    pub bridge: Arc<Bridge>,
    /// Seals what clients get and must bring back.
    pub keyring: SharedKeyring,
    /// Calls that may become tasks.
    pub tasks: Arc<Tasks>,
    pub metrics: Arc<Metrics>,
    /// The long-lived runtime.
    pub runtime: Handle,
    /// Cancelled when the gateway begins to stop.
    pub drain: CancellationToken,
    /// Cancelled when it no longer waits for calls in flight.
    pub cut: CancellationToken,
}

/// Where a permitted call goes.
#[expect(clippy::large_enum_variant, reason = "moving it once costs a call less than a box")]
pub enum Dispatch {
    /// Answered from memory.
    Respond(Response),
    /// Streamed by Pingora to an HTTP server.
    Forward(UpstreamRequest),
    /// Handled in this process.
    Stream(MessageStream),
    /// To a server of the other era, once the caller's credentials for it are known.
    Bridge(Box<BridgedCall>),
    /// The same for a message whose response may be about a task.
    Task(Box<TaskCall>),
}

pub struct Response {
    pub status: u16,
    pub body: Bytes,
    /// For the header `Mcp-Session-Id`.
    pub session: Option<String>,
    /// The body is an event stream.
    pub events: bool,
}

impl Response {
    fn ok(body: Bytes) -> Self {
        Self { status: 200, body, session: None, events: false }
    }

    pub fn accepted() -> Self {
        Self { status: 202, body: Bytes::new(), session: None, events: false }
    }
}

/// The labels of a call for metrics and the log.
#[derive(Clone, Default)]
pub struct RequestLabels {
    pub method: &'static str,
    pub server: Option<Arc<str>>,
    pub tool: Option<Arc<str>>,
    pub counters: Option<Arc<CallCounters>>,
    /// It is dropped, since its sender may not send it.
    pub dropped: bool,
}

impl RequestLabels {
    /// Counts the call.
    pub fn count(&self, metrics: &Metrics, outcome: Outcome) {
        match &self.counters {
            Some(counters) => counters.count(outcome),
            None => metrics.count(if self.method.is_empty() { "_none" } else { self.method }, outcome),
        }
    }
}

/// A permitted call with all that dispatch needs.
pub struct AuthorizedRequest<'a> {
    pub snapshot: &'a Snapshot,
    pub endpoint: &'a Arc<Endpoint>,
    pub session: Option<&'a Arc<Session>>,
    /// Set for a client over HTTP+SSE.
    pub sse_client: Option<&'a Arc<SseClient>>,
    /// The client address.
    pub client: Option<IpAddr>,
    pub permit: Permit,
    /// The slots that the call takes; held until the server is done.
    pub slots: Option<Arc<Slots>>,
    pub body: Bytes,
    /// The client accepts an event stream as response.
    pub events: bool,
}

impl AuthorizedRequest<'_> {
    /// The protocol version of the message.
    fn revision(&self) -> &'static str {
        let codec = self.permit.client_era.codec();
        let session = self.session.filter(|_| codec.has_sessions());
        session.map_or(codec.newest_version(), |session| session.version)
    }

    /// The affinity key: of the session, the caller, or the address of an anonymous caller.
    fn affinity_key(&self) -> u64 {
        if let Some(session) = self.session {
            return session.key();
        }
        let (caller, mut key) = (&self.permit.caller, Fnv::default());
        match (caller.auth_method, self.client) {
            (AuthMethod::Anonymous, Some(address)) => address.to_canonical().hash(&mut key),
            _ => (caller.auth_method.as_str(), &caller.issuer, &caller.tenant, &caller.user).hash(&mut key),
        }
        key.finish()
    }
}

impl Dispatcher {
    pub fn new(registry: Arc<Registry>, metrics: Arc<Metrics>, runtime: Handle) -> Arc<Self> {
        let sessions = SessionManager::new(metrics.clone(), runtime.clone());
        let secrets = &registry.snapshot().config.config.secrets;
        let keyring = SharedKeyring::new(ArcSwap::from_pointee(Keyring::new(&secrets.keys)));
        let bridge = Bridge::new(
            registry.clone(),
            sessions.clone(),
            metrics.clone(),
            runtime.clone(),
            keyring.clone(),
        );
        let sse_clients = SseClients::new(sessions.clone());
        let tasks = Tasks::new(keyring.clone(), bridge.clone(), metrics.clone(), runtime.clone());
        let (drain, cut) = (CancellationToken::new(), CancellationToken::new());
        Arc::new(Self {
            registry,
            sessions,
            sse_clients,
            bridge,
            keyring,
            tasks,
            metrics,
            runtime,
            drain,
            cut,
        })
    }

    /// Dispatches a tool call without waiting, and returns all other messages for [`Self::dispatch`]. Most
    /// messages are such calls, and a future that may wait costs each of them more than the dispatch itself.
    #[expect(clippy::result_large_err, reason = "moving it once costs a call less than a box")]
    pub fn dispatch_tool_call<'a>(
        &self,
        authorized: AuthorizedRequest<'a>,
        labels: &mut RequestLabels,
    ) -> Result<Result<Dispatch, Box<Rejection>>, AuthorizedRequest<'a>> {
        let rpc = &authorized.permit.rpc;
        let (Shape::Request, Some(name)) = (rpc.kind, rpc.name) else { return Err(authorized) };
        if Method::parse(&rpc.method_name(&authorized.body)) != Method::ToolsCall {
            return Err(authorized);
        }
        let tools = &authorized.endpoint.view(authorized.permit.client_era).tools;
        let Some(target) = tools.get(&*name.read(&authorized.body)).cloned() else { return Err(authorized) };
        labels.method = Method::ToolsCall.as_str();
        Ok(self.forward_renamed(authorized, &target, Method::ToolsCall, Some(name.span), None, labels))
    }

    /// Dispatches a permitted call; sets `labels` on the way.
    pub async fn dispatch(
        &self,
        authorized: AuthorizedRequest<'_>,
        labels: &mut RequestLabels,
    ) -> Result<Dispatch, Box<Rejection>> {
        let AuthorizedRequest { permit, body, .. } = &authorized;
        let word = permit.rpc.method_name(body);
        let method = Method::parse(&word);
        labels.method = method.as_str();
        if permit.rpc.kind == Shape::Response {
            return self.response(authorized).await;
        }
        let row = method::find(Sender::Client, permit.rpc.kind, &word, authorized.revision());
        match (permit.rpc.kind, row) {
            (Shape::Request, Some(_)) => {}
            (Shape::Request, None) if method::is_extension(&word) => {}
            (Shape::Request, None) => return Err(unknown_method(permit.client_era)),
            (_, Some(row)) => return self.notification(authorized, method, row.destination).await,
            (_, None) => return Ok(self.drop_message(method, labels)),
        }
        self.request(authorized, method, labels).await
    }

    /// A message that its sender may not send, and that needs no response.
    fn drop_message(&self, method: Method, labels: &mut RequestLabels) -> Dispatch {
        labels.dropped = true;
        let from = Sender::Client.as_str();
        DroppedMessage { from, kind: "notification", method: method.as_str(), server: "" }.count();
        Dispatch::Respond(Response::accepted())
    }

    async fn request(
        &self,
        authorized: AuthorizedRequest<'_>,
        method: Method,
        labels: &mut RequestLabels,
    ) -> Result<Dispatch, Box<Rejection>> {
        let (rpc, client_era) = (&authorized.permit.rpc, authorized.permit.client_era);
        let id = rpc.id.expect("a request has an id").of(&authorized.body);
        let narrowed = match method.depends_on_visibility() {
            true => Some(
                self.registry
                    .visible_to(authorized.snapshot, authorized.endpoint, &authorized.permit.caller)
                    .await,
            ),
            false => None,
        };
        let endpoint = narrowed.as_ref().unwrap_or(authorized.endpoint);
        let (view, body) = (endpoint.view(client_era), &authorized.body);
        let list = |kind: ListKind| {
            self.require_era(endpoint, client_era)?;
            let cursor = rpc.cursor.map(|cursor| cursor.read(body));
            let page = view.page(kind, cursor.as_deref()).ok_or_else(|| {
                invalid(client_era, Reason::UnknownCursor, "the cursor is not one of this list")
            })?;
            if view.events && authorized.events {
                let body = message::result_event(id, page);
                return Ok(Dispatch::Respond(Response { events: true, ..Response::ok(body) }));
            }
            Ok(Dispatch::Respond(Response::ok(message::result(id, page))))
        };
        match method {
            Method::Initialize => self.initialize(&authorized, endpoint),
            Method::Discover => {
                self.require_initialized(endpoint)?;
                let view = &endpoint.modern;
                let result = client_era.codec().handshake_result(
                    client_era.codec().newest_version(),
                    &view.capabilities,
                    &view.server_info,
                    view.instructions.as_deref(),
                );
                Ok(Dispatch::Respond(Response::ok(message::result(id, &result))))
            }
            Method::Ping => Ok(Dispatch::Respond(Response::ok(message::result(id, b"{}")))),
            Method::ToolsList => list(ListKind::Tools),
            Method::PromptsList => list(ListKind::Prompts),
            Method::ResourcesList => list(ListKind::Resources),
            Method::TemplatesList => list(ListKind::Templates),
            Method::ToolsCall | Method::PromptsGet => {
                let name = rpc.name.ok_or_else(|| {
                    invalid(client_era, Reason::NameMissing, "params.name must be a string")
                })?;
                let requested = name.read(body);
                let tools = method == Method::ToolsCall;
                let names = |era| if tools { &endpoint.view(era).tools } else { &endpoint.view(era).prompts };
                let Some(target) = names(client_era).get(&*requested) else {
                    let what = if tools { TargetKind::Tool } else { TargetKind::Prompt };
                    let elsewhere = names(client_era.other()).get(&*requested);
                    return Err(self.unknown(&authorized, endpoint, what, &requested, elsewhere).await);
                };
                let target = target.clone();
                self.forward_renamed(authorized, &target, method, Some(name.span), None, labels)
            }
            Method::ResourcesRead | Method::Subscribe | Method::Unsubscribe => {
                let uri = rpc
                    .uri
                    .ok_or_else(|| invalid(client_era, Reason::UriMissing, "params.uri must be a string"))?;
                let requested = uri.read(body).into_owned();
                // A resource that is no longer listed can still be unsubscribed from.
                let mut followed = authorized
                    .session
                    .filter(|_| method == Method::Unsubscribe)
                    .and_then(|session| session.client_state.subscribed_servers(&requested))
                    .and_then(|name| authorized.snapshot.servers.get(&name).cloned());
                if let Some(server) = &followed
                    && !authorized.reach(self).await.covers(server)
                {
                    followed = None;
                }
                let alone = endpoint.single.clone().filter(|_| view.servers > 0);
                match (view.resource(&requested).cloned(), alone.or(followed)) {
                    (Some(target), _) => {
                        let change = state_change(&authorized, method, requested, &target.server)?;
                        self.forward_renamed(authorized, &target, method, None, change, labels)
                    }
                    (None, Some(server)) => {
                        let change = state_change(&authorized, method, requested, &server)?;
                        let authorized = if endpoint.single.is_none() {
                            self.with_sent_body(authorized, &server)?
                        } else {
                            authorized
                        };
                        self.forward_as_is(authorized, server, method, change, labels)
                    }
                    (None, None) => {
                        let elsewhere = endpoint.view(client_era.other()).resource(&requested);
                        Err(self
                            .unknown(&authorized, endpoint, TargetKind::Resource, &requested, elsewhere)
                            .await)
                    }
                }
            }
            Method::Complete => {
                let reference = rpc.reference.unwrap_or_default();
                match (reference.name, reference.uri) {
                    (Some(name), None) => {
                        let requested = name.read(body).into_owned();
                        match view.prompts.get(&requested).cloned() {
                            Some(target) => self.forward_renamed(
                                authorized,
                                &target,
                                method,
                                Some(name.span),
                                None,
                                labels,
                            ),
                            None => Err(Box::new(not_found(client_era, TargetKind::Prompt, &requested))),
                        }
                    }
                    (None, Some(uri)) => {
                        let requested = uri.read(body).into_owned();
                        match (
                            view.resource(&requested).cloned(),
                            endpoint.single.clone().filter(|_| view.servers > 0),
                        ) {
                            (Some(target), _) => {
                                self.forward_renamed(authorized, &target, method, None, None, labels)
                            }
                            (None, Some(server)) => {
                                self.forward_as_is(authorized, server, method, None, labels)
                            }
                            (None, None) => {
                                Err(Box::new(not_found(client_era, TargetKind::Resource, &requested)))
                            }
                        }
                    }
                    _ => Err(invalid(
                        client_era,
                        Reason::RefMissing,
                        "params.ref must name one prompt or one resource",
                    )),
                }
            }
            // A modern server learns the level with each call.
            Method::SetLevel if view.server_era == Some(Era::Modern) => {
                self.set_log_level(&authorized, endpoint).await
            }
            Method::SetLevel => match self.alone(&authorized, |server| server.forwards_natively()).await {
                Some(server) => {
                    let params = rpc.params.map(|params| authorized.body.slice(params.start..params.end));
                    let change = params.map(StateChange::LogLevel);
                    self.forward_as_is(authorized, server, method, change, labels)
                }
                None => self.set_log_level(&authorized, endpoint).await,
            },
            Method::Listen => self.listen(&authorized, endpoint).await,
            Method::TasksGet | Method::TasksUpdate | Method::TasksCancel if client_era == Era::Modern => {
                self.task_request(authorized, method, labels).await
            }
            // Task methods of 2025-11-25, and methods that no protocol version defines. Where callers share a process
            // or a connection, the server cannot tell whose a task is.
            _ => match self
                .alone(&authorized, |server| {
                    view.servers > 0 && (!method.is_of_task() || server.forwards_natively())
                })
                .await
            {
                Some(server) => self.forward_as_is(authorized, server, method, None, labels),
                None => Err(unknown_method(client_era)),
            },
        }
    }
}
