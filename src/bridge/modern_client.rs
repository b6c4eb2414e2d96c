//! A modern client calls a legacy server. A request of the server during the call becomes a result that asks
//! for input; the call waits, parked, and the client's retry answers it (2026-07-28, basic/utilities/mrtr).

mod replies;
mod server_messages;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use filters::rate_limit::Slots;
use http::HeaderValue;
use mcp::bridge::questions::{self, Question};
use mcp::bridge::{errors, params, results};
use mcp::json::object::Object;
use mcp::method::Method;
use mcp::rejection::code;
use mcp::{Era, Reason, Rejection};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::client_sessions::CallSession;
use super::modern_subscriptions::SubscribedSession;
use super::outside_questions::{CallInProgress, can_be_asked};
use super::request_state::{self, Binding, Continuation};
use super::server_side::{SentRequest, ServerSide};
use super::{Bridge, BridgedRequest, MAX_ROUNDS, ModernClient, PERSON_TIMEOUT};
use crate::server::CallGuard;
use crate::session::{CancelOnDrop, InFlight, InFlightGuard};
use crate::store::parking::{Digest, ParkingId, Taken};
use crate::streams::StreamItem;
use crate::upstream::RpcOutcome;

/// `Retry-After` where too many calls wait for their clients.
const PARKING_RETRY: Duration = Duration::from_secs(30);
/// Questions of a server that are open in one call.
const MAX_OPEN: usize = questions::MAX_QUESTIONS;

/// One request of the client: the call, or a retry of it.
pub(super) struct Leg {
    pub(super) id: Bytes,
    /// The progress token, as written.
    pub(super) token: Option<Bytes>,
    /// `inputResponses` of a retry.
    pub(super) answers: Bytes,
    pub(super) out: mpsc::Sender<StreamItem>,
    /// The parking place that the retry has taken, which keeps its result.
    place: Option<ParkingId>,
    /// The caller's slots in limits, held while the leg waits. A call that waits for its client holds none.
    slots: Option<Arc<Slots>>,
    /// The `Authorization` of this request, for a server that is called in its caller's name.
    pub(super) bearer: Option<HeaderValue>,
}

impl Leg {
    /// `out` gets what the client is to get.
    pub(super) fn new(call: &BridgedRequest, client: &ModernClient, out: mpsc::Sender<StreamItem>) -> Self {
        Self {
            id: call.id.clone(),
            token: call.token.clone(),
            answers: client.input_responses.clone().unwrap_or_else(|| Bytes::from_static(b"{}")),
            out,
            place: None,
            slots: call.slots.clone(),
            bearer: None,
        }
    }

    /// A retry that another process has got, and whose slots it holds.
    pub(super) fn relayed(
        id: Bytes,
        token: Option<Bytes>,
        answers: Bytes,
        out: mpsc::Sender<StreamItem>,
        bearer: Option<HeaderValue>,
    ) -> Self {
        Self { id, token, answers, out, place: None, slots: None, bearer }
    }
}

/// A question of the server that is open.
struct Asked {
    /// The id of the server's request, with its upstream session in it.
    id: Bytes,
    key: String,
    method: Method,
    /// A member of `inputRequests`.
    request: Vec<u8>,
}

/// Begins a call.
pub(super) fn begin(
    bridge: &Arc<Bridge>,
    call: BridgedRequest,
    client: ModernClient,
    leg: Leg,
) -> Result<(), Box<Rejection>> {
    let driver = Driver::new(bridge, call, client, leg.bearer.clone())?;
    bridge.runtime.spawn(driver.run(leg));
    Ok(())
}

