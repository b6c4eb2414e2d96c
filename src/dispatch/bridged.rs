//! Calls to a server that does not speak the client's era: what the bridge needs of them.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mcp::json::splice::rename;
use mcp::jsonrpc::message;
use mcp::method::Method;
use mcp::{Era, Rejection, Span};

use super::rejections::{session_limits, unknown_method};
use super::{AuthorizedRequest, Dispatch, Dispatcher};
use crate::bridge::{BridgedCall, BridgedClient, BridgedRequest, ModernClient};
use crate::catalog::Target;
use crate::server::Server;
use crate::upstream::{ResponseRedactor, UpstreamError};

/// The methods whose calls are bridged.
fn is_bridged(method: Method) -> bool {
    matches!(method, Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead | Method::Complete)
}

impl Dispatcher {
    /// A call to a server of the other era. `renamed` is the place of the name in the message, and the
    /// server's own name.
    pub(super) fn bridged(
        &self,
        authorized: AuthorizedRequest<'_>,
        server: Arc<Server>,
        target: Option<&Target>,
        method: Method,
        renamed: Option<(Span, Arc<str>)>,
    ) -> Result<Dispatch, Box<Rejection>> {
        let client_era = authorized.permit.client_era;
        if !is_bridged(method) {
            return Err(unknown_method(client_era));
        }
        let failed = |error: UpstreamError| Box::new(error.rejection(&server.name));
        let call_guard = server.begin_call().map_err(failed)?;
        let redactor = ResponseRedactor::of(
            &server.name,
            &server.config,
            authorized.snapshot.config.redactor.as_ref(),
            &self.metrics,
        );
        let (rpc, body) = (&authorized.permit.rpc, &authorized.body);
        let copy = |span: Span| Bytes::copy_from_slice(span.of(body));
        let is_token = |token: &Span| matches!(token.of(body), [b'"' | b'-' | b'0'..=b'9', ..]);
        let params = rpc.params.map_or_else(
            || Bytes::from_static(b"{}"),
            |params| {
                let text = body.slice(params.start..params.end);
                match &renamed {
                    None => text,
                    Some((place, name)) => {
                        let place = Span { start: place.start - params.start, end: place.end - params.start };
                        rename(BytesMut::from(&text[..]), place, name)
                    }
                }
            },
        );
        let param_headers = match target.and_then(|target| target.param_headers.as_ref()) {
            // A server of this era requires them; a legacy client sends none.
            Some(param_headers) if client_era == Era::Legacy => {
                param_headers.headers(rpc.arguments.map(|arguments| arguments.of(body)))
            }
            _ => Vec::new(),
        };
        let client = match (client_era, authorized.session) {
            (Era::Legacy, Some(session)) => BridgedClient::Legacy(session.clone()),
            (Era::Legacy, None) => return Err(unknown_method(client_era)),
            (Era::Modern, _) => {
                let text = |name: &str| {
                    let member = message::member(&params, name)?;
                    message::string(member.of(&params))
                };
                let caller = authorized.permit.caller.clone();
                BridgedClient::Modern(Box::new(ModernClient {
                    owner: ModernClient::owner_key(&caller, authorized.client),
                    caller,
                    limits: session_limits(authorized.snapshot),
                    endpoint: authorized.endpoint.path.clone(),
                    qualified_name: target.map_or_else(|| "".into(), |target| target.qualified_name.clone()),
                    capabilities: rpc
                        .meta
                        .client_capabilities
                        .map_or_else(|| Bytes::from_static(b"{}"), copy),
                    client_info: rpc
                        .meta
                        .client_info
                        .map_or_else(|| Bytes::from_static(br#"{"name":"unknown","version":"0"}"#), copy),
                    log_level: rpc.meta.log_level.and_then(|level| message::string(level.of(body))),
                    request_state: text("requestState"),
                    input_responses: rpc.input_responses.map(copy),
                }))
            }
        };
        let tool_is_safe = method == Method::ToolsCall && target.is_some_and(|target| target.idempotent);
        let request = BridgedRequest {
            method,
            id: rpc.id.map(copy).unwrap_or_default(),
            token: rpc.meta.progress_token.filter(is_token).map(copy),
            call_guard,
            redactor,
            idempotent: method.is_idempotent() || tool_is_safe,
            affinity_key: authorized.affinity_key(),
            wraps_output: target.is_some_and(|target| target.wraps_output),
            events: authorized.events,
            server_info: authorized.endpoint.view(client_era).server_info.clone(),
            params,
            param_headers,
            slots: authorized.slots,
            server,
        };
        Ok(Dispatch::Bridge(Box::new(BridgedCall { client, request })))
    }
}
