//! What only the legacy era has: opening a session, notifications, a client's answers to its servers, what a session
//! sets at its servers.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use filters::guard::Place;
use futures::future::join_all;
use mcp::json::splice::splice;
use mcp::rejection::code;
use mcp::{Era, Refusal, Span};
use tokio::sync::mpsc;

use super::reach::Reach;
use super::rejections::{invalid, no_room, room, unknown_method};
use super::text_places;
use super::{Door, Exit, Leave, Led, Reply};
use crate::catalog::Endpoint;
use crate::server::Server;
use crate::session::id_map;
use crate::session::{Answering, Holder, Sent};
use crate::streams::{Talk, Word};
use crate::upstream::http::Seat;
use mcp::jsonrpc::message;
use mcp::method::{Goes, Method};
use mcp::version;

/// What a client may say of itself, in bytes.
const MAX_CLIENT: usize = 8 * 1024;
/// How long a client waits until its notification has reached the servers that it is for.
const HANDED_ON: Duration = Duration::from_secs(2);

/// How much a client may want to hear (2025-11-25, server/utilities/logging).
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

impl Door {
    /// Opens a session; `endpoint` is what the caller sees of it.
    pub(super) fn initialize(&self, led: &Led<'_>, endpoint: &Endpoint) -> Result<Exit, Box<Refusal>> {
        let (rpc, body) = (&led.permit.rpc, &led.body);
        self.spoken(endpoint, Era::Legacy)?;
        let era = Era::Legacy;
        let asked = rpc
            .protocol_version
            .ok_or_else(|| invalid(era, "version_missing", "params.protocolVersion must be a string"))?;
        let object = |span: Option<Span>, fallback: &'static [u8]| {
            span.map_or(Bytes::from_static(fallback), |span| Bytes::copy_from_slice(span.of(body)))
        };
        // A session keeps these for as long as it lives.
        let capabilities = object(rpc.capabilities, b"{}");
        let mut info = object(rpc.client_info, br#"{"name":"unknown","version":"0"}"#);
        if capabilities.len() + info.len() > MAX_CLIENT {
            info = name_of(&info);
        }
        let itself = |said, place| self.said_of_itself(led.house, led.endpoint, said, place);
        let (capabilities, info) = (itself(capabilities, &Place::Text), itself(info, text_places::CLIENT));
        if capabilities.len() + info.len() > MAX_CLIENT {
            let words = format!("capabilities and the name in clientInfo are longer than {MAX_CLIENT} bytes");
            return Err(invalid(era, "client_too_long", words));
        }
        let session = self
            .sessions
            .open(
                Holder::new(led.permit.caller.clone(), led.client),
                &endpoint.path,
                version::negotiate(&asked.read(body)),
                capabilities,
                info,
                room(led.house),
            )
            .map_err(|full| Box::new(no_room(&full)))?;
        let view = &endpoint.legacy;
        let mut result = format!(r#"{{"protocolVersion":"{}","capabilities":"#, session.version).into_bytes();
        result.extend_from_slice(&view.capabilities);
        result.extend_from_slice(br#","serverInfo":"#);
        result.extend_from_slice(&view.server_info);
        if let Some(instructions) = &view.instructions {
            result.extend_from_slice(br#","instructions":"#);
            result.extend_from_slice(instructions);
        }
        result.push(b'}');
        let id = rpc.id.expect("a request has an id").of(body);
        let body = message::result(id, &result);
        Ok(Exit::Answer(Reply { session: Some(session.id.clone()), ..Reply::ok(body) }))
    }

    /// A notification that its sender may send, to where those of its method go.
    pub(super) async fn notification(
        &self,
        led: Led<'_>,
        method: Method,
        goes: Goes,
    ) -> Result<Exit, Box<Refusal>> {
        let Some(session) = led.session else { return Ok(Exit::Answer(Reply::accepted())) };
        let reach = match goes {
            Goes::Asker | Goes::All | Goes::Only => led.reach(self).await,
            Goes::Runs | Goes::Gateway | Goes::Named | Goes::Client => Reach::nothing(),
        };
        let reached =
            |(server, seat): (Arc<Server>, Arc<Seat>)| reach.covers(&server).then_some((server, seat));
        Ok(match goes {
            Goes::Runs => {
                let id = led.permit.rpc.request_id.map(|span| span.of(&led.body));
                let Some(run) = id.and_then(|id| session.runs.get(id)) else {
                    return Ok(Exit::Answer(Reply::accepted()));
                };
                // Where it runs, which need not be where the session would call now.
                let there = run.seat().map(|seat| (run.server.clone(), seat)).into_iter().collect();
                let params = params(&led);
                let said = match (message::member(&params, "requestId"), run.sent()) {
                    (Some(place), Some(sent)) => {
                        let params = splice(BytesMut::from(&params[..]), place, &sent.wire);
                        self.hand_on(&led, there, method, params)?
                    }
                    _ => Exit::Answer(Reply::accepted()),
                };
                if let Some(stop) = &run.stop {
                    stop.cancel();
                }
                session.runs.done(run.id());
                said
            }
            Goes::Asker => {
                // Of a server's own request: two servers may well have chosen the same token.
                let params = params(&led);
                let token = message::member(&params, "progressToken");
                let home = token.and_then(|place| Some((place, id_map::home(place.of(&params))?)));
                let Some((place, (number, raw))) = home else {
                    return Ok(Exit::Answer(Reply::accepted()));
                };
                let params = splice(BytesMut::from(&params[..]), place, raw.as_bytes());
                let there = session.sitting(number).and_then(reached);
                self.hand_on(&led, there.into_iter().collect(), method, params)?
            }
            // Whoever has no upstream session there has nothing to tell; and to open it the caller's credentials may be
            // needed, which a notification does not have.
            Goes::All => {
                let there = session.seats().into_iter().filter_map(reached).collect();
                self.hand_on(&led, there, method, params(&led))?
            }
            Goes::Only => {
                let only = led.endpoint.only.as_ref();
                let there = session
                    .seats()
                    .into_iter()
                    .filter(|(server, _)| only.is_some_and(|only| only.name == server.name));
                self.hand_on(&led, there.filter_map(reached).collect(), method, params(&led))?
            }
            Goes::Gateway | Goes::Named | Goes::Client => Exit::Answer(Reply::accepted()),
        })
    }

    /// Passes a notification on. Its sender hears that it was taken when it is there, so that what he sends next does
    /// not overtake it; but he does not wait for long. Refused if none of the servers may get it.
    fn hand_on(
        &self,
        led: &Led<'_>,
        there: Vec<(Arc<Server>, Arc<Seat>)>,
        method: Method,
        params: Bytes,
    ) -> Result<Exit, Box<Refusal>> {
        let (place, mut blocked) = (text_places::notification(method), None);
        let mut all = Vec::with_capacity(there.len());
        for (server, seat) in there {
            let clean = match &params[..] {
                b"" => Ok(None),
                text => self.sent_to(led.house, &server, text, place),
            };
            match clean {
                Ok(clean) => all.push((server, seat, clean.unwrap_or_else(|| params.clone()))),
                Err(refusal) => blocked = Some(refusal),
            }
        }
        match blocked {
            Some(refusal) if all.is_empty() => return Err(refusal),
            _ if all.is_empty() => return Ok(Exit::Answer(Reply::accepted())),
            _ => {}
        }
        let all = all.into_iter().map(|(server, seat, params)| async move {
            let Some(http) = server.upstream.http() else { return };
            if let Err(error) = http.notify(&seat, method.word(), params).await {
                let method = method.word();
                tracing::debug!(server = %server.name, method, %error, "a notification was not passed on");
            }
        });
        let (words, receiver) = mpsc::channel(1);
        let handing = self.core.spawn(join_all(all.collect::<Vec<_>>()));
        self.core.spawn(async move {
            let _ = tokio::time::timeout(HANDED_ON, handing).await;
            let _ = words.send(Word::Taken).await;
        });
        Ok(Exit::Room(Talk { words: receiver, stream: false, leash: None, goodbye: None }))
    }

    /// A client's answer to a request of a server.
    pub(super) async fn response(&self, led: Led<'_>) -> Result<Exit, Box<Refusal>> {
        let Some(session) = led.session.filter(|_| led.permit.era == Era::Legacy) else {
            return Err(Box::new(Refusal::new(
                400,
                code::INVALID_REQUEST,
                "unexpected_response",
                "no request of the server waits for this response",
            )));
        };
        let nowhere = || Ok(Exit::Answer(Reply::accepted()));
        let Some(id) = led.permit.rpc.id else { return nowhere() };
        let Some((number, raw)) = id_map::home(id.of(&led.body)) else { return nowhere() };
        // What no server of this session asked, or was answered already, goes nowhere.
        let reach = led.reach(self).await;
        let there = session.sitting(number).filter(|(server, _)| reach.covers(server));
        let Some((server, seat)) = there else { return nowhere() };
        let Some(answering) = Answering::begin(session, number, raw.as_bytes()) else { return nowhere() };
        let body = splice(BytesMut::from(&led.body[..]), id, raw.as_bytes());
        // Refused, the question waits on: the client may answer once more.
        let place = text_places::answer(answering.method().unwrap_or(Method::Other));
        let body = self.sent_to(led.house, &server, &body, place)?.unwrap_or(body);
        Ok(Exit::Peer(Leave {
            body,
            era: Era::Legacy,
            session: Some(session.clone()),
            seat: Some(seat),
            run: None,
            answering: Some(Box::new(answering)),
            deed: None,
            name: None,
            mirrored: Vec::new(),
            safe: false,
            key: session.key(),
            id: None,
            sent: Sent::aside(),
            logs: false,
            resume: None,
            // The call that waits for it has its place.
            running: server.aside(),
            screen: None,
            server,
        }))
    }

    /// `logging/setLevel` where many servers may log: those that the session knows are told in the background, others
    /// when it takes a seat there.
    pub(super) async fn level(&self, led: &Led<'_>, endpoint: &Endpoint) -> Result<Exit, Box<Refusal>> {
        let (rpc, era) = (&led.permit.rpc, led.permit.era);
        if message::member(&endpoint.view(era).capabilities, "logging").is_none() {
            return Err(unknown_method(era));
        }
        let level = rpc.level.map(|level| level.read(&led.body));
        let Some(level) = level.filter(|level| LEVELS.contains(&&**level)) else {
            let words = format!("params.level must be one of {}", LEVELS.join(", "));
            return Err(invalid(era, "unknown_level", words));
        };
        if let Some(session) = led.session {
            // Nothing else that the client wrote goes to so many.
            let params = Bytes::from(format!(r#"{{"level":"{level}"}}"#));
            session.memory.set_level(params.clone());
            let reach = led.reach(self).await;
            let told = session.seats().into_iter().filter(|(server, _)| reach.covers(server));
            for (server, seat) in told {
                let params = params.clone();
                self.core.spawn(async move {
                    let Some(http) = server.upstream.http() else { return };
                    if let Err(error) = http.request_in(&seat, "logging/setLevel", params).await {
                        tracing::debug!(server = %server.name, %error, "a setting was not passed on");
                    }
                });
            }
        }
        let id = rpc.id.expect("a request has an id").of(&led.body);
        Ok(Exit::Answer(Reply::ok(message::result(id, b"{}"))))
    }
}

fn params(led: &Led<'_>) -> Bytes {
    led.permit.rpc.params.map(|span| led.body.slice(span.start..span.end)).unwrap_or_default()
}

/// A client's name and version, without all else that it may say of itself.
fn name_of(info: &Bytes) -> Bytes {
    let mut short = BytesMut::from("{");
    for name in ["name", "title", "version"] {
        if let Some(value) = message::member(info, name) {
            let comma = if short.len() > 1 { "," } else { "" };
            short.put_slice(format!("{comma}\"{name}\":").as_bytes());
            short.put_slice(value.of(info));
        }
    }
    short.put_u8(b'}');
    short.freeze()
}
