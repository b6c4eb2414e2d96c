//! The raw file, and its conversion to a [`Config`]: read, then validated as a whole.

use std::collections::{BTreeMap, HashMap};

use schemars::JsonSchema;
use serde::Deserialize;

use super::auth;
use super::client_cert;
use super::diagnostics::NodeRef;
use super::guard;
use super::limits::Limits;
use super::listen::{AdminListener, Listen};
use super::process::{Cors, Log, Workers};
use super::rate_limits;
use super::rbac;
use super::redis::RedisConfig;
use super::references::References;
use super::scalar::globs::GlobList;
use super::scalar::names::ServerName;
use super::secrets::RawSecrets;
use super::server::{CredentialsMode, ServerConfig};
use super::server_raw;
use super::yaml::deserialize;
use super::yaml::node::Entry;
use super::{Config, Notes, Toolset};

/// The configuration file. `${VAR}` and `${VAR:-default}` in any value come from the environment.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "Config", deny_unknown_fields)]
pub(super) struct RawConfig {
    /// The public listener.
    #[serde(default)]
    listen: Listen,
    /// A separate listener for metrics, health and the admin API. Without it they are on the public listener.
    admin: Option<AdminListener>,
    /// The number of threads, 1 to 1024. `auto` is one per core. A change needs a restart. Default: `auto`.
    #[serde(default)]
    workers: Workers,
    /// The servers behind the gateway, by name: the same block as in Claude Desktop, Cursor and VS Code.
    #[serde(rename = "mcpServers")]
    servers: BTreeMap<ServerName, server_raw::RawServer>,
    /// Groups of tools. Each is an endpoint of its own: `/servers/NAME/mcp`.
    #[serde(default)]
    toolsets: BTreeMap<ServerName, RawToolset>,
    /// Limits of size, number and time.
    #[serde(default)]
    limits: Limits,
    /// The log, on standard error.
    #[serde(default)]
    log: Log,
    /// What web pages of other origins may do (CORS). Without it, nothing.
    cors: Option<Cors>,
    /// Who may call. Without it every caller is anonymous and may call.
    auth: Option<auth::RawAuth>,
    /// Who may do what. Without it every authenticated caller may do everything.
    rbac: Option<rbac::RawRbac>,
    /// How much each caller may call. Without it, only `limits` apply.
    rate_limits: Option<rate_limits::RawRateLimits>,
    /// The Redis in which several gateways share their counters, and over which they reach each other.
    redis: Option<RedisConfig>,
    /// The keys that seal what clients get and must bring back unread, such as `requestState`.
    #[serde(default)]
    secrets: RawSecrets,
    /// Which sensitive data the gateway searches for in arguments and results, and which tool definitions are
    /// approved.
    guard: Option<guard::RawGuard>,
}

/// A bundle of tools.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "Toolset", deny_unknown_fields)]
struct RawToolset {
    /// Patterns over the federated names: `search__*`.
    #[schemars(extend("minItems" = 1))]
    tools: GlobList,
}

