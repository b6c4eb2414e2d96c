//! A validated server, as the rest of the gateway uses it.
//!
//! `server_raw.rs` reads it from the file, and `server_validate.rs` checks it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::balance::{Balance, RetryPolicy};
use super::limits::Limits;
use super::scalar::duration::ConfigDuration;
use super::scalar::globs::GlobList;
use super::scalar::secret::Secret;
use super::scalar::size::ByteSize;
use super::scalar::url::Url;
use super::stdio_limits::StdioLimits;
use super::tasks::TasksSetting;
use super::tls::{PemFile, some_path};

/// The default startup timeout: `npx` and `uvx` may have to download a package first.
const STARTUP: ConfigDuration = ConfigDuration::secs(60);

/// One server: its transport and its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    /// How it is reached.
    pub transport: ServerTransport,
    /// The prefix of its tools' names on the federated endpoint, followed by `__`; may be empty.
    pub prefix: String,
    /// Which of its tools are shown, and under which names.
    pub tools: Tools,
    /// Time for a call; see [`ServerConfig::call_timeout`].
    pub timeout: Option<ConfigDuration>,
    /// Time for a start, until the handshakes are answered; [`STARTUP`] if not set.
    pub startup_timeout: Option<ConfigDuration>,
    /// Largest response that is read as a whole, in bytes; see [`ServerConfig::response_limit`].
    pub max_response: Option<ByteSize>,
    /// Most concurrent calls; `None` is no limit.
    pub max_concurrent: Option<u32>,
    /// Which of several endpoints receives a call.
    pub balance: Balance,
    /// What is retried; by default only a connection, at another address.
    pub retry: Option<RetryPolicy>,
    /// Health checks of the server.
    pub health: HealthCheck,
    /// Which revisions of the protocol are tried with it.
    pub era: EraSetting,
    pub bridge: BridgeSetting,
    /// Bridged callers share one session at it: it keeps nothing about its clients.
    pub stateless: bool,
    /// Calls that the gateway makes tasks of.
    pub tasks: Option<TasksSetting>,
    /// Which credentials it receives.
    pub credentials: CredentialsMode,
    /// With [`CredentialsMode::Exchange`]: the audience of tokens; the server's first URL if not set.
    pub audience: Option<String>,
    /// When its circuit opens.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Largest streamed response, in bytes; 64 MiB if not set.
    pub max_stream: Option<ByteSize>,
    /// What happens if the definition of a tool is not the approved one.
    pub pinning: Pinning,
    /// What happens if arguments do not match the schema of their tool.
    pub validate: Validate,
    /// What happens with sensitive data.
    pub redact: Redact,
    /// `/ready` fails while it is down.
    pub required: bool,
    /// Whether the gateway uses HTTP/2 with it.
    pub http2: Http2,
    /// TLS of `https` connections to the server, instead of the system's certificate authorities.
    pub tls: Option<ServerTls>,
}

/// Whether the gateway uses HTTP/2 with a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Http2 {
    /// With `https` if the server offers it (ALPN); never with `http`.
    #[default]
    Auto,
    /// Only HTTP/1.1.
    Off,
    /// Only HTTP/2, without negotiation: with `http` too (h2c).
    PriorKnowledge,
}

/// How `https` connections to a server are secured. The files are PEM; every reload reads them again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("dependentRequired" = {"cert": ["key"], "key": ["cert"]}))]
pub struct ServerTls {
    /// The certificate authorities (CA) of the server, instead of the system's.
    #[serde(deserialize_with = "some_path")]
    #[schemars(with = "Option<PemFile>")]
    pub ca: Option<PathBuf>,
    /// The gateway's own certificate for this server, with the intermediate ones after it.
    #[serde(deserialize_with = "some_path")]
    #[schemars(with = "Option<PemFile>")]
    pub cert: Option<PathBuf>,
    /// Its private key, without a passphrase.
    #[serde(deserialize_with = "some_path")]
    #[schemars(with = "Option<PemFile>")]
    pub key: Option<PathBuf>,
    /// The requested name (SNI), which the server's certificate must contain. Default: the host
    /// of `url`.
    pub server_name: Option<String>,
    /// The server's certificate is not verified (man-in-the-middle possible). Not for production.
    pub insecure_skip_verify: bool,
}

