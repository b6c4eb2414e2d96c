//! The judgement of a call in the words of MCP: what is hidden is answered like what does not exist.

use std::borrow::Cow;

use super::{Ground, Judgement, Query, Rbac};
use crate::cel::SPENT;
use crate::request::{Call, Thing};
use crate::uri::Odd;
use mcp::era::Era;
use mcp::json::quote::quote;
use mcp::jsonrpc::request::Kind;
use mcp::rejection::{Refusal, code};

/// Why a call does not pass.
#[derive(Debug)]
pub enum Denied {
    Refusal(Box<Refusal>),
    /// A token with these scopes would pass. The challenge is written where the metadata are known.
    Scopes(Vec<String>),
}

impl Rbac {
    /// Judges a call whose aim is known.
    pub fn admit(&self, call: &Call<'_>) -> Result<(), Denied> {
        let method = call.rpc.method_name(call.body);
        match call.rpc.kind {
            Kind::Response => return Ok(()),
            Kind::Notification if self.method(&call.caller, &method) => return Ok(()),
            Kind::Notification => return Err(Denied::Refusal(Box::new(barred()))),
            Kind::Request => {}
        }
        let query = Query {
            method: &method,
            aim: call.aim,
            arguments: call.rpc.arguments.map(|span| span.of(call.body)),
            ip: call.head.peer,
        };
        let refusal = match self.judge(&call.caller, &query) {
            Judgement::Allowed(_) => return Ok(()),
            Judgement::MissingScopes(scopes) => return Err(Denied::Scopes(scopes)),
            Judgement::Barred(_) => barred(),
            Judgement::Ambiguous(odd) => ambiguous(call.era, odd),
            Judgement::Refused(ground, message) => Refusal::http(
                403,
                match ground {
                    Ground::Failed(_, why) if why == SPENT => "rule_too_costly",
                    _ => "rule_denied",
                },
                message.map_or(Cow::Borrowed("not allowed by the gateway's policy"), Cow::Owned),
            ),
            Judgement::Hidden(_) => match call.aim.map(|aim| aim.thing) {
                Some(Thing::Server) | None => barred(),
                Some(thing) => unknown(call.era, thing, &said(call, thing)),
            },
        };
        Err(Denied::Refusal(Box::new(refusal)))
    }
}

/// The name as the client wrote it, which is not the federated one on the endpoint of one server.
fn said<'a>(call: &'a Call<'_>, thing: Thing) -> Cow<'a, str> {
    let rpc = &call.rpc;
    let written = match thing {
        Thing::Tool => rpc.name,
        Thing::Prompt => rpc.name.or(rpc.reference.and_then(|r| r.name)),
        Thing::Resource => rpc.uri.or(rpc.reference.and_then(|r| r.uri)),
        Thing::Server => None,
    };
    written.map_or(Cow::Borrowed(call.aim.map_or("", |aim| aim.name)), |text| text.read(call.body))
}

fn barred() -> Refusal {
    Refusal::http(403, "method_denied", "this method is not allowed by the gateway's policy")
}

/// The refusal of a URI that servers could read in more than one way. It is the same whether there is such a resource.
fn ambiguous(era: Era, odd: Odd) -> Refusal {
    let status = if era == Era::Modern { 400 } else { 200 };
    let words = format!("the resource's URI can be read as that of another: {odd}; write it without");
    Refusal::new(status, code::INVALID_PARAMS, "ambiguous_uri", words)
}

/// Names are echoed this far, in characters.
const MAX_SHOWN: usize = 128;

/// The refusal of a name that leads nowhere, or is hidden: the one place that writes it, so that the two cannot be
/// told apart. Legacy servers answer errors of well-formed requests with HTTP 200.
pub fn unknown(era: Era, thing: Thing, name: &str) -> Refusal {
    let status = if era == Era::Modern { 400 } else { 200 };
    let missing = if era == Era::Modern { code::INVALID_PARAMS } else { code::RESOURCE_NOT_FOUND };
    let shown: String = name.chars().take(MAX_SHOWN).collect();
    let refusal = |reason, words| Refusal::new(status, code::INVALID_PARAMS, reason, words);
    match thing {
        Thing::Prompt => refusal("unknown_prompt", format!("Unknown prompt: {shown}")),
        Thing::Resource => {
            Refusal::new(status, missing, "unknown_resource", format!("Resource not found: {shown}"))
                .with_data(format!(r#"{{"uri":{}}}"#, quote(&shown)))
        }
        Thing::Tool | Thing::Server => refusal("unknown_tool", format!("Unknown tool: {shown}")),
    }
}
