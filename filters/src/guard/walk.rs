//! All texts and numbers of a JSON value in their order, as places.
//!
//! It knows which members of a JSON-RPC message hold content and which are its structure. A changed id,
//! method or cursor would break the message.
//!
//! It accepts lone surrogates, which servers may send. Arguments with such were rejected before.

use mcp::json::reader::{DEPTH_CEILING, JsonError, JsonReader, Span, Text};

pub(super) enum JsonLeaf {
    Key(Text),
    Text(Text),
    Number(Span),
}

type Sink<'s> = &'s mut dyn FnMut(JsonLeaf);

/// Members of `params` and `result` that are identifiers. They are not changed.
const SKELETON: &[&str] = &[
    "name",
    "nextCursor",
    "cursor",
    "progressToken",
    "protocolVersion",
    "requestId",
    "requestState",
    "resultType",
    "taskId",
];

/// Walks one JSON text.
pub(super) fn value(text: &[u8], out: Sink<'_>) -> Result<(), JsonError> {
    let mut reader = JsonReader::lenient(text, DEPTH_CEILING)?;
    any(&mut reader, out)?;
    reader.end()
}

/// Walks `params`, `result` and `error` of one JSON-RPC message, but for their skeleton.
pub(super) fn message(text: &[u8], out: Sink<'_>) -> Result<(), JsonError> {
    let mut reader = JsonReader::lenient(text, DEPTH_CEILING)?;
    reader.object(|r, key| match &*key.read(text) {
        "params" | "result" | "error" => part(r, text, out),
        _ => r.value().map(drop),
    })?;
    reader.end()
}

fn part(r: &mut JsonReader<'_>, text: &[u8], out: Sink<'_>) -> Result<(), JsonError> {
    if r.peek()? != b'{' {
        return any(r, out);
    }
    let members = r.object(|r, key| {
        let word = key.read(text);
        if SKELETON.contains(&&*word) && !matches!(r.peek()?, b'{' | b'[') {
            return r.value().map(drop);
        }
        out(JsonLeaf::Key(key));
        if word == "_meta" { part(r, text, out) } else { any(r, out) }
    });
    members.map(drop)
}

pub(super) fn any(r: &mut JsonReader<'_>, out: Sink<'_>) -> Result<(), JsonError> {
    match r.peek()? {
        b'{' => r
            .object(|r, key| {
                out(JsonLeaf::Key(key));
                any(r, out)
            })
            .map(drop),
        b'[' => r.array(|r| any(r, out)).map(drop),
        b'"' => {
            out(JsonLeaf::Text(r.string()?));
            Ok(())
        }
        b'-' | b'0'..=b'9' => {
            out(JsonLeaf::Number(r.value()?));
            Ok(())
        }
        _ => r.value().map(drop),
    }
}
