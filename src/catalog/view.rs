//! Builds an endpoint's view from the lists of its servers: names, order, pages, capabilities.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use filters::{CallTarget, TargetKind};
use mcp::era_codec::Cache;
use mcp::{Era, tasks};

use super::scope::Scope;
use super::server_info;
use super::server_info::ServerEntry;
use super::{
    DiscoveredServer, Endpoint, Item, LazySchema, ListKind, Listing, MAX_TTL_MS, PAGE, ServerLists, Target,
    TaskSupport, View,
};
use crate::config::Validate;
use crate::server::Server;
use crate::telemetry::Metrics;
use mcp::jsonrpc::message;

/// Whether the caller may use a target; without one, everything may be used.
type CanSee<'a> = Option<&'a dyn Fn(&CallTarget<'_>) -> bool>;

pub fn endpoint(
    path: String,
    servers: &[DiscoveredServer],
    scope: Scope<'_>,
    may: CanSee<'_>,
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
        single: only,
        toolset,
    }
}

fn view(
    client_era: Era,
    servers: &[DiscoveredServer],
    scope: &Scope<'_>,
    may: CanSee<'_>,
    metrics: &Arc<Metrics>,
) -> View {
    let mut entries_by_server: Vec<ServerEntry<'_>> =
        servers.iter().filter_map(|seen| Some((&seen.server, seen.lists_for(client_era)?))).collect();
    let count = entries_by_server.len();
    if let Some(may) = may {
        // Neither instructions nor capabilities are shown of a server that cannot be used at all.
        entries_by_server.retain(|(server, server_lists)| is_offered(server, server_lists, scope, may));
    }
    let mut builder =
        ViewBuilder { view: View::default(), ui_resources: Vec::new(), scope, can_see: may, metrics };
    let lists = ListKind::ALL.map(|kind| {
        let mut entries = ListEntries::default();
        // A toolset has only tools.
        let listed = matches!(kind, ListKind::Tools) || !matches!(scope, Scope::Toolset(_));
        for (server, server_lists) in entries_by_server.iter().filter(|_| listed) {
            for item in server_lists.lists.of(kind) {
                builder.add(&mut entries, kind, (server, server_lists), item);
            }
        }
        // A server by itself keeps its own order.
        if !matches!(scope, Scope::Single) {
            entries.list.sort_unstable_by(|a, b| a.shown.cmp(&b.shown));
        }
        entries.list
    });
    builder.add_ui_resources();
    let mut view = builder.view;
    view.servers = count;
    view.server_era =
        entries_by_server.first().filter(|_| matches!(scope, Scope::Single)).map(|entry| entry.1.era);
    let awaited = |seen: &&DiscoveredServer| {
        seen.starting[client_era as usize] && seen.lists(client_era).is_none() && is_member(seen, scope, may)
    };
    view.starting = servers.iter().any(|seen| awaited(&seen));
    view.templates.sort();
    // Clients of a legacy server may rely on the form of its responses: alone it keeps it.
    view.events = client_era == Era::Legacy
        && matches!((scope, entries_by_server.as_slice()), (Scope::Single, [(_, server_lists)]) if server_lists.events);
    view.shown = lists[ListKind::Tools as usize].iter().map(|entry| entry.shown.clone()).collect();
    view.shown.sort_unstable();
    let fingerprint_of = |kinds: &[ListKind]| {
        let mut hasher = DefaultHasher::new();
        for kind in kinds {
            // Another order is not announced as a change.
            let mut entry_prints: Vec<_> =
                lists[*kind as usize].iter().map(|e| (&*e.shown, e.fingerprint)).collect();
            entry_prints.sort_unstable();
            entry_prints.hash(&mut hasher);
        }
        hasher.finish()
    };
    view.fingerprints = [
        fingerprint_of(&[ListKind::Tools]),
        fingerprint_of(&[ListKind::Prompts]),
        fingerprint_of(&[ListKind::Resources, ListKind::Templates]),
    ];
    view.server_info = server_info::server_info(&entries_by_server, scope);
    for (kind, entries) in ListKind::ALL.into_iter().zip(lists) {
        let open: Vec<&Listing> =
            entries_by_server.iter().map(|(_, server_lists)| server_lists.lists.listing(kind)).collect();
        let entries = entries.into_iter().map(|entry| entry.text).collect();
        let pages = pages(client_era, kind, entries, &open, may.is_some(), &view.server_info);
        view.pages[kind as usize] =
            if view.events { pages.into_iter().map(message::one_line).collect() } else { pages };
    }
    if matches!(scope, Scope::Toolset(_)) {
        // Only servers whose tools it shows count for the rest.
        let shown: HashSet<u64> = view.tools.values().map(|target| target.server.serial).collect();
        entries_by_server.retain(|(server, _)| shown.contains(&server.serial));
    }
    let following = entries_by_server.iter().filter(|(server, server_lists)| {
        server_info::accepts_subscriptions(client_era, server, server_lists)
    });
    view.resource_servers = following.map(|(server, _)| server.serial).collect();
    view.has_tasks =
        client_era == Era::Modern && view.tools.values().any(|target| target.tasks != TaskSupport::None);
    view.capabilities = server_info::capabilities(client_era, &entries_by_server, scope, view.starting);
    if let Some(declared) = tasks::declare(&view.capabilities, view.has_tasks) {
        view.capabilities = declared.into();
    }
    view.instructions = server_info::instructions(&entries_by_server, scope);
    view
}

