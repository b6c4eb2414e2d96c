//! The forwarded body: the read bytes with a few values replaced.
//!
//! Invariant 2 (the forwarded message is the checked one): nothing is serialized again. The replacement
//! happens in the buffer of the body by moving the shorter side, so that a long body is not copied unless it
//! grows.

use bytes::{Bytes, BytesMut};

use super::quote::quote;
use super::reader::{DEPTH_CEILING, JsonReader, Span};

/// Replaces the value at `place` by `word` as a JSON string.
pub fn rename(body: BytesMut, place: Span, word: &str) -> Bytes {
    splice(body, place, quote(word).as_bytes())
}

/// Replaces the value at `place` by `word`, JSON text.
pub fn splice(mut body: BytesMut, place: Span, word: &[u8]) -> Bytes {
    if word.len() > place.len() {
        let mut longer = BytesMut::with_capacity(body.len() + word.len() - place.len());
        longer.extend_from_slice(&body[..place.start]);
        longer.extend_from_slice(word);
        longer.extend_from_slice(&body[place.end..]);
        return longer.freeze();
    }
    let spare = place.len() - word.len();
    if place.start <= body.len() - place.end {
        body.copy_within(..place.start, spare);
        body[place.end - word.len()..place.end].copy_from_slice(word);
        return body.freeze().split_off(spare);
    }
    let end = place.start + word.len();
    body[place.start..end].copy_from_slice(word);
    body.copy_within(place.end.., end);
    body.truncate(body.len() - spare);
    body.freeze()
}

/// Most bytes between the first and the last edit that are buffered during the move.
const MIDDLE: usize = 1024;

/// Replaces several values by JSON texts at once. The edits are sorted by place and do not overlap.
pub fn apply_edits(mut body: BytesMut, edits: &[(Span, &[u8])]) -> Bytes {
    let (first, last) = match edits {
        [] => return body.freeze(),
        [(place, word)] if word.len() <= place.len() => return splice(body, *place, word),
        [(first, _), .., (last, _)] | [(first @ last, _)] => (first.start, last.end),
    };
    let gone: usize = edits.iter().map(|(place, _)| place.len()).sum();
    let added: usize = edits.iter().map(|(_, word)| word.len()).sum();
    let length = last - first + added - gone;
    let grows = added > gone;
    let room = body.capacity() - body.len();
    let middle = |out: &mut BytesMut| {
        let mut at = first;
        for (place, word) in edits {
            out.extend_from_slice(&body[at..place.start]);
            out.extend_from_slice(word);
            at = place.end;
        }
    };
    if length > MIDDLE || grows && room < added - gone {
        let mut whole = BytesMut::with_capacity(body.len() + added - gone);
        whole.extend_from_slice(&body[..first]);
        middle(&mut whole);
        whole.extend_from_slice(&body[last..]);
        return whole.freeze();
    }
    let mut aside = BytesMut::with_capacity(length);
    middle(&mut aside);
    if grows {
        let end = body.len();
        body.resize(end + added - gone, 0);
        body.copy_within(last..end, first + length);
        body[first..first + length].copy_from_slice(&aside);
        return body.freeze();
    }
    let spare = gone - added;
    if first <= body.len() - last {
        body.copy_within(..first, spare);
        body[last - length..last].copy_from_slice(&aside);
        return body.freeze().split_off(spare);
    }
    body[first..first + length].copy_from_slice(&aside);
    body.copy_within(last.., first + length);
    body.truncate(body.len() - spare);
    body.freeze()
}

/// Replaces values at places that do not overlap.
pub fn replace_spans(body: &[u8], mut texts: Vec<(Span, Vec<u8>)>) -> Vec<u8> {
    texts.sort_by_key(|(place, _)| place.start);
    let added: usize = texts.iter().map(|(_, text)| text.len()).sum();
    let mut out = Vec::with_capacity(body.len() + added);
    let mut at = 0;
    for (place, text) in &texts {
        out.extend_from_slice(&body[at..place.start]);
        out.extend_from_slice(text);
        at = place.end;
    }
    out.extend_from_slice(&body[at..]);
    out
}

