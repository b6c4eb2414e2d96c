//! What a server says before its answer: questions, progress, logs.

use bytes::{Bytes, BytesMut};
use mcp::bridge::questions::{self, Question};
use mcp::json::quote::quote;
use mcp::json::splice::splice;
use mcp::jsonrpc::message;
use mcp::method::Method;
use mcp::rejection::code;

use super::{Asked, Driver, Leg, MAX_OPEN};
use crate::bridge::{log_level, severity};
use crate::session::id_map;
use crate::streams::StreamItem;
use crate::upstream::server_messages::redacted;

impl Driver {
    /// Asks a legacy server for the log messages that this call wants; its level holds for the session.
    pub(super) async fn request_logs(&self) {
        let (Some(level), Some(session)) = (self.client.log_level, &self.session) else { return };
        let session = &session.session;
        let known = session.client_state.level().and_then(|params| log_level(&params));
        if known.is_some_and(|known| Some(known) <= severity(level)) {
            return;
        }
        let params = Bytes::from(format!(r#"{{"level":"{level}"}}"#));
        session.client_state.set_level(params.clone());
        let Some(pool) = self.side.server.endpoint_pool() else { return };
        let connected = session.upstream_sessions().into_iter();
        for (_, upstream_session) in connected.filter(|(server, _)| server.serial == self.side.server.serial)
        {
            if let Err(error) =
                pool.request_in(&upstream_session, Method::SetLevel.as_str(), params.clone()).await
            {
                tracing::debug!(server = %self.side.server.name, %error, "a log level was not set");
            }
        }
    }

    /// A message of the server before its answer. `leg` is the request that waits, if one does.
    pub(super) async fn on_note(&mut self, note: &Bytes, asked: &mut Vec<Asked>, leg: Option<&Leg>) {
        let Some(read) = message::read(note) else { return };
        let Some(word) = read.method.map(|method| method.read(note)) else { return };
        let method = Method::parse(&word);
        let params = read.params.map_or(&b"{}"[..], |params| params.of(note));
        if let Some(id) = read.id {
            let id = Bytes::copy_from_slice(id.of(note));
            return self.on_request(id, method, params, asked);
        }
        match method {
            Method::Cancelled => {
                let id = message::member(params, "requestId").map(|id| id.of(params));
                asked.retain(|question| id.is_none_or(|id| !message::same_id(id, &question.id)));
            }
            Method::Message => {
                let wanted = self.client.log_level.and_then(severity);
                if wanted.is_some_and(|wanted| log_level(params).is_some_and(|level| level >= wanted))
                    && let Some(leg) = leg
                {
                    let _ = leg.out.send(StreamItem::Message(note.clone())).await;
                }
            }
            Method::Progress => {
                let Some(leg) = leg else { return };
                let place = id_map::progress_token(note, &read);
                // A retry has a token of its own, or none.
                let (Some(place), Some(token)) = (place, &leg.token) else { return };
                let note = splice(BytesMut::from(&note[..]), place, token);
                let _ = leg.out.send(StreamItem::Message(note)).await;
            }
            // Nothing else belongs on the stream of a call (2026-07-28, basic/transports/streamable-http).
            _ => {}
        }
    }

    /// A request of the server on its notification stream, or its withdrawal. It was not searched for secrets yet.
    pub(super) async fn on_outside(&mut self, note: Bytes, asked: &mut Vec<Asked>, leg: Option<&Leg>) {
        let id = message::read(&note).and_then(|read| read.id).map(|id| note.slice(id.start..id.end));
        match redacted(self.side.redactor.as_ref(), note) {
            Some(note) => self.on_note(&note, asked, leg).await,
            None => {
                let Some((session, id)) = self.session.as_ref().zip(id) else { return };
                if let Some((number, raw)) = id_map::parse_request_id(&id) {
                    session.session.decline_blocked(number, raw.as_bytes());
                }
            }
        }
    }

    fn on_request(&mut self, id: Bytes, method: Method, params: &[u8], asked: &mut Vec<Asked>) {
        let question = Question { key: String::new(), method, params: params.to_vec() };
        let request = questions::to_modern(method, params);
        let refused = match &request {
            None => Some((code::METHOD_NOT_FOUND, "the client cannot be asked this")),
            Some(_) if !questions::is_declared(&question, &self.client.capabilities) => {
                Some((code::INVALID_PARAMS, "the client has not declared that it can be asked this"))
            }
            Some(_) if asked.len() >= MAX_OPEN => {
                Some((code::INTERNAL, "too many requests are open in this call"))
            }
            Some(_) => None,
        };
        match (request, refused) {
            (Some(request), None) => {
                self.last_key += 1;
                asked.push(Asked { id, key: format!("q{}", self.last_key), method, request });
            }
            (_, refused) => {
                let (code, why) = refused.unwrap_or((code::INTERNAL, "it cannot be asked"));
                let body = format!(r#"{{"code":{code},"message":{}}}"#, quote(why));
                self.send_in_background(&id, |raw| message::error_response(raw, body.as_bytes()));
            }
        }
    }
}
