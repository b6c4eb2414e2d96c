//! Ids that lead back: in a legacy session a server's request, and the place in its stream, carry the number of the seat
//! that it was said in on their way out, and lose it on their way home. Whether one server stands behind an endpoint or
//! many: what a client says back leads to that seat or nowhere, also when another was taken in its place.

use bytes::{Bytes, BytesMut};
use mcp::Span;
use mcp::json::quote::quote;
use mcp::json::reader::JsonReader;
use mcp::json::splice::splice;

use mcp::jsonrpc::message;
use mcp::method::Method;

pub const CANCELLED: &str = "notifications/cancelled";

/// What a server says beside answers, as far as the gateway has to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerMessageKind {
    /// It asks its client, under this id of its own.
    Request(Span),
    /// It takes back a question of this id.
    Cancelled(Span),
    /// One of its lists changed: the house tells that, when it has the new list.
    ListChanged,
    /// A request of its client gets on, under this token.
    Progress(Span),
    /// Nothing that the gateway changes.
    Other,
}

impl ServerMessageKind {
    /// What a message is about that is a request or a notification of this method.
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

/// The token in a message of a server that says how a request gets on.
pub fn progress_token(message: &[u8], read: &message::ServerMessage) -> Option<Span> {
    read.method.filter(|method| read.id.is_none() && method.is(message, Method::Progress.as_str()))?;
    member_span(message, read.params?, "progressToken")
}

/// A server's request to the client with an id, and a progress token, that name the seat as well; [`home`] takes them
/// apart.
pub fn tag_request(message: &[u8], read: &message::ServerMessage, upstream_session: u64) -> Bytes {
    let token = read
        .params
        .and_then(|params| member_span(message, params, "_meta"))
        .and_then(|meta| member_span(message, meta, "progressToken"));
    let mut spans: Vec<Span> = [read.id, token].into_iter().flatten().collect();
    // From the end, so that the places before stay where they are.
    spans.sort_by_key(|span| std::cmp::Reverse(span.start));
    spans
        .into_iter()
        .fold(Bytes::copy_from_slice(message), |message, span| tag_id(&message, span, upstream_session))
}

/// The message with the id at this place as its client knows it.
pub fn tag_id(message: &[u8], span: Span, upstream_session: u64) -> Bytes {
    let raw = String::from_utf8_lossy(span.of(message));
    splice(BytesMut::from(message), span, quote(&format!("tg:{upstream_session}:{raw}")).as_bytes())
}

/// The member `name` of the object at a place in a message.
fn member_span(message: &[u8], object: Span, name: &str) -> Option<Span> {
    let span = message::member(object.of(message), name)?;
    Some(Span { start: object.start + span.start, end: object.start + span.end })
}

/// The number of the seat and the server's own id as written, from an id of [`return_address`].
pub fn parse_request_id(id: &[u8]) -> Option<(u64, String)> {
    let text = message::string(id)?;
    let (upstream_session, raw) = split_tag(&text)?;
    let mut reader = JsonReader::new(raw.as_bytes(), 1).ok()?;
    let whole = reader.value().and_then(|value| reader.end().map(|()| value)).ok()?;
    (whole.len() == raw.len()).then(|| (upstream_session, raw.to_owned()))
}

/// A server's event id with the seat in it; [`event_home`] takes it apart.
pub fn event_id(id: &str, upstream_session: u64) -> String {
    format!("tg:{upstream_session}:{id}")
}

/// The number of the seat and the server's own id, from an id of [`event_id`].
pub fn parse_event_id(id: &str) -> Option<(u64, &str)> {
    split_tag(id)
}

/// Only as it was put together: a number has no sign and no zeros before it.
fn split_tag(id: &str) -> Option<(u64, &str)> {
    let (upstream_session, own) = id.strip_prefix("tg:")?.split_once(':')?;
    let plain = upstream_session.starts_with(|c: char| matches!(c, '1'..='9'));
    Some((upstream_session.parse().ok().filter(|_| plain)?, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_leads_home_in_one_spelling_only() {
        assert_eq!(parse_request_id(quote(r#"tg:7:"a""#).as_bytes()), Some((7, r#""a""#.to_owned())));
        assert_eq!(parse_event_id("tg:7:a:b"), Some((7, "a:b")));
        assert_eq!(parse_event_id("tg:7:"), Some((7, "")));
        for forged in
            ["", "tg:", "tg:7", "tg::5", "tg:+7:5", "tg:07:5", "tg:0:5", "tg:-7:5", "TG:7:5", "tg:7 :5"]
        {
            assert_eq!(parse_event_id(forged), None, "{forged}");
            assert_eq!(parse_request_id(quote(forged).as_bytes()), None, "{forged}");
        }
        // An id of another gateway behind this one is one like any other.
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
