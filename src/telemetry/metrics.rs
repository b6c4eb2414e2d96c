//! The Prometheus metrics. Counters of a call are looked up when the catalog is built, not at the call.

use mcp::Reason;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock};

use filters::guard::{Action, Findings};
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// The server answered with an error.
    Error,
    /// The gateway's filters rejected it.
    Refused,
    /// The server could not be reached or sent no valid response.
    Failed,
    /// The client disconnected before the response was complete.
    ClientAborted,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Error => "error",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
            Outcome::ClientAborted => "client_aborted",
        }
    }
}

/// The counters of one method, server and tool, by outcome. Each is created at its first use, so that ten
/// thousand unused tools make no series.
pub struct CallCounters {
    labels: [Box<str>; 3],
    vec: IntCounterVec,
    counters: [OnceLock<IntCounter>; 5],
}

impl CallCounters {
    /// The method that it counts.
    pub fn method(&self) -> &str {
        &self.labels[0]
    }

    pub fn count(&self, outcome: Outcome) {
        let [method, server, tool] = &self.labels;
        let make = || self.vec.with_label_values(&[&**method, &**server, &**tool, outcome.as_str()]);
        self.counters[outcome as usize].get_or_init(make).inc();
    }
}

/// The direction of inspected content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Arguments,
    Results,
}

impl Direction {
    fn as_str(self) -> &'static str {
        match self {
            Direction::Arguments => "arguments",
            Direction::Results => "results",
        }
    }
}

/// One open thing that is counted.
pub struct GaugeGuard(IntGauge);

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    pub request_seconds: Histogram,
    upstream_seconds: HistogramVec,
    rejections: IntCounterVec,
    redactions: IntCounterVec,
    limit_store: OnceLock<[IntGauge; 2]>,
    process_channel: OnceLock<IntGauge>,
    changed_tools: IntCounterVec,
    catalog_rejected: IntGaugeVec,
    upstream_up: IntGaugeVec,
    endpoint_up: IntGaugeVec,
    endpoints: Mutex<BTreeSet<[String; 2]>>,
    retries: IntCounterVec,
    pub sessions: IntGauge,
    pub streams: IntGauge,
    pub connections: IntGauge,
    pub buffered: IntGauge,
    pub tasks: IntGauge,
    lost_tasks: IntCounter,
    reloads: IntCounterVec,
    config_info: IntGaugeVec,
}

/// From a quarter of a millisecond to a minute.
const SECONDS: [f64; 14] =
    [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0, 60.0];

