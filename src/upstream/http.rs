//! A server over Streamable HTTP, as the gateway itself talks to it: greeting, lists, sessions, streams.
//!
//! Calls of clients do not come this way (Pingora streams them, see `proxy/`), save the few whose bodies
//! Pingora cannot replay; those use [`Http::send`]. Both eras are spoken: legacy with a session per [`Seat`],
//! modern without.

use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use filters::agree::encode;
use filters::call::header;
use filters::{Era, Span};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::sync::{Mutex, mpsc};

use super::{
    Ask, Bounds, Hello, LISTS_CHANGED, Peer, Progress, Said, Upstream, UpstreamError, cause,
    house_initialize, house_params,
};
use crate::protocol::sse::{self, Splitter};
use crate::protocol::{revision, wire};

/// An upstream session of the legacy era.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// `None` for servers that keep no sessions.
    pub session: Option<HeaderValue>,
    /// The revision that was agreed on.
    pub version: String,
    /// The `Authorization` that it was opened with, where a server is called in its caller's name.
    pub bearer: Option<HeaderValue>,
}

pub struct Http {
    name: String,
    url: reqwest::Url,
    peer: Peer,
    client: reqwest::Client,
    max_response: usize,
    call_timeout: Duration,
    stream_idle: Duration,
    /// The gateway's own legacy session.
    house: Mutex<Option<Seat>>,
}

impl Http {
    /// `headers` go with each request; they may be secrets.
    pub fn new(name: &str, url: &str, headers: HeaderMap, bounds: &Bounds) -> Result<Self, String> {
        let url: reqwest::Url = url.parse().map_err(|e| format!("{e}"))?;
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(bounds.connect_timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .build()
            .map_err(|e| e.to_string())?;
        let peer = Peer::new(&url, headers, bounds.connect_timeout)?;
        Ok(Self {
            name: name.to_owned(),
            url,
            peer,
            client,
            max_response: bounds.max_response,
            call_timeout: bounds.timeout,
            stream_idle: bounds.stream_idle,
            house: Mutex::new(None),
        })
    }

    /// Opens a session for a client: its own `initialize` params go to the server, with the revision that the
    /// gateway agreed on with it.
    pub async fn open(
        &self,
        params: &[u8],
        bearer: Option<HeaderValue>,
    ) -> Result<(Seat, Hello), UpstreamError> {
        let body = wire::request("1", "initialize", params);
        let extra = bearer.iter().map(|value| (AUTHORIZATION, value.clone())).collect();
        let response = self.send(Era::Legacy, None, extra, body, self.call_timeout).await?;
        let session = response.headers().get(header::SESSION).cloned();
        let result = match self.answer(response, b"1", None, self.call_timeout).await? {
            Said::Result(result) => result,
            Said::Error(error) => {
                return Err(UpstreamError::WrongEra(Era::Legacy, shorten(&error)));
            }
        };
        let version =
            wire::member(&result, "protocolVersion").and_then(|span| wire::string(span.of(&result)));
        let version =
            version.ok_or_else(|| UpstreamError::Nonsense("`initialize` names no revision".into()))?;
        if !revision::LEGACY.contains(&version.as_str()) {
            return Err(UpstreamError::WrongEra(Era::Legacy, format!("it offers revision {version:?}")));
        }
        let seat = Seat { session, version: version.clone(), bearer };
        let hello = Hello::read(&result, version)?;
        self.notify(&seat, "notifications/initialized", Bytes::new()).await?;
        Ok((seat, hello))
    }

    /// Ends a session; a server that does not allow it (405) or has forgotten it has nothing to end.
    pub async fn leave(&self, seat: &Seat) {
        if seat.session.is_none() {
            return;
        }
        let request = self.client.delete(self.url.clone()).headers(self.head(Era::Legacy, Some(seat)));
        if let Err(error) = request.timeout(Duration::from_secs(5)).send().await {
            tracing::debug!(server = %self.name, %error, "the upstream session could not be ended");
        }
    }

    pub async fn notify(&self, seat: &Seat, method: &str, params: Bytes) -> Result<(), UpstreamError> {
        let body = wire::notification(method, &params);
        let response = self.send(Era::Legacy, Some(seat), HeaderMap::new(), body, self.call_timeout).await?;
        match response.status() {
            StatusCode::NOT_FOUND if seat.session.is_some() => Err(UpstreamError::Forgotten),
            status if status.is_success() => Ok(()),
            status => Err(UpstreamError::Nonsense(format!("HTTP {status} for {method}"))),
        }
    }

    /// One request in a session.
    pub async fn request_in(&self, seat: &Seat, method: &str, params: Bytes) -> Result<Said, UpstreamError> {
        let body = wire::request("1", method, &params);
        self.exchange(Era::Legacy, Some(seat), HeaderMap::new(), body, b"1").await
    }

    /// One request, as a whole message with the id `id`, and its whole answer; `extra` are headers of its own.
    pub async fn exchange(
        &self,
        era: Era,
        seat: Option<&Seat>,
        mut extra: HeaderMap,
        body: Bytes,
        id: &[u8],
    ) -> Result<Said, UpstreamError> {
        if let (Era::Modern, Some(read)) = (era, wire::read(&body)) {
            let method = read.method.map(|method| method.read(&body).into_owned()).unwrap_or_default();
            extra.extend(mirror(&method, read.params.map(|span| span.of(&body)).unwrap_or_default()));
        }
        let response = self.send(era, seat, extra, body, self.call_timeout).await?;
        if response.status() == StatusCode::NOT_FOUND && seat.is_some_and(|seat| seat.session.is_some()) {
            return Err(UpstreamError::Forgotten);
        }
        self.answer(response, id, None, self.call_timeout).await
    }

    /// Sends one message and gives the answer as it begins. `extra` replaces headers of the same names.
    pub async fn send(
        &self,
        era: Era,
        seat: Option<&Seat>,
        extra: HeaderMap,
        body: Bytes,
        timeout: Duration,
    ) -> Result<reqwest::Response, UpstreamError> {
        let mut headers = self.head(era, seat);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.extend(extra);
        let sent = self.client.post(self.url.clone()).headers(headers).body(body).send();
        match tokio::time::timeout(timeout, sent).await {
            Err(_) => Err(UpstreamError::TimedOut(timeout)),
            Ok(Err(error)) => Err(unreachable(&error)),
            Ok(Ok(response)) => match response.status() {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    Err(UpstreamError::Credentials(response.status().as_u16()))
                }
                _ => Ok(response),
            },
        }
    }

