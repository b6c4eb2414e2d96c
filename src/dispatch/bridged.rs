//! Calls to a server that does not speak the client's era: what the bridge needs of them.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mcp::json::splice::rename;
use mcp::jsonrpc::message;
use mcp::method::Method;
use mcp::{Era, Reason, Rejection, Span};

use super::rejections::{invalid, session_limits, unknown_method};
use super::{AuthorizedRequest, Dispatch, Dispatcher};
use crate::bridge::{BridgedCall, BridgedClient, BridgedRequest, LOG_LEVELS, ModernClient, invalid_state};
use crate::catalog::Target;
use crate::server::Server;
use crate::upstream::ResponseRedactor;

/// Bytes of a client's capabilities and info that its session at a server keeps.
const MAX_CLIENT: usize = 8 * 1024;

/// Whether a client's info is what the legacy era requires (2025-11-25, `Implementation`).
fn is_implementation(info: &[u8]) -> bool {
    let is_text =
        |name| message::member(info, name).is_some_and(|text| message::string(text.of(info)).is_some());
    info.len() <= MAX_CLIENT && is_text("name") && is_text("version")
}

/// The methods whose calls are bridged. Only the legacy era has the last two.
fn is_bridged(method: Method) -> bool {
    matches!(
        method,
        Method::ToolsCall
            | Method::PromptsGet
            | Method::ResourcesRead
            | Method::Complete
            | Method::Subscribe
            | Method::Unsubscribe
    )
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
        let subscribes = matches!(method, Method::Subscribe | Method::Unsubscribe);
        let follows = |server: &Server| {
            let session = authorized.session.filter(|_| method == Method::Unsubscribe);
            authorized.endpoint.view(client_era).resource_servers.contains(&server.serial)
                || session.is_some_and(|session| session.bridged_listens.has(&server.name))
        };
        if !is_bridged(method) || subscribes && !follows(&server) {
            return Err(unknown_method(client_era));
        }
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
                let state = message::member(&params, "requestState").map(|state| state.of(&params));
                let request_state = match state.map(message::string) {
                    Some(None) => return Err(Box::new(invalid_state())),
                    state => state.flatten(),
                };
                let input_responses = rpc.input_responses.map(copy);
                let client = modern_client(&authorized)?;
                BridgedClient::Modern(Box::new(ModernClient { request_state, input_responses, ..client }))
            }
        };
        let tool_is_safe = method == Method::ToolsCall && target.is_some_and(|target| target.idempotent);
        let request = BridgedRequest {
            method,
            id: rpc.id.map(copy).unwrap_or_default(),
            token: rpc.meta.progress_token.filter(is_token).map(copy),
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

/// A modern client, as its request describes it; without what a retry has.
pub(super) fn modern_client(authorized: &AuthorizedRequest<'_>) -> Result<ModernClient, Box<Rejection>> {
    let (rpc, body) = (&authorized.permit.rpc, &authorized.body);
    let client_era = authorized.permit.client_era;
    let copy = |span: Span| Bytes::copy_from_slice(span.of(body));
    // What a server gets of it is a word of this list, never the client's text.
    let log_level = match rpc.meta.log_level.map(|level| message::string(level.of(body))) {
        None => None,
        Some(level) => {
            let known = LOG_LEVELS.iter().find(|known| level.as_deref() == Some(**known));
            let message = || format!("the log level must be one of {}", LOG_LEVELS.join(", "));
            Some(*known.ok_or_else(|| invalid(client_era, Reason::UnknownLevel, message()))?)
        }
    };
    let capabilities = rpc.meta.client_capabilities.map_or_else(|| Bytes::from_static(b"{}"), copy);
    if capabilities.len() > MAX_CLIENT {
        let message = format!("clientCapabilities are longer than {MAX_CLIENT} bytes");
        return Err(invalid(client_era, Reason::ClientTooLong, message));
    }
    let caller = authorized.permit.caller.clone();
    Ok(ModernClient {
        owner: ModernClient::owner_key(&caller, authorized.client),
        caller,
        limits: session_limits(authorized.snapshot),
        endpoint: authorized.endpoint.path.clone(),
        address: authorized.client,
        capabilities,
        client_info: rpc
            .meta
            .client_info
            .map(copy)
            .filter(|info| is_implementation(info))
            .unwrap_or_else(|| Bytes::from_static(br#"{"name":"unknown","version":"0"}"#)),
        log_level,
        request_state: None,
        input_responses: None,
    })
}
