//! Header and body must agree (MCP 2026-07-28, streamable-http, "Server Validation"). A proxy that routes or
//! decides by a header must not see other values than the server that reads the body.
//!
//! The order of the checks follows the reference implementations: `_meta` first, then agreement, then the
//! version.

use mcp::Reason;
use std::borrow::Cow;

use crate::filter::Filter;
use crate::request::{AmbiguousHeader, Call, RequestHead};
use mcp::era::Era;
use mcp::header_name;
use mcp::header_value::decode;
use mcp::jsonrpc::request::{META_CAPABILITIES, META_VERSION, MessageKind, Rpc};
use mcp::rejection::{Rejection, code};

/// Judges the headers of a message by its body.
#[derive(Clone, Copy, Debug)]
pub struct HeaderMatch;

impl HeaderMatch {
    /// Body first, header second: a request with the modern `_meta` is modern, whatever its headers are.
    pub fn client_era(&self, head: &RequestHead<'_>, rpc: &Rpc, body: &[u8]) -> Era {
        if rpc.meta.protocol_version.is_some() || rpc.meta.client_capabilities.is_some() {
            return Era::Modern;
        }
        let initialize = rpc.method.is_some_and(|m| m.is(body, "initialize"));
        match head.single(&header_name::PROTOCOL_VERSION) {
            Ok(None) => Era::Legacy,
            _ if initialize => Era::Legacy,
            Ok(Some(version)) => Era::of_version(version),
            Err(AmbiguousHeader) => Era::Modern,
        }
    }

    fn check_modern(&self, call: &Call<'_>) -> Result<(), Rejection> {
        let meta = &call.rpc.meta;
        let Some(version) = meta.protocol_version.map(|v| v.read(call.body)) else {
            match call.head.single(&header_name::PROTOCOL_VERSION) {
                Ok(version) => self.check_version(version)?,
                Err(AmbiguousHeader) => return Err(ambiguous_header("MCP-Protocol-Version")),
            }
            return if call.rpc.kind == MessageKind::Request {
                Err(missing_meta(META_VERSION))
            } else {
                Ok(())
            };
        };
        if call.rpc.kind == MessageKind::Request && meta.client_capabilities.is_none() {
            return Err(missing_meta(META_CAPABILITIES));
        }
        if call.head.is_network {
            check_header(&call.head, &header_name::PROTOCOL_VERSION, "MCP-Protocol-Version", Some(&version))?;
            if let Some(method) = call.rpc.method.map(|m| m.read(call.body)) {
                check_header(&call.head, &header_name::METHOD, "Mcp-Method", Some(&method))?;
                check_header(
                    &call.head,
                    &header_name::NAME,
                    "Mcp-Name",
                    self.expected_mcp_name(call, &method).as_deref(),
                )?;
            }
        }
        self.check_version(Some(&version))
    }

    /// The value that `Mcp-Name` must mirror for this method, if any.
    fn expected_mcp_name<'a>(&self, call: &Call<'a>, method: &str) -> Option<Cow<'a, str>> {
        let (rpc, body) = (&call.rpc, call.body);
        match method {
            // A client of the extension must send it too (SEP-2663); some do not. What is not there misleads nobody.
            "tasks/get" | "tasks/update" | "tasks/cancel"
                if matches!(call.head.single(&header_name::NAME), Ok(None)) =>
            {
                None
            }
            "tools/call" | "prompts/get" => rpc.name.map(|n| n.read(body)),
            "resources/read" => rpc.uri.map(|u| u.read(body)),
            "tasks/get" | "tasks/update" | "tasks/cancel" => rpc.task_id.map(|t| t.read(body)),
            _ => None,
        }
    }

    fn check_version(&self, version: Option<&str>) -> Result<(), Rejection> {
        match version {
            Some(version) if !Era::Modern.codec().versions().contains(&version) => {
                let rejection = Rejection::new(
                    400,
                    code::UNSUPPORTED_VERSION,
                    Reason::UnsupportedVersion,
                    format!(
                        "protocol version {version:?} is not served here; served: {}",
                        Era::Modern.codec().versions().join(", ")
                    ),
                );
                Err(rejection.with_data(Era::Modern.codec().unsupported_version(version)))
            }
            _ => Ok(()),
        }
    }

    fn check_legacy(&self, call: &Call<'_>) -> Result<(), Rejection> {
        match call.head.single(&header_name::PROTOCOL_VERSION) {
            Ok(_) => Ok(()),
            Err(AmbiguousHeader) => Err(Rejection::new(
                400,
                code::INVALID_REQUEST,
                Reason::HeaderDoubled,
                "the header MCP-Protocol-Version must stand once",
            )),
        }
    }
}

impl Filter for HeaderMatch {
    const NAME: &'static str = "header_match";

    async fn on_request(&self, call: &mut Call<'_>) -> Result<(), Box<Rejection>> {
        let checked = match call.client_era {
            Era::Modern => self.check_modern(call),
            Era::Legacy => self.check_legacy(call),
        };
        checked.map_err(Box::new)
    }
}

fn missing_meta(key: &str) -> Rejection {
    Rejection::new(
        400,
        code::INVALID_PARAMS,
        Reason::MetaMissing,
        format!("params._meta must carry `{key}` in this protocol revision"),
    )
}

fn ambiguous_header(shown: &str) -> Rejection {
    let message = format!("the header {shown} must stand once, in visible ASCII");
    Rejection::new(400, code::HEADER_MISMATCH, Reason::HeaderMismatch, message)
}

/// The header must be present once with the value `expected`. If the body has no value to mirror, it must be
/// absent or is ignored (a name without a counterpart has no meaning).
fn check_header(
    head: &RequestHead<'_>,
    name: &http::HeaderName,
    shown: &str,
    expected: Option<&str>,
) -> Result<(), Rejection> {
    let mismatch =
        |message: String| Err(Rejection::new(400, code::HEADER_MISMATCH, Reason::HeaderMismatch, message));
    let Some(expected) = expected else { return Ok(()) };
    match head.single(name) {
        Ok(Some(value)) => match decode(value) {
            Some(decoded) if decoded == expected => Ok(()),
            _ => mismatch(format!("the header {shown} does not say what the body says")),
        },
        Ok(None) => mismatch(format!("the header {shown} is missing")),
        Err(AmbiguousHeader) => Err(ambiguous_header(shown)),
    }
}
