//! Batches of 2025-03-26, the only version that has them: many messages in one POST, and their responses in
//! one array.
//!
//! Each message is authorized, dispatched and sent by itself, as if it had come alone. Limits count each
//! message, and a rejected message does not affect the others. The bytes that were authorized are the bytes
//! that are sent, so no server receives an array. The responses are written when the last one has arrived.
//! A message that a server sends in the meantime makes the response a stream.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use filters::rate_limit::Slots;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use mcp::json::reader::{DEPTH_CEILING, JsonReader};
use mcp::rejection::code;
use mcp::{Era, MessageKind, Reason, Rejection};
use pingora::proxy::Session;
use tokio::sync::mpsc;

use super::accept_header::AcceptedTypes;
use super::{Gateway, RequestContext, request_head, respond, stream_response};
use crate::catalog::Endpoint;
use crate::dispatch::authorize::{Authorized, RejectedRequest, share_slots};
use crate::dispatch::{AuthorizedRequest, Dispatch, RequestLabels, Response};
use crate::session;
use crate::streams::{MessageStream, StreamItem};
use crate::telemetry::Outcome;
use mcp::jsonrpc::message;
use mcp::version;

/// Messages in one batch, and how many of them are processed at a time.
const MAX_MESSAGES: usize = 64;
const AT_ONCE: usize = 16;

/// The work on one message.
struct BatchItem {
    /// The client expects a response.
    expects_response: bool,
    /// Produces the response.
    work: BoxFuture<'static, Bytes>,
}

impl Gateway {
    /// The session of a batch, if this body is a batch and the session may send one. Anything else is
    /// rejected later, when the body is read as a message; a session that has ended is rejected there too.
    pub fn batch_session(
        &self,
        session: &Session,
        ctx: &RequestContext,
        endpoint: &Endpoint,
        body: &[u8],
    ) -> Result<Option<Arc<session::Session>>, Rejection> {
        if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'[') {
            return Ok(None);
        }
        let Some(caller) = &ctx.caller else { return Ok(None) };
        match request_head::find(&self.dispatcher, session, endpoint, caller) {
            Ok(client) => Ok(version::has_batches(client.version).then_some(client)),
            Err(rejection) if rejection.status == 404 => Err(rejection),
            Err(_) => Ok(None),
        }
    }

    /// Responds to a batch.
    pub async fn batch(
        &self,
        session: &mut Session,
        ctx: &mut RequestContext,
        endpoint: &Arc<Endpoint>,
        client: Arc<session::Session>,
        body: Bytes,
    ) -> pingora::Result<()> {
        ctx.labels.method = "_batch";
        let messages = match messages(&body) {
            Ok(messages) => messages,
            Err(rejection) => {
                ctx.refuse("size", Box::new(rejection));
                return respond::write_error(session, ctx).await;
            }
        };
        let (text, receiver) = mpsc::channel(32);
        let mut tasks: Vec<BatchItem> = Vec::with_capacity(messages.len());
        for message in messages {
            tasks.push(self.begin(session, ctx, endpoint, &client, message, &text).await);
            // Authorizing a message takes time that other tasks on this thread need too.
            tokio::task::yield_now().await;
        }
        let silent = !tasks.iter().any(|task| task.expects_response);
        let max = ctx.snapshot.config.config.limits.max_response.as_usize();
        let work = async move {
            let work =
                tasks.into_iter().map(|task| task.work.map(move |answer| (task.expects_response, answer)));
            let mut work = futures::stream::iter(work).buffered(AT_ONCE);
            let mut answers = BatchResponse { text: BytesMut::from("["), max };
            while let Some((asks, answer)) = work.next().await {
                if asks {
                    answers.add(&answer);
                }
            }
            // The client may have disconnected. That does not end calls of this version.
            let _ = text.send(StreamItem::Final(answers.array())).await;
        };
        self.dispatcher.runtime.spawn(work);
        if silent {
            return respond::write_response(session, ctx, Response::accepted()).await;
        }
        let message_stream =
            MessageStream { items: receiver, stream: false, abort_on_drop: None, final_message: None };
        stream_response::stream_to_client(session, ctx, Era::Legacy, message_stream, &self.dispatcher).await
    }

    /// Authorizes and dispatches one message of a batch, and returns the remaining work on it.
    async fn begin(
        &self,
        session: &Session,
        ctx: &RequestContext,
        endpoint: &Arc<Endpoint>,
        client: &Arc<session::Session>,
        body: Bytes,
        text: &mpsc::Sender<StreamItem>,
    ) -> BatchItem {
        let asks = mcp::jsonrpc::request::read(&body, DEPTH_CEILING)
            .map_or(true, |rpc| rpc.kind == MessageKind::Request);
        let mut labels = RequestLabels::default();
        let authorized = self.exit(session, ctx, endpoint, client, body, &mut labels).await;
        let (metrics, dropped) = (self.dispatcher.metrics.clone(), labels.dropped);
        let count = move |outcome| labels.count(&metrics, outcome);
        let (exit, id, held) = match authorized {
            Ok(authorized) => authorized,
            Err(RejectedRequest { filter, rejection, id }) => {
                self.dispatcher.metrics.rejected(filter, rejection.reason);
                count(if rejection.status >= 502 { Outcome::Failed } else { Outcome::Refused });
                let answer = message::rejection_response(id.as_deref(), &rejection);
                return BatchItem { expects_response: asks, work: std::future::ready(answer).boxed() };
            }
        };
        // A server's requests during the call reach only a client that accepts a stream.
        let no_stream = (!AcceptedTypes::of(session).events).then(|| client.clone());
        let work = self.pending_response(session, ctx, exit, text.clone(), no_stream).await;
        let work = async move {
            let _held = held;
            let answer = work.await;
            let failed =
                |answer: &Bytes| message::read(answer).is_some_and(|message| message.error.is_some());
            count(match &answer {
                Ok(_) if dropped => Outcome::Refused,
                Ok(answer) if failed(answer) => Outcome::Error,
                Ok(_) => Outcome::Ok,
                Err(_) => Outcome::Failed,
            });
            answer.unwrap_or_else(|rejection| message::rejection_response(id.as_deref(), &rejection))
        };
        BatchItem { expects_response: asks, work: work.boxed() }
    }

    async fn exit(
        &self,
        session: &Session,
        ctx: &RequestContext,
        endpoint: &Arc<Endpoint>,
        client: &Arc<session::Session>,
        body: Bytes,
        labels: &mut RequestLabels,
    ) -> Result<(Dispatch, Option<Bytes>, Option<Arc<Slots>>), RejectedRequest> {
        let snapshot = &ctx.snapshot;
        let caller = ctx.caller.clone().unwrap_or_else(|| snapshot.config.chain.anonymous());
        let head = request_head::head(session, ctx.client);
        let Authorized { mut permit, body, id } =
            self.dispatcher.authorize(snapshot, endpoint, head, caller, body, labels).await?;
        let rejected = |rejection| RejectedRequest { filter: "dispatch", rejection, id: id.clone() };
        let opens = permit.rpc.method.is_some_and(|method| method.is(&body, "initialize"));
        if opens || !permit.client_era.codec().has_sessions() {
            let message = "this message cannot be part of a batch; send it alone";
            return Err(rejected(Box::new(invalid(Reason::BatchMember, message))));
        }
        let held = share_slots(std::mem::take(&mut permit.slots));
        let authorized = AuthorizedRequest {
            snapshot,
            endpoint,
            session: Some(client),
            sse_client: None,
            client: ctx.client,
            permit,
            slots: held.clone(),
            body,
            events: false,
        };
        let exit = self.dispatcher.dispatch(authorized, labels).await.map_err(rejected)?;
        Ok((exit, id, held))
    }
}

