//! From a request to its response, or to what Pingora streams: only the order of the steps. Pingora moves
//! the future of a request to the heap as a whole, so rare and large futures are boxed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use filters::Filter as _;
use filters::origin::Origin;
use filters::{Caller, ChainRejection};
use futures::FutureExt as _;
use mcp::{Era, Reason, Rejection};
use pingora::proxy::Session;

use super::accept_header::AcceptedTypes;
use super::{
    Gateway, RequestContext, client_addr, in_process, operators, relay, request_body, request_head, respond,
    upstream_auth, upstream_request,
};
use crate::admin::{self, ListenerRole};
use crate::bridge::BridgedCall;
use crate::catalog::{Endpoint, EndpointPath};
use crate::dispatch::authorize::{Authorized, share_slots};
use crate::dispatch::{AuthorizedRequest, Dispatch, Dispatcher, Response};
use crate::exchange::UpstreamRequest;
use crate::listener::http1;
use crate::listener::http1::StreamSlot;
use crate::registry::ListChangeWatcher;
use crate::server::Server;
use crate::session::MessageFilter;
use crate::streams::{MessageStream, notifications};
use crate::tasks::TaskCall;
use crate::telemetry::Outcome;
use crate::upstream::server_messages::redacted;
use crate::upstream::{ResponseRedactor, UpstreamError};

/// What happens to a request that was received and is not answered yet.
#[expect(clippy::large_enum_variant, reason = "moving it once costs a call less than a box")]
pub enum Next {
    /// Pingora forwards it and streams the response.
    Forward(UpstreamRequest),
    /// A message stream, perhaps for days. Nothing that was needed to receive the request is kept for it.
    Stream(Era, MessageStream),
}

impl Gateway {
    /// Receives a request and answers it, or returns the next step.
    pub async fn handle_request(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
    ) -> pingora::Result<Option<Next>> {
        // A response that the client does not read holds its call and its server.
        let write = ctx.snapshot.config.config.limits.write_timeout.get();
        session.as_downstream_mut().set_write_timeout(Some(write));
        // A server's informational response is for the gateway. Older clients would take it for the final
        // response.
        session.as_downstream_mut().set_ignore_info_resp(true);
        request_head::strip_upgrade(session);
        if http1::stream_slot() == StreamSlot::OverLimit {
            let message = "the gateway has as many connections and requests as it takes";
            let rejection =
                Rejection::http(503, Reason::MaxConnections, message).retry_after(Duration::from_secs(1));
            return self.refuse_with(session, ctx, "listener", rejection).await;
        }
        let path = session.req_header().uri.path();
        let operator = admin::AdminPath::of(path);
        let (endpoint, served) = match (self.role, ctx.snapshot.catalog.served(path)) {
            (ListenerRole::Admin, _) | (_, None) => (None, EndpointPath::Mcp),
            (_, Some((endpoint, served))) => (Some(endpoint.clone()), served),
        };
        ctx.origin = session.req_header().headers.get(http::header::ORIGIN).cloned();
        ctx.client = client_addr::client_addr(session, &ctx.snapshot.config.config.listen);
        let chain = &ctx.snapshot.config.chain;
        let described = admin::metadata_resource(path).is_some();
        // A browser asks whether it may send credentials before it sends any (Fetch standard, "CORS
        // protocol and credentials"). The answer is the same for every path, so it reveals none.
        let asks = self.role != ListenerRole::Admin && respond::is_preflight(session);
        let admitted = match request_head::validate_framing(
            session,
            ctx.snapshot.config.config.limits.max_header.as_usize(),
        ) {
            Ok(()) if asks || (described && endpoint.is_none()) => {
                // Clients read the metadata without credentials (RFC 9728 §3.1).
                chain
                    .on_head_unauthenticated(&request_head::head(session, ctx.client))
                    .await
                    .map(|()| chain.anonymous())
            }
            Ok(()) => {
                let head = request_head::head(session, ctx.client);
                match &self.in_process {
                    None => chain.on_head(&head).await,
                    Some(known) => Box::pin(in_process::on_head(known, &ctx.snapshot.config, &head)).await,
                }
            }
            Err(rejection) => Err(ChainRejection {
                filter: "request_head",
                refused: filters::RejectedMessage { id: None, rejection: Box::new(rejection) },
            }),
        };
        match admitted {
            Ok(caller) => {
                ctx.caller = Some(caller);
                ctx.client_cert = matches!(self.in_process, Some(in_process::Known::As(_)));
            }
            // Probes use the address and have no body; any Host is allowed.
            Err(stop) if admin::bypasses_refusal(operator, &stop, self.role) => {}
            Err(stop) => {
                if matches!(stop.filter, "request_head" | Origin::NAME) {
                    ctx.origin = None;
                }
                return self.refuse(session, ctx, stop).await;
            }
        }
        if asks {
            ctx.labels.method = "_preflight";
            return Box::pin(respond::preflight(session, ctx)).await.map(|()| None);
        }
        if described && self.role != ListenerRole::Admin {
            ctx.labels.method = "_metadata";
            return Box::pin(operators::metadata(session, ctx)).await.map(|()| None);
        }
        // A caller that may use nothing of a server does not learn that it exists.
        let shown = match (&endpoint, &ctx.caller) {
            (Some(endpoint), Some(caller)) if !Dispatcher::shows_all(&ctx.snapshot, endpoint) => {
                Box::pin(self.dispatcher.shows(&ctx.snapshot, endpoint, caller)).await
            }
            _ => true,
        };
        let Some(endpoint) = endpoint.filter(|_| shown) else {
            return match operator.filter(|_| self.role != ListenerRole::Public) {
                Some(path) => {
                    ctx.labels.method = "_operator";
                    Box::pin(operators::answer(self, session, ctx, path)).await.map(|()| None)
                }
                None => {
                    let message = "no such path; MCP is served at /mcp and /servers/NAME/mcp";
                    self.refuse_with(
                        session,
                        ctx,
                        "request_head",
                        Rejection::http(404, Reason::NoEndpoint, message),
                    )
                    .await
                }
            };
        };
        match session.req_header().method.as_str() {
            "OPTIONS" => {
                ctx.labels.method = "_preflight";
                Box::pin(respond::preflight(session, ctx)).await.map(|()| None)
            }
            _ if served != EndpointPath::Mcp => {
                Box::pin(self.handle_http_sse(session, ctx, endpoint, served)).await
            }
            "POST" => self.post(session, ctx, endpoint).await,
            http_method @ ("GET" | "DELETE") => {
                let get = http_method == "GET";
                Box::pin(self.handle_get_or_delete(session, ctx, endpoint, get)).await
            }
            _ => {
                let rejection =
                    Rejection::http(405, Reason::Verb, "this endpoint takes POST, GET and DELETE");
                self.refuse_with(session, ctx, "request_head", rejection).await
            }
        }
    }

