//! The outside of the house: Pingora's phases, from the head of a request to the last byte of its answer.
//!
//! Nobody else writes to a client. What is decided here is only *how* a thing is said over HTTP; what is said is
//! decided by the chain and the door.

mod accept;
mod batch;
mod client_addr;
mod context;
mod h2_response_head;
pub mod in_process;
mod long_response_id;
mod negotiated_response;
mod operators;
mod outcome;
mod relay;
mod request;
mod request_body;
mod request_head;
mod respond;
mod response_id;
mod response_messages;
mod response_validator;
mod retry;
mod stream_response;
mod upstream_auth;
mod upstream_connection;
mod upstream_request;

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::HttpPeer;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::Peer as _;
use pingora::{Error, ErrorSource, ErrorType, OkOrErr};

use crate::admin::Serves;
use crate::dispatch::Door;
use crate::process::state::State;
use crate::telemetry::Outcome;
use crate::telemetry::access_log::Access;
use crate::upstream::http::{head_limits, redirect};
use crate::upstream::{UpstreamError, is_exhausted};
use context::Ctx;
use outcome::{failed, pass, tell};
use request::Next;
use response_validator::{Watch, Way};

/// One listener's view of the gateway.
pub struct Gateway {
    pub door: Arc<Door>,
    pub state: Arc<State>,
    pub access: Access,
    /// What this listener serves.
    pub serves: Serves,
    /// Set where requests come from within the process, by no listener.
    pub inside: Option<in_process::Known>,
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// Pingora moves it to and fro.
    type CTX = Box<Ctx>;

    fn new_ctx(&self) -> Box<Ctx> {
        crate::listener::http1::arrived();
        Box::new(Ctx::new(self.door.registry.house(), self.state.enter()))
    }

