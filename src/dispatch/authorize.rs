//! From bytes to a permit: the message is parsed, its target is resolved, what must not be forwarded is
//! removed (`sanitize`), and the chain decides on the result. What was authorized is what is forwarded.

use std::cell::OnceCell;
use std::sync::Arc;

use bytes::Bytes;
use filters::guard;
use filters::rate_limit::Slots;
use filters::{Call, CallTarget, Caller, ChainRejection, Permit, RequestHead};
use mcp::json::reader::Span;
use mcp::rejection::code;
use mcp::{Era, Reason, Rejection};

use super::target::{ResolvedTarget, resolve_target};
use super::text_places;
use super::{Dispatcher, RequestLabels};
use crate::catalog::{Endpoint, Target, TaskSupport};
use crate::config::Validate;
use crate::registry::Snapshot;
use mcp::jsonrpc::message;
use mcp::method::Method;

/// The label of rejections by the guard.
const GUARD: &str = "guard";

/// An authorized message and its bytes.
pub struct Authorized {
    pub permit: Permit,
    pub body: Bytes,
    /// The id of a request, as written.
    pub id: Option<Bytes>,
}

/// Why a message is rejected.
#[derive(Debug)]
pub struct RejectedRequest {
    pub filter: &'static str,
    pub rejection: Box<Rejection>,
    /// The id to answer under, as written.
    pub id: Option<Bytes>,
}

impl RejectedRequest {
    pub fn of(stop: ChainRejection, body: &[u8]) -> Self {
        Self { filter: stop.filter, rejection: stop.refused.rejection, id: id_bytes(stop.refused.id, body) }
    }
}

/// The slots of a call that takes any, shared by all tasks of the call.
pub fn share_slots(held: Slots) -> Option<Arc<Slots>> {
    (!held.is_empty()).then(|| Arc::new(held))
}

fn id_bytes(id: Option<Span>, body: &[u8]) -> Option<Bytes> {
    id.map(|id| Bytes::copy_from_slice(id.of(body)))
}

impl Dispatcher {
    /// Authorizes a message whose head has passed the chain already.
    pub async fn authorize(
        &self,
        snapshot: &Snapshot,
        endpoint: &Endpoint,
        head: RequestHead<'_>,
        caller: Caller,
        mut body: Bytes,
        labels: &mut RequestLabels,
    ) -> Result<Authorized, RejectedRequest> {
        let chain = &snapshot.config.chain;
        let (id, clean, permit) = {
            let call =
                chain.read(head, caller.clone(), &body).map_err(|stop| RejectedRequest::of(stop, &body))?;
            let id = id_bytes(call.id(), &body);
            let unescaped = OnceCell::new();
            let task = self.requested_task(endpoint, &call);
            let resolved = resolve_target(endpoint, &call, &unescaped, task.as_ref());
            // A rejected call is labelled too.
            set_labels(labels, &call, resolved.as_ref());
            let has_tasks = match resolved.as_ref().and_then(|resolved| resolved.target) {
                Some(target) => target.tasks != TaskSupport::None,
                None => task.is_some(),
            };
            let call_target = resolved.map(|resolved| resolved.call_target);
            let clean = self.sanitize(snapshot, &call, call_target.as_ref(), has_tasks);
            let clean =
                clean.map_err(|rejection| RejectedRequest { filter: GUARD, rejection, id: id.clone() })?;
            let permit = match &clean {
                None => {
                    Some(self.apply_chain(snapshot, endpoint, call, call_target, None, id.as_ref()).await?)
                }
                Some(_) => None,
            };
            (id, clean, permit)
        };
        if let Some(permit) = permit {
            return Ok(Authorized { permit, body, id });
        }
        let original = std::mem::replace(&mut body, clean.unwrap_or_default());
        let call = chain.read(head, caller, &body).map_err(|stop| RejectedRequest::of(stop, &body))?;
        let unescaped = OnceCell::new();
        let task = self.requested_task(endpoint, &call);
        let resolved = resolve_target(endpoint, &call, &unescaped, task.as_ref());
        let call_target = resolved.map(|resolved| resolved.call_target);
        let permit =
            self.apply_chain(snapshot, endpoint, call, call_target, Some(&original), id.as_ref()).await?;
        Ok(Authorized { permit, body, id })
    }

