//! A stream of events: split the same way in any chunks, read as the standard says, held up to its bound,
//! and written events are read back.
#![no_main]

use bytes::Bytes;
use fuzz::events::{ExpectedEvent, interpret};
use fuzz::number;
use libfuzzer_sys::fuzz_target;
use mcp::sse;
use mcp::sse::{EventSplitter, EventTooLong};

fuzz_target!(|data: &[u8]| {
    let mut data = data;
    let (seed, small) = (number(&mut data), number(&mut data));
    let whole = cut(data, usize::MAX, |rest| rest.len());
    let pieces = cut(data, usize::MAX, pieces(seed));
    assert_eq!(whole, pieces);
    let (events, left, _) = whole;
    // A byte order mark alone may always be held.
    let bound = small + 3;
    let whole = cut(data, bound, |rest| rest.len());
    assert_eq!(whole, cut(data, bound, pieces_of(seed)));
    assert!(whole.0.iter().all(|event| event.len() <= bound));
    if whole.2.is_ok() {
        assert!(whole.1.len() <= bound, "more is held than may be");
    }

    // Nothing is lost but the mark at the beginning, and nothing is added but the second half of a last
    // line end.
    let joined = [events.concat(), left.to_vec()].concat();
    let ended = [data, if data.ends_with(b"\r") { b"\n" } else { b"" }].concat();
    let marked = ended.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&ended);
    assert!(joined == ended || joined == marked);

    let mut expected = Vec::new();
    for (at, event) in events.iter().enumerate() {
        let read = sse::read(event);
        if let Some(data) = read.data {
            let name = read.name.map_or(String::new(), |name| name.into_owned());
            let data = String::from_utf8_lossy(&data).into_owned();
            expected.push(ExpectedEvent { name, data, id: read.id.map(|id| id.into_owned()) });
        }
        renamed(event);
        if at < 2 {
            with_message(event, &data[..data.len().min(256)]);
        }
    }
    // Bytes that are no UTF-8 may be replaced differently where lines are split first.
    if std::str::from_utf8(data).is_ok() {
        assert_eq!(expected, interpret(data));
    }
    made(data);
});

type Cut = (Vec<Bytes>, Bytes, Result<(), EventTooLong>);

fn cut(data: &[u8], bound: usize, mut next: impl FnMut(&[u8]) -> usize) -> Cut {
    let mut splitter = EventSplitter::new(bound);
    let mut events = Vec::new();
    let (mut rest, mut ended) = (data, false);
    while !ended {
        ended = rest.is_empty();
        if ended {
            splitter.finish();
        } else {
            let (piece, behind) = rest.split_at(next(rest).clamp(1, rest.len()));
            rest = behind;
            splitter.push(piece);
        }
        loop {
            match splitter.event() {
                Ok(Some(event)) => events.push(event.freeze()),
                Ok(None) => break,
                // The result so far depends on the chunks.
                Err(too_long) => return (events, Bytes::new(), Err(too_long)),
            }
        }
    }
    (events, splitter.rest(), Ok(()))
}

fn pieces(seed: usize) -> impl FnMut(&[u8]) -> usize {
    pieces_of(seed)
}

/// Pseudo-random lengths: the same for the same seed.
fn pieces_of(seed: usize) -> impl FnMut(&[u8]) -> usize {
    let mut state = seed as u64 * 2 + 1;
    move |_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        1 + (state >> 60) as usize * (seed % 4)
    }
}

/// Another id, and nothing else.
fn renamed(event: &[u8]) {
    let before = sse::read(event);
    if before.id.is_none() {
        return;
    }
    let renamed = sse::with_id(event, "tg:1:x");
    let after = sse::read(&renamed);
    assert_eq!(after.id.as_deref(), Some("tg:1:x"));
    assert_eq!((after.data, after.name, after.retry), (before.data, before.name, before.retry));
    let mut expected = interpret(event);
    expected.iter_mut().for_each(|expected| expected.id = expected.id.take().map(|_| "tg:1:x".into()));
    assert_eq!(interpret(&renamed), expected);
}

/// Another message in the place of an event's own: a standard reader finds that message, the id, and
/// nothing else.
fn with_message(event: &[u8], message: &[u8]) {
    let before = sse::read(event);
    let text = String::from_utf8_lossy(message).replace('\r', "\n");
    for id in [None, Some("tg:1:x")] {
        let after = sse::with_message(&before, id, text.as_bytes());
        let data = text.clone();
        let id = id.map(str::to_owned).or_else(|| before.id.as_deref().map(str::to_owned));
        assert_eq!(interpret(&after), [ExpectedEvent { name: "message".into(), data, id }]);
        let retry = before.retry.as_deref().filter(|retry| retry.bytes().all(|b| b.is_ascii_digit()));
        assert_eq!(sse::read(&after).retry.as_deref(), retry);
    }
}

/// A message is read as it was written, except for its line ends.
fn made(message: &[u8]) {
    let event = sse::event(Some("7"), message);
    let (events, left, _) = cut(&event, usize::MAX, |rest| rest.len());
    assert_eq!((events.len(), left.len()), (1, 0));
    let read = sse::read(&event);
    let lines: Vec<&[u8]> = message.split(|b| matches!(b, b'\n' | b'\r')).collect();
    assert_eq!(read.data.as_deref(), Some(&lines.join(&b'\n')[..]));
    assert_eq!((read.id.as_deref(), read.name.as_deref()), (Some("7"), Some("message")));
}
