//! The access log: one line a request on standard error, through the `log_writer`. The line is written on
//! the thread of the request, into that thread's own buffer, from borrowed data: no allocation, and no
//! contended lock.

use mcp::Reason;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use mcp::json::quote::quote_to;

use super::Outcome;
use super::escape::escape_to;
use super::log_writer::{LogWriter, ThreadBuffer, writer};
use crate::config::LogFormat;

/// The fields of one request.
pub struct AccessEntry<'a> {
    pub at: SystemTime,
    pub request_id: u64,
    pub client: Option<IpAddr>,
    /// The name of the caller.
    pub caller: &'a str,
    pub http_method: &'a str,
    pub path: &'a str,
    /// The MCP method; a fixed string for unknown ones.
    pub method: &'static str,
    pub server: Option<&'a str>,
    pub tool: Option<&'a str>,
    pub status: u16,
    pub outcome: Outcome,
    pub reason: Option<Reason>,
    /// The duration of the whole request.
    pub duration: Duration,
    /// The part of it that the server took.
    pub upstream: Option<Duration>,
    pub bytes_in: usize,
    pub bytes_out: usize,
    /// A trace id of the client (W3C), if it sent one.
    pub trace: Option<&'a str>,
}

/// Takes lines; each worker has a clone.
#[derive(Clone)]
pub struct AccessLog(Option<&'static LogWriter>);

impl AccessLog {
    pub fn start(format: LogFormat) -> Self {
        Self(Some(writer(format)))
    }

    /// Writes nothing.
    pub fn silent() -> Self {
        Self(None)
    }

    pub fn is_silent(&self) -> bool {
        self.0.is_none()
    }

    pub fn record(&self, line: &AccessEntry<'_>) {
        if let Some(writer) = self.0 {
            writer.write(|buffer| if writer.json { json(buffer, line) } else { text(buffer, line) });
        }
    }
}

/// Milliseconds with three decimals.
fn millis(out: &mut String, time: Duration) {
    let micros = time.as_micros();
    let _ = write!(out, "{}.{:03}", micros / 1000, micros % 1000);
}

fn json(ThreadBuffer { text: out, timestamp, .. }: &mut ThreadBuffer, line: &AccessEntry<'_>) {
    out.push_str(r#"{"timestamp":""#);
    timestamp.write(out, line.at);
    out.push_str(r#"","level":"INFO","target":"toolgate::request","request_id":""#);
    let _ = write!(out, "{:016x}", line.request_id);
    out.push_str(r#"","caller":"#);
    quote_to(out, line.caller);
    out.extend([r#","http_method":""#, line.http_method, r#"","path":"#]);
    quote_to(out, line.path);
    out.extend([r#","method":""#, line.method, r#"","status":"#]);
    let _ = write!(out, "{}", line.status);
    out.extend([r#","outcome":""#, line.outcome.as_str(), r#"","ms":"#]);
    millis(out, line.duration);
    let _ = write!(out, r#","bytes_in":{},"bytes_out":{}"#, line.bytes_in, line.bytes_out);
    if let Some(client) = line.client {
        let _ = write!(out, r#","client":"{client}""#);
    }
    for (name, value) in [
        ("server", line.server),
        ("tool", line.tool),
        ("reason", line.reason.map(Reason::as_str)),
        ("trace_id", line.trace),
    ] {
        if let Some(value) = value {
            out.extend([r#",""#, name, r#"":"#]);
            quote_to(out, value);
        }
    }
    if let Some(upstream) = line.upstream {
        out.push_str(r#","upstream_ms":"#);
        millis(out, upstream);
    }
    out.push_str("}\n");
}

fn text(ThreadBuffer { text: out, timestamp, .. }: &mut ThreadBuffer, line: &AccessEntry<'_>) {
    timestamp.write(out, line.at);
    let _ = write!(out, " {} {}", line.status, line.outcome.as_str());
    if let Some(reason) = line.reason {
        out.extend([" (", reason.as_str(), ")"]);
    }
    let name = line.tool.or(line.server).unwrap_or_default();
    // The path comes from the client, and names of tools come from a server.
    for word in [line.http_method, line.path, line.method, name] {
        out.push(' ');
        let _ = escape_to(out, word);
    }
    out.push(' ');
    millis(out, line.duration);
    let _ = writeln!(out, " ms {:016x}", line.request_id);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>() -> AccessEntry<'a> {
        AccessEntry {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_042),
            request_id: 0xabc,
            client: Some(IpAddr::from([127, 0, 0, 1])),
            caller: "o\"neill",
            http_method: "POST",
            path: "/mcp",
            method: "tools/call",
            server: Some("s"),
            tool: None,
            status: 200,
            outcome: Outcome::Ok,
            reason: None,
            duration: Duration::from_micros(12_034),
            upstream: Some(Duration::from_millis(7)),
            bytes_in: 1,
            bytes_out: 2,
            trace: None,
        }
    }

    #[test]
    fn a_line_is_json_with_all_that_there_is_to_tell() {
        let mut buffer = ThreadBuffer::default();
        json(&mut buffer, &line());
        json(&mut buffer, &AccessEntry { at: line().at + Duration::from_secs(1), ..line() });
        let lines: Vec<serde_json::Value> =
            buffer.text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let expected = serde_json::json!({
            "timestamp": "2026-09-21T14:13:20.042Z", "level": "INFO", "target": "toolgate::request",
            "request_id": "0000000000000abc", "caller": "o\"neill", "http_method": "POST", "path": "/mcp",
            "method": "tools/call", "status": 200, "outcome": "ok", "ms": 12.034, "bytes_in": 1, "bytes_out": 2,
            "client": "127.0.0.1", "server": "s", "upstream_ms": 7.0
        });
        assert_eq!(lines[0], expected);
        assert_eq!(lines[1]["timestamp"], "2026-09-21T14:13:21.042Z");
    }

    #[test]
    fn a_line_for_people_is_one_whatever_a_stranger_asks_for() {
        let mut buffer = ThreadBuffer::default();
        text(&mut buffer, &AccessEntry { path: "/\u{7f}\u{9b}31m", tool: Some("a\r\nb\u{1b}[0m"), ..line() });
        assert!(
            buffer.text.contains(r" POST /\u{7f}\u{9b}31m tools/call a\r\nb\u{1b}[0m 12.034"),
            "{:?}",
            buffer.text
        );
    }

    #[test]
    fn a_line_for_people_is_short() {
        let mut buffer = ThreadBuffer::default();
        text(&mut buffer, &AccessEntry { reason: Some(Reason::NoSession), ..line() });
        let expected = "2026-09-21T14:13:20.042Z 200 ok (no_session) POST /mcp tools/call s 12.034 ms 0000000000000abc\n";
        assert_eq!(buffer.text, expected);
    }
}
