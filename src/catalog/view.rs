//! How an endpoint's view is made of what its servers list: names, order, pages, capabilities.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use filters::agree::quote;
use filters::{Aim, Era, Thing};

use super::{Endpoint, FRESH, Face, Item, Kind, Lazy, Listing, PAGE, Seen, Target, View};
use crate::config::{Globs, Validate};
use crate::protocol::wire;
use crate::server::Server;
use crate::telemetry::Metrics;
use crate::upstream::house_info;

/// Which servers an endpoint shows, and under which names.
pub enum Scope<'a> {
    All,
    Single,
    Toolset(&'a Globs),
}

/// Whether its holder may use a thing; without one, everybody may use everything.
type May<'a> = Option<&'a dyn Fn(&Aim<'_>) -> bool>;

pub fn endpoint(
    path: String,
    servers: &[Seen],
    scope: Scope<'_>,
    may: May<'_>,
    metrics: &Arc<Metrics>,
) -> Endpoint {
    let only = matches!(scope, Scope::Single).then(|| servers[0].server.clone());
    let toolset = match &scope {
        Scope::Toolset(globs) => Some((*globs).clone()),
        _ => None,
    };
    Endpoint {
        path: path.into(),
        legacy: view(Era::Legacy, servers, &scope, may, metrics),
        modern: view(Era::Modern, servers, &scope, may, metrics),
        members: servers
            .iter()
            .filter(|seen| is_member(seen, &scope, may))
            .map(|s| s.server.clone())
            .collect(),
        only,
        toolset,
    }
}

fn view(era: Era, servers: &[Seen], scope: &Scope<'_>, may: May<'_>, metrics: &Arc<Metrics>) -> View {
    let mut view = View::default();
    let mut faces: Vec<(&Arc<Server>, &Arc<Face>)> =
        servers.iter().filter_map(|seen| Some((&seen.server, seen.face(era)?))).collect();
    view.servers = faces.len();
    if let Some(may) = may {
        // Neither the words nor the capabilities of a server show that cannot be used at all.
        faces.retain(|(server, face)| is_of_use(server, face, scope, may));
    }
    // Clients of a legacy server may rely on the form of its answers: alone it keeps it.
    view.events = era == Era::Legacy
        && matches!((scope, faces.as_slice()), (Scope::Single, [(_, face)]) if face.events);
    for kind in Kind::ALL {
        let mut entries: BTreeMap<String, Bytes> = BTreeMap::new();
        // A toolset is made of tools only.
        let listed = matches!(kind, Kind::Tools) || !matches!(scope, Scope::Toolset(_));
        for (server, face) in faces.iter().filter(|_| listed) {
            for item in face.lists.of(kind) {
                enter(&mut view, &mut entries, kind, server, item, scope, may, metrics);
            }
        }
        if kind == Kind::Tools {
            view.shown = entries.keys().cloned().collect();
        }
        let info = server_info(&faces, scope);
        let open: Vec<&Listing> = faces.iter().map(|(_, face)| face.lists.listing(kind)).collect();
        let pages = pages(era, kind, entries.into_values(), &open, may.is_some(), &info);
        view.pages[kind as usize] =
            if view.events { pages.into_iter().map(wire::one_line).collect() } else { pages };
    }
    view.templates.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
    view.capabilities = capabilities(era, &faces, scope);
    view.server_info = server_info(&faces, scope);
    view.instructions = instructions(&faces, scope);
    view
}

/// Whether anything of a server may be used, in any era; of one that was never reached nobody knows what it has.
fn is_member(seen: &Seen, scope: &Scope<'_>, may: May<'_>) -> bool {
    let Some(may) = may else { return true };
    let mut faces = [&seen.legacy, &seen.modern].into_iter().flatten().peekable();
    if faces.peek().is_none() {
        return may(&Aim { thing: Thing::Server, name: "", server: &seen.server.name });
    }
    faces.any(|face| is_of_use(&seen.server, face, scope, may))
}

/// Whether anything of a server may be used, as far as it says what it has.
fn is_of_use(server: &Arc<Server>, face: &Face, scope: &Scope<'_>, may: &dyn Fn(&Aim<'_>) -> bool) -> bool {
    if !may(&Aim { thing: Thing::Server, name: "", server: &server.name }) {
        return false;
    }
    let mut entries =
        Kind::ALL.into_iter().flat_map(|kind| face.lists.of(kind).iter().map(move |i| (kind, i)));
    let mut any = false;
    let of_use = entries.any(|(kind, item)| {
        any = true;
        names(kind, server, item, scope)
            .is_some_and(|(_, full)| may(&Aim { thing: kind.thing(), name: &full, server: &server.name }))
    });
    of_use || !any
}

