//! The outcome of a call: which part of a response passes, which side failed, and where this is recorded.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use mcp::{Reason, Rejection};
use pingora::proxy::{FailToProxy, Session};
use pingora::{Error, ErrorSource, ErrorType};

use super::response_validator::ResponseValidator;
use super::{
    FOREIGN_RESPONSE, Gateway, RequestContext, h2_response_head, request_head, retry, upstream_auth,
    upstream_connection,
};
use crate::exchange::UpstreamRequest;
use crate::telemetry::Outcome;
use crate::telemetry::access_log::AccessEntry;
use crate::upstream::UpstreamError;
use crate::upstream::http::head_limits;
use crate::upstream::http::pool::EndpointGuard;

impl Gateway {
    /// Which side failed. An error that is reported to the client is then in the context; the alternative
    /// is that the client aborted.
    pub(super) fn classify_error(&self, ctx: &mut RequestContext, e: &Error) -> Result<(), FailToProxy> {
        match e.esource() {
            ErrorSource::Downstream => return Err(client_aborted(ctx)),
            _ if ctx.rejection.is_some() => {}
            ErrorSource::Upstream => {
                let error = match (e.etype(), &ctx.request) {
                    (ErrorType::ReadTimedout | ErrorType::WriteTimedout, Some(upstream_request)) => {
                        UpstreamError::TimedOut(upstream_request.server.timeout)
                    }
                    _ if retry::is_early(e) => {
                        UpstreamError::ClientCaused("it came before the request was read, and is lost".into())
                    }
                    (ErrorType::InvalidHTTPHeader, _) if is_too_long(e) => head_limits::too_large(),
                    (&h2_response_head::EMPTY, _) => {
                        UpstreamError::InvalidResponse("the answer is empty".into())
                    }
                    _ => UpstreamError::InvalidResponse("the connection broke off".into()),
                };
                tracing::debug!(error = %e, "relaying failed");
                self.log_failure(ctx, &error);
                drop(fail(ctx, &error));
            }
            // Without an error source from Pingora, it was flushing to the client.
            ErrorSource::Unset
                if matches!(
                    e.etype(),
                    ErrorType::WriteError | ErrorType::WriteTimedout | ErrorType::H2Error
                ) =>
            {
                return Err(client_aborted(ctx));
            }
            ErrorSource::Unset | ErrorSource::Internal => {
                tracing::error!(error = %e, "a call failed inside the gateway");
                let message = "the gateway failed; its log says why";
                ctx.refuse(
                    "request_head",
                    Box::new(Rejection::http(500, Reason::Internal, message).closing()),
                );
            }
        }
        Ok(())
    }

    /// Counts a finished request and writes its access log line.
    pub(super) fn record(&self, session: &Session, ctx: &RequestContext, outcome: Outcome) {
        let now = Instant::now();
        let took = now - ctx.started;
        let metrics = &self.dispatcher.metrics;
        if !ctx.counted_later {
            ctx.labels.count(metrics, outcome);
        }
        metrics.request_seconds.observe(took.as_secs_f64());
        let upstream = ctx.sent_at.map(|at| now - at);
        if let (Some(upstream), Some(upstream_request)) = (upstream, &ctx.request) {
            upstream_request.server.latency(metrics).observe(upstream.as_secs_f64());
        }
        if let Some((filter, rejection)) = &ctx.rejection {
            metrics.rejected(filter, rejection.reason);
        }
        if self.access_log.is_silent() {
            return;
        }
        let head = session.req_header();
        self.access_log.record(&AccessEntry {
            at: SystemTime::now(),
            request_id: ctx.request_id,
            client: ctx.client,
            caller: ctx.caller.as_ref().unwrap_or(&ctx.snapshot.config.chain.anonymous()).user.as_str(),
            http_method: head.method.as_str(),
            path: match ctx.snapshot.catalog.endpoint(head.uri.path()) {
                Some(endpoint) => &endpoint.path,
                None => head.uri.path(),
            },
            method: ctx.labels.method,
            server: ctx.labels.server.as_deref(),
            tool: ctx.labels.tool.as_deref(),
            status: session.response_written().map_or(0, |response| response.status.as_u16()),
            outcome,
            reason: ctx.rejection.as_ref().map(|(_, rejection)| rejection.reason),
            duration: took,
            upstream,
            bytes_in: ctx.received,
            bytes_out: session.body_bytes_sent(),
            trace: request_head::trace_id(&head.headers),
        });
    }
}

/// Reports the result of a call to the circuit breaker and the pool of a server; only the first report
/// counts.
pub(super) fn report_to_upstream(
    upstream_request: &UpstreamRequest,
    endpoint_guard: &mut Option<EndpointGuard>,
    error: Option<&UpstreamError>,
) {
    upstream_request.call_guard.record(error);
    if let (Some(endpoint_guard), Some(pool)) = (endpoint_guard, upstream_request.server.endpoint_pool()) {
        pool.record(endpoint_guard, error);
    }
}

/// Whether the head of a response exceeded Pingora's limits, in bytes or in lines.
fn is_too_long(e: &Error) -> bool {
    let mentions =
        |message: &str| e.context.as_ref().is_some_and(|context| context.as_str().contains(message));
    mentions("header larger than") || e.root_cause().to_string().contains("too many headers")
}

