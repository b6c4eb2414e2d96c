//! The terminal output about a configuration and about a starting gateway.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::Path;

use super::clients;
use crate::config::{self, Config};
use crate::dispatch::Dispatcher;
use crate::runtime::RuntimeConfig;

/// Prints a line. If it cannot be written (a full disk), the command has failed.
pub fn line(text: fmt::Arguments<'_>) {
    if let Err(error) = writeln!(io::stdout(), "{text}") {
        eprintln!("error: standard output: {error}");
        std::process::exit(1);
    }
}

/// Prints information that may be lost: the gateway serves even if its standard output blocks.
pub fn print_detached(text: String) {
    let print = move || {
        let _ = io::stdout().write_all(text.as_bytes());
    };
    // A pipe that is not read makes it wait.
    let _ = std::thread::Builder::new().name("announce".into()).spawn(print);
}

/// The most important facts for a user at the terminal.
pub fn announce(dispatcher: &Dispatcher, file: Option<&Path>) {
    print_detached(startup_message(dispatcher, file).unwrap_or_default());
}

fn startup_message(dispatcher: &Dispatcher, file: Option<&Path>) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let snapshot = dispatcher.registry.snapshot();
    let config = &snapshot.config.config;
    let from = file.map_or_else(
        || "quickstart settings (no toolgate.yaml here)".to_owned(),
        |f| f.display().to_string(),
    );
    writeln!(out, "Toolgate {} — {from}", env!("CARGO_PKG_VERSION"))?;
    let url = config.listen.own_url();
    writeln!(out, "  endpoint  {url}/mcp")?;
    let mut names: Vec<&str> = Vec::new();
    for server in snapshot.servers.values() {
        let state = match server.is_up() {
            true => "connected",
            false if server.is_startup_awaited() => "still starting",
            false => "not connected yet",
        };
        let why = server.last_error().map(|error| format!(": {error}")).unwrap_or_default();
        writeln!(out, "  server    {:<16} {state}{why}", server.name)?;
    }
    if let Some(endpoint) = snapshot.catalog.endpoint("/mcp") {
        names.extend(endpoint.legacy.shown.iter().chain(&endpoint.modern.shown).map(String::as_str));
    }
    names.sort_unstable();
    names.dedup();
    writeln!(out, "  tools     {}", names.len())?;
    writeln!(out, "\nTry it:")?;
    writeln!(out, "  curl -s {url}/health")?;
    // Each listens, but a client cannot connect to it.
    let base = config.listen.base_url().replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:");
    let mcp = format!("{base}/mcp");
    writeln!(out, "\nPaste this into your client:")?;
    let asks = config.auth.as_ref().is_some_and(|auth| auth.required);
    for client in clients::all(&mcp) {
        let text = client.text.replace('\n', "\n    ");
        writeln!(out, "  {}, {}:\n    {text}", client.name, client.place)?;
    }
    if asks {
        writeln!(
            out,
            "  and what `auth` asks for: a header `Authorization: Bearer ...`, or a login that the client knows"
        )?;
    }
    writeln!(out)?;
    let operator = config.admin.as_ref().map_or(url, |admin| format!("http://{}", admin.address));
    writeln!(out, "  metrics         {operator}/metrics\n")?;
    Ok(out)
}

/// Whether the gateway would start with this configuration. The files that it names are read, and no
/// connection is made.
pub fn would_start(config: Config) -> Result<(), String> {
    // Nothing runs on it: no keys are fetched over the network.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    RuntimeConfig::new(config, None, runtime.handle()).map(drop).map_err(|error| error.to_string())
}

pub fn summary(config: &Config, file: &Path) -> String {
    let mut out = format!("{} is valid.\n", file.display());
    out.push_str(&format!("  listen    {}\n", config.listen.address));
    for (name, server) in &config.servers {
        let kind = match &server.transport {
            config::ServerTransport::Builtin(_) => "built in".to_owned(),
            config::ServerTransport::Http { urls, .. } => {
                let urls: Vec<String> = urls.iter().map(ToString::to_string).collect();
                format!("http   {}", urls.join(", "))
            }
            config::ServerTransport::Sse { url, .. } => format!("sse    {url}"),
            config::ServerTransport::Stdio { command, args, .. } => match args.len() {
                0 => format!("stdio  {command}"),
                // Not shown: they may hold secrets.
                count => format!("stdio  {command} with {count} arguments"),
            },
        };
        out.push_str(&format!("  server    {:<16} {kind}\n", name.to_string()));
    }
    for name in config.toolsets.keys() {
        out.push_str(&format!("  toolset   {:<16} /servers/{name}/mcp\n", name.to_string()));
    }
    out
}
