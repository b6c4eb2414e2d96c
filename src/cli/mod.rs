//! The command line.

/// Prints a line of a command's result.
macro_rules! say {
    ($($words:tt)*) => { $crate::cli::output::line(format_args!($($words)*)) };
}

mod caller;
mod check;
mod clients;
pub mod demo_server;
mod explain;
mod health;
mod nearest;
mod output;
mod probe_server;
mod reference;
mod schema;
pub mod sign_token;
mod stdio;
mod token;
mod tools;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config};
use crate::lifecycle::{App, AppError, StartOptions};

use crate::process::{fd_limit, handover};
use crate::telemetry;
use caller::NamedCaller;
use output::announce;
pub use output::print_detached;

/// An MCP gateway: one endpoint in front of every Model Context Protocol server.
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
        /// Take over from the gateway that runs: connect the servers, get its listening sockets, and let it finish
        /// what it has begun. Until this one serves, that one goes on.
        #[arg(long)]
        upgrade: bool,
    },
    /// Check a configuration file: exit 0 and a summary, or exit 2 and every error.
    Check {
        #[arg(short, long, value_name = "FILE", default_value = "toolgate.yaml")]
        config: PathBuf,
        /// Print the file as Toolgate writes it, in YAML: what comes from another program in its own words, variables as they
        /// were, without comments.
        #[arg(long)]
        print: bool,
    },
    /// Ask the gateway that runs with a configuration file whether it is ready: exit 0, or 1 and the reason. For the health
    /// checks of containers, which have no other client.
    Health {
        #[arg(short, long, value_name = "FILE", default_value = "toolgate.yaml")]
        config: PathBuf,
        /// Ask whether it is alive, even if a required server is down.
        #[arg(long)]
        live: bool,
        /// The address to ask. Default: the one that the running gateway recorded, else the one of the file.
        #[arg(long, value_name = "HOST:PORT")]
        address: Option<String>,
        /// Use TLS with --address. Certificates are never verified.
        #[arg(long, requires = "address")]
        tls: bool,
    },
    /// Print the JSON Schema of the configuration file.
    Schema(schema::Form),
    /// Connect to every server and list the tools of the federated endpoint.
    Tools {
        #[arg(short, long, value_name = "FILE", default_value = "toolgate.yaml")]
        config: PathBuf,
        /// Only those that a caller with this role sees; may be given again. Without it, all.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
    },
    /// Call one tool through the whole filter chain.
    Call {
        #[arg(short, long, value_name = "FILE", default_value = "toolgate.yaml")]
        config: PathBuf,
        /// In whose name, such as alice:dev,ops, without scopes; without it, as a caller without credentials.
        #[arg(long = "as", value_name = "USER:ROLES")]
        named: Option<NamedCaller>,
        /// The tool's federated name, such as demo__echo.
        tool: String,
        /// Its arguments, a JSON object.
        #[arg(default_value = "{}")]
        arguments: String,
    },
    /// Print how the filter chain judges a call: each filter, its decision, the rule and its line. Nothing is called
    /// and nothing is counted; exit 1 if the call is refused, or if its server has no such tool or prompt.
    Explain {
        #[arg(short, long, value_name = "FILE", default_value = "toolgate.yaml")]
        config: PathBuf,
        /// The caller's user name. It has exactly the roles that are given here.
        #[arg(long, value_name = "USER", default_value = "anonymous")]
        sub: String,
        /// A role of the caller; may be given again.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// A scope of the caller's token; may be given again.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// The caller's tenant.
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// Connect to no server: whether it has such a tool is not known then.
        #[arg(long)]
        offline: bool,
        /// A method of MCP, such as tools/call.
        method: String,
        /// The federated name of a tool or prompt, or the URI of a resource.
        name: Option<String>,
        /// The arguments, a JSON object.
        arguments: Option<String>,
    },
    /// Print a token that the gateway accepts, signed with a key of the configuration; for development and CI.
    Token {
        #[arg(short, long, value_name = "FILE", default_value = "toolgate.yaml")]
        config: PathBuf,
        /// The user.
        #[arg(long, value_name = "USER")]
        sub: String,
        /// A role; may be given again.
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// A scope; may be given again.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// The tenant; the issuer needs `claims.tenant`.
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// How long it is good: 30s, 5m, 1h.
        #[arg(long, value_name = "TIME", default_value = "1h")]
        ttl: String,
        /// Which issuer of auth.jwt; the first that can be signed for if not given.
        #[arg(long, value_name = "URL")]
        issuer: Option<String>,
    },
    /// Be an MCP server on standard input and output, for clients that start programs: a bridge to a gateway that runs
    /// (--url), or a gateway of its own with a configuration file, and without a listener.
    Stdio(stdio::StdioArgs),
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
    let done = run_command(Cli::parse());
    telemetry::flush();
    done
}

