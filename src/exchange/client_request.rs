//! A message that the gateway's own client sends to a server: the choice of endpoint and upstream session,
//! and retries where that is safe. It mirrors Pingora's phases, which `proxy/` uses for all other messages.

use std::sync::Arc;

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use mcp::Era;

use super::UpstreamRequest;
use crate::server::Server;
use crate::session::{InFlightRequest, Session};
use crate::telemetry::Metrics;
use crate::upstream::UpstreamError;
use crate::upstream::http::UpstreamSession;
use crate::upstream::http::endpoint_health::EndpointFault;
use crate::upstream::http::pool::EndpointGuard;
use crate::upstream::http::retry::{Attempts, Failure, RetryReason, retry_after};
use crate::upstream::http::sending::Asks;

pub struct ClientRequest {
    pub server: Arc<Server>,
    pub server_era: Era,
    pub session: Option<Arc<Session>>,
    /// Set if no other upstream session will do.
    pub upstream_session: Option<Arc<UpstreamSession>>,
    /// Set for a request of a session, which records its upstream session.
    pub in_flight: Option<Arc<InFlightRequest>>,
    pub bearer: Option<HeaderValue>,
    /// Headers beside those that the client sets itself.
    pub extra: HeaderMap,
    pub body: Bytes,
    /// It may be sent twice.
    pub idempotent: bool,
    /// `Alone` or `Session` if messages that name no request may come, and are for its caller.
    pub asks: Asks,
    /// It resumes a stream, and has no body.
    pub resumes: bool,
    /// The affinity key of the session or caller.
    pub affinity_key: u64,
}

/// The head of a response, and where it comes from.
pub struct ClientResponse {
    pub response: reqwest::Response,
    pub endpoint: EndpointGuard,
    pub upstream_session: Option<Arc<UpstreamSession>>,
    /// The connection cannot mix up responses, whether a message names a request or not.
    pub certain: bool,
}

impl ClientRequest {
    pub fn of(upstream_request: &UpstreamRequest, bearer: Option<HeaderValue>, extra: HeaderMap) -> Self {
        Self {
            server: upstream_request.server.clone(),
            server_era: upstream_request.server_era(),
            session: upstream_request.session().cloned(),
            upstream_session: upstream_request.bound_session().cloned(),
            in_flight: upstream_request.in_flight().map(|guard| guard.request().clone()),
            bearer,
            extra,
            body: upstream_request.body().clone(),
            idempotent: upstream_request.is_idempotent(),
            asks: match upstream_request.as_call() {
                Some(call) if !call.server_era.codec().has_nameless_messages() && !call.logs => Asks::Caller,
                // All callers may share its session.
                _ if upstream_request.server.config.stateless => Asks::Alone,
                _ => Asks::Session,
            },
            resumes: upstream_request.resumes(),
            // What is bound to an upstream session goes to its endpoint.
            affinity_key: upstream_request.as_call().map_or(0, |call| call.affinity_key),
        }
    }

