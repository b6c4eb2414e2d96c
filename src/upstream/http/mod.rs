//! One endpoint of a server over Streamable HTTP, as the gateway itself uses it: messages, sessions, streams.
//! The gateway's own requests are in `control.rs`; the choice among several endpoints is in `pool.rs`.
//!
//! Calls of clients do not come this way (Pingora streams them, see `proxy/`), except the few whose bodies
//! Pingora cannot replay; those use [`HttpEndpoint::send`]. Both eras are supported: legacy with a session
//! per [`UpstreamSession`], modern without.

pub mod balance;
pub mod content_coding;
pub mod control;
pub mod endpoint_health;
pub mod era_errors;
pub mod head_limits;
pub mod maintenance;
pub mod notifications;
pub mod peer;
pub mod pool;
mod process_sessions;
pub mod redirect;
pub mod response;
pub mod retry;
pub mod sending;
pub mod server_requests;
pub mod tls;

use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderValue, StatusCode};
use mcp::Era;
use mcp::header_name;
use tokio::sync::{Mutex, Semaphore};

use super::{Peer, ProcessStarts, RpcOutcome, ServerHandshake, UpstreamError, UpstreamLimits, WireId};
use control::is_unknown_method;
use endpoint_health::EndpointHealth;
use era_errors::classify_era_error;
use mcp::jsonrpc::message;
use mcp::version;
use peer::IDENTITY;
use response::ReadOptions;
use sending::{Asks, settings};
use tls::{ClientTarget, UpstreamTls};

/// Timeout of the check whether a server knows an upstream session.
const SESSION_CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// An upstream session of the legacy era.
#[derive(Debug)]
pub struct UpstreamSession {
    /// Unique in this process: messages of this upstream session reach no other, even if another has replaced
    /// it.
    pub id: u64,
    /// The endpoint that knows it.
    pub endpoint: Weak<HttpEndpoint>,
    /// `None` for servers that keep no sessions.
    pub session: Option<HeaderValue>,
    /// The negotiated protocol version.
    pub version: String,
    /// The newest `Authorization` of its caller, if the server is called in its caller's name.
    bearer: ArcSwapOption<HeaderValue>,
    /// A message that may name no request was sent in it.
    pub(super) has_sent: AtomicBool,
    /// The connections that only it uses, from the second of these messages on.
    pub(super) connections: OnceLock<reqwest::Client>,
}

impl UpstreamSession {
    /// Stores the current `Authorization` of its caller: the one that it was opened with expires.
    pub fn renew(&self, bearer: Option<&HeaderValue>) {
        if let Some(bearer) = bearer
            && self.bearer.load().as_deref() != Some(bearer)
        {
            self.bearer.store(Some(Arc::new(bearer.clone())));
        }
    }

    /// The newest `Authorization` of its caller.
    pub fn bearer(&self) -> Option<HeaderValue> {
        self.bearer.load().as_deref().cloned()
    }

    /// One that nobody has opened, with a session of the server's.
    #[cfg(test)]
    pub fn for_test(endpoint: &Arc<HttpEndpoint>, version: &str) -> Self {
        Self {
            id: 4711,
            endpoint: Arc::downgrade(endpoint),
            session: Some(HeaderValue::from_static("known")),
            version: version.to_owned(),
            bearer: ArcSwapOption::empty(),
            has_sent: AtomicBool::new(false),
            connections: OnceLock::new(),
        }
    }

    /// Whether its server may send batches.
    pub fn has_batches(&self) -> bool {
        version::has_batches(&self.version)
    }
}

/// An id for a request of the gateway itself, in the form of those for clients.
pub(super) fn own_id() -> String {
    WireId::next().as_str().to_owned()
}

/// Its `impl` is also in `control` (the gateway's own requests), `sending`, `response` (reading), `notifications`
/// and `server_requests`.
pub struct HttpEndpoint {
    pub(super) me: Weak<HttpEndpoint>,
    name: String,
    /// As it was configured.
    pub(super) at: reqwest::Url,
    /// The URL for the gateway's own client: with the name of the TLS handshake in it.
    pub(super) url: reqwest::Url,
    /// Its name in logs and metrics: authority and path.
    pub label: String,
    /// Its position on the ring of consistent hashing.
    pub place: u64,
    pub peer: Arc<Peer>,
    pub health: EndpointHealth,
    /// The value of `Host`, if it is not the host of the URL.
    host: Option<HeaderValue>,
    pub(super) client: reqwest::Client,
    /// A client whose connections serve one request each.
    pub(super) alone: OnceLock<reqwest::Client>,
    pub(super) upstream_tls: Arc<UpstreamTls>,
    /// The limits of its server, which a reload may change.
    limits: ArcSwap<UpstreamLimits>,
    /// The gateway's own legacy session.
    pub(super) control_session: Mutex<Option<Arc<UpstreamSession>>>,
    /// The pools that contain it: two during a reload.
    pub(super) pools: AtomicUsize,
    /// The legacy lists came as event streams at the last request.
    pub(super) lists_as_events: AtomicBool,
    /// Redirections that were followed and logged.
    pub redirects: Arc<redirect::Redirects>,
    /// Limits the replies to requests of the server.
    pub(super) replies: Semaphore,
    /// Set if each session is a process.
    starts: OnceLock<Arc<ProcessStarts>>,
}

