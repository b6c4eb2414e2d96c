//! Callers inside the process: the same chain, the same door, the answer as one message.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use filters::{Caller, Head};
use http::{HeaderMap, HeaderValue};
use mcp::json::splice::splice;
use mcp::{Era, Refusal};
use tokio::sync::mpsc;

use super::authorize::{Halt, Judged, kept};
use super::client::{Arrived, Errand};
use super::rejections::{no_room, room};
use super::{Door, Exit, Leave, Led, Told};
use crate::session::id_map;
use crate::session::{Heard, Holder, Session, heard_without};
use crate::streams::{Talk, Word};
use crate::telemetry::Metrics;
use crate::upstream::call_timer::Clock;
use crate::upstream::http::response::Wanted;
use crate::upstream::http::{Seat, mirror_of, passed};
use crate::upstream::{Progress, Said, UpstreamError, WireId};
use mcp::jsonrpc::message;
use mcp::version;

impl Door {
    /// One message from inside: judged by the whole chain, answered as a whole message (empty for none). A
    /// caller with a session keeps it; for others a legacy one is opened and ended.
    pub async fn call(
        &self,
        caller: Option<Caller>,
        session: Option<Arc<Session>>,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, Halt> {
        let house = self.registry.house();
        let chain = &house.plan.chain;
        let headers = http::HeaderMap::new();
        let verb = &http::Method::POST;
        let head = Head {
            verb,
            path,
            headers: &headers,
            authority: None,
            peer: None,
            certificate: None,
            outside: false,
        };
        chain.glance(&head).await.map_err(|stop| Halt::of(stop, &body))?;
        let caller = caller.unwrap_or_else(|| chain.anonymous());
        let endpoint = house.catalog.endpoint(path);
        let shown = match endpoint {
            Some(endpoint) => self.shows(&house, endpoint, &caller).await,
            None => false,
        };
        let Some(endpoint) = endpoint.filter(|_| shown) else {
            let refusal = Box::new(Refusal::http(404, "no_endpoint", "no such endpoint"));
            return Err(Halt { filter: "door", refusal, id: None });
        };
        let Judged { mut permit, body, id } =
            self.judge(&house, endpoint, head, caller, body, &mut Told::default()).await?;
        let held = kept(std::mem::take(&mut permit.held));
        let halt = |refusal| Halt { filter: "door", refusal, id };
        let mut own = None;
        let session = match (permit.era, session) {
            (Era::Modern, _) => None,
            (Era::Legacy, Some(session)) => Some(session),
            (Era::Legacy, None) => {
                let info = Bytes::from_static(crate::upstream::house_info().as_bytes());
                let none = Bytes::from_static(b"{}");
                let holder = Holder::new(permit.caller.clone(), None);
                let opened = self.sessions.open(
                    holder,
                    &endpoint.path,
                    version::NEWEST_LEGACY,
                    none,
                    info,
                    room(&house),
                );
                match opened {
                    Ok(opened) => own = Some(opened),
                    Err(full) => return Err(halt(Box::new(no_room(&full)))),
                }
                own.clone()
            }
        };
        let led = Led {
            house: &house,
            endpoint,
            session: session.as_ref(),
            client: None,
            permit,
            held: held.clone(),
            body,
            events: false,
        };
        let answer = match self.lead(led, &mut Told::default()).await {
            Ok(Exit::Answer(reply)) => Ok(reply.body),
            Ok(Exit::Room(talk)) => listen_to(talk).await,
            Ok(Exit::Peer(leave)) => leave.ask(None, None, &self.metrics).await,
            Err(refusal) => Err(refusal),
        };
        if let Some(own) = own {
            self.sessions.end(&own);
        }
        answer.map_err(halt)
    }
}

impl Leave {
    /// Sends the message by the house's own client and gives the whole answer; nothing for what is no request. `bearer` is
    /// what a server wants to see that is called in its caller's name, `notes` takes what the server says on the way.
    pub async fn ask(
        mut self,
        bearer: Option<HeaderValue>,
        notes: Option<mpsc::Sender<Bytes>>,
        metrics: &Metrics,
    ) -> Result<Bytes, Box<Refusal>> {
        let said = self.exchange(bearer, notes, metrics).await;
        // If it never had a connection, the answer of a client may come again.
        if let (Some(answering), false) =
            (&mut self.answering, matches!(said, Err(UpstreamError::Unreachable(_))))
        {
            answering.left();
        }
        // Nobody waits for it any more, and a server does not learn that by itself.
        if let (Err(UpstreamError::TimedOut(_)), Some(run)) = (&said, &self.run) {
            run.cancel("timed out");
        }
        if let (Ok(Some(Said::Result(_)) | None), Some(deed), Some(session)) =
            (&said, &self.deed, &self.session)
        {
            session.memory.note(&self.server.name, deed);
        }
        self.running.went(said.as_ref().err());
        let refused = |error: UpstreamError| Box::new(error.refusal(&self.server.name));
        let id = self.id.as_deref().unwrap_or_default();
        let message = match said.map_err(refused)? {
            None => return Ok(Bytes::new()),
            Some(Said::Result(result)) => message::result(id, &result),
            Some(Said::Error(error)) => message::failure(id, &error),
        };
        let clean =
            self.screen.as_ref().map_or(Ok(None), |screen| screen.message(&message)).map_err(refused)?;
        Ok(clean.unwrap_or(message))
    }

