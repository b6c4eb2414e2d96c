//! Streamable HTTP of the legacy era on a loopback port, with a process for each session.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dashmap::DashMap;
use futures::future::join_all;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mcp::Era;
use mcp::header_name;
use mcp::jsonrpc::message;
use mcp::jsonrpc::message::ServerMessage;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::client_process::ClientProcess;
use super::event_body::EventBody;
use super::places::{ProcessPlace, ProcessPlaces};
use super::{SECRET, hex};
use crate::upstream::stdio;
use crate::upstream::stdio::child::{ConnectionError, ConnectionResponse, ServerCommand};
use crate::upstream::{ProcessStarts, UpstreamError, WantedProcess};

pub(super) const PATH: &str = "/mcp";
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
    places: Arc<ProcessPlaces>,
    starts: Arc<ProcessStarts>,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Adapter {
    pub fn new(
        socket: std::net::TcpListener,
        secret: String,
        command: ServerCommand,
        places: Arc<ProcessPlaces>,
        starts: Arc<ProcessStarts>,
    ) -> Arc<Self> {
        Arc::new(Self {
            socket: Mutex::new(Some(socket)),
            secret,
            command,
            sessions: DashMap::default(),
            places,
            starts,
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
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
            // An answer to a question of a process that has ended: nobody waits for it any more.
            Some((_, None)) if read.method.is_none() => plain(StatusCode::ACCEPTED, ""),
            Some((_, None)) => unknown_session(),
            Some((_, Some(process))) if !process.is_alive() && read.method.is_some() => unknown_session(),
            Some((_, Some(process))) if read.is_request() => event_stream(process.call(&body, &read)),
            Some((_, Some(process))) => match process.send(&body, &read).await {
                Ok(()) => plain(StatusCode::ACCEPTED, ""),
                Err(_) => plain(StatusCode::BAD_GATEWAY, "the process does not read"),
            },
        }
    }

    /// Starts a process and sends it `initialize`. Dropped, it ends the process. The errors are those of the
    /// start of a shared process.
    async fn start_process(
        &self,
        wanted: WantedProcess,
        body: &Bytes,
        read: &ServerMessage,
    ) -> Result<(StartingProcess, Bytes), UpstreamError> {
        let place = self.places.take(wanted.owner)?;
        let process = ClientProcess::spawn(&self.command).await.map_err(stdio::failed)?;
        let starting = StartingProcess::new(process, place);
        let params = read.params.map(|params| params.of(body));
        match starting.process().initialize(params).await {
            Ok(ConnectionResponse::Result(result)) => Ok((starting, result)),
            Ok(ConnectionResponse::Error(error)) => {
                Err(UpstreamError::WrongEra(Era::Legacy, stdio::start::shorten(&error)))
            }
            // Its last words say more than a closed pipe.
            Err(ConnectionError::Exited { .. }) => Err(stdio::failed(starting.process().ending().await)),
            Err(error) => Err(stdio::failed(error)),
        }
    }

    /// A session begins, with a process.
    async fn initialize(self: Arc<Self>, body: &Bytes, read: &ServerMessage) -> Response<EventBody> {
        let id = read.id.map(|id| id.of(body)).unwrap_or_default();
        let started = match self.starts.wanted(id) {
            Some(wanted) => tokio::time::timeout(wanted.timeout, self.start_process(wanted, body, read))
                .await
                .unwrap_or(Err(UpstreamError::TimedOut(wanted.timeout))),
            None => Err(UpstreamError::SessionClosed),
        };
        let (starting, result) = match started {
            Ok(started) => started,
            Err(error) => {
                tracing::warn!(server = self.command.name, %error, "no process for a session: the server");
                self.starts.fail(id, error);
                return plain(StatusCode::SERVICE_UNAVAILABLE, "there is no process");
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
    started: Option<(Arc<ClientProcess>, ProcessPlace)>,
    runtime: Handle,
}

impl StartingProcess {
    fn new(process: Arc<ClientProcess>, place: ProcessPlace) -> Self {
        Self { started: Some((process, place)), runtime: Handle::current() }
    }

    fn process(&self) -> &ClientProcess {
        &self.started.as_ref().expect("it is taken only at the end").0
    }

    fn into_session(mut self) -> (Arc<ClientProcess>, ProcessPlace) {
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