impl Metrics {
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        fn register<C: prometheus::core::Collector + Clone + 'static>(
            registry: &Registry,
            metric: prometheus::Result<C>,
        ) -> C {
            let metric = metric.expect("the names and labels of metrics are constants");
            registry.register(Box::new(metric.clone())).expect("each metric is registered once");
            metric
        }
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        let lost_tasks = IntCounter::new(
            "toolgate_tasks_lost_total",
            "Tasks of gateway processes that had ended, as this process has found them.",
        );
        let seconds = |name: &str, help: &str| HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
        let metrics = Self {
            requests: counters(
                "toolgate_requests_total",
                "Requests by method, server, tool and outcome.",
                &["method", "server", "tool", "outcome"],
            ),
            request_seconds: register(
                &registry,
                Histogram::with_opts(seconds(
                    "toolgate_request_seconds",
                    "Time from the head of a request to the end of its answer.",
                )),
            ),
            upstream_seconds: register(
                &registry,
                HistogramVec::new(
                    seconds(
                        "toolgate_upstream_seconds",
                        "Time from sending a request to a server to the end of its answer.",
                    ),
                    &["server"],
                ),
            ),
            rejections: counters(
                "toolgate_filter_rejections_total",
                "Requests that a filter refused.",
                &["filter", "reason"],
            ),
            limit_store: OnceLock::new(),
            process_channel: OnceLock::new(),
            redactions: counters(
                "toolgate_redactions_total",
                "Secrets that were found, by server, way (arguments, results), detector and action.",
                &["server", "way", "detector", "action"],
            ),
            changed_tools: counters(
                "toolgate_tool_changes_total",
                "Definitions of tools that changed under a pin.",
                &["server"],
            ),
            catalog_rejected: gauges(
                "toolgate_catalog_rejected",
                "Entries of a server's lists that are left out because they do not fit MCP's schema.",
                &["server", "kind"],
            ),
            upstream_up: gauges(
                "toolgate_upstream_up",
                "1 while the server answers; at 0 its last good lists are shown.",
                &["server"],
            ),
            endpoint_up: gauges(
                "toolgate_upstream_endpoint_up",
                "1 while an endpoint of a server that has several gets calls.",
                &["server", "endpoint"],
            ),
            endpoints: Mutex::default(),
            retries: counters(
                "toolgate_retries_total",
                "Calls that were tried again, by server and by what had happened.",
                &["server", "reason"],
            ),
            sessions: gauge("toolgate_sessions", "Open legacy sessions."),
            streams: gauge("toolgate_streams", "Open streams of announcements to clients."),
            connections: gauge("toolgate_connections", "Open connections of clients."),
            buffered: gauge(
                "toolgate_buffered_bytes",
                "Bytes of requests' bodies in memory, small bodies not counted.",
            ),
            tasks: gauge("toolgate_tasks", "Tasks of the gateway that this process keeps."),
            lost_tasks: register(&registry, lost_tasks),
            reloads: counters("toolgate_config_reloads_total", "Reloads of the configuration.", &["result"]),
            config_info: gauges(
                "toolgate_config_info",
                "The configuration that runs; its hash is the label.",
                &["hash"],
            ),
            registry: registry.clone(),
        };
        for result in ["ok", "failed"] {
            metrics.reloads.with_label_values(&[result]);
        }
        register(&registry, Ok(super::log_writer::dropped()));
        register(&registry, Ok(super::dropped_messages::counters()));
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("the process is registered once");
        Arc::new(metrics)
    }

    /// The counters of a call; looked up when a catalog is built.
    pub fn call_counters(&self, method: &str, server: &str, tool: &str) -> Arc<CallCounters> {
        Arc::new(CallCounters {
            labels: [method, server, tool].map(Box::from),
            vec: self.requests.clone(),
            counters: Default::default(),
        })
    }

    /// Counts a request without a catalog entry.
    pub fn count(&self, method: &'static str, outcome: Outcome) {
        thread_local! {
            static KNOWN: RefCell<HashMap<(&'static str, &'static str), IntCounter>> = RefCell::default();
        }
        KNOWN.with_borrow_mut(|known| {
            let make = || self.requests.with_label_values(&[method, "", "", outcome.as_str()]);
            known.entry((method, outcome.as_str())).or_insert_with(make).inc();
        });
    }

    pub fn rejected(&self, filter: &'static str, reason: Reason) {
        thread_local! {
            static KNOWN: RefCell<HashMap<(&'static str, Reason), IntCounter>> = RefCell::default();
        }
        KNOWN.with_borrow_mut(|known| {
            let make = || self.rejections.with_label_values(&[filter, reason.as_str()]);
            known.entry((filter, reason)).or_insert_with(make).inc();
        });
    }

    /// Counts findings in one direction to or from a server.
    pub fn redacted(&self, server: &str, way: Direction, action: Action, found: &Findings) {
        let action = if action == Action::Block { "block" } else { "redact" };
        for (detector, count) in found.iter() {
            let counter = self.redactions.with_label_values(&[server, way.as_str(), &**detector, action]);
            counter.inc_by(count as u64);
        }
    }

    /// The state of the store of shared limits; read when metrics are scraped. The metrics exist only with
    /// a store: a metric that is always 0 would cause false alarms.
    pub fn limit_store(&self, up: bool, misses: u64) {
        let [there, missed] = self.limit_store.get_or_init(|| {
            [
                ("toolgate_limit_store_up", "1 while the store of shared limits answers."),
                (
                    "toolgate_limit_store_misses",
                    "Calls whose limits it did not judge in time, since it was set.",
                ),
            ]
            .map(|(name, help)| {
                let gauge = IntGauge::new(name, help).expect("the names of metrics are constants");
                self.registry.register(Box::new(gauge.clone())).expect("each metric is registered once");
                gauge
            })
        });
        there.set(up.into());
        missed.set(i64::try_from(misses).unwrap_or(i64::MAX));
    }

    /// Whether other gateway processes can be reached; the metric exists only where that is wanted.
    pub fn process_channel(&self, up: bool) {
        let there = self.process_channel.get_or_init(|| {
            let help = "1 while other gateway processes can be reached over Redis.";
            let gauge = IntGauge::new("toolgate_process_channel_up", help);
            let gauge = gauge.expect("the names of metrics are constants");
            self.registry.register(Box::new(gauge.clone())).expect("each metric is registered once");
            gauge
        });
        there.set(up.into());
    }

    /// Counts a task whose process has ended.
    pub fn task_lost(&self) {
        self.lost_tasks.inc();
    }

    /// Counts a tool definition that is not the pinned one.
    pub fn tool_changed(&self, server: &str) {
        self.changed_tools.with_label_values(&[server]).inc();
    }

    /// The number of rejected entries in a list of the server; without any there is no series.
    pub fn catalog_rejected(&self, server: &str, kind: &str, count: usize) {
        match i64::try_from(count).unwrap_or(i64::MAX) {
            0 => drop(self.catalog_rejected.remove_label_values(&[server, kind])),
            count => self.catalog_rejected.with_label_values(&[server, kind]).set(count),
        }
    }

    pub fn upstream_seconds(&self, server: &str) -> Histogram {
        self.upstream_seconds.with_label_values(&[server])
    }

    pub fn upstream_up(&self, server: &str, up: bool) {
        self.upstream_up.with_label_values(&[server]).set(up.into());
    }

    /// The states of the endpoints of all servers; read when metrics are scraped.
    pub fn endpoints_up(&self, states: impl Iterator<Item = ([String; 2], bool)>) {
        let mut known = self.endpoints.lock().expect("no holder of the lock panics");
        let mut gone = std::mem::take(&mut *known);
        for (labels, up) in states {
            self.endpoint_up.with_label_values(&[&labels[0], &labels[1]]).set(up.into());
            gone.remove(&labels);
            known.insert(labels);
        }
        for [server, endpoint] in &gone {
            let _ = self.endpoint_up.remove_label_values(&[server, endpoint]);
        }
    }

    pub fn retries(&self, server: &str, reason: &str) -> IntCounter {
        self.retries.with_label_values(&[server, reason])
    }

    pub fn forget_server(&self, server: &str) {
        let _ = self.upstream_up.remove_label_values(&[server]);
    }

    pub fn reloaded(&self, ok: bool) {
        self.reloads.with_label_values(&[if ok { "ok" } else { "failed" }]).inc();
    }

    pub fn config(&self, hash: &str) {
        self.config_info.reset();
        self.config_info.with_label_values(&[hash]).set(1);
    }

    /// Counts an open stream until it is dropped.
    pub fn stream(&self) -> GaugeGuard {
        self.streams.inc();
        GaugeGuard(self.streams.clone())
    }

    /// All metrics in the Prometheus text format.
    pub fn text(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            tracing::error!(%error, "the metrics could not be written");
        }
        out
    }
}