/// Whether anything of a server may be used, in any era. The lists of a server that was never connected are
/// unknown.
fn is_member(seen: &DiscoveredServer, scope: &Scope<'_>, may: CanSee<'_>) -> bool {
    let Some(may) = may else { return true };
    let mut lists = [&seen.legacy, &seen.modern].into_iter().flatten().peekable();
    if lists.peek().is_none() {
        return may(&CallTarget { kind: TargetKind::Server, name: "", server: &seen.server.name });
    }
    lists.any(|server_lists| is_offered(&seen.server, server_lists, scope, may))
}

/// Whether anything that a server lists may be used.
fn is_offered(
    server: &Arc<Server>,
    lists: &ServerLists,
    scope: &Scope<'_>,
    may: &dyn Fn(&CallTarget<'_>) -> bool,
) -> bool {
    if !may(&CallTarget { kind: TargetKind::Server, name: "", server: &server.name }) {
        return false;
    }
    let mut entries =
        ListKind::ALL.into_iter().flat_map(|kind| lists.lists.of(kind).iter().map(move |i| (kind, i)));
    let mut any = false;
    let usable = entries.any(|(kind, item)| {
        any = true;
        display_names(kind, server, item, scope).is_some_and(|(_, full)| {
            may(&CallTarget { kind: kind.target_kind(), name: &full, server: &server.name })
        })
    });
    usable || !any
}

/// The name under which this endpoint shows an entry, and the qualified one for roles and rules. `None` if
/// the endpoint does not show it.
fn display_names(
    kind: ListKind,
    server: &Server,
    item: &Item,
    scope: &Scope<'_>,
) -> Option<(String, String)> {
    let (own, full) = match kind {
        ListKind::Tools => {
            let own = server.visible_tool(&item.key)?;
            (own, server.federated(own))
        }
        ListKind::Prompts => (item.key.as_str(), server.federated(&item.key)),
        ListKind::Resources | ListKind::Templates => (item.key.as_str(), item.key.clone()),
    };
    let shown = match (kind, scope) {
        (ListKind::Tools, Scope::Toolset(globs)) if !globs.is_match(&full) => return None,
        (_, Scope::Single) => own.to_owned(),
        _ => full.clone(),
    };
    Some((shown, full))
}

/// An entry of a list as an endpoint shows it.
struct ListEntry {
    shown: String,
    /// A hash of its content.
    fingerprint: u64,
    text: Bytes,
}

/// The entries of a list, each name once.
#[derive(Default)]
struct ListEntries {
    list: Vec<ListEntry>,
    names: HashSet<String>,
}

/// A UI resource that a tool names.
struct UiResource {
    server: Arc<Server>,
    server_era: Era,
    uri: Arc<str>,
}

/// A view that is being built.
struct ViewBuilder<'a> {
    view: View,
    /// The UI resources that its tools name.
    ui_resources: Vec<UiResource>,
    scope: &'a Scope<'a>,
    can_see: CanSee<'a>,
    metrics: &'a Arc<Metrics>,
}

