//! The last step of a call to a server: builds the upstream request.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue};
use mcp::json::quote::quote;
use mcp::json::splice::{apply_edits, rename};
use mcp::{Reason, Rejection, Span};
use tokio_util::sync::CancellationToken;

use super::rejections::invalid;
use super::{AuthorizedRequest, Dispatch, Dispatcher, RequestLabels};
use crate::catalog::Target;
use crate::exchange::{ForwardedCall, UpstreamRequest, UpstreamRequestKind};
use crate::server::Server;
use crate::session::{InFlight, SentIds, StateChange};
use crate::streams::call;
use crate::upstream::{ResponseRedactor, UpstreamError, WireId};
use mcp::jsonrpc::message;
use mcp::method::Method;

impl Dispatcher {
    /// Forwards to the server of a name; at `place` the name is replaced by the server's own.
    pub(super) fn forward_renamed(
        &self,
        authorized: AuthorizedRequest<'_>,
        target: &Target,
        method: Method,
        place: Option<Span>,
        state_change: Option<StateChange>,
        labels: &mut RequestLabels,
    ) -> Result<Dispatch, Box<Rejection>> {
        let counted = matches!(method, Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead);
        labels.counters = counted.then(|| target.counters.clone());
        labels.server = Some(target.server.name.clone());
        labels.tool = Some(target.display_name.clone());
        let renamed = place.filter(|_| *target.name != *target.display_name);
        let param_headers = match &target.param_headers {
            Some(param_headers) if authorized.permit.client_era.codec().has_mirrored_headers() => {
                param_headers
                    .headers(authorized.permit.rpc.arguments.map(|arguments| arguments.of(&authorized.body)))
            }
            _ => Vec::new(),
        };
        let safe = method.is_idempotent() || (method == Method::ToolsCall && target.idempotent);
        let renamed = renamed.map(|place| (place, target.name.clone()));
        if method == Method::ToolsCall && Self::may_become_task(&authorized, target) {
            return self.call_with_tasks(authorized, target, safe, renamed, param_headers);
        }
        if target.server_era != authorized.permit.client_era {
            return self.bridged(authorized, target.server.clone(), Some(target), method, renamed);
        }
        self.build(authorized, target.server.clone(), safe, renamed, param_headers, state_change)
    }

    /// Forwards to the only server of an endpoint, with the message as it is.
    pub(super) fn forward_as_is(
        &self,
        authorized: AuthorizedRequest<'_>,
        server: Arc<Server>,
        method: Method,
        state_change: Option<StateChange>,
        labels: &mut RequestLabels,
    ) -> Result<Dispatch, Box<Rejection>> {
        labels.server = Some(server.name.clone());
        let client_era = authorized.permit.client_era;
        if authorized.endpoint.view(client_era).server_era.is_some_and(|server_era| server_era != client_era)
        {
            return self.bridged(authorized, server, None, method, None);
        }
        self.build(authorized, server, method.is_idempotent(), None, Vec::new(), state_change)
    }

