//! The connection to the gateway: HTTP to another process, or HTTP over a pipe in memory to a gateway of
//! this process.

use std::error::Error as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use hyper_util::rt::TokioIo;
use mcp::{Reason, Rejection};
use tokio_util::sync::CancellationToken;

use crate::proxy::in_process::InProcessGateway;
use crate::upstream::tls_hint;

const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
/// Maximum size of a token file, in bytes.
const TOKEN: u64 = 64 * 1024;
const CONNECT: Duration = Duration::from_secs(5);
/// TCP keepalive detects a dead gateway: probes after this time, and this many.
const SILENCE: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

pub struct Transport {
    connector: Connector,
    token: BearerToken,
}

enum Connector {
    Http { client: reqwest::Client, url: reqwest::Url },
    InProcess { gateway: InProcessGateway, path: String },
}

/// The value of `Authorization`. It is never logged.
#[derive(Default)]
struct BearerToken {
    value: ArcSwapOption<HeaderValue>,
    /// Read again when the gateway rejects the old token.
    file: Option<PathBuf>,
}

/// Why a message has no response.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No byte of it was sent.
    #[error("the gateway cannot be reached{0}")]
    Unreachable(String),
    #[error("the connection to the gateway broke off{0}")]
    Interrupted(String),
}

impl TransportError {
    pub fn rejection(&self) -> Rejection {
        Rejection::http(503, Reason::UpstreamUnreachable, self.to_string())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("--url {0}: it must be an http:// or https:// URL, such as http://127.0.0.1:8000/mcp")]
    Url(String),
    #[error("--url must not hold a user or password; use --token, --token-file or TOOLGATE_TOKEN")]
    Credentials,
    #[error("--token-file {0}: {1}")]
    File(PathBuf, String),
    #[error("the token cannot stand in a header: it holds line ends, or letters that are not ASCII")]
    Token,
    #[error("--ca {0}: {1}")]
    Authority(PathBuf, String),
    #[error("cannot make an HTTP client: {0}")]
    Client(String),
}

/// The source of a token.
pub enum TokenSource {
    Text(String),
    File(PathBuf),
}

impl Transport {
    /// To a running gateway. `ca` holds certificate authorities, in PEM, that are trusted for it beside
    /// those of the system.
    pub fn http(url: &str, ca: Option<PathBuf>, secret: Option<TokenSource>) -> Result<Self, SetupError> {
        let url: reqwest::Url = url.parse().map_err(|_| SetupError::Url(url.to_owned()))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(SetupError::Credentials);
        }
        let host = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https"));
        let Some(host) = host else { return Err(SetupError::Url(url.to_string())) };
        let local = host == "localhost"
            || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .tcp_keepalive(SILENCE)
            .tcp_keepalive_interval(SILENCE)
            .tcp_keepalive_retries(PROBES);
        if local {
            // A proxy on another host could not reach it.
            builder = builder.no_proxy();
        }
        if let Some(file) = ca {
            let wrong = |why: String| SetupError::Authority(file.clone(), why);
            let pem = std::fs::read(&file).map_err(|error| wrong(error.to_string()))?;
            let roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(cause(&error)))?;
            if roots.is_empty() {
                return Err(wrong("it holds no certificate in PEM".into()));
            }
            builder = builder.tls_certs_merge(roots);
        }
        let client = builder.build().map_err(|error| SetupError::Client(cause(&error)))?;
        let token = BearerToken::of(secret)?;
        if url.scheme() == "http" && !local && token.value.load().is_some() {
            tracing::warn!("the token goes to {host} without TLS: anyone on the network path can read it");
        }
        Ok(Self { connector: Connector::Http { client, url }, token })
    }

    /// To a gateway of this process, at one of its paths.
    pub fn in_process(
        gateway: InProcessGateway,
        path: String,
        secret: Option<TokenSource>,
    ) -> Result<Self, SetupError> {
        Ok(Self { connector: Connector::InProcess { gateway, path }, token: BearerToken::of(secret)? })
    }

    /// Sends one message, or a batch; `detached` is cancelled once it was passed to the connection.
    pub async fn post(
        &self,
        mut headers: HeaderMap,
        body: Bytes,
        detached: Option<CancellationToken>,
    ) -> Result<reqwest::Response, TransportError> {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        self.send(Method::POST, headers, body, detached).await
    }

    /// Opens the stream of a session, after that event if one is given.
    pub async fn get(
        &self,
        mut headers: HeaderMap,
        last: Option<HeaderValue>,
    ) -> Result<reqwest::Response, TransportError> {
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(last) = last {
            headers.insert(LAST_EVENT, last);
        }
        self.send(Method::GET, headers, Bytes::new(), None).await
    }

    /// Ends a session.
    pub async fn delete(&self, headers: HeaderMap) -> Result<reqwest::Response, TransportError> {
        self.send(Method::DELETE, headers, Bytes::new(), None).await
    }

    async fn send(
        &self,
        http_method: Method,
        mut headers: HeaderMap,
        body: Bytes,
        detached: Option<CancellationToken>,
    ) -> Result<reqwest::Response, TransportError> {
        if let Some(token) = self.token.value.load_full() {
            headers.insert(AUTHORIZATION, (*token).clone());
        }
        let response = self.once(&http_method, headers.clone(), body.clone(), detached.clone()).await?;
        // Only the head was processed: the call may be sent again, with the token that the file holds now.
        match self.token.renewed().filter(|_| response.status() == StatusCode::UNAUTHORIZED) {
            Some(token) => {
                headers.insert(AUTHORIZATION, token);
                self.once(&http_method, headers, body, detached).await
            }
            None => Ok(response),
        }
    }

    async fn once(
        &self,
        http_method: &Method,
        headers: HeaderMap,
        body: Bytes,
        detached: Option<CancellationToken>,
    ) -> Result<reqwest::Response, TransportError> {
        let body = reqwest::Body::wrap(RequestBody { body: Some(body), detached });
        match &self.connector {
            Connector::Http { client, url } => {
                let request = client.request(http_method.clone(), url.clone()).headers(headers).body(body);
                request.send().await.map_err(|error| match error.is_connect() {
                    true => TransportError::Unreachable(format!(" ({})", cause(&error))),
                    false => TransportError::Interrupted(format!(" ({})", cause(&error))),
                })
            }
            Connector::InProcess { gateway, path } => {
                let broke = |error: hyper::Error| TransportError::Interrupted(format!(" ({error})"));
                let pipe = TokioIo::new(gateway.connect().await);
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(pipe).await.map_err(broke)?;
                tokio::spawn(connection);
                let mut request = Request::new(body);
                *request.method_mut() = http_method.clone();
                *request.uri_mut() =
                    path.parse().map_err(|_| TransportError::Interrupted(" (no such path)".into()))?;
                *request.headers_mut() = headers;
                request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
                let response = sender.send_request(request).await.map_err(broke)?;
                Ok(reqwest::Response::from(response.map(reqwest::Body::wrap)))
            }
        }
    }
}

