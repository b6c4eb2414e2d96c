//! The config file: reading, validation and error reports.
//!
//! [`parse`] is the one conversion that `check`, start and reload share. It finds all errors of a file at
//! once, each with line and column. It makes a [`Config`] only from a valid file, so no caller validates one
//! again.
//!
//! The steps (`loading`): `yaml::parser` (from YAML to nodes with places) → `dialect` (from other programs'
//! formats to ours) → `yaml::interpolate` (`${VAR}`) → `yaml::deserialize` (serde over the tree) → `root`,
//! `server_raw`, `server_validate` and the file of each block (which keys go together) → [`Config`].
//! `diagnostics` collects the errors.
//!
//! It opens no ports, starts no programs, resolves no names and does not check whether a named file exists.
//! It reads only files of variables (`envFile`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[cfg(test)]
mod access_tests;
mod admin_address;
mod api_key;
mod auth;
mod balance;
mod claims;
mod client_cert;
mod diagnostic;
mod diagnostics;
mod dialect;
mod diff;
mod guard;
mod ignored_keys;
mod issuer;
mod json_schema;
mod limits;
mod lint;
mod listen;
mod loading;
mod net;
mod process;
mod rate_limits;
mod rbac;
pub mod read_file;
mod redis;
mod reference;
mod references;
mod roles;
mod root;
mod scalar;
mod secrets;
mod server;
mod server_raw;
mod server_validate;
mod stdio_limits;
mod suggest;
mod tasks;
#[cfg(test)]
mod tests;
mod tls;
mod translations;
mod unmatched_patterns;
pub mod yaml;

use loading::{LoadContext, LoadOutcome};

pub use admin_address::AdminAddress;
pub use api_key::ApiKeyConfig;
pub use auth::{AuthConfig, Exchange, ResourceMetadataConfig};
pub use balance::{Balance, RetryOn, RetryPolicy};
pub use claims::Claims;
pub use client_cert::ClientCertRule;
pub use diagnostic::{ConfigError, ConfigErrors};
pub use diff::Change;
pub use guard::{CustomPattern, GuardConfig};
pub use issuer::{IssuerConfig, KeyLocation};
pub use json_schema::schema;
pub use limits::Limits;
pub use listen::{AdminListener, Listen};
pub use net::IpNetwork;
pub use process::{Cors, CorsMethod, Log, LogFormat, LogLevel, Workers};
pub use rate_limits::{CounterStore, MatchConfig, RateLimits, RateRuleConfig};
pub use rbac::{RbacConfig, RuleConfig, ScopeNeedConfig};
pub use redis::{RedisConfig, RedisUrl};
pub use reference::markdown as reference;
pub use roles::{Pattern, PatternListsConfig, RoleConfig};
pub use scalar::duration::ConfigDuration;
pub use scalar::globs::GlobList;
pub use scalar::names::ServerName;
pub use scalar::secret::Secret;
pub use scalar::size::ByteSize;
pub use scalar::url::Url;
pub use secrets::SecretsConfig;
pub use server::{
    BridgeSetting, Builtin, CircuitBreaker, CredentialsMode, EraSetting, HealthCheck, Http2, Isolation,
    Pinning, Redact, Redaction, ServerConfig, ServerTls, ServerTransport, Tools, Validate,
};
pub use stdio_limits::{ProcessLimits, StdioLimits};
pub use tls::{ClientAuth, ListenerTls};
pub use translations::{Note, Notes};
pub use yaml::interpolate::Environment;
pub use yaml::line::Line;

/// Largest config file, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// The least that a config file can be.
const MINIMUM: &str = "a config file needs at least one server:\nmcpServers:\n  demo: {builtin: demo}";

/// All settings, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The public listener.
    pub listen: Listen,
    /// The listener for metrics, health and the admin API, if it is not the public one.
    pub admin: Option<AdminListener>,
    /// Threads that serve requests.
    pub workers: Workers,
    /// The servers behind the gateway, without those that are switched off.
    pub servers: BTreeMap<ServerName, ServerConfig>,
    /// Groups of tools; no name is also a server's.
    pub toolsets: BTreeMap<ServerName, Toolset>,
    /// Limits of size, number and time.
    pub limits: Limits,
    /// The log.
    pub log: Log,
    /// What web pages of other origins may do; `None` is nothing.
    pub cors: Option<Cors>,
    /// Authentication; with `None` every caller is anonymous and accepted.
    pub auth: Option<AuthConfig>,
    /// Authorization; with `None` every caller may do everything.
    pub rbac: Option<RbacConfig>,
    /// How much each caller may call.
    pub rate_limits: Option<RateLimits>,
    /// The Redis that several gateways share their counters in.
    pub redis: Option<RedisConfig>,
    /// The keys that seal what clients must bring back.
    pub secrets: SecretsConfig,
    /// What the guard searches for in arguments and results.
    pub guard: GuardConfig,
    /// What was read under another name, and what was ignored.
    pub notes: Notes,
    /// 16 hexadecimal digits: a hash of the text of the file, without the environment's values.
    pub hash: String,
    /// The file that it was read from, if any.
    pub path: Option<PathBuf>,
}

