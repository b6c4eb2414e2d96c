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
use crate::dispatch::RequestLabels;
use crate::exchange::UpstreamRequest;
use crate::process::state::{BufferedBytes, RequestGuard};
use crate::registry::Snapshot;
use crate::telemetry::Outcome;
use crate::upstream::http::UpstreamSession;
use crate::upstream::http::pool::EndpointGuard;
use crate::upstream::http::retry::Attempts;

/// One request, from its first byte to its last. Its fields are set in the order in which they stand here, by the phases
/// that are named between them. What belongs to one try at a server is in [`Attempt`].
pub struct RequestContext {
    // The connection: set before the head is judged.
    pub snapshot: Arc<Snapshot>,
    pub started: Instant,
    pub request_id: u64,
    /// The caller was known before the request came; the request brings no credentials.
    pub client_cert: bool,
    /// The address of the client.
    pub client: Option<IpAddr>,
    pub origin: Option<http::HeaderValue>,

    // The head: `request` sets it when the chain has let it through.
    pub caller: Option<Caller>,

    /// The response is the stream of a client over HTTP+SSE: its session ends with it.
    pub is_sse_client: bool,

    // The body: `request` sets these for a POST.
    /// Bytes of the request's body.
    pub received: usize,
    /// Those bytes that count against `limits.max_buffered`, until the request ends.
    pub buffered: Option<BufferedBytes>,
    pub labels: RequestLabels,
    /// The call goes on after the response, and is counted at its own end.
    pub counted_later: bool,
    /// The id of the request, for a rejection on the way to the server.
    pub id: Option<Bytes>,
    /// Slots of concurrency limits.
    pub slots: Option<Arc<Slots>>,

    // The call: set once it is on its way to an HTTP server, and never for another request.
    pub request: Option<UpstreamRequest>,
    /// How often it was tried and what remains for further attempts.
    pub attempts: Attempts,
    /// The redirect target and the index of the endpoint that redirected the request: attempts there go to it.
    pub redirect: Option<(usize, http::Uri)>,
    pub redirects: usize,
    /// The upstream session was opened again after the server had forgotten the first.
    pub session_renewed: bool,
    /// This and all later attempts take new connections, which are not reused.
    pub fresh: bool,
    /// When it was last sent, in whichever attempt: since then a server may work on it.
    pub sent_at: Option<Instant>,
    /// The present attempt. It is empty before the first one.
    pub attempt: Attempt,

    // The end: the error for the client, or what came of the response.
    /// Set by the filter that refuses the request, or once its server has failed. The first one counts.
    pub rejection: Option<(&'static str, Box<Rejection>)>,
    pub outcome: Option<Outcome>,
    /// The client has received the error, and all of the announced length.
    pub response_started: bool,
    _present: RequestGuard,
}

/// One try of a call at one endpoint. `retry` replaces it as a whole when the next one begins, so that nothing of an
/// earlier one is left. What the next one needs is in [`RequestContext`]; only the upstream session is handed over, as
/// long as its endpoint is not given up.
#[derive(Default)]
pub struct Attempt {
    // Set when it begins.
    /// The endpoint, which counts the attempt. Empty again once no connection could be made.
    pub endpoint: Option<EndpointGuard>,
    /// Set in the legacy era, until the server has forgotten it.
    pub upstream_session: Option<Arc<UpstreamSession>>,
    /// The value of `Authorization` for the server, if it is not the gateway's own.
    pub bearer: Option<http::HeaderValue>,
    /// Its connection is used for the calls of one session only.
    pub first_party: bool,

    // Set when it has a connection.
    /// The socket that leads to the endpoint; `None` for HTTP/2, where it belongs to other streams too.
    pub socket: Option<RawFd>,
    /// This connection was used before.
    pub reused: bool,

    // Set when the head of the response has arrived, if the attempt is not given up for it.
    pub validator: Option<ResponseValidator>,
    /// How long the gateway waited for the server, as far as known.
    pub waited: Duration,
    /// Since when the gateway waits for the server and nothing else.
    pub waiting: Option<Instant>,
    /// The end of a response, which goes out in the place of its trailers.
    pub buffered_response: Option<Bytes>,
}

impl Attempt {
    /// It begins at this endpoint, with no connection yet.
    pub fn begin(endpoint: EndpointGuard, upstream_session: Option<Arc<UpstreamSession>>) -> Self {
        Self { endpoint: Some(endpoint), upstream_session, ..Self::default() }
    }
}

impl RequestContext {
    pub fn new(snapshot: Arc<Snapshot>, present: RequestGuard) -> Self {
        Self {
            snapshot,
            started: Instant::now(),
            request_id: request_head::request_id(),
            client_cert: false,
            client: None,
            origin: None,
            caller: None,
            is_sse_client: false,
            received: 0,
            buffered: None,
            labels: RequestLabels::default(),
            counted_later: false,
            id: None,
            slots: None,
            request: None,
            attempts: Attempts::default(),
            redirect: None,
            redirects: 0,
            session_renewed: false,
            fresh: false,
            sent_at: None,
            attempt: Attempt::default(),
            rejection: None,
            outcome: None,
            response_started: false,
            _present: present,
        }
    }

    /// Sets the rejection for the client; `filter` names its source.
    pub fn refuse(&mut self, filter: &'static str, rejection: Box<Rejection>) {
        self.outcome = Some(if rejection.status >= 502 { Outcome::Failed } else { Outcome::Refused });
        self.rejection = Some((filter, rejection));
    }
}
