//! Callers inside the process: the same chain, the same door, the answer as one message.

use std::sync::Arc;

use bytes::Bytes;
use filters::{Caller, Era, Head, Refusal};

use super::judge::{Halt, Judged, kept};
use super::{Door, Exit, Leave, Led, Told};
use crate::protocol::{revision, wire};
use crate::rooms::{Talk, Word};
use crate::session::Session;
use crate::upstream::UpstreamError;

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
        };
        let answer = match self.lead(led, &mut Told::default()) {
            Ok(Exit::Answer(reply)) => Ok(reply.body),
            Ok(Exit::Room(talk)) => listen_to(talk).await,
            Ok(Exit::Peer(leave)) => leave.ask().await,
            Err(refusal) => Err(refusal),
        };
        if let Some(own) = own {
            self.sessions.end(&own);
        }
        answer.map_err(halt)
    }
}

impl Leave {
    /// Sends the message by the house's own client and gives the whole answer.
    async fn ask(self) -> Result<Bytes, Box<Refusal>> {
        let refused = |error: UpstreamError| Box::new(error.refusal(&self.server.name));
        let http = self.server.upstream.http().expect("only HTTP servers have a peer");
        let seat = match &self.session {
            Some(session) => Some(session.seat(&self.server, None).await.map_err(refused)?),
            None => None,
        };
        let id = self.id.clone().unwrap_or_default();
        let mirrored = self.mirrored.iter().cloned().collect();
        let said = http.exchange(self.era, seat.as_ref(), mirrored, self.body.clone(), &id).await;
        self.running.went(said.as_ref().err());
        let said = said.map_err(refused)?;
        let message = match said {
            crate::upstream::Said::Result(result) => wire::result(&id, &result),
            crate::upstream::Said::Error(error) => wire::failure(&id, &error),
        };
        let clean =
            self.screen.as_ref().map_or(Ok(None), |screen| screen.message(&message)).map_err(refused)?;
        Ok(clean.unwrap_or(message))
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
