//! The one way to a tool: a call that was judged is led to its exit.
//!
//! Outside callers come through `proxy/`, inside ones (the command line, later the agent) through
//! [`Dispatcher::call_internal`]; both are judged by the same chain and led by the same [`Dispatcher::dispatch`].

pub mod authorize;
pub mod client;
mod forward;
mod internal;
mod reach;
mod rejections;
mod sanitize;
mod sessions;
pub mod target;
pub mod text_places;

use std::hash::{Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use filters::rate_limit::Slots;
use filters::rbac::not_found;
use filters::{AuthMethod, Permit, TargetKind};
use http::{HeaderName, HeaderValue};
use mcp::{Era, MessageKind as Shape, Rejection};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::catalog::{Endpoint, ListKind};
use crate::registry::{ListChangeWatcher, Registry, Snapshot};
use crate::server::{CallGuard, Server};
use crate::session::{ClientAnswer, InFlightGuard, SentIds, Session, SessionManager, StateChange};
use crate::streams::{MessageStream, notifications};
use crate::telemetry::{CallCounters, DroppedMessage, Metrics};
use crate::upstream::ResponseRedactor;
use crate::upstream::http::{Fnv, UpstreamSession};
use forward::state_change;
use mcp::jsonrpc::message;
use mcp::method;
use mcp::method::{Method, Sender};
use mcp::version;
use rejections::{invalid, other_era, unknown_method};

pub struct Dispatcher {
    pub registry: Arc<Registry>,
    pub sessions: Arc<SessionManager>,
    pub metrics: Arc<Metrics>,
    /// The long-lived runtime.
    pub runtime: Handle,
    /// Cancelled when the gateway begins to stop.
    pub drain: CancellationToken,
    /// Cancelled when it waits no longer for what still runs.
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
}

pub struct Response {
    pub status: u16,
    pub body: Bytes,
    /// For the header `Mcp-Session-Id`.
    pub session: Option<String>,
    /// The body is a stream of events.
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

/// A message on its way to an HTTP server.
pub struct UpstreamRequest {
    pub server: Arc<Server>,
    /// The bytes to send.
    pub body: Bytes,
    pub era: Era,
    /// The session whose seat is used.
    pub session: Option<Arc<Session>>,
    /// Set where no other seat will do: what it answers was asked there, or what it goes on with was begun.
    pub upstream_session: Option<Arc<UpstreamSession>>,
    /// The request, as its session knows it.
    pub in_flight: Option<InFlightGuard>,
    /// Set for a client's answer.
    pub answering: Option<Box<ClientAnswer>>,
    /// What the session remembers once this has worked.
    pub state_change: Option<Box<StateChange>>,
    /// For the header `Mcp-Name`, where the server's own name is another.
    pub name: Option<Arc<str>>,
    /// Headers that repeat arguments, as these are now.
    pub param_headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the request may be sent again when the connection broke.
    pub idempotent: bool,
    /// Stands for the session or caller, where endpoints are chosen by it.
    pub affinity_key: u64,
    /// The id that the client gets its answer under, as written; none for notifications and responses.
    pub id: Option<Bytes>,
    /// What goes to the server in its place: only an answer under this id is one.
    pub sent: SentIds,
    /// The server may say more on the way to the answer than the answer and how it gets on, and nothing in that names the
    /// request.
    pub logs: bool,
    /// Set for a GET that goes on with a stream: the `Last-Event-ID`.
    pub resume: Option<Box<HeaderValue>>,
    pub call_guard: CallGuard,
    /// Set where the answer is searched for secrets.
    pub redactor: Option<ResponseRedactor>,
}

/// What metrics and log tell of a call.
#[derive(Clone, Default)]
pub struct RequestLabels {
    pub method: &'static str,
    pub server: Option<Arc<str>>,
    pub tool: Option<Arc<str>>,
    pub counters: Option<Arc<CallCounters>>,
    /// It goes nowhere, since its sender may not send it.
    pub dropped: bool,
}

/// A permitted call with all that leading it needs.
pub struct AuthorizedRequest<'a> {
    pub snapshot: &'a Snapshot,
    pub endpoint: &'a Arc<Endpoint>,
    pub session: Option<&'a Arc<Session>>,
    /// The address of who calls.
    pub client: Option<IpAddr>,
    pub permit: Permit,
    /// The places that the call takes up; kept for as long as a server works on it.
    pub slots: Option<Arc<Slots>>,
    pub body: Bytes,
    /// The client takes a stream of events for an answer.
    pub events: bool,
}

impl AuthorizedRequest<'_> {
    /// The revision that the message is of.
    fn revision(&self) -> &'static str {
        match (self.permit.era, self.session) {
            (Era::Modern, _) => version::NEWEST_MODERN,
            (Era::Legacy, Some(session)) => session.version,
            (Era::Legacy, None) => version::NEWEST_LEGACY,
        }
    }

    /// Stands for the session, the caller, or where an unknown one comes from.
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
    /// Leads a call of a tool, which needs nobody's answer, to its exit; gives back all else for [`Self::lead`]. Most
    /// messages are such calls, and a future that may wait costs each of them more than the way itself.
    #[expect(clippy::result_large_err, reason = "moving it once costs a call less than a box")]
    pub fn straight<'a>(
        &self,
        authorized: AuthorizedRequest<'a>,
        labels: &mut RequestLabels,
    ) -> Result<Result<Dispatch, Box<Rejection>>, AuthorizedRequest<'a>> {
        let rpc = &authorized.permit.rpc;
        let (Shape::Request, Some(name)) = (rpc.kind, rpc.name) else { return Err(authorized) };
        if Method::parse(&rpc.method_name(&authorized.body)) != Method::ToolsCall {
            return Err(authorized);
        }
        let tools = &authorized.endpoint.view(authorized.permit.era).tools;
        let Some(target) = tools.get(&*name.read(&authorized.body)).cloned() else { return Err(authorized) };
        labels.method = Method::ToolsCall.as_str();
        Ok(self.forward_renamed(authorized, &target, Method::ToolsCall, Some(name.span), None, labels))
    }

    /// Leads a permitted call to its exit; `told` is filled on the way.
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
            (Shape::Request, None) => return Err(unknown_method(permit.era)),
            (_, Some(row)) => return self.notification(authorized, method, row.destination).await,
            (_, None) => return Ok(self.drop_message(method, labels)),
        }
        self.request(authorized, method, labels).await
    }

    /// A message that its sender may not send, and that wants no answer.
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
        let (rpc, era) = (&authorized.permit.rpc, authorized.permit.era);
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
        let (view, body) = (endpoint.view(era), &authorized.body);
        let list = |kind: ListKind| {
            self.require_era(endpoint, era)?;
            let cursor = rpc.cursor.map(|cursor| cursor.read(body));
            let page = view
                .page(kind, cursor.as_deref())
                .ok_or_else(|| invalid(era, "unknown_cursor", "the cursor is not one of this list"))?;
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
                Ok(Dispatch::Respond(Response::ok(message::result(id, &discovered(endpoint)))))
            }
            Method::Ping => Ok(Dispatch::Respond(Response::ok(message::result(id, b"{}")))),
            Method::ToolsList => list(ListKind::Tools),
            Method::PromptsList => list(ListKind::Prompts),
            Method::ResourcesList => list(ListKind::Resources),
            Method::TemplatesList => list(ListKind::Templates),
            Method::ToolsCall | Method::PromptsGet => {
                let name =
                    rpc.name.ok_or_else(|| invalid(era, "name_missing", "params.name must be a string"))?;
                let said = name.read(body);
                let tools = method == Method::ToolsCall;
                let names = |era| if tools { &endpoint.view(era).tools } else { &endpoint.view(era).prompts };
                let Some(target) = names(era).get(&*said) else {
                    let what = if tools { TargetKind::Tool } else { TargetKind::Prompt };
                    let elsewhere = names(other_era(era)).get(&*said);
                    return Err(self.unknown(&authorized, endpoint, what, &said, elsewhere).await);
                };
                let target = target.clone();
                self.forward_renamed(authorized, &target, method, Some(name.span), None, labels)
            }
            Method::ResourcesRead | Method::Subscribe | Method::Unsubscribe => {
                let uri =
                    rpc.uri.ok_or_else(|| invalid(era, "uri_missing", "params.uri must be a string"))?;
                let said = uri.read(body).into_owned();
                // What is listed no more can still be followed no more.
                let mut followed = authorized
                    .session
                    .filter(|_| method == Method::Unsubscribe)
                    .and_then(|session| session.client_state.subscribed_servers(&said))
                    .and_then(|name| authorized.snapshot.servers.get(&name).cloned());
                if let Some(server) = &followed
                    && !authorized.reach(self).await.covers(server)
                {
                    followed = None;
                }
                let alone = endpoint.single.clone().filter(|_| view.servers > 0);
                match (view.resource(&said).cloned(), alone.or(followed)) {
                    (Some(target), _) => {
                        let deed = state_change(&authorized, method, said, &target.server)?;
                        self.forward_renamed(authorized, &target, method, None, deed, labels)
                    }
                    (None, Some(server)) => {
                        let deed = state_change(&authorized, method, said, &server)?;
                        let authorized = if endpoint.single.is_none() {
                            self.with_sent_body(authorized, &server)?
                        } else {
                            authorized
                        };
                        self.forward_as_is(authorized, server, method, deed, labels)
                    }
                    (None, None) => {
                        let elsewhere = endpoint.view(other_era(era)).resource(&said);
                        Err(self.unknown(&authorized, endpoint, TargetKind::Resource, &said, elsewhere).await)
                    }
                }
            }
            Method::Complete => {
                let reference = rpc.reference.unwrap_or_default();
                match (reference.name, reference.uri) {
                    (Some(name), None) => {
                        let said = name.read(body).into_owned();
                        match view.prompts.get(&said).cloned() {
                            Some(target) => self.forward_renamed(
                                authorized,
                                &target,
                                method,
                                Some(name.span),
                                None,
                                labels,
                            ),
                            None => Err(Box::new(not_found(era, TargetKind::Prompt, &said))),
                        }
                    }
                    (None, Some(uri)) => {
                        let said = uri.read(body).into_owned();
                        match (
                            view.resource(&said).cloned(),
                            endpoint.single.clone().filter(|_| view.servers > 0),
                        ) {
                            (Some(target), _) => {
                                self.forward_renamed(authorized, &target, method, None, None, labels)
                            }
                            (None, Some(server)) => {
                                self.forward_as_is(authorized, server, method, None, labels)
                            }
                            (None, None) => Err(Box::new(not_found(era, TargetKind::Resource, &said))),
                        }
                    }
                    _ => Err(invalid(era, "ref_missing", "params.ref must name one prompt or one resource")),
                }
            }
            Method::SetLevel => {
                match self.alone(&authorized, |server| server.upstream.endpoint_pool().is_some()).await {
                    Some(server) => {
                        let params = rpc.params.map(|params| authorized.body.slice(params.start..params.end));
                        let deed = params.map(StateChange::LogLevel);
                        self.forward_as_is(authorized, server, method, deed, labels)
                    }
                    None => self.set_log_level(&authorized, endpoint).await,
                }
            }
            Method::Listen => {
                self.require_era(endpoint, era)?;
                if !authorized.events {
                    let message = "the answer is a stream, so Accept must list text/event-stream";
                    return Err(Box::new(Rejection::http(406, "not_acceptable", message)));
                }
                let filter = self.filter(&authorized, endpoint, method).await.ok_or_else(|| {
                    invalid(
                        era,
                        "filter_missing",
                        "params.notifications must be an object, with at most 1024 resourceSubscriptions",
                    )
                })?;
                let (registry, caller) = (self.registry.clone(), authorized.permit.caller.clone());
                let listening = notifications::Subscription {
                    id: Bytes::copy_from_slice(id),
                    filter,
                    list_changes: ListChangeWatcher::new(
                        registry.clone(),
                        authorized.snapshot,
                        authorized.endpoint,
                        era,
                        &caller,
                    )
                    .await,
                    caller,
                    server_info: Bytes::copy_from_slice(&view.server_info),
                };
                Ok(Dispatch::Stream(notifications::subscription_stream(
                    &self.runtime,
                    registry,
                    listening,
                    self.drain.clone(),
                )))
            }
            // Of tasks, and what no revision knows.
            _ => match self.alone(&authorized, |_| view.servers > 0).await {
                Some(server) => self.forward_as_is(authorized, server, method, None, labels),
                None => Err(unknown_method(era)),
            },
        }
    }
}

fn discovered(endpoint: &Endpoint) -> Bytes {
    let view = &endpoint.modern;
    let versions: Vec<String> = version::MODERN.iter().map(|v| format!("\"{v}\"")).collect();
    let mut result = format!(
        r#"{{"resultType":"complete","supportedVersions":[{}],"ttlMs":0,"cacheScope":"private","capabilities":"#,
        versions.join(",")
    )
    .into_bytes();
    result.extend_from_slice(&view.capabilities);
    if let Some(instructions) = &view.instructions {
        result.extend_from_slice(br#","instructions":"#);
        result.extend_from_slice(instructions);
    }
    result.extend_from_slice(br#","_meta":{"io.modelcontextprotocol/serverInfo":"#);
    result.extend_from_slice(&view.server_info);
    result.extend_from_slice(b"}}");
    Bytes::from(result)
}
