//! What is taken out of a message before it is judged: secrets, where its server is to get none, and what of the
//! client's abilities cannot be carried through a federation. What is judged is what goes on.

use bytes::Bytes;
use filters::guard::{self, Action, MemberPath};
use filters::{Call, CallTarget};
use mcp::json::reader::{DEPTH_CEILING, JsonReader};
use mcp::json::splice::{remove_member, replace_spans};
use mcp::{Era, Rejection, Span};

use super::authorize::unreadable;
use super::text_places;
use super::{AuthorizedRequest, Dispatcher};
use crate::catalog::Endpoint;
use crate::config::Redaction;
use crate::registry::Snapshot;
use crate::server::Server;
use crate::telemetry::Direction;
use mcp::method::Method;

/// A server may answer with a task to a client that can follow one (SEP-2663). Which server has a task nobody could tell
/// afterwards, where there are several: they are not told that the client can, and answer as to all others.
const TASKS: &str = "io.modelcontextprotocol/tasks";

impl Dispatcher {
    /// The message without what must not go on, if there was any.
    pub(super) fn sanitize(
        &self,
        snapshot: &Snapshot,
        endpoint: &Endpoint,
        call: &Call<'_>,
        aim: Option<&CallTarget<'_>>,
    ) -> Result<Option<Bytes>, Box<Rejection>> {
        let Some(aim) = aim else { return Ok(None) };
        let mut edits = Vec::new();
        if let (None, Era::Modern, Some(place)) =
            (&endpoint.single, call.era, call.rpc.meta.client_capabilities)
        {
            extensions(call.body, place, &mut edits);
        }
        let carried = (!edits.is_empty()).then(|| Bytes::from(replace_spans(call.body, edits)));
        let Some(server) =
            snapshot.servers.get(aim.server).filter(|server| has_redaction(server, Redaction::Redact))
        else {
            return Ok(carried);
        };
        let place = text_places::request(Method::parse(&call.rpc.method_name(call.body)));
        let clean = self.replace_texts(snapshot, server, carried.as_deref().unwrap_or(call.body), place)?;
        Ok(clean.or(carried))
    }

    /// A part of a message as it may go to a server, if that is not as it came: without what people and models wrote
    /// that is secret. Refused where the server is not to get any message that holds one.
    pub(super) fn sent_to(
        &self,
        snapshot: &Snapshot,
        server: &Server,
        text: &[u8],
        place: &MemberPath,
    ) -> Result<Option<Bytes>, Box<Rejection>> {
        // A session may know it by settings of before.
        let server = snapshot.servers.get(&server.name).map_or(server, |now| now);
        if has_redaction(server, Redaction::Redact) {
            return self.replace_texts(snapshot, server, text, place);
        }
        // There is no request that the refusal could answer.
        self.check_not_blocked(snapshot, server, text, || place, Era::Modern).map(|()| None)
    }

    /// A request as it may go to a server of which was not known before it was judged that it goes there.
    pub(super) fn with_sent_body<'a>(
        &self,
        mut authorized: AuthorizedRequest<'a>,
        server: &Server,
    ) -> Result<AuthorizedRequest<'a>, Box<Rejection>> {
        let place = text_places::request(Method::parse(&authorized.permit.rpc.method_name(&authorized.body)));
        if let Some(clean) = self.sent_to(authorized.snapshot, server, &authorized.body, place)? {
            // The places of what stands behind are others now.
            authorized.permit.rpc =
                filters::request::read(&clean, DEPTH_CEILING).map_err(|refused| refused.rejection)?;
            authorized.body = clean;
        }
        Ok(authorized)
    }

    /// The same for a server that gets what is left of such messages.
    fn replace_texts(
        &self,
        snapshot: &Snapshot,
        server: &Server,
        text: &[u8],
        place: &MemberPath,
    ) -> Result<Option<Bytes>, Box<Rejection>> {
        let Some(redactor) = &snapshot.config.redactor else { return Ok(None) };
        let found = redactor.redact_at(text, place).map_err(|_| Box::new(unreadable()))?;
        let Some((clean, found)) = found else { return Ok(None) };
        self.metrics.redacted(&server.name, Direction::Arguments, Action::Redact, &found);
        Ok(Some(clean.into()))
    }

    /// Refuses what a server is not to get at all.
    pub(super) fn check_not_blocked<'p>(
        &self,
        snapshot: &Snapshot,
        server: &Server,
        text: &[u8],
        place: impl FnOnce() -> &'p MemberPath,
        era: Era,
    ) -> Result<(), Box<Rejection>> {
        let (true, Some(redactor)) = (has_redaction(server, Redaction::Block), &snapshot.config.redactor)
        else {
            return Ok(());
        };
        let found = redactor.scan_at(text, place()).map_err(|_| Box::new(unreadable()))?;
        if found.is_empty() {
            return Ok(());
        }
        self.metrics.redacted(&server.name, Direction::Arguments, Action::Block, &found);
        Err(Box::new(guard::redact::rejection(&found, era)))
    }

    /// What a client says of itself goes to all servers of an endpoint: where any of them is to get no secrets, none gets
    /// any.
    pub(super) fn sanitize_client_info(
        &self,
        snapshot: &Snapshot,
        endpoint: &Endpoint,
        said: Bytes,
        place: &MemberPath,
    ) -> Bytes {
        let wary = endpoint.members.iter().find(|server| !has_redaction(server, Redaction::Off));
        let clean = wary.map(|server| self.replace_texts(snapshot, server, &said, place));
        match clean {
            Some(Ok(Some(clean))) => clean,
            _ => said,
        }
    }
}

fn has_redaction(server: &Server, redaction: Redaction) -> bool {
    server.config.redact.arguments == redaction
}

/// Takes what is not carried out of the extensions of the client's capabilities.
fn extensions(body: &[u8], capabilities: Span, edits: &mut Vec<(Span, Vec<u8>)>) {
    let text = capabilities.of(body);
    // Most clients have none.
    let Ok(mut reader) = JsonReader::new(text, DEPTH_CEILING) else { return };
    let _ = reader.object(|r, key| {
        let value = r.value()?;
        if key.is(text, "extensions")
            && let Some(rest) = remove_member(value.of(text), TASKS)
        {
            let start = capabilities.start + value.start;
            edits.push((Span { start, end: start + value.len() }, rest));
        }
        Ok(())
    });
}