impl std::fmt::Debug for HttpEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http").field("label", &self.label).finish_non_exhaustive()
    }
}

impl HttpEndpoint {
    /// `headers` go with each request; they may be secrets.
    pub fn new(
        name: &str,
        url: &str,
        headers: HeaderMap,
        limits: &UpstreamLimits,
        tls: Arc<UpstreamTls>,
    ) -> Result<Arc<Self>, String> {
        let url: reqwest::Url = url.parse().map_err(|e| format!("{e}"))?;
        let peer = Arc::new(Peer::new(&url, headers, limits, tls.clone())?);
        let redirects = Arc::new(redirect::Redirects::new(name));
        let ClientTarget { url: to, host, client } = tls.client(&url, settings(&peer, &redirects, limits))?;
        let authority = peer.authority.to_str().unwrap_or_default();
        let label = format!("{authority}{}", url.path());
        // The same in every process: two gateways send a session to the same endpoint.
        let mut place = Fnv::default();
        url.as_str().hash(&mut place);
        Ok(Arc::new_cyclic(|me| Self {
            me: me.clone(),
            name: name.to_owned(),
            label,
            place: place.finish(),
            at: url,
            url: to,
            host,
            peer,
            health: EndpointHealth::default(),
            client,
            alone: OnceLock::new(),
            upstream_tls: tls,
            limits: ArcSwap::from_pointee(limits.clone()),
            control_session: Mutex::new(None),
            pools: AtomicUsize::new(0),
            lists_as_events: AtomicBool::new(false),
            redirects,
            replies: Semaphore::new(server_requests::MAX_REPLIES),
            starts: OnceLock::new(),
        }))
    }

    /// Whether it was configured with this URL.
    pub fn is_at(&self, url: &str) -> bool {
        url.parse().is_ok_and(|url: reqwest::Url| url == self.at)
    }

    pub(super) fn limits(&self) -> Guard<Arc<UpstreamLimits>> {
        self.limits.load()
    }

    /// Applies other limits from now on; the timeout of a connection stays the same.
    pub(super) fn update_limits(&self, limits: &UpstreamLimits) {
        self.limits.store(Arc::new(limits.clone()));
    }

    /// Timeout of the gateway's own requests.
    pub(super) fn call_timeout(&self) -> Duration {
        self.limits().timeout
    }