/// How a server is reached.
#[derive(Clone, PartialEq)]
pub enum ServerTransport {
    /// A server inside the gateway.
    Builtin(Builtin),
    /// It listens at a URL, or at several that are equal: streamable HTTP.
    Http {
        /// Where; at least one.
        urls: Vec<Url>,
        /// Headers of every request to it, names in lower case; see [`ServerTransport::header_map`].
        headers: BTreeMap<String, Secret>,
    },
    /// It listens at a URL, and speaks the older HTTP+SSE transport (2024-11-05).
    Sse {
        /// Of its event stream.
        url: Url,
        /// Headers of every request to it, as with `Http`.
        headers: BTreeMap<String, Secret>,
    },
    /// A child process that reads and writes lines.
    Stdio {
        /// The program, found by `PATH` unless it has a `/` in it.
        command: String,
        /// Its arguments; they may hold secrets and are not displayed.
        args: Vec<String>,
        /// Variables of its environment in addition to, or instead of, the gateway's.
        env: BTreeMap<String, Secret>,
        /// Variables of the gateway's environment that the program also gets.
        env_pass: Vec<String>,
        /// Where it starts; the gateway's own working directory if not set.
        cwd: Option<PathBuf>,
        /// Whose process it is.
        isolation: Isolation,
        /// Of its processes.
        limits: StdioLimits,
    },
}

/// Whose process a stdio server is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// One process for all callers.
    #[default]
    Shared,
    /// A process for each session of a legacy client, and for each caller of the modern era.
    Session,
}

/// Servers inside the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Builtin {
    /// Tools to try the gateway with: `time`, `calculator`, `echo` and two that misbehave.
    Demo,
}

/// Which of a server's tools are shown. Patterns and names are the server's own, without prefix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tools {
    /// Only these, if set; never empty then.
    pub allow: Option<GlobList>,
    /// Not these, even if allowed.
    pub deny: GlobList,
    /// From the server's own name to the one that is shown instead, without prefix.
    pub rename: BTreeMap<String, String>,
}

/// Health checks of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {
    /// Time between two checks: 100ms to 1d.
    pub interval: ConfigDuration,
    /// Consecutive failed checks after which the server is down: 1 to 100. An endpoint of several gets no
    /// calls for a while after as many failed calls.
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy_after: u32,
}

/// Which revisions of the protocol are tried with a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EraSetting {
    /// Those of both eras.
    #[default]
    Auto,
    /// Those without sessions, from 2026-07-28 on.
    Modern,
    /// Those that begin with `initialize`.
    Legacy,
}

/// What clients get that do not speak the era of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BridgeSetting {
    /// Its tools, prompts and resources: the gateway translates between the eras.
    #[default]
    Auto,
    /// An error that says which era it speaks.
    Off,
}

/// Which credentials a server receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CredentialsMode {
    /// None. The default without `headers`.
    None,
    /// Its `headers`, for every caller. The default with `headers`.
    Static,
    /// The client's own `Authorization`, unchanged. Only for trusted servers.
    Passthrough,
    /// A token for this server, exchanged for the caller's token.
    Exchange,
}

/// When the circuit is open, calls of the server fail at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CircuitBreaker {
    /// Consecutive failed calls that open the circuit: 1 to 1000.
    #[schemars(range(min = 1, max = 1000))]
    pub failures: u32,
    /// Time until one call may probe the server: 100ms to 1h.
    pub open_for: ConfigDuration,
}

/// What happens if the definition of a tool is not the approved one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pinning {
    /// Nothing.
    #[default]
    Off,
    /// A warning in the log.
    Warn,
    /// The tool is hidden.
    Block,
}

/// What happens if arguments do not match the schema of their tool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Validate {
    /// Nothing: they are not validated.
    #[default]
    Off,
    /// A warning in the log.
    Warn,
    /// The call is refused.
    Enforce,
}

/// What the gateway does with sensitive data, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Redact {
    /// In messages of callers.
    pub arguments: Redaction,
    /// In responses of the server.
    pub results: Redaction,
}

/// What happens with sensitive data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Redaction {
    /// Nothing: the gateway does not search for it.
    #[default]
    Off,
    /// It is written over.
    Redact,
    /// The call is refused.
    Block,
}

