//! Checks whether the target of an explained call exists: it asks the one server that could own it.

use super::{nearest, tools};
use crate::catalog::ListKind;
use crate::config::Config;
use crate::lifecycle::App;
use mcp::method::Method;

/// The call that is explained.
pub struct What {
    pub method: String,
    pub name: Option<String>,
    pub arguments: Option<String>,
    /// No server is asked.
    pub offline: bool,
}

/// Whether the target of the call exists.
pub enum ToolProbe {
    /// It was not checked.
    NotAsked,
    /// It exists at this server.
    Found(String),
    Missing(String),
    Unknown(String),
}

/// Asks the one server that a tool or prompt of this name could belong to.
pub fn probe(config: &Config, what: &What) -> ToolProbe {
    let (kind, thing) = match Method::parse(&what.method) {
        Method::ToolsCall => (ListKind::Tools, "tool"),
        Method::PromptsGet => (ListKind::Prompts, "prompt"),
        _ => return ToolProbe::NotAsked,
    };
    let Some(name) = what.name.as_deref() else { return ToolProbe::NotAsked };
    // The longest prefix first: `a` and `a__b` may both be prefixes.
    let fits = |prefix: &str| {
        prefix.is_empty() || name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with("__"))
    };
    let owners = config.servers.iter().filter(|(_, server)| fits(&server.prefix));
    let owners: Vec<_> = owners.map(|(name, server)| (name.clone(), server.clone())).collect();
    if owners.is_empty() {
        let prefixes = config.servers.values().map(|server| server.prefix.as_str());
        let (begin, rest) = name.split_once("__").unwrap_or((name, ""));
        let near = nearest::nearest(prefixes, begin);
        let hint = near.map(|near| format!("; did you mean `{near}__{rest}`?")).unwrap_or_default();
        return ToolProbe::Missing(format!("no server has a {thing} whose name begins like `{name}`{hint}"));
    }
    // The others need not be started for this.
    let servers = owners.into_iter().collect();
    let mut config = Config { servers, rate_limits: None, redis: None, ..config.clone() };
    super::outlive_the_reader();
    tools::without_telemetry(&mut config);
    let app = match App::build(config) {
        Ok(app) => app,
        Err(error) => return ToolProbe::Unknown(format!("the servers cannot be asked ({error})")),
    };
    let snapshot = app.dispatcher.registry.snapshot();
    let down: Vec<&str> =
        snapshot.servers.values().filter(|server| !server.is_up()).map(|server| &*server.name).collect();
    let found = match tools::missing(&snapshot, kind, name) {
        None => ToolProbe::Found(
            snapshot.servers.values().map(|server| &*server.name).collect::<Vec<_>>().join("` or `"),
        ),
        Some(_) if !down.is_empty() => ToolProbe::Unknown(format!("not connected: {}", down.join(", "))),
        Some(why) => ToolProbe::Missing(why),
    };
    app.run_once(async {});
    found
}
