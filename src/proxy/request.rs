//! From a request to its answer, or to what Pingora shall stream: the order of the steps, and nothing of their
//! insides. Pingora moves the future of a request to the heap as a whole, so what is rare and roomy waits in a box of its
//! own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use filters::Filter as _;
use filters::origin::Origin;
use filters::{Caller, Stop};
use futures::FutureExt as _;
use mcp::{Era, Refusal};
use pingora::proxy::Session;

use super::accept::Takes;
use super::{
    Ctx, Gateway, client_addr, in_process, operators, relay, request_body, request_head, respond,
    upstream_request,
};
use crate::admin::{self, Serves};
use crate::catalog::Endpoint;
use crate::dispatch::authorize::{Judged, kept};
use crate::dispatch::{Door, Exit, Leave, Led, Reply};
use crate::listener::http1;
use crate::listener::http1::Standing;
use crate::registry::Lookout;
use crate::server::Server;
use crate::session::Pass;
use crate::streams::{Talk, notifications};
use crate::telemetry::Outcome;
use crate::upstream::{Screen, UpstreamError};

/// What becomes of a request that was received and not answered yet.
#[expect(clippy::large_enum_variant, reason = "moving it once costs a call less than a box")]
pub enum Next {
    /// Pingora streams it.
    Peer(Leave),
    /// A room speaks, perhaps for days, for which nothing is kept that was needed to receive it.
    Talk(Era, Talk),
}

impl Gateway {
    /// Receives a request and answers it, or gives what comes next.
    pub async fn receive(&self, session: &mut Session, ctx: &mut Ctx) -> pingora::Result<Option<Next>> {
        // An answer that is not taken holds its call and its server.
        let write = ctx.house.plan.config.limits.write_timeout.get();
        session.as_downstream_mut().set_write_timeout(Some(write));
        // What a server says before its answer is for the gateway; older clients would take it for the answer.
        session.as_downstream_mut().set_ignore_info_resp(true);
        request_head::stay(session);
        if http1::standing() == Standing::Beyond {
            let words = "the gateway has as many connections and requests as it takes";
            let refusal = Refusal::http(503, "max_connections", words).retry_after(Duration::from_secs(1));
            return self.refuse_with(session, ctx, "listener", refusal).await;
        }
        let path = session.req_header().uri.path();
        let operator = admin::Path::of(path);
        let endpoint = match self.serves {
            Serves::Admin => None,
            _ => ctx.house.catalog.endpoint(path).cloned(),
        };
        ctx.origin = session.req_header().headers.get(http::header::ORIGIN).cloned();
        ctx.client = client_addr::address(session, &ctx.house.plan.config.listen);
        let chain = &ctx.house.plan.chain;
        let described = admin::described(path).is_some();
        // A browser asks whether it may send credentials before it sends any (Fetch standard, "CORS protocol and
        // credentials"); the answer is the same for every path, so that none is found out by it.
        let asks = self.serves != Serves::Admin && respond::is_preflight(session);
        let greeted = match request_head::sound(session, ctx.house.plan.config.limits.max_header.as_usize()) {
            Ok(()) if asks || (described && endpoint.is_none()) => {
                // Where to get credentials is asked without any (RFC 9728 §3.1).
                chain.glance(&request_head::head(session, ctx.client)).await.map(|()| chain.anonymous())
            }
            Ok(()) => {
                let head = request_head::head(session, ctx.client);
                match &self.inside {
                    None => chain.greet(&head).await,
                    Some(known) => Box::pin(in_process::greet(known, &ctx.house.plan, &head)).await,
                }
            }
            Err(refusal) => Err(Stop {
                filter: "intake",
                refused: filters::Refused { id: None, refusal: Box::new(refusal) },
            }),
        };
        match greeted {
            Ok(caller) => {
                ctx.caller = Some(caller);
                ctx.vouched = matches!(self.inside, Some(in_process::Known::As(_)));
            }
            // Probes come by address and without a body; they may have any Host.
            Err(stop) if admin::is_open(operator, &stop, self.serves) => {}
            Err(stop) => {
                if matches!(stop.filter, "intake" | Origin::NAME) {
                    ctx.origin = None;
                }
                return self.refuse(session, ctx, stop).await;
            }
        }
        if asks {
            ctx.told.method = "_preflight";
            return Box::pin(respond::preflight(session, ctx)).await.map(|()| None);
        }
        if described && self.serves != Serves::Admin {
            ctx.told.method = "_metadata";
            return Box::pin(operators::metadata(session, ctx)).await.map(|()| None);
        }
        // Who may use nothing of a server is not told that it is there.
        let shown = match (&endpoint, &ctx.caller) {
            (Some(endpoint), Some(caller)) if !Door::shows_all(&ctx.house, endpoint) => {
                Box::pin(self.door.shows(&ctx.house, endpoint, caller)).await
            }
            _ => true,
        };
        let Some(endpoint) = endpoint.filter(|_| shown) else {
            return match operator.filter(|_| self.serves != Serves::Public) {
                Some(path) => {
                    ctx.told.method = "_operator";
                    Box::pin(operators::answer(self, session, ctx, path)).await.map(|()| None)
                }
                None => {
                    let words = "no such path; MCP is served at /mcp and /servers/NAME/mcp";
                    self.refuse_with(session, ctx, "intake", Refusal::http(404, "no_endpoint", words)).await
                }
            };
        };
        match session.req_header().method.as_str() {
            "POST" => self.post(session, ctx, endpoint).await,
            "OPTIONS" => {
                ctx.told.method = "_preflight";
                Box::pin(respond::preflight(session, ctx)).await.map(|()| None)
            }
            verb @ ("GET" | "DELETE") => {
                let get = verb == "GET";
                Box::pin(self.session_verb(session, ctx, endpoint, get)).await
            }
            _ => {
                let refusal = Refusal::http(405, "verb", "this endpoint takes POST, GET and DELETE");
                self.refuse_with(session, ctx, "intake", refusal).await
            }
        }
    }