    /// A pool that contained it has ended; returns whether it was the last.
    pub(super) fn release(&self) -> bool {
        self.pools.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// See [`HttpEndpoint::open`].
    async fn open_as(
        &self,
        id: &str,
        params: &[u8],
        bearer: Option<HeaderValue>,
        timeout: Duration,
    ) -> Result<(UpstreamSession, ServerHandshake), UpstreamError> {
        let body = message::request(id, Era::Legacy.codec().handshake_method(), params);
        let extra = bearer.iter().map(|value| (AUTHORIZATION, value.clone())).collect();
        // The response goes to a caller, and may name no request.
        let response = self.post(Era::Legacy, None, extra, body, timeout, Asks::Alone).await?.0;
        let response = self.welcome(response, false, true).await?;
        let session = response.headers().get(header_name::SESSION).cloned();
        let status = response.status();
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let mut upstream_session = UpstreamSession {
            id: NUMBER.fetch_add(1, Ordering::Relaxed),
            endpoint: self.me.clone(),
            session,
            version: Era::Legacy.codec().newest_version().to_owned(),
            bearer: ArcSwapOption::new(bearer.map(Arc::new)),
            has_sent: AtomicBool::new(false),
            connections: OnceLock::new(),
        };
        let wanted =
            ReadOptions { upstream_session: Some(&upstream_session), ..ReadOptions::new(id, timeout) };
        let outcome = self.read_response(response, wanted).await;
        let result = classify_era_error(Era::Legacy, status, outcome)?;
        let wrong = |why: String| UpstreamError::WrongEra(Era::Legacy, why);
        let codec = Era::Legacy.codec();
        let version =
            codec.handshake_version(&result).ok_or_else(|| wrong("`initialize` names no revision".into()))?;
        if !codec.versions().contains(&version.as_str()) {
            return Err(wrong(format!("it offers revision {version:?}")));
        }
        upstream_session.version.clone_from(&version);
        let handshake = ServerHandshake::read(&result, version).map_err(|error| wrong(error.to_string()))?;
        if let Some(method) = codec.handshake_notification() {
            self.notify(&upstream_session, method, Bytes::new()).await?;
        }
        Ok((upstream_session, handshake))
    }

    /// Closes a session; a server that does not allow it (405) or has forgotten it has nothing to close.
    pub async fn close_session(&self, upstream_session: &UpstreamSession) {
        if upstream_session.session.is_none() {
            return;
        }
        let request =
            self.client.delete(self.url.clone()).headers(self.head(Era::Legacy, Some(upstream_session)));
        if let Err(error) = request.timeout(Duration::from_secs(5)).send().await {
            tracing::debug!(server = %self.name, %error, "the upstream session could not be ended");
        }
    }

    pub async fn notify(
        &self,
        upstream_session: &UpstreamSession,
        method: &str,
        params: Bytes,
    ) -> Result<(), UpstreamError> {
        self.forward(Era::Legacy, Some(upstream_session), message::notification(method, &params)).await
    }

    /// Sends a message without a response.
    pub async fn forward(
        &self,
        server_era: Era,
        upstream_session: Option<&UpstreamSession>,
        body: Bytes,
    ) -> Result<(), UpstreamError> {
        let (response, _) = self
            .post(server_era, upstream_session, HeaderMap::new(), body, self.call_timeout(), Asks::Caller)
            .await?;
        if is_session_expired(server_era, response.status(), upstream_session) {
            return Err(UpstreamError::SessionExpired);
        }
        passed(&response)
    }

    /// Sends one request in a session.
    pub async fn request_in(
        &self,
        upstream_session: &UpstreamSession,
        method: &str,
        params: Bytes,
    ) -> Result<RpcOutcome, UpstreamError> {
        let id = own_id();
        let body = message::request(&id, method, &params);
        let response = self
            .send(Era::Legacy, Some(upstream_session), HeaderMap::new(), body, self.call_timeout())
            .await?;
        if is_session_expired(Era::Legacy, response.status(), Some(upstream_session)) {
            return Err(UpstreamError::SessionExpired);
        }
        let wanted = ReadOptions {
            upstream_session: Some(upstream_session),
            ..ReadOptions::new(&id, self.call_timeout())
        };
        let wanted = ReadOptions { batches: upstream_session.has_batches(), ..wanted };
        self.read_response(response, wanted).await
    }

    /// Whether the server knows an upstream session: sends a request that every server answers in a session
    /// that it knows. `None` if the response is inconclusive. Used after an ambiguous status: the
    /// specification demands 404 for a session that is gone, but many servers send 400 with messages of their
    /// own.
    pub async fn knows_session(&self, upstream_session: &UpstreamSession) -> Option<bool> {
        let id = own_id();
        let body = message::request(&id, Era::Legacy.codec().health_check(), b"{}");
        let asked = async {
            let response = self
                .post(
                    Era::Legacy,
                    Some(upstream_session),
                    HeaderMap::new(),
                    body,
                    SESSION_CHECK_TIMEOUT,
                    Asks::Gateway,
                )
                .await
                .ok()?
                .0;
            match response.status().as_u16() {
                404 => Some(false),
                400 => {
                    let outcome =
                        self.read_response(response, ReadOptions::new(&id, SESSION_CHECK_TIMEOUT)).await;
                    Some(matches!(outcome, Ok(RpcOutcome::Error(error)) if is_unknown_method(&error)))
                }
                200..=299 => Some(true),
                _ => None,
            }
        };
        tokio::time::timeout(SESSION_CHECK_TIMEOUT, asked).await.unwrap_or(None)
    }

    pub(super) fn head(&self, server_era: Era, upstream_session: Option<&UpstreamSession>) -> HeaderMap {
        let mut headers = self.peer.headers.clone();
        headers.entry(ACCEPT_ENCODING).or_insert(IDENTITY);
        if let Some(host) = &self.host {
            headers.insert(HOST, host.clone());
        }
        if let Some(bearer) = upstream_session.and_then(UpstreamSession::bearer) {
            headers.insert(AUTHORIZATION, bearer);
        }
        let session = upstream_session.map(|session| (&*session.version, session.session.as_ref()));
        server_era.codec().add_headers(&mut headers, session);
        headers
    }
}

/// Whether the server has forgotten the session in which it was asked.
pub(super) fn is_session_expired(
    server_era: Era,
    status: StatusCode,
    upstream_session: Option<&UpstreamSession>,
) -> bool {
    let has_id = upstream_session.is_some_and(|upstream_session| upstream_session.session.is_some());
    server_era.codec().is_session_expired(status.as_u16(), has_id)
}

/// Whether a server accepted a message without a response.
pub fn passed(response: &reqwest::Response) -> Result<(), UpstreamError> {
    match response.status() {
        status if status.is_success() => Ok(()),
        status => {
            Err(UpstreamError::InvalidResponse(format!("HTTP {status} for a message without an answer")))
        }
    }
}

/// The headers that repeat parts of a request, a whole message.
pub fn param_headers_of(server_era: Era, body: &Bytes) -> HeaderMap {
    let codec = server_era.codec();
    let Some(read) = message::read(body).filter(|_| codec.has_mirrored_headers()) else {
        return HeaderMap::new();
    };
    let method = read.method.map(|method| method.read(body).into_owned()).unwrap_or_default();
    codec.mirrored_headers(&method, read.params.map(|span| span.of(body)).unwrap_or_default())
}

/// A hash that is the same in every process and version (FNV-1a, 64 bits, with the ends mixed).
#[derive(Clone, Copy)]
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl std::hash::Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        mix(self.0)
    }
}

/// Spreads every bit over all others.
pub fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}
