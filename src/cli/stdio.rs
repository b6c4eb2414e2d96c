//! `toolgate stdio`: selects the gateway behind standard input and output, and the caller.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use filters::rbac::Effect;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::caller;
use super::caller::{CallerArgs, NamedCaller};
use super::{failed, with_file};
use crate::config::{self, Config, Limits};
use crate::lifecycle::App;
use crate::proxy::in_process::Known;
use crate::stdio::transport::{TokenSource, Transport};
use crate::stdio::{Settings, StdioFrontend};
use crate::telemetry;

/// How long the bridge waits for a gateway that is being restarted.
const WAIT: Duration = Duration::from_secs(5);
const VARIABLE: &str = "TOOLGATE_TOKEN";

#[derive(Args)]
pub struct StdioArgs {
    /// The gateway that runs, such as http://127.0.0.1:8000/mcp.
    #[arg(long, value_name = "URL", conflicts_with_all = ["config", "named", "server"])]
    url: Option<String>,
    /// A gateway of its own with this file; without it, toolgate.yaml if there is one, else the demo tools.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A token or API key. It is visible in the list of processes. --token-file and TOOLGATE_TOKEN are not.
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<String>,
    /// A file with a token or API key; read again when the gateway does not take it any more.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// CAs (PEM) for an https:// gateway, in addition to those of the system.
    #[arg(long, value_name = "FILE", requires = "url")]
    ca: Option<PathBuf>,
    /// In whose name at a gateway of its own, such as alice:dev,ops.
    #[arg(long = "as", value_name = "USER:ROLES", conflicts_with_all = ["token", "token_file"])]
    named: Option<NamedCaller>,
    /// One server or toolset of a gateway of its own, under its own names, instead of all.
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// How long a request waits for a gateway that cannot be reached, and the first one for a gateway without any server:
    /// 0s, 500ms, 1m. By default 5s, and at a gateway of its own for as long as its servers may take to start.
    #[arg(long, value_name = "TIME")]
    wait: Option<String>,
}

pub fn stdio(args: StdioArgs) -> ExitCode {
    let wait = match args.wait.as_deref().map(|wait| (wait, wait.parse::<config::ConfigDuration>())) {
        None => None,
        Some((_, Ok(wait))) => Some(wait.get()),
        Some((wait, Err(error))) => return wrong(&format!("--wait {wait}: {error}")),
    };
    let secret = match (&args.token, &args.token_file) {
        (Some(token), _) => Some(TokenSource::Text(token.clone())),
        (None, Some(file)) => Some(TokenSource::File(file.clone())),
        // `--as` names the caller instead.
        (None, None) if args.named.is_some() => None,
        (None, None) => std::env::var(VARIABLE).ok().filter(|text| !text.is_empty()).map(TokenSource::Text),
    };
    let default = Path::new("toolgate.yaml");
    if let Some(url) = &args.url {
        return bridge(url, args.ca, secret, wait.unwrap_or(WAIT));
    }
    match args.config.clone().or_else(|| default.exists().then(|| default.to_owned())) {
        Some(file) => with_file(&file, |config, file| run_in_process(config, Some(file), args, secret, wait)),
        None => run_in_process(Config::quickstart(), None, args, secret, wait),
    }
}

/// Prints what is wrong with the command; exit 2.
fn wrong(why: &str) -> ExitCode {
    telemetry::log_fatal(&format!("error: {why}"));
    ExitCode::from(2)
}

fn settings(limits: &Limits, wait: Duration) -> Settings {
    Settings { max_response: limits.max_response.as_usize(), wait, drain: limits.drain.get() }
}

/// A bridge to a running gateway.
fn bridge(url: &str, ca: Option<PathBuf>, secret: Option<TokenSource>, wait: Duration) -> ExitCode {
    telemetry::start(&config::Log { format: config::LogFormat::Text, ..config::Log::default() });
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let done = runtime.block_on(async {
        match Transport::http(url, ca, secret) {
            Ok(transport) => serve(transport, settings(&Limits::default(), wait), &Notify::new()).await,
            Err(error) => wrong(&error.to_string()),
        }
    });
    // Running blocking tasks, such as name resolution, are not awaited.
    runtime.shutdown_background();
    done
}

/// A gateway of its own.
fn run_in_process(
    config: Config,
    file: Option<&Path>,
    args: StdioArgs,
    secret: Option<TokenSource>,
    wait: Option<Duration>,
) -> ExitCode {
    telemetry::start(&config.log);
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    if let Some(name) = args.server.as_deref()
        && !config.servers.keys().any(|known| known.as_str() == name)
        && !config.toolsets.keys().any(|known| known.as_str() == name)
    {
        let known: Vec<&str> = config
            .servers
            .keys()
            .map(|name| name.as_str())
            .chain(config.toolsets.keys().map(|name| name.as_str()))
            .collect();
        return wrong(&format!(
            "--server {name:?}: no server or toolset of that name; there are {}",
            known.join(", ")
        ));
    }
    let path = args.server.map_or_else(|| "/mcp".to_owned(), |name| format!("/servers/{name}/mcp"));
    let known = match (&secret, args.named) {
        (Some(_), _) => Known::ByCredentials,
        (None, Some(named)) => {
            caller::warn_of_unknown(&config, &named.0.roles);
            Known::As(named.0.caller())
        }
        (None, None) => match missing_caller(&config) {
            None => Known::As(CallerArgs { user: "operator".into(), ..CallerArgs::default() }.caller()),
            Some(why) => return wrong(&why),
        },
    };
    let longest = config.servers.values().map(config::ServerConfig::startup).max();
    let settings = settings(&config.limits, wait.or(longest).unwrap_or(WAIT));
    let hangup = Arc::new(Notify::new());
    let ran = App::run_in_process(config, file.map(Path::to_owned), known, hangup.clone(), async |gateway| {
        match Transport::in_process(gateway, path, secret) {
            Ok(transport) => serve(transport, settings, &hangup).await,
            Err(error) => wrong(&error.to_string()),
        }
    });
    ran.unwrap_or_else(|error| failed(&error))
}

/// Why a caller must be named. A user who can read the file is its operator; but roles are granted, not
/// assumed.
fn missing_caller(config: &Config) -> Option<String> {
    let rbac = config.rbac.as_ref().filter(|rbac| rbac.default != Effect::Allow)?;
    let roles: Vec<&str> = rbac.roles.keys().map(String::as_str).collect();
    Some(format!(
        "the configuration has `rbac`, and nobody may do anything without a role: say --as USER:ROLE (there are {}), or \
         bring a token by --token-file or {VARIABLE}",
        roles.join(", ")
    ))
}

/// Serves until the client disconnects or a signal comes; SIGHUP makes the gateway read the file again.
async fn serve(transport: Transport, settings: Settings, hangup: &Notify) -> ExitCode {
    let signals =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut again)) = signals else {
        return wrong("signals cannot be heard");
    };
    let stop = async {
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                _ = again.recv() => hangup.notify_one(),
            }
        }
    };
    StdioFrontend::serve(transport, settings, stop).await;
    ExitCode::SUCCESS
}
