//! A JSON-RPC connection over the pipes of one process, shared by all its callers.
//!
//! Every call gets an id (and progress token) of the gateway's own, since two callers may choose the same.
//! Responses are slices of the bytes that were read, never rebuilt. Five MCP messages are handled here
//! (progress, cancelled, ping, initialize, listen), because they concern the connection itself. It does no
//! handshake, keeps no era, repeats nothing, and does not start or end the process: `child` does.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, mem};

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::{debug, warn};

use crate::upstream::call_timer::CallTimer;
use crate::upstream::client_message;

use super::codec::{
    CHUNK, HEAD, LineRead, LineReader, LogQuota, OversizeScan, ParamsView, RawMessage, encode, quote,
    span_in, splice,
};
use super::paced::Paced;

mod incoming;

const LISTEN: &str = "subscriptions/listen";
/// Limit of the queue for a process that does not read: this many bytes, or one message if that is longer.
const MAX_QUEUE_BYTES: usize = 1 << 20;
/// Lines of standard error that are reported of a process that has ended.
const STDERR_TAIL_LINES: usize = 6;
/// Bytes of standard error that are read in a second: more than people read, and little work. A process that
/// writes more waits.
const STDERR_RATE: usize = 1 << 20;

/// The response of the server, a slice of its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChildResponse {
    Result(Bytes),
    Error(Bytes),
}

/// The span of the caller's progress token in `params`, and the receiver of its progress notifications.
/// Sending never waits: those that find the channel full are lost. All that came before the response are in
/// the channel when the response is returned.
#[derive(Debug)]
pub struct ChildProgress {
    pub token: Range<usize>,
    pub notes: mpsc::Sender<Bytes>,
}

/// `sent` says whether the server may have read the call: one that was not sent may be repeated elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("cannot start `{program}`")]
    Spawn { program: String, source: io::Error },
    #[error("the server process has ended or is being stopped ({}){}", status.map_or_else(|| "no status yet".into(), |s| s.to_string()), .said.as_deref().unwrap_or_default())]
    Exited { status: Option<ExitStatus>, sent: bool, said: Option<Arc<str>> },
    #[error("no answer within {after:?}")]
    Timeout { after: Duration, sent: bool },
    #[error("the server answered nonsense: {0}")]
    InvalidResponse(&'static str),
    #[error("the server's answer is longer than {0} bytes")]
    TooLong(usize),
    #[error("the server ended the subscription")]
    SessionClosed,
    #[error("the progress token is not where the caller says")]
    TokenRequired,
}

pub(crate) struct ChildConnection {
    server: String,
    max: usize,
    last: AtomicU64,
    calls: Mutex<PendingCalls>,
    /// Unbounded for messages that must not wait (a cancellation, once for each call that was sent); calls
    /// acquire `space`.
    queue: mpsc::UnboundedSender<OutgoingLine>,
    space: Arc<Semaphore>,
    notices: mpsc::Sender<Bytes>,
    dropped: AtomicU64,
    /// The last lines of its standard error.
    stderr_tail: Mutex<VecDeque<String>>,
    /// It was logged that the process writes invalid messages.
    warned: AtomicBool,
}

struct PendingCalls {
    open: bool,
    status: Option<ExitStatus>,
    /// Its last stderr lines, once it has ended.
    said: Option<Arc<str>>,
    waiting: HashMap<u64, PendingCall>,
}

struct PendingCall {
    answer: oneshot::Sender<Result<ChildResponse, ChildError>>,
    progress: Option<(Bytes, mpsc::Sender<Bytes>)>,
    /// Progress restarts its timeout.
    timer: Arc<CallTimer>,
    sent: bool,
    listens: bool,
}

pub(crate) struct OutgoingLine {
    line: Vec<u8>,
    call: Option<u64>,
    _space: Option<OwnedSemaphorePermit>,
}

impl ChildConnection {
    /// The second half belongs to `write`.
    pub fn new(
        server: &str,
        max: usize,
        notices: mpsc::Sender<Bytes>,
    ) -> (Self, mpsc::UnboundedReceiver<OutgoingLine>) {
        let (queue, outgoing) = mpsc::unbounded_channel();
        let calls = PendingCalls { open: true, status: None, said: None, waiting: HashMap::new() };
        let line = Self {
            server: server.to_owned(),
            max,
            last: AtomicU64::new(0),
            calls: Mutex::new(calls),
            queue,
            space: Arc::new(Semaphore::new(MAX_QUEUE_BYTES)),
            notices,
            dropped: AtomicU64::new(0),
            stderr_tail: Mutex::default(),
            warned: AtomicBool::new(false),
        };
        (line, outgoing)
    }

