//! A JSON-RPC line: what is said to one process and heard from it, shared by all who call it.
//!
//! Every call gets an id (and progress token) of the gateway's own, since two callers may well choose the same; what comes
//! back is cut out of the bytes that were read, never rebuilt. It knows five words of MCP (progress, cancelled, ping,
//! initialize, listen), because they are about the line itself. It does no handshake, keeps no era, repeats nothing, and
//! does not start or end the process: `child` does.

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
    CHUNK, HEAD, LineRead, LineReader, LogQuota, OversizeScan, ParamsView, RawMessage, envelope, quote,
    span_in, splice,
};
use super::paced::Paced;

mod incoming;

const LISTEN: &str = "subscriptions/listen";
/// What waits for a process that does not read: so many bytes, or one message if that is longer.
const QUEUE: usize = 1 << 20;
/// Lines of standard error that are told of a process that has ended.
const STDERR_TAIL_LINES: usize = 6;
/// What is read of standard error in a second: more than people read, and little work. A process that writes more waits.
const STDERR: usize = 1 << 20;

/// The answer of the server, cut out of its line as it stood there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChildResponse {
    Result(Bytes),
    Error(Bytes),
}

/// Where the caller's progress token stands in `params`, and where its progress notifications go (never waited for:
/// what finds the channel full is lost). All that came before the answer are in the channel when the answer is given.
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
    /// Unbounded for what must not wait (a cancellation, once for each call that was sent); calls pay with `room`.
    queue: mpsc::UnboundedSender<OutgoingLine>,
    room: Arc<Semaphore>,
    notices: mpsc::Sender<Bytes>,
    dropped: AtomicU64,
    /// The last lines of its standard error.
    stderr_tail: Mutex<VecDeque<String>>,
    /// It was told that the process says what is no message.
    told: AtomicBool,
}

struct PendingCalls {
    open: bool,
    status: Option<ExitStatus>,
    /// What it said last, once it has ended.
    said: Option<Arc<str>>,
    waiting: HashMap<u64, PendingCall>,
}

struct PendingCall {
    answer: oneshot::Sender<Result<ChildResponse, ChildError>>,
    progress: Option<(Bytes, mpsc::Sender<Bytes>)>,
    /// Its progress starts its time anew.
    timer: Arc<CallTimer>,
    sent: bool,
    listens: bool,
}

pub(crate) struct OutgoingLine {
    line: Vec<u8>,
    call: Option<u64>,
    _room: Option<OwnedSemaphorePermit>,
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
            room: Arc::new(Semaphore::new(QUEUE)),
            notices,
            dropped: AtomicU64::new(0),
            stderr_tail: Mutex::default(),
            told: AtomicBool::new(false),
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

