//! Removes parts of a message before it is authorized: secrets, if its server must not get any, and the extension for
//! tasks where no task could be read. What is authorized is what is forwarded.

use bytes::Bytes;
use filters::guard::{self, Action, MemberPath};
use filters::{Call, CallTarget};
use mcp::json::reader::DEPTH_CEILING;
use mcp::json::splice::replace_spans;
use mcp::{Era, Rejection, tasks};

use super::authorize::unreadable;
use super::text_places;
use super::{AuthorizedRequest, Dispatcher};
use crate::catalog::Endpoint;
use crate::config::Redaction;
use crate::registry::Snapshot;
use crate::server::Server;
use crate::telemetry::Direction;
use mcp::method::Method;

impl Dispatcher {
    /// The message without what must not be forwarded, if there was any.
    pub(super) fn sanitize(
        &self,
        snapshot: &Snapshot,
        call: &Call<'_>,
        target: Option<&CallTarget<'_>>,
        has_tasks: bool,
    ) -> Result<Option<Bytes>, Box<Rejection>> {
        let Some(target) = target else { return Ok(None) };
        // A server may answer with a task to a client that declares tasks (SEP-2663). Where nobody reads that
        // answer as one, the server does not see the extension.
        let declared = call.rpc.meta.client_capabilities.filter(|_| !has_tasks);
        let supported = declared.and_then(|place| {
            let capabilities = place.of(call.body);
            let without = tasks::is_declared(capabilities).then(|| tasks::declare(capabilities, false))??;
            Some(Bytes::from(replace_spans(call.body, vec![(place, without)])))
        });
        let Some(server) =
            snapshot.servers.get(target.server).filter(|server| has_redaction(server, Redaction::Redact))
        else {
            return Ok(supported);
        };
        let place = text_places::request(Method::parse(&call.rpc.method_name(call.body)));
        let clean = self.replace_texts(snapshot, server, supported.as_deref().unwrap_or(call.body), place)?;
        Ok(clean.or(supported))
    }

    /// A part of a message as it may go to a server, if it had to be changed: without secrets in texts of
    /// people and models. Rejected if the server must not get a message with a secret at all.
    pub(super) fn sent_to(
        &self,
        snapshot: &Snapshot,
        server: &Server,
        text: &[u8],
        place: &MemberPath,
    ) -> Result<Option<Bytes>, Box<Rejection>> {
        // A session may hold the server with its former settings.
        let server = snapshot.servers.get(&server.name).map_or(server, |now| now);
        if has_redaction(server, Redaction::Redact) {
            return self.replace_texts(snapshot, server, text, place);
        }
        // There is no request that the rejection could answer.
        self.check_not_blocked(snapshot, server, text, || place, Era::Modern).map(|()| None)
    }

    /// A request as it may go to a server that was not known before it was authorized.
    pub(super) fn with_sent_body<'a>(
        &self,
        mut authorized: AuthorizedRequest<'a>,
        server: &Server,
    ) -> Result<AuthorizedRequest<'a>, Box<Rejection>> {
        let place = text_places::request(Method::parse(&authorized.permit.rpc.method_name(&authorized.body)));
        if let Some(clean) = self.sent_to(authorized.snapshot, server, &authorized.body, place)? {
            // The spans after an edit have moved.
            authorized.permit.rpc =
                filters::request::read(&clean, DEPTH_CEILING).map_err(|refused| refused.rejection)?;
            authorized.body = clean;
        }
        Ok(authorized)
    }

    /// The same for a server that gets messages without their secrets.
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

    /// Rejects what a server must not get at all.
    pub(super) fn check_not_blocked<'p>(
        &self,
        snapshot: &Snapshot,
        server: &Server,
        text: &[u8],
        place: impl FnOnce() -> &'p MemberPath,
        client_era: Era,
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
        Err(Box::new(guard::redact::rejection(&found, client_era)))
    }

    /// Client info goes to all servers of an endpoint: if any of them must get no secrets, none gets any.
    pub(super) fn sanitize_client_info(
        &self,
        snapshot: &Snapshot,
        endpoint: &Endpoint,
        info: Bytes,
        place: &MemberPath,
    ) -> Bytes {
        let redacting = endpoint.members.iter().find(|server| !has_redaction(server, Redaction::Off));
        let clean = redacting.map(|server| self.replace_texts(snapshot, server, &info, place));
        match clean {
            Some(Ok(Some(clean))) => clean,
            _ => info,
        }
    }
}

fn has_redaction(server: &Server, redaction: Redaction) -> bool {
    server.config.redact.arguments == redaction
}
