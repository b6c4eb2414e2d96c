//! Requests for paths that are not MCP. They are read and answered here; `admin` makes the responses.

use std::time::Duration;

use http::HeaderValue;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use mcp::Rejection;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::{Gateway, RequestContext, request_body, respond};
use crate::admin::{self, Admin, AdminPath, AdminResponse};
use crate::catalog;
use crate::telemetry::Outcome;

/// Maximum size of an approval's body, in bytes, and the timeout for reading it.
const MAX_BODY: usize = 4096;
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers with the protected resource metadata.
pub async fn metadata(session: &mut Session, ctx: &mut RequestContext) -> pingora::Result<()> {
    let answer = admin::metadata(&ctx.snapshot, catalog::plain(session.req_header().uri.path()));
    write(session, ctx, answer).await
}

/// Answers a request for an admin path.
pub async fn answer(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &mut RequestContext,
    path: AdminPath,
) -> pingora::Result<()> {
    ctx.outcome = Some(Outcome::Ok);
    let method = session.req_header().method.clone();
    let answer = match admin(gateway, ctx).takes_body(path, &method, &session.req_header().headers) {
        Err(rejection) => Err(rejection),
        Ok(false) => admin(gateway, ctx).answer(path, &method, b""),
        Ok(true) => {
            // The body is so small that it is never counted.
            let limits = request_body::BodyLimits {
                limit: MAX_BODY,
                timeout: BODY_TIMEOUT,
                total: usize::MAX,
                free: 0,
            };
            let read = request_body::read(session, &limits, &mut gateway.state.buffer()).await?;
            read.and_then(|body| admin(gateway, ctx).answer(path, &method, &body))
        }
    };
    write(session, ctx, answer).await
}

fn admin<'a>(gateway: &'a Gateway, ctx: &'a RequestContext) -> Admin<'a> {
    Admin {
        serves: gateway.role,
        caller: ctx.caller.as_ref(),
        snapshot: &ctx.snapshot,
        state: &gateway.state,
        dispatcher: &gateway.dispatcher,
    }
}

/// Writes what a handler has returned.
async fn write(
    session: &mut Session,
    ctx: &mut RequestContext,
    answer: Result<AdminResponse, Rejection>,
) -> pingora::Result<()> {
    ctx.outcome = Some(Outcome::Ok);
    let response = match answer {
        Ok(response) => response,
        Err(rejection) => {
            ctx.refuse("request_head", Box::new(rejection));
            return respond::write_error(session, ctx).await;
        }
    };
    let mut head = ResponseHeader::build(response.status, Some(5))?;
    let headers = [
        (CONTENT_TYPE, response.content_type),
        (ALLOW, response.allow),
        (CACHE_CONTROL, response.cache_control),
    ];
    for (name, value) in headers {
        if let Some(value) = value {
            head.insert_header(name, HeaderValue::from_static(value))?;
        }
    }
    respond::write(session, ctx, head, response.body).await
}
