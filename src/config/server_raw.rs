//! A server as written in the file. `server_validate.rs` checks which keys go together.
//!
//! The block is the one of Claude Desktop, Cursor and VS Code, so that users can paste it. `dialect`
//! translates the formats of other programs first. Any unknown key is an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::balance::{Balance, RetryPolicy};
use super::diagnostics::NodeRef;
use super::dialect;
use super::scalar::duration::ConfigDuration;
use super::scalar::globs::GlobList;
use super::scalar::names::{Name, Prefix, ServerName, ToolName};
use super::scalar::secret::Secret;
use super::scalar::size::ByteSize;
use super::scalar::url::Url;
use super::server::{
    BridgeSetting, Builtin, CircuitBreaker, CredentialsMode, EraSetting, HealthCheck, Http2, Isolation,
    Pinning, Redact, ServerConfig, ServerTls, ServerTransport, Tools, Validate,
};
use super::stdio_limits::{ProcessLimits, StdioLimits};
use super::tasks::TasksSetting;

/// A server: one of `command`, `url`, `urls` or `builtin`, and how it is treated.
#[derive(Deserialize, JsonSchema)]
#[serde(rename = "Server", deny_unknown_fields)]
#[schemars(
    extend("anyOf" = [
        {"required": ["builtin"]},
        {"required": ["command"]},
        {"required": ["url"]},
        {"required": ["urls"]},
        {"properties": {"disabled": {"const": true}}, "required": ["disabled"]},
    ]),
    extend("not" = {"anyOf": [
        {"required": ["builtin", "command"]},
        {"required": ["builtin", "url"]},
        {"required": ["command", "url"]},
        {"required": ["builtin", "urls"]},
        {"required": ["command", "urls"]},
        {"required": ["url", "urls"]},
    ]}),
    extend("dependentRequired" = {
        "args": ["command"], "env": ["command"], "cwd": ["command"], "envFile": ["command"], "env_pass": ["command"],
        "limits": ["command"], "max_processes": ["isolation"], "max_processes_per_caller": ["isolation"],
        "audience": ["credentials"],
        "balance": ["urls"],
    }),
    extend("dependentSchemas" = {
        "headers": {"anyOf": [{"required": ["url"]}, {"required": ["urls"]}]},
        "retry": {"anyOf": [{"required": ["url"]}, {"required": ["urls"]}]},
        "http2": {"anyOf": [{"required": ["url"]}, {"required": ["urls"]}]},
        "tls": {"anyOf": [{"required": ["url"]}, {"required": ["urls"]}]},
    })
)]
pub(super) struct RawServer {
    /// A server inside the gateway.
    pub(super) builtin: Option<Builtin>,
    /// A program to start, which reads and writes lines.
    pub(super) command: Option<String>,
    /// The program's arguments.
    #[serde(default)]
    pub(super) args: Vec<Secret>,
    /// Environment variables of the program.
    #[serde(default)]
    pub(super) env: BTreeMap<String, Secret>,
    /// A file of variables for its environment, one `NAME=value` per line; `env` takes precedence.
    #[serde(rename = "envFile")]
    pub(super) env_file: Option<String>,
    /// Variables of the gateway's environment that the program also gets.
    #[serde(default)]
    pub(super) env_pass: Vec<String>,
    /// The directory that the program starts in.
    pub(super) cwd: Option<String>,
    /// Whose process it is: one for all, or one for each session, so that the program may ask its client (sampling,
    /// elicitation, roots). Default: `shared`.
    pub(super) isolation: Option<Isolation>,
    /// What the system lets each process of the program have.
    #[serde(default)]
    pub(super) limits: ProcessLimits,
    /// With `isolation: session`: the most processes at a time, besides the gateway's own: 1 to 10000. Default: 64.
    #[schemars(range(min = 1, max = 10_000))]
    pub(super) max_processes: Option<u32>,
    /// With `isolation: session`: the most processes of one caller at a time: 1 to 10000. Anonymous callers of one
    /// address count as one caller. Default: a quarter of `max_processes`, but at least 4.
    #[schemars(range(min = 1, max = 10_000))]
    pub(super) max_processes_per_caller: Option<u32>,
    /// Where the server listens: streamable HTTP, or the event stream of the older transport with `type: sse`.
    pub(super) url: Option<Url>,
    /// Several equal endpoints instead of `url`: calls are spread over the healthy ones. 1 to 64.
    #[schemars(extend("minItems" = 1, "maxItems" = 64))]
    pub(super) urls: Option<Vec<Url>>,
    /// Which of several `urls` receives a call. Default: `round_robin`.
    pub(super) balance: Option<Balance>,
    /// What is retried. Without it only a connection is, at another address.
    pub(super) retry: Option<RetryPolicy>,
    /// Headers of every request to the server. Values do not show in logs.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, Secret>,
    /// The transport. Optional: the other keys decide it, except for `sse` (HTTP+SSE of 2024-11-05).
    #[serde(rename = "type")]
    pub(super) transport: Option<RawTransport>,
    /// The server is left out.
    #[serde(default)]
    pub(super) disabled: bool,
    /// The prefix of its tools' names on the federated endpoint; "" is none. Default: the server's name.
    pub(super) prefix: Option<Prefix>,
    /// Which of its tools are shown, and under which names.
    #[serde(default)]
    pub(super) tools: RawTools,
    /// Time for a call: 10ms to 1d. Default: `limits.call_timeout`.
    pub(super) timeout: Option<ConfigDuration>,
    /// Time for the start, until the server has answered in each era that it speaks: 100ms to 1h. Default:
    /// `60s`.
    pub(super) startup_timeout: Option<ConfigDuration>,
    /// Largest response that is read as a whole: 1KiB to 1GiB. Default: `limits.max_response`.
    pub(super) max_response: Option<ByteSize>,
    /// The highest number of concurrent calls: 1 to 100000. Default: no limit.
    #[schemars(range(min = 1, max = 100_000))]
    pub(super) max_concurrent: Option<u32>,
    /// Health checks of the server.
    #[serde(default)]
    pub(super) health: HealthCheck,
    /// Which revisions of the protocol are tried with it: those without sessions (`modern`, from 2026-07-28
    /// on), those that begin with `initialize` (`legacy`), or both. Default: `auto`.
    #[serde(default)]
    pub(super) era: EraSetting,
    /// What clients get that do not speak its era: its tools, prompts and resources, translated by the gateway
    /// (`auto`), or an error (`off`). Default: `auto`.
    #[serde(default)]
    pub(super) bridge: BridgeSetting,
    /// Only for servers over HTTP: `true` lets all callers of 2026-07-28 share one session at a server of the
    /// older revisions, without capabilities of the client. It must keep nothing about its clients. Default:
    /// `false`.
    #[serde(default)]
    pub(super) stateless: bool,
    /// Calls that the gateway makes tasks of, for clients with the extension `io.modelcontextprotocol/tasks`.
    pub(super) tasks: Option<TasksSetting>,
    /// Which credentials the server gets. The client's own are sent only with `passthrough`. Default:
    /// `static` with `headers`, else `none`.
    pub(super) credentials: Option<CredentialsMode>,
    /// With `credentials: exchange`: the audience of tokens. Default: its `url`.
    pub(super) audience: Option<Name>,
    /// The circuit breaker of the server. Without it the circuit never opens.
    pub(super) circuit_breaker: Option<CircuitBreaker>,
    /// The largest streamed response, all events together: 1KiB to 1024GiB. Default: `64MiB`.
    pub(super) max_stream: Option<ByteSize>,
    /// What happens if the definition of a tool is not the approved one, in `guard.pins`.
    #[serde(default)]
    pub(super) pinning: Pinning,
    /// What happens if arguments do not match the schema of their tool.
    #[serde(default)]
    pub(super) validate: Validate,
    /// What happens with sensitive data, which `guard` defines.
    #[serde(default)]
    pub(super) redact: Redact,
    /// `/ready` fails while it is down.
    #[serde(default)]
    pub(super) required: bool,
    /// Whether the gateway uses HTTP/2 with it: `auto` (with `https` if the server offers it), `off`, or
    /// `prior_knowledge` (always, with `http` too). Default: `auto`.
    pub(super) http2: Option<Http2>,
    /// TLS of `https` connections to the server, instead of the system's certificate authorities.
    pub(super) tls: Option<ServerTls>,

