//! The command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use clap::{Parser, Subcommand};
use filters::Era;
use filters::agree::quote;

use crate::app::{App, AppError};
use crate::config::{self, Config};
use crate::demo_server;
use crate::upstream::house_meta;
use crate::{protocol, telemetry, tls};

/// An MCP gateway: one door in front of every Model Context Protocol server.
#[derive(Parser)]
#[command(version, about, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run with a configuration file.
    Run {
        #[arg(short, long, value_name = "FILE", default_value = "toolgate.yaml")]
        config: PathBuf,
    },
    /// Check a configuration file: exit 0 and a summary, or exit 2 and every fault.
    Check {
        #[arg(short, long, value_name = "FILE", default_value = "toolgate.yaml")]
        config: PathBuf,
    },
    /// Print the JSON Schema of the configuration file.
    Schema,
    /// Connect to every server and list the tools of the federated endpoint.
    Tools {
        #[arg(short, long, value_name = "FILE", default_value = "toolgate.yaml")]
        config: PathBuf,
    },
    /// Call one tool through the whole filter chain.
    Call {
        #[arg(short, long, value_name = "FILE", default_value = "toolgate.yaml")]
        config: PathBuf,
        /// The tool's federated name, such as demo__echo.
        tool: String,
        /// Its arguments, a JSON object.
        #[arg(default_value = "{}")]
        arguments: String,
    },
    /// Run the demo MCP server by itself.
    DemoServer {
        /// Speak MCP over standard input and output.
        #[arg(long, conflicts_with = "listen")]
        stdio: bool,
        /// Serve http://ADDR/mcp.
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8001")]
        listen: SocketAddr,
    },
}

/// Runs the command line to its end.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        None if Path::new("toolgate.yaml").exists() => with_file(Path::new("toolgate.yaml"), run),
        None => quickstart(),
        Some(Command::Run { config }) => with_file(&config, run),
        Some(Command::Check { config }) => with_file(&config, |config, file| {
            print!("{}", summary(&config, file));
            for warning in config.warnings().into_iter().chain(tls_doubts(&config)) {
                println!("warning: {warning}");
            }
            ExitCode::SUCCESS
        }),
        Some(Command::Schema) => {
            println!("{:#}", config::schema());
            ExitCode::SUCCESS
        }
        Some(Command::Tools { config }) => with_file(&config, |config, _| tools(config)),
        Some(Command::Call { config, tool, arguments }) => {
            with_file(&config, |config, _| call(config, &tool, &arguments))
        }
        Some(Command::DemoServer { stdio: true, .. }) => demo_server::stdio(),
        Some(Command::DemoServer { listen, .. }) => demo_server::http(listen),
    }
}

fn with_file(file: &Path, work: impl FnOnce(Config, &Path) -> ExitCode) -> ExitCode {
    match config::load(file) {
        Ok(config) => work(config, file),
        Err(faults) => {
            eprintln!("{faults}");
            ExitCode::from(2)
        }
    }
}

/// Says what went wrong at the start; exit 1.
pub fn failed(error: &AppError) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

