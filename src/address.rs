//! Ids that lead back: where several servers share an endpoint, a server's request and the place in its stream
//! carry the server's serial on their way out, and lose it on their way home.

use bytes::{Bytes, BytesMut};
use filters::Span;
use filters::agree::quote;
use filters::json::Reader;
use filters::rebuild::splice;

use crate::protocol::wire;
use crate::server::Server;

pub const CANCELLED: &str = "notifications/cancelled";

/// A server's message as its client gets it.
pub struct Outward {
    pub message: Bytes,
    /// The server's own id of a request, as a place in what it said.
    pub asks: Option<Span>,
}

/// What of a server's announcement goes to a session: nothing of changed lists; its requests, and what it says of
/// them later, under an id that leads back to it.
pub fn outward(message: &Bytes, server: &Server) -> Option<Outward> {
    let read = wire::read(message)?;
    let method = read.method?.read(message);
    let message = match read.id {
        Some(_) => return_address(message, &read, server),
        None if method.ends_with("/list_changed") => return None,
        None if method == CANCELLED => withdrawn(message, &read, server).unwrap_or_else(|| message.clone()),
        None => message.clone(),
    };
    Some(Outward { message, asks: read.id })
}

/// What a server says to take back a request (`notifications/cancelled`), with the id that its client knows.
pub fn withdrawn(message: &[u8], read: &wire::Incoming, server: &Server) -> Option<Bytes> {
    let place = inside(message, read.params?, "requestId")?;
    Some(marked(message, place, server))
}

/// A server's request to the client with an id, and a progress token, that name the server as well; [`home`] takes them
/// apart.
pub fn return_address(message: &[u8], read: &wire::Incoming, server: &Server) -> Bytes {
    let token = read
        .params
        .and_then(|params| inside(message, params, "_meta"))
        .and_then(|meta| inside(message, meta, "progressToken"));
    let mut places: Vec<Span> = [read.id, token].into_iter().flatten().collect();
    // From the end, so that the places before stay where they are.
    places.sort_by_key(|place| std::cmp::Reverse(place.start));
    places.into_iter().fold(Bytes::copy_from_slice(message), |message, place| marked(&message, place, server))
}

fn marked(message: &[u8], place: Span, server: &Server) -> Bytes {
    let raw = String::from_utf8_lossy(place.of(message));
    splice(BytesMut::from(message), place, quote(&format!("tg:{}:{raw}", server.serial)).as_bytes())
}

/// The member `name` of the object at a place in a message.
fn inside(message: &[u8], object: Span, name: &str) -> Option<Span> {
    let place = wire::member(object.of(message), name)?;
    Some(Span { start: object.start + place.start, end: object.start + place.end })
}

/// The serial of the server and its own id as written, from an id of [`return_address`].
pub fn home(id: &[u8]) -> Option<(u64, String)> {
    let text = wire::string(id)?;
    let (serial, raw) = taken_apart(&text)?;
    let mut reader = Reader::new(raw.as_bytes(), 1).ok()?;
    let whole = reader.value().and_then(|value| reader.end().map(|()| value)).ok()?;
    (whole.len() == raw.len()).then(|| (serial, raw.to_owned()))
}

/// A server's event id with the server in it; [`event_home`] takes it apart.
pub fn event_id(id: &str, server: &Server) -> String {
    format!("tg:{}:{id}", server.serial)
}

/// The serial of the server and its own id, from an id of [`event_id`].
pub fn event_home(id: &str) -> Option<(u64, &str)> {
    taken_apart(id)
}

/// Only as it was put together: a serial has no sign and no zeros before it.
fn taken_apart(id: &str) -> Option<(u64, &str)> {
    let (serial, own) = id.strip_prefix("tg:")?.split_once(':')?;
    let plain = serial.starts_with(|c: char| matches!(c, '1'..='9'));
    Some((serial.parse().ok().filter(|_| plain)?, own))
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
        for broken in ["tg:7:", "tg:7:x", "tg:7: 5", "tg:7:5 ", "tg:7:5,6"] {
            assert_eq!(home(quote(broken).as_bytes()), None, "{broken}");
        }
    }
}