/// Hands a retry to the call that waits for it, or gives it the result that it had before.
pub(super) async fn resume(bridge: &Bridge, place: ParkingId, owner: Digest, mut leg: Leg) {
    let digest = request_state::answers_digest(&leg.answers);
    loop {
        let changed = bridge.parked.changed();
        match bridge.parked.take(&place, &owner, digest) {
            Taken::Value(waiting) => {
                leg.place = Some(place);
                if let Err(mpsc::error::SendError(leg)) = waiting.send(leg).await {
                    let _ = leg.out.send(StreamItem::Rejected(Box::new(request_state::invalid()))).await;
                }
                return;
            }
            Taken::Done(result) => {
                let _ = leg.out.send(StreamItem::Final(whole(&leg.id, &result))).await;
                return;
            }
            Taken::Nothing => {
                let _ = leg.out.send(StreamItem::Rejected(Box::new(request_state::invalid()))).await;
                return;
            }
            // Its first copy is still worked on: this one gets the same result.
            Taken::InProgress => tokio::select! {
                () = changed => {}
                () = leg.out.closed() => return,
            },
        }
    }
}

/// A call from its first request to its result, over all retries.
struct Driver {
    bridge: Arc<Bridge>,
    side: ServerSide,
    session: Option<CallSession>,
    /// The reader of the session's notification stream, where the server may ask, too.
    reader: Option<Arc<SubscribedSession>>,
    client: ModernClient,
    /// The params as the client wrote them, and what a retry is bound to. Only a call that is asked needs that.
    call_params: Bytes,
    binding: OnceLock<Binding>,
    /// The params as the server gets them.
    params: Vec<u8>,
    /// The first guard of the call.
    call_guard: CallGuard,
    server_info: Bytes,
    /// The number of the last question.
    last_key: usize,
}

/// Why the driver stops reading the server's messages.
enum Step {
    Ask,
    Done(Result<RpcOutcome, Box<Rejection>>),
    ClientLeft,
}

impl Driver {
    fn new(
        bridge: &Arc<Bridge>,
        call: BridgedRequest,
        mut client: ModernClient,
        bearer: Option<HeaderValue>,
    ) -> Result<Self, Box<Rejection>> {
        let params = params::to_legacy(&call.params).ok_or_else(|| {
            let message = "`params` and `params._meta` must be objects";
            Box::new(Rejection::new(400, code::INVALID_PARAMS, Reason::InvalidParams, message))
        })?;
        if call.server.config.stateless {
            // It was told in the shared session that it has nobody to ask.
            client.capabilities = Bytes::from_static(b"{}");
        }
        // A process is shared by all callers; only an HTTP server keeps a session for each.
        let session = match call.server.endpoint_pool() {
            Some(_) => {
                let session = bridge.client_sessions.session(&bridge.sessions, &client, &call.server);
                Some(session.map_err(|full| Box::new(full.rejection()))?)
            }
            None => None,
        };
        // From before the session is opened: its first call waits for the stream.
        let reader = session
            .as_ref()
            .filter(|_| can_be_asked(&client.capabilities))
            .map(|session| bridge.read_session(session.borrowed()));
        let call_guard =
            call.server.begin_call().map_err(|error| Box::new(error.rejection(&call.server.name)))?;
        let side = ServerSide {
            server: call.server,
            server_era: Era::Legacy,
            method: call.method,
            session: session.as_ref().map(|session| session.session.clone()),
            token: call.token,
            param_headers: Vec::new(),
            idempotent: call.idempotent,
            affinity_key: call.affinity_key,
            logs: client.log_level.is_some(),
            redactor: call.redactor,
            bearer,
            metrics: bridge.metrics.clone(),
        };
        Ok(Self {
            bridge: bridge.clone(),
            side,
            session,
            reader,
            client,
            call_params: call.params,
            binding: OnceLock::new(),
            params,
            call_guard,
            server_info: call.server_info,
            last_key: 0,
        })
    }

    fn binding(&self) -> &Binding {
        self.binding.get_or_init(|| Binding::of(&self.client, self.side.method, &self.call_params))
    }

