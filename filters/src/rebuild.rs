//! The body that is sent on: the bytes that were read, with one string put in the place of another.
//!
//! Invariant 2 (what was judged is what is sent): nothing is re-serialized. The splice is made inside the
//! buffer that the body was read into, by moving the shorter side, so that a long body is not copied.

use bytes::{Bytes, BytesMut};

use crate::agree::quote;
use crate::json::{DEPTH_CEILING, Reader, Span};

/// Puts the JSON string of `word` in the place of the value at `place`.
pub fn rename(body: BytesMut, place: Span, word: &str) -> Bytes {
    splice(body, place, quote(word).as_bytes())
}

/// Puts `word`, JSON text, in the place of the value at `place`.
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

/// Puts texts in the places of values, of which none lies in another.
pub fn replaced(body: &[u8], mut texts: Vec<(Span, Vec<u8>)>) -> Vec<u8> {
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
pub fn without(object: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut others = Vec::new();
    let mut found = false;
    let mut reader = Reader::new(object, DEPTH_CEILING).ok()?;
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
        assert_eq!(replaced(body, texts), br#"{"a":[],"b":2,"c":3}"#);
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
            let without = without(object.as_bytes(), "x").map(|rest| String::from_utf8(rest).expect("UTF-8"));
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
