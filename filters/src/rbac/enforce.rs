//! Applies a decision to a call: a hidden target gets the same response as one that does not exist.

use mcp::Reason;
use std::borrow::Cow;

use super::{AccessQuery, Decision, DecisionReason, Rbac, is_of_task};
use crate::cel::BUDGET_EXCEEDED;
use crate::request::{Call, TargetKind};
use crate::uri::AmbiguousUri;
use mcp::era::Era;
use mcp::json::quote::quote;
use mcp::jsonrpc::request::MessageKind;
use mcp::rejection::{Rejection, code};

/// Why a call does not pass.
#[derive(Debug)]
pub enum Denial {
    Rejected(Box<Rejection>),
    /// A token with these scopes would pass. The challenge is written by the code with the metadata.
    MissingScopes(Vec<String>),
}

impl Rbac {
    /// Decides a call with a known target.
    pub fn enforce(&self, call: &Call<'_>) -> Result<(), Denial> {
        let method = call.rpc.method_name(call.body);
        match call.rpc.kind {
            MessageKind::Response => return Ok(()),
            MessageKind::Notification if self.allows_method(&call.caller, &method) => return Ok(()),
            MessageKind::Notification => return Err(Denial::Rejected(Box::new(method_denied()))),
            MessageKind::Request => {}
        }
        let query = AccessQuery {
            method: &method,
            target: call.target,
            arguments: call.rpc.arguments.map(|span| span.of(call.body)),
            ip: call.head.peer,
        };
        let rejection = match self.decide(&call.caller, &query) {
            Decision::Allowed(_) => return Ok(()),
            Decision::MissingScopes(scopes) => return Err(Denial::MissingScopes(scopes)),
            Decision::MethodDenied(_) => method_denied(),
            Decision::Ambiguous(error) => ambiguous(call.client_era, error),
            Decision::Denied(reason, message) => Rejection::http(
                403,
                match reason {
                    DecisionReason::Failed(_, why) if why == BUDGET_EXCEEDED => Reason::RuleTooCostly,
                    _ => Reason::RuleDenied,
                },
                message.map_or(Cow::Borrowed("not allowed by the gateway's policy"), Cow::Owned),
            ),
            Decision::NotFound(_) if is_of_task(&query) => unknown_task(call.client_era),
            Decision::NotFound(_) => match call.target.map(|target| target.kind) {
                Some(TargetKind::Server) | None => method_denied(),
                Some(kind) => not_found(call.client_era, kind, &name_as_sent(call, kind)),
            },
        };
        Err(Denial::Rejected(Box::new(rejection)))
    }
}

/// The name as the client wrote it, which differs from the qualified name on the endpoint of one server.
fn name_as_sent<'a>(call: &'a Call<'_>, kind: TargetKind) -> Cow<'a, str> {
    let rpc = &call.rpc;
    let written = match kind {
        TargetKind::Tool => rpc.name,
        TargetKind::Prompt => rpc.name.or(rpc.reference.and_then(|r| r.name)),
        TargetKind::Resource => rpc.uri.or(rpc.reference.and_then(|r| r.uri)),
        TargetKind::Server => None,
    };
    written.map_or(Cow::Borrowed(call.target.map_or("", |target| target.name)), |text| text.read(call.body))
}

fn method_denied() -> Rejection {
    Rejection::http(403, Reason::MethodDenied, "this method is not allowed by the gateway's policy")
}

/// The rejection of an ambiguous URI. It is the same whether or not the resource exists.
fn ambiguous(client_era: Era, error: AmbiguousUri) -> Rejection {
    let status = client_era.codec().status_of(code::INVALID_PARAMS);
    let message = format!("the resource's URI can be read as that of another: {error}; write it without");
    Rejection::new(status, code::INVALID_PARAMS, Reason::AmbiguousUri, message)
}

/// The rejection of a task that does not exist, is of another caller, or whose tool is hidden.
pub fn unknown_task(client_era: Era) -> Rejection {
    let status = client_era.codec().status_of(code::INVALID_PARAMS);
    let message = "Unknown task: it does not exist, has expired, or is not of this caller";
    Rejection::new(status, code::INVALID_PARAMS, Reason::UnknownTask, message)
}

/// Names are echoed this far, in characters.
const MAX_SHOWN: usize = 128;

/// The rejection of an unknown or hidden name. Only this function writes it, so that the two are
/// indistinguishable.
pub fn not_found(client_era: Era, kind: TargetKind, name: &str) -> Rejection {
    let status = client_era.codec().status_of(code::INVALID_PARAMS);
    let missing = client_era.codec().resource_not_found();
    let shown: String = name.chars().take(MAX_SHOWN).collect();
    let rejection = |reason, message| Rejection::new(status, code::INVALID_PARAMS, reason, message);
    match kind {
        TargetKind::Prompt => rejection(Reason::UnknownPrompt, format!("Unknown prompt: {shown}")),
        TargetKind::Resource => {
            Rejection::new(status, missing, Reason::UnknownResource, format!("Resource not found: {shown}"))
                .with_data(format!(r#"{{"uri":{}}}"#, quote(&shown)))
        }
        TargetKind::Tool | TargetKind::Server => {
            rejection(Reason::UnknownTool, format!("Unknown tool: {shown}"))
        }
    }
}
