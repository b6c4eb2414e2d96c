//! What is taken out of a message before it is judged: secrets, where its server is to get none. What is judged is what
//! goes on.

use std::sync::Arc;

use bytes::Bytes;
use filters::guard::Action;
use filters::rebuild::replaced;
use filters::{Aim, Call, Refusal, Span};

use super::Door;
use super::judge::unreadable;
use crate::config::Redaction;
use crate::registry::House;
use crate::server::Server;
use crate::telemetry::Way;

impl Door {
    /// The message without what must not go on, if there was any.
    pub(super) fn cleaned(
        &self,
        house: &House,
        call: &Call<'_>,
        aim: Option<&Aim<'_>>,
    ) -> Result<Option<Bytes>, Box<Refusal>> {
        let Some(aim) = aim else { return Ok(None) };
        let mut edits = Vec::new();
        let wanted = |server: &&Arc<Server>| server.config.redact.arguments == Redaction::Redact;
        if let (Some(redactor), Some(server)) =
            (&house.plan.redactor, house.plan.servers.get(aim.server).filter(wanted))
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
