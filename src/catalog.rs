//! What the connected servers offer, as each endpoint shows it: an immutable, sorted snapshot.
//!
//! A [`Catalog`] is built off the path of a call, whenever a server's lists or the configuration change, and
//! swapped in as a whole. On the path it is only looked up: names to targets, and pages that are answers
//! already. Definitions pass as the bytes that the server sent; only names are put in the place of names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use filters::agree::quote;
use filters::{Era, Span};
use sha2::{Digest, Sha256};

use crate::config::{Globs, ServerName, Toolset};
use crate::protocol::wire;
use crate::server::Server;
use crate::telemetry::{Counted, Metrics};
use crate::upstream::{Hello, house_info};

mod listing;
mod naming;

pub use listing::{Item, Listing, Lists, Page};
use naming::federated;

/// Entries on one page of a list. Large, because many clients read the first page only.
const PAGE: usize = 1000;
/// How long a modern client may keep a list that changes are announced for, in milliseconds.
const FRESH: u64 = 60_000;

/// One server in one era, as last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Face {
    pub hello: Hello,
    pub lists: Lists,
}

/// A server with what is known of it.
pub struct Seen {
    pub server: Arc<Server>,
    pub legacy: Option<Arc<Face>>,
    pub modern: Option<Arc<Face>>,
}

impl Seen {
    pub fn face(&self, era: Era) -> Option<&Arc<Face>> {
        match era {
            Era::Legacy => self.legacy.as_ref(),
            Era::Modern => self.modern.as_ref(),
        }
    }
}

/// Where a name leads.
#[derive(Clone)]
pub struct Target {
    pub server: Arc<Server>,
    /// The server's own name for it.
    pub name: Arc<str>,
    /// The name as this endpoint shows it: the label of metrics and logs.
    pub label: Arc<str>,
    pub counted: Arc<Counted>,
}

/// The four things that a server lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tools,
    Prompts,
    Resources,
    Templates,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Tools, Kind::Prompts, Kind::Resources, Kind::Templates];

    /// The member of the result that holds the list.
    pub fn member(self) -> &'static str {
        match self {
            Kind::Tools => "tools",
            Kind::Prompts => "prompts",
            Kind::Resources => "resources",
            Kind::Templates => "resourceTemplates",
        }
    }

    /// The method that uses an entry of the list.
    fn used_by(self) -> &'static str {
        match self {
            Kind::Tools => "tools/call",
            Kind::Prompts => "prompts/get",
            Kind::Resources | Kind::Templates => "resources/read",
        }
    }

    /// The member of an entry that names it.
    pub fn key(self) -> &'static str {
        match self {
            Kind::Tools | Kind::Prompts => "name",
            Kind::Resources => "uri",
            Kind::Templates => "uriTemplate",
        }
    }

    pub fn method(self) -> &'static str {
        match self {
            Kind::Tools => "tools/list",
            Kind::Prompts => "prompts/list",
            Kind::Resources => "resources/list",
            Kind::Templates => "resources/templates/list",
        }
    }

    /// The capability that a server declares for it.
    pub fn capability(self) -> &'static str {
        match self {
            Kind::Tools => "tools",
            Kind::Prompts => "prompts",
            Kind::Resources | Kind::Templates => "resources",
        }
    }
}

/// What one endpoint shows in one era.
#[derive(Default)]
pub struct View {
    pub tools: HashMap<String, Target>,
    pub prompts: HashMap<String, Target>,
    pub resources: HashMap<String, Target>,
    /// Literal beginnings of URI templates, longest first.
    pub templates: Vec<(String, Target)>,
    /// Results of the four list methods, a page each, in the order of [`Kind::ALL`].
    pages: [Vec<Bytes>; 4],
    /// The members of an `initialize` or `server/discover` result that do not depend on the client.
    pub capabilities: Bytes,
    pub server_info: Bytes,
    pub instructions: Option<Bytes>,
    /// How many servers speak this era here; with none there is nothing to greet for.
    pub servers: usize,
    /// Tool names as shown, sorted.
    pub shown: Vec<String>,
}