    async fn run(mut self, mut leg: Leg) {
        self.request_logs().await;
        let ids = self.side.ids();
        let in_flight = self.session.as_ref().map(|session| {
            let key = Bytes::copy_from_slice(&ids.wire);
            InFlight::begin(&session.session, key, Some(ids.clone()), &self.side.server, None)
        });
        let mut cancel = in_flight.as_ref().map(InFlightGuard::cancel_on_drop);
        let guard = std::mem::replace(&mut self.call_guard, self.side.server.untracked());
        let (sender, mut notes) = mpsc::channel::<Bytes>(32);
        let (_in_progress, mut questions) = self.in_progress();
        let (side, params) = (self.side.clone(), std::mem::take(&mut self.params));
        let sent = SentRequest { ids, in_flight };
        let mut exchange = Box::pin(async move { side.request(params, guard, sent, sender).await });
        let mut asked: Vec<Asked> = Vec::new();
        let mut outcome: Option<Result<RpcOutcome, Box<Rejection>>> = None;
        let mut rounds = 0;
        loop {
            let step = match outcome.take() {
                Some(outcome) => Step::Done(outcome),
                None if !asked.is_empty() => Step::Ask,
                None => tokio::select! {
                    biased;
                    Some(note) = notes.recv() => {
                        self.on_note(&note, &mut asked, Some(&leg)).await;
                        while let Ok(note) = notes.try_recv() {
                            self.on_note(&note, &mut asked, Some(&leg)).await;
                        }
                        continue;
                    }
                    Some(question) = questions.recv() => {
                        self.on_outside(question, &mut asked, Some(&leg)).await;
                        continue;
                    }
                    outcome = &mut exchange => Step::Done(outcome),
                    () = leg.out.closed() => Step::ClientLeft,
                },
            };
            match step {
                Step::ClientLeft => {
                    tracing::debug!(server = %self.side.server.name, "the client left, and its call is cancelled");
                    leg.place.inspect(|place| self.bridge.parked.remove(place));
                    return;
                }
                Step::Done(outcome) => {
                    // What came together with the answer comes before it.
                    while let Ok(note) = notes.try_recv() {
                        self.on_note(&note, &mut asked, Some(&leg)).await;
                    }
                    cancel.iter_mut().for_each(CancelOnDrop::disarm);
                    return self.finish(&leg, outcome).await;
                }
                Step::Ask => {}
            }
            rounds += 1;
            if rounds > MAX_ROUNDS {
                let why = format!("it asked for input {MAX_ROUNDS} times in one call");
                return self.finish(&leg, Err(self.side.nonsense(why))).await;
            }
            let (waiting, mut legs) = mpsc::channel(1);
            let place = match self.bridge.parked.park(self.binding().owner, waiting, PERSON_TIMEOUT) {
                Ok(place) => place,
                Err(full) => {
                    let rejection = Rejection::http(503, Reason::TooManyParked, full.to_string());
                    return self.finish(&leg, Err(Box::new(rejection.retry_after(PARKING_RETRY)))).await;
                }
            };
            self.ask(&leg, &asked, Continuation::Parked(self.bridge.process, place)).await;
            leg.slots = None;
            let until = Instant::now() + PERSON_TIMEOUT;
            leg = loop {
                tokio::select! {
                    biased;
                    next = legs.recv() => match next {
                        Some(next) => break next,
                        // It was past its time when somebody made room.
                        None => return self.give_up(&asked),
                    },
                    Some(note) = notes.recv() => self.on_note(&note, &mut asked, None).await,
                    Some(question) = questions.recv() => self.on_outside(question, &mut asked, None).await,
                    done = &mut exchange, if outcome.is_none() => outcome = Some(done),
                    () = tokio::time::sleep_until(until) => {
                        self.bridge.parked.remove(&place);
                        return self.give_up(&asked);
                    }
                }
            };
            if let Some(bearer) = &leg.bearer {
                self.side.bearer = Some(bearer.clone());
            }
            let answers = Object::read(&leg.answers);
            let mut open = Vec::new();
            for question in asked {
                let answer = answers.as_ref().and_then(|answers| answers.get(&question.key));
                match answer.filter(|answer| answer.first() == Some(&b'{')) {
                    // Without it the server would wait for nothing.
                    Some(answer) => {
                        if let Err(rejection) = self.answer(&question, answer).await {
                            return self.finish(&leg, Err(rejection)).await;
                        }
                    }
                    // It is asked again (2026-07-28, basic/utilities/mrtr).
                    None => open.push(question),
                }
            }
            asked = open;
        }
    }

