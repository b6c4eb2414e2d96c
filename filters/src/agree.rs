//! Header and body must say the same (MCP 2026-07-28, streamable-http, "Server Validation"): whoever routes or
//! judges by a header must not be told another story than the server that reads the body.
//!
//! The order of the checks is that of the reference implementations: `_meta` first, then agreement, then the
//! revision. It knows revisions only as the words that it was given.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::call::{Call, Doubtful, Era, Head, header};
use crate::filter::Filter;
use crate::rpc::{Kind, META_CAPABILITIES, META_VERSION, Rpc};
use crate::verdict::{Refusal, Verdict, code};

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
        match head.one(&header::PROTOCOL_VERSION) {
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
            match call.head.one(&header::PROTOCOL_VERSION) {
                Ok(version) => self.known(version)?,
                Err(Doubtful) => return Err(doubled("MCP-Protocol-Version")),
            }
            return if call.rpc.kind == Kind::Request { Err(missing_meta(META_VERSION)) } else { Ok(()) };
        };
        if call.rpc.kind == Kind::Request && meta.client_capabilities.is_none() {
            return Err(missing_meta(META_CAPABILITIES));
        }
        if call.head.outside {
            same(&call.head, &header::PROTOCOL_VERSION, "MCP-Protocol-Version", Some(&version))?;
            if let Some(method) = call.rpc.method.map(|m| m.read(call.body)) {
                same(&call.head, &header::METHOD, "Mcp-Method", Some(&method))?;
                same(
                    &call.head,
                    &header::NAME,
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
        match call.head.one(&header::PROTOCOL_VERSION) {
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

/// Decodes the `=?base64?…?=` form of header values; `None` if it is that form and broken.
pub fn decode(value: &str) -> Option<Cow<'_, str>> {
    match value.strip_prefix("=?base64?").and_then(|v| v.strip_suffix("?=")) {
        None => Some(Cow::Borrowed(value)),
        Some(inner) => String::from_utf8(STANDARD.decode(inner).ok()?).ok().map(Cow::Owned),
    }
}

/// The value of `Mcp-Name` for a name: itself, or the `=?base64?…?=` form where a header could not carry it or
/// would be taken for that form.
pub fn encode(name: &str) -> Cow<'_, str> {
    let plain = name.bytes().all(|b| (0x20..0x7f).contains(&b)) && name.trim() == name;
    if plain && !(name.starts_with("=?base64?") && name.ends_with("?=")) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(format!("=?base64?{}?=", STANDARD.encode(name)))
}

/// A JSON string of `word`.
pub fn quote(word: &str) -> String {
    let mut out = String::with_capacity(word.len() + 2);
    quote_to(&mut out, word);
    out
}

/// Adds a JSON string of `word`.
pub fn quote_to(out: &mut String, word: &str) {
    out.push('"');
    let mut rest = word;
    // What needs no escape goes over as a whole: that is nearly always all of it.
    while let Some(at) = rest.bytes().position(|b| b < 0x20 || b == b'"' || b == b'\\') {
        out.push_str(&rest[..at]);
        match rest.as_bytes()[at] {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            control => out.push_str(&format!("\\u{control:04x}")),
        }
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
    out.push('"');
}
