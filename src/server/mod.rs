//! One configured server: its name, its settings, its upstream and its state. It lives as long as its
//! configuration stays the same, across reloads.

mod circuit_breaker;
pub mod naming;
mod transport;

use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use mcp::Era;
use prometheus::Histogram;
use tokio::sync::Notify;

use circuit_breaker::{Admission, Breaker, BreakerState};
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::telemetry::{Metrics, Once, Telling};
use crate::upstream::http::pool::Pool;
use crate::upstream::http::tls;
use crate::upstream::{Upstream, UpstreamError, UpstreamLimits};
use naming::federated;

pub struct Server {
    pub name: Arc<str>,
    /// Distinguishes servers of the same name before and after a change of settings.
    pub serial: u64,
    pub config: config::ServerConfig,
    pub upstream: Arc<dyn Upstream>,
    /// Per call.
    pub timeout: Duration,
    /// Bytes of one response.
    pub max_response: usize,
    /// The client's own `Authorization` is passed to the server.
    passthrough: bool,
    /// The caller's token is exchanged for one for this audience.
    pub audience: Option<Arc<str>>,
    /// The limits of the configuration that it was made with.
    pub limits: UpstreamLimits,
    /// A hash of the contents of its `tls` files.
    pub tls_fingerprint: u64,
    max_concurrent: usize,
    /// Cancelled when no configuration contains it any more.
    pub retired: CancellationToken,
    /// Notified when its lists may have changed.
    pub lists_stale: Arc<Notify>,
    breaker: Option<Breaker>,
    in_flight: AtomicUsize,
    up: AtomicBool,
    /// By era: it has not answered since it was started.
    starting: [AtomicBool; 2],
    last_error: ArcSwapOption<String>,
    /// The errors that were logged since it was up.
    reported: Mutex<Vec<String>>,
    /// Warnings about its lists that were logged; they outlive a change of its settings.
    warned: Arc<Once>,
    latency: OnceLock<Histogram>,
}

/// A call that counts against `max_concurrent` until it is dropped.
pub struct CallGuard {
    server: Arc<Server>,
    /// It counts against the limit, and its result counts for the circuit breaker.
    counts: bool,
    /// Set for a probe of the circuit breaker.
    probe: Option<u64>,
    recorded: AtomicBool,
}

impl CallGuard {
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Records the result of the call in the circuit breaker; only the first one counts.
    pub fn record(&self, error: Option<&UpstreamError>) {
        let Some(breaker) = self.server.breaker.as_ref().filter(|_| self.counts) else { return };
        let worked = match error {
            None => true,
            Some(error) if error.is_fault() => false,
            Some(_) => return,
        };
        if self.recorded.swap(true, Ordering::Relaxed) {
            return;
        }
        match breaker.record(worked) {
            Some(BreakerState::Open) => {
                tracing::warn!(server = %self.server.name, "circuit opened: its calls fail; none are sent for a while");
            }
            Some(BreakerState::Closed) => {
                tracing::info!(server = %self.server.name, "circuit closed: it answers again");
            }
            None => {}
        }
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if self.counts {
            self.server.in_flight.fetch_sub(1, Ordering::Release);
        }
        if let (Some(probe), false, Some(breaker)) =
            (self.probe, *self.recorded.get_mut(), &self.server.breaker)
        {
            breaker.release_probe(probe);
        }
    }
}

