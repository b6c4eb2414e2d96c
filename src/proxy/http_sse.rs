//! Clients over HTTP+SSE, the transport of 2024-11-05 (basic/transports, "HTTP with SSE"): a GET opens an event
//! stream, whose first event names the URI for the client's messages. Each message is a POST there. It passes the
//! same chain and the same dispatch as one to `/mcp`; its response goes out on the event stream.
//!
//! What concerns the HTTP request (credentials, size, an unknown stream) is rejected by its HTTP response. A
//! rejected message with an id gets the error on the stream: some clients take any other status than 202 for the
//! end of the connection, and no client finds the id there.

use std::sync::Arc;

use bytes::Bytes;
use filters::rate_limit::Slots;
use filters::{Caller, RequestHead};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use mcp::jsonrpc::message;
use mcp::rejection::code;
use mcp::{Era, MessageKind, Reason, Rejection, header_name, sse, version};
use pingora::proxy::Session;
use tokio::sync::mpsc;

use super::dispatched::PendingResponse;
use super::request::Next;
use super::{Gateway, RequestContext, request_body, request_head, respond};
use crate::catalog::{Endpoint, EndpointPath};
use crate::dispatch::authorize::{Authorized, share_slots};
use crate::dispatch::rejections::session_limits;
use crate::dispatch::{AuthorizedRequest, Dispatch, Response};
use crate::process::state::BufferedBytes;
use crate::registry::ListChangeWatcher;
use crate::session::{OwnerKey, SseCallGuard, SseClient};
use crate::streams::{StreamItem, notifications, sse_client};
use crate::telemetry::Outcome;
use crate::upstream::UpstreamError;