fn run(config: Config, file: &Path) -> ExitCode {
    telemetry::start(&config.log);
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let ran =
        App::build(config).and_then(|app| app.serve(Some(file.to_owned()), |app| announce(app, Some(file))));
    ran.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn quickstart() -> ExitCode {
    let config = Config::quickstart();
    telemetry::start(&config.log);
    let ran = App::build(config).and_then(|app| app.serve(None, |app| announce(app, None)));
    ran.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

/// What a person at the terminal wants to know first.
fn announce(app: &App, file: Option<&Path>) {
    let house = app.door.registry.house();
    let config = &house.plan.config;
    let from = file.map_or_else(
        || "quickstart settings (no toolgate.yaml here)".to_owned(),
        |f| f.display().to_string(),
    );
    println!("Toolgate {} — {from}", env!("CARGO_PKG_VERSION"));
    let url = config.listen.own_url();
    println!("  endpoint  {url}/mcp");
    let mut names: Vec<&str> = Vec::new();
    for server in house.plan.servers.values() {
        let state = if server.is_up() { "connected" } else { "not connected yet" };
        let why = server.last_error().map(|error| format!(": {error}")).unwrap_or_default();
        println!("  server    {:<16} {state}{why}", server.name);
    }
    if let Some(endpoint) = house.catalog.endpoint("/mcp") {
        names.extend(endpoint.legacy.shown.iter().chain(&endpoint.modern.shown).map(String::as_str));
    }
    names.sort_unstable();
    names.dedup();
    println!("  tools     {}", names.len());
    println!("\nTry it:");
    println!("  curl -s {url}/health");
    println!(r#"  Claude, Cursor, VS Code:  {{"mcpServers": {{"toolgate": {{"url": "{url}/mcp"}}}}}}"#);
    let operator = config.admin.as_ref().map_or(url, |admin| format!("http://{}", admin.address));
    println!("  metrics:                  {operator}/metrics\n");
}

/// What is wrong with the files of `listen.tls`. No fault of the configuration: they may only be there where it runs.
fn tls_doubts(config: &Config) -> Vec<String> {
    config.listen.tls.as_ref().map(tls::doubts).unwrap_or_default()
}

fn summary(config: &Config, file: &Path) -> String {
    let mut out = format!("{} is sound.\n", file.display());
    out.push_str(&format!("  listen    {}\n", config.listen.address));
    for (name, server) in &config.servers {
        let kind = match &server.kind {
            config::Kind::Builtin(_) => "built in".to_owned(),
            config::Kind::Http { url, .. } => format!("http   {url}"),
            config::Kind::Stdio { command, args, .. } => match args.len() {
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

/// Commands that print their result keep the log to warnings.
fn quiet(config: &mut Config) {
    config.log.level = config::Level::Warn;
    config.log.format = config::Format::Text;
    telemetry::start(&config.log);
}

fn tools(mut config: Config) -> ExitCode {
    quiet(&mut config);
    let app = match App::build(config) {
        Ok(app) => app,
        Err(error) => return failed(&error),
    };
    let house = app.door.registry.house();
    let mut down = false;
    if let Some(endpoint) = house.catalog.endpoint("/mcp") {
        let mut rows: std::collections::BTreeMap<&str, (Vec<&str>, &str, &str)> = Default::default();
        for (era, view) in [(Era::Legacy, &endpoint.legacy), (Era::Modern, &endpoint.modern)] {
            for (name, target) in &view.tools {
                let row = rows.entry(name).or_insert_with(|| (Vec::new(), &target.server.name, &target.name));
                row.0.push(era.word());
            }
        }
        for (name, (eras, server, own)) in rows {
            let shortened = if name.ends_with(own) { String::new() } else { format!("  (there: {own})") };
            println!("{name:<48} {server:<16} {}{shortened}", eras.join(","));
        }
    }
    for server in house.plan.servers.values().filter(|server| !server.is_up()) {
        down = true;
        let why = server.last_error().map_or_else(|| "no answer yet".to_owned(), |error| error.to_string());
        eprintln!("warning: the server `{}` is not connected: {why}", server.name);
    }
    app.once(async {});
    if down { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn call(mut config: Config, tool: &str, arguments: &str) -> ExitCode {
    quiet(&mut config);
    match serde_json::from_str::<serde_json::Value>(arguments) {
        Ok(value) if value.is_object() => {}
        Ok(_) => {
            eprintln!("error: the arguments must be a JSON object, such as '{{\"message\": \"hi\"}}'");
            return ExitCode::from(2);
        }
        Err(error) => {
            eprintln!("error: the arguments are not JSON: {error}");
            return ExitCode::from(2);
        }
    }
    let app = match App::build(config) {
        Ok(app) => app,
        Err(error) => return failed(&error),
    };
    let house = app.door.registry.house();
    let modern =
        house.catalog.endpoint("/mcp").is_some_and(|endpoint| endpoint.modern.tools.contains_key(tool));
    let meta = if modern { format!(r#","_meta":{}"#, house_meta()) } else { String::new() };
    let params = format!(r#"{{"name":{},"arguments":{arguments}{meta}}}"#, quote(tool));
    let message = protocol::wire::request("1", "tools/call", params.as_bytes());
    let door = app.door.clone();
    let answered = app.once(async move { door.call(None, None, "/mcp", message).await });
    let answer: Bytes = match answered {
        Ok(answer) => answer,
        Err(stop) => {
            eprintln!("refused by `{}`: {}", stop.filter, stop.refused.refusal.message);
            return ExitCode::FAILURE;
        }
    };
    let read: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
    let error = read.get("error").is_some() || read["result"]["isError"] == true;
    let shown = read.get("result").or_else(|| read.get("error")).unwrap_or(&read);
    println!("{shown:#}");
    if error { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