    /// The call can be asked on the session's notification stream from now on, if it can be asked at all.
    fn in_progress(&self) -> (Option<CallInProgress>, mpsc::Receiver<Bytes>) {
        // A modern result can ask for input only here (2026-07-28, basic/utilities/mrtr).
        let asks = matches!(self.side.method, Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead);
        match self.reader.as_ref().filter(|_| asks) {
            Some(reader) => {
                let (call, questions) = reader.begin_call(self.side.server.serial);
                (Some(call), questions)
            }
            None => (None, mpsc::channel(1).1),
        }
    }

    /// Asks the client for input; the answer to this leg.
    async fn ask(&self, leg: &Leg, asked: &[Asked], then: Continuation) {
        let keyring = self.bridge.keyring.load();
        let state = request_state::seal(&keyring, self.binding(), then, PERSON_TIMEOUT);
        let asked: Vec<_> = asked.iter().map(|one| (one.key.clone(), one.request.clone())).collect();
        self.deliver(leg, "result", &questions::input_required(&asked, &state)).await;
    }

    /// The end of the call.
    async fn finish(&mut self, leg: &Leg, outcome: Result<RpcOutcome, Box<Rejection>>) {
        let (method, unreadable) = (self.side.method, self.side.nonsense("its answer is no object"));
        let (member, text) = match outcome {
            Ok(RpcOutcome::Result(result)) => {
                ("result", results::to_modern(method, &result, Some(&self.server_info)))
            }
            Ok(RpcOutcome::Error(error)) => match self.url_questions(&error) {
                Some(asked) => return self.ask(leg, &asked, Continuation::Repeated).await,
                None => ("error", errors::to_modern(&error)),
            },
            Err(rejection) => {
                leg.place.inspect(|place| self.bridge.parked.remove(place));
                let _ = leg.out.send(StreamItem::Rejected(rejection)).await;
                return;
            }
        };
        match text {
            Some(text) => self.deliver(leg, member, &text).await,
            None => {
                leg.place.inspect(|place| self.bridge.parked.remove(place));
                let _ = leg.out.send(StreamItem::Rejected(unreadable)).await;
            }
        }
    }

    /// The URLs that the client must open before the call is made again (2025-11-25, error -32042).
    fn url_questions(&self, error: &[u8]) -> Option<Vec<Asked>> {
        if errors::code_of(error) != Some(errors::URL_ELICITATION_REQUIRED) {
            return None;
        }
        let asked: Vec<Asked> = questions::of_error(error)?
            .into_iter()
            .enumerate()
            .map(|(number, request)| Asked {
                id: Bytes::new(),
                key: format!("u{}", number + 1),
                method: Method::Elicit,
                request,
            })
            .collect();
        let params = Object::read(&asked.first()?.request)?.get("params")?.to_vec();
        let question = Question { key: String::new(), method: Method::Elicit, params };
        questions::is_declared(&question, &self.client.capabilities).then_some(asked)
    }

    /// Answers a leg, and keeps the answer for its repeats.
    async fn deliver(&self, leg: &Leg, member: &'static str, text: &[u8]) {
        let answer: Bytes = [b"\"", member.as_bytes(), b"\":", text].concat().into();
        if let Some(place) = &leg.place {
            self.bridge.parked.keep(place, answer.clone());
        }
        let _ = leg.out.send(StreamItem::Final(whole(&leg.id, &answer))).await;
    }
}

/// A response under the id of a leg; `answer` is its member `result` or `error`.
fn whole(id: &[u8], answer: &[u8]) -> Bytes {
    [br#"{"jsonrpc":"2.0","id":"#, id, b",", answer, b"}"].concat().into()
}