/// The name that this endpoint shows an entry by, and the one that roles and rules know it by; none if the
/// endpoint does not show it.
fn names(kind: Kind, server: &Server, item: &Item, scope: &Scope<'_>) -> Option<(String, String)> {
    let (own, full) = match kind {
        Kind::Tools => {
            let own = server.shows(&item.key)?;
            (own, server.federated(own))
        }
        Kind::Prompts => (item.key.as_str(), server.federated(&item.key)),
        Kind::Resources | Kind::Templates => (item.key.as_str(), item.key.clone()),
    };
    let shown = match (kind, scope) {
        (Kind::Tools, Scope::Toolset(globs)) if !globs.is_match(&full) => return None,
        (_, Scope::Single) => own.to_owned(),
        _ => full.clone(),
    };
    Some((shown, full))
}

/// Puts one entry of a server into the view, under the name that this endpoint shows it by.
#[allow(clippy::too_many_arguments, reason = "one entry, and all that decides on it")]
fn enter(
    view: &mut View,
    entries: &mut BTreeMap<String, Bytes>,
    kind: Kind,
    server: &Arc<Server>,
    item: &Item,
    scope: &Scope<'_>,
    may: May<'_>,
    metrics: &Arc<Metrics>,
) {
    let Some((shown, full)) = names(kind, server, item, scope) else { return };
    if may.is_some_and(|may| !may(&Aim { thing: kind.thing(), name: &full, server: &server.name })) {
        return;
    }
    let checked = kind == Kind::Tools && server.config.validate != Validate::Off;
    let schema = checked.then(|| wire::member(item.definition(), "inputSchema")).flatten();
    let schema = schema.map(|place| Lazy::new(item.definition().slice(place.start..place.end)));
    let believed = server.upstream.http().is_some_and(|pool| pool.retry.idempotent);
    let repeatable = kind == Kind::Tools && believed && is_repeatable(item.definition());
    let target = |label: &str| Target {
        server: server.clone(),
        name: item.key.as_str().into(),
        label: label.into(),
        full: full.as_str().into(),
        counted: metrics.counted(kind.used_by(), &server.name, label),
        schema: schema.clone(),
        repeatable,
        mirrors: item.mirrors().cloned(),
    };
    if entries.contains_key(&shown) {
        if may.is_some() {
            return;
        }
        tracing::warn!(server = %server.name, name = %shown, kind = kind.member(), "the name is taken; the later one is left out");
        return;
    }
    match kind {
        Kind::Tools => drop(view.tools.insert(shown.clone(), target(&shown))),
        Kind::Prompts => drop(view.prompts.insert(shown.clone(), target(&shown))),
        Kind::Resources => drop(view.resources.insert(shown.clone(), target("_resource"))),
        Kind::Templates => {
            let literal = shown.split('{').next().unwrap_or_default().to_owned();
            view.templates.push((literal, target("_resource")));
        }
    }
    entries.insert(shown.clone(), item.renamed(&shown));
}

/// Whether a tool calls itself idempotent, or one that only reads.
fn is_repeatable(definition: &[u8]) -> bool {
    let Some(annotations) = wire::member(definition, "annotations") else { return false };
    let annotations = annotations.of(definition);
    ["idempotentHint", "readOnlyHint"]
        .iter()
        .any(|hint| wire::member(annotations, hint).is_some_and(|value| value.of(annotations) == b"true"))
}