/// An object without its members of this name; `None` if it has none, or is no object.
pub fn remove_member(object: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut others = Vec::new();
    let mut found = false;
    let mut reader = JsonReader::new(object, DEPTH_CEILING).ok()?;
    let read = reader.object(|r, key| {
        let value = r.value()?;
        if key.is(object, name) {
            found = true;
        } else {
            others.push(&object[key.span.start..value.end]);
        }
        Ok(())
    });
    (read.is_ok() && found).then(|| [b"{", others.join(&b',').as_slice(), b"}"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_values_give_way_at_once() {
        let body = br#"{"a":{"x":1},"b":2,"c":"three"}"#;
        let place = |word: &str| {
            let start = body.windows(word.len()).position(|w| w == word.as_bytes()).expect("it is there");
            Span { start, end: start + word.len() }
        };
        let texts = vec![(place("\"three\""), b"3".to_vec()), (place("{\"x\":1}"), b"[]".to_vec())];
        assert_eq!(replace_spans(body, texts), br#"{"a":[],"b":2,"c":3}"#);
    }

    #[test]
    fn edits_give_the_same_bytes_whichever_side_moves() {
        let place = |body: &str, word: &str| {
            let start = body.find(word).expect("it is there");
            Span { start, end: start + word.len() }
        };
        let long = "x".repeat(3000);
        for (before, between, after) in
            [("", "", ""), (&*long, "", ""), ("", "", &*long), ("", &*long, ""), (&*long, "-", &*long)]
        {
            let body = format!("{before}<1>{between}<name>{after}<token>");
            let places = [place(&body, "<1>"), place(&body, "<name>"), place(&body, "<token>")];
            for message in [["", "", ""], ["longer", "longer than that", "longer yet"], ["longer", "", "<t>"]]
            {
                for count in 0..=3 {
                    for room in [0, 64] {
                        let mut buffer = BytesMut::with_capacity(body.len() + room);
                        buffer.extend_from_slice(body.as_bytes());
                        let edits: Vec<(Span, &[u8])> = places
                            .iter()
                            .copied()
                            .zip(message.iter().map(|w| w.as_bytes()))
                            .take(count)
                            .collect();
                        let texts = edits.iter().map(|(place, word)| (*place, word.to_vec())).collect();
                        let expected = replace_spans(body.as_bytes(), texts);
                        assert_eq!(apply_edits(buffer, &edits), expected, "{message:?} {count} {room}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_member_is_taken_out_however_it_is_written() {
        for (object, rest) in [
            (r#"{"x":1}"#, Some("{}")),
            (r#"{"x":1,"y":2}"#, Some(r#"{"y":2}"#)),
            (r#"{ "y" : 2 , "\u0078" : {"z":[]} , "w":3 }"#, Some(r#"{"y" : 2,"w":3}"#)),
            (r#"{"x":1,"x":2}"#, Some("{}")),
            (r#"{"y":{"x":1}}"#, None),
            (r#"["x"]"#, None),
            (r#"{"x":1"#, None),
        ] {
            let without =
                remove_member(object.as_bytes(), "x").map(|rest| String::from_utf8(rest).expect("UTF-8"));
            assert_eq!(without.as_deref(), rest, "{object}");
        }
    }

    #[test]
    fn the_rest_of_the_body_stays_as_it_was() {
        for (body, word, expected) in [
            (r#"{"name":"s__tool","arguments":{"x":1}}"#, "tool", r#"{"name":"tool","arguments":{"x":1}}"#),
            (
                r#"{"arguments":{"x":1.10},"name":"s__tool"}"#,
                "tool",
                r#"{"arguments":{"x":1.10},"name":"tool"}"#,
            ),
            (r#"{"name":"s__t"}"#, "s__t", r#"{"name":"s__t"}"#),
            (r#"{"name":"t","x":1}"#, "a \"longer\" one", r#"{"name":"a \"longer\" one","x":1}"#),
        ] {
            let start = body.find("\"name\":").expect("name") + 7;
            let end = start + 1 + body[start + 1..].find('"').expect("end") + 1;
            let spliced = rename(BytesMut::from(body), Span { start, end }, word);
            assert_eq!(spliced, expected);
        }
    }
}
