//! Batches of 2025-03-26, the only revision that has them: many messages in one POST, and their answers in one array.
//!
//! Each message is judged, led and sent by itself, as if it had come alone: limits count each, and one that is refused
//! costs the others nothing. What was judged is what is sent, so no server gets to see an array. The answers come when
//! the last of them is there; what servers say on the way makes the answer a stream.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use filters::rate_limit::Held;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use http::HeaderValue;
use mcp::json::reader::{DEPTH_CEILING, Reader};
use mcp::rejection::code;
use mcp::{Era, Kind, Refusal};
use pingora::proxy::Session;
use tokio::sync::mpsc;

use super::accept::Takes;
use super::negotiated_response::decline;
use super::{Ctx, Gateway, request_head, respond, stream_response, upstream_auth};
use crate::catalog::Endpoint;
use crate::dispatch::authorize::{Halt, Judged, kept};
use crate::dispatch::{Door, Exit, Leave, Led, Reply, Told};
use crate::session;
use crate::streams::{Talk, Word};
use crate::telemetry::Outcome;
use mcp::jsonrpc::message;
use mcp::version;

/// Messages in one batch, and how many of them are worked on at a time.
const MOST: usize = 64;
const AT_ONCE: usize = 16;

/// The work on one message.
struct Task {
    /// The client waits for what comes of it.
    asks: bool,
    /// Gives the answer.
    work: BoxFuture<'static, Bytes>,
}

impl Gateway {
    /// The session that a batch belongs to, where this body is one and the session may send it. What is no batch, or of
    /// no session, is refused by whoever reads it as a message; one whose session is over, as every message of that is.
    pub fn batching(
        &self,
        session: &Session,
        ctx: &Ctx,
        endpoint: &Endpoint,
        body: &[u8],
    ) -> Result<Option<Arc<session::Session>>, Refusal> {
        if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'[') {
            return Ok(None);
        }
        let Some(caller) = &ctx.caller else { return Ok(None) };
        match request_head::find(&self.door, session, endpoint, caller) {
            Ok(client) => Ok(version::has_batches(client.version).then_some(client)),
            Err(refusal) if refusal.status == 404 => Err(refusal),
            Err(_) => Ok(None),
        }
    }

    /// Answers a batch.
    pub async fn batch(
        &self,
        session: &mut Session,
        ctx: &mut Ctx,
        endpoint: &Arc<Endpoint>,
        client: Arc<session::Session>,
        body: Bytes,
    ) -> pingora::Result<()> {
        ctx.told.method = "_batch";
        let messages = match messages(&body) {
            Ok(messages) => messages,
            Err(refusal) => {
                ctx.refuse("size", Box::new(refusal));
                return respond::failure(session, ctx).await;
            }
        };
        let (words, receiver) = mpsc::channel(32);
        let mut tasks: Vec<Task> = Vec::with_capacity(messages.len());
        for message in messages {
            tasks.push(self.begin(session, ctx, endpoint, &client, message, &words).await);
            // Each is judged, which others on this thread do not wait for.
            tokio::task::yield_now().await;
        }
        let silent = !tasks.iter().any(|task| task.asks);
        let most = ctx.house.plan.config.limits.max_response.as_usize();
        let work = async move {
            let work = tasks.into_iter().map(|task| task.work.map(move |answer| (task.asks, answer)));
            let mut work = futures::stream::iter(work).buffered(AT_ONCE);
            let mut answers = Answers { text: BytesMut::from("["), most };
            while let Some((asks, answer)) = work.next().await {
                if asks {
                    answers.add(&answer);
                }
            }
            // Nobody may be there any more: that does not end calls of this revision.
            let _ = words.send(Word::Last(answers.array())).await;
        };
        self.door.core.spawn(work);
        if silent {
            return respond::whole(session, ctx, Reply::accepted()).await;
        }
        let talk = Talk { words: receiver, stream: false, leash: None, goodbye: None };
        stream_response::talk(session, ctx, Era::Legacy, talk, &self.door).await
    }

    /// Judges and leads one message of a batch, and gives the rest of the work on it.
    async fn begin(
        &self,
        session: &Session,
        ctx: &Ctx,
        endpoint: &Arc<Endpoint>,
        client: &Arc<session::Session>,
        body: Bytes,
        words: &mpsc::Sender<Word>,
    ) -> Task {
        let asks =
            mcp::jsonrpc::request::read(&body, DEPTH_CEILING).map_or(true, |rpc| rpc.kind == Kind::Request);
        let mut told = Told::default();
        let led = self.exit(session, ctx, endpoint, client, body, &mut told).await;
        let (metrics, dropped) = (self.door.metrics.clone(), told.dropped);
        let count = move |outcome| match &told.counted {
            Some(counted) => counted.count(outcome),
            None => metrics.count(if told.method.is_empty() { "_none" } else { told.method }, outcome),
        };
        let (exit, id, held) = match led {
            Ok(led) => led,
            Err(Halt { filter, refusal, id }) => {
                self.door.metrics.rejected(filter, refusal.reason);
                count(if refusal.status >= 502 { Outcome::Failed } else { Outcome::Refused });
                let answer = message::refusal(id.as_deref(), &refusal);
                return Task { asks, work: std::future::ready(answer).boxed() };
            }
        };
        let words = words.clone();
        let work: BoxFuture<'static, Result<Bytes, Box<Refusal>>> = match exit {
            Exit::Answer(reply) => std::future::ready(Ok(reply.body)).boxed(),
            Exit::Room(talk) => listen(talk, words).boxed(),
            Exit::Peer(leave) => match upstream_auth::bearer(session, ctx, &leave).await {
                Ok(bearer) => {
                    // What is asked on the way reaches only who takes a stream.
                    let deaf = (!Takes::of(session).events).then(|| client.clone());
                    send(leave, bearer, words, self.door.clone(), deaf).boxed()
                }
                Err(error) => std::future::ready(Err(Box::new(error.refusal(&leave.server.name)))).boxed(),
            },
        };
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
            answer.unwrap_or_else(|refusal| message::refusal(id.as_deref(), &refusal))
        };
        Task { asks, work: work.boxed() }
    }

    async fn exit(
        &self,
        session: &Session,
        ctx: &Ctx,
        endpoint: &Arc<Endpoint>,
        client: &Arc<session::Session>,
        body: Bytes,
        told: &mut Told,
    ) -> Result<(Exit, Option<Bytes>, Option<Arc<Held>>), Halt> {
        let house = &ctx.house;
        let caller = ctx.caller.clone().unwrap_or_else(|| house.plan.chain.anonymous());
        let head = request_head::head(session, ctx.client);
        let Judged { mut permit, body, id } =
            self.door.judge(house, endpoint, head, caller, body, told).await?;
        let halt = |refusal| Halt { filter: "door", refusal, id: id.clone() };
        let opens = permit.rpc.method.is_some_and(|method| method.is(&body, "initialize"));
        if opens || permit.era == Era::Modern {
            let words = "this message cannot be part of a batch; send it alone";
            return Err(halt(Box::new(invalid("batch_member", words))));
        }
        let held = kept(std::mem::take(&mut permit.held));
        let led = Led {
            house,
            endpoint,
            session: Some(client),
            client: ctx.client,
            permit,
            held: held.clone(),
            body,
            events: false,
        };
        let exit = self.door.lead(led, told).await.map_err(halt)?;
        Ok((exit, id, held))
    }
}