/// The results of one list method, a page each; at least one, which may be empty.
fn pages(
    era: Era,
    kind: Kind,
    entries: impl ExactSizeIterator<Item = Bytes>,
    listings: &[&Listing],
    private: bool,
    server_info: &[u8],
) -> Vec<Bytes> {
    let entries: Vec<Bytes> = entries.collect();
    let chunks: Vec<&[Bytes]> =
        if entries.is_empty() { vec![&[][..]] } else { entries.chunks(PAGE).collect() };
    let count = chunks.len();
    // A part that does not say how long it is fresh is not fresh at all.
    let parts = listings.iter().filter(|listing| !listing.items.is_empty());
    let fresh = parts.map(|listing| listing.ttl_ms.unwrap_or(0)).min().unwrap_or(0).min(FRESH);
    // Only what every part calls public may be shared between callers (caching.mdx), and only if all see it.
    let public = !private && !listings.is_empty() && listings.iter().all(|listing| listing.public);
    let page = |(number, chunk): (usize, &[Bytes])| {
        let size: usize = chunk.iter().map(|entry| entry.len() + 1).sum();
        let mut out = BytesMut::with_capacity(size + server_info.len() + 200);
        out.put_slice(format!(r#"{{"{}":["#, kind.member()).as_bytes());
        for (at, entry) in chunk.iter().enumerate() {
            if at > 0 {
                out.put_u8(b',');
            }
            out.put_slice(entry);
        }
        out.put_u8(b']');
        if number + 1 < count {
            out.put_slice(format!(r#","nextCursor":"p{}""#, number + 1).as_bytes());
        }
        if era == Era::Modern {
            let scope = if public { "public" } else { "private" };
            out.put_slice(
                format!(r#","resultType":"complete","ttlMs":{fresh},"cacheScope":"{scope}","_meta":{{"io.modelcontextprotocol/serverInfo":"#)
                    .as_bytes(),
            );
            out.put_slice(server_info);
            out.put_u8(b'}');
        }
        out.put_u8(b'}');
        out.freeze()
    };
    chunks.into_iter().enumerate().map(page).collect()
}

fn server_info(faces: &[(&Arc<Server>, &Arc<Face>)], scope: &Scope<'_>) -> Bytes {
    match (scope, faces) {
        (Scope::Single, [(_, face)]) => face.hello.server_info.clone(),
        _ => Bytes::from_static(house_info().as_bytes()),
    }
}

fn instructions(faces: &[(&Arc<Server>, &Arc<Face>)], scope: &Scope<'_>) -> Option<Bytes> {
    if let (Scope::Single, [(_, face)]) = (scope, faces) {
        return face.hello.instructions.clone();
    }
    let mut joined = String::new();
    for (server, face) in faces {
        if let Some(text) = face.hello.instructions.as_ref().and_then(|raw| wire::string(raw)) {
            joined.push_str(&format!("## {}\n{}\n\n", server.name, text.trim()));
        }
    }
    (!joined.is_empty()).then(|| Bytes::from(quote(joined.trim_end())))
}

/// One server's own capabilities pass as they are, where it is reached alone and by itself; a federation
/// offers what at least one member offers and the gateway can carry.
fn capabilities(era: Era, faces: &[(&Arc<Server>, &Arc<Face>)], scope: &Scope<'_>) -> Bytes {
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
        if offers("prompts", None) {
            parts.push(r#""prompts":{"listChanged":true}"#.to_owned());
        }
        if offers("resources", None) {
            let carried = faces.iter().any(|(server, face)| {
                let carries = match era {
                    Era::Legacy => server.upstream.http().is_some() || server.upstream.is_shared(),
                    Era::Modern => server.upstream.follows(),
                };
                carries && face.hello.offers("resources", Some("subscribe"))
            });
            let subscribe = if carried { r#","subscribe":true"# } else { "" };
            parts.push(format!(r#""resources":{{"listChanged":true{subscribe}}}"#));
        }
        if offers("completions", None) {
            parts.push(r#""completions":{}"#.to_owned());
        }
    }
    // A process of all callers has one level for all, and its words belong to none of them.
    let logs = faces
        .iter()
        .any(|(server, face)| server.upstream.http().is_some() && face.hello.offers("logging", None));
    if era == Era::Legacy && logs {
        parts.push(r#""logging":{}"#.to_owned());
    }
    Bytes::from(format!("{{{}}}", parts.join(",")))
}
