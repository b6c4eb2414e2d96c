//! Callers inside the process: the same chain, the same door, the answer as one message.

use std::sync::Arc;

use bytes::Bytes;
use filters::{Caller, Era, Head, Refusal};
use http::{HeaderMap, HeaderValue};
use tokio::sync::mpsc;

use super::errand::Errand;
use super::judge::{Halt, Judged, kept};
use super::{Door, Exit, Leave, Led, Told};
use crate::address;
use crate::protocol::{revision, wire};
use crate::rooms::{Talk, Word};
use crate::session::Session;
use crate::telemetry::Metrics;
use crate::upstream::http::{mirror_of, passed};
use crate::upstream::{Progress, Said, UpstreamError};

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
        let Some(endpoint) = house.catalog.endpoint(path) else {
            let refusal = Box::new(Refusal::http(404, "no_endpoint", "no such endpoint"));
            return Err(Halt { filter: "door", refusal, id: None });
        };
        let caller = caller.unwrap_or_else(|| chain.anonymous());
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
                let owner = permit.caller.clone();
                own = self
                    .sessions
                    .open(owner, &endpoint.path, revision::NEWEST_LEGACY, none, info, usize::MAX)
                    .ok();
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
        let answer = match self.lead(led, &mut Told::default()) {
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
        self,
        bearer: Option<HeaderValue>,
        notes: Option<mpsc::Sender<Bytes>>,
        metrics: &Metrics,
    ) -> Result<Bytes, Box<Refusal>> {
        let (raw, mut said) = mpsc::channel::<Bytes>(8);
        let pass_on = async {
            while let Some(note) = said.recv().await {
                if let (Some(notes), Some(note)) = (&notes, self.outward(&note)) {
                    let _ = notes.send(note).await;
                }
            }
        };
        let answer = async {
            let progress = Progress { token: None, notes: raw };
            let said = self.exchange(bearer, &progress, metrics).await;
            drop(progress);
            said
        };
        let (said, ()) = tokio::join!(answer, pass_on);
        self.running.went(said.as_ref().err());
        let refused = |error: UpstreamError| Box::new(error.refusal(&self.server.name));
        let id = self.id.as_deref().unwrap_or_default();
        let message = match said.map_err(refused)? {
            None => return Ok(Bytes::new()),
            Some(Said::Result(result)) => wire::result(id, &result),
            Some(Said::Error(error)) => wire::failure(id, &error),
        };
        let clean =
            self.screen.as_ref().map_or(Ok(None), |screen| screen.message(&message)).map_err(refused)?;
        Ok(clean.unwrap_or(message))
    }

    async fn exchange(
        &self,
        bearer: Option<HeaderValue>,
        progress: &Progress,
        metrics: &Metrics,
    ) -> Result<Option<Said>, UpstreamError> {
        let mut extra: HeaderMap = self.mirrored.iter().cloned().collect();
        if self.era == Era::Modern {
            extra.extend(mirror_of(&self.body));
        }
        let errand = Errand {
            server: self.server.clone(),
            era: self.era,
            session: self.session.clone(),
            bearer,
            extra,
            body: self.body.clone(),
            safe: self.safe,
            key: self.key,
        };
        let (response, mut visit) = errand.send(metrics).await?;
        let timeout = self.server.timeout;
        let said = match &self.id {
            Some(id) => visit.endpoint().answer(response, id, Some(progress), timeout).await.map(Some),
            None => passed(&response).map(|()| None),
        };
        if let Some(pool) = self.server.upstream.http() {
            pool.went(&mut visit, said.as_ref().err());
        }
        said
    }

    /// What the server says on the way to an answer, as the client gets it.
    fn outward(&self, note: &Bytes) -> Option<Bytes> {
        let outward = address::outward(note, &self.server)?;
        if let (Some(id), Some(session)) = (outward.asks, &self.session) {
            session.asked.note(self.server.serial, id.of(note));
        }
        match &self.screen {
            // A note that may not go is no answer: it is left out.
            Some(screen) => {
                screen.message(&outward.message).ok().map(|clean| clean.unwrap_or(outward.message))
            }
            None => Some(outward.message),
        }
    }
}

async fn listen_to(mut talk: Talk) -> Result<Bytes, Box<Refusal>> {
    loop {
        match talk.words.recv().await {
            Some(Word::Note(_)) => {}
            Some(Word::Last(message)) => return Ok(message),
            Some(Word::Refused(refusal)) => return Err(refusal),
            None => {
                return Err(Box::new(Refusal::http(500, "no_answer", "the call ended without an answer")));
            }
        }
    }
}