/// Why a message gets no response, and which filter rejected it.
type Refusal = (&'static str, Box<Rejection>);

impl Gateway {
    /// A request to the event stream or to the URI for messages.
    pub(super) async fn handle_http_sse(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
        endpoint: Arc<Endpoint>,
        served: EndpointPath,
    ) -> pingora::Result<Option<Next>> {
        match (served, session.req_header().method.as_str()) {
            (EndpointPath::Sse, "GET") => self.sse_stream(session, ctx, endpoint).await,
            (EndpointPath::Messages, "POST") => {
                self.sse_message(session, ctx, &endpoint).await.map(|()| None)
            }
            // Clients find out by a POST that this is not Streamable HTTP (2025-11-25, basic/transports,
            // "Backwards Compatibility").
            (_, _) => {
                let message = match served {
                    EndpointPath::Messages => "this path takes POST; GET the event stream at /sse",
                    _ => "this path takes GET; POST to /mcp for Streamable HTTP",
                };
                let rejection = Rejection::http(405, Reason::Verb, message);
                self.refuse_with(session, ctx, "request_head", rejection).await
            }
        }
    }

    /// GET: a new client.
    async fn sse_stream(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
        endpoint: Arc<Endpoint>,
    ) -> pingora::Result<Option<Next>> {
        let snapshot = ctx.snapshot.clone();
        let limits = &snapshot.config.config.limits;
        if let Err(rejection) = request_body::none(session, limits.body_timeout.get()).await? {
            return self.refuse_with(session, ctx, "request_head", rejection).await;
        }
        ctx.labels.method = "_stream";
        let caller = ctx.caller.clone().unwrap_or_else(|| snapshot.config.chain.anonymous());
        let owner_key = OwnerKey::new(caller.clone(), ctx.client);
        let opened = self.dispatcher.sse_clients.open(owner_key, &endpoint.path, session_limits(&snapshot));
        let guard = match opened {
            Ok(guard) => guard,
            Err(full) => return self.refuse_with(session, ctx, "session", full.rejection()).await,
        };
        let public_path = snapshot.config.config.listen.public_path();
        let uri = messages_uri(session.req_header().uri.path(), public_path, &guard.client().id);
        let pass = self.bypasses_refusal(&endpoint.path, caller);
        let (timeout, drain) = (limits.write_timeout.get(), self.dispatcher.drain.clone());
        // A stream may last for days. It keeps nothing of the snapshot that it began with.
        drop((snapshot, endpoint));
        match sse_client::event_stream(&self.dispatcher.runtime, guard, uri, pass, timeout, drain) {
            Ok(message_stream) => {
                ctx.is_sse_client = true;
                Ok(Some(Next::Stream(Era::Legacy, message_stream)))
            }
            Err(many) => {
                let rejection = Rejection::http(429, Reason::TooManyStreams, many.to_string());
                self.refuse_with(session, ctx, "session", rejection).await
            }
        }
    }

    /// POST: a message of a client.
    async fn sse_message(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
        endpoint: &Arc<Endpoint>,
    ) -> pingora::Result<()> {
        let caller = ctx.caller.clone().unwrap_or_else(|| ctx.snapshot.config.chain.anonymous());
        let client = match self.sse_client(session, endpoint, &caller) {
            Ok(client) => client,
            Err(rejection) => return self.refuse_with(session, ctx, "session", rejection).await.map(|_| ()),
        };
        // Each counts: it may stay in memory after its response, and a client may send many.
        let body = match self.read_body(session, ctx, 0).await? {
            Ok(body) => body,
            Err(rejection) => return self.refuse_with(session, ctx, "size", rejection).await.map(|_| ()),
        };
        if let Err((filter, rejection)) =
            self.take_message(session, ctx, endpoint, caller, &client, body).await
        {
            let on_stream = rejection.challenge.is_none() && rejection.reason != Reason::NoSession;
            let id = ctx.id.as_deref().filter(|_| on_stream);
            let error = id.map(|id| message::rejection_response(Some(id), &rejection));
            ctx.refuse(filter, rejection);
            match error {
                Some(error) => client.send(error).await,
                None => return respond::write_error(session, ctx).await,
            }
        }
        respond::write_response(session, ctx, Response::accepted()).await
    }

    /// The client that the query names, if the caller opened it on this endpoint.
    fn sse_client(
        &self,
        session: &Session,
        endpoint: &Endpoint,
        caller: &Caller,
    ) -> Result<Arc<SseClient>, Rejection> {
        let none = "no such session here; open one with GET at /sse";
        let id = session_id(session.req_header().uri.query().unwrap_or_default())
            .map_err(|missing| Rejection::new(400, code::INVALID_REQUEST, Reason::SessionMissing, missing))?;
        let client = self.dispatcher.sse_clients.get(id, &endpoint.path, caller);
        client.ok_or_else(|| Rejection::http(404, Reason::NoSession, none))
    }

    /// Judges and dispatches a message. Its response, if it has one, goes to the client when it is there.
    async fn take_message(
        &self,
        session: &Session,
        ctx: &mut RequestContext,
        endpoint: &Arc<Endpoint>,
        caller: Caller,
        client: &Arc<SseClient>,
        body: Bytes,
    ) -> Result<(), Refusal> {
        let snapshot = ctx.snapshot.clone();
        let headers = without_version(&session.req_header().headers);
        let head = RequestHead { headers: &headers, ..request_head::head(session, ctx.client) };
        let judged =
            self.dispatcher.authorize(&snapshot, endpoint, head, caller.clone(), body, &mut ctx.labels).await;
        let Authorized { mut permit, body, id } = match judged {
            Ok(authorized) => authorized,
            Err(rejected) => {
                ctx.id = rejected.id;
                return Err((rejected.filter, rejected.rejection));
            }
        };
        ctx.id = id.clone();
        let slots = share_slots(std::mem::take(&mut permit.slots));
        let (kind, method) = (permit.rpc.kind, permit.rpc.method);
        let is =
            |of: MessageKind, word: &str| kind == of && method.is_some_and(|method| method.is(&body, word));
        if permit.client_era == Era::Modern {
            let message = "HTTP+SSE has only the protocol versions with `initialize`; POST to /mcp instead";
            let rejection =
                Rejection::new(400, code::UNSUPPORTED_VERSION, Reason::UnsupportedVersion, message);
            return Err(("session", Box::new(rejection)));
        }
        let (opens, known) = (is(MessageKind::Request, "initialize"), client.session());
        if known.is_none() && !opens && !is(MessageKind::Request, "ping") {
            let message =
                "this event stream has no session yet; begin with `initialize`, after a reconnect too";
            return Err(("session", Box::new(Rejection::http(404, Reason::NoSession, message))));
        }
        if let Some(known) = &known {
            known.renew(session.req_header().headers.get(AUTHORIZATION));
        }
        let call = match id.filter(|_| !opens) {
            Some(id) => Some(client.begin_call(id).ok_or_else(|| ("session", Box::new(too_many_calls())))?),
            None => None,
        };
        let cancelled =
            permit.rpc.request_id.filter(|_| is(MessageKind::Notification, "notifications/cancelled"));
        let cancelled = cancelled.and_then(|id| client.call(id.of(&body)));
        if let Some(cancelled) = &cancelled {
            cancelled.cancel();
        }
        let list_changes = match opens {
            true => Some(
                ListChangeWatcher::new(
                    self.dispatcher.registry.clone(),
                    &snapshot,
                    endpoint,
                    Era::Legacy,
                    &caller,
                )
                .await,
            ),
            false => None,
        };
        let authorized = AuthorizedRequest {
            snapshot: &snapshot,
            endpoint,
            session: known.as_ref(),
            sse_client: Some(client),
            client: ctx.client,
            permit,
            slots: slots.clone(),
            body,
            events: true,
        };
        let exit = Box::pin(self.dispatcher.dispatch(authorized, &mut ctx.labels)).await;
        if let (Err(_), Some(cancelled)) = (&exit, &cancelled) {
            cancelled.stop();
        }
        let exit = exit.map_err(|rejection| ("dispatch", rejection))?;
        if let (Some(list_changes), Some(opened)) = (list_changes, client.session()) {
            notifications::announce_list_changes(&self.dispatcher.runtime, &opened, caller, list_changes);
        }
        let (notes, received) = mpsc::channel(8);
        let done = match (exit, call) {
            (Dispatch::Respond(reply), _) => {
                ctx.outcome = ctx.labels.dropped.then_some(Outcome::Refused);
                let answer = message_of(reply);
                if !answer.is_empty() {
                    client.send(answer).await;
                }
                Ok(())
            }
            (exit, Some(call)) => {
                let work = self.pending_response(session, ctx, exit, notes, None).await;
                let held = (slots, ctx.buffered.take());
                self.deliver(ctx, client.clone(), call, work, received, held);
                Ok(())
            }
            // The next message of the client must not overtake this one.
            (exit, None) => {
                let work = self.pending_response(session, ctx, exit, notes, None).await;
                work.await.map(drop).map_err(|rejection| ("upstream", rejection))
            }
        };
        if let Some(cancelled) = &cancelled {
            cancelled.stop();
        }
        done
    }

    /// Waits for the response of a call and puts it on the stream. The end of the session ends the call; `held`
    /// is what the call takes of limits.
    fn deliver(
        &self,
        ctx: &mut RequestContext,
        client: Arc<SseClient>,
        call: SseCallGuard,
        work: PendingResponse,
        mut received: mpsc::Receiver<StreamItem>,
        held: (Option<Arc<Slots>>, Option<BufferedBytes>),
    ) {
        ctx.counted_later = true;
        let (labels, id) = (ctx.labels.clone(), ctx.id.clone());
        let (metrics, cut) = (self.dispatcher.metrics.clone(), self.dispatcher.cut.clone());
        let max_waiting = self.dispatcher.registry.snapshot().config.config.limits.max_buffered.as_usize();
        let mut waiting = self.state.buffer();
        let ended = client.session().map(|session| session.end()).unwrap_or_default();
        self.dispatcher.runtime.spawn(async move {
            let _held = held;
            let pass_on = async {
                while let Some(item) = received.recv().await {
                    if let StreamItem::Message(note) = item {
                        client.send(note).await;
                    }
                }
            };
            let answer = tokio::select! {
                (answer, ()) = async { tokio::join!(work, pass_on) } => answer,
                () = call.call().stopped() => return labels.count(&metrics, Outcome::ClientAborted),
                // A second `initialize` ends the session of the first, not its client.
                () = ended.cancelled() => match client.session() {
                    None => return labels.count(&metrics, Outcome::ClientAborted),
                    Some(_) => {
                        let server = labels.server.clone().unwrap_or_default();
                        Err(Box::new(UpstreamError::SessionClosed.rejection(&server)))
                    }
                },
                () = cut.cancelled() => {
                    let server = labels.server.clone().unwrap_or_default();
                    Err(Box::new(UpstreamError::Stopping.rejection(&server)))
                }
            };
            let failed = |answer: &Bytes| message::read(answer).is_some_and(|read| read.error.is_some());
            labels.count(
                &metrics,
                match &answer {
                    _ if call.call().is_cancelled() => Outcome::ClientAborted,
                    Ok(answer) if failed(answer) => Outcome::Error,
                    Ok(_) => Outcome::Ok,
                    Err(_) => Outcome::Failed,
                },
            );
            if let Err(rejection) = &answer {
                metrics.rejected("upstream", rejection.reason);
            }
            if !call.call().is_cancelled() {
                let error =
                    |rejection: Box<Rejection>| message::rejection_response(id.as_deref(), &rejection);
                let answer = answer.unwrap_or_else(error);
                // Until the client reads, it counts like the bodies of requests.
                let answer = match waiting.grow(answer.len(), max_waiting) {
                    true => answer,
                    false => error(Box::new(Rejection::http(
                        503,
                        Reason::MaxBuffered,
                        "answers that clients do not read fill the memory that is set aside (limits.max_buffered)",
                    ))),
                };
                client.send(answer).await;
            }
        });
    }
}

/// The URI for the messages of a client, as its first event names it. A relative one is resolved at the path that
/// the client knows, whatever a proxy has made of it; where that path is configured, the URI has it.
pub fn messages_uri(path: &str, public_path: Option<&str>, id: &str) -> String {
    let messages = EndpointPath::Messages.as_str();
    match (public_path, EndpointPath::split(path)) {
        (Some(public), Some((scope, _))) => format!("{public}{scope}{messages}/?session_id={id}"),
        _ if path.ends_with('/') => format!("..{messages}/?session_id={id}"),
        _ => format!("{}/?session_id={id}", &messages[1..]),
    }
}

/// The id in a query; one that cannot be one is of no client.
pub fn session_id(query: &str) -> Result<&str, &'static str> {
    let mut ids = query.split('&').filter_map(|pair| pair.strip_prefix("session_id="));
    match (ids.next(), ids.next()) {
        (Some(id), None) => Ok(id),
        (Some(_), Some(_)) => Err("`session_id` must stand once in the query"),
        (None, _) => Err("`session_id` is missing in the query; GET /sse gives one"),
    }
}

