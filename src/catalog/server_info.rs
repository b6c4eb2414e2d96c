//! How an endpoint introduces itself: as its one server does, or as what its servers are together.

use std::sync::Arc;

use bytes::Bytes;
use mcp::Era;
use mcp::json::quote::quote;

use super::Face;
use super::scope::Scope;
use crate::server::Server;
use crate::upstream::house_info;
use mcp::jsonrpc::message;

/// A server and what is known of it.
pub type Known<'a> = (&'a Arc<Server>, &'a Arc<Face>);

pub fn server_info(faces: &[Known<'_>], scope: &Scope<'_>) -> Bytes {
    match (scope, faces) {
        (Scope::Single, [(_, face)]) => face.hello.server_info.clone(),
        _ => Bytes::from_static(house_info().as_bytes()),
    }
}

pub fn instructions(faces: &[Known<'_>], scope: &Scope<'_>) -> Option<Bytes> {
    if let (Scope::Single, [(_, face)]) = (scope, faces) {
        return face.hello.instructions.clone();
    }
    let mut joined = String::new();
    for (server, face) in faces {
        if let Some(text) = face.hello.instructions.as_ref().and_then(|raw| message::string(raw)) {
            joined.push_str(&format!("## {}\n{}\n\n", server.name, text.trim()));
        }
    }
    (!joined.is_empty()).then(|| Bytes::from(quote(joined.trim_end())))
}

/// One server's own capabilities pass as they are, where it is reached alone and by itself; a federation
/// offers what at least one member offers and the gateway can carry, and all lists while one is `starting` that may have
/// them: a client asks once what there is, and is told when a list changes.
pub fn capabilities(era: Era, faces: &[Known<'_>], scope: &Scope<'_>, starting: bool) -> Bytes {
    if let (Scope::Single, [(server, face)]) = (scope, faces)
        && server.upstream.http().is_some()
    {
        return face.hello.capabilities.clone();
    }
    let offers = |name: &str, flag| faces.iter().any(|(_, face)| face.hello.offers(name, flag));
    let mut parts = Vec::new();
    let toolset = matches!(scope, Scope::Toolset(_));
    if toolset || offers("tools", None) || faces.is_empty() {
        parts.push(r#""tools":{"listChanged":true}"#.to_owned());
    }
    if !toolset {
        if starting || offers("prompts", None) {
            parts.push(r#""prompts":{"listChanged":true}"#.to_owned());
        }
        if starting || offers("resources", None) {
            let carried = faces.iter().any(|(server, face)| match era {
                Era::Legacy => {
                    (server.upstream.http().is_some() || server.upstream.is_shared())
                        && face.hello.offers("resources", Some("subscribe"))
                }
                Era::Modern => follows(server, face),
            });
            let subscribe = if carried { r#","subscribe":true"# } else { "" };
            parts.push(format!(r#""resources":{{"listChanged":true{subscribe}}}"#));
        }
        if offers("completions", None) {
            parts.push(r#""completions":{}"#.to_owned());
        }
    }
    // A process of all callers has one level for all, and its words belong to none of them.
    let logs =
        |(server, face): &Known<'_>| server.upstream.http().is_some() && face.hello.offers("logging", None);
    if faces.iter().any(logs) {
        parts.push(r#""logging":{}"#.to_owned());
    }
    Bytes::from(format!("{{{}}}", parts.join(",")))
}

/// Whether a modern server tells when a resource changes, and the gateway can ask it to: one that is called in its
/// callers' names would have to be asked in each one's.
pub fn follows(server: &Server, face: &Face) -> bool {
    server.upstream.follows() && !server.is_personal() && face.hello.offers("resources", Some("subscribe"))
}