    /// Pingora's own modules (compression) are not wanted: they hold streams back.
    fn init_downstream_modules(&self, _: &mut pingora::modules::http::HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> pingora::Result<bool> {
        match self.receive(session, ctx).await? {
            Some(Next::Peer(leave)) => {
                ctx.leave = Some(leave);
                Ok(false)
            }
            Some(Next::Talk(era, talk)) => {
                if talk.stream {
                    // The body that asked for it is gone.
                    ctx.load = None;
                }
                stream_response::talk(session, ctx, era, talk, &self.door).await.map(|()| true)
            }
            None => Ok(true),
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<Box<HttpPeer>> {
        self.next_peer(session, ctx).await
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        _: &HttpPeer,
        socket: RawFd,
        _: Option<&Digest>,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        (ctx.socket, ctx.reused) = (Some(socket), reused);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        let leave = ctx.leave.as_ref().or_err(ErrorType::InternalError, "no server was chosen")?;
        let visit = ctx.visit.as_ref().or_err(ErrorType::InternalError, "no endpoint was chosen")?;
        let peer = &visit.endpoint().peer;
        // Which HTTP the server speaks was settled with the connection.
        let version = request.version;
        peer.speaks(version);
        if version == http::Version::HTTP_2 {
            // Streams keep answers and requests together, and others' bytes lie on the socket at any time.
            (ctx.socket, ctx.reused) = (None, false);
        } else if let (true, Some(socket)) = (ctx.reused, ctx.socket)
            && upstream_connection::is_touched(socket)
        {
            return Err(Error::explain(TOUCHED, "something lies on the connection unasked").into_up());
        }
        *request = upstream_request::request(
            session,
            ctx,
            leave,
            peer,
            ctx.seat.as_deref(),
            ctx.bearer.as_ref(),
            &self.door.metrics,
        )?;
        request.set_version(version);
        if ctx.fresh && version != http::Version::HTTP_2 {
            request.insert_header(http::header::CONNECTION, "close")?;
        }
        ctx.sent_at = Some(Instant::now());
        // What is longer goes out in several packets anyway, and with HTTP/2 others write to the socket.
        if let Some(socket) = ctx.socket
            && version != http::Version::HTTP_2
            && (1..=CORKED).contains(&leave.body.len())
        {
            crate::listener::tcp_cork::cork(socket);
        }
        if version == http::Version::HTTP_2 {
            let (old, waits) = (respond::is_old(session), leave.id.is_some());
            if old {
                session.set_keepalive(None);
            }
            if let Some(look) = h2_response_head::look(old, waits) {
                session.downstream_modules_ctx = look;
            }
        }
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
        ctx: &mut Self::CTX,
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
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
            return Err(failed(ctx, &UpstreamError::Nonsense("it switches protocols unasked".into())));
        }
        if response.status.is_informational() {
            // It is no answer yet.
            return Ok(());
        }
        if let Err(error) = head_limits::fits(&response.headers) {
            return Err(failed(ctx, &error));
        }
        if self.asks_again(ctx, response.status.as_u16(), &response.headers) {
            return Err(Error::explain(retry::AGAIN, "the server cannot answer now").into_up());
        }
        if redirect::keeps_request(response.status.as_u16()) && self.moves(ctx, response) {
            return Err(Error::explain(MOVED, "the server redirects the request").into_up());
        }
        let Some(leave) = &ctx.leave else { return Ok(()) };
        let server = leave.server.clone();
        let status = response.status.as_u16();
        // Few say so, and the room of that question would be taken for each call.
        if let (400 | 404, Some(client), Some(seat)) = (status, &leave.session, ctx.seat.clone())
            && (status == 404 || !ctx.reseated)
            && Box::pin(client.is_forgotten(&server, &seat, status)).await
        {
            client.forget(&server, &seat);
            ctx.seat = None;
            // It answered without looking at the call: once more, with a new seat, if that is none of the old seat's.
            if !ctx.reseated && leave.seat.is_none() {
                ctx.reseated = true;
                return Err(Error::explain(FORGOTTEN, "the server has forgotten the session").into_up());
            }
            return Err(failed(ctx, &UpstreamError::Forgotten));
        }
        let sized = response.headers.contains_key(http::header::CONTENT_LENGTH);
        let now = Instant::now();
        let way = Way {
            certain: !ctx.reused || ctx.own,
            // HTTP/2 has its own end for a body.
            sized: session.req_header().version != http::Version::HTTP_2,
        };
        match Watch::begin(response, leave, ctx.seat.as_ref(), way, now) {
            Ok(watch) => {
                let unsized_now = sized && !response.headers.contains_key(http::header::CONTENT_LENGTH);
                if unsized_now && session.req_header().version == http::Version::HTTP_11 {
                    response.insert_header(http::header::TRANSFER_ENCODING, "chunked")?;
                }
                ctx.outcome = Some(if response.status.is_success() { Outcome::Ok } else { Outcome::Error });
                ctx.waited = ctx.tries.began.map_or(Duration::ZERO, |began| now - began);
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
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        upstream_request::response(response)?;
        if response.status.is_informational() {
            return Ok(());
        }
        respond::frame(session, response);
        respond::stamp(response, ctx)
    }

    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<Option<Duration>> {
        if let Some(watch) = &ctx.watch {
            if self.state.is_over() && watch.is_stream() {
                return Err(failed(ctx, &UpstreamError::Stopping));
            }
            *body = pass(ctx, body.take(), end_of_stream, respond::begun(session).is_none())?;
        }
        Ok(None)
    }

    /// Trailers end an answer as well as a flag does. What they say is between the server and the gateway.
    fn upstream_response_trailer_filter(
        &self,
        _: &mut Session,
        trailers: &mut http::HeaderMap,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        trailers.clear();
        ctx.rest = pass(ctx, None, true, false)?;
        Ok(())
    }

    /// What this gives is written as the end of the body, and no trailers are.
    async fn response_trailer_filter(
        &self,
        _: &mut Session,
        _: &mut http::HeaderMap,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<Option<Bytes>> {
        Ok(Some(ctx.rest.take().unwrap_or_default()))
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Self::CTX,
        mut e: Box<Error>,
    ) -> Box<Error> {
        if retry::is_stale(&e) && ctx.tries.stale < STALE {
            ctx.tries.stale += 1;
            e.set_retry(true);
            return e;
        }
        let at = peer.address().as_inet().copied();
        let error = match e.etype() {
            _ if is_exhausted(e.root_cause(), at) => UpstreamError::Exhausted(e.to_string()),
            ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => {
                UpstreamError::TimedOut(ctx.house.plan.config.limits.connect_timeout.get())
            }
            _ => UpstreamError::Unreachable(e.to_string()),
        };
        if matches!(error, UpstreamError::Exhausted(_)) {
            // No endpoint was asked.
            ctx.visit = None;
        } else if self.connects_again(ctx, Some(peer), &error) {
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
        ctx: &mut Self::CTX,
        client_reused: bool,
    ) -> Box<Error> {
        let untouched = respond::begun(session).is_none();
        if *e.etype() == TOUCHED {
            // Nothing was sent. One that nobody has used is sound.
            ctx.fresh = true;
            e.set_retry(true);
            return e;
        }
        if matches!(e.etype(), &FORGOTTEN | &FOREIGN | &MOVED | &retry::AGAIN) {
            e.set_retry(untouched);
            return e;
        }
        // The order matters: what is asked for is counted. Pingora would repeat some failures of HTTP/2 whatever was
        // asked; here the same holds as for HTTP/1.
        e.set_retry(untouched && self.sends_again(ctx, &e, client_reused));
        e
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, ctx: &mut Self::CTX) -> FailToProxy {
        if let Err(left) = self.blame(ctx, e) {
            return left;
        }
        let status = ctx.refused.as_ref().map_or(502, |(_, refusal)| refusal.status);
        let said = respond::failure(session, ctx).await;
        if said.as_ref().is_err_and(|error| matches!(error.esource(), ErrorSource::Downstream)) {
            crate::listener::http1::ended(crate::listener::http1::Ended::Left);
        }
        ctx.spoken = said.is_ok();
        FailToProxy { error_code: status, can_reuse_downstream: said.is_ok() }
    }

    async fn logging(&self, session: &mut Session, e: Option<&Error>, ctx: &mut Self::CTX) {
        let outcome = match (ctx.outcome, e) {
            (Some(Outcome::Left), _) => Outcome::Left,
            (_, Some(e)) if matches!(e.esource(), ErrorSource::Downstream) => Outcome::Left,
            (Some(outcome), _) => outcome,
            (None, None) => Outcome::Ok,
            (None, Some(_)) => Outcome::Failed,
        };
        if matches!(outcome, Outcome::Left) {
            crate::listener::http1::ended(crate::listener::http1::Ended::Left);
        }
        settle(ctx, outcome);
        if let (Some(leave), Outcome::Ok | Outcome::Error, None) = (&ctx.leave, outcome, &ctx.refused) {
            let status = session.response_written().map_or(0, |response| response.status.as_u16());
            // A gateway behind this one says in its own words that its server is down.
            let down = matches!(status, 502..=504).then(|| UpstreamError::Unreachable(String::new()));
            tell(leave, &mut ctx.visit, down.as_ref());
        }
        self.note(session, ctx, outcome);
        if ctx.spoken {
            // Few need the room for it.
            Box::pin(crate::listener::keepalive::keep(session)).await;
        }
    }

    /// What is tried again is counted, not told.
    fn suppress_proxy_warn_log(&self, _: &Session, _: &Self::CTX, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }

    /// Failures are told in the request's own line.
    fn suppress_error_log(&self, _: &Session, _: &Self::CTX, _: &Error) -> bool {
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
    match &leave.run {
        Some(run) if !answered && ctx.sent_at.is_some() => run.keep(),
        // The answer may be lost on its way to the client, who then asks for it again.
        Some(run) if ctx.watch.as_ref().is_some_and(Watch::is_resumable) => run.remember(),
        _ => {}
    }
}

/// Bodies up to this size go out in one packet with their head.
const CORKED: usize = 48 * 1024;

/// Connections of HTTP/2 at their end that a call passes over before it is told that there is none.
const STALE: u32 = 4;

/// Something lay on a connection before the call was sent on it.
const TOUCHED: ErrorType = ErrorType::Custom("touched");

/// What came on a used connection answers another request; the call goes once more.
const FOREIGN: ErrorType = ErrorType::Custom("foreign");

/// A connection can be used again after the server forgot our session; the request goes once more.
const FORGOTTEN: ErrorType = ErrorType::Custom("forgotten");

/// The server answers at another path; the request goes there, once more.
const MOVED: ErrorType = ErrorType::Custom("moved");