/// The messages of a batch as ranges of its bytes; no two requests share an id.
fn messages(body: &Bytes) -> Result<Vec<Bytes>, Rejection> {
    let mut all = Vec::new();
    let mut count = 0;
    let read = JsonReader::new(body, DEPTH_CEILING).and_then(|mut reader| {
        reader.array(|r| {
            let span = r.value()?;
            count += 1;
            if count <= MAX_MESSAGES {
                all.push(body.slice(span.start..span.end));
            }
            Ok(())
        })?;
        reader.end()
    });
    if let Err(fault) = read {
        return Err(Rejection::new(
            400,
            code::PARSE,
            Reason::NotJson,
            format!("the body is not JSON: {fault}"),
        ));
    }
    if count == 0 {
        return Err(invalid(Reason::BatchEmpty, "a batch must have at least one message"));
    }
    if count > MAX_MESSAGES {
        return Err(invalid(Reason::BatchTooLong, "a batch may have at most 64 messages"));
    }
    let mut ids: Vec<&[u8]> = Vec::new();
    for message in &all {
        let Some(read) = message::read(message).filter(message::ServerMessage::is_request) else { continue };
        let Some(id) = read.id.map(|id| id.of(message)) else { continue };
        if ids.iter().any(|known| message::same_id(known, id)) {
            return Err(invalid(Reason::BatchIdTwice, "two requests of the batch have the same id"));
        }
        ids.push(id);
    }
    Ok(all)
}

fn invalid(reason: Reason, message: &'static str) -> Rejection {
    Rejection::new(400, code::INVALID_REQUEST, reason, message)
}

/// The array of the responses so far.
struct BatchResponse {
    text: BytesMut,
    /// Maximum size, in bytes.
    max: usize,
}

impl BatchResponse {
    /// Adds a response. One that does not fit becomes an error under its id.
    fn add(&mut self, answer: &[u8]) {
        if self.text.len() > 1 {
            self.text.put_u8(b',');
        }
        if self.text.len() + answer.len() <= self.max {
            return self.text.put_slice(answer);
        }
        let text = format!("the answers of the batch together are longer than {} bytes", self.max);
        let rejection = Rejection::http(502, Reason::UpstreamTooLarge, text);
        let id = message::read(answer).and_then(|message| message.id).map(|id| id.of(answer));
        self.text.put_slice(&message::rejection_response(id, &rejection));
    }

    fn array(mut self) -> Bytes {
        self.text.put_u8(b']');
        self.text.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_do_not_fit_together_become_errors() {
        let mut answers = BatchResponse { text: BytesMut::from("["), max: 60 };
        let long = format!(r#"{{"jsonrpc":"2.0","id":2,"result":"{}"}}"#, "x".repeat(60));
        for answer in [r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, &long] {
            answers.add(answer.as_bytes());
        }
        let all: serde_json::Value = serde_json::from_slice(&answers.array()).expect("JSON");
        assert_eq!((&all[0]["id"], &all[0]["result"]), (&1.into(), &serde_json::json!({})));
        assert_eq!((&all[1]["id"], &all[1]["error"]["code"]), (&2.into(), &502.into()));
    }

    #[test]
    fn a_batch_is_read_as_places_in_its_bytes() {
        let body = Bytes::from_static(b" [ {\"a\": [1,2]} ,3, \"]\" ] ");
        let all = messages(&body).expect("a batch");
        assert_eq!(all, [&b"{\"a\": [1,2]}"[..], b"3", b"\"]\""]);
        assert_eq!(
            messages(&Bytes::from_static(b"[] x")).expect_err("more follows").reason.as_str(),
            "not_json"
        );
    }
}