/// Reads and validates the whole tree. Without a result, the errors are already reported.
pub(super) fn config(root: &NodeRef<'_>) -> Option<Config> {
    let RawConfig {
        listen,
        admin,
        workers,
        servers,
        toolsets,
        limits,
        log,
        cors,
        auth,
        rbac,
        rate_limits,
        redis,
        secrets,
        guard,
    } = deserialize::read(root)?;
    if let Some(node_ref) = root.child("limits") {
        limits.check(&node_ref);
    }
    if let Some(node_ref) = root.child("listen") {
        listen.check(&node_ref);
    }
    if let (Some(admin), Some(node_ref)) =
        (&admin, root.child("admin").and_then(|admin| admin.child("address")))
    {
        admin.check(&listen, &node_ref);
    }
    let (servers, toolsets) = (checked_servers(servers, root), checked_toolsets(toolsets, root));
    let open = [
        ("auth", "without `auth`, every caller is accepted"),
        ("rbac", "without `rbac`, every caller may do everything"),
    ];
    for (key, help) in open {
        // Without these blocks everything is allowed. A block with all its lines commented out must not have
        // that effect.
        if let Some(node_ref) = root.child(key).filter(|node_ref| node_ref.node.is_null()) {
            node_ref.reject_key(format!("{key}: empty"), "add settings, or remove the key", help);
        }
    }
    let references = References::of(root);
    let node_ref = |key: &str| root.child(key);
    check_exchange(&servers, root);
    client_cert::check_authority(root);
    Some(Config {
        auth: auth.zip(node_ref("auth")).map(|(auth, node_ref)| auth.auth(&node_ref, &references)),
        rbac: rbac.zip(node_ref("rbac")).map(|(rbac, node_ref)| rbac.rbac(&node_ref, &references)),
        rate_limits: rate_limits
            .zip(node_ref("rate_limits"))
            .map(|(rates, node_ref)| rates.limits(&node_ref, &references, root.has("redis"))),
        redis,
        secrets: node_ref("secrets").map(|node_ref| secrets.check(&node_ref)).unwrap_or_default(),
        guard: guard
            .zip(node_ref("guard"))
            .map(|(guard, node_ref)| guard.guard(&node_ref))
            .unwrap_or_default(),
        listen,
        admin,
        workers,
        servers,
        toolsets,
        limits,
        log,
        cors,
        notes: Notes::default(),
        hash: String::new(),
        path: None,
    })
}

/// The valid servers, without the disabled ones.
fn checked_servers(
    mut raw: BTreeMap<ServerName, server_raw::RawServer>,
    root: &NodeRef<'_>,
) -> BTreeMap<ServerName, ServerConfig> {
    let Some(block) = root.child("mcpServers") else { return BTreeMap::new() };
    let servers = block.node.entries().iter().filter_map(|entry| {
        let (name, raw) = raw.remove_entry(entry.key.as_str())?;
        let node_ref = block.under(entry);
        let off = raw.disabled;
        let server = raw.server(&name, &node_ref);
        if off {
            root.diagnostics.note(
                &entry.key_bytes,
                format!("the server `{name}` is disabled, so it is left out"),
                false,
            );
        }
        Some((name, server?))
    });
    servers.collect()
}

/// A token exchange requires `auth.exchange`.
fn check_exchange(servers: &BTreeMap<ServerName, ServerConfig>, root: &NodeRef<'_>) {
    if root.child("auth").is_some_and(|auth| auth.has("exchange") || auth.node.is_invalid()) {
        return;
    }
    let Some(block) = root.child("mcpServers") else { return };
    for (name, _) in servers.iter().filter(|(_, server)| server.credentials == CredentialsMode::Exchange) {
        let credentials = block.child(name).and_then(|server| server.child("credentials"));
        if let Some(credentials) = credentials {
            credentials.reject("requires `auth.exchange`", "add `auth.exchange`, or use other `credentials`");
        }
    }
}

fn checked_toolsets(
    mut raw: BTreeMap<ServerName, RawToolset>,
    root: &NodeRef<'_>,
) -> BTreeMap<ServerName, Toolset> {
    let Some(block) = root.child("toolsets") else { return BTreeMap::new() };
    let servers = root.node.entry("mcpServers").map_or(&[][..], |entry| entry.node.entries());
    let taken: HashMap<&str, &Entry> = servers.iter().map(|entry| (entry.key.as_str(), entry)).collect();
    let toolsets = block.node.entries().iter().filter_map(|entry| {
        let (name, raw) = raw.remove_entry(entry.key.as_str())?;
        let node_ref = block.under(entry);
        raw.check(&node_ref);
        if let Some(server) = taken.get(name.as_str()) {
            let line = root.diagnostics.source().location(&server.key_bytes).line;
            let message = format!("{}: name is already used by a server", node_ref.path);
            let help = "both would be served at /servers/NAME/mcp";
            node_ref.reject_key(message, format!("the server is on line {line}"), help);
        }
        Some((name, Toolset { tools: raw.tools }))
    });
    toolsets.collect()
}

impl RawToolset {
    fn check(&self, node_ref: &NodeRef<'_>) {
        if let Some(tools) =
            node_ref.child("tools").filter(|tools| self.tools.is_empty() && tools.node.items().is_empty())
        {
            tools.reject("empty", "expected patterns over federated names, such as \"search__*\"");
        }
    }
}
