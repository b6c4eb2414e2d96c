//! Server info, instructions and capabilities of an endpoint: those of its only server, or of all its servers
//! together.

use std::sync::Arc;

use bytes::Bytes;
use mcp::bridge::capabilities::without_subscriptions;
use mcp::json::quote::quote;
use mcp::{Era, tasks};

use super::scope::Scope;
use super::{ServerLists, TaskSupport};
use crate::server::Server;
use crate::upstream::gateway_info;
use mcp::jsonrpc::message;

/// A server and its lists.
pub type ServerEntry<'a> = (&'a Arc<Server>, &'a Arc<ServerLists>);

pub fn server_info(lists: &[ServerEntry<'_>], scope: &Scope<'_>) -> Bytes {
    match (scope, lists) {
        (Scope::Single, [(_, server_lists)]) => server_lists.handshake.server_info.clone(),
        _ => Bytes::from_static(gateway_info().as_bytes()),
    }
}

pub fn instructions(lists: &[ServerEntry<'_>], scope: &Scope<'_>) -> Option<Bytes> {
    if let (Scope::Single, [(_, server_lists)]) = (scope, lists) {
        return server_lists.handshake.instructions.clone();
    }
    let mut joined = String::new();
    for (server, server_lists) in lists {
        if let Some(text) = server_lists.handshake.instructions.as_ref().and_then(|raw| message::string(raw))
        {
            joined.push_str(&format!("## {}\n{}\n\n", server.name, text.trim()));
        }
    }
    (!joined.is_empty()).then(|| Bytes::from(quote(joined.trim_end())))
}

/// One server's own capabilities pass as they are, if it is alone and reached by itself. A federation offers
/// what at least one member offers and the gateway can forward. It offers all lists while a server is
/// `starting` that may have them: a client asks once what there is, and is notified when a list changes.
pub fn capabilities(client_era: Era, lists: &[ServerEntry<'_>], scope: &Scope<'_>, starting: bool) -> Bytes {
    if let (Scope::Single, [(server, server_lists)]) = (scope, lists)
        && server.forwards_natively()
    {
        let own = &server_lists.handshake.capabilities;
        let declared = server_lists.handshake.has_capability("resources", Some("subscribe"));
        let kept = match declared && !accepts_subscriptions(client_era, server, server_lists) {
            true => without_subscriptions(own),
            false => None,
        };
        return kept.map_or_else(|| own.clone(), Bytes::from);
    }
    let offers = |name: &str, flag| {
        lists.iter().any(|(_, server_lists)| server_lists.handshake.has_capability(name, flag))
    };
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
            let carried = lists
                .iter()
                .any(|(server, server_lists)| accepts_subscriptions(client_era, server, server_lists));
            let subscribe = if carried { r#","subscribe":true"# } else { "" };
            parts.push(format!(r#""resources":{{"listChanged":true{subscribe}}}"#));
        }
        if offers("completions", None) {
            parts.push(r#""completions":{}"#.to_owned());
        }
    }
    // A process of all callers has one level for all, and its messages belong to none of them.
    let logs = |(server, server_lists): &ServerEntry<'_>| {
        server.forwards_natively() && server_lists.handshake.has_capability("logging", None)
    };
    if lists.iter().any(logs) {
        parts.push(r#""logging":{}"#.to_owned());
    }
    Bytes::from(format!("{{{}}}", parts.join(",")))
}

/// Whether a server notifies of resource changes and the gateway can subscribe for clients of this era. Where
/// the gateway itself subscribes, a server that is called in its callers' names is left out: its tokens expire
/// before the subscription ends.
pub fn accepts_subscriptions(client_era: Era, server: &Server, lists: &ServerLists) -> bool {
    let carried = match (client_era, lists.era) {
        (_, Era::Modern) => server.upstream.resource_updates().is_some() && !server.is_personal(),
        (Era::Modern, Era::Legacy) => has_legacy_subscriptions(server) && !server.is_personal(),
        (Era::Legacy, Era::Legacy) => has_legacy_subscriptions(server),
    };
    carried && lists.handshake.has_capability("resources", Some("subscribe"))
}

fn has_legacy_subscriptions(server: &Server) -> bool {
    server.forwards_natively() || server.upstream.shared_subscriptions().is_some()
}

/// Who makes tasks of the calls of a tool, which has these names. The extension is of the modern era.
pub fn task_support(server: &Server, lists: &ServerLists, names: [&str; 2]) -> TaskSupport {
    if lists.era == Era::Modern && tasks::is_declared(&lists.handshake.capabilities) {
        return TaskSupport::Server;
    }
    match &server.config.tasks {
        Some(setting) if names.iter().any(|name| setting.tools.is_match(name)) => {
            TaskSupport::Gateway(setting.after.get())
        }
        _ => TaskSupport::None,
    }
}