/// A bundle of tools, served as if it were one server.
#[derive(Clone, Debug, PartialEq)]
pub struct Toolset {
    /// Patterns over the federated names; at least one.
    pub tools: GlobList,
}

/// Reads a config file, with the variables of this process's environment.
///
/// # Errors
/// All errors of the file, or why it could not be read.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    loaded(path, false).map(|(config, _)| config)
}

/// Reads a config file and prints it in our format, as YAML.
///
/// # Errors
/// As [`load`]; a fragment of a file is completed instead.
pub fn load_and_print(path: &Path) -> Result<(Config, String), ConfigErrors> {
    loaded(path, true).map(|(config, yaml)| (config, yaml.unwrap_or_default()))
}

fn loaded(path: &Path, printed: bool) -> Result<(Config, Option<String>), ConfigErrors> {
    let name = path.display().to_string();
    let text = read(path)
        .map_err(|error| ConfigErrors::whole(&name, format!("cannot read the file: {error}"), ""))?;
    let text = String::from_utf8(text).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count();
        ConfigErrors::whole(&name, format!("line {line} is not UTF-8 text"), "")
    })?;
    let environment = |variable: &str| std::env::var(variable).ok();
    // Absolute now: the working directory may change later.
    let folder = std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_owned));
    let context = LoadContext {
        environment: &environment,
        files: Some(&|path| read_file::read_text(path, MAX_FILE)),
        folder: folder.as_deref(),
    };
    let outcome = loading::read(&name, &text, context);
    match printed {
        false => outcome.config.map(|config| (Config { path: Some(path.to_owned()), ..config }, None)),
        true => print_config(&name, outcome, context).map(|(config, yaml)| (config, Some(yaml))),
    }
}

/// The file in our format, as YAML, with variables as written.
fn print_config(
    name: &str,
    outcome: LoadOutcome,
    context: LoadContext<'_>,
) -> Result<(Config, String), ConfigErrors> {
    let (first, tree) = match (outcome.config, outcome.tree) {
        (Ok(config), Some(tree)) => (Some(config), tree),
        (Err(_), Some(tree)) if outcome.is_partial => (None, tree),
        (Err(errors), _) => return Err(errors),
        (Ok(_), None) => unreachable!("a config was read from a tree"),
    };
    let yaml = yaml::print::yaml(&tree);
    let again = loading::read("the printed file", &yaml, context).config?;
    let notes = first.as_ref().map(|first| first.notes.clone()).unwrap_or_default();
    let again = Config { notes, ..again };
    // Users who redirect the output into a file rely on that.
    if first.is_some_and(|first| Config { hash: again.hash.clone(), ..first } != again) {
        let message = "this file cannot be printed as YAML without changing its meaning";
        return Err(ConfigErrors::whole(name, message, "please report it, with the file"));
    }
    Ok((again, yaml))
}

/// The bytes of a config file.
///
/// # Errors
/// Why it cannot be read.
pub fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    read_file::read(path, MAX_FILE)
}

/// Reads the text of a config file. `name` appears in errors, and its extension decides whether it is TOML.
/// `environment` provides the variables. Files named in it are not read.
///
/// # Errors
/// All errors of the file.
pub fn parse(name: &str, text: &str, environment: &Environment<'_>) -> Result<Config, ConfigErrors> {
    loading::read(name, text, LoadContext { environment, files: None, folder: None }).config
}

/// The text of a config file in our format, as YAML, and its configuration. Arguments as those of [`parse`].
///
/// # Errors
/// All errors of the file.
pub fn canonical(
    name: &str,
    text: &str,
    environment: &Environment<'_>,
) -> Result<(Config, String), ConfigErrors> {
    let context = LoadContext { environment, files: None, folder: None };
    print_config(name, loading::read(name, text, context), context)
}

impl Config {
    /// The configuration without a file: `127.0.0.1:8000` and the demo server.
    pub fn quickstart() -> Self {
        parse("quickstart", "mcpServers: {demo: {builtin: demo}}\n", &|_| None)
            .expect("it is a good config: a test reads it")
    }
}

/// [`Config::hash`] of a file with these bytes; `None` if they are not UTF-8.
pub fn hash_of(file: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(file).ok()?;
    Some(hash(text.strip_prefix('\u{feff}').unwrap_or(text)))
}

/// FNV-1a: it tells two versions of a file apart and is not cryptographic.
fn hash(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