    /// POST: one message, or a batch if the session's version has them.
    async fn post(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
        endpoint: Arc<Endpoint>,
    ) -> pingora::Result<Option<Next>> {
        let snapshot = ctx.snapshot.clone();
        let body = match self.read_body(session, ctx, request_body::free(http1::stream_slot())).await? {
            Ok(body) => body,
            Err(rejection) => return self.refuse_with(session, ctx, "size", rejection).await,
        };
        match self.batch_session(session, ctx, &endpoint, &body) {
            Ok(None) => {}
            Ok(Some(client)) => {
                return Box::pin(self.batch(session, ctx, &endpoint, client, body)).await.map(|()| None);
            }
            Err(rejection) => return self.refuse_with(session, ctx, "session", rejection).await,
        }
        let chain = &snapshot.config.chain;
        let caller = ctx.caller.clone().unwrap_or_else(|| chain.anonymous());
        let head = request_head::head(session, ctx.client);
        let authorized = match self
            .dispatcher
            .authorize(&snapshot, &endpoint, head, caller, body, &mut ctx.labels)
            .await
        {
            Ok(authorized) => authorized,
            Err(rejected) => {
                ctx.id = rejected.id;
                ctx.refuse(rejected.filter, rejected.rejection);
                return Box::pin(respond::write_error(session, ctx)).await.map(|()| None);
            }
        };
        let Authorized { mut permit, body, id } = authorized;
        let client_era = permit.client_era;
        ctx.id = id;
        ctx.slots = share_slots(std::mem::take(&mut permit.slots));
        let client = match request_head::session(&self.dispatcher, session, &endpoint, &permit, &body) {
            Ok(client) => client,
            Err(rejection) => return self.refuse_with(session, ctx, "session", rejection).await,
        };
        if let Some(client) = &client {
            client.renew(session.req_header().headers.get(http::header::AUTHORIZATION));
        }
        let takes = AcceptedTypes::of(session);
        let authorized = AuthorizedRequest {
            snapshot: &snapshot,
            endpoint: &endpoint,
            session: client.as_ref(),
            sse_client: None,
            client: ctx.client,
            permit,
            slots: ctx.slots.clone(),
            body,
            events: takes.events,
        };
        let exit = match self.dispatcher.dispatch_tool_call(authorized, &mut ctx.labels) {
            Ok(exit) => exit,
            Err(authorized) => Box::pin(self.dispatcher.dispatch(authorized, &mut ctx.labels)).await,
        };
        match exit {
            Ok(Dispatch::Respond(answer)) => {
                ctx.outcome = ctx.labels.dropped.then_some(Outcome::Refused);
                Box::pin(respond::write_response(session, ctx, answer)).await.map(|()| None)
            }
            Ok(Dispatch::Stream(message_stream)) => {
                // A stream may last for days. It keeps nothing of the snapshot that it began with.
                drop((snapshot, endpoint));
                Ok(Some(Next::Stream(client_era, message_stream)))
            }
            Ok(Dispatch::Bridge(call)) => match Box::pin(self.bridge(session, ctx, *call)).await {
                Ok(message_stream) => Ok(Some(Next::Stream(client_era, message_stream))),
                Err(rejection) => self.refuse_with(session, ctx, "upstream", *rejection).await,
            },
            Ok(Dispatch::Task(call)) => match Box::pin(self.task(session, ctx, *call)).await {
                Ok(message_stream) => Ok(Some(Next::Stream(client_era, message_stream))),
                Err(rejection) => self.refuse_with(session, ctx, "upstream", *rejection).await,
            },
            Ok(Dispatch::Forward(upstream_request)) => {
                // The gateway's own client sends it if Pingora would not send the body (see
                // `request_body`), if the timer must be pausable, or if the response must be converted.
                let as_it_comes = takes.both() || upstream_request.id().is_none();
                if relay::may_elicit(&upstream_request) || !as_it_comes || !request_body::can_replay(session)
                {
                    return Box::pin(relay::relay(session, ctx, upstream_request, &self.dispatcher))
                        .await
                        .map(|()| None);
                }
                Ok(Some(Next::Forward(upstream_request)))
            }
            Err(rejection) => self.refuse_with(session, ctx, "dispatch", *rejection).await,
        }
    }

