//! How a call went: what of an answer passes, whose failure it was, and who is told of it.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use mcp::Refusal;
use pingora::proxy::{FailToProxy, Session};
use pingora::{Error, ErrorSource, ErrorType};

use super::{
    Ctx, FOREIGN, Gateway, h2_response_head, request_head, retry, upstream_auth, upstream_connection,
};
use crate::dispatch::Leave;
use crate::telemetry::Outcome;
use crate::telemetry::access_log::Line;
use crate::upstream::UpstreamError;
use crate::upstream::http::head_limits;
use crate::upstream::http::pool::Visit;

impl Gateway {
    /// Whose failure it was: one that the client is told of, which the context then holds, or its own leaving.
    pub(super) fn blame(&self, ctx: &mut Ctx, e: &Error) -> Result<(), FailToProxy> {
        match e.esource() {
            ErrorSource::Downstream => return Err(left(ctx)),
            _ if ctx.refused.is_some() => {}
            ErrorSource::Upstream => {
                let error = match (e.etype(), &ctx.leave) {
                    (ErrorType::ReadTimedout | ErrorType::WriteTimedout, Some(leave)) => {
                        UpstreamError::TimedOut(leave.server.timeout)
                    }
                    _ if retry::is_early(e) => {
                        UpstreamError::Odd("it came before the request was read, and is lost".into())
                    }
                    (ErrorType::InvalidHTTPHeader, _) if is_too_long(e) => head_limits::too_large(),
                    (&h2_response_head::EMPTY, _) => UpstreamError::Nonsense("the answer is empty".into()),
                    _ => UpstreamError::Nonsense("the connection broke off".into()),
                };
                tracing::debug!(error = %e, "relaying failed");
                self.log_failure(ctx, &error);
                drop(failed(ctx, &error));
            }
            // Where Pingora does not say whose error it is, it was flushing to the client.
            ErrorSource::Unset
                if matches!(
                    e.etype(),
                    ErrorType::WriteError | ErrorType::WriteTimedout | ErrorType::H2Error
                ) =>
            {
                return Err(left(ctx));
            }
            ErrorSource::Unset | ErrorSource::Internal => {
                tracing::error!(error = %e, "a call failed inside the gateway");
                let words = "the gateway failed; its log says why";
                ctx.refuse("intake", Box::new(Refusal::http(500, "internal", words).closing()));
            }
        }
        Ok(())
    }

    /// Counts a request that is over, and writes its line.
    pub(super) fn note(&self, session: &Session, ctx: &Ctx, outcome: Outcome) {
        let now = Instant::now();
        let took = now - ctx.started;
        let metrics = &self.door.metrics;
        match &ctx.told.counted {
            Some(counted) => counted.count(outcome),
            None => {
                metrics.count(if ctx.told.method.is_empty() { "_none" } else { ctx.told.method }, outcome)
            }
        }
        metrics.request_seconds.observe(took.as_secs_f64());
        let upstream = ctx.sent_at.map(|at| now - at);
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
        self.access.tell(&Line {
            at: SystemTime::now(),
            request_id: ctx.request_id,
            client: ctx.client,
            caller: ctx.caller.as_ref().unwrap_or(&ctx.house.plan.chain.anonymous()).user.as_str(),
            verb: head.method.as_str(),
            path: match ctx.house.catalog.endpoint(head.uri.path()) {
                Some(endpoint) => &endpoint.path,
                None => head.uri.path(),
            },
            method: ctx.told.method,
            server: ctx.told.server.as_deref(),
            tool: ctx.told.tool.as_deref(),
            status: session.response_written().map_or(0, |response| response.status.as_u16()),
            outcome,
            reason: ctx.refused.as_ref().map(|(_, refusal)| refusal.reason),
            took,
            upstream,
            bytes_in: ctx.received,
            bytes_out: session.body_bytes_sent(),
            trace: request_head::trace_id(&head.headers),
        });
    }
}

/// Tells the fuse and the pool of a server how a call went; only the first word counts.
pub(super) fn tell(leave: &Leave, visit: &mut Option<Visit>, error: Option<&UpstreamError>) {
    leave.running.went(error);
    if let (Some(visit), Some(pool)) = (visit, leave.server.upstream.http()) {
        pool.went(visit, error);
    }
}

/// Whether the head of an answer was more than Pingora takes, in bytes or in lines.
fn is_too_long(e: &Error) -> bool {
    let says = |words: &str| e.context.as_ref().is_some_and(|context| context.as_str().contains(words));
    says("header larger than") || e.root_cause().to_string().contains("too many headers")
}

/// The client has left; that says nothing of the server.
fn left(ctx: &mut Ctx) -> FailToProxy {
    ctx.outcome = Some(Outcome::Left);
    FailToProxy { error_code: 499, can_reuse_downstream: false }
}

/// Gives the next piece of an answer to the watch, and what it lets through. `untouched`: the client has got nothing yet.
pub(super) fn pass(
    ctx: &mut Ctx,
    piece: Option<Bytes>,
    end: bool,
    untouched: bool,
) -> pingora::Result<Option<Bytes>> {
    let (Some(watch), Some(leave)) = (&mut ctx.watch, &ctx.leave) else { return Ok(piece) };
    if watch.is_held() {
        // Nothing goes to the client meanwhile; but its head did before the first piece, and may have taken its time.
        let now = Instant::now();
        ctx.waited += ctx.waiting.map_or(Duration::ZERO, |since| now - since);
        ctx.waiting = Some(now);
        if ctx.waited > leave.server.timeout {
            // Each byte came in time, but not the answer.
            let error = UpstreamError::TimedOut(leave.server.timeout);
            return Err(failed(ctx, &error));
        }
    }
    match watch.pass(piece, end) {
        Ok(piece) => {
            if watch.saw_error() {
                ctx.outcome = Some(Outcome::Error);
            }
            if watch.spoke() {
                tell(leave, &mut ctx.visit, None);
            }
            if let (true, true, Some(socket)) = (end, watch.spends(), ctx.socket) {
                upstream_connection::end(socket);
            }
            Ok(piece)
        }
        // The server may have sent it before the call reached it, and answers that next.
        Err(error @ (UpstreamError::Foreign | UpstreamError::Nameless))
            if untouched && leave.safe && ctx.reused && !ctx.fresh =>
        {
            doubt(ctx, &error);
            ctx.fresh = true;
            ctx.watch = None;
            Err(Error::explain(FOREIGN, "the answer of another call").into_up())
        }
        Err(error) => Err(failed(ctx, &error)),
    }
}

/// A server whose words may have been for another gets connections on which nothing else is asked, for a while: what it says then can be
/// believed.
fn doubt(ctx: &Ctx, error: &UpstreamError) {
    let is_unsure = match error {
        UpstreamError::Nameless => true,
        UpstreamError::Denied(..) | UpstreamError::Moved(..) => ctx.reused && !ctx.own,
        _ => false,
    };
    if let (true, Some(visit)) = (is_unsure, &ctx.visit) {
        visit.endpoint().peer.doubt();
    }
}

/// Keeps the answer for `fail_to_proxy` and makes Pingora's error of it.
pub(super) fn failed(ctx: &mut Ctx, error: &UpstreamError) -> Box<Error> {
    let name = ctx.leave.as_ref().map(|leave| leave.server.name.clone()).unwrap_or_default();
    doubt(ctx, error);
    if let Some(leave) = &ctx.leave {
        tell(leave, &mut ctx.visit, Some(error));
    }
    upstream_auth::refused(ctx, error);
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
