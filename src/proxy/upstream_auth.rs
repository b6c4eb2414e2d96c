//! The `Authorization` header of a call to a server, where its settings ask for the caller's own token or
//! for one exchanged for it. The gateway's own credentials are headers in the server's settings.

use filters::AuthMethod;
use filters::request::AmbiguousHeader;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use pingora::proxy::Session;

use super::RequestContext;
use crate::server::Server;
use crate::upstream::UpstreamError;

/// The value of `Authorization` for this call, if it is not the gateway's own.
pub async fn bearer(
    session: &Session,
    ctx: &RequestContext,
    server: &Server,
) -> Result<Option<HeaderValue>, UpstreamError> {
    let own = session.req_header().headers.get(AUTHORIZATION);
    if server.forwards_client_auth() {
        return Ok(own.cloned());
    }
    let Some(audience) = &server.audience else { return Ok(None) };
    let refused = |why: &str| UpstreamError::Exchange(why.to_owned());
    let exchange =
        ctx.snapshot.config.exchange.as_ref().ok_or_else(|| refused("no endpoint is configured"))?;
    let caller = ctx.caller.as_ref().filter(|caller| caller.auth_method == AuthMethod::Jwt);
    let caller = caller.ok_or(UpstreamError::TokenRequired)?;
    let token = super::request_head::head(session, None)
        .single(&AUTHORIZATION)
        .map_err(|AmbiguousHeader| refused("two tokens"))?;
    let token = token.and_then(|value| value.split_once(' ')).map(|(_, token)| token.trim());
    let token = token.ok_or(UpstreamError::TokenRequired)?;
    Box::pin(exchange.token(caller, token, audience)).await.map(Some)
}

/// A server rejected the token: an exchanged token is not used again.
pub fn refused(ctx: &RequestContext, error: &UpstreamError) {
    let audience =
        ctx.request.as_ref().and_then(|upstream_request| upstream_request.server.audience.as_ref());
    let exchange = ctx.snapshot.config.exchange.as_ref();
    if let (UpstreamError::Credentials(401), Some(audience), Some(exchange), Some(caller)) =
        (error, audience, exchange, &ctx.caller)
    {
        exchange.forget(caller, audience);
    }
}