    /// Reads the body of a POST; one of at most `free` bytes is not counted in `limits.max_buffered`.
    pub(super) async fn read_body(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
        free: usize,
    ) -> pingora::Result<Result<Bytes, Rejection>> {
        let limits = &ctx.snapshot.config.config.limits;
        let bounds = request_body::BodyLimits {
            limit: limits.max_body.as_usize(),
            timeout: limits.body_timeout.get(),
            total: limits.max_buffered.as_usize(),
            free,
        };
        let mut load = self.state.buffer();
        let read = request_body::read(session, &bounds, &mut load).await?;
        ctx.buffered = Some(load);
        ctx.received = read.as_ref().map_or(0, Bytes::len);
        Ok(read)
    }

    /// Starts a call to a server of the other era, with the caller's credentials for it.
    pub(super) async fn bridge(
        &self,
        session: &Session,
        ctx: &RequestContext,
        call: BridgedCall,
    ) -> Result<MessageStream, Box<Rejection>> {
        let server = &call.request.server;
        let bearer = upstream_auth::bearer(session, ctx, server).await;
        let bearer = bearer.map_err(|error| Box::new(error.rejection(&server.name)))?;
        self.dispatcher.bridge.start(call, bearer)
    }

    /// Sends a message whose response may be about a task, with the caller's credentials for its server.
    async fn task(
        &self,
        session: &Session,
        ctx: &RequestContext,
        call: TaskCall,
    ) -> Result<MessageStream, Box<Rejection>> {
        let bearer = upstream_auth::bearer(session, ctx, &call.server).await;
        let bearer = bearer.map_err(|error| Box::new(error.rejection(&call.server.name)))?;
        self.dispatcher.tasks.start(call, bearer)
    }