    async fn exchange(
        &self,
        bearer: Option<HeaderValue>,
        notes: Option<mpsc::Sender<Bytes>>,
        metrics: &Metrics,
    ) -> Result<Option<Said>, UpstreamError> {
        let mut extra: HeaderMap = self.mirrored.iter().cloned().collect();
        if self.era == Era::Modern {
            extra.extend(mirror_of(&self.body));
        }
        let Arrived { response, mut visit, seat, certain } =
            Errand::of(self, bearer, extra).send(metrics).await?;
        if self.id.is_none() {
            let said = passed(&response).map(|()| None);
            if let Some(pool) = self.server.upstream.http() {
                pool.went(&mut visit, said.as_ref().err());
            }
            return said;
        }
        let (clock, (raw, mut said)) = (Arc::new(Clock::default()), mpsc::channel::<Bytes>(8));
        let pass_on = async {
            while let Some(note) = said.recv().await {
                let note = self.outward(note, seat.as_deref(), &clock);
                if let (Some(notes), Some(note)) = (&notes, note) {
                    let _ = notes.send(note).await;
                }
            }
        };
        let answer = async {
            let progress = Progress { token: None, notes: raw };
            let wanted = Wanted {
                id: &self.sent.wire,
                batches: seat.as_ref().is_some_and(|seat| seat.has_batches()),
                seat: None,
                progress: Some(&progress),
                certain,
                timeout: self.server.timeout,
                clock: Some(&*clock),
            };
            visit.endpoint().answer(response, wanted).await
        };
        let said = tokio::join!(answer, pass_on).0.map(Some);
        if matches!(said, Err(UpstreamError::Nameless)) {
            visit.endpoint().peer.doubt();
        }
        if let Some(pool) = self.server.upstream.http() {
            pool.went(&mut visit, said.as_ref().err());
        }
        said
    }

    /// A note of no session, with the client's own token if it has ours; none for what another's request began.
    fn progress(&self, note: Bytes, read: &message::Incoming) -> Option<Bytes> {
        match id_map::progresses(&note, read) {
            Some(token) if message::same_id(token.of(&note), &self.sent.wire) => {
                let own = self.sent.token.as_ref()?;
                Some(splice(BytesMut::from(&note[..]), token, own))
            }
            Some(token) if WireId::is_one(token.of(&note)) => None,
            _ => Some(note),
        }
    }

    /// What the server says on the way to an answer, as the client gets it.
    fn outward(&self, note: Bytes, seat: Option<&Seat>, clock: &Arc<Clock>) -> Option<Bytes> {
        let read = message::read(&note)?;
        let note = match (&self.session, seat) {
            (Some(session), Some(seat)) => {
                match session.hear(&self.server, seat.number, &note, &read, Some(clock)) {
                    Heard::AsItIs => note,
                    Heard::As(note) => note,
                    Heard::Not => return None,
                }
            }
            _ => heard_without(&self.server, &note, &read).then(|| self.progress(note, &read))??,
        };
        match &self.screen {
            // A note that may not go is no answer: it is left out.
            Some(screen) => screen.message(&note).ok().map(|clean| clean.unwrap_or(note)),
            None => Some(note),
        }
    }
}

async fn listen_to(mut talk: Talk) -> Result<Bytes, Box<Refusal>> {
    loop {
        match talk.words.recv().await {
            Some(Word::Note(_)) => {}
            Some(Word::Last(message)) => return Ok(message),
            Some(Word::Refused(refusal)) => return Err(refusal),
            Some(Word::Taken) => return Ok(Bytes::new()),
            None => {
                return Err(Box::new(Refusal::http(500, "no_answer", "the call ended without an answer")));
            }
        }
    }
}
