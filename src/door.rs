//! The one way to a tool: a call that was judged is led to its exit.
//!
//! Outside callers come through `proxy/`, inside ones (the command line, later the agent) through
//! [`Door::call`]; both are judged by the same chain and led by the same [`Door::lead`].

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use filters::rebuild::{rename, splice};
use filters::verdict::code;
use filters::{Caller, Era, Head, Kind as Shape, Permit, Refusal, Span, Stop};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::catalog::{Endpoint, Kind, Target};
use crate::protocol::method::Method;
use crate::protocol::{revision, wire};
use crate::registry::{House, Registry};
use crate::rooms::{Talk, announce, ask};
use crate::server::{Running, Server};
use crate::session::{Run, Session, Sessions};
use crate::telemetry::{Counted, Metrics};
use crate::upstream::UpstreamError;

pub struct Door {
    pub registry: Arc<Registry>,
    pub sessions: Arc<Sessions>,
    pub metrics: Arc<Metrics>,
    /// The long-lived runtime.
    pub core: Handle,
    /// Cancelled when the gateway begins to stop.
    pub drain: CancellationToken,
}

/// Where a permitted call goes.
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
}

impl Reply {
    fn ok(body: Bytes) -> Self {
        Self { status: 200, body, session: None }
    }

    fn accepted() -> Self {
        Self { status: 202, body: Bytes::new(), session: None }
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
    /// For the header `Mcp-Name`, where the server's own name is another.
    pub name: Option<Arc<str>>,
    /// Whether the request may be sent again when the connection broke.
    pub safe: bool,
    /// The id that the answer must carry, as written; none for notifications and responses.
    pub id: Option<Bytes>,
    /// Set for a GET that goes on with a stream: the `Last-Event-ID`.
    pub resume: Option<http::HeaderValue>,
    /// The server's requests to the client need an id that leads back.
    pub readdress: bool,
    pub running: Running,
}

/// What metrics and log tell of a call.
#[derive(Clone, Default)]
pub struct Told {
    pub method: &'static str,
    pub server: Option<Arc<str>>,
    pub tool: Option<Arc<str>>,
    pub counted: Option<Arc<Counted>>,
}

/// A permitted call with all that leading it needs.
pub struct Led<'a> {
    pub house: &'a House,
    pub endpoint: &'a Arc<Endpoint>,
    pub session: Option<&'a Arc<Session>>,
    pub permit: Permit,
    pub body: Bytes,
}

impl Door {
    /// Leads a permitted call to its exit; `told` is filled on the way.
    pub fn lead(&self, led: Led<'_>, told: &mut Told) -> Result<Exit, Box<Refusal>> {
        let Led { permit, body, .. } = &led;
        let method = Method::of(&permit.rpc.method_name(body));
        told.method = method.word();
        match permit.rpc.kind {
            Shape::Response => self.response(led),
            Shape::Notification => self.notification(led, method),
            Shape::Request => self.request(led, method, told),
        }
    }

