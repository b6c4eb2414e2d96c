//! The long-lived streams: the GET stream of a legacy session, and `subscriptions/listen` of 2026-07-28.
//! Both are opened again whenever they end, for as long as the client wants them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use http::{HeaderValue, StatusCode};
use mcp::Rejection;
use mcp::json::quote::quote;
use tokio::time::Instant;

use super::StdioFrontend;
use super::events::{EventKind, Events, classify, is_stream};
use super::gateway_session::GatewaySession;
use super::in_flight::StdioCall;
use super::response::{ReadOutcome, passes};
use mcp::jsonrpc::message;
use mcp::jsonrpc::message::SUBSCRIPTION_ID;

/// The pause before a stream is opened again; longer each time, unless it lasted for a while.
#[derive(Debug)]
struct Backoff(Duration);

const MIN: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(5);

impl Backoff {
    async fn after(&mut self, lasted: Duration, asked: Option<Duration>) {
        if lasted > MAX {
            self.0 = MIN;
        }
        tokio::time::sleep(asked.unwrap_or(self.0)).await;
        self.0 = (self.0 * 2).min(MAX);
    }
}

impl StdioFrontend {
    /// Reads the gateway's unrequested messages in a session, until the session ends or the gateway has no
    /// such stream. It may open another session, which has a stream of its own.
    pub(super) fn listen_loop(self: Arc<Self>, session: Arc<GatewaySession>) -> BoxFuture<'static, ()> {
        let over = session.over.clone();
        async move {
            tokio::select! {
                biased;
                () = over.cancelled() => {}
                () = self.read_stream(session) => {}
            }
        }
        .boxed()
    }

    async fn read_stream(self: &Arc<Self>, session: Arc<GatewaySession>) {
        let (mut pause, mut last) = (Backoff(MIN), None::<HeaderValue>);
        loop {
            let (opened, mut retry) = (Instant::now(), None);
            let answered = self.transport.get(session.headers(), last.take()).await;
            session.stream_settled.cancel();
            match answered {
                Ok(response) if response.status().is_success() && is_stream(&response) => {
                    let mut events = Events::of(response, self.settings.max_response);
                    while let Ok(Some(message)) = events.next().await {
                        if classify(&message, None) == EventKind::Message {
                            self.out.write(message).await;
                        }
                    }
                    (last, retry) = (events.last, events.retry);
                }
                Ok(response) if response.status() == StatusCode::NOT_FOUND && session.has_id() => {
                    match self.renew(&session).await {
                        // The new one has a stream of its own.
                        Ok(()) => return,
                        Err(rejection) => {
                            tracing::debug!(why = %rejection.message, "the session cannot be opened again")
                        }
                    }
                }
                Ok(response) if has_none(response.status()) => return,
                Ok(response) => tracing::debug!(status = %response.status(), "no stream for the session now"),
                Err(error) => tracing::debug!(%error, "no stream for the session now"),
            }
            pause.after(opened.elapsed(), retry).await;
        }
    }

    /// `subscriptions/listen`: acknowledged to the client once, and opened again under the same id.
    pub(super) async fn subscribe(&self, call: &StdioCall) -> Result<Option<Bytes>, Rejection> {
        let request = &call.request;
        let mut pause = Backoff(MIN);
        // The acknowledgement that the client has received.
        let mut promised: Option<Bytes> = None;
        loop {
            let opened = Instant::now();
            let sent = self.post(request.head(), request.line.clone(), Some(call.detached.clone())).await;
            let end = match sent {
                Ok(response) if response.status().is_success() && is_stream(&response) => {
                    self.subscribed(response, &request.id, &mut promised).await
                }
                Ok(response) => match self.read(response, &request.id, Some(call), None).await {
                    ReadOutcome::Response(answer) | ReadOutcome::SessionExpired(answer) => Some(answer),
                    ReadOutcome::Failed(rejection) => {
                        Some(message::rejection_response(Some(&request.id), &rejection))
                    }
                    ReadOutcome::Nothing => None,
                },
                Err(error) => Some(message::rejection_response(Some(&request.id), &error.rejection())),
            };
            // A gateway that stops ends its streams cleanly; another one will follow. A rejection at the
            // first attempt, or one that is the client's fault, is final.
            if let Some(end) = end
                && (promised.is_none() || is_final(&end))
            {
                return Ok(Some(end));
            }
            pause.after(opened.elapsed(), None).await;
        }
    }

    /// Forwards a subscription to its end; returns the final message, if there is one.
    async fn subscribed(
        &self,
        response: reqwest::Response,
        id: &[u8],
        promised: &mut Option<Bytes>,
    ) -> Option<Bytes> {
        let mut events = Events::of(response, self.settings.max_response);
        while let Ok(Some(message)) = events.next().await {
            match classify(&message, Some(id)) {
                EventKind::Response => return Some(message),
                EventKind::Invalid => {}
                EventKind::Message if !is_acknowledgement(&message) => self.out.write(message).await,
                EventKind::Message => {
                    let before = promised.replace(message.clone());
                    if before.as_ref() != Some(&message) {
                        self.out.write(message.clone()).await;
                    }
                    if before.is_some() {
                        // Changes in the meantime were not reported.
                        for notification in missed(&message, id) {
                            self.out.write(notification).await;
                        }
                    }
                }
            }
        }
        None
    }
}