impl BearerToken {
    fn of(secret: Option<TokenSource>) -> Result<Self, SetupError> {
        let (text, file) = match secret {
            None => return Ok(Self::default()),
            Some(TokenSource::Text(text)) => (text, None),
            Some(TokenSource::File(file)) => (read(&file)?, Some(file)),
        };
        Ok(Self { value: ArcSwapOption::from_pointee(bearer(&text)?), file })
    }

    /// The token in the file, if it differs from the old one.
    fn renewed(&self) -> Option<HeaderValue> {
        let file = self.file.as_ref()?;
        let now = read(file).and_then(|text| bearer(&text));
        let now = now.inspect_err(|error| tracing::warn!(%error, "the token cannot be read again")).ok()?;
        if self.value.load().as_deref() == Some(&now) {
            return None;
        }
        self.value.store(Some(now.clone().into()));
        Some(now)
    }
}

fn read(file: &PathBuf) -> Result<String, SetupError> {
    use std::io::Read as _;
    let wrong = |why: String| SetupError::File(file.clone(), why);
    let kind = std::fs::metadata(file).map_err(|error| wrong(error.to_string()))?;
    // A pipe would wait, a device never end.
    if !kind.is_file() {
        return Err(wrong("it is not a regular file".into()));
    }
    let mut text = String::new();
    let file = std::fs::File::open(file).map_err(|error| wrong(error.to_string()))?;
    file.take(TOKEN).read_to_string(&mut text).map_err(|error| wrong(error.to_string()))?;
    Ok(text)
}

fn bearer(text: &str) -> Result<HeaderValue, SetupError> {
    let mut value =
        HeaderValue::from_str(&format!("Bearer {}", text.trim())).map_err(|_| SetupError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

/// An error with its causes, without the URL, which is in the command.
pub fn cause(error: &reqwest::Error) -> String {
    let mut message = Vec::new();
    let mut next = error.source();
    while let Some(error) = next {
        message.push(error.to_string());
        next = error.source();
    }
    tls_hint::with_hint(if message.is_empty() { error.to_string() } else { message.join(": ") })
}

/// A body of one chunk that reports when it was taken.
struct RequestBody {
    body: Option<Bytes>,
    detached: Option<CancellationToken>,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(detached) = self.detached.take() {
            detached.cancel();
        }
        Poll::Ready(self.body.take().filter(|body| !body.is_empty()).map(|body| Ok(Frame::data(body))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.body.as_ref().map_or(0, |body| body.len() as u64))
    }
}
