//! From a request to its answer, or to what Pingora shall stream: the order of the steps, and nothing of their
//! insides.

use std::sync::Arc;

use bytes::Bytes;
use filters::{Refusal, Stop};
use pingora::proxy::Session;

use super::{Ctx, Gateway, Serves, body, carry, client, fixed, intake, outgoing, reply};
use crate::catalog::Endpoint;
use crate::door::judge::Judged;
use crate::door::{Exit, Leave, Led, Reply};
use crate::rooms::announce;
use crate::server::Server;
use crate::upstream::{Screen, UpstreamError};

impl Gateway {
    /// Receives a request and answers it, or gives what Pingora shall stream.
    pub async fn receive(&self, session: &mut Session, ctx: &mut Ctx) -> pingora::Result<Option<Leave>> {
        let path = session.req_header().uri.path();
        let operator = fixed::Path::of(path);
        let endpoint = match self.serves {
            Serves::Admin => None,
            _ => ctx.house.catalog.endpoint(path).cloned(),
        };
        ctx.origin = session.req_header().headers.get(http::header::ORIGIN).cloned();
        ctx.client = client::address(session, &ctx.house.plan.config.listen);
        let chain = &ctx.house.plan.chain;
        let described = fixed::described(path).is_some();
        let greeted = match intake::sound(session, ctx.house.plan.config.limits.max_header.as_usize()) {
            Ok(()) if described && endpoint.is_none() => {
                // Where to get credentials is asked without any (RFC 9728 §3.1).
                chain.glance(&intake::head(session, ctx.client)).await.map(|()| chain.anonymous())
            }
            Ok(()) => chain.greet(&intake::head(session, ctx.client)).await,
            Err(refusal) => Err(Stop {
                filter: "intake",
                refused: filters::Refused { id: None, refusal: Box::new(refusal) },
            }),
        };
        match greeted {
            Ok(caller) => ctx.caller = Some(caller),
            // Probes come by address and without a body; they may have any Host.
            Err(stop) if fixed::is_open(operator, &stop, self.serves) => {}
            Err(stop) => {
                ctx.origin = None;
                return self.refuse(session, ctx, stop).await;
            }
        }
        if described && self.serves != Serves::Admin {
            ctx.told.method = "_metadata";
            return fixed::metadata(session, ctx).await.map(|()| None);
        }
        let Some(endpoint) = endpoint else {
            return match operator.filter(|_| self.serves != Serves::Public) {
                Some(path) => {
                    ctx.told.method = "_operator";
                    fixed::answer(self, session, ctx, path).await.map(|()| None)
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
                reply::preflight(session, ctx).await.map(|()| None)
            }
            verb @ ("GET" | "DELETE") => {
                let get = verb == "GET";
                self.session_verb(session, ctx, &endpoint, get).await
            }
            _ => {
                let refusal = Refusal::http(405, "verb", "this endpoint takes POST, GET and DELETE");
                self.refuse_with(session, ctx, "intake", refusal).await
            }
        }
    }

    /// POST: one message.
    async fn post(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        endpoint: Arc<Endpoint>,
    ) -> pingora::Result<Option<Leave>> {
        let house = ctx.house.clone();
        let limits = &house.plan.config.limits;
        let body = match body::read(session, limits.max_body.as_usize(), limits.body_timeout.get()).await? {
            Ok(body) => body,
            Err(refusal) => return self.refuse_with(session, ctx, "size", refusal).await,
        };
        ctx.received = body.len();
        let chain = &house.plan.chain;
        let caller = ctx.caller.clone().unwrap_or_else(|| chain.anonymous());
        let head = intake::head(session, ctx.client);
        let judged = match self.door.judge(&house, &endpoint, head, caller, body).await {
            Ok(judged) => judged,
            Err(halt) => {
                ctx.id = halt.id;
                ctx.refuse(halt.filter, halt.refusal);
                return reply::failure(session, ctx).await.map(|()| None);
            }
        };
        let Judged { mut permit, body, id } = judged;
        ctx.id = id;
        ctx.held = std::mem::take(&mut permit.held);
        let client = match intake::session(&self.door, session, &endpoint, &permit, &body) {
            Ok(client) => client,
            Err(refusal) => return self.refuse_with(session, ctx, "session", refusal).await,
        };
        let led = Led { house: &house, endpoint: &endpoint, session: client.as_ref(), permit, body };
        match self.door.lead(led, &mut ctx.told) {
            Ok(Exit::Answer(answer)) => reply::whole(session, ctx, answer).await.map(|()| None),
            Ok(Exit::Room(talk)) => {
                let said = reply::talk(session, ctx, talk, &self.door).await;
                if let (Some(client), Some(id)) = (&client, &ctx.id) {
                    client.finish(id);
                }
                said.map(|()| None)
            }
            Ok(Exit::Peer(leave)) => {
                if body::can_replay(session) {
                    return Ok(Some(leave));
                }
                // Pingora would send nothing (see `body`): the house's own client carries it.
                carry::carry(session, ctx, leave, &self.door).await.map(|()| None)
            }
            Err(refusal) => self.refuse_with(session, ctx, "door", *refusal).await,
        }
    }

    /// GET and DELETE: the stream and the end of a legacy session.
    async fn session_verb(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        endpoint: &Arc<Endpoint>,
        get: bool,
    ) -> pingora::Result<Option<Leave>> {
        let caller = ctx.caller.clone().unwrap_or_else(|| ctx.house.plan.chain.anonymous());
        let client = match intake::open_session(&self.door, session, endpoint, &caller) {
            Ok(client) => client,
            Err(refusal) => return self.refuse_with(session, ctx, "session", refusal).await,
        };
        if !get {
            ctx.told.method = "_delete";
            self.door.sessions.end(&client);
            let answer = Reply { status: 204, body: Bytes::new(), session: None };
            return reply::whole(session, ctx, answer).await.map(|()| None);
        }
        ctx.told.method = "_stream";
        let (redactor, metrics) = (ctx.house.plan.redactor.clone(), self.door.metrics.clone());
        let screen =
            move |server: &Server| Screen::of(&server.name, &server.config, redactor.as_ref(), &metrics);
        if let Some(leave) = outgoing::resumption(session, endpoint, &client, &screen) {
            return Ok(Some(leave));
        }
        let changes = self.door.registry.changes();
        let talk =
            announce::legacy(&self.door.core, client, Arc::new(screen), changes, self.door.drain.clone());
        reply::talk(session, ctx, talk, &self.door).await.map(|()| None)
    }

    async fn refuse(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        stop: Stop,
    ) -> pingora::Result<Option<Leave>> {
        ctx.refuse(stop.filter, stop.refused.refusal);
        reply::failure(session, ctx).await.map(|()| None)
    }

    async fn refuse_with(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        filter: &'static str,
        refusal: Refusal,
    ) -> pingora::Result<Option<Leave>> {
        ctx.refuse(filter, Box::new(refusal));
        reply::failure(session, ctx).await.map(|()| None)
    }

    pub fn log_failure(&self, ctx: &Ctx, error: &UpstreamError) {
        let name = ctx.leave.as_ref().map(|leave| leave.server.name.clone()).unwrap_or_default();
        tracing::debug!(server = %name, %error, "a server failed");
    }
}