    /// The stream of what a server says unasked: legacy GET, or modern `subscriptions/listen`. `Ok(())` when the
    /// stream ended in good order, or the server has none.
    pub async fn listen(
        &self,
        era: Era,
        seat: Option<&Seat>,
        listen: Bytes,
        out: mpsc::Sender<Bytes>,
    ) -> Result<(), UpstreamError> {
        let response = match era {
            Era::Legacy => {
                let request = self.client.get(self.url.clone()).headers(self.head(era, seat));
                request.header(ACCEPT, "text/event-stream").send().await.map_err(|e| unreachable(&e))?
            }
            Era::Modern => {
                let mut extra = HeaderMap::new();
                extra.insert(header::METHOD, HeaderValue::from_static("subscriptions/listen"));
                let body = wire::request("1", "subscriptions/listen", &listen);
                self.send(era, None, extra, body, self.call_timeout).await?
            }
        };
        match response.status() {
            StatusCode::NOT_FOUND if era == Era::Legacy && seat.is_some_and(|s| s.session.is_some()) => {
                return Err(UpstreamError::Forgotten);
            }
            status if !status.is_success() || !is_sse(&response) => return Ok(()),
            _ => {}
        }
        let mut splitter = Splitter::new(self.max_response);
        let mut response = response;
        loop {
            // A silent stream may be one whose other end is gone; the caller opens another.
            let Ok(piece) = tokio::time::timeout(self.stream_idle, response.chunk()).await else {
                return Ok(());
            };
            let Some(piece) = piece.map_err(|e| unreachable(&e))? else { return Ok(()) };
            splitter.push(&piece);
            while let Some(event) =
                splitter.event().map_err(|_| UpstreamError::TooLarge(self.max_response))?
            {
                if let Some(data) = sse::read(&event).data
                    && !data.is_empty()
                    && out.send(Bytes::copy_from_slice(&data)).await.is_err()
                {
                    return Ok(());
                }
            }
        }
    }

