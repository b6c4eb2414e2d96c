//! The gateway's own JSON-RPC messages: one module serializes them. Also parses servers' messages.
//!
//! Servers' messages may hold unpaired surrogates (RFC 8259 §8.2) and are forwarded unchanged. Clients'
//! messages may not: `jsonrpc::request` has rejected them before.

use std::borrow::Cow;

use crate::json::quote::quote;
use crate::json::reader::{DEPTH_CEILING, JsonReader};
use crate::{Rejection, Span, Text};
use bytes::{BufMut, Bytes, BytesMut};

use crate::method::Method;

/// The key of `_meta` with the subscription of a message (2026-07-28, basic/utilities/subscriptions).
pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";

/// `{"jsonrpc":"2.0","id":ID,"result":RESULT}`; both are JSON text.
pub fn result(id: &[u8], result: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(id.len() + result.len() + 40);
    out.put_slice(br#"{"jsonrpc":"2.0","id":"#);
    out.put_slice(id);
    out.put_slice(br#","result":"#);
    out.put_slice(result);
    out.put_u8(b'}');
    out.freeze()
}

/// The same as a whole stream of one event; `result` is one line ([`one_line`]).
pub fn result_event(id: &[u8], result: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(id.len() + result.len() + 70);
    out.put_slice(b"event: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":");
    out.put_slice(id);
    out.put_slice(br#","result":"#);
    out.put_slice(result);
    out.put_slice(b"}\n\n");
    out.freeze()
}

/// JSON without line ends, which can only be white space between its tokens.
pub fn one_line(json: Bytes) -> Bytes {
    if memchr::memchr2(b'\n', b'\r', &json).is_none() {
        return json;
    }
    json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect()
}

/// A server's error under the client's id; `error` is the JSON text of the error object.
pub fn error_response(id: &[u8], error: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(id.len() + error.len() + 40);
    out.put_slice(br#"{"jsonrpc":"2.0","id":"#);
    out.put_slice(id);
    out.put_slice(br#","error":"#);
    out.put_slice(error);
    out.put_u8(b'}');
    out.freeze()
}

/// The error message of a rejection. Without an id the member is omitted, as in the schemas from 2025-11-25
/// on (`JSONRPCErrorResponse.id` is optional and never null).
pub fn rejection_response(id: Option<&[u8]>, rejection: &Rejection) -> Bytes {
    let mut out = BytesMut::with_capacity(160 + rejection.message.len());
    out.put_slice(br#"{"jsonrpc":"2.0","#);
    if let Some(id) = id {
        out.put_slice(br#""id":"#);
        out.put_slice(id);
        out.put_u8(b',');
    }
    out.put_slice(
        format!(r#""error":{{"code":{},"message":{}"#, rejection.code, quote(&rejection.message)).as_bytes(),
    );
    if let Some(data) = data(rejection) {
        out.put_slice(br#","data":"#);
        out.put_slice(data.as_bytes());
    }
    out.put_slice(b"}}");
    out.freeze()
}

/// `error.data`, with the time to wait in it where there is one.
fn data(rejection: &Rejection) -> Option<Cow<'_, str>> {
    let data = rejection.data.as_deref();
    let Some(wait) = rejection.retry_after else { return data.map(Cow::Borrowed) };
    let wait = format!(r#""retry_after_ms":{}"#, wait.as_millis());
    match data.and_then(|data| data.strip_prefix('{')) {
        None => Some(Cow::Owned(format!("{{{wait}}}"))),
        Some(rest) if rest.contains("\"retry_after_ms\"") => data.map(Cow::Borrowed),
        Some("}") => Some(Cow::Owned(format!("{{{wait}}}"))),
        Some(rest) => Some(Cow::Owned(format!("{{{wait},{rest}"))),
    }
}

/// A request; `params` is JSON text.
pub fn request(id: &str, method: &str, params: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(params.len() + method.len() + id.len() + 60);
    out.put_slice(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{},"params":"#, quote(method)).as_bytes());
    out.put_slice(params);
    out.put_u8(b'}');
    out.freeze()
}

/// A notification; `params` is JSON text, or empty for none.
pub fn notification(method: &str, params: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(params.len() + method.len() + 50);
    out.put_slice(format!(r#"{{"jsonrpc":"2.0","method":{}"#, quote(method)).as_bytes());
    if !params.is_empty() {
        out.put_slice(br#","params":"#);
        out.put_slice(params);
    }
    out.put_u8(b'}');
    out.freeze()
}

/// A server's message, as places in its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerMessage {
    pub id: Option<Span>,
    pub method: Option<Text>,
    pub params: Option<Span>,
    pub result: Option<Span>,
    pub error: Option<Span>,
}

impl ServerMessage {
    pub fn is_response(&self) -> bool {
        self.method.is_none() && (self.result.is_some() != self.error.is_some())
    }

    /// A request of the server to the client (legacy: sampling, elicitation, roots, ping).
    pub fn is_request(&self) -> bool {
        self.method.is_some() && self.id.is_some()
    }
}

/// Parses a server's message: one JSON object with `jsonrpc` "2.0", without duplicates of the members that
/// are read.
pub fn read(message: &[u8]) -> Option<ServerMessage> {
    let mut reader = JsonReader::lenient(message, DEPTH_CEILING).ok()?;
    let mut incoming = ServerMessage::default();
    let (mut is_json_rpc, mut twice, mut versioned, mut named) = (false, false, false, false);
    reader
        .object(|r, key| {
            match &*key.bytes(message) {
                b"jsonrpc" => {
                    twice |= std::mem::replace(&mut versioned, true);
                    match r.peek()? {
                        b'"' => is_json_rpc = r.string()?.is(message, "2.0"),
                        _ => drop(r.value()?),
                    }
                }
                b"id" => twice |= incoming.id.replace(r.value()?).is_some(),
                b"method" => {
                    twice |= std::mem::replace(&mut named, true);
                    match r.peek()? {
                        b'"' => incoming.method = Some(r.string()?),
                        _ => drop(r.value()?),
                    }
                }
                b"params" => twice |= incoming.params.replace(r.value()?).is_some(),
                b"result" => twice |= incoming.result.replace(r.value()?).is_some(),
                b"error" => twice |= incoming.error.replace(r.value()?).is_some(),
                _ => drop(r.value()?),
            }
            Ok(())
        })
        .ok()?;
    reader.end().ok()?;
    (is_json_rpc && !twice).then_some(incoming)
}

/// How a server acknowledges a subscription.
pub const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// Whether a server's message is a reason to read its lists: one of them changed, or notifications start now.
pub fn is_list_change(message: &[u8]) -> bool {
    let Some(method) = read(message).filter(|read| read.id.is_none()).and_then(|read| read.method) else {
        return false;
    };
    let method = Method::parse(&method.read(message));
    method.is_list_changed() || method == Method::Acknowledged
}

/// The messages of a batch (2025-03-26), in their order; `None` if this is no array.
pub fn batch(text: &Bytes) -> Option<Vec<Bytes>> {
    if text.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'[') {
        return None;
    }
    let mut all = Vec::new();
    let mut reader = JsonReader::lenient(text, DEPTH_CEILING).ok()?;
    let mut part = |r: &mut JsonReader<'_>| {
        let span = r.value()?;
        all.push(text.slice(span.start..span.end));
        Ok(())
    };
    reader.array(&mut part).ok()?;
    reader.end().ok()?;
    Some(all)
}

/// The code of a JSON-RPC error, an object.
pub fn error_code(error: &[u8]) -> Option<i64> {
    std::str::from_utf8(member(error, "code")?.of(error)).ok()?.parse().ok()
}

/// Whether two ids are equal: the same bytes, or equal strings with different escapes.
pub fn same_id(a: &[u8], b: &[u8]) -> bool {
    let text = |raw: &[u8]| {
        JsonReader::new(raw, 1).and_then(|mut r| r.string()).ok().map(|t| t.read(raw).into_owned())
    };
    a == b
        || (a.first() == Some(&b'"')
            && b.first() == Some(&b'"')
            && text(a).is_some_and(|a| Some(a) == text(b)))
}

/// The member `name` of a JSON object, as a place in its text.
pub fn member(object: &[u8], name: &str) -> Option<Span> {
    let mut reader = JsonReader::lenient(object, DEPTH_CEILING).ok()?;
    let mut found = None;
    reader
        .object(|r, key| {
            let value = r.value()?;
            if key.is(object, name) {
                found = Some(value);
            }
            Ok(())
        })
        .ok()?;
    found
}

/// The text of a JSON string.
pub fn string(raw: &[u8]) -> Option<String> {
    let text = JsonReader::lenient(raw, 1).and_then(|mut r| r.string()).ok()?;
    Some(text.read(raw).into_owned())
}

/// The strings of a JSON array; `None` for other values.
pub fn strings(array: &[u8]) -> Option<Vec<String>> {
    let mut all = Vec::new();
    let mut reader = JsonReader::new(array, 1).ok()?;
    reader
        .array(|r| {
            all.push(r.string()?.read(array).into_owned());
            Ok(())
        })
        .ok()?;
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_json_and_has_its_version_once() {
        assert!(read(br#"{"jsonrpc":"2.0","method":"m"}"#).is_some());
        for broken in [
            r#"{"jsonrpc":,"jsonrpc":"2.0","method":"m"}"#,
            r#"{"jsonrpc":2.0,"jsonrpc":"2.0","method":"m"}"#,
            r#"{"jsonrpc":"1.0","jsonrpc":"2.0","method":"m"}"#,
            r#"{"jsonrpc":2.0,"method":"m"}"#,
            r#"{"jsonrpc":}"#,
        ] {
            assert!(read(broken.as_bytes()).is_none(), "{broken}");
        }
    }
}
