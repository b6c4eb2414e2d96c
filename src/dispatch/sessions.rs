//! The parts of dispatch that only the legacy era has: opening a session, notifications, responses to server
//! requests, session state at servers.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use filters::guard::MemberPath;
use futures::future::join_all;
use mcp::json::splice::splice;
use mcp::rejection::code;
use mcp::{Era, Reason, Rejection, Span};
use tokio::sync::mpsc;

use super::reach::Reach;
use super::rejections::{invalid, session_limits, unknown_method};
use super::text_places;
use super::{AuthorizedRequest, Dispatch, Dispatcher, Response};
use crate::bridge::LOG_LEVELS;
use crate::catalog::Endpoint;
use crate::exchange::{ForwardedAnswer, UpstreamRequest, UpstreamRequestKind};
use crate::server::Server;
use crate::session::id_map;
use crate::session::{ClientAnswer, ClientInit, ClientReply, OwnerKey, Session};
use crate::streams::{MessageStream, StreamItem};
use crate::upstream::http::UpstreamSession;
use mcp::jsonrpc::message;
use mcp::method::{Destination, Method};
use mcp::version;

/// Limit of capabilities and client info together, in bytes.
const MAX_CLIENT: usize = 8 * 1024;
/// How long a client waits until its notification has reached its servers.
const FAN_OUT_TIMEOUT: Duration = Duration::from_secs(2);

impl Dispatcher {
    /// Opens a session; `endpoint` is what the caller sees of it.
    pub(super) fn initialize(
        &self,
        authorized: &AuthorizedRequest<'_>,
        endpoint: &Endpoint,
    ) -> Result<Dispatch, Box<Rejection>> {
        let (rpc, body) = (&authorized.permit.rpc, &authorized.body);
        self.require_era(endpoint, Era::Legacy)?;
        let client_era = Era::Legacy;
        let asked = rpc.protocol_version.ok_or_else(|| {
            invalid(client_era, Reason::VersionMissing, "params.protocolVersion must be a string")
        })?;
        let object = |span: Option<Span>, fallback: &'static [u8]| {
            span.map_or(Bytes::from_static(fallback), |span| Bytes::copy_from_slice(span.of(body)))
        };
        // A session keeps these for as long as it lives.
        let capabilities = object(rpc.capabilities, b"{}");
        let mut info = object(rpc.client_info, br#"{"name":"unknown","version":"0"}"#);
        if capabilities.len() + info.len() > MAX_CLIENT {
            info = name_of(&info);
        }
        let sanitized =
            |part, place| self.sanitize_client_info(authorized.snapshot, authorized.endpoint, part, place);
        let (capabilities, info) =
            (sanitized(capabilities, &MemberPath::Text), sanitized(info, text_places::CLIENT));
        if capabilities.len() + info.len() > MAX_CLIENT {
            let message =
                format!("capabilities and the name in clientInfo are longer than {MAX_CLIENT} bytes");
            return Err(invalid(client_era, Reason::ClientTooLong, message));
        }
        let asked = asked.read(body);
        // Over HTTP+SSE the stream is there already, and its id is what the client knows.
        let (version, outbox) = match authorized.sse_client {
            Some(client) => (version::negotiate_http_sse(&asked), client.outbox().clone()),
            None => (version::negotiate(&asked), Arc::default()),
        };
        let session = self
            .sessions
            .open_with(
                outbox,
                OwnerKey::new(authorized.permit.caller.clone(), authorized.client),
                &endpoint.path,
                ClientInit { version, capabilities, client_info: info },
                session_limits(authorized.snapshot),
            )
            .map_err(|full| Box::new(full.rejection()))?;
        if let Some(client) = authorized.sse_client {
            client.adopt(&self.sessions, &session);
        }
        let view = &endpoint.legacy;
        let result = client_era.codec().handshake_result(
            session.version,
            &view.capabilities,
            &view.server_info,
            view.instructions.as_deref(),
        );
        let id = rpc.id.expect("a request has an id").of(body);
        let body = message::result(id, &result);
        let session = authorized.sse_client.is_none().then(|| session.id.clone());
        Ok(Dispatch::Respond(Response { session, ..Response::ok(body) }))
    }

