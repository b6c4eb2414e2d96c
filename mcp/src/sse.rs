//! Server-sent events (WHATWG HTML §9.2): cutting a byte stream into events, and making events.
//!
//! The splitter returns each event as its original bytes, so that a stream passes unchanged. The *content* of
//! an event is parsed only where it is needed.

use std::borrow::Cow;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// A comment that keeps an idle connection open.
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// Splits a stream into events at blank lines, with any line ends (LF, CRLF, CR) and any chunks.
pub struct EventSplitter {
    held: BytesMut,
    /// Up to here no event ends.
    searched: usize,
    /// The first bytes were checked for a byte-order mark.
    begun: bool,
    max_event: usize,
}

/// The byte-order mark: at the beginning of a stream it is skipped, anywhere else it is text.
const BOM: &[u8] = b"\xEF\xBB\xBF";

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an event is longer than {0} bytes")]
pub struct EventTooLong(pub usize);

impl EventSplitter {
    /// `max_event` bounds an event, and so the buffer for an unfinished one.
    pub fn new(max_event: usize) -> Self {
        Self { held: BytesMut::new(), searched: 0, begun: false, max_event }
    }

    /// Applies another bound to events that have not been returned.
    pub fn set_max(&mut self, max_event: usize) {
        self.max_event = max_event;
    }

    /// Drops what has come of an event that is too long; returns it, and whether the event has ended. If it has
    /// not, the rest of it must be dropped the same way, before [`Self::event`] is asked again.
    pub fn skip(&mut self) -> (BytesMut, bool) {
        self.searched = 0;
        match end_of_event(&self.held, 0) {
            Some(end) => (self.held.split_to(end), true),
            // The last bytes may be the first half of a blank line.
            None => (self.held.split_to(self.held.len().saturating_sub(3)), false),
        }
    }

    pub fn push(&mut self, piece: &[u8]) {
        self.held.put_slice(piece);
    }

    /// The next whole event with the blank line that ends it, if there is one.
    pub fn event(&mut self) -> Result<Option<BytesMut>, EventTooLong> {
        if !self.begun {
            if self.held.len() < BOM.len() && BOM.starts_with(&self.held) {
                return Ok(None);
            }
            self.begun = true;
            if self.held.starts_with(BOM) {
                self.held.advance(BOM.len());
            }
        }
        match end_of_event(&self.held, self.searched) {
            // Whether it came in one chunk or in several.
            Some(end) if end > self.max_event => Err(EventTooLong(self.max_event)),
            Some(end) => {
                self.searched = 0;
                Ok(Some(self.held.split_to(end)))
            }
            None if self.held.len() > self.max_event => Err(EventTooLong(self.max_event)),
            None => {
                // The last bytes may be the first half of a blank line.
                self.searched = self.held.len().saturating_sub(3);
                Ok(None)
            }
        }
    }

    /// The stream has ended: a CR at its end is a whole line end, so that an event may end with it.
    pub fn finish(&mut self) {
        if self.held.ends_with(b"\r") {
            // Later readers may also wait for the second half of a CRLF.
            self.held.put_u8(b'\n');
        }
    }

    /// The rest at the end of the stream; an unfinished event is dropped, as the standard says.
    pub fn rest(&mut self) -> Bytes {
        self.searched = 0;
        self.held.split().freeze()
    }
}

/// Where the first event that ends at or after `from` ends. A CR at the very end may be half of a CRLF, so it
/// waits for the next byte.
fn end_of_event(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(found) = memchr::memchr2(b'\n', b'\r', &text[at..]) {
        let first = at + found;
        let line_end =
            if text[first] == b'\r' && text.get(first + 1) == Some(&b'\n') { first + 2 } else { first + 1 };
        match text.get(line_end..) {
            Some([b'\n', ..]) => return Some(line_end + 1),
            Some([b'\r', b'\n', ..]) => return Some(line_end + 2),
            Some([b'\r', _, ..]) => return Some(line_end + 1),
            _ => at = line_end,
        }
        if at >= text.len() {
            return None;
        }
    }
    None
}

/// The content of an event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    pub name: Option<Cow<'a, str>>,
    pub id: Option<Cow<'a, str>>,
    pub retry: Option<Cow<'a, str>>,
    pub data: Option<Cow<'a, [u8]>>,
}

impl Event<'_> {
    /// Whether its type is not that of messages (MCP has no other).
    pub fn is_other_event_type(&self) -> bool {
        self.name.as_deref().is_some_and(|name| !name.is_empty() && name != "message")
    }

    /// The message that it carries, if it carries any.
    pub fn message(&self) -> Option<&[u8]> {
        self.data.as_deref().filter(|data| !data.is_empty() && !self.is_other_event_type())
    }
}

