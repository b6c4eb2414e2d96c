//! Pingora's phases, from the head of a request to the last byte of its response.
//!
//! Only this module writes to a client. It decides *how* a message is written over HTTP. The chain and the
//! dispatcher decide what is written.

mod accept_header;
mod batch;
mod client_addr;
mod context;
mod dispatched;
#[cfg(test)]
pub(crate) mod gateway_for_tests;
mod h2_response_head;
pub mod http_sse;
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

use crate::admin::ListenerRole;
use crate::dispatch::Dispatcher;
use crate::process::state::ProcessState;
use crate::telemetry::Outcome;
use crate::telemetry::access_log::AccessLog;
use crate::upstream::http::{head_limits, redirect};
use crate::upstream::{UpstreamError, is_exhausted};
use context::RequestContext;
use outcome::{fail, filter_body, report_to_upstream};
use request::Next;
use response_validator::{BodyFraming, ResponseValidator};

/// One listener's view of the gateway.
/// Its `impl` is also in `request`, `http_sse`, `batch`, `dispatched`, `retry` and `outcome`.
pub struct Gateway {
    pub dispatcher: Arc<Dispatcher>,
    pub state: Arc<ProcessState>,
    pub access_log: AccessLog,
    /// What this listener serves.
    pub role: ListenerRole,
    /// Set where requests come from within the process, not from a listener.
    pub in_process: Option<in_process::Known>,
}

#[async_trait]
impl ProxyHttp for Gateway {
    /// Boxed, because Pingora moves it often.
    type CTX = Box<RequestContext>;

    fn new_ctx(&self) -> Box<RequestContext> {
        crate::listener::http1::head_received();
        Box::new(RequestContext::new(self.dispatcher.registry.snapshot(), self.state.begin_request()))
    }