    /// POST: one message, or a batch where the session's revision has them.
    async fn post(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        endpoint: Arc<Endpoint>,
    ) -> pingora::Result<Option<Next>> {
        let house = ctx.house.clone();
        let limits = &house.plan.config.limits;
        let bounds = request_body::Bounds {
            limit: limits.max_body.as_usize(),
            patience: limits.body_timeout.get(),
            together: limits.max_buffered.as_usize(),
            free: request_body::free(http1::standing()),
        };
        let mut load = self.state.load();
        let read = request_body::read(session, &bounds, &mut load).await?;
        ctx.load = Some(load);
        let body = match read {
            Ok(body) => body,
            Err(refusal) => return self.refuse_with(session, ctx, "size", refusal).await,
        };
        ctx.received = body.len();
        match self.batching(session, ctx, &endpoint, &body) {
            Ok(None) => {}
            Ok(Some(client)) => {
                return Box::pin(self.batch(session, ctx, &endpoint, client, body)).await.map(|()| None);
            }
            Err(refusal) => return self.refuse_with(session, ctx, "session", refusal).await,
        }
        let chain = &house.plan.chain;
        let caller = ctx.caller.clone().unwrap_or_else(|| chain.anonymous());
        let head = request_head::head(session, ctx.client);
        let judged = match self.door.judge(&house, &endpoint, head, caller, body, &mut ctx.told).await {
            Ok(judged) => judged,
            Err(halt) => {
                ctx.id = halt.id;
                ctx.refuse(halt.filter, halt.refusal);
                return Box::pin(respond::failure(session, ctx)).await.map(|()| None);
            }
        };
        let Judged { mut permit, body, id } = judged;
        let era = permit.era;
        ctx.id = id;
        ctx.held = kept(std::mem::take(&mut permit.held));
        let client = match request_head::session(&self.door, session, &endpoint, &permit, &body) {
            Ok(client) => client,
            Err(refusal) => return self.refuse_with(session, ctx, "session", refusal).await,
        };
        if let Some(client) = &client {
            client.renew(session.req_header().headers.get(http::header::AUTHORIZATION));
        }
        let takes = Takes::of(session);
        let led = Led {
            house: &house,
            endpoint: &endpoint,
            session: client.as_ref(),
            client: ctx.client,
            permit,
            held: ctx.held.clone(),
            body,
            events: takes.events,
        };
        let exit = match self.door.straight(led, &mut ctx.told) {
            Ok(exit) => exit,
            Err(led) => Box::pin(self.door.lead(led, &mut ctx.told)).await,
        };
        match exit {
            Ok(Exit::Answer(answer)) => {
                ctx.outcome = ctx.told.dropped.then_some(Outcome::Refused);
                Box::pin(respond::whole(session, ctx, answer)).await.map(|()| None)
            }
            Ok(Exit::Room(talk)) => {
                // A stream may last for days, and keeps nothing of the house that it began in.
                drop((house, endpoint));
                Ok(Some(Next::Talk(era, talk)))
            }
            Ok(Exit::Peer(leave)) => {
                // Pingora would send nothing (see `body`), not wait for a person, or give the answer as it comes: the house's
                // own client carries it.
                let as_it_comes = takes.both() || leave.id.is_none();
                if relay::waits_for_people(&leave) || !as_it_comes || !request_body::can_replay(session) {
                    return Box::pin(relay::carry(session, ctx, leave, &self.door)).await.map(|()| None);
                }
                Ok(Some(Next::Peer(leave)))
            }
            Err(refusal) => self.refuse_with(session, ctx, "door", *refusal).await,
        }
    }