impl View {
    /// A page of a list as the JSON text of a result, by the cursor that the page before gave out.
    pub fn page(&self, kind: Kind, cursor: Option<&str>) -> Option<&Bytes> {
        let number = match cursor {
            None => 0,
            Some(cursor) => cursor.strip_prefix('p')?.parse::<usize>().ok().filter(|n| *n > 0)?,
        };
        self.pages[kind as usize].get(number)
    }

    /// The server that reads this URI.
    pub fn resource(&self, uri: &str) -> Option<&Target> {
        self.resources.get(uri).or_else(|| {
            self.templates
                .iter()
                .find(|(prefix, _)| uri.starts_with(prefix.as_str()))
                .map(|(_, target)| target)
        })
    }
}

/// A path that serves MCP.
pub struct Endpoint {
    /// The whole path, such as `/servers/files/mcp`.
    pub path: Arc<str>,
    pub legacy: View,
    pub modern: View,
    /// Set for the endpoint of a single server: what the catalog does not know may be asked of it.
    pub only: Option<Arc<Server>>,
    /// All servers whose names this endpoint can show.
    pub members: Vec<Arc<Server>>,
}

impl Endpoint {
    pub fn view(&self, era: Era) -> &View {
        match era {
            Era::Legacy => &self.legacy,
            Era::Modern => &self.modern,
        }
    }
}

#[derive(Default)]
pub struct Catalog {
    /// Counts up with each change.
    pub version: u64,
    endpoints: HashMap<Arc<str>, Arc<Endpoint>>,
}

impl Catalog {
    pub fn endpoint(&self, path: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(path)
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values()
    }

    /// Builds the snapshot. `servers` in the order of their names; `toolsets` by name, as globs over the
    /// federated tool names.
    pub fn build(
        version: u64,
        servers: &[Seen],
        toolsets: &BTreeMap<ServerName, Toolset>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let mut endpoints = HashMap::new();
        let mut add = |path: String, servers: &[Seen], scope: Scope<'_>| {
            let endpoint = endpoint(path, servers, scope, metrics);
            endpoints.insert(endpoint.path.clone(), Arc::new(endpoint));
        };
        add("/mcp".into(), servers, Scope::All);
        for seen in servers {
            let path = format!("/servers/{}/mcp", seen.server.name);
            add(path, std::slice::from_ref(seen), Scope::Single);
        }
        for (name, toolset) in toolsets {
            add(format!("/servers/{name}/mcp"), servers, Scope::Toolset(&toolset.tools));
        }
        Self { version, endpoints }
    }

    /// The lists that read differently in `new`, on endpoints that both have.
    pub fn differences(&self, new: &Catalog) -> Vec<Change> {
        let mut changes = Vec::new();
        for (path, endpoint) in &new.endpoints {
            let Some(before) = self.endpoints.get(path) else { continue };
            for era in [Era::Legacy, Era::Modern] {
                let (old, new) = (before.view(era), endpoint.view(era));
                let differs = Kind::ALL
                    .into_iter()
                    .filter(|kind| old.pages[*kind as usize] != new.pages[*kind as usize]);
                changes.extend(differs.map(|kind| Change { path: path.clone(), era, kind }));
            }
        }
        changes
    }
}

/// A list that reads differently now.
#[derive(Clone, Debug)]
pub struct Change {
    pub path: Arc<str>,
    pub era: Era,
    pub kind: Kind,
}

enum Scope<'a> {
    All,
    Single,
    Toolset(&'a Globs),
}

fn endpoint(path: String, servers: &[Seen], scope: Scope<'_>, metrics: &Arc<Metrics>) -> Endpoint {
    let only = matches!(scope, Scope::Single).then(|| servers[0].server.clone());
    Endpoint {
        path: path.into(),
        legacy: view(Era::Legacy, servers, &scope, metrics),
        modern: view(Era::Modern, servers, &scope, metrics),
        members: servers.iter().map(|seen| seen.server.clone()).collect(),
        only,
    }
}