    /// A `subscriptions/listen`: what belongs to it goes to `notes`, until it ends or this is dropped.
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
        let ticket = CallTicket { connection: self, id, cancels: method != "initialize" };
        let exchange = async {
            // No room is given on a line that was closed; then the answer is that it was.
            if let Ok(room) = self.room(method, params).await {
                let line = envelope(Some(id), method, params, span);
                // The queue is gone only with the process, and then the answer says so.
                let _ = self.queue.send(OutgoingLine { line, call: Some(id), _room: Some(room) });
            }
            answered.await
        };
        tokio::select! {
            answer = exchange => answer.unwrap_or(Err(ChildError::Exited { status: None, sent: true, said: None })),
            () = timer.expired(timeout) => {
                Err(ChildError::Timeout { after: timeout, sent: ticket.abandon("timed out") })
            }
        }
    }

    /// Gives back when the notification is queued, not when it is read.
    pub async fn notify(
        &self,
        method: &str,
        params: Option<&[u8]>,
        timeout: Duration,
    ) -> Result<(), ChildError> {
        let room = tokio::time::timeout(timeout, self.room(method, params))
            .await
            .map_err(|_| ChildError::Timeout { after: timeout, sent: false })?;
        let line = envelope(None, method, params, None);
        room.ok()
            .and_then(|room| self.queue.send(OutgoingLine { line, call: None, _room: Some(room) }).ok())
            .ok_or_else(|| self.calls().exited(false))
    }

    pub fn is_open(&self) -> bool {
        self.calls().open
    }

    pub fn status(&self) -> Option<ExitStatus> {
        self.calls().status
    }

    /// Notifications and replies that were lost because nobody took them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes no more calls and gives back those that have not left; the others may still be answered.
    pub fn close(&self) {
        let mut calls = self.calls();
        calls.open = false;
        for (_, call) in calls.waiting.extract_if(|_, call| !call.sent) {
            let _ = call.answer.send(Err(ChildError::Exited { status: None, sent: false, said: None }));
        }
        self.room.close();
    }

    /// Nobody is there any more: all who still wait are told.
    pub fn close_input(&self, status: Option<ExitStatus>) {
        self.close();
        let said = self.last_stderr();
        let mut calls = self.calls();
        (calls.status, calls.said) = (status, said);
        for (_, call) in mem::take(&mut calls.waiting) {
            let _ = call.answer.send(Err(calls.exited(true)));
        }
    }

    /// Writes what is queued until the process no longer takes it.
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

    /// Hears all that the process says, until it says no more. Waits for nobody but the process.
    pub async fn read(&self, from: impl AsyncRead + Unpin) {
        let mut lines = LineReader::new(from, self.max);
        let mut log = LogQuota::new();
        while let Ok(Some(heard)) = lines.next().await {
            match heard {
                LineRead::Line(line) => self.on_line(&line, &mut log),
                LineRead::TooLong { head, id } => {
                    self.log_invalid("dropped a line that is too long", &head, &mut log);
                    self.finish(id, Err(ChildError::TooLong(self.max)));
                }
            }
        }
    }

    /// What it said last, as the end of a sentence; nothing if it was silent.
    pub fn last_stderr(&self) -> Option<Arc<str>> {
        let lines = self.stderr_tail.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        (!lines.is_empty()).then(|| format!("; its last words: {}", lines.join(" | ")).into())
    }

    /// Logs stderr: text for people, said to be no sign of an error. The last of it may say why a process has ended.
    pub async fn log(&self, stderr: impl AsyncRead + Unpin) {
        let mut lines = LineReader::new(Paced::new(stderr, STDERR, Duration::from_secs(1)), HEAD);
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

    /// An answer that nobody waits for is late (its call was cancelled): dropped without a word.
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

    async fn room(
        &self,
        method: &str,
        params: Option<&[u8]>,
    ) -> Result<OwnedSemaphorePermit, tokio::sync::AcquireError> {
        let bytes = method.len() + params.map_or(0, <[u8]>::len) + 64;
        Arc::clone(&self.room).acquire_many_owned(cost(bytes)).await
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

/// Held by the one who waits for an answer; dropped without one, it cancels.
struct CallTicket<'a> {
    connection: &'a ChildConnection,
    id: u64,
    cancels: bool,
}

impl CallTicket<'_> {
    /// Whether the call had left.
    fn abandon(&self, reason: &str) -> bool {
        let Some(call) = self.connection.calls().waiting.remove(&self.id) else { return false };
        if call.sent && self.cancels {
            let params = format!(r#"{{"requestId":{},"reason":"{reason}"}}"#, self.id);
            let line = envelope(None, "notifications/cancelled", Some(params.as_bytes()), None);
            let _ = self.connection.queue.send(OutgoingLine { line, call: None, _room: None });
        }
        call.sent
    }
}

impl Drop for CallTicket<'_> {
    fn drop(&mut self) {
        self.abandon("the caller is gone");
    }
}

/// Whether a line may say why a process has ended: those of a stack, and braces, do not.
fn is_forwarded_notification(line: &str) -> bool {
    !line.starts_with("at ") && line.chars().any(char::is_alphanumeric)
}

fn cost(bytes: usize) -> u32 {
    bytes.min(QUEUE) as u32
}