impl ServerConfig {
    /// A server with this transport and prefix, and defaults for the rest.
    pub fn new(kind: ServerTransport, prefix: impl Into<String>) -> Self {
        let credentials = match &kind {
            ServerTransport::Http { headers, .. } | ServerTransport::Sse { headers, .. }
                if !headers.is_empty() =>
            {
                CredentialsMode::Static
            }
            _ => CredentialsMode::None,
        };
        Self {
            transport: kind,
            prefix: prefix.into(),
            tools: Tools::default(),
            timeout: None,
            startup_timeout: None,
            max_response: None,
            max_concurrent: None,
            balance: Balance::default(),
            retry: None,
            health: HealthCheck::default(),
            era: EraSetting::default(),
            bridge: BridgeSetting::default(),
            stateless: false,
            tasks: None,
            credentials,
            audience: None,
            circuit_breaker: None,
            max_stream: None,
            pinning: Pinning::default(),
            validate: Validate::default(),
            redact: Redact::default(),
            required: false,
            http2: Http2::default(),
            tls: None,
        }
    }

    /// Timeout of a call: its own, else the one for all.
    pub fn call_timeout(&self, limits: &Limits) -> Duration {
        self.timeout.unwrap_or(limits.call_timeout).get()
    }

    /// Time for a start.
    pub fn startup(&self) -> Duration {
        self.startup_timeout.unwrap_or(STARTUP).get()
    }

    /// Largest response that is read as a whole, in bytes: its own limit, else the one for all.
    pub fn response_limit(&self, limits: &Limits) -> usize {
        self.max_response.unwrap_or(limits.max_response).as_usize()
    }
}

impl EraSetting {
    /// Whether the modern era is tried.
    pub const fn is_modern(self) -> bool {
        !matches!(self, EraSetting::Legacy)
    }

    /// Whether the legacy era is tried.
    pub const fn is_legacy(self) -> bool {
        !matches!(self, EraSetting::Modern)
    }
}

impl ServerTransport {
    /// The name for logs and listings: `builtin`, `http`, `sse` or `stdio`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            ServerTransport::Builtin(_) => "builtin",
            ServerTransport::Http { .. } => "http",
            ServerTransport::Sse { .. } => "sse",
            ServerTransport::Stdio { .. } => "stdio",
        }
    }

    /// The headers to send, marked as sensitive; empty for other transports.
    pub fn header_map(&self) -> HeaderMap {
        let (ServerTransport::Http { headers, .. } | ServerTransport::Sse { headers, .. }) = self else {
            return HeaderMap::new();
        };
        headers
            .iter()
            .map(|(name, secret)| {
                let name = HeaderName::from_bytes(name.as_bytes()).expect("checked when it was read");
                let mut value = HeaderValue::from_str(secret.expose()).expect("checked when it was read");
                value.set_sensitive(true);
                (name, value)
            })
            .collect()
    }
}

impl fmt::Debug for ServerTransport {
    /// Without the arguments, which may hold tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerTransport::Builtin(builtin) => f.debug_tuple("Builtin").field(builtin).finish(),
            ServerTransport::Http { urls, headers } => {
                f.debug_struct("Http").field("urls", urls).field("headers", headers).finish()
            }
            ServerTransport::Sse { url, headers } => {
                f.debug_struct("Sse").field("url", url).field("headers", headers).finish()
            }
            ServerTransport::Stdio { command, args, env, env_pass, cwd, isolation, limits } => f
                .debug_struct("Stdio")
                .field("command", command)
                .field("args", &args.len())
                .field("env", env)
                .field("env_pass", env_pass)
                .field("cwd", cwd)
                .field("isolation", isolation)
                .field("limits", limits)
                .finish(),
        }
    }
}

impl Tools {
    /// Whether a tool with this name (the server's own) is shown.
    pub fn allows(&self, tool: &str) -> bool {
        self.allow.as_ref().is_none_or(|allow| allow.is_match(tool)) && !self.deny.is_match(tool)
    }

    /// The displayed name of a tool, without prefix.
    pub fn renamed<'n>(&'n self, tool: &'n str) -> &'n str {
        self.rename.get(tool).map_or(tool, String::as_str)
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self { failures: 5, open_for: ConfigDuration::secs(30) }
    }
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { interval: ConfigDuration::secs(10), unhealthy_after: 3 }
    }
}