fn view(era: Era, servers: &[Seen], scope: &Scope<'_>, metrics: &Arc<Metrics>) -> View {
    let mut view = View::default();
    let faces: Vec<(&Arc<Server>, &Arc<Face>)> =
        servers.iter().filter_map(|seen| Some((&seen.server, seen.face(era)?))).collect();
    view.servers = faces.len();
    for kind in Kind::ALL {
        let mut entries: BTreeMap<String, Bytes> = BTreeMap::new();
        // A toolset is made of tools only.
        let listed = matches!(kind, Kind::Tools) || !matches!(scope, Scope::Toolset(_));
        for (server, face) in faces.iter().filter(|_| listed) {
            for item in face.lists.of(kind) {
                enter(&mut view, &mut entries, kind, server, item, scope, metrics);
            }
        }
        if kind == Kind::Tools {
            view.shown = entries.keys().cloned().collect();
        }
        let info = server_info(&faces, scope);
        let open: Vec<&Listing> = faces.iter().map(|(_, face)| face.lists.listing(kind)).collect();
        view.pages[kind as usize] = pages(era, kind, entries.into_values(), &open, &info);
    }
    view.templates.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
    view.capabilities = capabilities(era, &faces, scope);
    view.server_info = server_info(&faces, scope);
    view.instructions = instructions(&faces, scope);
    view
}

/// Puts one entry of a server into the view, under the name that this endpoint shows it by.
fn enter(
    view: &mut View,
    entries: &mut BTreeMap<String, Bytes>,
    kind: Kind,
    server: &Arc<Server>,
    item: &Item,
    scope: &Scope<'_>,
    metrics: &Arc<Metrics>,
) {
    let federated_name = |name: &str| federated(server.prefix(), &server.name, name);
    let shown = match kind {
        Kind::Tools => {
            let Some(own) = server.shows(&item.key) else { return };
            match scope {
                Scope::Single => own.to_owned(),
                Scope::All => federated_name(own),
                Scope::Toolset(globs) => {
                    let name = federated_name(own);
                    if !globs.is_match(&name) {
                        return;
                    }
                    name
                }
            }
        }
        Kind::Prompts if !matches!(scope, Scope::Single) => federated_name(&item.key),
        _ => item.key.clone(),
    };
    let target = |label: &str| Target {
        server: server.clone(),
        name: item.key.as_str().into(),
        label: label.into(),
        counted: metrics.counted(kind.used_by(), &server.name, label),
    };
    if entries.contains_key(&shown) {
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

/// The results of one list method, a page each; at least one, which may be empty.
fn pages(
    era: Era,
    kind: Kind,
    entries: impl ExactSizeIterator<Item = Bytes>,
    listings: &[&Listing],
    server_info: &[u8],
) -> Vec<Bytes> {
    let entries: Vec<Bytes> = entries.collect();
    let chunks: Vec<&[Bytes]> =
        if entries.is_empty() { vec![&[][..]] } else { entries.chunks(PAGE).collect() };
    let count = chunks.len();
    // A part that does not say how long it is fresh is not fresh at all.
    let parts = listings.iter().filter(|listing| !listing.items.is_empty());
    let fresh = parts.map(|listing| listing.ttl_ms.unwrap_or(0)).min().unwrap_or(0).min(FRESH);
    // Only what every part calls public may be shared between callers (caching.mdx).
    let public = !listings.is_empty() && listings.iter().all(|listing| listing.public);
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
                server.upstream.http().is_some() && face.hello.offers("resources", Some("subscribe"))
            });
            let subscribe = if carried { r#","subscribe":true"# } else { "" };
            parts.push(format!(r#""resources":{{"listChanged":true{subscribe}}}"#));
        }
        if offers("completions", None) {
            parts.push(r#""completions":{}"#.to_owned());
        }
    }
    if era == Era::Legacy && offers("logging", None) {
        parts.push(r#""logging":{}"#.to_owned());
    }
    Bytes::from(format!("{{{}}}", parts.join(",")))
}

/// Eight hex digits that tell two names apart for good.
fn fingerprint(server: &str, name: &str) -> String {
    let digest = Sha256::new().chain_update(server).chain_update([0]).chain_update(name).finalize();
    digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A place in the text of an entry.
type Place = Span;
