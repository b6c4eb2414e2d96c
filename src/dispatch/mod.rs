//! The one way to a tool: a call that was judged is led to its exit.
//!
//! Outside callers come through `proxy/`, inside ones (the command line, later the agent) through
//! [`Door::call`]; both are judged by the same chain and led by the same [`Door::lead`].

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
use filters::rate_limit::Held;
use filters::rbac::unknown;
use filters::{Means, Permit, Thing};
use http::{HeaderName, HeaderValue};
use mcp::{Era, Kind as Shape, Refusal};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::catalog::{Endpoint, Kind};
use crate::registry::{House, Lookout, Registry};
use crate::server::{Running, Server};
use crate::session::{Answering, Begun, Deed, Sent, Session, Sessions};
use crate::streams::{Talk, notifications};
use crate::telemetry::{Counted, Dropped, Metrics};
use crate::upstream::Screen;
use crate::upstream::http::{Fnv, Seat};
use forward::deed;
use mcp::jsonrpc::message;
use mcp::method;
use mcp::method::{Method, Sender};
use mcp::version;
use rejections::{invalid, other, unknown_method};

pub struct Door {
    pub registry: Arc<Registry>,
    pub sessions: Arc<Sessions>,
    pub metrics: Arc<Metrics>,
    /// The long-lived runtime.
    pub core: Handle,
    /// Cancelled when the gateway begins to stop.
    pub drain: CancellationToken,
    /// Cancelled when it waits no longer for what still runs.
    pub cut: CancellationToken,
}

/// Where a permitted call goes.
#[expect(clippy::large_enum_variant, reason = "moving it once costs a call less than a box")]
pub enum Exit {
    /// Answered from memory.
    Answer(Reply),
    /// Streamed by Pingora to an HTTP server.
    Peer(Leave),
    /// Handled in this process.
    Room(Talk),
}

pub struct Reply {
    pub status: u16,
    pub body: Bytes,
    /// For the header `Mcp-Session-Id`.
    pub session: Option<String>,
    /// The body is a stream of events.
    pub events: bool,
}

impl Reply {
    fn ok(body: Bytes) -> Self {
        Self { status: 200, body, session: None, events: false }
    }

    pub fn accepted() -> Self {
        Self { status: 202, body: Bytes::new(), session: None, events: false }
    }
}

/// A message on its way to an HTTP server.
pub struct Leave {
    pub server: Arc<Server>,
    /// The bytes to send.
    pub body: Bytes,
    pub era: Era,
    /// The session whose seat is used.
    pub session: Option<Arc<Session>>,
    /// Set where no other seat will do: what it answers was asked there, or what it goes on with was begun.
    pub seat: Option<Arc<Seat>>,
    /// The request, as its session knows it.
    pub run: Option<Begun>,
    /// Set for a client's answer.
    pub answering: Option<Box<Answering>>,
    /// What the session remembers once this has worked.
    pub deed: Option<Box<Deed>>,
    /// For the header `Mcp-Name`, where the server's own name is another.
    pub name: Option<Arc<str>>,
    /// Headers that repeat arguments, as these are now.
    pub mirrored: Vec<(HeaderName, HeaderValue)>,
    /// Whether the request may be sent again when the connection broke.
    pub safe: bool,
    /// Stands for the session or caller, where endpoints are chosen by it.
    pub key: u64,
    /// The id that the client gets its answer under, as written; none for notifications and responses.
    pub id: Option<Bytes>,
    /// What goes to the server in its place: only an answer under this id is one.
    pub sent: Sent,
    /// The server may say more on the way to the answer than the answer and how it gets on, and nothing in that names the
    /// request.
    pub logs: bool,
    /// Set for a GET that goes on with a stream: the `Last-Event-ID`.
    pub resume: Option<Box<HeaderValue>>,
    pub running: Running,
    /// Set where the answer is searched for secrets.
    pub screen: Option<Screen>,
}

/// What metrics and log tell of a call.
#[derive(Clone, Default)]
pub struct Told {
    pub method: &'static str,
    pub server: Option<Arc<str>>,
    pub tool: Option<Arc<str>>,
    pub counted: Option<Arc<Counted>>,
    /// It goes nowhere, since its sender may not send it.
    pub dropped: bool,
}

/// A permitted call with all that leading it needs.
pub struct Led<'a> {
    pub house: &'a House,
    pub endpoint: &'a Arc<Endpoint>,
    pub session: Option<&'a Arc<Session>>,
    /// The address of who calls.
    pub client: Option<IpAddr>,
    pub permit: Permit,
    /// The places that the call takes up; kept for as long as a server works on it.
    pub held: Option<Arc<Held>>,
    pub body: Bytes,
    /// The client takes a stream of events for an answer.
    pub events: bool,
}

