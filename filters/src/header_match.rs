//! Header and body must say the same (MCP 2026-07-28, streamable-http, "Server Validation"): whoever routes or
//! judges by a header must not be told another story than the server that reads the body.
//!
//! The order of the checks is that of the reference implementations: `_meta` first, then agreement, then the
//! revision. It knows revisions only as the words that it was given.

use std::borrow::Cow;

use crate::filter::Filter;
use crate::request::{Call, Doubtful, Head};
use mcp::era::Era;
use mcp::header_name;
use mcp::header_value::decode;
use mcp::json::quote::quote;
use mcp::jsonrpc::request::{Kind, META_CAPABILITIES, META_VERSION, Rpc};
use mcp::rejection::{Refusal, Verdict, code};

/// The revisions that are served.
#[derive(Clone, Debug)]
pub struct Agree {
    /// Revisions with `_meta` in each request; newest first.
    pub modern: &'static [&'static str],
    /// Revisions with `initialize`; newest first.
    pub legacy: &'static [&'static str],
}

impl Agree {
    /// Body first, header second: a request with the modern `_meta` is modern whatever its headers say.
    pub fn era(&self, head: &Head<'_>, rpc: &Rpc, body: &[u8]) -> Era {
        if rpc.meta.protocol_version.is_some() || rpc.meta.client_capabilities.is_some() {
            return Era::Modern;
        }
        let initialize = rpc.method.is_some_and(|m| m.is(body, "initialize"));
        match head.one(&header_name::PROTOCOL_VERSION) {
            Ok(None) => Era::Legacy,
            _ if initialize => Era::Legacy,
            Ok(Some(version)) if self.legacy.contains(&version) => Era::Legacy,
            // Also a revision nobody knows: its sender is newer than the last handshake revision.
            _ => Era::Modern,
        }
    }

    fn modern(&self, call: &Call<'_>) -> Result<(), Refusal> {
        let meta = &call.rpc.meta;
        let Some(version) = meta.protocol_version.map(|v| v.read(call.body)) else {
            match call.head.one(&header_name::PROTOCOL_VERSION) {
                Ok(version) => self.known(version)?,
                Err(Doubtful) => return Err(doubled("MCP-Protocol-Version")),
            }
            return if call.rpc.kind == Kind::Request { Err(missing_meta(META_VERSION)) } else { Ok(()) };
        };
        if call.rpc.kind == Kind::Request && meta.client_capabilities.is_none() {
            return Err(missing_meta(META_CAPABILITIES));
        }
        if call.head.outside {
            same(&call.head, &header_name::PROTOCOL_VERSION, "MCP-Protocol-Version", Some(&version))?;
            if let Some(method) = call.rpc.method.map(|m| m.read(call.body)) {
                same(&call.head, &header_name::METHOD, "Mcp-Method", Some(&method))?;
                same(
                    &call.head,
                    &header_name::NAME,
                    "Mcp-Name",
                    self.name(&call.rpc, &method, call.body).as_deref(),
                )?;
            }
        }
        self.known(Some(&version))
    }

    /// What `Mcp-Name` must mirror for this method, if anything.
    fn name<'a>(&self, rpc: &Rpc, method: &str, body: &'a [u8]) -> Option<Cow<'a, str>> {
        match method {
            "tools/call" | "prompts/get" => rpc.name.map(|n| n.read(body)),
            "resources/read" => rpc.uri.map(|u| u.read(body)),
            "tasks/get" | "tasks/update" | "tasks/cancel" => rpc.task_id.map(|t| t.read(body)),
            _ => None,
        }
    }

    fn known(&self, version: Option<&str>) -> Result<(), Refusal> {
        match version {
            Some(version) if !self.modern.contains(&version) => {
                let refusal = Refusal::new(
                    400,
                    code::UNSUPPORTED_VERSION,
                    "unsupported_version",
                    format!(
                        "protocol version {version:?} is not served here; served: {}",
                        self.modern.join(", ")
                    ),
                );
                let quoted: Vec<String> = self.modern.iter().map(|v| quote(v)).collect();
                Err(refusal.with_data(format!(
                    r#"{{"supported":[{}],"requested":{}}}"#,
                    quoted.join(","),
                    quote(version)
                )))
            }
            _ => Ok(()),
        }
    }

    fn legacy(&self, call: &Call<'_>) -> Result<(), Refusal> {
        match call.head.one(&header_name::PROTOCOL_VERSION) {
            Ok(_) => Ok(()),
            Err(Doubtful) => Err(Refusal::new(
                400,
                code::INVALID_REQUEST,
                "header_doubled",
                "the header MCP-Protocol-Version must stand once",
            )),
        }
    }
}

impl Filter for Agree {
    const NAME: &'static str = "agree";

    async fn admit(&self, call: &mut Call<'_>) -> Verdict {
        let judged = match call.era {
            Era::Modern => self.modern(call),
            Era::Legacy => self.legacy(call),
        };
        judged.map_or_else(Verdict::from, |()| Verdict::Pass)
    }
}

fn missing_meta(key: &str) -> Refusal {
    Refusal::new(
        400,
        code::INVALID_PARAMS,
        "meta_missing",
        format!("params._meta must carry `{key}` in this protocol revision"),
    )
}

fn doubled(shown: &str) -> Refusal {
    let words = format!("the header {shown} must stand once, in visible ASCII");
    Refusal::new(400, code::HEADER_MISMATCH, "header_mismatch", words)
}

/// The header must stand once and say `expected`; where the body has nothing to mirror it must be absent or is
/// ignored (a name without a counterpart names nothing).
fn same(
    head: &Head<'_>,
    name: &http::HeaderName,
    shown: &str,
    expected: Option<&str>,
) -> Result<(), Refusal> {
    let mismatch = |words: String| Err(Refusal::new(400, code::HEADER_MISMATCH, "header_mismatch", words));
    let Some(expected) = expected else { return Ok(()) };
    match head.one(name) {
        Ok(Some(value)) => match decode(value) {
            Some(decoded) if decoded == expected => Ok(()),
            _ => mismatch(format!("the header {shown} does not say what the body says")),
        },
        Ok(None) => mismatch(format!("the header {shown} is missing")),
        Err(Doubtful) => Err(doubled(shown)),
    }
}