    /// GET and DELETE: the stream and the end of a legacy session.
    async fn handle_get_or_delete(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
        endpoint: Arc<Endpoint>,
        get: bool,
    ) -> pingora::Result<Option<Next>> {
        if let Err(rejection) =
            request_body::none(session, ctx.snapshot.config.config.limits.body_timeout.get()).await?
        {
            return self.refuse_with(session, ctx, "request_head", rejection).await;
        }
        let caller = ctx.caller.clone().unwrap_or_else(|| ctx.snapshot.config.chain.anonymous());
        let client = match request_head::session_of_get(&self.dispatcher, session, &endpoint, &caller) {
            Ok(client) => client,
            Err(rejection) => return self.refuse_with(session, ctx, "session", rejection).await,
        };
        client.renew(session.req_header().headers.get(http::header::AUTHORIZATION));
        if !get {
            ctx.labels.method = "_delete";
            self.dispatcher.sessions.end(&client);
            let answer = Response { status: 204, body: Bytes::new(), session: None, events: false };
            return Box::pin(respond::write_response(session, ctx, answer)).await.map(|()| None);
        }
        ctx.labels.method = "_stream";
        let (redactor, metrics) = (ctx.snapshot.config.redactor.clone(), &self.dispatcher.metrics);
        let screen =
            |server: &Server| ResponseRedactor::of(&server.name, &server.config, redactor.as_ref(), metrics);
        // A stream is resumed only where the session has called before and its caller still has access.
        let snapshot = ctx.snapshot.clone();
        let reach = self.dispatcher.reach(&snapshot, &endpoint, &caller).await;
        let may = |server: &Server| reach.covers(server);
        match upstream_request::resumption(session, &client, may, screen) {
            Ok(None) => {}
            Ok(Some(upstream_request)) => {
                // By the gateway's own client, which can end the stream at any time.
                return relay::relay(session, ctx, upstream_request, &self.dispatcher).await.map(|()| None);
            }
            Err(rejection) => return self.refuse_with(session, ctx, "session", rejection).await,
        }
        let (runtime, drain) = (&self.dispatcher.runtime, self.dispatcher.drain.clone());
        let list_changes = ListChangeWatcher::new(
            self.dispatcher.registry.clone(),
            &snapshot,
            &endpoint,
            Era::Legacy,
            &caller,
        )
        .await;
        let pass = self.bypasses_refusal(&endpoint.path, caller.clone());
        let timeout = snapshot.config.config.limits.write_timeout.get();
        // A stream may last for days. It keeps nothing of the snapshot that it began with.
        drop((snapshot, endpoint));
        match notifications::session_stream(runtime, client, pass, caller, list_changes, timeout, drain) {
            Ok(message_stream) => Ok(Some(Next::Stream(Era::Legacy, message_stream))),
            Err(many) => {
                let rejection = Rejection::http(429, Reason::TooManyStreams, many.to_string());
                self.refuse_with(session, ctx, "session", rejection).await
            }
        }
    }

    /// The filter for servers' messages on a caller's stream: it drops messages of servers that the caller
    /// may no longer use, and redacts secrets where this is configured.
    pub(super) fn bypasses_refusal(&self, path: &Arc<str>, caller: Caller) -> MessageFilter {
        let (dispatcher, path) = (self.dispatcher.clone(), path.clone());
        Arc::new(move |server, message| {
            passed(dispatcher.clone(), path.clone(), caller.clone(), server, message).boxed()
        })
    }

    async fn refuse(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
        stop: ChainRejection,
    ) -> pingora::Result<Option<Next>> {
        ctx.refuse(stop.filter, stop.refused.rejection);
        Box::pin(respond::write_error(session, ctx)).await.map(|()| None)
    }

    pub(super) async fn refuse_with(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
        filter: &'static str,
        rejection: Rejection,
    ) -> pingora::Result<Option<Next>> {
        ctx.refuse(filter, Box::new(rejection));
        Box::pin(respond::write_error(session, ctx)).await.map(|()| None)
    }

    pub fn log_failure(&self, ctx: &RequestContext, error: &UpstreamError) {
        let name = ctx
            .request
            .as_ref()
            .map(|upstream_request| upstream_request.server.name.clone())
            .unwrap_or_default();
        tracing::debug!(server = %name, %error, "a server failed");
    }
}

/// The part of a server's message that the caller receives.
async fn passed(
    dispatcher: Arc<Dispatcher>,
    path: Arc<str>,
    caller: Caller,
    server: Arc<Server>,
    message: Bytes,
) -> Option<Bytes> {
    let snapshot = dispatcher.registry.snapshot();
    let endpoint = snapshot.catalog.endpoint(&path)?;
    // A server that was removed from the file, or whose settings have changed, sends nothing any more.
    let now = snapshot.servers.get(&server.name)?;
    if now.serial != server.serial || !dispatcher.reach(&snapshot, endpoint, &caller).await.covers(now) {
        return None;
    }
    let redactor = snapshot.config.redactor.as_ref();
    redacted(ResponseRedactor::of(&now.name, &now.config, redactor, &dispatcher.metrics).as_ref(), message)
}

#[cfg(test)]
mod tests;
