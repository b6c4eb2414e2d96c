//! The request log: one line a request on standard error, by way of the `pen`, which also makes it into text.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use filters::agree::quote;

use super::Outcome;
use super::pen::{Entry, Pen, pen};
use crate::config::Format;

/// What is told of one request.
pub struct Line {
    pub at: SystemTime,
    pub request_id: u64,
    pub client: Option<std::net::IpAddr>,
    pub caller: filters::Caller,
    pub verb: http::Method,
    pub path: Arc<str>,
    /// The method of MCP; a fixed word for unknown ones.
    pub method: &'static str,
    pub server: Option<Arc<str>>,
    pub tool: Option<Arc<str>>,
    pub status: u16,
    pub outcome: Outcome,
    pub reason: Option<&'static str>,
    /// The whole request.
    pub took: Duration,
    /// The part of it that the server took.
    pub upstream: Option<Duration>,
    pub bytes_in: usize,
    pub bytes_out: usize,
    /// A trace id of the client (W3C), if it sent one.
    pub trace: Option<String>,
}

/// Takes lines; a clone a worker.
#[derive(Clone)]
pub struct Access(Option<&'static Pen>);

impl Access {
    pub fn start(format: Format) -> Self {
        Self(Some(pen(format)))
    }

    /// Writes nothing.
    pub fn silent() -> Self {
        Self(None)
    }

    pub fn is_silent(&self) -> bool {
        self.0.is_none()
    }

    pub fn tell(&self, line: Line) {
        if let Some(pen) = self.0 {
            pen.put(Entry::Request(line));
        }
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

pub(super) fn render(line: &Line, format: Format) -> String {
    let at = DateTime::<Utc>::from(line.at).to_rfc3339_opts(SecondsFormat::Millis, true);
    let (id, path, took) = (line.request_id, &*line.path, millis(line.took));
    match format {
        Format::Json => {
            let mut out = format!(
                r#"{{"timestamp":"{at}","level":"INFO","target":"toolgate::request","request_id":"{id:016x}","caller":{},"verb":"{}","path":{},"method":"{}","status":{},"outcome":"{}","ms":{took},"bytes_in":{},"bytes_out":{}"#,
                quote(&line.caller.user),
                line.verb,
                quote(path),
                line.method,
                line.status,
                line.outcome.word(),
                line.bytes_in,
                line.bytes_out,
            );
            let mut text = |name: &str, value: Option<&str>| {
                if let Some(value) = value {
                    out.push_str(&format!(r#","{name}":{}"#, quote(value)));
                }
            };
            text("client", line.client.map(|ip| ip.to_string()).as_deref());
            text("server", line.server.as_deref());
            text("tool", line.tool.as_deref());
            text("reason", line.reason);
            text("trace_id", line.trace.as_deref());
            if let Some(upstream) = line.upstream {
                out.push_str(&format!(r#","upstream_ms":{}"#, millis(upstream)));
            }
            out.push_str("}\n");
            out
        }
        Format::Text => {
            let name = line.tool.as_deref().or(line.server.as_deref()).unwrap_or_default();
            let reason = line.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            let (status, outcome) = (line.status, line.outcome.word());
            format!(
                "{at} {status} {outcome}{reason} {} {path} {} {name} {took} ms {id:016x}\n",
                line.verb, line.method
            )
        }
    }
}
