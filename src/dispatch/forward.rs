//! The last step of a call that was led to a server: what it takes along.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue};
use mcp::json::quote::quote;
use mcp::json::splice::{edited, rename};
use mcp::{Era, Refusal, Span};
use tokio_util::sync::CancellationToken;

use super::rejections::invalid;
use super::{Door, Exit, Leave, Led, Told};
use crate::catalog::Target;
use crate::server::Server;
use crate::session::{Deed, Runs, Sent};
use crate::streams::call;
use crate::upstream::{Screen, UpstreamError, WireId};
use mcp::jsonrpc::message;
use mcp::method::Method;

impl Door {
    /// Leads to the server of a name; at `place` the name is replaced by the server's own.
    pub(super) fn to(
        &self,
        led: Led<'_>,
        target: &Target,
        method: Method,
        place: Option<Span>,
        deed: Option<Deed>,
        told: &mut Told,
    ) -> Result<Exit, Box<Refusal>> {
        let counted = matches!(method, Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead);
        told.counted = counted.then(|| target.counted.clone());
        told.server = Some(target.server.name.clone());
        told.tool = Some(target.label.clone());
        let renamed = place.filter(|_| *target.name != *target.label);
        let mirrored = match &target.mirrors {
            Some(mirrors) if led.permit.era == Era::Modern => {
                mirrors.headers(led.permit.rpc.arguments.map(|arguments| arguments.of(&led.body)))
            }
            _ => Vec::new(),
        };
        let safe = method.is_safe() || (method == Method::ToolsCall && target.repeatable);
        let renamed = renamed.map(|place| (place, target.name.clone()));
        self.depart(led, target.server.clone(), safe, renamed, mirrored, deed)
    }

    /// Leads to the only server of an endpoint, with the message as it is.
    pub(super) fn pass(
        &self,
        led: Led<'_>,
        server: Arc<Server>,
        method: Method,
        deed: Option<Deed>,
        told: &mut Told,
    ) -> Result<Exit, Box<Refusal>> {
        told.server = Some(server.name.clone());
        self.depart(led, server, method.is_safe(), None, Vec::new(), deed)
    }

    fn depart(
        &self,
        led: Led<'_>,
        server: Arc<Server>,
        safe: bool,
        renamed: Option<(Span, Arc<str>)>,
        mirrored: Vec<(HeaderName, HeaderValue)>,
        deed: Option<Deed>,
    ) -> Result<Exit, Box<Refusal>> {
        let failed = |error: UpstreamError| Box::new(error.refusal(&server.name));
        let running = server.start().map_err(failed)?;
        let (rpc, era) = (&led.permit.rpc, led.permit.era);
        // A copy: a slice would share the body, which then could not be renamed in place.
        let id = rpc.id.map(|id| Bytes::copy_from_slice(id.of(&led.body)));
        let screen =
            Screen::of(&server.name, &server.config, led.house.plan.redactor.as_ref(), &self.metrics);
        let begin = |sent, stop| Some(Runs::begin(led.session?, id.clone()?, sent, &server, stop));
        if let Some(pool) = server.upstream.http() {
            let key = if pool.is_by_session() { led.key() } else { 0 };
            // The head names what is called or got, not what is completed (2026-07-28, streamable-http).
            let named = |method: &str| matches!(method, "tools/call" | "prompts/get");
            let renames = renamed.as_ref().filter(|_| named(&rpc.method_name(&led.body)));
            let name = renames.map(|(_, name)| name.clone());
            let is_token = |token: &Span| matches!(token.of(&led.body), [b'"' | b'-' | b'0'..=b'9', ..]);
            let (wire, token) = (WireId::next(), rpc.meta.progress_token.filter(is_token));
            let logs = era == Era::Modern && rpc.meta.log_level.is_some();
            let sent = Sent { wire, token: token.map(|token| Bytes::copy_from_slice(token.of(&led.body))) };
            let run = begin(Some(sent.clone()), None);
            let renamed = renamed.map(|(place, name)| (place, quote(&name)));
            let mut edits = [(Span::default(), &[][..]); 3];
            let mut count = 0;
            let places = [(rpc.id, &*wire), (token, &*wire)];
            let word = renamed.iter().map(|(place, name)| (Some(*place), name.as_bytes()));
            for (place, word) in places.into_iter().chain(word) {
                if let Some(place) = place {
                    edits[count] = (place, word);
                    count += 1;
                }
            }
            let edits = &mut edits[..count];
            edits.sort_unstable_by_key(|(place, _)| place.start);
            let body = match edits {
                [] => led.body,
                edits => edited(
                    led.body.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..])),
                    edits,
                ),
            };
            return Ok(Exit::Peer(Leave {
                body,
                era,
                session: led.session.cloned(),
                seat: None,
                run,
                answering: None,
                deed: deed.map(Box::new),
                name,
                mirrored,
                safe,
                key,
                id,
                sent,
                logs,
                resume: None,
                running,
                screen,
                server,
            }));
        }
        let stop = CancellationToken::new();
        let run = begin(None, Some(stop.clone()));
        let params = rpc.params.map(|params| {
            let text = led.body.slice(params.start..params.end);
            match &renamed {
                None => text,
                Some((place, name)) => {
                    let place = Span { start: place.start - params.start, end: place.end - params.start };
                    rename(BytesMut::from(&text[..]), place, name)
                }
            }
        });
        let params = params.unwrap_or_else(|| Bytes::from_static(b"{}"));
        // The token is looked for in what will be sent: a longer or shorter name has moved it.
        let token = rpc.meta.progress_token.and_then(|_| {
            let meta = message::member(&params, "_meta")?;
            let token = message::member(meta.of(&params), "progressToken")?;
            let place = Span { start: meta.start + token.start, end: meta.start + token.end };
            Some((params.slice(place.start..place.end), place))
        });
        let question = call::Question {
            running,
            run,
            deed,
            held: led.held,
            era,
            method: rpc.method_name(&led.body).into_owned(),
            params,
            id: id.unwrap_or_default(),
            token,
            screen,
        };
        Ok(Exit::Room(call::ask(&self.core, question, stop)))
    }
}

/// What a session is to remember of a request about a resource.
pub(super) fn deed(
    led: &Led<'_>,
    method: Method,
    uri: String,
    server: &Server,
) -> Result<Option<Deed>, Box<Refusal>> {
    let Some(session) = led.session else { return Ok(None) };
    match method {
        Method::Subscribe if !session.memory.has_room(&server.name, &uri) => {
            let words = "this session follows as many resources as it may; unsubscribe from one first";
            Err(invalid(led.permit.era, "too_many_subscriptions", words))
        }
        Method::Subscribe => Ok(Some(Deed::Follow(uri))),
        Method::Unsubscribe => Ok(Some(Deed::Unfollow(uri))),
        _ => Ok(None),
    }
}
