//! What only the legacy era has: opening a session, notifications, a client's answers to its servers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use filters::rebuild::splice;
use filters::verdict::code;
use filters::{Era, Refusal, Span};

use super::refusals::invalid;
use super::{Door, Exit, Leave, Led, Reply};
use crate::address;
use crate::catalog::Endpoint;
use crate::protocol::method::Method;
use crate::protocol::{revision, wire};
use crate::server::Server;
use crate::session::Session;

/// What a client may say of itself, in bytes.
const MAX_CLIENT: usize = 64 * 1024;

impl Door {
    /// Opens a session; `endpoint` is what the caller sees of it.
    pub(super) fn initialize(&self, led: &Led<'_>, endpoint: &Endpoint) -> Result<Exit, Box<Refusal>> {
        let (rpc, body) = (&led.permit.rpc, &led.body);
        self.spoken(endpoint, Era::Legacy)?;
        let era = Era::Legacy;
        let asked = rpc
            .protocol_version
            .ok_or_else(|| invalid(era, "version_missing", "params.protocolVersion must be a string"))?;
        // A session keeps these for as long as it lives.
        let sizes = [rpc.capabilities, rpc.client_info].map(|span| span.map_or(0, |s| s.end - s.start));
        if sizes.iter().sum::<usize>() > MAX_CLIENT {
            let words = format!("capabilities and clientInfo together are longer than {MAX_CLIENT} bytes");
            return Err(invalid(era, "client_too_long", words));
        }
        let object = |span: Option<Span>, fallback: &'static [u8]| {
            span.map_or(Bytes::from_static(fallback), |span| Bytes::copy_from_slice(span.of(body)))
        };
        let limit = usize::try_from(led.house.plan.config.limits.max_sessions).unwrap_or(usize::MAX);
        let session = self
            .sessions
            .open(
                led.permit.caller.clone(),
                &endpoint.path,
                revision::negotiate(&asked.read(body)),
                object(rpc.capabilities, b"{}"),
                object(rpc.client_info, br#"{"name":"unknown","version":"0"}"#),
                limit,
            )
            .map_err(|full| Box::new(Refusal::http(503, "too_many_sessions", full.to_string())))?;
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
        let body = wire::result(id, &result);
        Ok(Exit::Answer(Reply { session: Some(session.id.clone()), ..Reply::ok(body) }))
    }

    pub(super) fn notification(&self, led: Led<'_>, method: Method) -> Result<Exit, Box<Refusal>> {
        let Some(session) = led.session else { return Ok(Exit::Answer(Reply::accepted())) };
        match method {
            Method::Cancelled => {
                let id = led.permit.rpc.request_id.map(|span| span.of(&led.body));
                if let Some(run) = id.and_then(|id| session.run(id)) {
                    run.stop.cancel();
                    let params = params(&led);
                    self.forward(session, vec![run.server], "notifications/cancelled", params);
                }
            }
            Method::Progress => {
                // Of a server's own request: two servers may well have chosen the same token.
                let params = params(&led);
                let token = wire::member(&params, "progressToken");
                let home = token.and_then(|place| Some((place, address::home(place.of(&params))?)));
                let (serial, params) = match home {
                    Some((place, (serial, raw))) => {
                        (Some(serial), splice(BytesMut::from(&params[..]), place, raw.as_bytes()))
                    }
                    None => (led.endpoint.only.as_ref().map(|server| server.serial), params),
                };
                let mut servers = session.servers();
                servers.retain(|server| Some(server.serial) == serial && led.may_reach(self, server));
                self.forward(session, servers, "notifications/progress", params);
            }
            // The gateway says this itself when it takes a seat.
            Method::Initialized => {}
            _ => {
                let word = led.permit.rpc.method_name(&led.body).into_owned();
                let mut servers = session.servers();
                servers.retain(|server| led.may_reach(self, server));
                self.forward(session, servers, &word, params(&led));
            }
        }
        Ok(Exit::Answer(Reply::accepted()))
    }

    /// Passes a notification on to servers where the session has a seat, in the background.
    fn forward(&self, session: &Arc<Session>, servers: Vec<Arc<Server>>, method: &str, params: Bytes) {
        for server in servers {
            let (session, method, params) = (session.clone(), method.to_owned(), params.clone());
            self.core.spawn(async move {
                let Some(http) = server.upstream.http() else { return };
                // One that has no seat there has nothing to tell; and to take it the caller's credentials may be
                // needed, which a notification does not have.
                let Some(seat) = session.seated(&server).await else { return };
                if let Err(error) = http.notify(&seat, &method, params).await {
                    tracing::debug!(server = %server.name, method, %error, "a notification was not passed on");
                }
            });
        }
    }

    /// A client's answer to a request of a server.
    pub(super) fn response(&self, led: Led<'_>) -> Result<Exit, Box<Refusal>> {
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
        let (serial, body) = match address::home(id.of(&led.body)) {
            Some((serial, raw)) => {
                let asked = session.asked.take(serial, raw.as_bytes());
                (asked.then_some(serial), splice(BytesMut::from(&led.body[..]), id, raw.as_bytes()))
            }
            None => {
                let only = led.endpoint.only.as_ref().map(|server| server.serial);
                (only.filter(|serial| session.asked.take(*serial, id.of(&led.body))), led.body.clone())
            }
        };
        // What no server of this session asked, or was answered already, goes nowhere.
        let servers = serial.map(|_| session.servers()).unwrap_or_default();
        let server = servers.into_iter().find(|server| Some(server.serial) == serial);
        let Some(server) = server.filter(|s| s.upstream.http().is_some() && led.may_reach(self, s)) else {
            return nowhere();
        };
        let running = server.start().map_err(|error| Box::new(error.refusal(&server.name)))?;
        Ok(Exit::Peer(Leave {
            body,
            era: Era::Legacy,
            session: Some(session.clone()),
            name: None,
            mirrored: Vec::new(),
            safe: false,
            key: session.key(),
            id: None,
            resume: None,
            readdress: false,
            running,
            screen: None,
            server,
        }))
    }

    /// Sends a setting to all legacy members of an endpoint that the caller may use, in the background.
    pub(super) fn tell_members(&self, led: &Led<'_>, method: &'static str) {
        let (Some(session), Some(params)) = (led.session, led.permit.rpc.params) else { return };
        let params = led.body.slice(params.start..params.end);
        let endpoint = led.house.sight(led.endpoint, &led.permit.caller, &self.metrics);
        for server in endpoint.members.iter().filter(|server| server.upstream.http().is_some()) {
            let (session, server, params) = (session.clone(), server.clone(), params.clone());
            self.core.spawn(async move {
                let Some(http) = server.upstream.http() else { return };
                // A server that is called in its caller's name is told only by a session that it knows.
                let named = server.is_personal();
                let seat = match session.seated(&server).await {
                    Some(seat) => Ok(seat),
                    None if named => return,
                    None => session.seat(&server, None).await,
                };
                let told = match seat {
                    Ok(seat) => http.request_in(&seat, method, params).await.map(drop),
                    Err(error) => Err(error),
                };
                if let Err(error) = told {
                    tracing::debug!(server = %server.name, method, %error, "a setting was not passed on");
                }
            });
        }
    }
}

fn params(led: &Led<'_>) -> Bytes {
    led.permit.rpc.params.map(|span| led.body.slice(span.start..span.end)).unwrap_or_default()
}
