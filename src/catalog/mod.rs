//! What the connected servers offer, as each endpoint shows it: an immutable snapshot, sorted by names. On
//! the endpoint of a single server its own order is kept.
//!
//! A [`Catalog`] is built off the path of a call, whenever a server's lists or the configuration change, and
//! swapped in as a whole. On the path it is only read: names to targets, and pages that are complete
//! responses. Definitions are passed on as the bytes that the server sent; only names are replaced.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use bytes::Bytes;
use filters::param_headers::ParamHeaders;
use filters::{CallTarget, TargetKind};
use mcp::{Era, Span};

use crate::config::{GlobList, ServerName, Toolset};
use crate::server::Server;
use crate::telemetry::{CallCounters, Metrics};
use crate::upstream::ServerHandshake;

mod bridged;
mod endpoint_path;
mod lazy_schema;
mod listing;
pub mod pins;
mod scope;
mod server_info;
mod uri_templates;
mod view;

pub use crate::server::naming::federated;
pub use bridged::bridged;
pub use endpoint_path::{EndpointPath, is_endpoint, plain};
pub use lazy_schema::LazySchema;
pub use listing::{Item, Listing, Lists, Page, RejectedEntry};
use scope::Scope;
use uri_templates::UriTemplates;
use view::endpoint;

/// Entries on one page of a list. Large, because many clients read the first page only.
const PAGE: usize = 1000;
/// The longest freshness of a list that a modern client is told, in milliseconds; changes of it are
/// announced.
const MAX_TTL_MS: u64 = 60_000;

/// One server in one era, as last read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerLists {
    pub handshake: ServerHandshake,
    pub lists: Lists,
    /// Its lists came as event streams.
    pub events: bool,
    /// The era in which the server was asked, and is called.
    pub era: Era,
}

/// A server with its lists.
#[derive(Clone)]
pub struct DiscoveredServer {
    pub server: Arc<Server>,
    pub legacy: Option<Arc<ServerLists>>,
    pub modern: Option<Arc<ServerLists>>,
    /// Its lists for the clients of the era that it does not speak.
    pub bridged: Option<Arc<ServerLists>>,
    /// By era: whether it was started and has not answered yet.
    pub starting: [bool; 2],
}

impl DiscoveredServer {
    /// Its own lists in an era that it speaks.
    pub fn lists(&self, server_era: Era) -> Option<&Arc<ServerLists>> {
        match server_era {
            Era::Legacy => self.legacy.as_ref(),
            Era::Modern => self.modern.as_ref(),
        }
    }

    /// The lists that clients of an era get: its own, or those of its other era, bridged.
    pub fn lists_for(&self, client_era: Era) -> Option<&Arc<ServerLists>> {
        self.lists(client_era).or(self.bridged.as_ref())
    }
}

/// What a name resolves to.
#[derive(Clone)]
pub struct Target {
    pub server: Arc<Server>,
    /// The era in which the server is called; another than the client's is bridged.
    pub server_era: Era,
    /// The server's own name for it.
    pub name: Arc<str>,
    /// The name as this endpoint shows it: the label of metrics and logs.
    pub display_name: Arc<str>,
    /// The name that roles, rules and limits use on every endpoint: the qualified one of a tool or prompt,
    /// the URI of a resource or template.
    pub qualified_name: Arc<str>,
    pub counters: Arc<CallCounters>,
    /// The schema of a tool's arguments, if they are to be validated.
    pub schema: Option<Arc<LazySchema>>,
    /// A tool that declares itself idempotent, of a server whose declaration is trusted.
    pub idempotent: bool,
    /// The arguments of a tool that a modern call repeats in its head.
    pub param_headers: Option<Arc<ParamHeaders>>,
    /// A legacy client knows the structured content of this tool as the member `result` of an object.
    pub wraps_output: bool,
    /// Who may make a task of its calls.
    pub tasks: TaskSupport,
}

/// Who may make a task of a tool's calls, for clients that declare the extension.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TaskSupport {
    #[default]
    None,
    /// The server, which has the extension.
    Server,
    /// The gateway, of calls that take longer than this.
    Gateway(Duration),
}

