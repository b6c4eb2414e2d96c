//! One parsed JSON-RPC 2.0 message, as places in its bytes.
//!
//! [`read`] reads the body once and finds the members for routing and filters: kind, id, method, the names in
//! `params`, the modern `_meta`. In every object that it looks *into* (the message, `params`, `params._meta`,
//! `params.ref`) it rejects duplicate keys, plain or with escapes. It also rejects keys that a lax reader
//! would take for a known one (`"Method"`, `"ſ"` for `s`, `"ß"` for `ss`). The server must not be able to
//! read another message from the same bytes.
//!
//! It does not look into `arguments`, and knows no method and no protocol version.

mod key_check;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use key_check::KeyChecker;

use crate::json::reader::{JsonError, JsonErrorKind, JsonReader, Span, Text};

/// Most members of an object that is looked into; bounds the search for duplicates.
const MAX_MEMBERS: usize = 128;
/// Longest id that is accepted and echoed, in bytes as written.
const MAX_ID: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    Request,
    Notification,
    Response,
}

/// The places of one message. All spans are of the body that [`read`] was given.
#[derive(Clone, Debug)]
pub struct Rpc {
    pub kind: MessageKind,
    /// As written: a string with its quotes, or an integer.
    pub id: Option<Span>,
    pub method: Option<Text>,
    pub params: Option<Span>,
    pub name: Option<Text>,
    pub uri: Option<Text>,
    pub cursor: Option<Text>,
    pub level: Option<Text>,
    pub protocol_version: Option<Text>,
    /// `params.task_id` of the tasks extension.
    pub task_id: Option<Text>,
    /// The whole of `params.arguments`.
    pub arguments: Option<Span>,
    /// The whole of `params.inputResponses`: the user's answers to the server (2026-07-28, MRTR).
    pub input_responses: Option<Span>,
    pub client_info: Option<Span>,
    pub capabilities: Option<Span>,
    pub request_id: Option<Span>,
    pub notifications: Option<Span>,
    pub reference: Option<Reference>,
    pub meta: Meta,
}

/// `params.ref` of `completion/complete`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference {
    pub name: Option<Text>,
    pub uri: Option<Text>,
}

/// The parsed members of `params._meta`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meta {
    pub protocol_version: Option<Text>,
    pub client_capabilities: Option<Span>,
    pub client_info: Option<Span>,
    pub progress_token: Option<Span>,
    /// The client requests log messages (2026-07-28).
    pub log_level: Option<Span>,
}

