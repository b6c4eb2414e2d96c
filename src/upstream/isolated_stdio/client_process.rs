//! One process for one session: which of its messages goes to which stream of its client.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mcp::json::quote::quote;
use mcp::jsonrpc::message;
use mcp::jsonrpc::message::ServerMessage;
use mcp::rejection::code;
use mcp::sse;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::event_body::EventBody;
use crate::upstream::client_message;
use crate::upstream::stdio::child::{
    Child, ConnectionError, ConnectionProgress, ConnectionResponse, ServerCommand,
};

/// Events of a stream that wait for the gateway to read them.
const QUEUE: usize = 256;
/// Requests of the server that wait for a stream, and how long: a server may ask before its client listens.
const MAX_HELD: usize = 16;
const HOLD: Duration = Duration::from_secs(5);
/// How often a stream without events gets a comment.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// The gateway ends calls by its own timeouts.
const CALL_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// How long a message to a process that does not read may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct ClientProcess {
    child: Child,
    routes: Mutex<Routes>,
}

#[derive(Default)]
struct Routes {
    /// Calls in progress, the latest last.
    calls: Vec<OpenCall>,
    /// The stream of a GET request.
    stream: Option<mpsc::Sender<Bytes>>,
    held: Vec<(Instant, Bytes)>,
    /// There was a call before.
    was_called: bool,
}

struct OpenCall {
    /// The client's id, as written.
    id: Bytes,
    out: mpsc::Sender<Bytes>,
    cancel: CancellationToken,
    /// The ids of its questions that the client has not answered.
    asks: Vec<Bytes>,
}

impl ClientProcess {
    /// Starts the process.
    pub async fn spawn(command: &ServerCommand) -> Result<Arc<Self>, ConnectionError> {
        let (sender, notices) = mpsc::channel(QUEUE);
        let (ask, asked) = mpsc::channel(MAX_HELD);
        let child = Child::spawn(command, sender).await?;
        child.take_requests(ask);
        let process = Arc::new(Self { child, routes: Mutex::default() });
        tokio::spawn(process.clone().route(notices, asked));
        Ok(process)
    }

    pub fn is_alive(&self) -> bool {
        self.child.is_alive()
    }

    pub async fn exited(&self) {
        self.child.exited().await;
    }

    pub async fn stop(&self) {
        self.child.stop().await;
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the messages of the server that are no responses to the streams, until the process has ended.
    async fn route(
        self: Arc<Self>,
        mut notices: mpsc::Receiver<Bytes>,
        mut asked: mpsc::Receiver<(Bytes, usize)>,
    ) {
        loop {
            let until = self.routes().held.first().map(|(until, _)| *until);
            let overdue = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(note) = notices.recv() => self.tell(&note),
                Some((request, open)) = asked.recv() => self.ask(request, open),
                () = overdue => self.refuse_overdue(),
                _ = self.child.exited() => break,
            }
        }
        // The streams end with the process.
        self.routes().stream = None;
    }

    /// A notification about lists and resources goes to the stream of the client, any other to the only call in
    /// progress; without that to the other, else to the latest call.
    fn tell(&self, note: &Bytes) {
        let method = message::read(note).and_then(|read| read.method).map(|method| method.read(note));
        let is_of_session = method.is_some_and(|method| {
            method.ends_with("/list_changed") || method == "notifications/resources/updated"
        });
        let routes = self.routes();
        let call = match (routes.calls.as_slice(), &routes.stream) {
            (_, Some(stream)) if is_of_session => Some(stream),
            ([only], _) => Some(&only.out),
            (_, Some(stream)) => Some(stream),
            (calls, None) => calls.last().map(|call| &call.out),
        };
        if call.is_none_or(|out| out.try_send(sse::message(note)).is_err()) {
            tracing::debug!("a notification of an isolated process is dropped: nobody reads it");
        }
    }

    /// A request goes to the only call in progress that waits for no answer of its client, since it belongs to it,
    /// else to the stream of the client. A
    /// wrong guess would ask the person of another call. `open` says how many calls were not answered when it
    /// came.
    fn ask(&self, request: Bytes, open: usize) {
        let mut routes = self.routes();
        let routes = &mut *routes;
        let count = routes.calls.len();
        let mut likely: Vec<_> =
            routes.calls.iter_mut().filter(|call| count == 1 || call.asks.is_empty()).collect();
        let sent = match (likely.as_mut_slice(), &routes.stream) {
            ([only], _) if open == count => {
                let is_sent = only.out.try_send(sse::message(&request)).is_ok();
                let id = message::read(&request).and_then(|read| read.id).filter(|_| is_sent);
                only.asks.extend(id.map(|id| request.slice(id.start..id.end)));
                is_sent
            }
            (_, Some(stream)) => stream.try_send(sse::message(&request)).is_ok(),
            // Its client has not had the time to listen.
            (_, None) if open == 0 && !routes.was_called && routes.held.len() < MAX_HELD => {
                routes.held.push((Instant::now() + HOLD, request));
                return;
            }
            (_, None) => false,
        };
        if !sent {
            self.refuse(&request, "it is not clear which call it is for, or its client does not listen");
        }
    }

    fn refuse_overdue(&self) {
        let now = Instant::now();
        let overdue: Vec<_> = self.routes().held.extract_if(.., |(until, _)| *until <= now).collect();
        for (_, request) in overdue {
            self.refuse(&request, "no call is in progress, and the client does not listen");
        }
    }

