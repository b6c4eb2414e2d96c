//! The outside of the house: Pingora's phases, from the head of a request to the last byte of its answer.
//!
//! Nobody else writes to a client. What is decided here is only *how* a thing is said over HTTP; what is said is
//! decided by the chain and the door.

mod again;
mod answer;
mod approve;
mod batch;
mod body;
mod carry;
mod client;
mod cork;
mod credentials;
pub mod crowd;
mod fixed;
mod intake;
pub mod multiplex;
mod outgoing;
pub mod patience;
mod receive;
mod reply;
pub mod secure;
pub mod tongue;

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use filters::rate::Held;
use filters::{Caller, Refusal};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::HttpPeer;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::{Error, ErrorSource, ErrorType, OkOrErr};

use crate::door::{Door, Leave, Told};
use crate::registry::House;
use crate::state::State;
use crate::telemetry::Outcome;
use crate::telemetry::access::{Access, Line};
use crate::upstream::UpstreamError;
use crate::upstream::http::Seat;
use crate::upstream::pool::Visit;
use crate::upstream::retry::Tries;
use answer::Watch;

/// One listener's view of the gateway.
pub struct Gateway {
    pub door: Arc<Door>,
    pub state: Arc<State>,
    pub access: Access,
    /// What this listener serves.
    pub serves: Serves,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// MCP, and the operator's paths too.
    All,
    /// MCP only; the operator's paths stand on another listener.
    Public,
    /// The operator's paths only.
    Admin,
}

/// One request, from its first byte to its last.
pub struct Ctx {
    house: Arc<House>,
    started: Instant,
    request_id: u64,
    caller: Option<Caller>,
    /// The address of who calls.
    client: Option<IpAddr>,
    told: Told,
    /// Bytes of the request's body.
    received: usize,
    /// Those of them that count against `limits.max_buffered`, until the request is over.
    load: Option<crate::state::Load>,
    /// Places in limits of what runs at a time.
    held: Option<Arc<Held>>,
    refused: Option<(&'static str, Box<Refusal>)>,
    /// The id of the request, for a refusal on the way to the server.
    id: Option<Bytes>,
    /// Set once the call is on its way to a server.
    leave: Option<Leave>,
    seat: Option<Arc<Seat>>,
    /// The endpoint that it is at.
    visit: Option<Visit>,
    tries: Tries,
    /// What goes to the server as `Authorization`, if it is not the gateway's own.
    bearer: Option<http::HeaderValue>,
    /// The seat was taken anew after the server had forgotten the first.
    reseated: bool,
    watch: Option<Watch>,
    sent_at: Option<Instant>,
    outcome: Option<Outcome>,
    origin: Option<http::HeaderValue>,
    _present: crate::state::Present,
}

impl Ctx {
    fn refuse(&mut self, filter: &'static str, refusal: Box<Refusal>) {
        self.outcome = Some(if refusal.status >= 502 { Outcome::Failed } else { Outcome::Refused });
        self.refused = Some((filter, refusal));
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        patience::arrived();
        Ctx {
            house: self.door.registry.house(),
            started: Instant::now(),
            request_id: intake::request_id(),
            caller: None,
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
            tries: Tries::default(),
            bearer: None,
            reseated: false,
            watch: None,
            sent_at: None,
            outcome: None,
            origin: None,
            _present: self.state.enter(),
        }
    }