    fn head(&self, era: Era, seat: Option<&Seat>) -> HeaderMap {
        let mut headers = self.peer.headers.clone();
        if let Some(bearer) = seat.and_then(|seat| seat.bearer.as_ref()) {
            headers.insert(AUTHORIZATION, bearer.clone());
        }
        match (era, seat) {
            (Era::Modern, _) => {
                headers.insert(header::PROTOCOL_VERSION, HeaderValue::from_static(revision::NEWEST_MODERN));
            }
            (Era::Legacy, Some(seat)) => {
                if let Ok(version) = HeaderValue::from_str(&seat.version) {
                    headers.insert(header::PROTOCOL_VERSION, version);
                }
                if let Some(session) = &seat.session {
                    headers.insert(header::SESSION, session.clone());
                }
            }
            (Era::Legacy, None) => {}
        }
        headers
    }

    /// Reads the answer to the request `id`, from JSON or from a stream.
    async fn answer(
        &self,
        mut response: reqwest::Response,
        id: &[u8],
        progress: Option<&Progress>,
        timeout: Duration,
    ) -> Result<Said, UpstreamError> {
        let read = async {
            if is_sse(&response) {
                let mut splitter = Splitter::new(self.max_response);
                while let Some(piece) = response.chunk().await.map_err(|e| unreachable(&e))? {
                    splitter.push(&piece);
                    while let Some(event) =
                        splitter.event().map_err(|_| UpstreamError::TooLarge(self.max_response))?
                    {
                        let Some(data) = sse::read(&event).data.filter(|data| !data.is_empty()) else {
                            continue;
                        };
                        let data = Bytes::copy_from_slice(&data);
                        match said(&data, id)? {
                            Some(said) => return Ok(said),
                            None => {
                                if let Some(progress) = progress {
                                    let _ = progress.notes.send(data).await;
                                }
                            }
                        }
                    }
                }
                return Err(UpstreamError::Nonsense("the stream ended without an answer".into()));
            }
            let status = response.status();
            let mut body = BytesMut::new();
            while let Some(piece) = response.chunk().await.map_err(|e| unreachable(&e))? {
                if body.len() + piece.len() > self.max_response {
                    return Err(UpstreamError::TooLarge(self.max_response));
                }
                body.extend_from_slice(&piece);
            }
            let body = body.freeze();
            match said(&body, id) {
                Ok(Some(said)) => Ok(said),
                _ if !status.is_success() => Err(UpstreamError::Nonsense(format!("HTTP {status}"))),
                Ok(None) => Err(UpstreamError::Nonsense("a message that answers nothing".into())),
                Err(error) => Err(error),
            }
        };
        tokio::time::timeout(timeout, read).await.unwrap_or(Err(UpstreamError::TimedOut(timeout)))
    }

    async fn seat(&self) -> Result<Seat, UpstreamError> {
        let mut house = self.house.lock().await;
        if let Some(seat) = &*house {
            return Ok(seat.clone());
        }
        let (seat, _) = self.open(&house_initialize(), None).await?;
        *house = Some(seat.clone());
        Ok(seat)
    }

    async fn ask_once(&self, ask: &Ask<'_>) -> Result<Said, UpstreamError> {
        let (seat, extra) = match ask.era {
            Era::Legacy => (Some(self.seat().await?), HeaderMap::new()),
            Era::Modern => (None, mirror(ask.method, &ask.params)),
        };
        let body = wire::request("1", ask.method, &ask.params);
        let response = self.send(ask.era, seat.as_ref(), extra, body, ask.timeout).await?;
        if response.status() == StatusCode::NOT_FOUND && seat.is_some_and(|s| s.session.is_some()) {
            return Err(UpstreamError::Forgotten);
        }
        self.answer(response, b"1", ask.progress.as_ref(), ask.timeout).await
    }
}