    /// For people; ignored.
    #[serde(default, rename = "description")]
    #[schemars(with = "Option<String>")]
    _description: Option<IgnoredAny>,
    /// Of other programs; ignored.
    #[serde(default, rename = "icon")]
    #[schemars(with = "serde_json::Value")]
    _icon: Option<IgnoredAny>,
    /// Of other programs; ignored.
    #[serde(default, rename = "alwaysAllow")]
    #[schemars(with = "serde_json::Value")]
    _always_allow: Option<IgnoredAny>,
    /// Of other programs; ignored.
    #[serde(default, rename = "autoApprove")]
    #[schemars(with = "serde_json::Value")]
    _auto_approve: Option<IgnoredAny>,
}

/// The transport of a server, as other programs name it.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename = "Transport")]
pub(super) enum RawTransport {
    #[serde(rename = "stdio")]
    Stdio,
    #[serde(rename = "http")]
    Http,
    #[serde(rename = "sse")]
    Sse,
    #[serde(rename = "streamable-http")]
    StreamableHttp,
    #[serde(rename = "streamableHttp")]
    StreamableHttpCamel,
}

/// Which of a server's tools are shown. Patterns and names are the server's own, without prefix.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename = "Tools", default, deny_unknown_fields)]
pub(super) struct RawTools {
    /// Only these.
    #[schemars(extend("minItems" = 1))]
    pub(super) allow: Option<GlobList>,
    /// Not these, even if allowed.
    pub(super) deny: GlobList,
    /// From the server's own name of a tool to the one that is shown.
    pub(super) rename: BTreeMap<String, ToolName>,
}

