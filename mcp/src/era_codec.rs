//! What differs between the eras, as values and bytes: versions, headers, handshake, `_meta`, error codes,
//! HTTP statuses and members of results. Other files ask here.
//!
//! A codec is of one era and knows one side at a time: the gateway asks that of `client_era` how to answer a
//! client, and that of `server_era` how to ask a server. It does not translate between the two, keeps no
//! state and does no I/O. Which messages exist is in `method`, which versions in `version`.

mod results;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use crate::era::Era;
use crate::header_name;
use crate::header_value::encode;
use crate::json::quote::quote;
use crate::jsonrpc::MessageKind;
use crate::jsonrpc::message;
use crate::jsonrpc::request::{META_CAPABILITIES, META_CLIENT, META_VERSION};
use crate::method::{self, Method, MethodRule, Sender};
use crate::rejection::code;
use crate::version;

pub use results::Cache;

/// The key of `_meta` with the `Implementation` of a server (2026-07-28, basic).
pub const META_SERVER: &str = "io.modelcontextprotocol/serverInfo";

/// The rules of one era.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EraCodec(Era);

impl Era {
    pub const ALL: [Era; 2] = [Era::Legacy, Era::Modern];

    pub const fn codec(self) -> EraCodec {
        EraCodec(self)
    }

    /// The era of a version; an unknown version is newer than those with `initialize`.
    pub fn of_version(version: &str) -> Self {
        if version::LEGACY.contains(&version) { Era::Legacy } else { Era::Modern }
    }
}

/// Both sides.
impl EraCodec {
    pub const fn era(self) -> Era {
        self.0
    }

    const fn is_modern(self) -> bool {
        matches!(self.0, Era::Modern)
    }

    /// Its versions, newest first.
    pub const fn versions(self) -> &'static [&'static str] {
        if self.is_modern() { version::MODERN } else { version::LEGACY }
    }

    pub const fn newest_version(self) -> &'static str {
        if self.is_modern() { version::NEWEST_MODERN } else { version::NEWEST_LEGACY }
    }

    /// Whether `initialize` opens a session, in which state is kept. Otherwise each request is complete.
    pub const fn has_sessions(self) -> bool {
        !self.is_modern()
    }

    /// Whether headers repeat parts of the body (2026-07-28, streamable-http, "Standard Headers").
    pub const fn has_mirrored_headers(self) -> bool {
        self.is_modern()
    }

    /// The row of a message in its newest version; `None` if the sender may not send it.
    pub fn rule(self, sender: Sender, kind: MessageKind, word: &str) -> Option<&'static MethodRule> {
        method::find(sender, kind, word, self.newest_version())
    }
}

/// The client's side.
impl EraCodec {
    /// The HTTP status of a JSON-RPC error. Legacy servers answer errors of well-formed requests with 200;
    /// in the modern era some errors have a status of their own (2026-07-28, streamable-http).
    pub const fn status_of(self, error_code: i64) -> u16 {
        if !self.is_modern() {
            return 200;
        }
        match error_code {
            code::METHOD_NOT_FOUND => 404,
            code::PARSE
            | code::INVALID_REQUEST
            | code::INVALID_PARAMS
            | code::HEADER_MISMATCH
            | code::MISSING_CAPABILITY
            | code::UNSUPPORTED_VERSION => 400,
            _ => 200,
        }
    }

    /// The code for a resource that does not exist.
    pub const fn resource_not_found(self) -> i64 {
        if self.is_modern() { code::INVALID_PARAMS } else { code::RESOURCE_NOT_FOUND }
    }

    /// The code for a client of this era where only the other is served. For a modern client it is not one of
    /// its era, so that a client that speaks both goes on to `initialize` (2026-07-28, versioning).
    pub const fn era_mismatch(self) -> i64 {
        if self.is_modern() { 400 } else { code::UNSUPPORTED_VERSION }
    }

    /// Whether a client cancels its request by closing its stream (2026-07-28, streamable-http). In the
    /// legacy era it must send a cancellation (2025-11-25, transports: disconnection is not cancellation).
    pub const fn disconnect_cancels(self) -> bool {
        self.is_modern()
    }
}

/// The server's side.
impl EraCodec {
    /// Adds the headers of a request that do not depend on its body. In the legacy era they come from the
    /// session: the negotiated version, and the id if the server has given one.
    pub fn add_headers(self, headers: &mut HeaderMap, session: Option<(&str, Option<&HeaderValue>)>) {
        match (self.0, session) {
            (Era::Modern, _) => {
                headers
                    .insert(header_name::PROTOCOL_VERSION, HeaderValue::from_static(version::NEWEST_MODERN));
            }
            (Era::Legacy, Some((version, id))) => {
                if let Ok(version) = HeaderValue::from_str(version) {
                    headers.insert(header_name::PROTOCOL_VERSION, version);
                }
                if let Some(id) = id {
                    headers.insert(header_name::SESSION, id.clone());
                }
            }
            (Era::Legacy, None) => {}
        }
    }