#[async_trait]
impl Upstream for Http {
    async fn greet(&self, era: Era) -> Result<Hello, UpstreamError> {
        self.peer.resolve().await?;
        match era {
            Era::Modern => {
                let params = house_params(era, "");
                let ask = Ask {
                    era,
                    method: "server/discover",
                    params,
                    progress: None,
                    timeout: self.call_timeout,
                };
                match self.ask_once(&ask).await {
                    Ok(Said::Result(result)) => Hello::read(&result, revision::NEWEST_MODERN.to_owned()),
                    Ok(Said::Error(error)) => Err(UpstreamError::WrongEra(era, shorten(&error))),
                    // A legacy server may answer its 400 in any words (versioning.mdx: fall back on all of them).
                    Err(UpstreamError::Nonsense(why)) => Err(UpstreamError::WrongEra(era, why)),
                    Err(error) => Err(error),
                }
            }
            Era::Legacy => {
                let mut house = self.house.lock().await;
                if let Some(seat) = house.take() {
                    self.leave(&seat).await;
                }
                match self.open(&house_initialize(), None).await {
                    Ok((seat, hello)) => {
                        *house = Some(seat);
                        Ok(hello)
                    }
                    Err(UpstreamError::Nonsense(why)) => Err(UpstreamError::WrongEra(era, why)),
                    Err(error) => Err(error),
                }
            }
        }
    }

    async fn ask(&self, ask: Ask<'_>) -> Result<Said, UpstreamError> {
        match self.ask_once(&ask).await {
            // The server forgot the session, so it did not look at the request: once more in a new one.
            Err(UpstreamError::Forgotten) => {
                *self.house.lock().await = None;
                self.ask_once(&ask).await
            }
            other => other,
        }
    }

    async fn watch(&self, era: Era, changed: &mpsc::Sender<()>) -> Result<(), UpstreamError> {
        let listen = house_params(era, LISTS_CHANGED);
        loop {
            let seat = match era {
                Era::Legacy => self.house.lock().await.clone(),
                Era::Modern => None,
            };
            let (out, mut said) = mpsc::channel::<Bytes>(64);
            let forward = async {
                while let Some(message) = said.recv().await {
                    if wire::is_list_changed(&message) && changed.send(()).await.is_err() {
                        return;
                    }
                }
            };
            let since = tokio::time::Instant::now();
            let (ended, ()) = tokio::join!(self.listen(era, seat.as_ref(), listen.clone(), out), forward);
            ended?;
            // A stream that was there and ended may have hidden a change, and may be cut by every proxy.
            if since.elapsed() < Duration::from_secs(1) {
                return Ok(());
            }
            let _ = changed.send(()).await;
        }
    }

    fn follows(&self) -> bool {
        true
    }

    async fn follow(&self, listen: Bytes, out: mpsc::Sender<Bytes>) -> Result<(), UpstreamError> {
        self.listen(Era::Modern, None, listen, out).await
    }

    fn peer(&self) -> Option<&Peer> {
        Some(&self.peer)
    }

    fn http(&self) -> Option<&Http> {
        Some(self)
    }

    async fn close(&self) {
        if let Some(seat) = self.house.lock().await.take() {
            self.leave(&seat).await;
        }
    }
}

/// The headers that mirror a modern request (2026-07-28, streamable-http, "Standard Headers").
fn mirror(method: &str, params: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(method) = HeaderValue::from_str(method) {
        headers.insert(header::METHOD, method);
    }
    let named = match method {
        "tools/call" | "prompts/get" => wire::member(params, "name"),
        "resources/read" => wire::member(params, "uri"),
        _ => None,
    };
    if let Some(name) = named.and_then(|span| wire::string(span.of(params)))
        && let Ok(name) = HeaderValue::from_str(&encode(&name))
    {
        headers.insert(header::NAME, name);
    }
    headers
}

/// The answer to `id` in this message; `None` for a message that is something else.
fn said(message: &Bytes, id: &[u8]) -> Result<Option<Said>, UpstreamError> {
    let read = wire::read(message).ok_or_else(|| UpstreamError::Nonsense(shorten(message)))?;
    if !read.is_answer() {
        return Ok(None);
    }
    let part = |span: Span| message.slice(span.start..span.end);
    match (read.id, read.result, read.error) {
        // An error without an id answers the only request there is.
        (None, _, Some(error)) => Ok(Some(Said::Error(part(error)))),
        (Some(got), _, _) if !wire::same_id(got.of(message), id) => {
            Err(UpstreamError::Nonsense("an answer to another request".into()))
        }
        (Some(_), Some(result), None) => Ok(Some(Said::Result(part(result)))),
        (Some(_), _, Some(error)) => Ok(Some(Said::Error(part(error)))),
        _ => Err(UpstreamError::Nonsense("an answer without an id".into())),
    }
}

fn is_sse(response: &reqwest::Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream")
}

fn unreachable(error: &reqwest::Error) -> UpstreamError {
    UpstreamError::Unreachable(cause(error))
}

fn shorten(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
