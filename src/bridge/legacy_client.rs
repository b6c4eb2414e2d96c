//! A legacy client calls a modern server. A result that asks for input becomes requests on the stream of the
//! call; their answers go to the server with a retry (2026-07-28, basic/utilities/mrtr).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use http::HeaderValue;
use mcp::bridge::params::Envelope;
use mcp::bridge::questions::{self, InputRequired, Question};
use mcp::bridge::results::{self, LegacyResult};
use mcp::bridge::{capabilities, content, errors, params};
use mcp::jsonrpc::message;
use mcp::rejection::code;
use mcp::{Era, Reason, Rejection, version};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::server_side::{SentRequest, ServerSide};
use super::{Bridge, BridgedRequest, MAX_ROUNDS, PERSON_TIMEOUT};
use crate::session::{ClientReply, InFlight, Session};
use crate::streams::{MessageStream, StreamItem};
use crate::upstream::{RpcOutcome, UpstreamError};

/// The pause before a retry without answers, at first and at most: the server only asked for time.
const PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Starts the call on the long-lived runtime. A client of this era ends it by a cancellation, not by
/// disconnecting (2025-11-25, basic/transports).
pub(super) fn start(
    bridge: &Arc<Bridge>,
    call: BridgedRequest,
    session: Arc<Session>,
    bearer: Option<HeaderValue>,
) -> MessageStream {
    let (out, items) = mpsc::channel(32);
    let stop = CancellationToken::new();
    let in_flight = InFlight::begin(&session, call.id.clone(), None, &call.server, Some(stop.clone()));
    let (bridge, server) = (bridge.clone(), call.server.clone());
    let runtime = bridge.runtime.clone();
    runtime.spawn(async move {
        let ended = session.end();
        let last = tokio::select! {
            last = run(&bridge, call, &session, bearer, &out) => last,
            () = stop.cancelled() => {
                let message = "the request was cancelled by its sender";
                Err(Box::new(Rejection::http(499, Reason::Cancelled, message)))
            }
            () = ended.cancelled() => Err(Box::new(UpstreamError::SessionClosed.rejection(&server.name))),
        };
        drop(in_flight);
        let _ = out.send(last.map_or_else(StreamItem::Rejected, StreamItem::Final)).await;
    });
    MessageStream { items, stream: false, abort_on_drop: None, final_message: None }
}

async fn run(
    bridge: &Bridge,
    call: BridgedRequest,
    session: &Arc<Session>,
    bearer: Option<HeaderValue>,
    out: &mpsc::Sender<StreamItem>,
) -> Result<Bytes, Box<Rejection>> {
    let level = session.client_state.level();
    let log_level = level.as_ref().and_then(|params| Some(message::member(params, "level")?.of(params)));
    let declared = capabilities::client_to_modern(session.capabilities()).unwrap_or_else(|| b"{}".to_vec());
    let envelope = Envelope {
        version: version::NEWEST_MODERN,
        client_info: session.client_info(),
        capabilities: &declared,
        log_level,
    };
    let mut params =
        params::to_modern(&call.params, &envelope).ok_or_else(|| Box::new(unreadable_params()))?;
    let BridgedRequest { server, method, id, token, wraps_output, slots: _slots, events, .. } = call;
    let call_guard = server.begin_call().map_err(|error| Box::new(error.rejection(&server.name)))?;
    let side = ServerSide {
        server: server.clone(),
        server_era: Era::Modern,
        method,
        session: None,
        token,
        param_headers: call.param_headers,
        idempotent: call.idempotent,
        affinity_key: call.affinity_key,
        logs: log_level.is_some(),
        redactor: call.redactor,
        bearer,
        metrics: bridge.metrics.clone(),
    };
    let mut first = Some(call_guard);
    let (started, mut rounds, mut pause) = (Instant::now(), 0, PAUSE);
    loop {
        let guard = match first.take() {
            Some(guard) => guard,
            // A call that was admitted goes on: its client has answered.
            None => server.begin_call().unwrap_or_else(|_| server.untracked()),
        };
        let (notes, mut received) = mpsc::channel::<Bytes>(32);
        let sent = SentRequest { ids: side.ids(), in_flight: None };
        let pass_on = async {
            while let Some(note) = received.recv().await {
                // A client that has left gets no more of them; its call goes on.
                let _ = out.send(StreamItem::Message(note)).await;
            }
        };
        let (outcome, ()) = tokio::join!(side.request(params.clone(), guard, sent, notes), pass_on);
        let result = match outcome? {
            RpcOutcome::Result(result) => result,
            RpcOutcome::Error(error) => {
                let error =
                    errors::to_legacy(&error).ok_or_else(|| side.nonsense("an error without a code"))?;
                return Ok(message::error_response(&id, &error));
            }
        };
        match results::to_legacy(method, &result, wraps_output) {
            None => return Err(side.nonsense("a result that is no object")),
            Some(LegacyResult::Complete(result)) => {
                let older = content::to_older(session.version, method, &result);
                return Ok(message::result(&id, older.as_deref().unwrap_or(&result)));
            }
            Some(LegacyResult::Unknown(kind)) => {
                let kind: String = kind.chars().filter(|c| !c.is_control()).take(40).collect();
                return Err(side.nonsense(format!(
                    "its result is of the type `{kind}`, which a client of this era cannot read"
                )));
            }
            Some(LegacyResult::InputRequired) => {}
        }
        let asked =
            questions::read(&result).map_err(|why| side.nonsense(format!("it asks for input, but {why}")))?;
        if asked.questions.is_empty() {
            if started.elapsed() + pause > server.timeout {
                return Err(Box::new(UpstreamError::TimedOut(server.timeout).rejection(&server.name)));
            }
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(MAX_PAUSE);
        } else {
            rounds += 1;
        }
        if rounds >= MAX_ROUNDS {
            return Err(side.nonsense(format!("it asked for input {MAX_ROUNDS} times in one call")));
        }
        let answers = ask(&side, session, &asked, events, out).await?;
        params = params::retry(&params, &questions::input_responses(&answers), asked.state.as_deref())
            .ok_or_else(|| Box::new(unreadable_params()))?;
    }
}