impl Led<'_> {
    /// The revision that the message is of.
    fn revision(&self) -> &'static str {
        match (self.permit.era, self.session) {
            (Era::Modern, _) => version::NEWEST_MODERN,
            (Era::Legacy, Some(session)) => session.version,
            (Era::Legacy, None) => version::NEWEST_LEGACY,
        }
    }

    /// Stands for the session, the caller, or where an unknown one comes from.
    fn key(&self) -> u64 {
        if let Some(session) = self.session {
            return session.key();
        }
        let (caller, mut key) = (&self.permit.caller, Fnv::default());
        match (caller.means, self.client) {
            (Means::Anonymous, Some(address)) => address.to_canonical().hash(&mut key),
            _ => (caller.means.word(), &caller.issuer, &caller.tenant, &caller.user).hash(&mut key),
        }
        key.finish()
    }
}

impl Door {
    /// Leads a call of a tool, which needs nobody's answer, to its exit; gives back all else for [`Self::lead`]. Most
    /// messages are such calls, and a future that may wait costs each of them more than the way itself.
    #[expect(clippy::result_large_err, reason = "moving it once costs a call less than a box")]
    pub fn straight<'a>(&self, led: Led<'a>, told: &mut Told) -> Result<Result<Exit, Box<Refusal>>, Led<'a>> {
        let rpc = &led.permit.rpc;
        let (Shape::Request, Some(name)) = (rpc.kind, rpc.name) else { return Err(led) };
        if Method::of(&rpc.method_name(&led.body)) != Method::ToolsCall {
            return Err(led);
        }
        let tools = &led.endpoint.view(led.permit.era).tools;
        let Some(target) = tools.get(&*name.read(&led.body)).cloned() else { return Err(led) };
        told.method = Method::ToolsCall.word();
        Ok(self.to(led, &target, Method::ToolsCall, Some(name.span), None, told))
    }

    /// Leads a permitted call to its exit; `told` is filled on the way.
    pub async fn lead(&self, led: Led<'_>, told: &mut Told) -> Result<Exit, Box<Refusal>> {
        let Led { permit, body, .. } = &led;
        let word = permit.rpc.method_name(body);
        let method = Method::of(&word);
        told.method = method.word();
        if permit.rpc.kind == Shape::Response {
            return self.response(led).await;
        }
        let row = method::find(Sender::Client, permit.rpc.kind, &word, led.revision());
        match (permit.rpc.kind, row) {
            (Shape::Request, Some(_)) => {}
            (Shape::Request, None) if method::is_extension(&word) => {}
            (Shape::Request, None) => return Err(unknown_method(permit.era)),
            (_, Some(row)) => return self.notification(led, method, row.goes).await,
            (_, None) => return Ok(self.dropped(method, told)),
        }
        self.request(led, method, told).await
    }

    /// A message that its sender may not send, and that wants no answer.
    fn dropped(&self, method: Method, told: &mut Told) -> Exit {
        told.dropped = true;
        let from = Sender::Client.word();
        Dropped { from, kind: "notification", method: method.word(), server: "" }.count();
        Exit::Answer(Reply::accepted())
    }

    async fn request(&self, led: Led<'_>, method: Method, told: &mut Told) -> Result<Exit, Box<Refusal>> {
        let (rpc, era) = (&led.permit.rpc, led.permit.era);
        let id = rpc.id.expect("a request has an id").of(&led.body);
        let narrowed = match method.tells() {
            true => Some(self.registry.sight(led.house, led.endpoint, &led.permit.caller).await),
            false => None,
        };
        let endpoint = narrowed.as_ref().unwrap_or(led.endpoint);
        let (view, body) = (endpoint.view(era), &led.body);
        let list = |kind: Kind| {
            self.spoken(endpoint, era)?;
            let cursor = rpc.cursor.map(|cursor| cursor.read(body));
            let page = view
                .page(kind, cursor.as_deref())
                .ok_or_else(|| invalid(era, "unknown_cursor", "the cursor is not one of this list"))?;
            if view.events && led.events {
                let body = message::result_event(id, page);
                return Ok(Exit::Answer(Reply { events: true, ..Reply::ok(body) }));
            }
            Ok(Exit::Answer(Reply::ok(message::result(id, page))))
        };
        match method {
            Method::Initialize => self.initialize(&led, endpoint),
            Method::Discover => {
                self.introduced(endpoint)?;
                Ok(Exit::Answer(Reply::ok(message::result(id, &discovered(endpoint)))))
            }
            Method::Ping => Ok(Exit::Answer(Reply::ok(message::result(id, b"{}")))),
            Method::ToolsList => list(Kind::Tools),
            Method::PromptsList => list(Kind::Prompts),
            Method::ResourcesList => list(Kind::Resources),
            Method::TemplatesList => list(Kind::Templates),
            Method::ToolsCall | Method::PromptsGet => {
                let name =
                    rpc.name.ok_or_else(|| invalid(era, "name_missing", "params.name must be a string"))?;
                let said = name.read(body);
                let tools = method == Method::ToolsCall;
                let names = |era| if tools { &endpoint.view(era).tools } else { &endpoint.view(era).prompts };
                let Some(target) = names(era).get(&*said) else {
                    let what = if tools { Thing::Tool } else { Thing::Prompt };
                    let elsewhere = names(other(era)).get(&*said);
                    return Err(self.unknown(&led, endpoint, what, &said, elsewhere).await);
                };
                let target = target.clone();
                self.to(led, &target, method, Some(name.span), None, told)
            }
            Method::ResourcesRead | Method::Subscribe | Method::Unsubscribe => {
                let uri =
                    rpc.uri.ok_or_else(|| invalid(era, "uri_missing", "params.uri must be a string"))?;
                let said = uri.read(body).into_owned();
                // What is listed no more can still be followed no more.
                let mut followed = led
                    .session
                    .filter(|_| method == Method::Unsubscribe)
                    .and_then(|session| session.memory.where_followed(&said))
                    .and_then(|name| led.house.servers.get(&name).cloned());
                if let Some(server) = &followed
                    && !led.reach(self).await.covers(server)
                {
                    followed = None;
                }
                let alone = endpoint.only.clone().filter(|_| view.servers > 0);
                match (view.resource(&said).cloned(), alone.or(followed)) {
                    (Some(target), _) => {
                        let deed = deed(&led, method, said, &target.server)?;
                        self.to(led, &target, method, None, deed, told)
                    }
                    (None, Some(server)) => {
                        let deed = deed(&led, method, said, &server)?;
                        let led = if endpoint.only.is_none() { self.as_sent(led, &server)? } else { led };
                        self.pass(led, server, method, deed, told)
                    }
                    (None, None) => {
                        let elsewhere = endpoint.view(other(era)).resource(&said);
                        Err(self.unknown(&led, endpoint, Thing::Resource, &said, elsewhere).await)
                    }
                }
            }
            Method::Complete => {
                let reference = rpc.reference.unwrap_or_default();
                match (reference.name, reference.uri) {
                    (Some(name), None) => {
                        let said = name.read(body).into_owned();
                        match view.prompts.get(&said).cloned() {
                            Some(target) => self.to(led, &target, method, Some(name.span), None, told),
                            None => Err(Box::new(unknown(era, Thing::Prompt, &said))),
                        }
                    }
                    (None, Some(uri)) => {
                        let said = uri.read(body).into_owned();
                        match (
                            view.resource(&said).cloned(),
                            endpoint.only.clone().filter(|_| view.servers > 0),
                        ) {
                            (Some(target), _) => self.to(led, &target, method, None, None, told),
                            (None, Some(server)) => self.pass(led, server, method, None, told),
                            (None, None) => Err(Box::new(unknown(era, Thing::Resource, &said))),
                        }
                    }
                    _ => Err(invalid(era, "ref_missing", "params.ref must name one prompt or one resource")),
                }
            }
            Method::SetLevel => match self.alone(&led, |server| server.upstream.http().is_some()).await {
                Some(server) => {
                    let params = rpc.params.map(|params| led.body.slice(params.start..params.end));
                    let deed = params.map(Deed::Level);
                    self.pass(led, server, method, deed, told)
                }
                None => self.level(&led, endpoint).await,
            },
            Method::Listen => {
                self.spoken(endpoint, era)?;
                if !led.events {
                    let words = "the answer is a stream, so Accept must list text/event-stream";
                    return Err(Box::new(Refusal::http(406, "not_acceptable", words)));
                }
                let filter = self.filter(&led, endpoint, method).await.ok_or_else(|| {
                    invalid(
                        era,
                        "filter_missing",
                        "params.notifications must be an object, with at most 1024 resourceSubscriptions",
                    )
                })?;
                let (registry, caller) = (self.registry.clone(), led.permit.caller.clone());
                let listening = notifications::Listening {
                    id: Bytes::copy_from_slice(id),
                    filter,
                    lookout: Lookout::new(registry.clone(), led.house, led.endpoint, era, &caller).await,
                    caller,
                    server_info: Bytes::copy_from_slice(&view.server_info),
                };
                Ok(Exit::Room(notifications::modern(&self.core, registry, listening, self.drain.clone())))
            }
            // Of tasks, and what no revision knows.
            _ => match self.alone(&led, |_| view.servers > 0).await {
                Some(server) => self.pass(led, server, method, None, told),
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