fn is_acknowledgement(message: &[u8]) -> bool {
    message::read(message)
        .and_then(|read| read.method)
        .is_some_and(|method| method.is(message, message::ACKNOWLEDGED))
}

/// Whether another attempt is useless: the client's request itself is rejected.
fn is_final(end: &[u8]) -> bool {
    message::read(end).is_some_and(|read| read.error.is_some()) && !passes(end)
}

/// The promised notifications that may have been missed.
fn missed(acknowledgement: &[u8], id: &[u8]) -> Vec<Bytes> {
    let params =
        message::read(acknowledgement).and_then(|read| read.params).map(|span| span.of(acknowledgement));
    let promised = params.and_then(|params| Some(message::member(params, "notifications")?.of(params)));
    let Some(promised) = promised else { return Vec::new() };
    let kinds = [
        ("toolsListChanged", "tools"),
        ("promptsListChanged", "prompts"),
        ("resourcesListChanged", "resources"),
    ];
    let meta = format!(r#"{{"_meta":{{{}:{}}}}}"#, quote(SUBSCRIPTION_ID), String::from_utf8_lossy(id));
    kinds
        .into_iter()
        .filter(|(member, _)| {
            message::member(promised, member).is_some_and(|span| span.of(promised) == b"true")
        })
        .map(|(_, kind)| {
            message::notification(&format!("notifications/{kind}/list_changed"), meta.as_bytes())
        })
        .collect()
}

/// A gateway without such a stream; other rejections may be temporary.
fn has_none(status: StatusCode) -> bool {
    status.is_success() || matches!(status.as_u16(), 404 | 405 | 406 | 501)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_promised_is_told_as_changed_after_a_gap() {
        let ack = br#"{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"s"},"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a:b"]}}}"#;
        assert!(is_acknowledgement(ack));
        let notifications = missed(ack, b"\"s\"");
        assert_eq!(
            notifications,
            [
                r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"s"}}}"#
            ]
        );
    }

    #[test]
    fn a_subscription_comes_back_unless_the_client_is_at_fault() {
        let error =
            |code: i64| format!(r#"{{"jsonrpc":"2.0","id":1,"error":{{"code":{code},"message":"m"}}}}"#);
        for (code, end) in [(503, false), (429, false), (401, true), (-32602, true)] {
            assert_eq!(is_final(error(code).as_bytes()), end, "{code}");
        }
        assert!(!is_final(br#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}"#));
    }
}