/// The headers without the version, where it may be negotiated over HTTP+SSE: Streamable HTTP does not have each
/// of these. Newer clients of the SDKs send it, older ones do not.
pub fn without_version(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    let mut versions = headers.get_all(header_name::PROTOCOL_VERSION).iter();
    let known = |value: &http::HeaderValue| value.to_str().is_ok_and(version::is_of_http_sse);
    if versions.next().is_some_and(known) && versions.next().is_none() {
        headers.remove(header_name::PROTOCOL_VERSION);
    }
    headers
}

/// A response from memory, as a message.
fn message_of(reply: Response) -> Bytes {
    if !reply.events {
        return reply.body;
    }
    sse::read(&reply.body).message().map(Bytes::copy_from_slice).unwrap_or_default()
}

fn too_many_calls() -> Rejection {
    let message = "too many requests of this event stream are in flight; wait for some responses";
    Rejection::http(429, Reason::TooManyAtOnce, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uri_for_messages_leads_there_from_wherever_the_client_is() {
        for (path, public_path, uri) in [
            ("/sse", None, "messages/?session_id=7"),
            ("/sse/", None, "../messages/?session_id=7"),
            ("/servers/a/sse", None, "messages/?session_id=7"),
            ("/servers/a/sse/", None, "../messages/?session_id=7"),
            ("/sse", Some(""), "/messages/?session_id=7"),
            ("/sse/", Some("/tools"), "/tools/messages/?session_id=7"),
            ("/servers/a/sse", Some("/tools"), "/tools/servers/a/messages/?session_id=7"),
        ] {
            assert_eq!(messages_uri(path, public_path, "7"), uri, "{path} {public_path:?}");
        }
    }

    #[test]
    fn a_query_has_one_session_id() {
        for (query, id) in [
            ("session_id=ab", Some("ab")),
            ("a=b&session_id=ab&c", Some("ab")),
            ("session_id=", Some("")),
            ("session_id=a%62=c", Some("a%62=c")),
            ("", None),
            ("&&", None),
            ("Session_id=ab", None),
            ("xsession_id=ab", None),
            ("session_id=a&session_id=a", None),
        ] {
            assert_eq!(session_id(query).ok(), id, "{query}");
        }
    }

    #[test]
    fn only_a_version_that_may_be_negotiated_here_is_taken_for_granted() {
        for (sent, stays) in [
            (&["2024-11-05"][..], 0),
            (&["2025-11-25"], 0),
            (&["2026-07-28"], 1),
            (&["x"], 1),
            (&["2024-11-05", "2024-11-05"], 2),
            (&[], 0),
        ] {
            let mut headers = HeaderMap::new();
            for version in sent {
                headers.append(header_name::PROTOCOL_VERSION, version.parse().expect("a header"));
            }
            let left = without_version(&headers);
            assert_eq!(left.get_all(header_name::PROTOCOL_VERSION).iter().count(), stays, "{sent:?}");
        }
    }
}