impl RawServer {
    /// The server, or `None` if it is disabled or invalid; errors are already reported.
    pub(super) fn server(self, name: &ServerName, node_ref: &NodeRef<'_>) -> Option<ServerConfig> {
        self.check(node_ref);
        let limits = self.stdio_limits();
        let env = self.variables(node_ref);
        let urls = self.urls.or_else(|| self.url.map(|url| vec![url])).filter(|urls| !urls.is_empty());
        let kind = match (self.builtin, self.command, urls) {
            (Some(builtin), None, None) => ServerTransport::Builtin(builtin),
            (None, Some(command), None) => ServerTransport::Stdio {
                command,
                args: self.args.iter().map(|arg| arg.expose().to_owned()).collect(),
                env,
                env_pass: self.env_pass,
                cwd: self.cwd.map(PathBuf::from),
                isolation: self.isolation.unwrap_or_default(),
                limits,
            },
            (None, None, Some(mut urls)) => {
                let headers = self.headers.into_iter();
                let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
                match self.transport {
                    Some(RawTransport::Sse) => ServerTransport::Sse { url: urls.swap_remove(0), headers },
                    _ => ServerTransport::Http { urls, headers },
                }
            }
            // None or several: already reported, or one of them is invalid.
            _ => return None,
        };
        let prefix = self.prefix.map_or_else(|| name.as_str().to_owned(), |prefix| prefix.0);
        let server = ServerConfig::new(kind, prefix);
        let server = ServerConfig {
            tools: self.tools.tools(),
            timeout: self.timeout,
            startup_timeout: self.startup_timeout,
            max_response: self.max_response,
            max_concurrent: self.max_concurrent,
            balance: self.balance.unwrap_or_default(),
            retry: self.retry,
            health: self.health,
            era: self.era,
            bridge: self.bridge,
            stateless: self.stateless,
            tasks: self.tasks,
            credentials: self.credentials.unwrap_or(server.credentials),
            audience: self.audience.map(|audience| audience.0),
            circuit_breaker: self.circuit_breaker,
            max_stream: self.max_stream,
            pinning: self.pinning,
            validate: self.validate,
            redact: self.redact,
            required: self.required,
            http2: self.http2.unwrap_or_default(),
            tls: self.tls,
            ..server
        };
        Some(server).filter(|_| !self.disabled)
    }
}

impl RawServer {
    pub(super) fn stdio_limits(&self) -> StdioLimits {
        StdioLimits {
            process: self.limits,
            max_processes: self.max_processes,
            max_processes_per_caller: self.max_processes_per_caller,
        }
    }

    /// The variables of `envFile` and `env`; `env` takes precedence.
    fn variables(&self, node_ref: &NodeRef<'_>) -> BTreeMap<String, Secret> {
        let mut env = self.env.clone();
        let (Some(path), Some(node_ref)) = (&self.env_file, node_ref.child("envFile")) else { return env };
        let text = match node_ref.diagnostics.file(Path::new(path)).filter(|_| !self.disabled) {
            None => return env,
            Some(Ok(text)) => text,
            // The file may exist only on the machine of the gateway.
            Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                let text = format!("{}: no such file, so its variables are not set", node_ref.path);
                node_ref.diagnostics.note(&node_ref.node.bytes, text, true);
                return env;
            }
            Some(Err(error)) => {
                node_ref.reject(
                    format!("cannot be read: {error}"),
                    "expected a file with one `NAME=value` per line",
                );
                return env;
            }
        };
        match dialect::dotenv(&text) {
            Ok(found) if found.values().any(|value| value.contains('\0')) => {
                node_ref.reject("the file contains a NUL byte", "a program cannot receive one");
            }
            Ok(found) => found.into_iter().for_each(|(name, value)| {
                env.entry(name).or_insert_with(|| Secret::new(value));
            }),
            Err(line) => node_ref.reject(
                format!("line {line} of the file is not a variable"),
                "expected `NAME=value`, a comment with `#` or an empty line",
            ),
        }
        env
    }
}

impl RawTools {
    fn tools(self) -> Tools {
        let rename = self.rename.into_iter().map(|(from, to)| (from, to.0)).collect();
        Tools { allow: self.allow, deny: self.deny, rename }
    }
}
