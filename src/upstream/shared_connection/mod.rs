//! A JSON-RPC connection to one server, shared by all its callers: over the pipes of a process (`stdio`), or
//! over an event stream (`sse`), which carry the messages.
//!
//! Every call gets an id (and progress token) of the gateway's own, since two callers may choose the same.
//! Responses are slices of the bytes that were read, never rebuilt. Five MCP messages are handled here
//! (progress, cancelled, ping, initialize, listen), because they concern the connection itself. It does no
//! handshake, keeps no era, repeats nothing, and opens and ends no transport.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use std::{io, mem};

use bytes::Bytes;
use mcp::jsonrpc::message;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tracing::{debug, warn};

use crate::upstream::UpstreamError;
use crate::upstream::call_timer::CallTimer;

use codec::{LogQuota, OversizeScan, ParamsView, RawMessage, encode, quote, span_in, splice};

pub mod codec;
mod incoming;

const LISTEN: &str = "subscriptions/listen";
/// Limit of the queue for a server that does not read: this many bytes, or one message if that is longer.
const MAX_QUEUE_BYTES: usize = 1 << 20;
/// The response of the server, a slice of its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionResponse {
    Result(Bytes),
    Error(Bytes),
}

/// The span of the caller's progress token in `params`, and the receiver of its progress notifications.
/// Sending never waits: those that find the channel full are lost. All that came before the response are in
/// the channel when the response is returned.
#[derive(Debug)]
pub struct ConnectionProgress {
    pub token: Range<usize>,
    pub notes: mpsc::Sender<Bytes>,
}

/// `sent` says whether the server may have read the call: one that was not sent may be repeated elsewhere.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
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
    /// The message of this call was not accepted.
    #[error("{0}")]
    Refused(UpstreamError),
    #[error("the server ended the subscription")]
    SessionClosed,
    #[error("the progress token is not where the caller says")]
    TokenRequired,
}

pub(crate) struct SharedConnection {
    server: String,
    last: AtomicU64,
    calls: Mutex<PendingCalls>,
    /// Unbounded for messages that must not wait (a cancellation, once for each call that was sent); calls
    /// acquire `space`.
    queue: mpsc::UnboundedSender<OutgoingLine>,
    space: Arc<Semaphore>,
    notices: mpsc::Sender<Bytes>,
    /// Set where one client answers the requests of the server.
    requests: OnceLock<mpsc::Sender<(Bytes, usize)>>,
    dropped: AtomicU64,
    /// It was logged that the server sends invalid messages.
    warned: AtomicBool,
}

struct PendingCalls {
    open: bool,
    status: Option<ExitStatus>,
    /// More about its end, as the end of a sentence.
    said: Option<Arc<str>>,
    waiting: HashMap<u64, PendingCall>,
}

struct PendingCall {
    answer: oneshot::Sender<Result<ConnectionResponse, ConnectionError>>,
    progress: Option<(Bytes, mpsc::Sender<Bytes>)>,
    /// Progress restarts its timeout.
    timer: Arc<CallTimer>,
    sent: bool,
    listens: bool,
}

/// A message to the server, with a line break at its end.
pub(crate) struct OutgoingLine {
    pub line: Vec<u8>,
    /// The call that it is.
    pub call: Option<u64>,
    /// The call that it cancels.
    pub cancels: Option<u64>,
    _space: Option<OwnedSemaphorePermit>,
}

impl SharedConnection {
    /// The second half belongs to the transport.
    pub fn new(server: &str, notices: mpsc::Sender<Bytes>) -> (Self, mpsc::UnboundedReceiver<OutgoingLine>) {
        let (queue, outgoing) = mpsc::unbounded_channel();
        let calls = PendingCalls { open: true, status: None, said: None, waiting: HashMap::new() };
        let line = Self {
            server: server.to_owned(),
            last: AtomicU64::new(0),
            calls: Mutex::new(calls),
            queue,
            space: Arc::new(Semaphore::new(MAX_QUEUE_BYTES)),
            notices,
            requests: OnceLock::new(),
            dropped: AtomicU64::new(0),
            warned: AtomicBool::new(false),
        };
        (line, outgoing)
    }