/// The four kinds of lists of a server.
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
    /// Kinds with a notification of their own; that of resources covers their templates too.
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
    fn target_kind(self) -> TargetKind {
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

/// Hashes of the content of the lists, in the order of [`ListKind::ANNOUNCED`]. Those of two views differ if
/// a change is to be announced. Freshness and server of a list are not part of them.
pub type ListFingerprints = [u64; 3];

/// Keyed by names that servers and clients choose. The hash is keyed, so that they cannot provoke collisions,
/// and costs a fourth of the standard one.
pub type NameMap<T> = HashMap<String, T, RandomState>;

/// What one endpoint shows in one era.
#[derive(Default)]
pub struct View {
    pub tools: NameMap<Target>,
    pub prompts: NameMap<Target>,
    pub resources: NameMap<Target>,
    pub templates: UriTemplates,
    /// Serials of the servers that notify of resource changes.
    pub resource_servers: Vec<u64>,
    /// Results of the four list methods, a page each, in the order of [`ListKind::ALL`].
    pages: [Vec<Bytes>; 4],
    pub fingerprints: ListFingerprints,
    /// The members of an `initialize` or `server/discover` result that do not depend on the client.
    pub capabilities: Bytes,
    pub server_info: Bytes,
    pub instructions: Option<Bytes>,
    /// Lists are answered as a stream of one event to clients that accept it, as the only server here does
    /// itself. The pages then contain no line breaks.
    pub events: bool,
    /// How many servers answer in this era here, bridged or not; with none there is no handshake in it.
    pub servers: usize,
    /// The era in which the only server of the endpoint is called, if it is one of a single server.
    pub server_era: Option<Era>,
    /// Whether calls of tools may become tasks.
    pub has_tasks: bool,
    /// Whether a server that is starting may speak it.
    pub starting: bool,
    /// Tool names as shown, sorted.
    pub shown: Vec<String>,
}

impl View {
    /// A page of a list as the JSON text of a result, by the cursor of the page before.
    pub fn page(&self, kind: ListKind, cursor: Option<&str>) -> Option<&Bytes> {
        let number = match cursor {
            None => 0,
            // Only the exact form that was given out, without a sign or leading zeros.
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
    /// Set for the endpoint of a single server: names that the catalog does not know may be sent to it.
    pub single: Option<Arc<Server>>,
    /// All servers whose names this endpoint can show; for a caller, those of which it may use something.
    pub members: Vec<Arc<Server>>,
    /// Set for a toolset: the qualified names that it shows.
    pub toolset: Option<GlobList>,
}

impl Endpoint {
    pub fn view(&self, client_era: Era) -> &View {
        match client_era {
            Era::Legacy => &self.legacy,
            Era::Modern => &self.modern,
        }
    }
}

#[derive(Default)]
pub struct Catalog {
    /// Incremented with each change.
    pub generation: u64,
    endpoints: HashMap<Arc<str>, Arc<Endpoint>, RandomState>,
    servers: Vec<DiscoveredServer>,
}

impl Catalog {
    /// The endpoint at a path of Streamable HTTP; a trailing slash is ignored.
    pub fn endpoint(&self, path: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(plain(path))
    }

    /// The endpoint at any of its paths, and what is served there.
    pub fn served(&self, path: &str) -> Option<(&Arc<Endpoint>, EndpointPath)> {
        match EndpointPath::split(path)? {
            (_, EndpointPath::Mcp) => Some((self.endpoint(path)?, EndpointPath::Mcp)),
            (scope, served) => {
                Some((self.endpoint(&format!("{scope}{}", EndpointPath::Mcp.as_str()))?, served))
            }
        }
    }

    /// Builds the catalog. `servers` in the order of their names; `toolsets` by name, as globs over the
    /// qualified tool names.
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
            let lists = [Era::Legacy, Era::Modern]
                .into_iter()
                .filter_map(|server_era| Some((server_era, seen.lists(server_era)?)));
            lists.flat_map(move |(server_era, lists_of_era)| {
                let rejects = &lists_of_era.lists.listing(ListKind::Tools).rejected;
                rejects.iter().map(move |rejected| (&seen.server, server_era, rejected))
            })
        })
    }

    /// An endpoint as a caller sees it that may use only a part: the rest is in no list, under no name, and
    /// in no count.
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

/// The span of the name in the text of an entry.
type ItemSpans = Span;
