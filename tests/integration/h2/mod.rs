//! HTTP/2, to clients and to servers: the gateway over frames, and what only HTTP/2 makes possible.

mod bodies;
mod floods;
mod foreign;
mod frames;
mod h2_shutdown;
mod matrix;
mod nameless;
mod upstream;

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{HeaderMap, Request};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Timeout of a response.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// One HTTP/2 connection by prior knowledge.
struct Wire {
    port: u16,
    send: SendRequest<Bytes>,
    ping: PingPong,
    /// Ends with the connection, and returns how.
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// One response as it came.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    /// The message: the body as JSON, or the last event of a stream; `Null` when it is none.
    fn message(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        let streams =
            self.headers.get("content-type").is_some_and(|v| v.as_bytes().starts_with(b"text/event"));
        let last = text.lines().filter_map(|line| line.strip_prefix("data:")).rfind(|data| data.trim() != "");
        let json = if streams { last.unwrap_or_default() } else { &text };
        serde_json::from_str(json).unwrap_or_default()
    }
}

impl Wire {
    async fn open(port: u16) -> Self {
        Self::with(port, &mut h2::client::Builder::new()).await
    }

    async fn with(port: u16, settings: &mut h2::client::Builder) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("the gateway listens");
        stream.set_nodelay(true).expect("a TCP socket has the option");
        let (send, mut connection) = settings.handshake(stream).await.expect("the gateway speaks HTTP/2");
        let ping = connection.ping_pong().expect("it is asked for once");
        Self { port, send, ping, driver: tokio::spawn(connection) }
    }

    /// A request whose response is read elsewhere; its body is sent through the second value.
    async fn begin(
        &self,
        request: Request<()>,
        end: bool,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        let mut send = self.send.clone().ready().await.expect("the connection takes a request");
        send.send_request(request, end).expect("the request is well formed")
    }

    /// A modern POST whose headers match such a body.
    fn modern(&self, path: &str, method: &str, name: Option<&str>) -> http::request::Builder {
        let request = Request::post(format!("http://127.0.0.1:{}{path}", self.port))
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json")
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", method);
        match name {
            Some(name) => request.header("mcp-name", name),
            None => request,
        }
    }

    /// A whole request and its whole response; an error is one of the stream or the connection.
    async fn exchange(&self, request: Request<()>, body: &[u8], piece: usize) -> Result<Answer, h2::Error> {
        let (answer, body_to) = self.begin(request, body.is_empty()).await;
        let send = async {
            if !body.is_empty() {
                let _ = pour(body_to, body, piece).await;
            }
        };
        let (_, answer) = tokio::join!(send, in_time(whole(answer)));
        answer
    }

    /// A modern request in one piece, with its length.
    async fn ask(&self, path: &str, method: &str, params: Value) -> Answer {
        let (name, body) = message(method, params);
        let request = self.modern(path, method, name.as_deref()).header("content-length", body.len());
        let request = request.body(()).expect("a good request");
        self.exchange(request, &body, usize::MAX).await.expect("an answer")
    }

    /// Waits until all sent bytes are read; `false` if the connection ends before that.
    async fn is_read(&mut self) -> bool {
        in_time(self.ping.ping(Ping::opaque())).await.is_ok()
    }

    /// How the connection ended.
    async fn ended(self) -> Result<(), h2::Error> {
        let Self { send, driver, .. } = self;
        let ended = in_time(driver).await.expect("the driver does not panic");
        drop(send);
        ended
    }
}

/// A modern message, with the name that its header must have.
fn message(method: &str, mut params: Value) -> (Option<String>, Vec<u8>) {
    params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    let name = params["name"].as_str().map(str::to_owned);
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    (name, body.to_string().into_bytes())
}

/// Sends a body in pieces, as fast as the other side accepts it; `false` when it accepts no more.
async fn pour(mut to: SendStream<Bytes>, body: &[u8], piece: usize) -> bool {
    let mut rest = Bytes::copy_from_slice(body);
    while !rest.is_empty() {
        to.reserve_capacity(rest.len().min(piece));
        let Some(Ok(capacity)) = std::future::poll_fn(|cx| to.poll_capacity(cx)).await else { return false };
        let next = rest.split_to(capacity.min(piece).min(rest.len()));
        if to.send_data(next, rest.is_empty()).is_err() {
            return false;
        }
    }
    true
}

async fn whole(answer: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut body) = answer.await?.into_parts();
    let mut answer = Answer { status: head.status.as_u16(), headers: head.headers, body: Vec::new() };
    while let Some(piece) = next(&mut body).await? {
        answer.body.extend_from_slice(&piece);
    }
    Ok(answer)
}

/// The next piece of a response; releases its window.
async fn next(body: &mut RecvStream) -> Result<Option<Bytes>, h2::Error> {
    let Some(piece) = body.data().await.transpose()? else { return Ok(None) };
    body.flow_control().release_capacity(piece.len())?;
    Ok(Some(piece))
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(MAX_WAIT, work).await.expect("it comes within a minute")
}
