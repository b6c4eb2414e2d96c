//! What is known of a request while it is served.

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use filters::Caller;
use filters::rate_limit::Held;
use mcp::Refusal;

use super::request_head;
use super::response_validator::Watch;
use crate::dispatch::{Leave, Told};
use crate::process::state::{Load, Present};
use crate::registry::House;
use crate::telemetry::Outcome;
use crate::upstream::http::Seat;
use crate::upstream::http::pool::Visit;
use crate::upstream::http::retry::Tries;

/// One request, from its first byte to its last.
pub struct Ctx {
    pub house: Arc<House>,
    pub started: Instant,
    pub request_id: u64,
    pub caller: Option<Caller>,
    /// The caller was known before it came, and brings no credentials.
    pub vouched: bool,
    /// The address of who calls.
    pub client: Option<IpAddr>,
    pub told: Told,
    /// Bytes of the request's body.
    pub received: usize,
    /// Those of them that count against `limits.max_buffered`, until the request is over.
    pub load: Option<Load>,
    /// Places in limits of what runs at a time.
    pub held: Option<Arc<Held>>,
    pub refused: Option<(&'static str, Box<Refusal>)>,
    /// The id of the request, for a refusal on the way to the server.
    pub id: Option<Bytes>,
    /// Set once the call is on its way to a server.
    pub leave: Option<Leave>,
    pub seat: Option<Arc<Seat>>,
    /// The endpoint that it is at, and the socket that leads there.
    pub visit: Option<Visit>,
    pub socket: Option<RawFd>,
    /// That connection was used before.
    pub reused: bool,
    /// It is used for the calls of one session only.
    pub own: bool,
    /// The call takes a connection that nobody has used, and nobody will use again.
    pub fresh: bool,
    pub tries: Tries,
    /// What goes to the server as `Authorization`, if it is not the gateway's own.
    pub bearer: Option<http::HeaderValue>,
    /// Where the endpoint of this number has redirected the request to, and how often it was.
    pub moved: Option<(usize, http::Uri)>,
    pub moves: usize,
    /// The seat was taken anew after the server had forgotten the first.
    pub reseated: bool,
    pub watch: Option<Watch>,
    /// The end of an answer, which goes out in the place of its trailers.
    pub rest: Option<Bytes>,
    pub sent_at: Option<Instant>,
    /// How long the server was waited for, as far as that is known.
    pub waited: Duration,
    /// Since when nothing but the server is waited for.
    pub waiting: Option<Instant>,
    pub outcome: Option<Outcome>,
    /// The client was told a failure, and all that it was promised.
    pub spoken: bool,
    pub origin: Option<http::HeaderValue>,
    _present: Present,
}

impl Ctx {
    pub fn new(house: Arc<House>, present: Present) -> Self {
        Self {
            house,
            started: Instant::now(),
            request_id: request_head::request_id(),
            caller: None,
            vouched: false,
            client: None,
            told: Told::default(),
            received: 0,
            load: None,
            held: None,
            refused: None,
            id: None,
            leave: None,
            seat: None,
            visit: None,
            socket: None,
            reused: false,
            own: false,
            fresh: false,
            tries: Tries::default(),
            bearer: None,
            moved: None,
            moves: 0,
            reseated: false,
            watch: None,
            rest: None,
            sent_at: None,
            waited: Duration::ZERO,
            waiting: None,
            outcome: None,
            spoken: false,
            origin: None,
            _present: present,
        }
    }

    /// The client is told this; `filter` is the one that says so.
    pub fn refuse(&mut self, filter: &'static str, refusal: Box<Refusal>) {
        self.outcome = Some(if refusal.status >= 502 { Outcome::Failed } else { Outcome::Refused });
        self.refused = Some((filter, refusal));
    }
}
