//! Streamable HTTP of the legacy era on a loopback port, with a process for each session.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dashmap::DashMap;
use futures::future::join_all;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mcp::header_name;
use mcp::jsonrpc::message;
use mcp::jsonrpc::message::ServerMessage;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::client_process::{ClientProcess, failed};
use super::event_body::EventBody;
use super::{SECRET, hex};
use crate::upstream::UpstreamError;
use crate::upstream::stdio::child::{ConnectionError, ConnectionResponse, ServerCommand};

pub(super) const PATH: &str = "/mcp";
/// Processes of one server at a time.
const MAX_PROCESSES: usize = 64;
/// Connections of the gateway at a time. Any process of this machine may connect.
const MAX_CONNECTIONS: usize = 512;
/// How long a connection may take for a head, and wait for one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest message to a process. The gateway has its own, smaller limit.
const MAX_BODY: usize = 256 << 20;

type Sessions = DashMap<String, Arc<ClientProcess>, ahash::RandomState>;

pub(super) struct Adapter {
    /// Until it is started.
    socket: Mutex<Option<std::net::TcpListener>>,
    secret: String,
    command: ServerCommand,
    sessions: Sessions,
    /// One permit for each process.
    places: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    /// Why the last process could not be started, or did not answer `initialize`.
    last_error: Mutex<Option<String>>,
    stop: CancellationToken,
}

impl Adapter {
    pub fn new(socket: std::net::TcpListener, secret: String, command: ServerCommand) -> Arc<Self> {
        Arc::new(Self {
            socket: Mutex::new(Some(socket)),
            secret,
            command,
            sessions: DashMap::default(),
            places: Arc::new(Semaphore::new(MAX_PROCESSES)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            last_error: Mutex::default(),
            stop: CancellationToken::new(),
        })
    }

    /// Begins to serve, once, on the runtime of the caller.
    pub fn start(self: &Arc<Self>) -> io::Result<()> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(socket) = socket else { return Ok(()) };
        let listener = TcpListener::from_std(socket)?;
        let (adapter, stop) = (Arc::downgrade(self), self.stop.clone());
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            loop {
                let accepted = listener.accept().await;
                let Some(adapter) = adapter.upgrade() else { return };
                match accepted {
                    Ok((stream, _)) => {
                        // Without a permit it is closed at once.
                        if let Ok(permit) = adapter.connections.clone().try_acquire_owned() {
                            tokio::spawn(adapter.connection(stream, permit));
                        }
                    }
                    // No descriptors are left: others may be closed meanwhile.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        }));
        Ok(())
    }

    /// Serves nothing more, and ends all processes.
    pub async fn stop(&self) {
        self.stop.cancel();
        let processes: Vec<_> = self.sessions.iter().map(|session| session.clone()).collect();
        self.sessions.clear();
        // At the same time: each may take some seconds.
        join_all(processes.iter().map(|process| process.stop())).await;
    }

    /// The error of a handshake, with the reason of its process.
    pub fn explain(&self, error: UpstreamError) -> UpstreamError {
        let why = self.last_error.lock().unwrap_or_else(PoisonError::into_inner).take();
        why.map_or(error, UpstreamError::Unreachable)
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, _permit: OwnedSemaphorePermit) {
        let stop = self.stop.clone();
        let _ = stream.set_nodelay(true);
        let service = service_fn(move |request| {
            let adapter = self.clone();
            async move { Ok::<_, Infallible>(adapter.respond(request).await) }
        });
        let mut connection = hyper::server::conn::http1::Builder::new();
        connection.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        let serve = connection.serve_connection(TokioIo::new(stream), service);
        if let Some(Err(error)) = stop.run_until_cancelled(serve).await {
            tracing::debug!(%error, "a connection to an isolated process broke");
        }
    }

    async fn respond(self: Arc<Self>, request: Request<Incoming>) -> Response<EventBody> {
        let sent = request.headers().get(SECRET).map(HeaderValue::as_bytes);
        let is_ours = sent.is_some_and(|sent| {
            aws_lc_rs::constant_time::verify_slices_are_equal(sent, self.secret.as_bytes()).is_ok()
        });
        if !is_ours || request.uri().path() != PATH {
            return plain(StatusCode::FORBIDDEN, "this port is for the gateway alone");
        }
        let id = request.headers().get(header_name::SESSION).and_then(|id| id.to_str().ok());
        let session = id.map(|id| (id.to_owned(), self.sessions.get(id).map(|session| session.clone())));
        match (request.method(), session) {
            (&Method::POST, session) => match collect(request.into_body()).await {
                Some(body) => self.post(session, body).await,
                None => plain(StatusCode::BAD_REQUEST, "the body is incomplete, or too large"),
            },
            (&Method::GET, Some((_, Some(process)))) => match process.stream() {
                Some(events) => event_stream(events),
                None => plain(StatusCode::CONFLICT, "the session has a stream already"),
            },
            (&Method::DELETE, Some((id, Some(_)))) => {
                if let Some((_, process)) = self.sessions.remove(&id) {
                    tokio::spawn(async move { process.stop().await });
                }
                plain(StatusCode::OK, "")
            }
            (&Method::GET | &Method::DELETE, Some(_)) => unknown_session(),
            (&Method::GET | &Method::DELETE, None) => plain(StatusCode::BAD_REQUEST, "a session is needed"),
            _ => {
                let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST, GET, DELETE"));
                response
            }
        }
    }

    async fn post(
        self: Arc<Self>,
        session: Option<(String, Option<Arc<ClientProcess>>)>,
        body: Bytes,
    ) -> Response<EventBody> {
        let Some(read) = message::read(&body) else {
            return plain(StatusCode::BAD_REQUEST, "the body is no JSON-RPC message");
        };
        match session {
            None if read.is_request() && read.method.is_some_and(|method| method.is(&body, "initialize")) => {
                self.initialize(&body, &read).await
            }
            None => plain(StatusCode::BAD_REQUEST, "a session is needed"),
            Some((_, None)) => unknown_session(),
            Some((_, Some(process))) if !process.is_alive() => unknown_session(),
            Some((_, Some(process))) if read.is_request() => event_stream(process.call(&body, &read)),
            Some((_, Some(process))) => match process.send(&body, &read).await {
                Ok(()) => plain(StatusCode::ACCEPTED, ""),
                Err(_) => plain(StatusCode::BAD_GATEWAY, "the process does not read"),
            },
        }
    }

    /// A session begins, with a process.
    async fn initialize(self: Arc<Self>, body: &Bytes, read: &ServerMessage) -> Response<EventBody> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, "too many processes");
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
            tracing::warn!(server = self.command.name, MAX_PROCESSES, "no process for another session");
            return response;
        };
        let id = read.id.map(|id| id.of(body)).unwrap_or_default();
        let started = async {
            let process = ClientProcess::spawn(&self.command).await?;
            let starting = StartingProcess::new(process, place);
            let params = read.params.map(|params| params.of(body));
            match starting.process().initialize(params).await {
                // Its last words say more than a closed pipe.
                Err(ConnectionError::Exited { .. }) => Err(starting.process().ending().await),
                answer => Ok((starting, answer?)),
            }
        };
        let (starting, result) = match started.await {
            Ok((starting, ConnectionResponse::Result(result))) => (starting, result),
            Ok((_, ConnectionResponse::Error(error))) => return json(message::error_response(id, &error)),
            Err(error) => {
                let why = match &error {
                    ConnectionError::Spawn { source, .. } => format!("it cannot be started: {source}"),
                    error => error.to_string(),
                };
                tracing::warn!(server = self.command.name, %why, "no process for a session");
                *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                return json(failed(id, &error));
            }
        };
        let mut session = [0; 16];
        getrandom::fill(&mut session).expect("the system gives random bytes");
        let session = hex(&session);
        let (process, place) = starting.into_session();
        self.sessions.insert(session.clone(), process.clone());
        // The gateway was closed meanwhile, and saw no process to end.
        if self.stop.is_cancelled() {
            self.stop().await;
        }
        let (adapter, ended) = (Arc::downgrade(&self), session.clone());
        tokio::spawn(async move {
            process.exited().await;
            drop(place);
            // The next message of its session is answered 404, and the gateway opens another.
            if let Some(adapter) = adapter.upgrade() {
                adapter.sessions.remove(&ended);
            }
        });
        let mut response = json(message::result(id, &result));
        let session = HeaderValue::from_str(&session).expect("hexadecimal digits");
        response.headers_mut().insert(header_name::SESSION, session);
        response
    }
}

