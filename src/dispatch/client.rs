//! A message that the house's own client carries to a server: to which endpoint, in which seat, and again where that
//! is safe. It acts as Pingora's phases do in `proxy/` for all other messages.

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
    pub era: Era,
    pub session: Option<Arc<Session>>,
    /// Set where no other seat will do.
    pub upstream_session: Option<Arc<UpstreamSession>>,
    /// Set for a request of a session, which is to know in which seat it is.
    pub in_flight: Option<Arc<InFlightRequest>>,
    pub bearer: Option<HeaderValue>,
    /// Headers beside those that the client sets itself.
    pub extra: HeaderMap,
    pub body: Bytes,
    /// It may be sent twice.
    pub idempotent: bool,
    /// Alone where what names no request may come, and is for its caller.
    pub asks: Asks,
    /// It goes on with a stream, and has no body.
    pub resumes: bool,
    /// Stands for the session or caller, where endpoints are chosen by it.
    pub affinity_key: u64,
}

/// An answer as it begins, and where it comes from.
pub struct ClientResponse {
    pub response: reqwest::Response,
    pub endpoint: EndpointGuard,
    pub upstream_session: Option<Arc<UpstreamSession>>,
    /// What comes can mean nothing else, whether it names a request or not.
    pub certain: bool,
}

impl ClientRequest {
    pub fn of(upstream_request: &UpstreamRequest, bearer: Option<HeaderValue>, extra: HeaderMap) -> Self {
        Self {
            server: upstream_request.server.clone(),
            era: upstream_request.era,
            session: upstream_request.session.clone(),
            upstream_session: upstream_request.upstream_session.clone(),
            in_flight: upstream_request.in_flight.as_ref().map(|guard| guard.request().clone()),
            bearer,
            extra,
            body: upstream_request.body.clone(),
            idempotent: upstream_request.idempotent,
            asks: if upstream_request.era == Era::Legacy || upstream_request.logs {
                Asks::Alone
            } else {
                Asks::Caller
            },
            resumes: upstream_request.resume.is_some(),
            affinity_key: upstream_request.affinity_key,
        }
    }

    /// Sends it and gives the answer as it begins, with the endpoint that it comes from, which is to be told how the rest
    /// went.
    pub async fn send(mut self, metrics: &Metrics) -> Result<ClientResponse, UpstreamError> {
        let Some(pool) = self.server.upstream.endpoint_pool() else {
            return Err(UpstreamError::InvalidResponse("it is not reached by HTTP".into()));
        };
        if let Some(bearer) = &self.bearer {
            self.extra.insert(AUTHORIZATION, bearer.clone());
        }
        let mut attempts = Attempts::default();
        // One that must stay where it is takes no other seat.
        let mut reseated = self.upstream_session.is_some();
        pool.retry.begin();
        loop {
            let left = attempts.remaining(self.server.timeout);
            let upstream_session = match (&self.upstream_session, &self.session) {
                (Some(upstream_session), _) => Some(upstream_session.clone()),
                (None, Some(client)) => {
                    let taking = client.upstream_session(&self.server, self.bearer.as_ref());
                    let late = UpstreamError::TimedOut(self.server.timeout);
                    Some(tokio::time::timeout(left, taking).await.unwrap_or(Err(late))?)
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
                        .post(self.era, upstream_session.as_deref(), extra, body, left, self.asks)
                        .await
                }
            };
            let (reason, after, fate) = match sent {
                // What its caller's own credentials are good for, the server tells its caller.
                Ok((response, certain))
                    if matches!(response.status().as_u16(), 401 | 403) && !self.server.passthrough =>
                {
                    pool.answered(index);
                    let with_bearer = self.bearer.is_some();
                    return Err(endpoint_guard.endpoint().denied(response, with_bearer, certain).await);
                }
                Ok((response, _))
                    if self
                        .is_session_expired(&upstream_session, response.status().as_u16(), reseated)
                        .await =>
                {
                    pool.answered(index);
                    if self.resumes {
                        // What the server has forgotten may be the stream alone.
                        return Err(UpstreamError::Unresumable);
                    }
                    if let (Some(client), Some(upstream_session)) = (&self.session, &upstream_session) {
                        client.drop_upstream_session(&self.server, upstream_session);
                    }
                    if reseated {
                        return Err(UpstreamError::SessionExpired);
                    }
                    // It answered without looking at the call: once more, with a new seat.
                    reseated = true;
                    continue;
                }
                Ok((response, certain)) => match RetryReason::of_status(response.status().as_u16()) {
                    // Whether it comes to its end is seen by who reads it.
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
            // A session goes elsewhere only when its endpoint cannot be reached at all.
            let moves = self.upstream_session.is_none()
                && (upstream_session.is_none() || reason == RetryReason::Connect);
            let failed = if moves { attempts.failed | 1 << index } else { attempts.failed };
            let elsewhere = moves && pool.has_alternative(failed);
            let failure = Failure {
                reason,
                idempotent: self.idempotent,
                has_alternative: elsewhere,
                reused: false,
                after,
            };
            if !pool.retry.should_retry(&mut attempts, failure, self.server.timeout) {
                return fate;
            }
            pool.retry.count(metrics, &self.server.name, reason);
            drop(fate);
            attempts.failed = failed;
            if let (true, Some(client), Some(upstream_session)) =
                (elsewhere, &self.session, &upstream_session)
            {
                client.reconnect_upstream(&self.server, upstream_session);
            }
            tokio::time::sleep(std::mem::take(&mut attempts.wait)).await;
        }
    }

    /// Whether an answer says that the server has forgotten the seat. One that says 400 in a new seat too means the call.
    async fn is_session_expired(
        &self,
        upstream_session: &Option<Arc<UpstreamSession>>,
        status: u16,
        reseated: bool,
    ) -> bool {
        let Some(upstream_session) =
            upstream_session.as_ref().filter(|upstream_session| upstream_session.session.is_some())
        else {
            return false;
        };
        match (&self.session, status) {
            (_, 404) => true,
            (Some(client), 400) if !reseated && !self.resumes => {
                client.is_session_expired(&self.server, upstream_session, status).await
            }
            _ => false,
        }
    }
}