impl Server {
    /// Makes the server of a configuration; nothing is connected yet. If it differs from `before` only in
    /// settings that do not belong to the connection, it takes over the connection and its identity. If it
    /// differs in its endpoints, or their use, it takes over those that stay.
    ///
    /// # Errors
    ///
    /// A message for the author of the configuration.
    pub fn new(
        name: &str,
        config: &config::ServerConfig,
        limits: &config::Limits,
        before: Option<&Self>,
    ) -> Result<Arc<Self>, String> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let limits_of_server = UpstreamLimits::of(config, limits);
        let mut tls_hash = tls::fingerprint(config);
        let warned = before.map(|server| server.warned.clone()).unwrap_or_default();
        let before = before.filter(|server| {
            server.tls_fingerprint == tls_hash && server.shares_connection(config, &limits_of_server)
        });
        let successor = before.filter(|server| server.has_same_connection(config));
        let upstream = match successor {
            Some(server) => server.upstream.clone(),
            None => {
                let pool = before.and_then(|server| server.endpoint_pool());
                let (upstream, fingerprint) = transport::upstream(name, config, &limits_of_server, pool)?;
                tls_hash = fingerprint.unwrap_or(tls_hash);
                upstream
            }
        };
        Ok(Arc::new(Self {
            name: name.into(),
            serial: before.map_or_else(|| SERIAL.fetch_add(1, Ordering::Relaxed), |server| server.serial),
            upstream,
            timeout: limits_of_server.timeout,
            max_response: limits_of_server.max_response,
            passthrough: config.credentials == config::CredentialsMode::Passthrough,
            audience: (config.credentials == config::CredentialsMode::Exchange).then(|| {
                match (&config.audience, &config.transport) {
                    (Some(audience), _) => audience.as_str().into(),
                    (None, config::ServerTransport::Http { urls, .. }) => urls[0].uri().to_string().into(),
                    (None, _) => name.into(),
                }
            }),
            max_concurrent: config.max_concurrent.map_or(usize::MAX, |max| max as usize),
            config: config.clone(),
            retired: CancellationToken::new(),
            // Waiting tasks may hold the former server's handle.
            lists_stale: before.map_or_else(Arc::default, |before| before.lists_stale.clone()),
            breaker: limits_of_server.breaker.map(|(failures, open_for)| Breaker::new(failures, open_for)),
            in_flight: AtomicUsize::new(0),
            up: AtomicBool::new(before.is_some_and(Self::is_up)),
            starting: [config.era.is_legacy(), config.era.is_modern()].map(AtomicBool::new),
            last_error: ArcSwapOption::new(before.and_then(Self::last_error)),
            reported: Mutex::default(),
            warned,
            latency: OnceLock::new(),
            limits: limits_of_server,
            tls_fingerprint: tls_hash,
        }))
    }

    /// Whether this configuration connects to the same server, with at least one endpoint in common.
    fn shares_connection(&self, config: &config::ServerConfig, limits: &UpstreamLimits) -> bool {
        let is_near = match (&self.config.transport, &config.transport) {
            (
                config::ServerTransport::Http { urls: old, headers },
                config::ServerTransport::Http { urls: new, headers: others },
            ) => headers == others && old.iter().any(|url| new.contains(url)),
            (old, new) => old == new,
        };
        is_near && same_connection_settings(&self.config, config) && self.limits.same_connection(limits)
    }

    /// Whether its connection fits this configuration, which shares it, unchanged: only pools depend on more
    /// settings.
    fn has_same_connection(&self, config: &config::ServerConfig) -> bool {
        let pool = |config: &config::ServerConfig| (config.balance, config.retry.clone(), config.health);
        let is_pool = matches!(config.transport, config::ServerTransport::Http { .. });
        !is_pool || self.config.transport == config.transport && pool(&self.config) == pool(config)
    }

    /// Whether one process serves the clients of both eras, where it speaks both: SDKs bind a process to the era
    /// of its first request. It is used in the modern era then, where it can ask its client, and the bridge serves
    /// legacy clients.
    pub fn runs_once(&self) -> bool {
        use config::{BridgeSetting, EraSetting, Isolation, ServerTransport};
        let is_shared =
            matches!(self.config.transport, ServerTransport::Stdio { isolation: Isolation::Shared, .. });
        is_shared && (self.config.era, self.config.bridge) == (EraSetting::Auto, BridgeSetting::Auto)
    }

    /// Whether Pingora forwards messages to it as they are. Those for other servers are handled in the process.
    pub fn forwards_natively(&self) -> bool {
        self.endpoint_pool().is_some()
    }

    /// Its endpoints, of a server over Streamable HTTP.
    pub fn endpoint_pool(&self) -> Option<&Pool> {
        self.upstream.endpoint_pool()
    }

    /// Whether it gets the client's own `Authorization`.
    pub fn forwards_client_auth(&self) -> bool {
        self.passthrough
    }

    /// Whether it is called in its callers' names.
    pub fn is_personal(&self) -> bool {
        self.passthrough || self.audience.is_some()
    }

    /// The prefix of its qualified names; empty for none.
    pub fn prefix(&self) -> &str {
        &self.config.prefix
    }

    /// The name under which a tool is shown, before any prefix; `None` if the configuration hides it.
    pub fn visible_tool<'a>(&'a self, tool: &'a str) -> Option<&'a str> {
        self.config.tools.allows(tool).then(|| self.config.tools.renamed(tool))
    }

    /// The qualified name of a tool or prompt, which roles and rules use; `own` is the name before any
    /// prefix.
    pub fn federated(&self, own: &str) -> String {
        federated(self.prefix(), &self.name, own)
    }

    /// Whether a qualified name has this server's prefix.
    pub fn owns_prefix(&self, name: &str) -> bool {
        let prefix = self.prefix();
        !prefix.is_empty() && name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with("__"))
    }

    /// Starts one call.
    ///
    /// # Errors
    ///
    /// The server has too many calls in flight, or its circuit is open.
    pub fn begin_call(self: &Arc<Self>) -> Result<CallGuard, UpstreamError> {
        if self.in_flight.fetch_add(1, Ordering::Acquire) >= self.max_concurrent {
            self.in_flight.fetch_sub(1, Ordering::Release);
            return Err(UpstreamError::Busy(self.max_concurrent));
        }
        let passed = self.breaker.as_ref().map_or(Ok(Admission::Normal), Breaker::admit);
        let probe = match passed {
            Ok(Admission::Probe(number)) => Some(number),
            _ => None,
        };
        let call_guard =
            CallGuard { server: self.clone(), counts: true, probe, recorded: AtomicBool::new(false) };
        passed.map(|_| call_guard).map_err(UpstreamError::CircuitOpen)
    }

    /// A message that belongs to a call in flight, such as a response to a server request in it. That call
    /// counts already, and waits for this.
    pub fn untracked(self: &Arc<Self>) -> CallGuard {
        CallGuard { server: self.clone(), counts: false, probe: None, recorded: AtomicBool::new(true) }
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Whether it was started and the era is not decided yet.
    pub fn is_starting(&self, server_era: Era) -> bool {
        self.starting[server_era as usize].load(Ordering::Relaxed)
    }

    /// Whether it is starting and cannot be called at all yet.
    pub fn is_startup_awaited(&self) -> bool {
        !self.is_up() && (self.is_starting(Era::Legacy) || self.is_starting(Era::Modern))
    }

    /// Records the eras in which it is starting.
    pub fn set_starting(&self, eras: [bool; 2]) {
        for (starting, now) in self.starting.iter().zip(eras) {
            starting.store(now, Ordering::Relaxed);
        }
    }

    /// The histogram of its response times.
    pub fn latency(&self, metrics: &Metrics) -> &Histogram {
        self.latency.get_or_init(|| metrics.upstream_seconds(&self.name))
    }

    /// The last error, while the server is down.
    pub fn last_error(&self) -> Option<Arc<String>> {
        self.last_error.load_full()
    }

    /// Whether to warn of a problem in its lists: not if the same warning was logged before.
    pub fn warns(&self, what: impl Hash) -> bool {
        let verdict = self.warned.tells(what);
        if verdict == Telling::Last {
            tracing::warn!(server = %self.name, "too many problems in its lists; no more are logged");
        }
        verdict != Telling::Known
    }

    /// Records that the server answers (`None`) or why it does not. Returns whether that is new. An error is
    /// new only if it was not recorded since the server last answered, in any order.
    pub fn set_error(&self, error: Option<String>) -> bool {
        let up = error.is_none();
        let key = error.as_deref().map(reason_key);
        self.last_error.store(error.map(Arc::new));
        let mut reported = self.reported.lock().expect("nobody panics with the lock");
        let changed = self.up.swap(up, Ordering::Relaxed) != up;
        let Some(key) = key else {
            reported.clear();
            return changed;
        };
        let is_new = reported.len() < REASONS && !reported.contains(&key);
        if is_new {
            reported.push(key);
        }
        changed || is_new
    }
}

