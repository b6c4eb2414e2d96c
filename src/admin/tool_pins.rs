//! `/tools/pins`: the tool definitions, and an operator's approval of a changed definition.
//!
//! GET lists the tools of servers with `pinning`. POST approves one by its hash, so that exactly the
//! inspected definition is approved. For operators only, and never for a web page.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use mcp::json::quote::quote;
use mcp::{Reason, Rejection};

use super::{Admin, AdminResponse};
use crate::registry::PinApproval;
use mcp::jsonrpc::message;

/// Whether a web page of another origin cannot send this request without a preflight.
///
/// # Errors
/// The rejection that the caller gets.
pub(super) fn is_json(headers: &HeaderMap) -> Result<(), Rejection> {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if kind.is_some_and(|kind| kind.split(';').next().unwrap_or_default().trim() == "application/json") {
        return Ok(());
    }
    Err(Rejection::http(415, Reason::ContentType, "an approval is JSON: send Content-Type: application/json"))
}

/// The tools of servers with `pinning`.
pub(super) fn list(admin: &Admin<'_>) -> AdminResponse {
    let definitions = admin.dispatcher.registry.definitions();
    let lines = definitions.iter().map(|d| {
        format!(
            r#"{{"tool":{},"server":{},"era":"{}","hash":"{}","shown":{}}}"#,
            quote(&d.tool),
            quote(&d.server),
            d.server_era.as_str(),
            d.hash,
            d.shown
        )
    });
    AdminResponse::json(200, format!(r#"{{"tools":[{}]}}"#, lines.collect::<Vec<_>>().join(",")))
}

/// Approves a definition: `{"tool": …, "hash": …}`. Only for callers who may approve.
///
/// # Errors
/// The rejection that the caller gets.
pub(super) fn approve(admin: &Admin<'_>, body: &[u8]) -> Result<AdminResponse, Rejection> {
    let part = |name| message::member(body, name).and_then(|place| message::string(place.of(body)));
    let (Some(tool), Some(hash)) = (part("tool"), part("hash")) else {
        let message = r#"expected {"tool": "server__tool", "hash": "the 64 hex digits that GET tells"}"#;
        return Err(Rejection::http(400, Reason::ApprovalUnclear, message));
    };
    match admin.dispatcher.registry.approve(&tool, &hash) {
        PinApproval::Approved => {
            Ok(AdminResponse::json(200, format!(r#"{{"tool":{},"hash":{}}}"#, quote(&tool), quote(&hash))))
        }
        PinApproval::Unknown => {
            Err(Rejection::http(404, Reason::UnknownTool, "no server with `pinning` has a tool of this name"))
        }
        PinApproval::HashMismatch(hashes) => {
            let message = format!("the definition has another hash now: {}", hashes.join(", "));
            Err(Rejection::http(409, Reason::DefinitionChanged, message))
        }
    }
}