    /// Sends the request and returns the head of the response with its endpoint. The caller must record the
    /// result of the rest at the endpoint.
    pub async fn send(mut self, metrics: &Metrics) -> Result<ClientResponse, UpstreamError> {
        let Some(pool) = self.server.endpoint_pool() else {
            return Err(UpstreamError::InvalidResponse("it is not reached by HTTP".into()));
        };
        if let Some(bearer) = &self.bearer {
            self.extra.insert(AUTHORIZATION, bearer.clone());
        }
        let mut attempts = Attempts::default();
        // A request that is bound to an upstream session gets no other.
        let mut is_reconnected = self.upstream_session.is_some();
        pool.retry.begin();
        loop {
            let left = attempts.remaining(self.server.timeout);
            let upstream_session = match (&self.upstream_session, &self.session) {
                (Some(upstream_session), _) => Some(upstream_session.clone()),
                (None, Some(client)) => {
                    let connecting = client.upstream_session(&self.server, self.bearer.as_ref());
                    let late = UpstreamError::TimedOut(self.server.timeout);
                    Some(tokio::time::timeout(left, connecting).await.unwrap_or(Err(late))?)
                }
                (None, None) => None,
            };
            if let (Some(in_flight), Some(upstream_session)) = (&self.in_flight, &upstream_session) {
                in_flight.bind(upstream_session);
            }
            let left = attempts.remaining(self.server.timeout);
            let index = match &upstream_session {
                Some(upstream_session) => {
                    pool.index_of(upstream_session).ok_or(UpstreamError::SessionExpired)?
                }
                None => pool.pick(self.affinity_key, attempts.failed),
            };
            let mut endpoint_guard = pool.acquire(index);
            let (extra, body) = (self.extra.clone(), self.body.clone());
            let sent = match &upstream_session {
                Some(upstream_session) if self.resumes => endpoint_guard
                    .endpoint()
                    .resume(upstream_session, extra, left)
                    .await
                    .map(|response| (response, true)),
                upstream_session => {
                    endpoint_guard
                        .endpoint()
                        .post(self.server_era, upstream_session.as_deref(), extra, body, left, self.asks)
                        .await
                }
            };
            let (reason, after, outcome) = match sent {
                // A rejection of the caller's own credentials is passed to the caller.
                Ok((response, certain))
                    if matches!(response.status().as_u16(), 401 | 403)
                        && !self.server.forwards_client_auth() =>
                {
                    pool.answered(index);
                    let with_bearer = self.bearer.is_some();
                    return Err(endpoint_guard.endpoint().denied(response, with_bearer, certain).await);
                }
                Ok((response, _))
                    if self
                        .is_session_expired(&upstream_session, response.status().as_u16(), is_reconnected)
                        .await =>
                {
                    pool.answered(index);
                    if self.resumes {
                        // The server may have forgotten the stream alone.
                        return Err(UpstreamError::Unresumable);
                    }
                    if let (Some(client), Some(upstream_session)) = (&self.session, &upstream_session) {
                        client.drop_upstream_session(&self.server, upstream_session);
                    }
                    if is_reconnected {
                        return Err(UpstreamError::SessionExpired);
                    }
                    // The server answered without processing the call: once more, with a new upstream
                    // session.
                    is_reconnected = true;
                    continue;
                }
                Ok((response, certain)) => match RetryReason::of_status(response.status().as_u16()) {
                    // Its end is recorded by the reader of the body.
                    None => {
                        return Ok(ClientResponse {
                            response,
                            endpoint: endpoint_guard,
                            upstream_session,
                            certain,
                        });
                    }
                    Some(reason) => {
                        endpoint_guard.record();
                        pool.failed(index, EndpointFault::Response, response.status().as_str());
                        (
                            reason,
                            retry_after(response.headers()),
                            Ok(ClientResponse {
                                response,
                                endpoint: endpoint_guard,
                                upstream_session: upstream_session.clone(),
                                certain,
                            }),
                        )
                    }
                },
                Err(error) => {
                    pool.apply_change(index, &error);
                    let reason = match &error {
                        UpstreamError::Unreachable(_) => RetryReason::Connect,
                        UpstreamError::ConnectionReset(_) => RetryReason::Reset,
                        _ => return Err(error),
                    };
                    (reason, None, Err(error))
                }
            };
            // A session moves to another endpoint only when its own cannot be reached at all.
            let can_move = self.upstream_session.is_none()
                && (upstream_session.is_none() || reason == RetryReason::Connect);
            let failed = if can_move { attempts.failed | 1 << index } else { attempts.failed };
            let has_alternative = can_move && pool.has_alternative(failed);
            let failure =
                Failure { reason, idempotent: self.idempotent, has_alternative, reused: false, after };
            if !pool.retry.should_retry(&mut attempts, failure, self.server.timeout) {
                return outcome;
            }
            pool.retry.count(metrics, &self.server.name, reason);
            drop(outcome);
            attempts.failed = failed;
            if let (true, Some(client), Some(upstream_session)) =
                (has_alternative, &self.session, &upstream_session)
            {
                client.reconnect_upstream(&self.server, upstream_session);
            }
            tokio::time::sleep(std::mem::take(&mut attempts.wait)).await;
        }
    }

    /// Whether a response means that the server has forgotten the upstream session. A 400 in a new upstream
    /// session means the call.
    async fn is_session_expired(
        &self,
        upstream_session: &Option<Arc<UpstreamSession>>,
        status: u16,
        is_reconnected: bool,
    ) -> bool {
        let Some(upstream_session) =
            upstream_session.as_ref().filter(|upstream_session| upstream_session.session.is_some())
        else {
            return false;
        };
        match (&self.session, status) {
            (_, 404) => true,
            (Some(client), 400) if !is_reconnected && !self.resumes => {
                client.is_session_expired(&self.server, upstream_session, status).await
            }
            _ => false,
        }
    }
}