    async fn apply_chain<'a>(
        &self,
        snapshot: &Snapshot,
        endpoint: &Endpoint,
        mut call: Call<'a>,
        call_target: Option<CallTarget<'a>>,
        original_body: Option<&Bytes>,
        id: Option<&Bytes>,
    ) -> Result<Permit, RejectedRequest> {
        call.target = call_target;
        let (client_era, body, head) = (call.client_era, call.body, call.head);
        let permit =
            snapshot.config.chain.on_request(call).await.map_err(|stop| RejectedRequest::of(stop, body))?;
        let rejected =
            |rejection| RejectedRequest { filter: GUARD, rejection: Box::new(rejection), id: id.cloned() };
        let Some(call_target) = call_target else { return Ok(permit) };
        // The head repeats the arguments as sent, secrets included.
        let target = called_target(endpoint, &permit, body);
        check_param_headers(target, &permit, &head, body, original_body).map_err(rejected)?;
        let Some(server) = snapshot.servers.get(call_target.server) else { return Ok(permit) };
        let place = || text_places::request(Method::parse(&permit.rpc.method_name(body)));
        self.check_not_blocked(snapshot, server, body, place, client_era)
            .map_err(|rejection| rejected(*rejection))?;
        let arguments = permit.rpc.arguments.map(|arguments| arguments.of(body));
        self.validate_arguments(target, client_era, arguments).map(|()| permit).map_err(rejected)
    }

    /// Validates the arguments against the tool's schema, if the server's settings say so.
    fn validate_arguments(
        &self,
        target: Option<&Target>,
        client_era: Era,
        arguments: Option<&[u8]>,
    ) -> Result<(), Rejection> {
        let Some(target) = target else { return Ok(()) };
        let Some(schema) = &target.schema else { return Ok(()) };
        let name = &target.display_name;
        let rejection = match schema.get().map(|schema| schema.check(arguments)) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(violations)) => guard::schema::rejection(name, &violations, client_era),
            Err(why) => {
                let message = format!("the inputSchema of `{name}` cannot be used: {why}");
                Rejection::http(502, Reason::SchemaUnusable, message)
            }
        };
        if target.server.config.validate == Validate::Enforce {
            return Err(rejection);
        }
        tracing::warn!(server = %target.server.name, tool = %target.display_name, why = %rejection.message, "arguments do not fit the schema");
        Ok(())
    }
}

/// The tool that a permitted message calls.
fn called_target<'a>(endpoint: &'a Endpoint, permit: &Permit, body: &[u8]) -> Option<&'a Target> {
    permit.rpc.method.filter(|method| method.is(body, "tools/call"))?;
    endpoint.view(permit.client_era).tools.get(&*permit.rpc.name?.read(body))
}

/// Verifies that the head repeats the required arguments; `original` is the original body, if it was changed
/// since.
fn check_param_headers(
    target: Option<&Target>,
    permit: &Permit,
    head: &RequestHead<'_>,
    body: &[u8],
    original: Option<&Bytes>,
) -> Result<(), Rejection> {
    if !head.is_network || !permit.client_era.codec().has_mirrored_headers() {
        return Ok(());
    }
    let Some(param_headers) = target.and_then(|target| target.param_headers.as_ref()) else { return Ok(()) };
    match original {
        None => param_headers.verify(head, permit.rpc.arguments.map(|arguments| arguments.of(body))),
        Some(original) => {
            let params =
                message::member(original, "params").map(|place| place.of(original)).unwrap_or_default();
            param_headers.verify(head, message::member(params, "arguments").map(|place| place.of(params)))
        }
    }
}

/// Sets the labels of a call, in words of the catalog and never in those of its sender.
fn set_labels(labels: &mut RequestLabels, call: &Call<'_>, resolved: Option<&ResolvedTarget<'_>>) {
    labels.method = Method::parse(&call.rpc.method_name(call.body)).as_str();
    if let Some(target) = resolved.and_then(|resolved| resolved.target) {
        labels.server = Some(target.server.name.clone());
        labels.tool = Some(target.display_name.clone());
        labels.counters = labels.method.eq(target.counters.method()).then(|| target.counters.clone());
    }
}

pub(super) fn unreadable() -> Rejection {
    Rejection::new(400, code::PARSE, Reason::NotJson, "the message cannot be read")
}