    /// Pingora's own modules (compression) are not used: they hold streams back.
    fn init_downstream_modules(&self, _: &mut pingora::modules::http::HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Self::CTX) -> pingora::Result<bool> {
        match self.handle_request(session, ctx).await? {
            Some(Next::Forward(upstream_request)) => {
                ctx.request = Some(upstream_request);
                Ok(false)
            }
            Some(Next::Stream(client_era, message_stream)) => {
                if message_stream.stream {
                    // The body that was counted is gone.
                    ctx.buffered = None;
                }
                stream_response::stream_to_client(session, ctx, client_era, message_stream, &self.dispatcher)
                    .await
                    .map(|()| true)
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
        (ctx.attempt.socket, ctx.attempt.reused) = (Some(socket), reused);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        let upstream_request =
            ctx.request.as_ref().or_err(ErrorType::InternalError, "no server was chosen")?;
        let endpoint_guard =
            ctx.attempt.endpoint.as_ref().or_err(ErrorType::InternalError, "no endpoint was chosen")?;
        let peer = &endpoint_guard.endpoint().peer;
        // The HTTP version of the server was settled with the connection.
        let version = request.version;
        peer.has_http2(version);
        if version == http::Version::HTTP_2 {
            // Streams keep responses and requests together, and other streams' bytes lie on the socket at
            // any time.
            (ctx.attempt.socket, ctx.attempt.reused) = (None, false);
        } else if let (true, Some(socket)) = (ctx.attempt.reused, ctx.attempt.socket)
            && upstream_connection::is_touched(socket)
        {
            return Err(
                Error::explain(UNSOLICITED_BYTES, "something lies on the connection unasked").into_up()
            );
        }
        *request = upstream_request::request(
            session,
            ctx,
            upstream_request,
            peer,
            ctx.attempt.upstream_session.as_deref(),
            ctx.attempt.bearer.as_ref(),
            &self.dispatcher.metrics,
        )?;
        request.set_version(version);
        if ctx.fresh && version != http::Version::HTTP_2 {
            request.insert_header(http::header::CONNECTION, "close")?;
        }
        ctx.sent_at = Some(Instant::now());
        // A longer body goes out in several packets anyway, and on HTTP/2 other streams write to the
        // socket.
        if let Some(socket) = ctx.attempt.socket
            && version != http::Version::HTTP_2
            && (1..=CORKED).contains(&upstream_request.body().len())
        {
            crate::listener::tcp_cork::cork(socket);
        }
        if version == http::Version::HTTP_2 {
            let (old, waits) = (respond::is_http10(session), upstream_request.id().is_some());
            if old {
                session.set_keepalive(None);
            }
            if let Some(look) = h2_response_head::module_for(old, waits) {
                session.downstream_modules_ctx = look;
            }
        }
        if let Some(upstream_request) = &mut ctx.request {
            upstream_request.sent();
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
        // The chunk that Pingora replays is only the signal to send: the stored body replaces it (see
        // `request_body`).
        *body = match &ctx.request {
            Some(upstream_request) if end_of_stream => Some(upstream_request.body().clone()),
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
            return Err(fail(ctx, &UpstreamError::InvalidResponse("it switches protocols unasked".into())));
        }
        if response.status.is_informational() {
            // It is no final response yet.
            return Ok(());
        }
        if let Err(error) = head_limits::fits(&response.headers) {
            return Err(fail(ctx, &error));
        }
        if self.should_retry_status(ctx, response.status.as_u16(), &response.headers) {
            return Err(Error::explain(retry::RETRY, "the server cannot answer now").into_up());
        }
        if redirect::keeps_request(response.status.as_u16()) && self.should_follow_redirect(ctx, response) {
            return Err(Error::explain(REDIRECTED, "the server redirects the request").into_up());
        }
        let Some(upstream_request) = &ctx.request else { return Ok(()) };
        let server = upstream_request.server.clone();
        let status = response.status.as_u16();
        // Few servers answer so, and the future of that case would use memory in each call.
        if let (400 | 404, Some(client), Some(upstream_session)) =
            (status, upstream_request.session(), ctx.attempt.upstream_session.clone())
            && (status == 404 || !ctx.session_renewed)
            && Box::pin(client.is_session_expired(&server, &upstream_session, status)).await
        {
            client.drop_upstream_session(&server, &upstream_session);
            ctx.attempt.upstream_session = None;
            // The server answered without processing the call: it is sent again in a new upstream session,
            // if the message is not bound to the old one.
            if !ctx.session_renewed && upstream_request.bound_session().is_none() {
                ctx.session_renewed = true;
                return Err(Error::explain(SESSION_EXPIRED, "the server has forgotten the session").into_up());
            }
            return Err(fail(ctx, &UpstreamError::SessionExpired));
        }
        let sized = response.headers.contains_key(http::header::CONTENT_LENGTH);
        let now = Instant::now();
        let framing = BodyFraming {
            certain: !ctx.attempt.reused || ctx.attempt.first_party,
            // HTTP/2 has its own end for a body.
            sized: session.req_header().version != http::Version::HTTP_2,
        };
        match ResponseValidator::begin(
            response,
            upstream_request,
            ctx.attempt.upstream_session.as_ref(),
            framing,
            now,
        ) {
            Ok(validator) => {
                let unsized_now = sized && !response.headers.contains_key(http::header::CONTENT_LENGTH);
                if unsized_now && session.req_header().version == http::Version::HTTP_11 {
                    response.insert_header(http::header::TRANSFER_ENCODING, "chunked")?;
                }
                ctx.outcome = Some(if response.status.is_success() { Outcome::Ok } else { Outcome::Error });
                ctx.attempt.waited = ctx.attempts.began.map_or(Duration::ZERO, |started| now - started);
                ctx.attempt.validator = Some(validator);
                Ok(())
            }
            Err(error) => Err(fail(ctx, &error)),
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
        respond::fix_framing(session, response);
        respond::add_common_headers(response, ctx)
    }

    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<Option<Duration>> {
        if let Some(validator) = &ctx.attempt.validator {
            if self.state.is_over() && validator.is_stream() {
                return Err(fail(ctx, &UpstreamError::Stopping));
            }
            *body =
                filter_body(ctx, body.take(), end_of_stream, respond::response_head_sent(session).is_none())?;
        }
        Ok(None)
    }

    /// Trailers end a response as a flag does. Their content concerns only the server and the gateway.
    fn upstream_response_trailer_filter(
        &self,
        _: &mut Session,
        trailers: &mut http::HeaderMap,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<()> {
        trailers.clear();
        ctx.attempt.buffered_response = filter_body(ctx, None, true, false)?;
        Ok(())
    }

    /// The returned bytes are written as the end of the body; no trailers are written.
    async fn response_trailer_filter(
        &self,
        _: &mut Session,
        _: &mut http::HeaderMap,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<Option<Bytes>> {
        Ok(Some(ctx.attempt.buffered_response.take().unwrap_or_default()))
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Self::CTX,
        mut e: Box<Error>,
    ) -> Box<Error> {
        if retry::is_stale(&e) && ctx.attempts.stale < MAX_STALE {
            ctx.attempts.stale += 1;
            e.set_retry(true);
            return e;
        }
        let at = peer.address().as_inet().copied();
        let error = match e.etype() {
            _ if is_exhausted(e.root_cause(), at) => UpstreamError::Exhausted(e.to_string()),
            ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => {
                UpstreamError::TimedOut(ctx.snapshot.config.config.limits.connect_timeout.get())
            }
            _ => UpstreamError::Unreachable(e.to_string()),
        };
        if matches!(error, UpstreamError::Exhausted(_)) {
            // No endpoint was called.
            ctx.attempt.endpoint = None;
        } else if self.should_retry_connect(ctx, Some(peer), &error) {
            e.set_retry(true);
            return e;
        }
        self.log_failure(ctx, &error);
        fail(ctx, &error)
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut e: Box<Error>,
        ctx: &mut Self::CTX,
        client_reused: bool,
    ) -> Box<Error> {
        let untouched = respond::response_head_sent(session).is_none();
        if *e.etype() == UNSOLICITED_BYTES {
            // Nothing was sent. A new connection has no unread bytes.
            ctx.fresh = true;
            e.set_retry(true);
            return e;
        }
        if matches!(e.etype(), &SESSION_EXPIRED | &FOREIGN_RESPONSE | &REDIRECTED | &retry::RETRY) {
            e.set_retry(untouched);
            return e;
        }
        // The order matters: each check consumes retry budget. Pingora would repeat some HTTP/2 failures
        // regardless; here the same rule holds as for HTTP/1.
        e.set_retry(untouched && self.should_retry_reset(ctx, &e, client_reused));
        e
    }

    async fn fail_to_proxy(&self, session: &mut Session, e: &Error, ctx: &mut Self::CTX) -> FailToProxy {
        if let Err(aborted) = self.classify_error(ctx, e) {
            return aborted;
        }
        let status = ctx.rejection.as_ref().map_or(502, |(_, rejection)| rejection.status);
        let written = respond::write_error(session, ctx).await;
        if written.as_ref().is_err_and(|error| matches!(error.esource(), ErrorSource::Downstream)) {
            crate::listener::http1::request_ended(crate::listener::http1::RequestEnd::ClientAborted);
        }
        ctx.response_started = written.is_ok();
        FailToProxy { error_code: status, can_reuse_downstream: written.is_ok() }
    }

    async fn logging(&self, session: &mut Session, e: Option<&Error>, ctx: &mut Self::CTX) {
        let outcome = match (ctx.outcome, e) {
            (Some(Outcome::ClientAborted), _) => Outcome::ClientAborted,
            (_, Some(e)) if matches!(e.esource(), ErrorSource::Downstream) => Outcome::ClientAborted,
            (Some(outcome), _) => outcome,
            (None, None) => Outcome::Ok,
            (None, Some(_)) => Outcome::Failed,
        };
        if matches!(outcome, Outcome::ClientAborted) {
            crate::listener::http1::request_ended(crate::listener::http1::RequestEnd::ClientAborted);
        }
        outcome::settle(ctx, outcome);
        if let (Some(upstream_request), Outcome::Ok | Outcome::Error, None) =
            (&ctx.request, outcome, &ctx.rejection)
        {
            let status = session.response_written().map_or(0, |response| response.status.as_u16());
            // A gateway behind this one reports with these statuses that its server is down.
            let down = matches!(status, 502..=504).then(|| UpstreamError::Unreachable(String::new()));
            report_to_upstream(upstream_request, &mut ctx.attempt.endpoint, down.as_ref());
        }
        self.record(session, ctx, outcome);
        if ctx.response_started {
            // Boxed, because few requests need this future.
            Box::pin(crate::listener::keepalive::reuse_connection(session)).await;
        }
    }

    /// Retries are counted, not logged.
    fn suppress_proxy_warn_log(&self, _: &Session, _: &Self::CTX, _: &Error, _: ProxyWarnLogContext) -> bool {
        true
    }

    /// Failures are logged in the access log line of the request.
    fn suppress_error_log(&self, _: &Session, _: &Self::CTX, _: &Error) -> bool {
        true
    }
}

/// Bodies up to this size, in bytes, go out in one packet with their head.
const CORKED: usize = 48 * 1024;

/// Closing HTTP/2 connections that a call skips before it fails.
const MAX_STALE: u32 = 4;

/// Unread bytes lay on a connection before the call was sent on it.
const UNSOLICITED_BYTES: ErrorType = ErrorType::Custom("touched");

/// The response on a reused connection belongs to another request; the call is sent again.
const FOREIGN_RESPONSE: ErrorType = ErrorType::Custom("foreign");

/// The server has forgotten the upstream session; the connection can be reused and the request is sent
/// again.
const SESSION_EXPIRED: ErrorType = ErrorType::Custom("forgotten");

/// The server redirects to another path; the request is sent there, once.
const REDIRECTED: ErrorType = ErrorType::Custom("moved");