/// What a room says: its last word is the answer, the others go to the client at once.
async fn listen(mut talk: Talk, words: mpsc::Sender<Word>) -> Result<Bytes, Box<Refusal>> {
    loop {
        match talk.words.recv().await {
            Some(Word::Last(answer)) => return Ok(answer),
            Some(Word::Refused(refusal)) => return Err(refusal),
            Some(Word::Taken) => return Ok(Bytes::new()),
            Some(note) => drop(words.send(note).await),
            None => {
                return Err(Box::new(Refusal::http(500, "no_answer", "the call ended without an answer")));
            }
        }
    }
}

/// Sends a message by the house's own client.
async fn send(
    leave: Leave,
    bearer: Option<HeaderValue>,
    words: mpsc::Sender<Word>,
    door: Arc<Door>,
    deaf: Option<Arc<session::Session>>,
) -> Result<Bytes, Box<Refusal>> {
    let (notes, mut said) = mpsc::channel::<Bytes>(8);
    let pass_on = async {
        while let Some(note) = said.recv().await {
            match &deaf {
                Some(client) => decline(&door, client, &note),
                // For one who has left, the rest is only read.
                None => drop(words.send(Word::Note(note)).await),
            }
        }
    };
    tokio::join!(leave.ask(bearer, Some(notes), &door.metrics), pass_on).0
}

/// The messages of a batch as places in its bytes; no two requests of one id.
fn messages(body: &Bytes) -> Result<Vec<Bytes>, Refusal> {
    let mut all = Vec::new();
    let mut count = 0;
    let read = Reader::new(body, DEPTH_CEILING).and_then(|mut reader| {
        reader.array(|r| {
            let span = r.value()?;
            count += 1;
            if count <= MOST {
                all.push(body.slice(span.start..span.end));
            }
            Ok(())
        })?;
        reader.end()
    });
    if let Err(fault) = read {
        return Err(Refusal::new(400, code::PARSE, "not_json", format!("the body is not JSON: {fault}")));
    }
    if count == 0 {
        return Err(invalid("batch_empty", "a batch must have at least one message"));
    }
    if count > MOST {
        return Err(invalid("batch_too_long", "a batch may have at most 64 messages"));
    }
    let mut ids: Vec<&[u8]> = Vec::new();
    for message in &all {
        let Some(read) = message::read(message).filter(message::Incoming::is_request) else { continue };
        let Some(id) = read.id.map(|id| id.of(message)) else { continue };
        if ids.iter().any(|known| message::same_id(known, id)) {
            return Err(invalid("batch_id_twice", "two requests of the batch have the same id"));
        }
        ids.push(id);
    }
    Ok(all)
}

fn invalid(reason: &'static str, words: &'static str) -> Refusal {
    Refusal::new(400, code::INVALID_REQUEST, reason, words)
}

/// The array of the answers, as far as it has come.
struct Answers {
    text: BytesMut,
    /// Bytes that it may have.
    most: usize,
}

impl Answers {
    /// An answer that does not fit becomes an error under its id.
    fn add(&mut self, answer: &[u8]) {
        if self.text.len() > 1 {
            self.text.put_u8(b',');
        }
        if self.text.len() + answer.len() <= self.most {
            return self.text.put_slice(answer);
        }
        let words = format!("the answers of the batch together are longer than {} bytes", self.most);
        let refusal = Refusal::http(502, "upstream_too_large", words);
        let id = message::read(answer).and_then(|message| message.id).map(|id| id.of(answer));
        self.text.put_slice(&message::refusal(id, &refusal));
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
        let mut answers = Answers { text: BytesMut::from("["), most: 60 };
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
        assert_eq!(messages(&Bytes::from_static(b"[] x")).expect_err("more follows").reason, "not_json");
    }
}
