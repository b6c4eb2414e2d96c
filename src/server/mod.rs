//! One configured server: its name, its settings, its upstream, and how it is doing. Lives as long as its
//! configuration stays the same, over reloads.

mod circuit_breaker;
pub mod naming;

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
use crate::upstream::demo::Demo;
use crate::upstream::http::pool;
use crate::upstream::http::pool::Pool;
use crate::upstream::http::tls;
use crate::upstream::http::tls::UpstreamTls;
use crate::upstream::stdio::{ServerCommand, Stdio};
use crate::upstream::{Upstream, UpstreamError, UpstreamLimits};
use naming::federated;

pub struct Server {
    pub name: Arc<str>,
    /// Tells two servers of the same name apart, before and after a change of its settings.
    pub serial: u64,
    pub config: config::ServerConfig,
    pub upstream: Arc<dyn Upstream>,
    /// Per call.
    pub timeout: Duration,
    /// Bytes of one answer.
    pub max_response: usize,
    /// The client's own `Authorization` goes to the server.
    pub passthrough: bool,
    /// The caller's token is exchanged for one for this audience.
    pub audience: Option<Arc<str>>,
    /// What of the configuration's limits it was made with.
    pub limits: UpstreamLimits,
    /// Stands for what its files of `tls` held.
    pub tls_fingerprint: u64,
    max_concurrent: usize,
    /// Cancelled when a configuration has no place for it any more.
    pub retired: CancellationToken,
    /// Told when something shows that its lists are not what it has now.
    pub lists_stale: Arc<Notify>,
    breaker: Option<Breaker>,
    in_flight: AtomicUsize,
    up: AtomicBool,
    /// By era: it was not heard of yet since it was started.
    starting: [AtomicBool; 2],
    last_error: ArcSwapOption<String>,
    /// The reasons that were told since it was up.
    reported: Mutex<Vec<String>>,
    /// What of its lists was warned of; it outlives a change of its settings.
    warned: Arc<Once>,
    latency: OnceLock<Histogram>,
}

/// A call that counts against `max_concurrent` until it is dropped.
pub struct CallGuard {
    server: Arc<Server>,
    /// It takes up a place, and its end tells how the server is.
    counts: bool,
    /// It is one that tries whether the server works again.
    probe: Option<u64>,
    recorded: AtomicBool,
}