/// A process that has no session yet: dropped, it is stopped, and gives back its place when it has gone.
struct StartingProcess {
    started: Option<(Arc<ClientProcess>, OwnedSemaphorePermit)>,
    runtime: Handle,
}

impl StartingProcess {
    fn new(process: Arc<ClientProcess>, place: OwnedSemaphorePermit) -> Self {
        Self { started: Some((process, place)), runtime: Handle::current() }
    }

    fn process(&self) -> &ClientProcess {
        &self.started.as_ref().expect("it is taken only at the end").0
    }

    fn into_session(mut self) -> (Arc<ClientProcess>, OwnedSemaphorePermit) {
        self.started.take().expect("it is taken only here")
    }
}

impl Drop for StartingProcess {
    fn drop(&mut self) {
        if let Some((process, place)) = self.started.take() {
            self.runtime.spawn(async move {
                process.stop().await;
                drop(place);
            });
        }
    }
}

/// The whole body; `None` if it is incomplete or too large.
async fn collect(mut body: Incoming) -> Option<Bytes> {
    let mut all = BytesMut::new();
    loop {
        let frame = std::future::poll_fn(|context| std::pin::Pin::new(&mut body).poll_frame(context)).await;
        let Some(frame) = frame else { return Some(all.freeze()) };
        if let Ok(data) = frame.ok()?.into_data() {
            if all.len() + data.len() > MAX_BODY {
                return None;
            }
            all.extend_from_slice(&data);
        }
    }
}

fn response(status: StatusCode, content_type: &'static str, body: EventBody) -> Response<EventBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<EventBody> {
    response(status, "text/plain", EventBody::text(Bytes::from_static(text.as_bytes())))
}

fn json(text: Bytes) -> Response<EventBody> {
    response(StatusCode::OK, "application/json", EventBody::text(text))
}

fn event_stream(events: EventBody) -> Response<EventBody> {
    response(StatusCode::OK, "text/event-stream", events)
}

/// 2025-11-25, basic/transports, "Session Management".
fn unknown_session() -> Response<EventBody> {
    plain(StatusCode::NOT_FOUND, "no such session")
}
