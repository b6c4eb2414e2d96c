//! What is taken out of a message before it is judged: secrets, where its server is to get none, and what of the
//! client's abilities cannot be carried through a federation. What is judged is what goes on.

use std::sync::Arc;

use bytes::Bytes;
use filters::guard::Action;
use filters::json::{DEPTH_CEILING, Reader};
use filters::rebuild::{replaced, without};
use filters::{Aim, Call, Era, Refusal, Span};

use super::Door;
use super::judge::unreadable;
use crate::catalog::Endpoint;
use crate::config::Redaction;
use crate::registry::House;
use crate::server::Server;
use crate::telemetry::Way;

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
        let wanted = |server: &&Arc<Server>| server.config.redact.arguments == Redaction::Redact;
        if let (Some(redactor), Some(server)) =
            (&house.plan.redactor, house.servers.get(aim.server).filter(wanted))
        {
            for place in said(call.rpc.arguments, call.rpc.input_responses) {
                let found = redactor.redact(place.of(call.body)).map_err(|_| Box::new(unreadable()))?;
                if let Some((clean, found)) = found {
                    self.metrics.redacted(&server.name, Way::Arguments, Action::Redact, &found);
                    edits.push((place, clean));
                }
            }
        }
        Ok((!edits.is_empty()).then(|| replaced(call.body, edits).into()))
    }
}

/// What a call says to its server: its arguments, and what the user answered to the server's questions.
pub(super) fn said(arguments: Option<Span>, answers: Option<Span>) -> impl Iterator<Item = Span> {
    [arguments, answers].into_iter().flatten()
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
