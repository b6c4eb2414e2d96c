//! Requests for paths that are not MCP. They are read and answered here; `admin` decides about them.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method};
use mcp::{Reason, Rejection};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::{Gateway, RequestContext, request_body, respond};
use crate::admin::{Admin, AdminPath, AdminResponse, tool_pins};
use crate::catalog;
use crate::telemetry::Outcome;

/// Maximum size of an approval's body, in bytes, and the timeout for reading it.
const MAX_BODY: usize = 4096;
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers with the protected resource metadata, never with a server's own. The client has sent no
/// credentials, so the answer covers every endpoint that could exist.
pub async fn metadata(session: &mut Session, ctx: &mut RequestContext) -> pingora::Result<()> {
    ctx.outcome = Some(Outcome::Ok);
    let path = catalog::plain(session.req_header().uri.path());
    let Some(document) = ctx.snapshot.config.chain.auth.metadata_document(path) else {
        let message =
            "no such metadata: either this can be no endpoint, or auth.resource_metadata is not set";
        return refuse(session, ctx, Rejection::http(404, Reason::NoMetadata, message)).await;
    };
    let mut head = ResponseHeader::build(200, Some(5))?;
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
    head.insert_header(CACHE_CONTROL, HeaderValue::from_static("max-age=300"))?;
    respond::write(session, ctx, head, Bytes::from(document)).await
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
    let answer = if path == AdminPath::Pins && method == Method::POST {
        approve(gateway, session, ctx).await?
    } else {
        admin(gateway, ctx).answer(path, &method)
    };
    match answer {
        Ok(response) => write(session, ctx, response).await,
        Err(rejection) => refuse(session, ctx, rejection).await,
    }
}

async fn approve(
    gateway: &Gateway,
    session: &mut Session,
    ctx: &RequestContext,
) -> pingora::Result<Result<AdminResponse, Rejection>> {
    if let Err(rejection) = admin(gateway, ctx).may_approve() {
        return Ok(Err(rejection));
    }
    if let Err(rejection) = tool_pins::is_json(&session.req_header().headers) {
        return Ok(Err(rejection));
    }
    // The body is so small that it is never counted.
    let limits =
        request_body::BodyLimits { limit: MAX_BODY, timeout: BODY_TIMEOUT, total: usize::MAX, free: 0 };
    let read = request_body::read(session, &limits, &mut gateway.state.buffer()).await?;
    Ok(read.and_then(|read| tool_pins::approve(&admin(gateway, ctx), &read)))
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

async fn write(session: &mut Session, ctx: &RequestContext, response: AdminResponse) -> pingora::Result<()> {
    let mut head = ResponseHeader::build(response.status, Some(4))?;
    if let Some(kind) = response.content_type {
        head.insert_header(CONTENT_TYPE, HeaderValue::from_static(kind))?;
    }
    if let Some(allow) = response.allow {
        head.insert_header(ALLOW, HeaderValue::from_static(allow))?;
    }
    respond::write(session, ctx, head, response.body).await
}

async fn refuse(
    session: &mut Session,
    ctx: &mut RequestContext,
    rejection: Rejection,
) -> pingora::Result<()> {
    ctx.refuse("request_head", Box::new(rejection));
    respond::write_error(session, ctx).await
}
