//! Ids that lead back to their upstream session. In a legacy session, a server's request id and its event ids
//! carry the number of the upstream session on the way to the client; the number is removed on the way back.
//! This holds for endpoints of one server and of many. A client's response reaches that upstream session or
//! none, even if another has replaced it.

use bytes::{Bytes, BytesMut};
use mcp::Span;
use mcp::json::quote::quote;
use mcp::json::reader::JsonReader;
use mcp::json::splice::splice;

use mcp::jsonrpc::message;
use mcp::method::Method;

pub const CANCELLED: &str = "notifications/cancelled";

/// The kinds of messages of a server, except responses, that the gateway handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerMessageKind {
    /// A request to the client, under this id of the server.
    Request(Span),
    /// It cancels a request of this id.
    Cancelled(Span),
    /// One of its lists changed: the gateway notifies clients when it has the new list.
    ListChanged,
    /// The progress of a client's request, under this token.
    Progress(Span),
    /// Nothing that the gateway changes.
    Other,
}

impl ServerMessageKind {
    /// The kind of a message that is a request or a notification of this method.
    pub fn of(message: &[u8], read: &message::ServerMessage, method: Method) -> Self {
        match (read.id, method) {
            (Some(id), _) => Self::Request(id),
            (None, method) if method.is_list_changed() => Self::ListChanged,
            (None, Method::Cancelled) => {
                let span = read.params.and_then(|params| member_span(message, params, "requestId"));
                span.map_or(Self::Other, Self::Cancelled)
            }
            (None, Method::Progress) => progress_token(message, read).map_or(Self::Other, Self::Progress),
            (None, _) => Self::Other,
        }
    }
}

/// The token in a progress notification of a server.
pub fn progress_token(message: &[u8], read: &message::ServerMessage) -> Option<Span> {
    read.method.filter(|method| read.id.is_none() && method.is(message, Method::Progress.as_str()))?;
    member_span(message, read.params?, "progressToken")
}

/// A server's request whose id and progress token name the upstream session too; [`parse_request_id`] splits
/// them.
pub fn tag_request(message: &[u8], read: &message::ServerMessage, upstream_session: u64) -> Bytes {
    let token = read
        .params
        .and_then(|params| member_span(message, params, "_meta"))
        .and_then(|meta| member_span(message, meta, "progressToken"));
    let mut spans: Vec<Span> = [read.id, token].into_iter().flatten().collect();
    // From the end, so that earlier spans stay valid.
    spans.sort_by_key(|span| std::cmp::Reverse(span.start));
    spans
        .into_iter()
        .fold(Bytes::copy_from_slice(message), |message, span| tag_id(&message, span, upstream_session))
}

/// The message with the id at this span as its client knows it.
pub fn tag_id(message: &[u8], span: Span, upstream_session: u64) -> Bytes {
    let raw = String::from_utf8_lossy(span.of(message));
    splice(BytesMut::from(message), span, quote(&format!("tg:{upstream_session}:{raw}")).as_bytes())
}

/// The span of the member `name` of an object in a message.
fn member_span(message: &[u8], object: Span, name: &str) -> Option<Span> {
    let span = message::member(object.of(message), name)?;
    Some(Span { start: object.start + span.start, end: object.start + span.end })
}

/// The number of the upstream session and the server's own id as written, from an id of [`tag_request`].
pub fn parse_request_id(id: &[u8]) -> Option<(u64, String)> {
    let text = message::string(id)?;
    let (upstream_session, raw) = split_tag(&text)?;
    let mut reader = JsonReader::new(raw.as_bytes(), 1).ok()?;
    let whole = reader.value().and_then(|value| reader.end().map(|()| value)).ok()?;
    (whole.len() == raw.len()).then(|| (upstream_session, raw.to_owned()))
}

/// A server's event id with the upstream session in it; [`parse_event_id`] splits it.
pub fn event_id(id: &str, upstream_session: u64) -> String {
    format!("tg:{upstream_session}:{id}")
}

/// The number of the upstream session and the server's own id, from an id of [`event_id`].
pub fn parse_event_id(id: &str) -> Option<(u64, &str)> {
    split_tag(id)
}

/// Only the exact form that was composed: a number without sign or leading zeros.
fn split_tag(id: &str) -> Option<(u64, &str)> {
    let (upstream_session, own) = id.strip_prefix("tg:")?.split_once(':')?;
    let plain = upstream_session.starts_with(|c: char| matches!(c, '1'..='9'));
    Some((upstream_session.parse().ok().filter(|_| plain)?, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_parsed_in_one_spelling_only() {
        assert_eq!(parse_request_id(quote(r#"tg:7:"a""#).as_bytes()), Some((7, r#""a""#.to_owned())));
        assert_eq!(parse_event_id("tg:7:a:b"), Some((7, "a:b")));
        assert_eq!(parse_event_id("tg:7:"), Some((7, "")));
        for forged in
            ["", "tg:", "tg:7", "tg::5", "tg:+7:5", "tg:07:5", "tg:0:5", "tg:-7:5", "TG:7:5", "tg:7 :5"]
        {
            assert_eq!(parse_event_id(forged), None, "{forged}");
            assert_eq!(parse_request_id(quote(forged).as_bytes()), None, "{forged}");
        }
        // An id of another gateway behind this one is treated as any other.
        assert_eq!(
            parse_request_id(quote(r#"tg:7:"tg:9:5""#).as_bytes()),
            Some((7, r#""tg:9:5""#.to_owned()))
        );
        assert_eq!(parse_event_id("tg:7:tg:9:5"), Some((7, "tg:9:5")));
        for broken in ["tg:7:", "tg:7:x", "tg:7: 5", "tg:7:5 ", "tg:7:5,6"] {
            assert_eq!(parse_request_id(quote(broken).as_bytes()), None, "{broken}");
        }
    }
}