/// Errors that are logged of one server before it answers again.
const REASONS: usize = 8;

/// The constant part of an error: without ids and times.
fn reason_key(reason: &str) -> String {
    let varies = |word: &str| word.len() > 5 && word.bytes().any(|byte| byte.is_ascii_digit());
    let message = reason.split_ascii_whitespace().map(|word| if varies(word) { "#" } else { word });
    message.collect::<Vec<_>>().join(" ")
}

/// Whether two configurations are equal in all settings that a connection depends on. The settings named here
/// can change in a reload without touching the connection. A setting that is added to the configuration
/// counts as one of the connection.
fn same_connection_settings(one: &config::ServerConfig, other: &config::ServerConfig) -> bool {
    let bare = |config: &config::ServerConfig| config::ServerConfig {
        transport: config::ServerTransport::Builtin(config::Builtin::Demo),
        prefix: String::new(),
        tools: config::Tools::default(),
        timeout: None,
        startup_timeout: None,
        max_response: None,
        max_stream: None,
        max_concurrent: None,
        balance: config::Balance::default(),
        retry: None,
        health: config::HealthCheck::default(),
        circuit_breaker: None,
        pinning: config::Pinning::default(),
        validate: config::Validate::default(),
        redact: config::Redact::default(),
        required: false,
        stateless: false,
        ..config.clone()
    };
    bare(one) == bare(other)
}

#[cfg(test)]
mod tests;