/// Asks the client everything at once and waits for all answers.
async fn ask(
    side: &ServerSide,
    session: &Arc<Session>,
    asked: &InputRequired,
    events: bool,
    out: &mpsc::Sender<StreamItem>,
) -> Result<Vec<(String, Vec<u8>)>, Box<Rejection>> {
    let refused = |why: String| {
        let text =
            format!("the server `{}` asks for input that this client cannot give: {why}", side.server.name);
        Box::new(Rejection::new(200, code::INTERNAL, Reason::InputRefused, text))
    };
    // Before anything is asked: a server that gets half of its answers asks for the others again.
    let mut requests = Vec::with_capacity(asked.questions.len());
    for question in &asked.questions {
        if !questions::is_declared(question, session.capabilities()) {
            return Err(refused(format!("it has not declared `{}`", question.method.as_str())));
        }
        if !events {
            return Err(refused("it accepts no event stream".into()));
        }
        let elicitation_id = crate::upstream::WireId::next();
        let elicitation_id = elicitation_id.as_str().trim_matches('"');
        requests.push(questions::to_legacy(question, session.version, elicitation_id).map_err(refused)?);
    }
    let waiting = asked.questions.iter().zip(requests).map(|(question, params)| async move {
        let pending = session.questions.ask(&side.server, question.method);
        let request = message::request(pending.id(), question.method.as_str(), &params);
        let request = match &side.redactor {
            None => request,
            Some(redactor) => match redactor.message(&request) {
                Ok(clean) => clean.unwrap_or(request),
                Err(error) => return Err(Box::new(error.rejection(&side.server.name))),
            },
        };
        if out.send(StreamItem::Message(request)).await.is_err() {
            return Err(Box::new(UpstreamError::SessionClosed.rejection(&side.server.name)));
        }
        let reply = tokio::time::timeout(PERSON_TIMEOUT, pending.reply());
        answer_of(question, reply.await.unwrap_or(None))
    });
    tokio::select! {
        answers = try_join_all(waiting) => answers,
        // The stream on which the client was asked is gone, and with it the way of the question.
        () = out.closed(), if !asked.questions.is_empty() => {
            Err(Box::new(UpstreamError::SessionClosed.rejection(&side.server.name)))
        }
    }
}

/// The answer as the server gets it. Only results have a form there; a client that answers with an error ends
/// the call.
fn answer_of(question: &Question, reply: Option<ClientReply>) -> Result<(String, Vec<u8>), Box<Rejection>> {
    let failed = |text: String| Box::new(Rejection::new(200, code::INTERNAL, Reason::InputRefused, text));
    match reply {
        Some(ClientReply::Result(result)) if result.first() == Some(&b'{') => {
            Ok((question.key.clone(), result.to_vec()))
        }
        Some(ClientReply::Result(_)) => {
            Err(failed(format!("the client's answer to `{}` is no object", question.method.as_str())))
        }
        Some(ClientReply::Error(error)) => {
            let message =
                message::member(&error, "message").and_then(|text| message::string(text.of(&error)));
            let message = message.unwrap_or_else(|| "no reason".into());
            Err(failed(format!("the client refused `{}`: {message}", question.method.as_str())))
        }
        None => Err(failed(format!("the client did not answer `{}` in time", question.method.as_str()))),
    }
}

fn unreadable_params() -> Rejection {
    Rejection::new(
        200,
        code::INVALID_PARAMS,
        Reason::InvalidParams,
        "`params` and `params._meta` must be objects",
    )
}
