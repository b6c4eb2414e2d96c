//! Callers inside the process: the same chain, the same dispatch, the answer as a stream of messages.

use std::sync::Arc;

use bytes::Bytes;
use filters::{Caller, RequestHead};
use mcp::{Era, Reason, Rejection};
use tokio::sync::mpsc;

use super::authorize::{Authorized, RejectedRequest, share_slots};
use super::rejections::session_limits;
use super::{AuthorizedRequest, Dispatch, Dispatcher, RequestLabels};
use crate::session::{OwnerKey, Session};
use crate::streams::forwarded::{self, last};
use crate::streams::{MessageStream, StreamItem};
use mcp::version;

impl Dispatcher {
    /// Handles one message from inside the process, authorized by the whole chain. The progress and the log
    /// messages of its server come before the response. A caller with a session keeps it; for others a legacy
    /// one is opened, and ends with the stream. To drop the stream is to disconnect.
    pub async fn call_internal(
        &self,
        caller: Option<Caller>,
        session: Option<Arc<Session>>,
        path: &str,
        body: Bytes,
    ) -> Result<MessageStream, RejectedRequest> {
        self.begin_internal(caller, session, path, body).await.map(|(messages, _)| messages)
    }

    /// The same for a caller that wants only the response (empty for none).
    pub async fn answer_internal(
        &self,
        caller: Option<Caller>,
        session: Option<Arc<Session>>,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, RejectedRequest> {
        let (messages, id) = self.begin_internal(caller, session, path, body).await?;
        let rejected = |rejection| RejectedRequest { filter: "dispatch", rejection, id };
        messages.answer().await.map_err(rejected)
    }

    /// The stream of a message's answer, and the id of the message.
    async fn begin_internal(
        &self,
        caller: Option<Caller>,
        session: Option<Arc<Session>>,
        path: &str,
        body: Bytes,
    ) -> Result<(MessageStream, Option<Bytes>), RejectedRequest> {
        let snapshot = self.registry.snapshot();
        let chain = &snapshot.config.chain;
        let headers = http::HeaderMap::new();
        let http_method = &http::Method::POST;
        let head = RequestHead {
            http_method,
            path,
            headers: &headers,
            authority: None,
            peer: None,
            certificate: None,
            is_network: false,
        };
        chain.on_head_unauthenticated(&head).await.map_err(|stop| RejectedRequest::of(stop, &body))?;
        let caller = caller.unwrap_or_else(|| chain.anonymous());
        let endpoint = snapshot.catalog.endpoint(path);
        let shown = match endpoint {
            Some(endpoint) => self.shows(&snapshot, endpoint, &caller).await,
            None => false,
        };
        let Some(endpoint) = endpoint.filter(|_| shown) else {
            let rejection = Box::new(Rejection::http(404, Reason::NoEndpoint, "no such endpoint"));
            return Err(RejectedRequest { filter: "dispatch", rejection, id: None });
        };
        let Authorized { mut permit, body, id } =
            self.authorize(&snapshot, endpoint, head, caller, body, &mut RequestLabels::default()).await?;
        let slots = share_slots(std::mem::take(&mut permit.slots));
        let rejected = |rejection| RejectedRequest { filter: "dispatch", rejection, id: id.clone() };
        let mut temporary = None;
        let session = match (permit.client_era, session) {
            (Era::Modern, _) => None,
            (Era::Legacy, Some(session)) => Some(session),
            (Era::Legacy, None) => {
                let info = Bytes::from_static(crate::upstream::gateway_info().as_bytes());
                let none = Bytes::from_static(b"{}");
                let holder = OwnerKey::new(permit.caller.clone(), None);
                let opened = self.sessions.open(
                    holder,
                    &endpoint.path,
                    version::NEWEST_LEGACY,
                    none,
                    info,
                    session_limits(&snapshot),
                );
                match opened {
                    Ok(opened) => temporary = Some(opened),
                    Err(full) => return Err(rejected(Box::new(full.rejection()))),
                }
                temporary.clone()
            }
        };
        let authorized = AuthorizedRequest {
            snapshot: &snapshot,
            endpoint,
            session: session.as_ref(),
            sse_client: None,
            client: None,
            permit,
            slots: slots.clone(),
            body,
            events: false,
        };
        let messages = match self.dispatch(authorized, &mut RequestLabels::default()).await {
            Ok(Dispatch::Respond(reply)) => MessageStream::of(last(Ok(reply.body))),
            Ok(Dispatch::Stream(messages)) => messages,
            Ok(Dispatch::Bridge(call)) => match self.bridge.start(*call, None) {
                Ok(messages) => messages,
                Err(rejection) => MessageStream::of(last(Err(rejection))),
            },
            Ok(Dispatch::Task(call)) => match self.tasks.start(*call, None) {
                Ok(messages) => messages,
                Err(rejection) => MessageStream::of(last(Err(rejection))),
            },
            Ok(Dispatch::Forward(upstream_request)) => {
                forwarded::start(upstream_request, None, &self.runtime, slots, self.metrics.clone())
            }
            Err(rejection) => {
                if let Some(temporary) = temporary {
                    self.sessions.end(&temporary);
                }
                return Err(rejected(rejection));
            }
        };
        let messages = match temporary {
            Some(temporary) => self.in_temporary(temporary, messages),
            None => messages,
        };
        Ok((messages, id))
    }
}

impl Dispatcher {
    /// Ends the session with the stream, before its last message: its reader may end the process then.
    fn in_temporary(&self, temporary: Arc<Session>, messages: MessageStream) -> MessageStream {
        let (out, items) = mpsc::channel(1);
        let MessageStream { items: mut inner, stream, abort_on_drop, final_message } = messages;
        let sessions = self.sessions.clone();
        self.runtime.spawn(async move {
            let _abort_on_drop = abort_on_drop;
            loop {
                let item = tokio::select! {
                    item = inner.recv() => item,
                    () = out.closed() => None,
                };
                match item {
                    Some(item @ StreamItem::Message(_)) => drop(out.send(item).await),
                    item => {
                        sessions.end(&temporary);
                        if let Some(item) = item {
                            let _ = out.send(item).await;
                        }
                        return;
                    }
                }
            }
        });
        MessageStream { items, stream, abort_on_drop: None, final_message }
    }
}