impl CallGuard {
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Tells the circuit breaker how the call went; only the first word counts.
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
    /// Makes the server of a configuration; nothing is connected yet. One that differs from `before` only in what is
    /// not of its connection takes that over as it is, with its identity; one that differs in its endpoints, or how they
    /// are used, takes over those that stay. The words of a failure are for the configuration's author.
    pub fn new(
        name: &str,
        config: &config::ServerConfig,
        limits: &config::Limits,
        before: Option<&Self>,
    ) -> Result<Arc<Self>, String> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let bounds = UpstreamLimits::of(config, limits);
        let mut print = tls::fingerprint(config);
        let warned = before.map(|server| server.warned.clone()).unwrap_or_default();
        let before = before
            .filter(|server| server.tls_fingerprint == print && server.shares_connection(config, &bounds));
        let successor = before.filter(|server| server.has_same_connection(config));
        let upstream: Arc<dyn Upstream> = match (successor, &config.transport) {
            (Some(server), _) => server.upstream.clone(),
            (None, config::ServerTransport::Builtin(config::Builtin::Demo)) => Arc::new(Demo),
            (None, config::ServerTransport::Http { urls, .. }) => {
                let trust = UpstreamTls::read(config).map_err(|error| error.to_string())?;
                print = trust.fingerprint();
                if config.tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify) {
                    tracing::warn!(
                        server = name,
                        "tls.insecure_skip_verify: anybody on the way can be this server, and read and change all \
                         calls and credentials"
                    );
                }
                let headers = config.transport.header_map();
                let plan =
                    pool::PoolSettings { name, urls, headers, limits: &bounds, config, tls: Arc::new(trust) };
                Arc::new(Pool::new(plan, before.and_then(|server| server.upstream.endpoint_pool()))?)
            }
            (None, config::ServerTransport::Stdio { command, args, env, env_pass, cwd }) => {
                // What is not set, or is no text, is not passed on.
                let passed =
                    env_pass.iter().filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)));
                let set = env.iter().map(|(name, value)| (name.clone(), value.expose().to_owned()));
                let env = passed.chain(set).collect();
                let command = ServerCommand {
                    program: command.clone(),
                    args: args.clone(),
                    env,
                    cwd: cwd.clone(),
                    max_line: bounds.max_line,
                    name: name.to_owned(),
                };
                Arc::new(Stdio::new(command, bounds.timeout))
            }
        };
        Ok(Arc::new(Self {
            name: name.into(),
            serial: before.map_or_else(|| SERIAL.fetch_add(1, Ordering::Relaxed), |server| server.serial),
            upstream,
            timeout: bounds.timeout,
            max_response: bounds.max_response,
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
            // Who listens may hold what it was before.
            lists_stale: before.map_or_else(Arc::default, |before| before.lists_stale.clone()),
            breaker: bounds.breaker.map(|(failures, open_for)| Breaker::new(failures, open_for)),
            in_flight: AtomicUsize::new(0),
            up: AtomicBool::new(before.is_some_and(Self::is_up)),
            starting: [config.era.is_legacy(), config.era.is_modern()].map(AtomicBool::new),
            last_error: ArcSwapOption::new(before.and_then(Self::last_error)),
            reported: Mutex::default(),
            warned,
            latency: OnceLock::new(),
            limits: bounds,
            tls_fingerprint: print,
        }))
    }

    /// Whether this configuration is the same server to connect to, with endpoints of which at least one stays.
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

    /// Whether its connection serves this configuration, of kin, as it is: only pools are made with some more.
    fn has_same_connection(&self, config: &config::ServerConfig) -> bool {
        let pool = |config: &config::ServerConfig| (config.balance, config.retry.clone(), config.health);
        let is_pool = matches!(config.transport, config::ServerTransport::Http { .. });
        !is_pool || self.config.transport == config.transport && pool(&self.config) == pool(config)
    }

    /// Whether it is called in its callers' names.
    pub fn is_personal(&self) -> bool {
        self.passthrough || self.audience.is_some()
    }

    /// The prefix of its names in a federation; empty for none.
    pub fn prefix(&self) -> &str {
        &self.config.prefix
    }

    /// The name that a tool is shown by, before any prefix; `None` if the configuration hides it.
    pub fn visible_tool<'a>(&'a self, tool: &'a str) -> Option<&'a str> {
        self.config.tools.allows(tool).then(|| self.config.tools.renamed(tool))
    }

    /// The name that roles and rules know a tool or prompt by; `own` is the name before any prefix.
    pub fn federated(&self, own: &str) -> String {
        federated(self.prefix(), &self.name, own)
    }

    /// Whether a federated name has this server's prefix.
    pub fn owns_prefix(&self, name: &str) -> bool {
        let prefix = self.prefix();
        !prefix.is_empty() && name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with("__"))
    }

    /// Starts one call, if another may run.
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
        let running =
            CallGuard { server: self.clone(), counts: true, probe, recorded: AtomicBool::new(false) };
        passed.map(|_| running).map_err(UpstreamError::CircuitOpen)
    }

    /// A message that belongs to a call which runs already, as an answer to what the server asked in it: that call has its
    /// place, and waits for this.
    pub fn untracked(self: &Arc<Self>) -> CallGuard {
        CallGuard { server: self.clone(), counts: false, probe: None, recorded: AtomicBool::new(true) }
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Whether it was started and has not said yet whether it speaks the era.
    pub fn is_starting(&self, era: Era) -> bool {
        self.starting[era as usize].load(Ordering::Relaxed)
    }

    /// Whether it is starting and cannot be called at all yet.
    pub fn is_startup_awaited(&self) -> bool {
        !self.is_up() && (self.is_starting(Era::Legacy) || self.is_starting(Era::Modern))
    }

    /// Notes the eras in which it is starting.
    pub fn set_starting(&self, eras: [bool; 2]) {
        for (starting, now) in self.starting.iter().zip(eras) {
            starting.store(now, Ordering::Relaxed);
        }
    }

    /// The histogram of the time that its answers take.
    pub fn latency(&self, metrics: &Metrics) -> &Histogram {
        self.latency.get_or_init(|| metrics.upstream_seconds(&self.name))
    }

    /// What went wrong last, while the server is down.
    pub fn last_error(&self) -> Option<Arc<String>> {
        self.last_error.load_full()
    }

    /// Whether to warn of something in its lists: not, if that was said before in the same words.
    pub fn warns(&self, what: impl Hash) -> bool {
        let telling = self.warned.tells(what);
        if telling == Telling::Last {
            tracing::warn!(server = %self.name, "too much is amiss in its lists to tell of all; nothing more is told");
        }
        telling != Telling::Known
    }

    /// Notes that the server answers (`None`) or why it does not; gives whether that is news. A reason is none that was
    /// given since the server answered last, in whatever order they come.
    pub fn set_error(&self, error: Option<String>) -> bool {
        let up = error.is_none();
        let gist = error.as_deref().map(reason_key);
        self.last_error.store(error.map(Arc::new));
        let mut told = self.reported.lock().expect("nobody panics with the lock");
        let changed = self.up.swap(up, Ordering::Relaxed) != up;
        let Some(gist) = gist else {
            told.clear();
            return changed;
        };
        let news = told.len() < REASONS && !told.contains(&gist);
        if news {
            told.push(gist);
        }
        changed || news
    }
}

