//! Ids that lead back: in a legacy session a server's request, and the place in its stream, carry the number of the seat
//! that it was said in on their way out, and lose it on their way home. Whether one server stands behind an endpoint or
//! many: what a client says back leads to that seat or nowhere, also when another was taken in its place.

use bytes::{Bytes, BytesMut};
use mcp::Span;
use mcp::json::quote::quote;
use mcp::json::reader::Reader;
use mcp::json::splice::splice;

use mcp::jsonrpc::message;
use mcp::method::Method;

pub const CANCELLED: &str = "notifications/cancelled";

/// What a server says beside answers, as far as the gateway has to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matter {
    /// It asks its client, under this id of its own.
    Asks(Span),
    /// It takes back a question of this id.
    Withdraws(Span),
    /// One of its lists changed: the house tells that, when it has the new list.
    Lists,
    /// A request of its client gets on, under this token.
    Progresses(Span),
    /// Nothing that the gateway changes.
    Other,
}

impl Matter {
    /// What a message is about that is a request or a notification of this method.
    pub fn of(message: &[u8], read: &message::Incoming, method: Method) -> Self {
        match (read.id, method) {
            (Some(id), _) => Self::Asks(id),
            (None, method) if method.is_list_changed() => Self::Lists,
            (None, Method::Cancelled) => {
                let place = read.params.and_then(|params| inside(message, params, "requestId"));
                place.map_or(Self::Other, Self::Withdraws)
            }
            (None, Method::Progress) => progresses(message, read).map_or(Self::Other, Self::Progresses),
            (None, _) => Self::Other,
        }
    }
}

/// The token in a message of a server that says how a request gets on.
pub fn progresses(message: &[u8], read: &message::Incoming) -> Option<Span> {
    read.method.filter(|method| read.id.is_none() && method.is(message, Method::Progress.word()))?;
    inside(message, read.params?, "progressToken")
}

/// A server's request to the client with an id, and a progress token, that name the seat as well; [`home`] takes them
/// apart.
pub fn return_address(message: &[u8], read: &message::Incoming, seat: u64) -> Bytes {
    let token = read
        .params
        .and_then(|params| inside(message, params, "_meta"))
        .and_then(|meta| inside(message, meta, "progressToken"));
    let mut places: Vec<Span> = [read.id, token].into_iter().flatten().collect();
    // From the end, so that the places before stay where they are.
    places.sort_by_key(|place| std::cmp::Reverse(place.start));
    places.into_iter().fold(Bytes::copy_from_slice(message), |message, place| marked(&message, place, seat))
}

/// The message with the id at this place as its client knows it.
pub fn marked(message: &[u8], place: Span, seat: u64) -> Bytes {
    let raw = String::from_utf8_lossy(place.of(message));
    splice(BytesMut::from(message), place, quote(&format!("tg:{seat}:{raw}")).as_bytes())
}

/// The member `name` of the object at a place in a message.
fn inside(message: &[u8], object: Span, name: &str) -> Option<Span> {
    let place = message::member(object.of(message), name)?;
    Some(Span { start: object.start + place.start, end: object.start + place.end })
}

/// The number of the seat and the server's own id as written, from an id of [`return_address`].
pub fn home(id: &[u8]) -> Option<(u64, String)> {
    let text = message::string(id)?;
    let (seat, raw) = taken_apart(&text)?;
    let mut reader = Reader::new(raw.as_bytes(), 1).ok()?;
    let whole = reader.value().and_then(|value| reader.end().map(|()| value)).ok()?;
    (whole.len() == raw.len()).then(|| (seat, raw.to_owned()))
}

/// A server's event id with the seat in it; [`event_home`] takes it apart.
pub fn event_id(id: &str, seat: u64) -> String {
    format!("tg:{seat}:{id}")
}

/// The number of the seat and the server's own id, from an id of [`event_id`].
pub fn event_home(id: &str) -> Option<(u64, &str)> {
    taken_apart(id)
}

/// Only as it was put together: a number has no sign and no zeros before it.
fn taken_apart(id: &str) -> Option<(u64, &str)> {
    let (seat, own) = id.strip_prefix("tg:")?.split_once(':')?;
    let plain = seat.starts_with(|c: char| matches!(c, '1'..='9'));
    Some((seat.parse().ok().filter(|_| plain)?, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_leads_home_in_one_spelling_only() {
        assert_eq!(home(quote(r#"tg:7:"a""#).as_bytes()), Some((7, r#""a""#.to_owned())));
        assert_eq!(event_home("tg:7:a:b"), Some((7, "a:b")));
        assert_eq!(event_home("tg:7:"), Some((7, "")));
        for forged in
            ["", "tg:", "tg:7", "tg::5", "tg:+7:5", "tg:07:5", "tg:0:5", "tg:-7:5", "TG:7:5", "tg:7 :5"]
        {
            assert_eq!(event_home(forged), None, "{forged}");
            assert_eq!(home(quote(forged).as_bytes()), None, "{forged}");
        }
        // An id of another gateway behind this one is one like any other.
        assert_eq!(home(quote(r#"tg:7:"tg:9:5""#).as_bytes()), Some((7, r#""tg:9:5""#.to_owned())));
        assert_eq!(event_home("tg:7:tg:9:5"), Some((7, "tg:9:5")));
        for broken in ["tg:7:", "tg:7:x", "tg:7: 5", "tg:7:5 ", "tg:7:5,6"] {
            assert_eq!(home(quote(broken).as_bytes()), None, "{broken}");
        }
    }
}
