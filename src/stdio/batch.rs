//! Batches of 2025-03-26: one line with many messages is sent unchanged, and its responses come in one
//! line. The gateway decides whether the session has batches.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use mcp::MessageKind;
use mcp::json::reader::DEPTH_CEILING;
use mcp::rejection::code;
use mcp::{Reason, Rejection};

use super::StdioFrontend;
use super::events::{EventKind, Events, classify, is_stream};
use super::gateway_session::GatewaySession;
use super::response::{code_of, error_of, is_session_expired};
use mcp::jsonrpc::message;

impl StdioFrontend {
    pub(super) async fn batch(self: Arc<Self>, line: Bytes) {
        let Some(messages) = message::batch(&line) else {
            let message = "the line is neither a JSON-RPC message nor a batch of them";
            return self.log_invalid(Rejection::new(400, code::PARSE, Reason::NotJson, message)).await;
        };
        let asked: Vec<Bytes> = messages.iter().filter_map(asked).collect();
        match self.batched(line).await {
            Ok(Some(answer)) => self.out.write(answer).await,
            Ok(None) => {}
            Err(rejection) if asked.is_empty() => self.log_invalid(rejection).await,
            Err(rejection) => {
                let mut errors = BytesMut::from("[");
                for (place, id) in asked.iter().enumerate() {
                    if place > 0 {
                        errors.put_u8(b',');
                    }
                    errors.put_slice(&message::rejection_response(Some(id), &rejection));
                }
                errors.put_u8(b']');
                self.out.write(errors.freeze()).await;
            }
        }
    }

    /// Sends a batch; returns its responses, if there are any.
    async fn batched(self: &Arc<Self>, line: Bytes) -> Result<Option<Bytes>, Rejection> {
        let mut renewed = false;
        loop {
            let session = self.session.now();
            let headers = session.as_ref().map(|session| session.headers()).unwrap_or_default();
            let response = self.post(headers, line.clone(), None).await.map_err(|error| error.rejection())?;
            let status = response.status();
            if status.is_success() && is_stream(&response) {
                return self.batch_events(response).await.map(Some);
            }
            let broke = |why: String| {
                Rejection::http(
                    503,
                    Reason::UpstreamUnreachable,
                    format!("the gateway did not answer: {why}"),
                )
            };
            let body = self.whole(response).await.map_err(broke)?;
            let lost = session
                .filter(|session| GatewaySession::has_id(session) && is_session_expired(status, &body));
            match lost.filter(|_| !renewed) {
                Some(session) => {
                    renewed = true;
                    self.renew(&session).await?;
                }
                None if status.is_success() && body.is_empty() => return Ok(None),
                None if status.is_success() && message::batch(&body).is_some() => return Ok(Some(body)),
                None => return Err(refused(&body).unwrap_or_else(|| error_of(status, &body))),
            }
        }
    }

    async fn batch_events(&self, response: reqwest::Response) -> Result<Bytes, Rejection> {
        let mut events = Events::of(response, self.settings.max_response);
        let why = loop {
            match events.next().await {
                Ok(Some(message)) if message.first() == Some(&b'[') => return Ok(message),
                Ok(Some(message)) if classify(&message, None) == EventKind::Message => {
                    self.out.write(message).await
                }
                Ok(Some(_)) => {}
                Ok(None) => break String::from("the stream ended"),
                Err(why) => break why,
            }
        };
        Err(Rejection::http(
            503,
            Reason::UpstreamUnreachable,
            format!("the gateway did not answer to the end ({why})"),
        ))
    }
}

/// The id of a message that expects a response.
fn asked(message: &Bytes) -> Option<Bytes> {
    let rpc = mcp::jsonrpc::request::read(message, DEPTH_CEILING)
        .ok()
        .filter(|rpc| rpc.kind == MessageKind::Request)?;
    rpc.id.map(|id| message.slice(id.start..id.end))
}

/// An error for the batch as a whole.
fn refused(body: &[u8]) -> Option<Rejection> {
    let error = message::read(body)?.error?.of(body);
    let message = message::string(message::member(error, "message")?.of(error))?;
    Some(Rejection::new(400, code_of(error)?, Reason::BatchMember, message))
}