    pub async fn request(
        &self,
        method: &str,
        params: Option<&[u8]>,
        timeout: Duration,
        progress: Option<ConnectionProgress>,
    ) -> Result<ConnectionResponse, ConnectionError> {
        let span = progress.as_ref().map(|progress| progress.token.clone());
        let progress = match progress {
            Some(ConnectionProgress { token, notes }) => {
                let token = params.and_then(|params| params.get(token)).filter(|token| !token.is_empty());
                let token = token.ok_or(ConnectionError::TokenRequired)?;
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
    ) -> Result<ConnectionResponse, ConnectionError> {
        self.exchange(LISTEN, Some(params), Duration::MAX, None, Some((Bytes::new(), notes))).await
    }

    async fn exchange(
        &self,
        method: &str,
        params: Option<&[u8]>,
        timeout: Duration,
        span: Option<Range<usize>>,
        progress: Option<(Bytes, mpsc::Sender<Bytes>)>,
    ) -> Result<ConnectionResponse, ConnectionError> {
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
                let _ = self.queue.send(OutgoingLine {
                    line,
                    call: Some(id),
                    cancels: None,
                    _space: Some(space),
                });
            }
            answered.await
        };
        tokio::select! {
            answer = exchange => answer.unwrap_or(Err(ConnectionError::Exited { status: None, sent: true, said: None })),
            () = timer.expired(timeout) => {
                Err(ConnectionError::Timeout { after: timeout, sent: call_ticket.abandon("timed out") })
            }
        }
    }

    /// Returns when the notification is queued, not when it is read.
    pub async fn notify(
        &self,
        method: &str,
        params: Option<&[u8]>,
        timeout: Duration,
    ) -> Result<(), ConnectionError> {
        let space = tokio::time::timeout(timeout, self.space(method, params))
            .await
            .map_err(|_| ConnectionError::Timeout { after: timeout, sent: false })?;
        let line = encode(None, method, params, None);
        space
            .ok()
            .and_then(|space| {
                self.queue.send(OutgoingLine { line, call: None, cancels: None, _space: Some(space) }).ok()
            })
            .ok_or_else(|| self.calls().exited(false))
    }

    /// From now on, requests of the server go there, whole, each with the number of calls that had no answer
    /// when it came; those that find it full are declined.
    pub fn take_requests(&self, requests: mpsc::Sender<(Bytes, usize)>) {
        let _ = self.requests.set(requests);
    }

    /// Queues a response to a request of the server. If the server does not read, it is lost.
    pub fn reply(&self, message: &Bytes) {
        let mut line = message::one_line(message.clone()).to_vec();
        line.push(b'\n');
        self.queue_reply(line);
    }

    fn queue_reply(&self, line: Vec<u8>) {
        match Arc::clone(&self.space).try_acquire_many_owned(permits(line.len())) {
            Ok(space) => {
                drop(self.queue.send(OutgoingLine { line, call: None, cancels: None, _space: Some(space) }))
            }
            Err(_) => drop(self.dropped.fetch_add(1, Ordering::Relaxed)),
        }
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
            let _ = call.answer.send(Err(ConnectionError::Exited { status: None, sent: false, said: None }));
        }
        self.space.close();
    }

    /// The server is gone: all pending calls fail. `said`: more about it, as the end of a sentence.
    pub fn close_input(&self, status: Option<ExitStatus>, said: Option<Arc<str>>) {
        self.close();
        let mut calls = self.calls();
        (calls.status, calls.said) = (status, said);
        for (_, call) in mem::take(&mut calls.waiting) {
            let _ = call.answer.send(Err(calls.exited(true)));
        }
    }

    /// Whether a message is to be sent now. A call that was given up before its turn is not sent at all.
    pub fn begin(&self, message: &OutgoingLine) -> bool {
        message.call.is_none_or(|id| self.mark_sent(id))
    }

    /// A message that is longer than permitted, and the call that it answers.
    pub fn too_long(&self, head: &[u8], id: Option<u64>, max: usize, log: &mut LogQuota) {
        self.log_invalid("dropped a line that is too long", head, log);
        self.finish(id, Err(ConnectionError::TooLong(max)));
    }

    fn insert(&self, id: u64, call: PendingCall) -> Result<(), ConnectionError> {
        let mut calls = self.calls();
        if !calls.open {
            return Err(calls.exited(false));
        }
        calls.waiting.insert(id, call);
        Ok(())
    }

    /// A response that no call waits for is late (its call was cancelled): dropped silently.
    pub fn finish(&self, id: Option<u64>, answer: Result<ConnectionResponse, ConnectionError>) {
        let call = id.and_then(|id| self.calls().waiting.remove(&id));
        if let Some(call) = call {
            let _ = call.answer.send(answer);
        }
    }

    fn mark_sent(&self, id: u64) -> bool {
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
    fn exited(&self, sent: bool) -> ConnectionError {
        ConnectionError::Exited { status: self.status, sent, said: self.said.clone() }
    }
}

/// Held while a call waits for its response; dropped without one, it cancels the call.
struct CallTicket<'a> {
    connection: &'a SharedConnection,
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
            let _ = self.connection.queue.send(OutgoingLine {
                line,
                call: None,
                cancels: Some(self.id),
                _space: None,
            });
        }
        call.sent
    }
}

impl Drop for CallTicket<'_> {
    fn drop(&mut self) {
        self.abandon("the caller is gone");
    }
}

fn permits(bytes: usize) -> u32 {
    bytes.min(MAX_QUEUE_BYTES) as u32
}