    /// Sends a permitted notification to the destination of its method.
    pub(super) async fn notification(
        &self,
        authorized: AuthorizedRequest<'_>,
        method: Method,
        goes: Destination,
    ) -> Result<Dispatch, Box<Rejection>> {
        let Some(session) = authorized.session else { return Ok(Dispatch::Respond(Response::accepted())) };
        let reach = match goes {
            Destination::RequestingServer | Destination::AllServers | Destination::SingleServer => {
                authorized.reach(self).await
            }
            Destination::ServerOfRequest
            | Destination::Gateway
            | Destination::ByName
            | Destination::ServerOfTask
            | Destination::Client => Reach::nothing(),
        };
        let reached = |(server, upstream_session): (Arc<Server>, Arc<UpstreamSession>)| {
            reach.covers(&server).then_some((server, upstream_session))
        };
        Ok(match goes {
            Destination::ServerOfRequest => {
                let id = authorized.permit.rpc.request_id.map(|span| span.of(&authorized.body));
                let Some(in_flight) = id.and_then(|id| session.in_flight.get(id)) else {
                    return Ok(Dispatch::Respond(Response::accepted()));
                };
                // The upstream session that it runs in, which may differ from the current one.
                let there = in_flight
                    .upstream_session()
                    .map(|upstream_session| (in_flight.server.clone(), upstream_session))
                    .into_iter()
                    .collect();
                let params = params(&authorized);
                let dispatched = match (message::member(&params, "requestId"), in_flight.sent()) {
                    (Some(place), Some(sent)) => {
                        let params = splice(BytesMut::from(&params[..]), place, &sent.wire);
                        self.fan_out_notification(&authorized, there, method, params)?
                    }
                    _ => Dispatch::Respond(Response::accepted()),
                };
                if let Some(stop) = &in_flight.stop {
                    stop.cancel();
                }
                session.in_flight.remove(in_flight.id());
                dispatched
            }
            Destination::RequestingServer => {
                // Of a server's own request: two servers may well have chosen the same token.
                let params = params(&authorized);
                let token = message::member(&params, "progressToken");
                let requesting =
                    token.and_then(|place| Some((place, id_map::parse_request_id(place.of(&params))?)));
                let Some((place, (number, raw))) = requesting else {
                    return Ok(Dispatch::Respond(Response::accepted()));
                };
                let params = splice(BytesMut::from(&params[..]), place, raw.as_bytes());
                let there = session.upstream_session_by_id(number).and_then(reached);
                self.fan_out_notification(&authorized, there.into_iter().collect(), method, params)?
            }
            // A session without an upstream session there has nothing to report. To open one, the caller's
            // credentials may be needed, which a notification does not have.
            Destination::AllServers => {
                let there = session.upstream_sessions().into_iter().filter_map(reached).collect();
                self.fan_out_notification(&authorized, there, method, params(&authorized))?
            }
            Destination::SingleServer => {
                let only = authorized.endpoint.single.as_ref();
                let there = session
                    .upstream_sessions()
                    .into_iter()
                    .filter(|(server, _)| only.is_some_and(|only| only.name == server.name));
                self.fan_out_notification(
                    &authorized,
                    there.filter_map(reached).collect(),
                    method,
                    params(&authorized),
                )?
            }
            Destination::Gateway | Destination::ByName | Destination::ServerOfTask | Destination::Client => {
                Dispatch::Respond(Response::accepted())
            }
        })
    }

    /// Passes a notification on. Its sender gets the 202 when it has arrived, so that its next message does
    /// not overtake it; the wait is short. Rejected if none of the servers may get it.
    fn fan_out_notification(
        &self,
        authorized: &AuthorizedRequest<'_>,
        there: Vec<(Arc<Server>, Arc<UpstreamSession>)>,
        method: Method,
        params: Bytes,
    ) -> Result<Dispatch, Box<Rejection>> {
        let (place, mut blocked) = (text_places::notification(method), None);
        let mut all = Vec::with_capacity(there.len());
        for (server, upstream_session) in there {
            let clean = match &params[..] {
                b"" => Ok(None),
                text => self.sent_to(authorized.snapshot, &server, text, place),
            };
            match clean {
                Ok(clean) => all.push((server, upstream_session, clean.unwrap_or_else(|| params.clone()))),
                Err(rejection) => blocked = Some(rejection),
            }
        }
        match blocked {
            Some(rejection) if all.is_empty() => return Err(rejection),
            _ if all.is_empty() => return Ok(Dispatch::Respond(Response::accepted())),
            _ => {}
        }
        let all = all.into_iter().map(|(server, upstream_session, params)| async move {
            let Some(http) = server.endpoint_pool() else { return };
            if let Err(error) = http.notify(&upstream_session, method.as_str(), params).await {
                let method = method.as_str();
                tracing::debug!(server = %server.name, method, %error, "a notification was not passed on");
            }
        });
        let (message, receiver) = mpsc::channel(1);
        let sending = self.runtime.spawn(join_all(all.collect::<Vec<_>>()));
        self.runtime.spawn(async move {
            let _ = tokio::time::timeout(FAN_OUT_TIMEOUT, sending).await;
            let _ = message.send(StreamItem::Accepted).await;
        });
        Ok(Dispatch::Stream(MessageStream {
            items: receiver,
            stream: false,
            abort_on_drop: None,
            final_message: None,
        }))
    }

