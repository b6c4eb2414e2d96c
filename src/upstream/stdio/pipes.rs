//! The pipes of a process: lines of its connection in both directions, and its standard error.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::mpsc;
use tracing::debug;

use super::paced::Paced;
use crate::upstream::client_message;
use crate::upstream::shared_connection::codec::{CHUNK, HEAD, LineRead, LineReader, LogQuota};
use crate::upstream::shared_connection::{OutgoingLine, SharedConnection};

/// Lines of standard error that are reported of a process that has ended.
const STDERR_TAIL_LINES: usize = 6;
/// Bytes of standard error that are read in a second: more than people read, and little work. A process that
/// writes more waits.
const STDERR_RATE: usize = 1 << 20;

/// Writes the queue until the process no longer reads it.
pub(crate) async fn write(
    connection: &SharedConnection,
    to: impl AsyncWrite + Unpin,
    mut queue: mpsc::UnboundedReceiver<OutgoingLine>,
) {
    let mut to = BufWriter::with_capacity(CHUNK, to);
    while let Some(message) = queue.recv().await {
        if connection.begin(&message) && to.write_all(&message.line).await.is_err() {
            return;
        }
        if queue.is_empty() && to.flush().await.is_err() {
            return;
        }
    }
}

/// Reads all output of the process until its end. Waits only for the process. `max` bounds a line.
pub(crate) async fn read(connection: &SharedConnection, from: impl AsyncRead + Unpin, max: usize) {
    let mut lines = LineReader::new(from, max);
    let mut log = LogQuota::new();
    while let Ok(Some(line)) = lines.next().await {
        match line {
            LineRead::Line(line) => connection.on_line(&line, &mut log),
            LineRead::TooLong { head, id } => connection.too_long(&head, id, max, &mut log),
        }
    }
}

/// The last lines of a process's standard error.
#[derive(Default)]
pub(crate) struct StderrTail(Mutex<VecDeque<String>>);

impl StderrTail {
    /// The last lines, as the end of a sentence; `None` if there were none.
    pub fn last(&self) -> Option<Arc<str>> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        (!lines.is_empty()).then(|| format!("; its last words: {}", lines.join(" | ")).into())
    }

    /// Logs stderr: text for people, which the specification says is no sign of an error. Its last lines may
    /// explain why a process has ended.
    pub async fn log(&self, server: &str, stderr: impl AsyncRead + Unpin) {
        let mut lines = LineReader::new(Paced::new(stderr, STDERR_RATE, Duration::from_secs(1)), HEAD);
        let mut quota = LogQuota::new();
        while let Ok(Some(LineRead::Line(line) | LineRead::TooLong { head: line, .. })) = lines.next().await {
            let text = String::from_utf8_lossy(&line);
            let short = client_message(&text);
            if explains(&short) {
                let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if tail.len() == STDERR_TAIL_LINES {
                    tail.pop_front();
                }
                tail.push_back(short);
            }
            if let Some(suppressed) = quota.take() {
                debug!(target: "toolgate::stdio", server, suppressed, "{}", text.trim_end());
            }
        }
    }
}

/// Whether a line may explain why a process has ended: stack frames and braces do not.
fn explains(line: &str) -> bool {
    !line.starts_with("at ") && line.chars().any(char::is_alphanumeric)
}