/// Parses one event from [`EventSplitter`].
pub fn read(event: &[u8]) -> Event<'_> {
    let mut out = Event::default();
    for line in event.split(|b| *b == b'\n').flat_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.split(|b| *b == b'\r')
    }) {
        let (field, value) = match memchr::memchr(b':', line) {
            Some(0) | None if line.is_empty() || line[0] == b':' => continue,
            Some(at) => (&line[..at], line[at + 1..].strip_prefix(b" ").unwrap_or(&line[at + 1..])),
            None => (line, &line[line.len()..]),
        };
        match field {
            b"data" => {
                out.data = Some(match out.data.take() {
                    None => Cow::Borrowed(value),
                    Some(before) => {
                        let mut joined = before.into_owned();
                        joined.push(b'\n');
                        joined.extend_from_slice(value);
                        Cow::Owned(joined)
                    }
                });
            }
            b"event" => out.name = Some(String::from_utf8_lossy(value)),
            // By the standard, clients ignore an id with a NUL in it.
            b"id" if !value.contains(&0) => out.id = Some(String::from_utf8_lossy(value)),
            b"retry" => out.retry = Some(String::from_utf8_lossy(value)),
            _ => {}
        }
    }
    out
}

/// A `message` event with one JSON-RPC message in it. Line ends in the message can only be white space
/// between JSON tokens; they become further `data` lines.
pub fn message(message: &[u8]) -> Bytes {
    event(None, message)
}

/// The first event of a stream over HTTP+SSE: the URI to which the client POSTs its messages.
pub fn endpoint(uri: &str) -> Bytes {
    Bytes::from(format!("event: endpoint\ndata: {uri}\n\n"))
}

/// The event with another message, and another id if one is given. The reconnection time stays.
pub fn with_message(event: &Event<'_>, id: Option<&str>, message: &[u8]) -> Bytes {
    let retry = event.retry.as_deref().filter(|retry| retry.bytes().all(|b| b.is_ascii_digit()));
    write(retry, id.or(event.id.as_deref()), message)
}

/// The same with an id for resumption.
pub fn event(id: Option<&str>, message: &[u8]) -> Bytes {
    write(None, id, message)
}

fn write(retry: Option<&str>, id: Option<&str>, message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + 40);
    out.put_slice(b"event: message\n");
    if let Some(retry) = retry {
        out.put_slice(b"retry: ");
        out.put_slice(retry.as_bytes());
        out.put_u8(b'\n');
    }
    if let Some(id) = id {
        out.put_slice(b"id: ");
        out.put_slice(id.as_bytes());
        out.put_u8(b'\n');
    }
    let mut rest = message;
    loop {
        let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        out.put_slice(b"data: ");
        out.put_slice(&rest[..end]);
        out.put_u8(b'\n');
        if end == rest.len() {
            break;
        }
        rest.advance(end + 1);
    }
    out.put_u8(b'\n');
    out.freeze()
}