    fn request(&self, led: Led<'_>, method: Method, told: &mut Told) -> Result<Exit, Box<Refusal>> {
        let (rpc, era) = (&led.permit.rpc, led.permit.era);
        let (endpoint, body) = (led.endpoint, &led.body);
        let view = endpoint.view(era);
        let id = rpc.id.expect("a request has an id").of(body);
        if !method.exists_in(era) {
            return Err(unknown_method(era));
        }
        let list = |kind: Kind| {
            self.spoken(led.endpoint, era)?;
            let cursor = rpc.cursor.map(|cursor| cursor.read(body));
            let page = view
                .page(kind, cursor.as_deref())
                .ok_or_else(|| invalid(era, "unknown_cursor", "the cursor is not one of this list"))?;
            Ok(Exit::Answer(Reply::ok(wire::result(id, page))))
        };
        match method {
            Method::Initialize => self.initialize(&led),
            Method::Discover => {
                self.spoken(endpoint, era)?;
                Ok(Exit::Answer(Reply::ok(wire::result(id, &discovered(endpoint)))))
            }
            Method::Ping => Ok(Exit::Answer(Reply::ok(wire::result(id, b"{}")))),
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
                    let what = if tools { "tool" } else { "prompt" };
                    return Err(self.unknown(endpoint, era, what, &said, names(other(era)).get(&*said)));
                };
                let target = target.clone();
                self.to(led, &target, method, Some(name.span), told)
            }
            Method::ResourcesRead | Method::Subscribe | Method::Unsubscribe => {
                let uri =
                    rpc.uri.ok_or_else(|| invalid(era, "uri_missing", "params.uri must be a string"))?;
                let said = uri.read(body).into_owned();
                match view.resource(&said).cloned() {
                    Some(target) => self.to(led, &target, method, None, told),
                    None => match endpoint.only.clone().filter(|_| view.servers > 0) {
                        Some(server) => self.pass(led, server, method, told),
                        None => {
                            let elsewhere = endpoint.view(other(era)).resource(&said);
                            Err(self.unknown(endpoint, era, "resource", &said, elsewhere))
                        }
                    },
                }
            }
            Method::Complete => {
                let reference = rpc.reference.unwrap_or_default();
                match (reference.name, reference.uri) {
                    (Some(name), None) => {
                        let said = name.read(body).into_owned();
                        match view.prompts.get(&said).cloned() {
                            Some(target) => self.to(led, &target, method, Some(name.span), told),
                            None => Err(invalid(era, "unknown_prompt", format!("unknown prompt: {said}"))),
                        }
                    }
                    (None, Some(uri)) => {
                        let said = uri.read(body).into_owned();
                        match (
                            view.resource(&said).cloned(),
                            endpoint.only.clone().filter(|_| view.servers > 0),
                        ) {
                            (Some(target), _) => self.to(led, &target, method, None, told),
                            (None, Some(server)) => self.pass(led, server, method, told),
                            (None, None) => {
                                Err(invalid(era, "unknown_resource", format!("unknown resource: {said}")))
                            }
                        }
                    }
                    _ => Err(invalid(era, "ref_missing", "params.ref must name one prompt or one resource")),
                }
            }
            Method::SetLevel => match endpoint.only.clone().filter(|server| server.upstream.http().is_some())
            {
                Some(server) => self.pass(led, server, method, told),
                None => {
                    self.tell_members(&led, "logging/setLevel");
                    Ok(Exit::Answer(Reply::ok(wire::result(id, b"{}"))))
                }
            },
            Method::Listen => {
                self.spoken(endpoint, era)?;
                let wanted = rpc.notifications.map(|span| span.of(body)).unwrap_or_default();
                let filter = announce::Filter::read(wanted, endpoint).ok_or_else(|| {
                    invalid(era, "filter_missing", "params.notifications must be an object")
                })?;
                let id = Bytes::copy_from_slice(id);
                let changes = self.registry.changes();
                let talk =
                    announce::modern(&self.core, id, endpoint.clone(), filter, changes, self.drain.clone());
                Ok(Exit::Room(talk))
            }
            _ => match endpoint.only.clone().filter(|_| view.servers > 0) {
                Some(server) => self.pass(led, server, method, told),
                None => Err(unknown_method(era)),
            },
        }
    }

    /// Leads to the server of a name; at `place` the name is replaced by the server's own.
    fn to(
        &self,
        led: Led<'_>,
        target: &Target,
        method: Method,
        place: Option<Span>,
        told: &mut Told,
    ) -> Result<Exit, Box<Refusal>> {
        let counted = matches!(method, Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead);
        told.counted = counted.then(|| target.counted.clone());
        told.server = Some(target.server.name.clone());
        told.tool = Some(target.label.clone());
        let renamed = place.filter(|_| *target.name != *target.label);
        self.depart(led, target.server.clone(), method, renamed.map(|place| (place, target.name.clone())))
    }

    /// Leads to the only server of an endpoint, with the message as it is.
    fn pass(
        &self,
        led: Led<'_>,
        server: Arc<Server>,
        method: Method,
        told: &mut Told,
    ) -> Result<Exit, Box<Refusal>> {
        told.server = Some(server.name.clone());
        self.depart(led, server, method, None)
    }

    fn depart(
        &self,
        led: Led<'_>,
        server: Arc<Server>,
        method: Method,
        renamed: Option<(Span, Arc<str>)>,
    ) -> Result<Exit, Box<Refusal>> {
        let failed = |error: UpstreamError| Box::new(error.refusal(&server.name));
        let running = server.start().map_err(failed)?;
        let (rpc, era) = (&led.permit.rpc, led.permit.era);
        // A copy: a slice would share the body, which then could not be renamed in place.
        let id = rpc.id.map(|id| Bytes::copy_from_slice(id.of(&led.body)));
        let stop = CancellationToken::new();
        if let (Some(session), Some(id)) = (led.session, &id) {
            session.begin(id.clone(), Run { server: server.clone(), stop: stop.clone() });
        }
        if server.upstream.peer().is_some() {
            let name = renamed.as_ref().map(|(_, name)| name.clone());
            let body = match renamed {
                Some((place, name)) => rename(
                    led.body.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..])),
                    place,
                    &name,
                ),
                None => led.body,
            };
            return Ok(Exit::Peer(Leave {
                body,
                era,
                session: led.session.cloned(),
                name,
                safe: method.is_safe(),
                id,
                resume: None,
                readdress: led.endpoint.only.is_none(),
                running,
                server,
            }));
        }
        let params = rpc.params.map(|params| {
            let text = led.body.slice(params.start..params.end);
            match &renamed {
                None => text,
                Some((place, name)) => {
                    let place = Span { start: place.start - params.start, end: place.end - params.start };
                    rename(BytesMut::from(&text[..]), place, name)
                }
            }
        });
        let params = params.unwrap_or_else(|| Bytes::from_static(b"{}"));
        // The token is looked for in what will be sent: a longer or shorter name has moved it.
        let token = rpc.meta.progress_token.and_then(|_| {
            let meta = wire::member(&params, "_meta")?;
            let token = wire::member(meta.of(&params), "progressToken")?;
            let place = Span { start: meta.start + token.start, end: meta.start + token.end };
            Some((params.slice(place.start..place.end), place))
        });
        let question = ask::Question {
            running,
            era,
            method: rpc.method_name(&led.body).into_owned(),
            params,
            id: id.unwrap_or_default(),
            token,
        };
        Ok(Exit::Room(ask::ask(&self.core, question, stop)))
    }

    fn initialize(&self, led: &Led<'_>) -> Result<Exit, Box<Refusal>> {
        let (rpc, body, endpoint) = (&led.permit.rpc, &led.body, led.endpoint);
        self.spoken(endpoint, Era::Legacy)?;
        let era = Era::Legacy;
        let asked = rpc
            .protocol_version
            .ok_or_else(|| invalid(era, "version_missing", "params.protocolVersion must be a string"))?;
        let object = |span: Option<Span>, fallback: &'static [u8]| {
            span.map_or(Bytes::from_static(fallback), |span| Bytes::copy_from_slice(span.of(body)))
        };
        let limit = usize::try_from(led.house.plan.config.limits.max_sessions).unwrap_or(usize::MAX);
        let session = self
            .sessions
            .open(
                &endpoint.path,
                revision::negotiate(&asked.read(body)),
                object(rpc.capabilities, b"{}"),
                object(rpc.client_info, br#"{"name":"unknown","version":"0"}"#),
                limit,
            )
            .map_err(|full| Box::new(Refusal::http(503, "too_many_sessions", full.to_string())))?;
        let view = &endpoint.legacy;
        let mut result = format!(r#"{{"protocolVersion":"{}","capabilities":"#, session.version).into_bytes();
        result.extend_from_slice(&view.capabilities);
        result.extend_from_slice(br#","serverInfo":"#);
        result.extend_from_slice(&view.server_info);
        if let Some(instructions) = &view.instructions {
            result.extend_from_slice(br#","instructions":"#);
            result.extend_from_slice(instructions);
        }
        result.push(b'}');
        let id = rpc.id.expect("a request has an id").of(body);
        let body = wire::result(id, &result);
        Ok(Exit::Answer(Reply { status: 200, body, session: Some(session.id.clone()) }))
    }

    fn notification(&self, led: Led<'_>, method: Method) -> Result<Exit, Box<Refusal>> {
        let Some(session) = led.session else { return Ok(Exit::Answer(Reply::accepted())) };
        match method {
            Method::Cancelled => {
                let id = led.permit.rpc.request_id.map(|span| span.of(&led.body));
                if let Some(run) = id.and_then(|id| session.run(id)) {
                    run.stop.cancel();
                    self.forward(session, vec![run.server], "notifications/cancelled", &led);
                }
            }
            // The gateway says this itself when it takes a seat.
            Method::Initialized => {}
            _ => {
                let word = led.permit.rpc.method_name(&led.body).into_owned();
                self.forward(session, session.servers(), &word, &led);
            }
        }
        Ok(Exit::Answer(Reply::accepted()))
    }

    /// Passes a notification on to servers where the session has a seat, in the background.
    fn forward(&self, session: &Arc<Session>, servers: Vec<Arc<Server>>, method: &str, led: &Led<'_>) {
        let params =
            led.permit.rpc.params.map(|span| led.body.slice(span.start..span.end)).unwrap_or_default();
        for server in servers {
            let (session, method, params) = (session.clone(), method.to_owned(), params.clone());
            self.core.spawn(async move {
                let Some(http) = server.upstream.http() else { return };
                let told = match session.seat(&server).await {
                    Ok(seat) => http.notify(&seat, &method, params).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = told {
                    tracing::debug!(server = %server.name, method, %error, "a notification was not passed on");
                }
            });
        }
    }

    /// A client's answer to a request of a server.
    fn response(&self, led: Led<'_>) -> Result<Exit, Box<Refusal>> {
        let Some(session) = led.session.filter(|_| led.permit.era == Era::Legacy) else {
            return Err(Box::new(Refusal::new(
                400,
                code::INVALID_REQUEST,
                "unexpected_response",
                "no request of the server waits for this response",
            )));
        };
        let rpc = &led.permit.rpc;
        let addressed = rpc.id.and_then(|id| Some((id, announce::home(id.of(&led.body))?)));
        let (server, body) = match addressed {
            Some((place, (serial, raw))) => {
                let server = session.servers().into_iter().find(|server| server.serial == serial);
                (server, splice(BytesMut::from(&led.body[..]), place, raw.as_bytes()))
            }
            None => (led.endpoint.only.clone(), led.body.clone()),
        };
        let Some(server) = server.filter(|server| server.upstream.peer().is_some()) else {
            return Ok(Exit::Answer(Reply::accepted()));
        };
        let running = server.start().map_err(|error| Box::new(error.refusal(&server.name)))?;
        Ok(Exit::Peer(Leave {
            body,
            era: Era::Legacy,
            session: Some(session.clone()),
            name: None,
            safe: false,
            id: None,
            resume: None,
            readdress: false,
            running,
            server,
        }))
    }

    /// Sends a setting to all legacy members of an endpoint, in the background.
    fn tell_members(&self, led: &Led<'_>, method: &'static str) {
        let (Some(session), Some(params)) = (led.session, led.permit.rpc.params) else { return };
        let params = led.body.slice(params.start..params.end);
        for server in led.endpoint.members.iter().filter(|server| server.upstream.http().is_some()) {
            let (session, server, params) = (session.clone(), server.clone(), params.clone());
            self.core.spawn(async move {
                let Some(http) = server.upstream.http() else { return };
                let told = match session.seat(&server).await {
                    Ok(seat) => http.request_in(&seat, method, params).await.map(drop),
                    Err(error) => Err(error),
                };
                if let Err(error) = told {
                    tracing::debug!(server = %server.name, method, %error, "a setting was not passed on");
                }
            });
        }
    }

    /// Whether any server of the endpoint speaks the era; else a refusal that names both eras.
    fn spoken(&self, endpoint: &Endpoint, era: Era) -> Result<(), Box<Refusal>> {
        if endpoint.view(era).servers > 0 || endpoint.members.is_empty() {
            return Ok(());
        }
        if endpoint.view(other(era)).servers == 0 {
            return Err(self.down(endpoint.only.as_ref()));
        }
        Err(wrong_era(era, None))
    }

    fn down(&self, server: Option<&Arc<Server>>) -> Box<Refusal> {
        Box::new(match server {
            Some(server) => UpstreamError::Unreachable(String::new()).refusal(&server.name),
            None => Refusal::http(502, "upstream_unreachable", "no server is reachable; try again later"),
        })
    }

    /// Why a name leads nowhere: it belongs to a server of the other era, or to one that was never reached, or
    /// nobody knows it.
    fn unknown(
        &self,
        endpoint: &Endpoint,
        era: Era,
        what: &str,
        name: &str,
        elsewhere: Option<&Target>,
    ) -> Box<Refusal> {
        if let Some(target) = elsewhere {
            return wrong_era(era, Some(&target.server));
        }
        let never_seen = |server: &&Arc<Server>| {
            let prefixed = endpoint.only.is_some()
                || (!server.prefix().is_empty()
                    && name.strip_prefix(server.prefix()).is_some_and(|rest| rest.starts_with("__")));
            prefixed
                && !server.is_up()
                && endpoint.view(era).tools.values().all(|t| t.server.serial != server.serial)
        };
        if let Some(server) = endpoint.members.iter().find(never_seen) {
            return self.down(Some(server));
        }
        let shown: String = name.chars().take(128).collect();
        match what {
            "resource" => {
                let refusal = invalid(era, "unknown_resource", format!("Resource not found: {shown}"));
                Box::new(refusal.with_data(format!(r#"{{"uri":{}}}"#, filters::agree::quote(&shown))))
            }
            "prompt" => invalid(era, "unknown_prompt", format!("Unknown prompt: {shown}")),
            _ => invalid(era, "unknown_tool", format!("Unknown tool: {shown}")),
        }
    }

    /// One message from inside: judged by the whole chain, answered as a whole message (empty for none). A
    /// caller with a session keeps it; for others a legacy one is opened and ended.
    pub async fn call(
        &self,
        caller: Option<Caller>,
        session: Option<Arc<Session>>,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, Stop> {
        let house = self.registry.house();
        let chain = &house.plan.chain;
        let headers = http::HeaderMap::new();
        let verb = &http::Method::POST;
        let head = Head { verb, path, headers: &headers, authority: None, peer: None, outside: false };
        let greeted = chain.greet(&head).await?;
        let call = chain.read(head, caller.unwrap_or(greeted), &body)?;
        let id = call.id();
        let stop = |refusal| Stop { filter: "door", refused: filters::Refused { id, refusal } };
        let permit = chain.admit(call).await?;
        let Some(endpoint) = house.catalog.endpoint(path) else {
            return Err(stop(Box::new(Refusal::http(404, "no_endpoint", "no such endpoint"))));
        };
        let mut own = None;
        let session = match (permit.era, session) {
            (Era::Modern, _) => None,
            (Era::Legacy, Some(session)) => Some(session),
            (Era::Legacy, None) => {
                let info = Bytes::from_static(crate::upstream::house_info().as_bytes());
                let none = Bytes::from_static(b"{}");
                own =
                    self.sessions.open(&endpoint.path, revision::NEWEST_LEGACY, none, info, usize::MAX).ok();
                own.clone()
            }
        };
        let led = Led { house: &house, endpoint, session: session.as_ref(), permit, body };
        let answer = match self.lead(led, &mut Told::default()) {
            Ok(Exit::Answer(reply)) => Ok(reply.body),
            Ok(Exit::Room(talk)) => listen_to(talk).await,
            Ok(Exit::Peer(leave)) => leave.ask().await,
            Err(refusal) => Err(refusal),
        };
        if let Some(own) = own {
            self.sessions.end(&own);
        }
        answer.map_err(stop)
    }
}

impl Leave {
    /// Sends the message by the house's own client and gives the whole answer.
    async fn ask(self) -> Result<Bytes, Box<Refusal>> {
        let refused = |error: UpstreamError| Box::new(error.refusal(&self.server.name));
        let http = self.server.upstream.http().expect("only HTTP servers have a peer");
        let seat = match &self.session {
            Some(session) => Some(session.seat(&self.server).await.map_err(refused)?),
            None => None,
        };
        let id = self.id.clone().unwrap_or_default();
        let said = http.exchange(self.era, seat.as_ref(), self.body.clone(), &id).await.map_err(refused)?;
        Ok(match said {
            crate::upstream::Said::Result(result) => wire::result(&id, &result),
            crate::upstream::Said::Error(error) => wire::failure(&id, &error),
        })
    }
}

async fn listen_to(mut talk: Talk) -> Result<Bytes, Box<Refusal>> {
    use crate::rooms::Word;
    loop {
        match talk.words.recv().await {
            Some(Word::Note(_)) => {}
            Some(Word::Last(message)) => return Ok(message),
            Some(Word::Refused(refusal)) => return Err(refusal),
            None => {
                return Err(Box::new(Refusal::http(500, "no_answer", "the call ended without an answer")));
            }
        }
    }
}

fn discovered(endpoint: &Endpoint) -> Bytes {
    let view = &endpoint.modern;
    let versions: Vec<String> = revision::MODERN.iter().map(|v| format!("\"{v}\"")).collect();
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

fn other(era: Era) -> Era {
    match era {
        Era::Legacy => Era::Modern,
        Era::Modern => Era::Legacy,
    }
}

/// Params that a request must not have. Legacy servers answer errors of well-formed requests with HTTP 200.
fn invalid(
    era: Era,
    reason: &'static str,
    message: impl Into<std::borrow::Cow<'static, str>>,
) -> Box<Refusal> {
    let status = if era == Era::Modern { 400 } else { 200 };
    Box::new(Refusal::new(status, code::INVALID_PARAMS, reason, message))
}

fn unknown_method(era: Era) -> Box<Refusal> {
    let status = if era == Era::Modern { 404 } else { 200 };
    Box::new(Refusal::new(
        status,
        code::METHOD_NOT_FOUND,
        "unknown_method",
        "Method not found: this endpoint does not have it in this protocol revision",
    ))
}

/// The client speaks one era and the server only the other. Not a code of the modern era, so that a client that
/// can do both goes on to `initialize` (2026-07-28, versioning).
fn wrong_era(client: Era, server: Option<&Arc<Server>>) -> Box<Refusal> {
    let revisions = |era| match era {
        Era::Legacy => format!("the legacy revisions ({})", revision::LEGACY.join(", ")),
        Era::Modern => format!("the modern revisions ({})", revision::MODERN.join(", ")),
    };
    let who =
        server.map_or_else(|| "this endpoint".to_owned(), |server| format!("the server `{}`", server.name));
    let words = format!(
        "{who} speaks only {}, and the request is of {}; they are not bridged yet",
        revisions(other(client)),
        revisions(client)
    );
    let mut refusal = match client {
        Era::Modern => Refusal::http(400, "era_mismatch", words),
        Era::Legacy => {
            let supported: Vec<String> = revision::MODERN.iter().map(|v| format!("\"{v}\"")).collect();
            Refusal::new(400, code::UNSUPPORTED_VERSION, "era_mismatch", words)
                .with_data(format!(r#"{{"supported":[{}],"requested":"initialize"}}"#, supported.join(",")))
        }
    };
    if let (Some(server), Era::Modern) = (server, client) {
        refusal = refusal.with_data(format!(r#"{{"server":{}}}"#, filters::agree::quote(&server.name)));
    }
    Box::new(refusal)
}
