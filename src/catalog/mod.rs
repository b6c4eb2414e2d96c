//! What the connected servers offer, as each endpoint shows it: an immutable snapshot, sorted by names, or in a server's
//! own order on the endpoint of that server alone.
//!
//! A [`Catalog`] is built off the path of a call, whenever a server's lists or the configuration change, and
//! swapped in as a whole. On the path it is only looked up: names to targets, and pages that are answers
//! already. Definitions pass as the bytes that the server sent; only names are put in the place of names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ahash::RandomState;
use bytes::Bytes;
use filters::param_headers::ParamHeaders;
use filters::{CallTarget, TargetKind};
use mcp::{Era, Span};

use crate::config::{Globs, ServerName, Toolset};
use crate::server::Server;
use crate::telemetry::{CallCounters, Metrics};
use crate::upstream::ServerHandshake;

mod lazy_schema;
mod listing;
pub mod pins;
mod scope;
mod server_info;
mod uri_templates;
mod view;

pub use crate::server::naming::federated;
pub use lazy_schema::LazySchema;
pub use listing::{Item, Listing, Lists, Page, RejectedEntry};
use scope::Scope;
use uri_templates::UriTemplates;
use view::endpoint;

/// Entries on one page of a list. Large, because many clients read the first page only.
const PAGE: usize = 1000;
/// How long a modern client may keep a list that changes are announced for, in milliseconds.
const MIN_TTL_MS: u64 = 60_000;

/// One server in one era, as last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLists {
    pub handshake: ServerHandshake,
    pub lists: Lists,
    /// Its lists came as streams of events.
    pub events: bool,
}

/// A server with what is known of it.
#[derive(Clone)]
pub struct DiscoveredServer {
    pub server: Arc<Server>,
    pub legacy: Option<Arc<ServerLists>>,
    pub modern: Option<Arc<ServerLists>>,
    /// By era: whether it was started and has not answered yet.
    pub starting: [bool; 2],
}

impl DiscoveredServer {
    pub fn lists(&self, era: Era) -> Option<&Arc<ServerLists>> {
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
    pub display_name: Arc<str>,
    /// The name that roles, rules and limits know it by, on every endpoint: the federated one of a tool or
    /// prompt, the URI of a resource or template.
    pub qualified_name: Arc<str>,
    pub counters: Arc<CallCounters>,
    /// The schema of a tool's arguments, where they are to be checked.
    pub schema: Option<Arc<LazySchema>>,
    /// A tool that says it may be called twice, of a server whose word is taken for it.
    pub idempotent: bool,
    /// Which arguments of a tool a modern call repeats in its head.
    pub param_headers: Option<Arc<ParamHeaders>>,
}

/// The four things that a server lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    Tools,
    Prompts,
    Resources,
    Templates,
}

impl ListKind {
    pub const ALL: [ListKind; 4] =
        [ListKind::Tools, ListKind::Prompts, ListKind::Resources, ListKind::Templates];
    /// Those that are announced by a word of their own; that of resources is for their templates too.
    pub const ANNOUNCED: [ListKind; 3] = [ListKind::Tools, ListKind::Prompts, ListKind::Resources];

    /// The member of the result that holds the list.
    pub fn member(self) -> &'static str {
        match self {
            ListKind::Tools => "tools",
            ListKind::Prompts => "prompts",
            ListKind::Resources => "resources",
            ListKind::Templates => "resourceTemplates",
        }
    }

    /// The official schema's name for an entry.
    pub fn definition(self) -> &'static str {
        match self {
            ListKind::Tools => "Tool",
            ListKind::Prompts => "Prompt",
            ListKind::Resources => "Resource",
            ListKind::Templates => "ResourceTemplate",
        }
    }

    /// What roles and rules call an entry of the list.
    fn thing(self) -> TargetKind {
        match self {
            ListKind::Tools => TargetKind::Tool,
            ListKind::Prompts => TargetKind::Prompt,
            ListKind::Resources | ListKind::Templates => TargetKind::Resource,
        }
    }

    /// The method that uses an entry of the list.
    fn used_by(self) -> &'static str {
        match self {
            ListKind::Tools => "tools/call",
            ListKind::Prompts => "prompts/get",
            ListKind::Resources | ListKind::Templates => "resources/read",
        }
    }

    /// The member of an entry that names it.
    pub fn key(self) -> &'static str {
        match self {
            ListKind::Tools | ListKind::Prompts => "name",
            ListKind::Resources => "uri",
            ListKind::Templates => "uriTemplate",
        }
    }

    pub fn method(self) -> &'static str {
        match self {
            ListKind::Tools => "tools/list",
            ListKind::Prompts => "prompts/list",
            ListKind::Resources => "resources/list",
            ListKind::Templates => "resources/templates/list",
        }
    }

    /// The capability that a server declares for it.
    pub fn capability(self) -> &'static str {
        match self {
            ListKind::Tools => "tools",
            ListKind::Prompts => "prompts",
            ListKind::Resources | ListKind::Templates => "resources",
        }
    }
}

/// Numbers that stand for what the lists say, in the order of [`ListKind::ANNOUNCED`]: those of two views differ if
/// something is to be announced. How long a list is fresh, and who gives it, is not in them.
pub type ListFingerprints = [u64; 3];

/// By names that servers and clients choose: the hash is keyed, so that they cannot choose such as collide, and costs
/// a fourth of the standard one.
pub type NameMap<T> = HashMap<String, T, RandomState>;