/// The event with another id; the rest stays unchanged.
pub fn with_id(event: &[u8], id: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(event.len() + id.len());
    let mut rest = event;
    while !rest.is_empty() {
        let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let line = &rest[..end];
        if line == b"id" || line.starts_with(b"id:") {
            out.put_slice(b"id: ");
            out.put_slice(id.as_bytes());
        } else {
            out.put_slice(line);
        }
        rest.advance(end);
        out.put_slice(&rest[..rest.len().min(1)]);
        rest.advance(rest.len().min(1));
    }
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut splitter = EventSplitter::new(1024);
        let mut events = Vec::new();
        for piece in pieces {
            splitter.push(piece);
            while let Some(event) = splitter.event().expect("short events") {
                events.push(event.to_vec());
            }
        }
        events
    }

    #[test]
    fn events_are_cut_alike_however_the_bytes_arrive() {
        for text in ["data: a\n\ndata: b\n\n", "data: a\r\n\r\ndata: b\r\n\r\n", ": x\n\nid: 1\ndata\n\n"] {
            let whole = cut(&[text.as_bytes()]);
            assert_eq!(whole.len(), 2, "{text:?}");
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(cut(&bytes), whole, "{text:?}");
            assert_eq!(whole.concat(), text.as_bytes());
        }
        assert_eq!(cut(&[b"data: a\r\rdata: b\r\r", b"\n"]).len(), 2);
    }

    #[test]
    fn the_last_event_may_end_with_two_carriage_returns() {
        for (text, events) in [
            ("data: a\r\r", 1),
            ("data: a\n\r", 1),
            ("data: a\r\n\r", 1),
            ("data: a\r\r\r", 1),
            ("data: a\r", 0),
            ("data: a\n", 0),
            ("data: a", 0),
            ("\r", 0),
        ] {
            let mut splitter = EventSplitter::new(64);
            splitter.push(text.as_bytes());
            let mut all = Vec::new();
            for _ in 0..2 {
                while let Some(event) = splitter.event().expect("short events") {
                    all.push(event);
                }
                splitter.finish();
            }
            assert_eq!(all.len(), events, "{text:?}");
            assert!(all.iter().all(|event| read(event).data.as_deref() == Some(b"a")), "{text:?}");
        }
    }

    #[test]
    fn an_event_that_does_not_end_is_not_held_for_ever() {
        let mut splitter = EventSplitter::new(8);
        splitter.push(b"data: 123456789");
        assert_eq!(splitter.event(), Err(EventTooLong(8)));
    }

    #[test]
    fn an_event_that_is_too_long_is_so_however_it_arrives() {
        for pieces in [&[&b"data: 1\n\ndata: 22\n\n"[..]][..], &[b"data: 1\n\nda", b"ta: 22", b"\n\n"]] {
            let mut splitter = EventSplitter::new(9);
            let mut events = 0;
            let result = pieces.iter().try_for_each(|piece| {
                splitter.push(piece);
                while splitter.event()?.is_some() {
                    events += 1;
                }
                Ok(())
            });
            assert_eq!((events, result), (1, Err(EventTooLong(9))));
        }
    }

    #[test]
    fn an_event_that_is_too_long_can_be_skipped_however_it_arrives() {
        let stream = b"data: 1\r\n\r\ndata: 23456789\r\ndata: x\r\n\r\ndata: 3\r\n\r\n";
        for size in 1..stream.len() {
            let (mut splitter, mut kept, mut dropped) = (EventSplitter::new(12), Vec::new(), BytesMut::new());
            let mut skips = false;
            for piece in stream.chunks(size) {
                splitter.push(piece);
                loop {
                    if !skips {
                        match splitter.event() {
                            Ok(Some(event)) => kept.push(event),
                            Ok(None) => break,
                            Err(EventTooLong(12)) => skips = true,
                            Err(other) => panic!("{other}"),
                        }
                    }
                    if skips {
                        let (part, ended) = splitter.skip();
                        dropped.extend_from_slice(&part);
                        skips = !ended;
                        if !ended {
                            break;
                        }
                    }
                }
            }
            splitter.finish();
            kept.extend(splitter.event().expect("a short event"));
            assert_eq!(kept, [&b"data: 1\r\n\r\n"[..], b"data: 3\r\n\r\n"], "{size}");
            assert_eq!(dropped, &b"data: 23456789\r\ndata: x\r\n\r\n"[..], "{size}");
        }
    }

    #[test]
    fn the_mark_before_a_stream_is_no_part_of_its_first_event() {
        let stream = b"\xEF\xBB\xBFid: 7\ndata: x\n\n\xEF\xBB\xBFdata: y\n\n";
        for size in [1, 2, 3, 64] {
            let pieces: Vec<&[u8]> = stream.chunks(size).collect();
            let events = cut(&pieces);
            assert_eq!(with_id(&events[0], "s-7"), "id: s-7\ndata: x\n\n");
            // In the middle it is the first letter of an unknown field.
            assert_eq!(read(&events[1]), Event::default());
        }
    }

    #[test]
    fn only_the_id_is_replaced() {
        assert_eq!(with_id(b"id: 7\nretry: 5\ndata: id: 7\n\n", "s-7"), "id: s-7\nretry: 5\ndata: id: 7\n\n");
        assert_eq!(with_id(b"data: x\r\nid\r\n\r\n", "s-"), "data: x\r\nid: s-\r\n\r\n");
        assert_eq!(with_id(b"data: x\n\n", "s-7"), "data: x\n\n");
    }

    #[test]
    fn an_id_that_clients_overlook_is_none() {
        assert_eq!(read(b"id: 7\nid: 8\0\ndata: x\n\n").id.as_deref(), Some("7"));
    }

    #[test]
    fn a_message_changes_without_the_time_to_wait() {
        let before = read(b"id: 7\nretry: 500\ndata: 1\n\n");
        assert_eq!(with_message(&before, None, b"2"), "event: message\nretry: 500\nid: 7\ndata: 2\n\n");
        assert_eq!(
            with_message(&before, Some("s-7"), b"2"),
            "event: message\nretry: 500\nid: s-7\ndata: 2\n\n"
        );
    }

    #[test]
    fn what_was_made_is_what_is_read() {
        let made = event(Some("7"), b"{\"a\":\n1}");
        assert_eq!(made, "event: message\nid: 7\ndata: {\"a\":\ndata: 1}\n\n");
        let read = read(&made);
        assert_eq!(read.data.as_deref(), Some(&b"{\"a\":\n1}"[..]));
        assert_eq!(read.id.as_deref(), Some("7"));
    }
}