fn run_command(cli: Cli) -> ExitCode {
    use Command::{Check, Explain, Schema, Token};
    if matches!(cli.command, Some(Check { .. } | Schema(_) | Explain { .. } | Token { .. })) {
        end_with_the_reader();
    }
    match cli.command {
        None if Path::new("toolgate.yaml").exists() => {
            with_file(Path::new("toolgate.yaml"), |config, file| serve(config, file, false))
        }
        None => quickstart(),
        Some(Command::Run { config, upgrade }) => {
            with_file(&config, |config, file| serve(config, file, upgrade))
        }
        Some(Command::Check { config, print: true }) => check::print(&config),
        Some(Command::Check { config, print: false }) => with_file(&config, check::check),
        Some(Command::Health { config, live, address, tls }) => {
            health::health(&config, health::HealthArgs { address, tls }, live)
        }
        Some(Command::Schema(form)) => schema::schema(&form),
        Some(Command::Tools { config, roles }) => with_file(&config, |config, _| tools::tools(config, roles)),
        Some(Command::Call { config, named, tool, arguments }) => {
            with_file(&config, |config, _| tools::call(config, named, &tool, &arguments))
        }
        Some(Command::Explain { config, sub, roles, scopes, tenant, offline, method, name, arguments }) => {
            let who = caller::CallerArgs { user: sub, roles, scopes, tenant };
            let what = probe_server::What { method, name, arguments, offline };
            with_file(&config, |config, file| explain::explain(config, file, who, &what))
        }
        Some(Command::Token { config, sub, roles, scopes, tenant, ttl, issuer }) => {
            let who = caller::CallerArgs { user: sub, roles, scopes, tenant };
            with_file(&config, |config, _| token::token(&config, who, &ttl, issuer))
        }
        Some(Command::Stdio(args)) => stdio::stdio(args),
        Some(Command::DemoServer { stdio: true, .. }) => demo_server::stdio(),
        Some(Command::DemoServer { listen, .. }) => demo_server::http(listen),
    }
}

/// A command whose output is not read any more (`| head`) ends silently, as others do. Not for those that
/// call servers: a server that closes its pipe must not end the command.
fn end_with_the_reader() {
    // SAFETY: it sets the default action of a signal, before any thread is started.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// The opposite, for one of these commands that is about to call servers after all.
fn outlive_the_reader() {
    // SAFETY: it sets the action of a signal, and no code waits for it.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
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

/// Prints the error of a failed start; exit 1.
pub fn failed(error: &AppError) -> ExitCode {
    telemetry::log_fatal(&format!("error: {error}"));
    ExitCode::FAILURE
}

/// The command that starts the program at this one's path, after a replacement, to take over from this
/// process. The successor finds this process at `place`, whatever address the file then names.
fn successor(file: &Path, place: Option<PathBuf>) -> Option<std::process::Command> {
    use std::os::unix::process::CommandExt as _;
    // As it was called: `/proc/self/exe` points at the old program.
    let mut command = std::process::Command::new(std::env::args_os().next()?);
    command.args(["run", "--upgrade", "-c"]).arg(file).stdin(std::process::Stdio::null());
    match place {
        Some(place) => command.env(handover::PREDECESSOR, place),
        None => command.env_remove(handover::PREDECESSOR),
    };
    // SAFETY: it makes plain system calls and allocates nothing, as required between fork and exec.
    unsafe { command.pre_exec(fd_limit::restore) };
    Some(command)
}

fn serve(config: Config, file: &Path, upgrade: bool) -> ExitCode {
    telemetry::start(&config.log);
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let successor = successor(file, handover::socket_path(&config));
    let start = StartOptions { file: Some(file.to_owned()), upgrade, successor };
    let at = file.to_owned();
    let ran = App::run(config, start, move |dispatcher| announce(dispatcher, Some(&at)));
    ran.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn quickstart() -> ExitCode {
    let config = Config::quickstart();
    telemetry::start(&config.log);
    let ran = App::run(config, StartOptions::default(), |dispatcher| announce(dispatcher, None));
    ran.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}