    pub async fn request(
        &self,
        method: &str,
        params: Option<&[u8]>,
        timeout: Duration,
        progress: Option<ChildProgress>,
    ) -> Result<ChildResponse, ChildError> {
        let span = progress.as_ref().map(|progress| progress.token.clone());
        let progress = match progress {
            Some(ChildProgress { token, notes }) => {
                let token = params.and_then(|params| params.get(token)).filter(|token| !token.is_empty());
                let token = token.ok_or(ChildError::TokenRequired)?;
                Some((Bytes::copy_from_slice(token), notes))
            }
            None => None,
        };
        self.exchange(method, params, timeout, span, progress).await
    }

    /// Sends a `subscriptions/listen`: its notifications go to `notes`, until it ends or this is dropped.
    pub async fn listen(
        &self,
        params: &[u8],
        notes: mpsc::Sender<Bytes>,
    ) -> Result<ChildResponse, ChildError> {
        self.exchange(LISTEN, Some(params), Duration::MAX, None, Some((Bytes::new(), notes))).await
    }

    async fn exchange(
        &self,
        method: &str,
        params: Option<&[u8]>,
        timeout: Duration,
        span: Option<Range<usize>>,
        progress: Option<(Bytes, mpsc::Sender<Bytes>)>,
    ) -> Result<ChildResponse, ChildError> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (answer, answered) = oneshot::channel();
        let (listens, timer) = (method == LISTEN, Arc::new(CallTimer::default()));
        self.insert(id, PendingCall { answer, progress, timer: timer.clone(), sent: false, listens })?;
        // MCP: a client must not cancel `initialize`.
        let call_ticket = CallTicket { connection: self, id, cancels: method != "initialize" };
        let exchange = async {
            // On a closed connection no space is given; then the response is that it was closed.
            if let Ok(space) = self.space(method, params).await {
                let line = encode(Some(id), method, params, span);
                // The queue is gone only with the process, and then the response says so.
                let _ = self.queue.send(OutgoingLine { line, call: Some(id), _space: Some(space) });
            }
            answered.await
        };
        tokio::select! {
            answer = exchange => answer.unwrap_or(Err(ChildError::Exited { status: None, sent: true, said: None })),
            () = timer.expired(timeout) => {
                Err(ChildError::Timeout { after: timeout, sent: call_ticket.abandon("timed out") })
            }
        }
    }

    /// Returns when the notification is queued, not when it is read.
    pub async fn notify(
        &self,
        method: &str,
        params: Option<&[u8]>,
        timeout: Duration,
    ) -> Result<(), ChildError> {
        let space = tokio::time::timeout(timeout, self.space(method, params))
            .await
            .map_err(|_| ChildError::Timeout { after: timeout, sent: false })?;
        let line = encode(None, method, params, None);
        space
            .ok()
            .and_then(|space| self.queue.send(OutgoingLine { line, call: None, _space: Some(space) }).ok())
            .ok_or_else(|| self.calls().exited(false))
    }

    pub fn is_open(&self) -> bool {
        self.calls().open
    }

    pub fn status(&self) -> Option<ExitStatus> {
        self.calls().status
    }

    /// Notifications and replies that were lost because the receiver was full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Accepts no more calls and fails those that were not sent; the others may still be answered.
    pub fn close(&self) {
        let mut calls = self.calls();
        calls.open = false;
        for (_, call) in calls.waiting.extract_if(|_, call| !call.sent) {
            let _ = call.answer.send(Err(ChildError::Exited { status: None, sent: false, said: None }));
        }
        self.space.close();
    }

    /// The process is gone: all pending calls fail.
    pub fn close_input(&self, status: Option<ExitStatus>) {
        self.close();
        let said = self.last_stderr();
        let mut calls = self.calls();
        (calls.status, calls.said) = (status, said);
        for (_, call) in mem::take(&mut calls.waiting) {
            let _ = call.answer.send(Err(calls.exited(true)));
        }
    }

    /// Writes the queue until the process no longer reads it.
    pub async fn write(&self, to: impl AsyncWrite + Unpin, mut queue: mpsc::UnboundedReceiver<OutgoingLine>) {
        let mut to = BufWriter::with_capacity(CHUNK, to);
        while let Some(message) = queue.recv().await {
            // A call that was given up before its turn is not sent at all.
            if message.call.is_none_or(|id| self.log_exit(id)) && to.write_all(&message.line).await.is_err() {
                return;
            }
            if queue.is_empty() && to.flush().await.is_err() {
                return;
            }
        }
    }

    /// Reads all output of the process until its end. Waits only for the process.
    pub async fn read(&self, from: impl AsyncRead + Unpin) {
        let mut lines = LineReader::new(from, self.max);
        let mut log = LogQuota::new();
        while let Ok(Some(line)) = lines.next().await {
            match line {
                LineRead::Line(line) => self.on_line(&line, &mut log),
                LineRead::TooLong { head, id } => {
                    self.log_invalid("dropped a line that is too long", &head, &mut log);
                    self.finish(id, Err(ChildError::TooLong(self.max)));
                }
            }
        }
    }

    /// Its last stderr lines, as the end of a sentence; `None` if there were none.
    pub fn last_stderr(&self) -> Option<Arc<str>> {
        let lines = self.stderr_tail.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        (!lines.is_empty()).then(|| format!("; its last words: {}", lines.join(" | ")).into())
    }

    /// Logs stderr: text for people, which the specification says is no sign of an error. Its last lines may
    /// explain why a process has ended.
    pub async fn log(&self, stderr: impl AsyncRead + Unpin) {
        let mut lines = LineReader::new(Paced::new(stderr, STDERR_RATE, Duration::from_secs(1)), HEAD);
        let mut quota = LogQuota::new();
        while let Ok(Some(LineRead::Line(line) | LineRead::TooLong { head: line, .. })) = lines.next().await {
            let text = String::from_utf8_lossy(&line);
            let short = client_message(&text);
            if is_forwarded_notification(&short) {
                let mut message = self.stderr_tail.lock().unwrap_or_else(PoisonError::into_inner);
                if message.len() == STDERR_TAIL_LINES {
                    message.pop_front();
                }
                message.push_back(short);
            }
            if let Some(suppressed) = quota.take() {
                debug!(target: "toolgate::stdio", server = self.server, suppressed, "{}", text.trim_end());
            }
        }
    }

    fn insert(&self, id: u64, call: PendingCall) -> Result<(), ChildError> {
        let mut calls = self.calls();
        if !calls.open {
            return Err(calls.exited(false));
        }
        calls.waiting.insert(id, call);
        Ok(())
    }

    /// A response that no call waits for is late (its call was cancelled): dropped silently.
    fn finish(&self, id: Option<u64>, answer: Result<ChildResponse, ChildError>) {
        let call = id.and_then(|id| self.calls().waiting.remove(&id));
        if let Some(call) = call {
            let _ = call.answer.send(answer);
        }
    }

    fn log_exit(&self, id: u64) -> bool {
        match self.calls().waiting.entry(id) {
            Entry::Occupied(mut call) => !mem::replace(&mut call.get_mut().sent, true),
            Entry::Vacant(_) => false,
        }
    }

    fn progress(&self, id: u64) -> Option<(Bytes, mpsc::Sender<Bytes>)> {
        let calls = self.calls();
        let call = calls.waiting.get(&id)?;
        call.timer.activity();
        call.progress.clone()
    }

    fn listens(&self, id: u64) -> bool {
        self.calls().waiting.get(&id).is_some_and(|call| call.listens)
    }

    async fn space(
        &self,
        method: &str,
        params: Option<&[u8]>,
    ) -> Result<OwnedSemaphorePermit, tokio::sync::AcquireError> {
        let bytes = method.len() + params.map_or(0, <[u8]>::len) + 64;
        Arc::clone(&self.space).acquire_many_owned(permits(bytes)).await
    }

    fn calls(&self) -> MutexGuard<'_, PendingCalls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PendingCalls {
    fn exited(&self, sent: bool) -> ChildError {
        ChildError::Exited { status: self.status, sent, said: self.said.clone() }
    }
}

/// Held while a call waits for its response; dropped without one, it cancels the call.
struct CallTicket<'a> {
    connection: &'a ChildConnection,
    id: u64,
    cancels: bool,
}

impl CallTicket<'_> {
    /// Drops the call; returns whether it had been sent.
    fn abandon(&self, reason: &str) -> bool {
        let Some(call) = self.connection.calls().waiting.remove(&self.id) else { return false };
        if call.sent && self.cancels {
            let params = format!(r#"{{"requestId":{},"reason":"{reason}"}}"#, self.id);
            let line = encode(None, "notifications/cancelled", Some(params.as_bytes()), None);
            let _ = self.connection.queue.send(OutgoingLine { line, call: None, _space: None });
        }
        call.sent
    }
}

impl Drop for CallTicket<'_> {
    fn drop(&mut self) {
        self.abandon("the caller is gone");
    }
}

/// Whether a line may explain why a process has ended: stack frames and braces do not.
fn is_forwarded_notification(line: &str) -> bool {
    !line.starts_with("at ") && line.chars().any(char::is_alphanumeric)
}

fn permits(bytes: usize) -> u32 {
    bytes.min(MAX_QUEUE_BYTES) as u32
}