    pub(super) fn build(
        &self,
        authorized: AuthorizedRequest<'_>,
        server: Arc<Server>,
        safe: bool,
        renamed: Option<(Span, Arc<str>)>,
        param_headers: Vec<(HeaderName, HeaderValue)>,
        state_change: Option<StateChange>,
    ) -> Result<Dispatch, Box<Rejection>> {
        let failed = |error: UpstreamError| Box::new(error.rejection(&server.name));
        let call_guard = server.begin_call().map_err(failed)?;
        let (rpc, client_era) = (&authorized.permit.rpc, authorized.permit.client_era);
        // Not bridged yet: each client is served by the servers of its own era.
        let server_era = client_era;
        // A copy: a slice would share the body, which then could not be renamed in place.
        let id = rpc.id.map(|id| Bytes::copy_from_slice(id.of(&authorized.body)));
        let redactor = ResponseRedactor::of(
            &server.name,
            &server.config,
            authorized.snapshot.config.redactor.as_ref(),
            &self.metrics,
        );
        let begin = |sent, stop| Some(InFlight::begin(authorized.session?, id.clone()?, sent, &server, stop));
        if let Some(pool) = server.endpoint_pool() {
            let key = if pool.has_session_affinity() { authorized.affinity_key() } else { 0 };
            // The head names what is called or got, not what is completed (2026-07-28, streamable-http).
            let named = |method: &str| {
                matches!(method, "tools/call" | "prompts/get" | "tasks/get" | "tasks/update" | "tasks/cancel")
            };
            let renames = renamed.as_ref().filter(|_| named(&rpc.method_name(&authorized.body)));
            let name = renames.map(|(_, name)| name.clone());
            let is_token =
                |token: &Span| matches!(token.of(&authorized.body), [b'"' | b'-' | b'0'..=b'9', ..]);
            let (wire, token) = (WireId::next(), rpc.meta.progress_token.filter(is_token));
            let logs = !server_era.codec().has_nameless_messages() && rpc.meta.log_level.is_some();
            let sent = SentIds {
                wire,
                token: token.map(|token| Bytes::copy_from_slice(token.of(&authorized.body))),
            };
            let in_flight = begin(Some(sent.clone()), None);
            let renamed = renamed.map(|(place, name)| (place, quote(&name)));
            let mut edits = [(Span::default(), &[][..]); 3];
            let mut count = 0;
            let places = [(rpc.id, &*wire), (token, &*wire)];
            let name_edit = renamed.iter().map(|(place, name)| (Some(*place), name.as_bytes()));
            for (place, text) in places.into_iter().chain(name_edit) {
                if let Some(place) = place {
                    edits[count] = (place, text);
                    count += 1;
                }
            }
            let edits = &mut edits[..count];
            edits.sort_unstable_by_key(|(place, _)| place.start);
            let body = match edits {
                [] => authorized.body,
                edits => apply_edits(
                    authorized.body.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..])),
                    edits,
                ),
            };
            let call = UpstreamRequestKind::Call(ForwardedCall {
                id: id.expect("a request has an id"),
                sent,
                body,
                server_era,
                session: authorized.session.cloned(),
                in_flight,
                state_change: state_change.map(Box::new),
                name,
                param_headers,
                idempotent: safe,
                affinity_key: key,
                logs,
            });
            return Ok(Dispatch::Forward(UpstreamRequest::new(server, call, call_guard, redactor)));
        }
        let stop = CancellationToken::new();
        let in_flight = begin(None, Some(stop.clone()));
        let params = rpc.params.map(|params| {
            let text = authorized.body.slice(params.start..params.end);
            match &renamed {
                None => text,
                Some((place, name)) => {
                    let place = Span { start: place.start - params.start, end: place.end - params.start };
                    rename(BytesMut::from(&text[..]), place, name)
                }
            }
        });
        let params = params.unwrap_or_else(|| Bytes::from_static(b"{}"));
        // The token is searched in the final params: a longer or shorter name has moved it.
        let token = rpc.meta.progress_token.and_then(|_| {
            let meta = message::member(&params, "_meta")?;
            let token = message::member(meta.of(&params), "progressToken")?;
            let place = Span { start: meta.start + token.start, end: meta.start + token.end };
            Some((params.slice(place.start..place.end), place))
        });
        let local_call = call::LocalCall {
            call_guard,
            in_flight,
            state_change,
            slots: authorized.slots,
            client_era,
            server_era,
            method: rpc.method_name(&authorized.body).into_owned(),
            params,
            id: id.unwrap_or_default(),
            token,
            redactor,
        };
        Ok(Dispatch::Stream(call::start(&self.runtime, local_call, stop)))
    }
}

/// The state change of the session that a request about a resource makes.
pub(super) fn state_change(
    authorized: &AuthorizedRequest<'_>,
    method: Method,
    uri: String,
    server: &Server,
) -> Result<Option<StateChange>, Box<Rejection>> {
    let Some(session) = authorized.session else { return Ok(None) };
    match method {
        Method::Subscribe if !session.client_state.has_room(&server.name, &uri) => {
            let message = "this session follows as many resources as it may; unsubscribe from one first";
            Err(invalid(authorized.permit.client_era, Reason::TooManySubscriptions, message))
        }
        Method::Subscribe => Ok(Some(StateChange::Subscribe(uri))),
        Method::Unsubscribe => Ok(Some(StateChange::Unsubscribe(uri))),
        _ => Ok(None),
    }
}