    /// The headers that repeat the method and the name of a request; none in the legacy era.
    pub fn mirrored_headers(self, method: &str, params: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !self.has_mirrored_headers() {
            return headers;
        }
        if let Ok(method) = HeaderValue::from_str(method) {
            headers.insert(header_name::METHOD, method);
        }
        let named = match Method::parse(method) {
            Method::ToolsCall | Method::PromptsGet => message::member(params, "name"),
            Method::ResourcesRead => message::member(params, "uri"),
            // SEP-2663.
            Method::TasksGet | Method::TasksUpdate | Method::TasksCancel => message::member(params, "taskId"),
            _ => None,
        };
        if let Some(name) = named.and_then(|span| message::string(span.of(params)))
            && let Ok(name) = HeaderValue::from_str(&encode(&name))
        {
            headers.insert(header_name::NAME, name);
        }
        headers
    }

    /// The `_meta` of a request, for the `Implementation` of the client; none in the legacy era.
    pub fn meta(self, client_info: &str) -> Option<String> {
        self.is_modern().then(|| {
            format!(
                r#"{{"{META_VERSION}":{},"{META_CAPABILITIES}":{{}},"{META_CLIENT}":{client_info}}}"#,
                quote(self.newest_version())
            )
        })
    }

    /// The params of a request; `rest` is the inside of a JSON object, without braces.
    pub fn params(self, rest: &str, client_info: &str) -> Bytes {
        Bytes::from(match self.meta(client_info) {
            None => format!("{{{rest}}}"),
            Some(meta) => {
                let comma = if rest.is_empty() { "" } else { "," };
                format!(r#"{{{rest}{comma}"_meta":{meta}}}"#)
            }
        })
    }

    /// The first request to a server.
    pub const fn handshake_method(self) -> &'static str {
        if self.is_modern() { "server/discover" } else { "initialize" }
    }

    /// The params of this request.
    pub fn handshake_params(self, client_info: &str) -> Bytes {
        if self.is_modern() {
            return self.params("", client_info);
        }
        Bytes::from(format!(
            r#"{{"protocolVersion":{},"capabilities":{{}},"clientInfo":{client_info}}}"#,
            quote(self.newest_version())
        ))
    }

    /// The notification that follows its result.
    pub const fn handshake_notification(self) -> Option<&'static str> {
        if self.is_modern() { None } else { Some("notifications/initialized") }
    }

    /// The version in the result of the handshake. A modern server has accepted that of the request.
    pub fn handshake_version(self, result: &[u8]) -> Option<String> {
        if self.is_modern() {
            return Some(self.newest_version().to_owned());
        }
        message::string(message::member(result, "protocolVersion")?.of(result))
    }

    /// A request without effect that each healthy server answers.
    pub const fn health_check(self) -> &'static str {
        if self.is_modern() { "server/discover" } else { "ping" }
    }

    /// The request that opens the notification stream. In the legacy era it is a GET (stdio: none is needed).
    pub const fn listen_method(self) -> Option<&'static str> {
        if self.is_modern() { Some("subscriptions/listen") } else { None }
    }

    /// Whether this HTTP status means that the server has forgotten the session of the request.
    pub fn is_session_expired(self, status: u16, has_session_id: bool) -> bool {
        self.has_sessions() && has_session_id && status == 404
    }

    /// Whether messages that name no request may precede a response: requests and log messages of the server.
    pub const fn has_nameless_messages(self) -> bool {
        !self.is_modern()
    }
}

/// HTTP statuses with which a server rejects a kind of request as a whole, in either era.
pub const fn is_rejection_status(status: u16) -> bool {
    matches!(status, 400 | 404 | 405 | 406 | 415)
}

/// The same by the code of a JSON-RPC error.
pub const fn is_rejection_code(error_code: i64) -> bool {
    matches!(
        error_code,
        code::INVALID_PARAMS..=code::INVALID_REQUEST | code::UNSUPPORTED_VERSION..=code::HEADER_MISMATCH
    )
}

/// Whether a JSON-RPC error says that its server is of the modern era: it names a version that is known here.
pub fn is_of_modern_server(error: &[u8]) -> bool {
    let named = || {
        let data = message::member(error, "data")?.of(error);
        let supported = message::member(data, "supported")?.of(data);
        memchr::memmem::find(supported, quote(version::NEWEST_MODERN).as_bytes())
    };
    message::error_code(error) == Some(code::UNSUPPORTED_VERSION) && named().is_some()
}

#[cfg(test)]
mod tests;
