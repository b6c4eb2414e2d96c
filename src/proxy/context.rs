//! The state of a request while it is served.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use filters::Caller;
use filters::rate_limit::Slots;
use mcp::Rejection;

use super::request_head;
use super::response_validator::ResponseValidator;
use crate::dispatch::{RequestLabels, UpstreamRequest};
use crate::process::state::{BufferedBytes, RequestGuard};
use crate::registry::Snapshot;
use crate::telemetry::Outcome;
use crate::upstream::http::UpstreamSession;
use crate::upstream::http::pool::EndpointGuard;
use crate::upstream::http::retry::Attempts;

/// One request, from its first byte to its last.
pub struct RequestContext {
    pub snapshot: Arc<Snapshot>,
    pub started: Instant,
    pub request_id: u64,
    pub caller: Option<Caller>,
    /// The caller was known before the request came; the request brings no credentials.
    pub client_cert: bool,
    /// The address of the client.
    pub client: Option<IpAddr>,
    pub labels: RequestLabels,
    /// Bytes of the request's body.
    pub received: usize,
    /// Those bytes that count against `limits.max_buffered`, until the request ends.
    pub buffered: Option<BufferedBytes>,
    /// Slots of concurrency limits.
    pub slots: Option<Arc<Slots>>,
    pub rejection: Option<(&'static str, Box<Rejection>)>,
    /// The id of the request, for a rejection on the way to the server.
    pub id: Option<Bytes>,
    /// Set once the call is on its way to a server.
    pub request: Option<UpstreamRequest>,
    pub upstream_session: Option<Arc<UpstreamSession>>,
    /// The endpoint of the call, and the socket that leads there.
    pub endpoint: Option<EndpointGuard>,
    pub socket: Option<RawFd>,
    /// This connection was used before.
    pub reused: bool,
    /// This connection is used for the calls of one session only.
    pub first_party: bool,
    /// The call takes a new connection, which is not reused.
    pub fresh: bool,
    pub attempts: Attempts,
    /// The value of `Authorization` for the server, if it is not the gateway's own.
    pub bearer: Option<http::HeaderValue>,
    /// The redirect target and the index of the endpoint that redirected the request.
    pub redirect: Option<(usize, http::Uri)>,
    pub redirects: usize,
    /// The upstream session was opened again after the server had forgotten the first.
    pub session_renewed: bool,
    pub validator: Option<ResponseValidator>,
    /// The end of a response, which goes out in the place of its trailers.
    pub buffered_response: Option<Bytes>,
    pub sent_at: Option<Instant>,
    /// How long the gateway waited for the server, as far as known.
    pub waited: Duration,
    /// Since when the gateway waits for the server and nothing else.
    pub waiting: Option<Instant>,
    pub outcome: Option<Outcome>,
    /// The client has received the error, and all of the announced length.
    pub response_started: bool,
    pub origin: Option<http::HeaderValue>,
    _present: RequestGuard,
}

impl RequestContext {
    pub fn new(snapshot: Arc<Snapshot>, present: RequestGuard) -> Self {
        Self {
            snapshot,
            started: Instant::now(),
            request_id: request_head::request_id(),
            caller: None,
            client_cert: false,
            client: None,
            labels: RequestLabels::default(),
            received: 0,
            buffered: None,
            slots: None,
            rejection: None,
            id: None,
            request: None,
            upstream_session: None,
            endpoint: None,
            socket: None,
            reused: false,
            first_party: false,
            fresh: false,
            attempts: Attempts::default(),
            bearer: None,
            redirect: None,
            redirects: 0,
            session_renewed: false,
            validator: None,
            buffered_response: None,
            sent_at: None,
            waited: Duration::ZERO,
            waiting: None,
            outcome: None,
            response_started: false,
            origin: None,
            _present: present,
        }
    }

    /// Sets the rejection for the client; `filter` names its source.
    pub fn refuse(&mut self, filter: &'static str, rejection: Box<Rejection>) {
        self.outcome = Some(if rejection.status >= 502 { Outcome::Failed } else { Outcome::Refused });
        self.rejection = Some((filter, rejection));
    }
}
