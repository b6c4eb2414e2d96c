//! How an endpoint introduces itself: as its one server does, or as what its servers are together.

use std::sync::Arc;

use bytes::Bytes;
use mcp::Era;
use mcp::json::quote::quote;

use super::ServerLists;
use super::scope::Scope;
use crate::server::Server;
use crate::upstream::gateway_info;
use mcp::jsonrpc::message;

/// A server and what is known of it.
pub type ServerEntry<'a> = (&'a Arc<Server>, &'a Arc<ServerLists>);

pub fn server_info(lists: &[ServerEntry<'_>], scope: &Scope<'_>) -> Bytes {
    match (scope, lists) {
        (Scope::Single, [(_, face)]) => face.handshake.server_info.clone(),
        _ => Bytes::from_static(gateway_info().as_bytes()),
    }
}

pub fn instructions(lists: &[ServerEntry<'_>], scope: &Scope<'_>) -> Option<Bytes> {
    if let (Scope::Single, [(_, face)]) = (scope, lists) {
        return face.handshake.instructions.clone();
    }
    let mut joined = String::new();
    for (server, face) in lists {
        if let Some(text) = face.handshake.instructions.as_ref().and_then(|raw| message::string(raw)) {
            joined.push_str(&format!("## {}\n{}\n\n", server.name, text.trim()));
        }
    }
    (!joined.is_empty()).then(|| Bytes::from(quote(joined.trim_end())))
}

/// One server's own capabilities pass as they are, where it is reached alone and by itself; a federation
/// offers what at least one member offers and the gateway can carry, and all lists while one is `starting` that may have
/// them: a client asks once what there is, and is told when a list changes.
pub fn capabilities(era: Era, lists: &[ServerEntry<'_>], scope: &Scope<'_>, starting: bool) -> Bytes {
    if let (Scope::Single, [(server, face)]) = (scope, lists)
        && server.upstream.endpoint_pool().is_some()
    {
        return face.handshake.capabilities.clone();
    }
    let offers = |name: &str, flag| lists.iter().any(|(_, face)| face.handshake.has_capability(name, flag));
    let mut parts = Vec::new();
    let toolset = matches!(scope, Scope::Toolset(_));
    if toolset || offers("tools", None) || lists.is_empty() {
        parts.push(r#""tools":{"listChanged":true}"#.to_owned());
    }
    if !toolset {
        if starting || offers("prompts", None) {
            parts.push(r#""prompts":{"listChanged":true}"#.to_owned());
        }
        if starting || offers("resources", None) {
            let carried = lists.iter().any(|(server, face)| match era {
                Era::Legacy => {
                    (server.upstream.endpoint_pool().is_some() || server.upstream.is_shared())
                        && face.handshake.has_capability("resources", Some("subscribe"))
                }
                Era::Modern => accepts_subscriptions(server, face),
            });
            let subscribe = if carried { r#","subscribe":true"# } else { "" };
            parts.push(format!(r#""resources":{{"listChanged":true{subscribe}}}"#));
        }
        if offers("completions", None) {
            parts.push(r#""completions":{}"#.to_owned());
        }
    }
    // A process of all callers has one level for all, and its words belong to none of them.
    let logs = |(server, face): &ServerEntry<'_>| {
        server.upstream.endpoint_pool().is_some() && face.handshake.has_capability("logging", None)
    };
    if lists.iter().any(logs) {
        parts.push(r#""logging":{}"#.to_owned());
    }
    Bytes::from(format!("{{{}}}", parts.join(",")))
}

/// Whether a modern server tells when a resource changes, and the gateway can ask it to: one that is called in its
/// callers' names would have to be asked in each one's.
pub fn accepts_subscriptions(server: &Server, lists: &ServerLists) -> bool {
    server.upstream.has_resource_subscriptions()
        && !server.is_personal()
        && lists.handshake.has_capability("resources", Some("subscribe"))
}