    /// A client's response to a request of a server.
    pub(super) async fn response(
        &self,
        authorized: AuthorizedRequest<'_>,
    ) -> Result<Dispatch, Box<Rejection>> {
        let Some(session) = authorized.session.filter(|_| authorized.permit.client_era == Era::Legacy) else {
            return Err(Box::new(Rejection::new(
                400,
                code::INVALID_REQUEST,
                Reason::UnexpectedResponse,
                "no request of the server waits for this response",
            )));
        };
        let nowhere = || Ok(Dispatch::Respond(Response::accepted()));
        let Some(id) = authorized.permit.rpc.id else { return nowhere() };
        if let Some((server, method)) = session.questions.find(id.of(&authorized.body)) {
            return self.answer_question(&authorized, session, &server, method).await;
        }
        let Some((number, raw)) = id_map::parse_request_id(id.of(&authorized.body)) else { return nowhere() };
        // A response that no server of this session waits for is dropped.
        let reach = authorized.reach(self).await;
        let there = session.upstream_session_by_id(number).filter(|(server, _)| reach.covers(server));
        let Some((server, upstream_session)) = there else { return nowhere() };
        let Some(answering) = ClientAnswer::begin(session, number, raw.as_bytes()) else { return nowhere() };
        let body = splice(BytesMut::from(&authorized.body[..]), id, raw.as_bytes());
        // If it is rejected, the request stays pending: the client may answer once more.
        let place = text_places::response(answering.method().unwrap_or(Method::Other));
        let body = self.sent_to(authorized.snapshot, &server, &body, place)?.unwrap_or(body);
        let session = session.clone();
        let answer = ForwardedAnswer { body, session, upstream_session, pending: answering };
        // The call that waits for it counts already.
        let call_guard = server.untracked();
        let kind = UpstreamRequestKind::Answer(answer);
        Ok(Dispatch::Forward(UpstreamRequest::new(server, kind, call_guard, None)))
    }

    /// A client's answer to what the gateway asked it for a server, which gets it with a retry of the call.
    /// An answer that may not go there leaves the question open.
    async fn answer_question(
        &self,
        authorized: &AuthorizedRequest<'_>,
        session: &Session,
        server: &Server,
        method: Method,
    ) -> Result<Dispatch, Box<Rejection>> {
        let body = &authorized.body;
        if authorized.reach(self).await.covers(server) {
            let clean = self.sent_to(authorized.snapshot, server, body, text_places::response(method))?;
            let clean = clean.unwrap_or_else(|| body.clone());
            let read = message::read(&clean).unwrap_or_default();
            let part = |span: Span| clean.slice(span.start..span.end);
            let reply = match (read.result, read.error) {
                (Some(result), None) => Some(ClientReply::Result(part(result))),
                (None, Some(error)) => Some(ClientReply::Error(part(error))),
                _ => None,
            };
            let id = authorized.permit.rpc.id.map(|id| id.of(body)).unwrap_or_default();
            if let Some(reply) = reply
                && let Some(question) = session.questions.take(id)
            {
                question.answer(reply);
            }
        }
        Ok(Dispatch::Respond(Response::accepted()))
    }

    /// `logging/setLevel` for many servers: those with an upstream session are notified in the background,
    /// others when one is opened there.
    pub(super) async fn set_log_level(
        &self,
        authorized: &AuthorizedRequest<'_>,
        endpoint: &Endpoint,
    ) -> Result<Dispatch, Box<Rejection>> {
        let (rpc, client_era) = (&authorized.permit.rpc, authorized.permit.client_era);
        if message::member(&endpoint.view(client_era).capabilities, "logging").is_none() {
            return Err(unknown_method(client_era));
        }
        let level = rpc.level.map(|level| level.read(&authorized.body));
        let Some(level) = level.filter(|level| LOG_LEVELS.contains(&&**level)) else {
            let message = format!("params.level must be one of {}", LOG_LEVELS.join(", "));
            return Err(invalid(client_era, Reason::UnknownLevel, message));
        };
        if let Some(session) = authorized.session {
            // Nothing else of the client's message goes to so many servers.
            let params = Bytes::from(format!(r#"{{"level":"{level}"}}"#));
            session.client_state.set_level(params.clone());
            let reach = authorized.reach(self).await;
            let reachable =
                session.upstream_sessions().into_iter().filter(|(server, _)| reach.covers(server));
            for (server, upstream_session) in reachable {
                let params = params.clone();
                self.runtime.spawn(async move {
                    let Some(http) = server.endpoint_pool() else { return };
                    if let Err(error) = http.request_in(&upstream_session, "logging/setLevel", params).await {
                        tracing::debug!(server = %server.name, %error, "a setting was not passed on");
                    }
                });
            }
        }
        let id = rpc.id.expect("a request has an id").of(&authorized.body);
        Ok(Dispatch::Respond(Response::ok(message::result(id, b"{}"))))
    }
}

fn params(authorized: &AuthorizedRequest<'_>) -> Bytes {
    authorized.permit.rpc.params.map(|span| authorized.body.slice(span.start..span.end)).unwrap_or_default()
}

/// A client's name and version, without the rest of its info.
fn name_of(info: &Bytes) -> Bytes {
    let mut short = BytesMut::from("{");
    for name in ["name", "title", "version"] {
        if let Some(value) = message::member(info, name) {
            let comma = if short.len() > 1 { "," } else { "" };
            short.put_slice(format!("{comma}\"{name}\":").as_bytes());
            short.put_slice(value.of(info));
        }
    }
    short.put_u8(b'}');
    short.freeze()
}