/// The client has disconnected; that says nothing about the server.
fn client_aborted(ctx: &mut RequestContext) -> FailToProxy {
    ctx.outcome = Some(Outcome::ClientAborted);
    FailToProxy { error_code: 499, can_reuse_downstream: false }
}

/// Passes the next chunk of a response to the validator, and returns what may go out. `untouched`: the
/// client has received nothing yet.
pub(super) fn filter_body(
    ctx: &mut RequestContext,
    piece: Option<Bytes>,
    end: bool,
    untouched: bool,
) -> pingora::Result<Option<Bytes>> {
    let (Some(validator), Some(upstream_request)) = (&mut ctx.attempt.validator, &ctx.request) else {
        return Ok(piece);
    };
    if validator.is_held() {
        // Nothing goes to the client meanwhile; but its head did before the first chunk, and may have taken
        // its time.
        let now = Instant::now();
        ctx.attempt.waited += ctx.attempt.waiting.map_or(Duration::ZERO, |started| now - started);
        ctx.attempt.waiting = Some(now);
        if ctx.attempt.waited > upstream_request.server.timeout {
            // Each byte came in time, but not the whole response.
            let error = UpstreamError::TimedOut(upstream_request.server.timeout);
            return Err(fail(ctx, &error));
        }
    }
    match validator.push(piece, end) {
        Ok(piece) => {
            if validator.saw_error() {
                ctx.outcome = Some(Outcome::Error);
            }
            if validator.has_messages() {
                report_to_upstream(upstream_request, &mut ctx.attempt.endpoint, None);
            }
            if let (true, true, Some(socket)) = (end, validator.spends(), ctx.attempt.socket) {
                upstream_connection::end(socket);
            }
            Ok(piece)
        }
        // The server may have sent it before the call reached it, and may send the call's response next.
        Err(error @ (UpstreamError::UnexpectedServer | UpstreamError::Nameless))
            if untouched && upstream_request.is_idempotent() && ctx.attempt.reused && !ctx.fresh =>
        {
            doubt(ctx, &error);
            ctx.fresh = true;
            ctx.attempt.validator = None;
            Err(Error::explain(FOREIGN_RESPONSE, "the answer of another call").into_up())
        }
        Err(error) => Err(fail(ctx, &error)),
    }
}

/// For a while, the server gets connections on which nothing else is sent, because its response may have
/// belonged to another request. Responses on such a connection can be trusted.
fn doubt(ctx: &RequestContext, error: &UpstreamError) {
    let is_unsure = match error {
        UpstreamError::Nameless => true,
        UpstreamError::Denied(..) | UpstreamError::Redirected(..) => {
            ctx.attempt.reused && !ctx.attempt.first_party
        }
        _ => false,
    };
    if let (true, Some(endpoint_guard)) = (is_unsure, &ctx.attempt.endpoint) {
        endpoint_guard.endpoint().peer.doubt();
    }
}

/// Stores the rejection for `fail_to_proxy` and returns the matching Pingora error.
pub(super) fn fail(ctx: &mut RequestContext, error: &UpstreamError) -> Box<Error> {
    let name =
        ctx.request.as_ref().map(|upstream_request| upstream_request.server.name.clone()).unwrap_or_default();
    doubt(ctx, error);
    if let Some(upstream_request) = &ctx.request {
        report_to_upstream(upstream_request, &mut ctx.attempt.endpoint, Some(error));
    }
    upstream_auth::refused(ctx, error);
    // The client no longer waits for it, and a server of these versions does not take the end of an
    // exchange for a cancellation (2025-11-25, basic/lifecycle, "Timeouts").
    if let (UpstreamError::TimedOut(_), Some(in_flight)) =
        (error, ctx.request.as_ref().and_then(UpstreamRequest::in_flight))
    {
        in_flight.cancel("timed out");
    }
    if ctx.rejection.is_none() {
        tracing::warn!(server = %name, %error, request_id = format_args!("{:016x}", ctx.request_id), "a call failed");
        ctx.refuse("upstream", Box::new(error.rejection(&name)));
    }
    Error::explain(ErrorType::Custom("upstream"), error.to_string()).into_up()
}

/// Applies the end of an exchange to the session that it belongs to.
pub fn settle(ctx: &RequestContext, outcome: Outcome) {
    let Some(upstream_request) = &ctx.request else { return };
    if let (Outcome::Ok, None) = (outcome, &ctx.rejection) {
        upstream_request.apply_state_change();
    }
    // If the client has disconnected, or a resumable stream has ended, the server continues.
    let answered =
        ctx.rejection.is_some() || ctx.attempt.validator.as_ref().is_some_and(ResponseValidator::is_answered);
    match upstream_request.in_flight() {
        Some(in_flight) if !answered && ctx.sent_at.is_some() => in_flight.detach(),
        // The response may be lost on its way to the client, which then requests it again.
        Some(in_flight) if ctx.attempt.validator.as_ref().is_some_and(ResponseValidator::is_resumable) => {
            in_flight.remember()
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