impl ViewBuilder<'_> {
    fn can_see(&self, kind: ListKind, name: &str, server: &Server) -> bool {
        self.can_see
            .is_none_or(|may| may(&CallTarget { kind: kind.target_kind(), name, server: &server.name }))
    }

    /// Adds one entry of a server, under the name that this endpoint shows.
    fn add(
        &mut self,
        entries: &mut ListEntries,
        kind: ListKind,
        (server, server_lists): (&Arc<Server>, &ServerLists),
        item: &Item,
    ) {
        let server_era = server_lists.era;
        let Some((shown, full)) = display_names(kind, server, item, self.scope) else { return };
        if !self.can_see(kind, &full, server) {
            return;
        }
        if !entries.names.insert(shown.clone()) {
            if self.can_see.is_none() && server.warns(("taken", kind.member(), &shown)) {
                tracing::warn!(server = %server.name, name = %shown, kind = kind.member(), "the name is taken; the later one is left out");
            }
            return;
        }
        let checked = kind == ListKind::Tools && server.config.validate != Validate::Off;
        let schema = checked.then(|| message::member(item.definition(), "inputSchema")).flatten();
        let schema = schema.map(|place| LazySchema::new(item.definition().slice(place.start..place.end)));
        let believed = server.endpoint_pool().is_some_and(|pool| pool.retry.idempotent);
        let label = match kind {
            ListKind::Tools | ListKind::Prompts => shown.as_str(),
            ListKind::Resources | ListKind::Templates => RESOURCE,
        };
        let target = Target {
            server: server.clone(),
            server_era,
            name: item.key.as_str().into(),
            display_name: label.into(),
            qualified_name: full.as_str().into(),
            counters: self.metrics.call_counters(kind.used_by(), &server.name, label),
            schema,
            idempotent: kind == ListKind::Tools && believed && is_idempotent(item.definition()),
            param_headers: item.param_headers().cloned(),
            wraps_output: item.wraps_output,
            tasks: match kind {
                ListKind::Tools => server_info::task_support(server, server_lists, [&item.key, &full]),
                _ => TaskSupport::None,
            },
        };
        let view = &mut self.view;
        match kind {
            ListKind::Tools => drop(view.tools.insert(shown.clone(), target)),
            ListKind::Prompts => drop(view.prompts.insert(shown.clone(), target)),
            ListKind::Resources => drop(view.resources.insert(shown.clone(), target)),
            ListKind::Templates => view.templates.push(&shown, target),
        }
        self.ui_resources.extend(item.ui_resource().map(|uri| UiResource {
            server: server.clone(),
            server_era,
            uri: uri.clone(),
        }));
        let text = item.renamed(&shown);
        entries.list.push(ListEntry { shown, fingerprint: item.fingerprint, text });
    }

    /// Adds the UI resources that tools name and no list needs to show (MCP Apps): they are read like all
    /// others.
    fn add_ui_resources(&mut self) {
        for UiResource { server, server_era, uri } in std::mem::take(&mut self.ui_resources) {
            if !self.can_see(ListKind::Resources, &uri, &server) {
                continue;
            }
            match self.view.resources.get(&*uri) {
                Some(taken) if taken.server.serial != server.serial && self.can_see.is_none() => {
                    let other = &taken.server.name;
                    if server.warns(("page", &uri, other)) {
                        tracing::warn!(server = %server.name, %uri, %other, "the page of a tool is read from another server, which has the same URI");
                    }
                }
                Some(_) => {}
                None => {
                    let target = Target {
                        name: uri.clone(),
                        display_name: RESOURCE.into(),
                        qualified_name: uri.clone(),
                        counters: self.metrics.call_counters(
                            ListKind::Resources.used_by(),
                            &server.name,
                            RESOURCE,
                        ),
                        schema: None,
                        idempotent: false,
                        param_headers: None,
                        wraps_output: false,
                        tasks: TaskSupport::None,
                        server_era,
                        server,
                    };
                    self.view.resources.insert(uri.to_string(), target);
                }
            }
        }
    }
}

/// What metrics and logs call every resource: their number has no limit.
const RESOURCE: &str = "_resource";

/// Whether a tool declares itself idempotent or read-only.
fn is_idempotent(definition: &[u8]) -> bool {
    let Some(annotations) = message::member(definition, "annotations") else { return false };
    let annotations = annotations.of(definition);
    ["idempotentHint", "readOnlyHint"]
        .iter()
        .any(|hint| message::member(annotations, hint).is_some_and(|value| value.of(annotations) == b"true"))
}

/// The results of one list method, a page each; at least one, which may be empty.
fn pages(
    client_era: Era,
    kind: ListKind,
    entries: Vec<Bytes>,
    listings: &[&Listing],
    private: bool,
    server_info: &[u8],
) -> Vec<Bytes> {
    let chunks: Vec<&[Bytes]> =
        if entries.is_empty() { vec![&[][..]] } else { entries.chunks(PAGE).collect() };
    let count = chunks.len();
    // A list without a declared freshness is not fresh at all.
    let parts = listings.iter().filter(|listing| !listing.items.is_empty());
    let fresh = parts.map(|listing| listing.ttl_ms.unwrap_or(0)).min().unwrap_or(0).min(MAX_TTL_MS);
    // Only what every list declares public may be shared between callers (caching.mdx), and only if all see
    // it.
    let public = !private && !listings.is_empty() && listings.iter().all(|listing| listing.public);
    let last = client_era.codec().list_members(Cache { ttl_ms: fresh, public }, server_info);
    let page = |(number, chunk): (usize, &[Bytes])| {
        let size: usize = chunk.iter().map(|entry| entry.len() + 1).sum();
        let mut out = BytesMut::with_capacity(size + last.len() + 40);
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
        out.put_slice(&last);
        out.put_u8(b'}');
        out.freeze()
    };
    chunks.into_iter().enumerate().map(page).collect()
}