/// A body that is not one valid JSON-RPC message, with its id if it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    pub id: Option<Span>,
    pub kind: ParseErrorKind,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseErrorKind {
    #[error("the body is not JSON: {0}")]
    Json(JsonError),
    #[error("the body must be one JSON-RPC message, a JSON object")]
    NotAnObject,
    #[error("batches are not part of this protocol revision; send one message a request")]
    Batch,
    #[error("the key `{0}` stands twice in one object")]
    DuplicateKey(String),
    #[error("the key `{0}` is not the key `{1}`; keys are case-sensitive")]
    LookalikeKey(String, &'static str),
    #[error("an object with more than {MAX_MEMBERS} members where the message is read")]
    TooManyMembers,
    #[error("`jsonrpc` must be the string \"2.0\"")]
    Version,
    #[error("`id` must be a string or an integer of at most {MAX_ID} bytes")]
    Id,
    #[error("`method` must be a string")]
    Method,
    #[error("`{0}` must be an object")]
    Object(&'static str),
    #[error("`{0}` must be a string")]
    String(&'static str),
    #[error("the message is neither a request, a notification nor a response")]
    Shape,
}

/// Reads one message; `max_depth` levels of nesting are allowed.
pub fn read(body: &[u8], max_depth: usize) -> Result<Rpc, ParseError> {
    let mut parser = Parser::default();
    match parser.message(body, max_depth) {
        Ok(()) => parser.finish(body),
        Err(fault) => Err(ParseError { id: None, kind: classify_json_error(body, fault) }),
    }
}

/// Returns `Batch` or `NotAnObject` rather than "unexpected character at 0" if the body is other JSON.
fn classify_json_error(body: &[u8], fault: JsonError) -> ParseErrorKind {
    let start = body.iter().position(|b| !b.is_ascii_whitespace());
    let other = fault.kind == JsonErrorKind::Unexpected && start == Some(fault.at) && body[fault.at] != b'{';
    if !other
        || JsonReader::new(body, crate::json::reader::DEPTH_CEILING)
            .and_then(|mut r| r.value().and(r.end()))
            .is_err()
    {
        return ParseErrorKind::Json(fault);
    }
    if body[fault.at] == b'[' { ParseErrorKind::Batch } else { ParseErrorKind::NotAnObject }
}

const TOP: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];
const PARAMS: &[&str] = &[
    "name",
    "uri",
    "arguments",
    "_meta",
    "cursor",
    "ref",
    "level",
    "taskId",
    "protocolVersion",
    "capabilities",
    "clientInfo",
    "requestId",
    "notifications",
    "inputResponses",
    "requestState",
];
const REFERENCE: &[&str] = &["type", "name", "uri"];
pub const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
pub const META_CLIENT: &str = "io.modelcontextprotocol/clientInfo";
pub const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
const META: &[&str] = &[META_VERSION, META_CAPABILITIES, META_CLIENT, META_LOG_LEVEL, "progressToken"];

/// The state of parsing. The first error is kept and parsing continues, so that the response can carry the id
/// even if that comes last.
#[derive(Default)]
struct Parser {
    error: Option<ParseErrorKind>,
    jsonrpc: bool,
    ids: usize,
    id: Option<Span>,
    method: Option<Text>,
    params: Option<Span>,
    /// How many of `result` and `error` there are.
    outcomes: usize,
    name: Option<Text>,
    uri: Option<Text>,
    cursor: Option<Text>,
    level: Option<Text>,
    protocol_version: Option<Text>,
    task_id: Option<Text>,
    arguments: Option<Span>,
    input_responses: Option<Span>,
    client_info: Option<Span>,
    capabilities: Option<Span>,
    request_id: Option<Span>,
    notifications: Option<Span>,
    reference: Option<Reference>,
    meta: Meta,
}

impl Parser {
    fn fail(&mut self, why: ParseErrorKind) {
        self.error.get_or_insert(why);
    }

    fn message(&mut self, body: &[u8], max_depth: usize) -> Result<(), JsonError> {
        let mut reader = JsonReader::new(body, max_depth)?;
        let mut keys = KeyChecker::new(body, TOP);
        reader.object(|r, key| {
            keys.check(key, self);
            match &*key.bytes(body) {
                b"jsonrpc" => match self.take_string(r, || ParseErrorKind::Version)? {
                    Some(version) if version.is(body, "2.0") => self.jsonrpc = true,
                    _ => self.fail(ParseErrorKind::Version),
                },
                b"id" => {
                    self.ids += 1;
                    let id = r.value()?;
                    if is_id(id.of(body)) { self.id = Some(id) } else { self.fail(ParseErrorKind::Id) }
                }
                b"method" => self.method = self.take_string(r, || ParseErrorKind::Method)?,
                b"params" => self.params(r, body)?,
                b"result" | b"error" => {
                    self.outcomes += 1;
                    r.value()?;
                }
                _ => drop(r.value()?),
            }
            Ok(())
        })?;
        reader.end()
    }

    fn params(&mut self, r: &mut JsonReader<'_>, body: &[u8]) -> Result<(), JsonError> {
        if r.peek()? != b'{' {
            r.value()?;
            self.fail(ParseErrorKind::Object("params"));
            return Ok(());
        }
        let mut keys = KeyChecker::new(body, PARAMS);
        let span = r.object(|r, key| {
            keys.check(key, self);
            match &*key.bytes(body) {
                b"name" => self.name = self.take_string(r, || ParseErrorKind::String("params.name"))?,
                b"uri" => self.uri = self.take_string(r, || ParseErrorKind::String("params.uri"))?,
                b"cursor" => self.cursor = self.take_string(r, || ParseErrorKind::String("params.cursor"))?,
                b"level" => self.level = self.take_string(r, || ParseErrorKind::String("params.level"))?,
                b"taskId" => {
                    self.task_id = self.take_string(r, || ParseErrorKind::String("params.taskId"))?
                }
                b"protocolVersion" => {
                    self.protocol_version =
                        self.take_string(r, || ParseErrorKind::String("params.protocolVersion"))?;
                }
                b"arguments" => self.arguments = Some(self.take_object(r, "params.arguments")?),
                b"inputResponses" => self.input_responses = Some(r.value()?),
                b"clientInfo" => self.client_info = Some(self.take_object(r, "params.clientInfo")?),
                b"capabilities" => self.capabilities = Some(self.take_object(r, "params.capabilities")?),
                b"notifications" => self.notifications = Some(r.value()?),
                b"requestId" => self.request_id = Some(r.value()?),
                b"ref" => self.reference(r, body)?,
                b"_meta" => self.meta(r, body)?,
                _ => drop(r.value()?),
            }
            Ok(())
        })?;
        self.params = Some(span);
        Ok(())
    }

    fn reference(&mut self, r: &mut JsonReader<'_>, body: &[u8]) -> Result<(), JsonError> {
        if r.peek()? != b'{' {
            self.fail(ParseErrorKind::Object("params.ref"));
            return r.value().map(drop);
        }
        let mut keys = KeyChecker::new(body, REFERENCE);
        let mut reference = Reference::default();
        r.object(|r, key| {
            keys.check(key, self);
            match &*key.bytes(body) {
                b"name" => {
                    reference.name = self.take_string(r, || ParseErrorKind::String("params.ref.name"))?
                }
                b"uri" => reference.uri = self.take_string(r, || ParseErrorKind::String("params.ref.uri"))?,
                _ => drop(r.value()?),
            }
            Ok(())
        })?;
        self.reference = Some(reference);
        Ok(())
    }

    fn meta(&mut self, r: &mut JsonReader<'_>, body: &[u8]) -> Result<(), JsonError> {
        const VERSION: &[u8] = META_VERSION.as_bytes();
        const CAPABILITIES: &[u8] = META_CAPABILITIES.as_bytes();
        const CLIENT: &[u8] = META_CLIENT.as_bytes();
        const LOG_LEVEL: &[u8] = META_LOG_LEVEL.as_bytes();
        if r.peek()? != b'{' {
            self.fail(ParseErrorKind::Object("params._meta"));
            return r.value().map(drop);
        }
        let mut keys = KeyChecker::new(body, META);
        r.object(|r, key| {
            keys.check(key, self);
            match &*key.bytes(body) {
                VERSION => {
                    self.meta.protocol_version =
                        self.take_string(r, || ParseErrorKind::String(META_VERSION))?
                }
                CAPABILITIES => {
                    let object = r.peek()? == b'{';
                    let span = r.value()?;
                    self.meta.client_capabilities = object.then_some(span);
                }
                CLIENT => self.meta.client_info = Some(r.value()?),
                LOG_LEVEL => self.meta.log_level = Some(r.value()?),
                b"progressToken" => self.meta.progress_token = Some(r.value()?),
                _ => drop(r.value()?),
            }
            Ok(())
        })?;
        Ok(())
    }

    fn take_string(
        &mut self,
        r: &mut JsonReader<'_>,
        why: impl FnOnce() -> ParseErrorKind,
    ) -> Result<Option<Text>, JsonError> {
        if r.peek()? == b'"' {
            return r.string().map(Some);
        }
        r.value()?;
        self.fail(why());
        Ok(None)
    }

    fn take_object(&mut self, r: &mut JsonReader<'_>, what: &'static str) -> Result<Span, JsonError> {
        if r.peek()? != b'{' {
            self.fail(ParseErrorKind::Object(what));
        }
        r.value()
    }

    fn finish(self, body: &[u8]) -> Result<Rpc, ParseError> {
        // A duplicate id names no request.
        let id = if self.ids == 1 { self.id } else { None };
        let kind = match (self.method.is_some(), id.is_some(), self.outcomes) {
            (true, true, 0) => Some(MessageKind::Request),
            (true, false, 0) => Some(MessageKind::Notification),
            // A peer that could not read our id sends an error without one. It reaches no request but is no
            // error here. Of two outcomes (JSON-RPC 2.0 §5) readers would take different ones.
            (false, _, 1) => Some(MessageKind::Response),
            _ => None,
        };
        let error = match (self.error, self.jsonrpc, kind) {
            (Some(why), ..) => Err(why),
            (None, false, _) => Err(ParseErrorKind::Version),
            (None, true, None) => {
                Err(if self.outcomes > 0 { ParseErrorKind::Shape } else { ParseErrorKind::Method })
            }
            (None, true, Some(kind)) => Ok(kind),
        };
        debug_assert!(id.is_none_or(|id| id.end <= body.len()));
        match error {
            // The id of a response belongs to the other side: the gateway may not answer with it.
            Err(why) => {
                Err(ParseError { id: id.filter(|_| self.method.is_some() || self.outcomes == 0), kind: why })
            }
            Ok(kind) => Ok(Rpc {
                kind,
                id,
                method: self.method,
                params: self.params,
                name: self.name,
                uri: self.uri,
                cursor: self.cursor,
                level: self.level,
                protocol_version: self.protocol_version,
                task_id: self.task_id,
                arguments: self.arguments,
                input_responses: self.input_responses,
                client_info: self.client_info,
                capabilities: self.capabilities,
                request_id: self.request_id,
                notifications: self.notifications,
                reference: self.reference,
                meta: self.meta,
            }),
        }
    }
}

impl Rpc {
    /// The method, or the empty string for a response.
    pub fn method_name<'a>(&self, body: &'a [u8]) -> Cow<'a, str> {
        self.method.map_or(Cow::Borrowed(""), |m| m.read(body))
    }
}

/// MCP allows strings and integers (schema `RequestId`), and never null.
fn is_id(raw: &[u8]) -> bool {
    let shape = match raw.first() {
        Some(b'"') => true,
        Some(b'-' | b'0'..=b'9') => !raw.iter().any(|b| matches!(b, b'.' | b'e' | b'E')),
        _ => false,
    };
    shape && raw.len() <= MAX_ID
}