    fn refuse(&self, request: &Bytes, why: &str) {
        let Some(id) = message::read(request).and_then(|read| read.id) else { return };
        let error = format!(r#"{{"code":{},"message":{}}}"#, code::INTERNAL, quote(why));
        self.child.reply(&message::error_response(id.of(request), error.as_bytes()));
    }

    /// What waited for a stream goes to this one.
    fn release(routes: &mut Routes, out: &mpsc::Sender<Bytes>) {
        for (_, request) in routes.held.drain(..) {
            let _ = out.try_send(sse::message(&request));
        }
    }

    /// The stream of a GET request; one at a time.
    pub fn stream(self: &Arc<Self>) -> Option<EventBody> {
        let (out, events) = mpsc::channel(QUEUE);
        {
            let mut routes = self.routes();
            if routes.stream.as_ref().is_some_and(|stream| !stream.is_closed()) {
                return None;
            }
            Self::release(&mut routes, &out);
            routes.stream = Some(out.clone());
        }
        let kept = out.downgrade();
        drop(out);
        tokio::spawn(async move {
            let mut tick = interval(KEEP_ALIVE);
            loop {
                tick.tick().await;
                let Some(out) = kept.upgrade() else { return };
                if let Err(mpsc::error::TrySendError::Closed(_)) = out.try_send(Bytes::from_static(b":\n\n"))
                {
                    return;
                }
            }
        });
        Some(EventBody::of(events))
    }

    /// Sends a request; the stream of its response. It goes on if nobody reads that.
    pub fn call(self: &Arc<Self>, body: &Bytes, read: &ServerMessage) -> EventBody {
        let (out, events) = mpsc::channel(QUEUE);
        let slice = |span: Option<mcp::Span>| span.map(|span| body.slice(span.start..span.end));
        let (id, params) = (slice(read.id).unwrap_or_default(), slice(read.params));
        let method = read.method.map(|method| method.read(body).into_owned()).unwrap_or_default();
        let cancel = CancellationToken::new();
        {
            let mut routes = self.routes();
            if routes.calls.is_empty() {
                Self::release(&mut routes, &out);
            }
            routes.was_called = true;
            routes.calls.push(OpenCall {
                id: id.clone(),
                out: out.clone(),
                cancel: cancel.clone(),
                asks: Vec::new(),
            });
        }
        let process = self.clone();
        tokio::spawn(async move {
            let answered = process.answer(&method, params.as_ref(), &out);
            let answer = cancel.run_until_cancelled(answered).await;
            process.routes().calls.retain(|call| !call.out.same_channel(&out));
            let response = match answer {
                None => return,
                Some(Ok(ConnectionResponse::Result(result))) => message::result(&id, &result),
                Some(Ok(ConnectionResponse::Error(error))) => message::error_response(&id, &error),
                Some(Err(error)) => failed(&id, &error),
            };
            let _ = out.send(sse::message(&response)).await;
        });
        EventBody::of(events)
    }

    async fn answer(
        &self,
        method: &str,
        params: Option<&Bytes>,
        out: &mpsc::Sender<Bytes>,
    ) -> Result<ConnectionResponse, ConnectionError> {
        let token = params.and_then(|params| progress_token(params));
        let (notes, mut received) = mpsc::channel::<Bytes>(QUEUE);
        let progress = token.map(|token| ConnectionProgress { token, notes });
        let request = self.child.request(method, params.map(AsRef::as_ref), CALL_TIMEOUT, progress);
        let mut request = std::pin::pin!(request);
        loop {
            tokio::select! {
                biased;
                // Its end only means that there is no token.
                Some(note) = received.recv() => drop(out.try_send(sse::message(&note))),
                answer = &mut request => {
                    while let Ok(note) = received.try_recv() {
                        let _ = out.try_send(sse::message(&note));
                    }
                    return answer;
                }
            }
        }
    }

    /// The handshake of the session.
    pub async fn initialize(&self, params: Option<&[u8]>) -> Result<ConnectionResponse, ConnectionError> {
        self.child.request("initialize", params, CALL_TIMEOUT, None).await
    }

    /// Why it has ended, with its last words.
    pub async fn ending(&self) -> ConnectionError {
        self.child.ending(Duration::from_millis(500), true).await
    }

    /// Passes on a notification or a response of the client.
    pub async fn send(&self, body: &Bytes, read: &ServerMessage) -> Result<(), ConnectionError> {
        let Some(method) = read.method.map(|method| method.read(body)) else {
            if let Some(id) = read.id {
                let id = id.of(body);
                for call in &mut self.routes().calls {
                    call.asks.retain(|asked| !message::same_id(asked, id));
                }
            }
            self.child.reply(body);
            return Ok(());
        };
        let params = read.params.map(|params| params.of(body));
        if method == "notifications/cancelled" {
            let id = params.and_then(|params| Some(message::member(params, "requestId")?.of(params)));
            let routes = self.routes();
            // The process is told by the call, under its own id.
            if let Some(call) =
                routes.calls.iter().find(|call| id.is_some_and(|id| message::same_id(&call.id, id)))
            {
                call.cancel.cancel();
            }
            return Ok(());
        }
        self.child.notify(&method, params, SEND_TIMEOUT).await
    }
}

/// The place of the progress token in the params.
fn progress_token(params: &[u8]) -> Option<std::ops::Range<usize>> {
    let meta = message::member(params, "_meta")?;
    let token = message::member(meta.of(params), "progressToken")?;
    Some(meta.start + token.start..meta.start + token.end)
}

/// The response to a call that the process did not answer.
fn failed(id: &[u8], error: &ConnectionError) -> Bytes {
    // The program's own words stay in the log.
    let why = match error {
        ConnectionError::Exited { .. } => "the process of this session has ended before it answered".into(),
        ConnectionError::Spawn { .. } => "the process of this session cannot be started".into(),
        error => client_message(&error.to_string()),
    };
    let error = format!(r#"{{"code":{},"message":{}}}"#, code::INTERNAL, quote(&why));
    message::error_response(id, error.as_bytes())
}