    /// Pingora's own modules (compression) are not wanted: they hold streams back.
    fn init_downstream_modules(&self, _: &mut pingora::modules::http::HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Ctx) -> pingora::Result<bool> {
        match self.receive(session, ctx).await? {
            Some(leave) => {
                ctx.leave = Some(leave);
                Ok(false)
            }
            None => Ok(true),
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> pingora::Result<Box<HttpPeer>> {
        self.next_peer(session, ctx).await
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        _: bool,
        _: &HttpPeer,
        socket: RawFd,
        _: Option<&Digest>,
        ctx: &mut Ctx,
    ) -> pingora::Result<()> {
        // What is longer goes out in several packets anyway.
        if ctx.leave.as_ref().is_some_and(|leave| (1..=CORKED).contains(&leave.body.len())) {
            cork::cork(socket);
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Ctx,
    ) -> pingora::Result<()> {
        let leave = ctx.leave.as_ref().or_err(ErrorType::InternalError, "no server was chosen")?;
        let visit = ctx.visit.as_ref().or_err(ErrorType::InternalError, "no endpoint was chosen")?;
        let peer = &visit.endpoint().peer;
        // Which HTTP the server speaks was settled with the connection.
        let version = request.version;
        *request = outgoing::request(session, ctx, leave, peer, ctx.seat.as_deref(), ctx.bearer.as_ref())?;
        request.set_version(version);
        ctx.sent_at = Some(Instant::now());
        if let Some(answering) = ctx.leave.as_mut().and_then(|leave| leave.answering.as_mut()) {
            answering.left();
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Ctx,
    ) -> pingora::Result<()> {
        // The piece that Pingora replays is only the sign to send: the body is ours (see `body`).
        *body = match &ctx.leave {
            Some(leave) if end_of_stream => Some(leave.body.clone()),
            _ => None,
        };
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> pingora::Result<()> {
        if self.asks_again(ctx, response.status.as_u16(), &response.headers) {
            return Error::e_explain(again::AGAIN, "the server cannot answer now");
        }
        let Some(leave) = &ctx.leave else { return Ok(()) };
        let server = leave.server.clone();
        if response.status == 404 && ctx.seat.as_ref().is_some_and(|seat| seat.session.is_some()) {
            if let (Some(client), Some(seat)) = (&leave.session, ctx.seat.take()) {
                client.forget(&server, &seat);
            }
            // It answered without looking at the call: once more, with a new seat, if that is none of the old seat's.
            if !ctx.reseated && leave.seat.is_none() {
                ctx.reseated = true;
                return Error::e_explain(FORGOTTEN, "the server has forgotten the session");
            }
            return Err(failed(ctx, &UpstreamError::Forgotten));
        }
        let sized = response.headers.contains_key(http::header::CONTENT_LENGTH);
        match Watch::begin(response, leave, ctx.seat.as_ref()) {
            Ok(watch) => {
                let unsized_now = sized && !response.headers.contains_key(http::header::CONTENT_LENGTH);
                if unsized_now && session.req_header().version == http::Version::HTTP_11 {
                    response.insert_header(http::header::TRANSFER_ENCODING, "chunked")?;
                }
                ctx.outcome = Some(if response.status.is_success() { Outcome::Ok } else { Outcome::Error });
                ctx.watch = Some(watch);
                Ok(())
            }
            Err(error) => Err(failed(ctx, &error)),
        }
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> pingora::Result<()> {
        reply::frame(session, response);
        outgoing::response(response);
        reply::stamp(response, ctx)
    }

    fn upstream_response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Ctx,
    ) -> pingora::Result<Option<Duration>> {
        let Some(watch) = &mut ctx.watch else { return Ok(None) };
        if let (true, Some(began), Some(leave)) = (watch.is_bounded(), ctx.tries.began, &ctx.leave)
            && began.elapsed() > leave.server.timeout
        {
            // Each byte came in time, but not the answer.
            let error = UpstreamError::TimedOut(leave.server.timeout);
            return Err(failed(ctx, &error));
        }
        match watch.pass(body.take(), end_of_stream) {
            Ok(piece) => {
                *body = piece;
                if watch.saw_error() {
                    ctx.outcome = Some(Outcome::Error);
                }
                Ok(None)
            }
            Err(error) => Err(failed(ctx, &error)),
        }
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Ctx,
        mut e: Box<Error>,
    ) -> Box<Error> {
        let error = match e.etype() {
            ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => {
                UpstreamError::TimedOut(ctx.house.plan.config.limits.connect_timeout.get())
            }
            _ => UpstreamError::Unreachable(e.to_string()),
        };
        if self.connects_again(ctx, Some(peer), &error) {
            e.set_retry(true);
            return e;
        }
        self.log_failure(ctx, &error);
        failed(ctx, &error)
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut e: Box<Error>,
        ctx: &mut Ctx,
        client_reused: bool,
    ) -> Box<Error> {
        let untouched = session.response_written().is_none();
        if matches!(e.etype(), &FORGOTTEN | &again::AGAIN) {
            e.set_retry(untouched);
            return e;
        }
        // The order matters: what is asked for is counted. Pingora would repeat some failures of HTTP/2 whatever was
        // asked; here the same holds as for HTTP/1.
        e.set_retry(untouched && self.sends_again(ctx, &e, client_reused));
        e
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, ctx: &mut Ctx) -> FailToProxy {
        if matches!(e.esource(), ErrorSource::Downstream) {
            ctx.outcome = Some(Outcome::Left);
            return FailToProxy { error_code: 499, can_reuse_downstream: false };
        }
        if ctx.refused.is_none() {
            let error = match e.etype() {
                ErrorType::ReadTimedout | ErrorType::WriteTimedout => UpstreamError::TimedOut(
                    ctx.leave.as_ref().map_or(Duration::ZERO, |leave| leave.server.timeout),
                ),
                _ => UpstreamError::Nonsense("the connection broke off".into()),
            };
            tracing::debug!(error = %e, "relaying failed");
            self.log_failure(ctx, &error);
            drop(failed(ctx, &error));
        }
        let status = ctx.refused.as_ref().map_or(502, |(_, refusal)| refusal.status);
        // Pingora closes the connection after this, whatever it is told; the client must know, or its next request
        // runs into the closing.
        session.set_keepalive(None);
        let said = reply::failure(session, ctx).await;
        FailToProxy { error_code: status, can_reuse_downstream: said.is_ok() }
    }

    async fn logging(&self, session: &mut Session, e: Option<&Error>, ctx: &mut Ctx) {
        let outcome = match (ctx.outcome, e) {
            (Some(Outcome::Left), _) => Outcome::Left,
            (_, Some(e)) if matches!(e.esource(), ErrorSource::Downstream) => Outcome::Left,
            (Some(outcome), _) => outcome,
            (None, None) => Outcome::Ok,
            (None, Some(_)) => Outcome::Failed,
        };
        if matches!(outcome, Outcome::Left) {
            patience::ended(patience::Ended::Left);
        }
        settle(ctx, outcome);
        if let (Some(leave), Outcome::Ok | Outcome::Error, None) = (&ctx.leave, outcome, &ctx.refused) {
            let status = session.response_written().map_or(0, |response| response.status.as_u16());
            // A gateway behind this one says in its own words that its server is down.
            let down = matches!(status, 502..=504).then(|| UpstreamError::Unreachable(String::new()));
            leave.running.went(down.as_ref());
        }
        let took = ctx.started.elapsed();
        let metrics = &self.door.metrics;
        match &ctx.told.counted {
            Some(counted) => counted.count(outcome),
            None => {
                metrics.count(if ctx.told.method.is_empty() { "_none" } else { ctx.told.method }, outcome)
            }
        }
        metrics.request_seconds.observe(took.as_secs_f64());
        let upstream = ctx.sent_at.map(|at| at.elapsed());
        if let (Some(upstream), Some(leave)) = (upstream, &ctx.leave) {
            leave.server.upstream_seconds(metrics).observe(upstream.as_secs_f64());
        }
        if let Some((filter, refusal)) = &ctx.refused {
            metrics.rejected(filter, refusal.reason);
        }
        if self.access.is_silent() {
            return;
        }
        let head = session.req_header();
        self.access.tell(Line {
            at: SystemTime::now(),
            request_id: ctx.request_id,
            client: ctx.client,
            caller: ctx.caller.clone().unwrap_or_else(|| ctx.house.plan.chain.anonymous()),
            verb: head.method.clone(),
            path: match ctx.house.catalog.endpoint(head.uri.path()) {
                Some(endpoint) => endpoint.path.clone(),
                None => head.uri.path().into(),
            },
            method: ctx.told.method,
            server: ctx.told.server.clone(),
            tool: ctx.told.tool.clone(),
            status: session.response_written().map_or(0, |response| response.status.as_u16()),
            outcome,
            reason: ctx.refused.as_ref().map(|(_, refusal)| refusal.reason),
            took,
            upstream,
            bytes_in: ctx.received,
            bytes_out: session.body_bytes_sent(),
            trace: intake::trace_id(&head.headers),
        });
    }

    /// What is tried again is counted, not told.
    fn suppress_proxy_warn_log(&self, _: &Session, _: &Ctx, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }

    /// Failures are told in the request's own line.
    fn suppress_error_log(&self, _: &Session, _: &Ctx, _: &Error) -> bool {
        true
    }
}

/// What the end of an exchange means for the session that it belongs to.
fn settle(ctx: &Ctx, outcome: Outcome) {
    let Some(leave) = &ctx.leave else { return };
    if let (Some(session), Some(deed), Outcome::Ok, None) =
        (&leave.session, &leave.deed, outcome, &ctx.refused)
    {
        session.memory.note(&leave.server.name, deed);
    }
    // The client has left, or a stream ended that is to be gone on with: the server goes on.
    let answered = ctx.refused.is_some() || ctx.watch.as_ref().is_some_and(Watch::is_answered);
    if let (Some(run), false, true) = (&leave.run, answered, ctx.sent_at.is_some()) {
        run.keep();
    }
}

/// Bodies up to this size go out in one packet with their head.
const CORKED: usize = 48 * 1024;

/// A connection can be used again after the server forgot our session; the request goes once more.
const FORGOTTEN: ErrorType = ErrorType::Custom("forgotten");

/// Keeps the answer for `fail_to_proxy` and makes Pingora's error of it.
fn failed(ctx: &mut Ctx, error: &UpstreamError) -> Box<Error> {
    let name = ctx.leave.as_ref().map(|leave| leave.server.name.clone()).unwrap_or_default();
    if let Some(leave) = &ctx.leave {
        leave.running.went(Some(error));
    }
    credentials::refused(ctx, error);
    // Nobody waits for it any more, and by the end of an exchange a server of these revisions does not learn that
    // (2025-11-25, basic/lifecycle, "Timeouts").
    if let (UpstreamError::TimedOut(_), Some(run)) =
        (error, ctx.leave.as_ref().and_then(|leave| leave.run.as_ref()))
    {
        run.cancel("timed out");
    }
    if ctx.refused.is_none() {
        tracing::warn!(server = %name, %error, request_id = format_args!("{:016x}", ctx.request_id), "a call failed");
        ctx.refuse("upstream", Box::new(error.refusal(&name)));
    }
    Error::explain(ErrorType::Custom("upstream"), error.to_string()).into_up()
}