/// What one endpoint shows in one era.
#[derive(Default)]
pub struct View {
    pub tools: NameMap<Target>,
    pub prompts: NameMap<Target>,
    pub resources: NameMap<Target>,
    pub templates: UriTemplates,
    /// Serials of the servers that tell when a resource changes.
    pub resource_servers: Vec<u64>,
    /// Results of the four list methods, a page each, in the order of [`ListKind::ALL`].
    pages: [Vec<Bytes>; 4],
    pub fingerprints: ListFingerprints,
    /// The members of an `initialize` or `server/discover` result that do not depend on the client.
    pub capabilities: Bytes,
    pub server_info: Bytes,
    pub instructions: Option<Bytes>,
    /// Lists are answered as a stream of one event to clients that take it, as the only server here does itself. No
    /// line ends stand in the pages then.
    pub events: bool,
    /// How many servers speak this era here; with none there is nothing to greet for.
    pub servers: usize,
    /// Whether one that is starting may come to speak it.
    pub starting: bool,
    /// Tool names as shown, sorted.
    pub shown: Vec<String>,
}

impl View {
    /// A page of a list as the JSON text of a result, by the cursor that the page before gave out.
    pub fn page(&self, kind: ListKind, cursor: Option<&str>) -> Option<&Bytes> {
        let number = match cursor {
            None => 0,
            // As it was given out, without a sign or zeros before it.
            Some(cursor) => {
                let number = cursor.strip_prefix('p').filter(|n| n.starts_with(|c| matches!(c, '1'..='9')));
                number?.parse().ok()?
            }
        };
        self.pages[kind as usize].get(number)
    }

    /// Bytes of all pages together.
    pub fn bytes(&self) -> usize {
        self.pages.iter().flatten().map(Bytes::len).sum()
    }

    /// The server that reads this URI, or has this template.
    pub fn resource(&self, uri: &str) -> Option<&Target> {
        self.resources.get(uri).or_else(|| self.templates.find(uri))
    }
}

/// A path that serves MCP.
#[derive(Default)]
pub struct Endpoint {
    /// The whole path, such as `/servers/files/mcp`.
    pub path: Arc<str>,
    pub legacy: View,
    pub modern: View,
    /// Set for the endpoint of a single server: what the catalog does not know may be asked of it.
    pub single: Option<Arc<Server>>,
    /// All servers whose names this endpoint can show; for a caller, those of which it may use something.
    pub members: Vec<Arc<Server>>,
    /// Set for a toolset: the federated names that it shows.
    pub toolset: Option<Globs>,
}

impl Endpoint {
    pub fn view(&self, era: Era) -> &View {
        match era {
            Era::Legacy => &self.legacy,
            Era::Modern => &self.modern,
        }
    }
}

/// Whether an endpoint could be at this path.
pub fn is_endpoint(path: &str) -> bool {
    let path = plain(path);
    let name = path.strip_prefix("/servers/").and_then(|rest| rest.strip_suffix("/mcp"));
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    path == "/mcp" || name.is_some_and(|name| !name.is_empty() && name.bytes().all(letter))
}

/// The path of an endpoint without the slash that some clients put at its end; any other path as it is.
pub fn plain(path: &str) -> &str {
    path.strip_suffix('/').filter(|path| path.ends_with("/mcp")).unwrap_or(path)
}

#[derive(Default)]
pub struct Catalog {
    /// Counts up with each change.
    pub generation: u64,
    endpoints: HashMap<Arc<str>, Arc<Endpoint>, RandomState>,
    servers: Vec<DiscoveredServer>,
}

impl Catalog {
    /// The endpoint that is served at a path; a slash at its end says nothing.
    pub fn endpoint(&self, path: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(plain(path))
    }

    /// Builds the snapshot. `servers` in the order of their names; `toolsets` by name, as globs over the
    /// federated tool names.
    pub fn build(
        version: u64,
        servers: &[DiscoveredServer],
        toolsets: &BTreeMap<ServerName, Toolset>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let mut endpoints = HashMap::default();
        let mut add = |path: String, servers: &[DiscoveredServer], scope: Scope<'_>| {
            let endpoint = endpoint(path, servers, scope, None, metrics);
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
        Self { generation: version, endpoints, servers: servers.to_vec() }
    }

    /// The tools that are left out because clients could not read them, in each era.
    pub fn rejected_tools(&self) -> impl Iterator<Item = (&Arc<Server>, Era, &RejectedEntry)> {
        self.servers.iter().flat_map(|seen| {
            let lists =
                [Era::Legacy, Era::Modern].into_iter().filter_map(|era| Some((era, seen.lists(era)?)));
            lists.flat_map(move |(era, face)| {
                let rejects = &face.lists.listing(ListKind::Tools).rejected;
                rejects.iter().map(move |rejected| (&seen.server, era, rejected))
            })
        })
    }

    /// An endpoint as somebody sees it who may use only a part of what it shows: the rest is in no list of it,
    /// under no name, and counted nowhere.
    pub fn narrowed(
        &self,
        endpoint: &Endpoint,
        may: &dyn Fn(&CallTarget<'_>) -> bool,
        metrics: &Arc<Metrics>,
    ) -> Endpoint {
        let is_member =
            |seen: &&DiscoveredServer| endpoint.members.iter().any(|m| m.serial == seen.server.serial);
        let servers: Vec<DiscoveredServer> = self.servers.iter().filter(is_member).cloned().collect();
        let scope = match (&endpoint.toolset, &endpoint.single) {
            (Some(globs), _) => Scope::Toolset(globs),
            (None, Some(_)) => Scope::Single,
            (None, None) => Scope::All,
        };
        view::endpoint(endpoint.path.to_string(), &servers, scope, Some(may), metrics)
    }
}

/// A place in the text of an entry.
type ItemSpans = Span;
