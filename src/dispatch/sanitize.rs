//! What is taken out of a message before it is judged: secrets, where its server is to get none, and what of the
//! client's abilities cannot be carried through a federation. What is judged is what goes on.

use bytes::Bytes;
use filters::guard::{self, Action, Place};
use filters::{Aim, Call};
use mcp::json::reader::{DEPTH_CEILING, Reader};
use mcp::json::splice::{replaced, without};
use mcp::{Era, Refusal, Span};

use super::authorize::unreadable;
use super::text_places;
use super::{Door, Led};
use crate::catalog::Endpoint;
use crate::config::Redaction;
use crate::registry::House;
use crate::server::Server;
use crate::telemetry::Way;
use mcp::method::Method;

/// A server may answer with a task to a client that can follow one (SEP-2663). Which server has a task nobody could tell
/// afterwards, where there are several: they are not told that the client can, and answer as to all others.
const TASKS: &str = "io.modelcontextprotocol/tasks";

impl Door {
    /// The message without what must not go on, if there was any.
    pub(super) fn cleaned(
        &self,
        house: &House,
        endpoint: &Endpoint,
        call: &Call<'_>,
        aim: Option<&Aim<'_>>,
    ) -> Result<Option<Bytes>, Box<Refusal>> {
        let Some(aim) = aim else { return Ok(None) };
        let mut edits = Vec::new();
        if let (None, Era::Modern, Some(place)) =
            (&endpoint.only, call.era, call.rpc.meta.client_capabilities)
        {
            extensions(call.body, place, &mut edits);
        }
        let carried = (!edits.is_empty()).then(|| Bytes::from(replaced(call.body, edits)));
        let Some(server) = house.servers.get(aim.server).filter(|server| is(server, Redaction::Redact))
        else {
            return Ok(carried);
        };
        let place = text_places::request(Method::of(&call.rpc.method_name(call.body)));
        let clean = self.written_over(house, server, carried.as_deref().unwrap_or(call.body), place)?;
        Ok(clean.or(carried))
    }

    /// A part of a message as it may go to a server, if that is not as it came: without what people and models wrote
    /// that is secret. Refused where the server is not to get any message that holds one.
    pub(super) fn sent_to(
        &self,
        house: &House,
        server: &Server,
        text: &[u8],
        place: &Place,
    ) -> Result<Option<Bytes>, Box<Refusal>> {
        // A session may know it by settings of before.
        let server = house.servers.get(&server.name).map_or(server, |now| now);
        if is(server, Redaction::Redact) {
            return self.written_over(house, server, text, place);
        }
        // There is no request that the refusal could answer.
        self.unblocked(house, server, text, || place, Era::Modern).map(|()| None)
    }

    /// A request as it may go to a server of which was not known before it was judged that it goes there.
    pub(super) fn as_sent<'a>(&self, mut led: Led<'a>, server: &Server) -> Result<Led<'a>, Box<Refusal>> {
        let place = text_places::request(Method::of(&led.permit.rpc.method_name(&led.body)));
        if let Some(clean) = self.sent_to(led.house, server, &led.body, place)? {
            // The places of what stands behind are others now.
            led.permit.rpc =
                filters::request::read(&clean, DEPTH_CEILING).map_err(|refused| refused.refusal)?;
            led.body = clean;
        }
        Ok(led)
    }

    /// The same for a server that gets what is left of such messages.
    fn written_over(
        &self,
        house: &House,
        server: &Server,
        text: &[u8],
        place: &Place,
    ) -> Result<Option<Bytes>, Box<Refusal>> {
        let Some(redactor) = &house.plan.redactor else { return Ok(None) };
        let found = redactor.redact_at(text, place).map_err(|_| Box::new(unreadable()))?;
        let Some((clean, found)) = found else { return Ok(None) };
        self.metrics.redacted(&server.name, Way::Arguments, Action::Redact, &found);
        Ok(Some(clean.into()))
    }

    /// Refuses what a server is not to get at all.
    pub(super) fn unblocked<'p>(
        &self,
        house: &House,
        server: &Server,
        text: &[u8],
        place: impl FnOnce() -> &'p Place,
        era: Era,
    ) -> Result<(), Box<Refusal>> {
        let (true, Some(redactor)) = (is(server, Redaction::Block), &house.plan.redactor) else {
            return Ok(());
        };
        let found = redactor.scan_at(text, place()).map_err(|_| Box::new(unreadable()))?;
        if found.is_empty() {
            return Ok(());
        }
        self.metrics.redacted(&server.name, Way::Arguments, Action::Block, &found);
        Err(Box::new(guard::redact::refusal(&found, era)))
    }

    /// What a client says of itself goes to all servers of an endpoint: where any of them is to get no secrets, none gets
    /// any.
    pub(super) fn said_of_itself(
        &self,
        house: &House,
        endpoint: &Endpoint,
        said: Bytes,
        place: &Place,
    ) -> Bytes {
        let wary = endpoint.members.iter().find(|server| !is(server, Redaction::Off));
        let clean = wary.map(|server| self.written_over(house, server, &said, place));
        match clean {
            Some(Ok(Some(clean))) => clean,
            _ => said,
        }
    }
}

fn is(server: &Server, redaction: Redaction) -> bool {
    server.config.redact.arguments == redaction
}

/// Takes what is not carried out of the extensions of the client's capabilities.
fn extensions(body: &[u8], capabilities: Span, edits: &mut Vec<(Span, Vec<u8>)>) {
    let text = capabilities.of(body);
    // Most clients have none.
    let Ok(mut reader) = Reader::new(text, DEPTH_CEILING) else { return };
    let _ = reader.object(|r, key| {
        let value = r.value()?;
        if key.is(text, "extensions")
            && let Some(rest) = without(value.of(text), TASKS)
        {
            let start = capabilities.start + value.start;
            edits.push((Span { start, end: start + value.len() }, rest));
        }
        Ok(())
    });
}
