//! Telemetry of the gateway: metrics, one access log line a request, and its own log.
//!
//! Metric labels come from the configuration and the catalog, never from what a client wrote. Logs and
//! metrics never hold arguments or secrets.

pub mod access_log;
mod dropped_messages;
mod escape;
mod log_writer;
mod metrics;
mod once;
mod timestamp;

pub use dropped_messages::DroppedMessage;
pub use escape::is_control;
pub use log_writer::{flush, log_fatal};
pub use metrics::{CallCounters, Direction, Metrics, Outcome};
pub use once::{Once, Telling};

use std::fmt::Write as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Log;

/// Starts the log on standard error, to which only the `log_writer` writes from here on; panic messages go
/// there too. Libraries log only from `warn` on.
pub fn start(log: &Log) {
    let writer = log_writer::writer(log.format);
    let level = log.level.as_str();
    let filter = EnvFilter::new(format!(
        "warn,toolgate={level},pingora_core::server=error,pingora_proxy=off,rustls_platform_verifier=off"
    ));
    let registry = tracing_subscriber::registry().with(filter);
    let started = if writer.json {
        let layer = tracing_subscriber::fmt::layer().json().flatten_event(true);
        registry.with(layer.with_writer(move || log_writer::TracingWriter(writer))).try_init()
    } else {
        let fields = debug_fn(|out, field, value| match field.name() {
            "message" => write!(escape::EscapingWriter { out, lines: true }, "{value:?}"),
            name => {
                write!(out, "{name}=")?;
                write!(escape::EscapingWriter { out, lines: false }, "{value:?}")
            }
        });
        // https://no-color.org
        let colours = std::io::IsTerminal::is_terminal(&std::io::stderr())
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let layer = tracing_subscriber::fmt::layer().with_target(false).with_ansi(colours);
        let layer = layer.fmt_fields(fields.delimited(" "));
        registry.with(layer.with_writer(move || log_writer::TracingWriter(writer))).try_init()
    };
    // A second start in one process (tests) keeps the first log.
    drop(started);
}
