//! What a server hears about its requests: the client's answer, a refusal, or that there will be none.

use bytes::Bytes;
use mcp::Rejection;
use mcp::jsonrpc::message;
use mcp::method::Method;
use mcp::rejection::code;
use tokio::sync::Semaphore;

use super::{Asked, Driver};
use crate::exchange::{ForwardedAnswer, UpstreamRequest, UpstreamRequestKind};
use crate::session::{ClientAnswer, id_map};

/// Refusals that are sent at a time, of all calls: servers may ask without end.
static IN_BACKGROUND: Semaphore = Semaphore::const_new(64);

impl Driver {
    /// Sends the client's answer to the server, in the session where it asked.
    ///
    /// # Errors
    ///
    /// It did not reach the server. A question that is not open any more is none.
    pub(super) async fn answer(&self, question: &Asked, answer: &[u8]) -> Result<(), Box<Rejection>> {
        let Some(request) = self.reply_to(&question.id, |raw| message::result(raw, answer)) else {
            return Ok(());
        };
        request.call(self.side.bearer.clone(), None, &self.side.metrics).await.map(drop)
    }

    /// A message to the server about a request of its own; `None` if that is not open any more.
    fn reply_to(&self, id: &[u8], body: impl FnOnce(&[u8]) -> Bytes) -> Option<UpstreamRequest> {
        let session = &self.session.as_ref()?.session;
        let (number, raw) = id_map::parse_request_id(id)?;
        let (server, upstream_session) = session.upstream_session_by_id(number)?;
        let pending = ClientAnswer::begin(session, number, raw.as_bytes())?;
        let answer = ForwardedAnswer {
            body: body(raw.as_bytes()),
            session: session.clone(),
            upstream_session,
            pending,
        };
        let kind = UpstreamRequestKind::Answer(answer);
        Some(UpstreamRequest::new(server.clone(), kind, server.untracked(), None))
    }

    pub(super) fn send_in_background(&self, id: &[u8], body: impl FnOnce(&[u8]) -> Bytes) {
        let Ok(permit) = IN_BACKGROUND.try_acquire() else { return };
        let Some(request) = self.reply_to(id, body) else { return };
        let (bearer, metrics) = (self.side.bearer.clone(), self.side.metrics.clone());
        self.bridge.runtime.spawn(async move {
            let _permit = permit;
            if let Err(rejection) = request.call(bearer, None, &metrics).await {
                tracing::debug!(why = %rejection.message, "a request of a server was not declined");
            }
        });
    }

    /// The client never came back: the server hears of it, and the call is cancelled.
    pub(super) fn give_up(&self, asked: &[Asked]) {
        tracing::info!(server = %self.side.server.name, "a client did not answer in time, and its call is cancelled");
        for question in asked {
            match question.method {
                Method::Elicit => {
                    self.send_in_background(&question.id, |raw| {
                        message::result(raw, br#"{"action":"cancel"}"#)
                    });
                }
                _ => {
                    let error = format!(
                        r#"{{"code":{},"message":"the client did not answer in time"}}"#,
                        code::INTERNAL
                    );
                    self.send_in_background(&question.id, |raw| {
                        message::error_response(raw, error.as_bytes())
                    });
                }
            }
        }
    }
}