    /// GET and DELETE: the stream and the end of a legacy session.
    async fn session_verb(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        endpoint: Arc<Endpoint>,
        get: bool,
    ) -> pingora::Result<Option<Next>> {
        if let Err(refusal) =
            request_body::none(session, ctx.house.plan.config.limits.body_timeout.get()).await?
        {
            return self.refuse_with(session, ctx, "intake", refusal).await;
        }
        let caller = ctx.caller.clone().unwrap_or_else(|| ctx.house.plan.chain.anonymous());
        let client = match request_head::open_session(&self.door, session, &endpoint, &caller) {
            Ok(client) => client,
            Err(refusal) => return self.refuse_with(session, ctx, "session", refusal).await,
        };
        client.renew(session.req_header().headers.get(http::header::AUTHORIZATION));
        if !get {
            ctx.told.method = "_delete";
            self.door.sessions.end(&client);
            let answer = Reply { status: 204, body: Bytes::new(), session: None, events: false };
            return Box::pin(respond::whole(session, ctx, answer)).await.map(|()| None);
        }
        ctx.told.method = "_stream";
        let (redactor, metrics) = (ctx.house.plan.redactor.clone(), &self.door.metrics);
        let screen = |server: &Server| Screen::of(&server.name, &server.config, redactor.as_ref(), metrics);
        // A stream is gone on with only where the session has called before, and its caller still may.
        let house = ctx.house.clone();
        let reach = self.door.reach(&house, &endpoint, &caller).await;
        let may = |server: &Server| reach.covers(server);
        match upstream_request::resumption(session, &client, may, screen) {
            Ok(None) => {}
            Ok(Some(leave)) => {
                // By the house's own client, which ends the stream when its time has come.
                return relay::carry(session, ctx, leave, &self.door).await.map(|()| None);
            }
            Err(refusal) => return self.refuse_with(session, ctx, "session", refusal).await,
        }
        let (core, drain) = (&self.door.core, self.door.drain.clone());
        let lookout = Lookout::new(self.door.registry.clone(), &house, &endpoint, Era::Legacy, &caller).await;
        let pass = self.passing(&endpoint.path, caller.clone());
        let patience = house.plan.config.limits.write_timeout.get();
        // A stream may last for days, and keeps nothing of the house that it began in.
        drop((house, endpoint));
        match notifications::legacy(core, client, pass, caller, lookout, patience, drain) {
            Ok(talk) => Ok(Some(Next::Talk(Era::Legacy, talk))),
            Err(many) => {
                let refusal = Refusal::http(429, "too_many_streams", many.to_string());
                self.refuse_with(session, ctx, "session", refusal).await
            }
        }
    }

    /// What of the servers' messages goes to the stream of a caller: nothing of those that it may not use by now, and
    /// no secrets where they are looked for.
    fn passing(&self, path: &Arc<str>, caller: Caller) -> Pass {
        let (door, path) = (self.door.clone(), path.clone());
        Arc::new(move |server, message| {
            passed(door.clone(), path.clone(), caller.clone(), server, message).boxed()
        })
    }

    async fn refuse(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        stop: Stop,
    ) -> pingora::Result<Option<Next>> {
        ctx.refuse(stop.filter, stop.refused.refusal);
        Box::pin(respond::failure(session, ctx)).await.map(|()| None)
    }

    async fn refuse_with(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        filter: &'static str,
        refusal: Refusal,
    ) -> pingora::Result<Option<Next>> {
        ctx.refuse(filter, Box::new(refusal));
        Box::pin(respond::failure(session, ctx)).await.map(|()| None)
    }

    pub fn log_failure(&self, ctx: &Ctx, error: &UpstreamError) {
        let name = ctx.leave.as_ref().map(|leave| leave.server.name.clone()).unwrap_or_default();
        tracing::debug!(server = %name, %error, "a server failed");
    }
}

/// What of a server's message its caller gets.
async fn passed(
    door: Arc<Door>,
    path: Arc<str>,
    caller: Caller,
    server: Arc<Server>,
    message: Bytes,
) -> Option<Bytes> {
    let house = door.registry.house();
    let endpoint = house.catalog.endpoint(&path)?;
    // One that was taken out of the file, or has other settings by now, says nothing any more.
    let now = house.servers.get(&server.name)?;
    if now.serial != server.serial || !door.reach(&house, endpoint, &caller).await.covers(now) {
        return None;
    }
    let redactor = house.plan.redactor.as_ref();
    match Screen::of(&now.name, &now.config, redactor, &door.metrics) {
        Some(screen) => screen.message(&message).ok().map(|clean| clean.unwrap_or(message)),
        None => Some(message),
    }
}