/// Reasons that are told of one server before it answers again.
const REASONS: usize = 8;

/// What of a reason is the same each time: ids and times in it are not.
fn reason_key(reason: &str) -> String {
    let varies = |word: &str| word.len() > 5 && word.bytes().any(|byte| byte.is_ascii_digit());
    let message = reason.split_ascii_whitespace().map(|word| if varies(word) { "#" } else { word });
    message.collect::<Vec<_>>().join(" ")
}

/// Whether two configurations differ in nothing that a connection was made with. What is named here a reload can change
/// without touching the connection; a setting that is added to the configuration counts as of the connection.
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
        ..config.clone()
    };
    bare(one) == bare(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_once_until_the_server_has_answered() {
        let config = crate::config::Config::quickstart();
        let server = Server::new("demo", &config.servers["demo"], &config.limits, None).expect("a server");
        let note = |error: Option<&str>| server.set_error(error.map(str::to_owned));
        assert!(note(Some("HTTP 404")));
        for reason in ["HTTP 404", "HTTP 404"] {
            assert!(!note(Some(reason)), "it was told");
        }
        assert!(note(Some("HTTP 500")), "another reason");
        assert!(!note(Some("HTTP 404")), "both were told");
        assert!(note(Some("request 6f9619ff-8b86 failed at 2026-11-30T01:19:19")));
        assert!(
            !note(Some("request 11ffa2c4-9d01 failed at 2026-11-30T01:19:24")),
            "only an id and a time differ"
        );
        let told = (0..100).filter(|n| note(Some(&format!("reason {}", "x".repeat(*n))))).count();
        assert!(told <= REASONS, "{told}");
        assert_eq!(
            server.last_error().as_deref().map(String::as_str),
            Some(&*format!("reason {}", "x".repeat(99)))
        );
        assert!(note(None), "it is back");
        assert!(!note(None));
        assert!(note(Some("HTTP 404")), "and down again");
    }
}
