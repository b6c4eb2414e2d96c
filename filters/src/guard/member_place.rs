//! The role of a message's members, by their place in the schema: text of people and models, or identifiers
//! of the protocol. The key alone does not decide: `arguments.cursor` is text, `params.cursor` is not.

use super::walk::{JsonLeaf, any};
use mcp::json::reader::{DEPTH_CEILING, JsonError, JsonReader};

/// The digits of the shortest card numbers.
const SHORTEST_SECRET: usize = 13;

/// The role of a member.
#[derive(Clone, Copy, Debug)]
pub enum MemberPath {
    /// Text of a person or a model, with all nested values.
    Text,
    /// An id, a cursor, a name, a URI or a protocol keyword: never changed. An object or a list in its place
    /// is text.
    Handle,
    /// A keyword of a closed list; any other value in its place is text.
    Word(&'static [&'static str]),
    /// A string in a format without free text; any other value in its place is text.
    Form(fn(&str) -> bool),
    /// A number with fewer digits than a secret has; anything else in its place is text.
    Number,
    /// An object with members that are known; all others are text, and so are their keys. In a list, each
    /// element.
    Object(&'static [(&'static str, MemberPath)]),
    /// An object whose keys are identifiers. In a list, each element.
    Map(&'static MemberPath),
}

/// Collects all text of a JSON value at this place.
pub(super) fn texts(json: &[u8], place: &MemberPath, out: &mut dyn FnMut(JsonLeaf)) -> Result<(), JsonError> {
    let mut reader = JsonReader::new(json, DEPTH_CEILING)?;
    at(&mut reader, json, place, out)?;
    reader.end()
}

fn at(
    r: &mut JsonReader<'_>,
    json: &[u8],
    place: &MemberPath,
    out: &mut dyn FnMut(JsonLeaf),
) -> Result<(), JsonError> {
    match (r.peek()?, place) {
        (b'[', MemberPath::Object(_) | MemberPath::Map(_)) => r.array(|r| at(r, json, place, out)).map(drop),
        (b'{', MemberPath::Object(members)) => {
            let read = r.object(|r, key| match members.iter().find(|(name, _)| key.is(json, name)) {
                Some((_, place)) => at(r, json, place, out),
                None => {
                    out(JsonLeaf::Key(key));
                    any(r, out)
                }
            });
            read.map(drop)
        }
        (b'{', MemberPath::Map(place)) => r.object(|r, _| at(r, json, place, out)).map(drop),
        (b'"', MemberPath::Word(_) | MemberPath::Form(_)) => {
            let text = r.string()?;
            let said = text.read(json);
            let known = match place {
                MemberPath::Word(message) => message.contains(&&*said),
                MemberPath::Form(fits) => fits(&said),
                _ => false,
            };
            if !known {
                out(JsonLeaf::Text(text));
            }
            Ok(())
        }
        (b'{' | b'[', _) | (_, MemberPath::Text | MemberPath::Object(_) | MemberPath::Map(_)) => any(r, out),
        (b'"', MemberPath::Number) | (_, MemberPath::Word(_) | MemberPath::Form(_)) => any(r, out),
        (_, MemberPath::Number) => {
            let span = r.value()?;
            let text = span.of(json);
            let is_number = text.first().is_some_and(|b| b.is_ascii_digit() || *b == b'-');
            if is_number && (text.len() >= SHORTEST_SECRET || text.iter().any(|b| matches!(b, b'e' | b'E'))) {
                out(JsonLeaf::Number(span));
            }
            Ok(())
        }
        (_, MemberPath::Handle) => r.value().map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: MemberPath = MemberPath::Object(&[
        ("cursor", MemberPath::Handle),
        ("arguments", MemberPath::Text),
        ("progress", MemberPath::Number),
        ("level", MemberPath::Word(&["info", "debug"])),
        ("at", MemberPath::Form(|text| text.len() == 2)),
        ("answers", MemberPath::Map(&MemberPath::Object(&[("action", MemberPath::Handle)]))),
        ("roots", MemberPath::Object(&[("uri", MemberPath::Handle)])),
    ]);

    fn found(json: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut add = |leaf: JsonLeaf| {
            found.push(match leaf {
                JsonLeaf::Key(text) => format!("{}:", text.read(json.as_bytes())),
                JsonLeaf::Text(text) => text.read(json.as_bytes()).into_owned(),
                JsonLeaf::Number(span) => String::from_utf8_lossy(span.of(json.as_bytes())).into_owned(),
            });
        };
        texts(json.as_bytes(), &PARAMS, &mut add).expect("JSON");
        found
    }

    #[test]
    fn the_place_decides_what_is_text_and_not_the_key() {
        for (json, expected) in [
            (r#"{"cursor":"a","arguments":{"cursor":"b"}}"#, &["cursor:", "b"][..]),
            (r#"{"cursor":{"cursor":"a"}}"#, &["cursor:", "a"]),
            (r#"{"cursor":["a"]}"#, &["a"]),
            (r#"{"c\u0075rsor":"a","other":"b"}"#, &["other:", "b"]),
            (r#"{"progress":4,"x":5}"#, &["x:", "5"]),
            (r#"{"progress":4111111111111111}"#, &["4111111111111111"]),
            (r#"{"progress":4e15}"#, &["4e15"]),
            (r#"{"progress":null,"level":true,"at":7}"#, &["7"]),
            (r#"{"level":"info","at":"12"}"#, &[]),
            (r#"{"level":"\u0069nfo","at":"1\u0032"}"#, &[]),
            (r#"{"level":"Info","at":"123"}"#, &["Info", "123"]),
            (r#"{"level":["info"],"at":{"at":"12"}}"#, &["info", "at:", "12"]),
            (r#"{"progress":"4"}"#, &["4"]),
            (r#"{"answers":{"one":{"action":"a","content":{"action":"b"}}}}"#, &["content:", "action:", "b"]),
            (r#"{"answers":"a"}"#, &["a"]),
            (r#"{"roots":[{"uri":"a","name":"b"},"c",7]}"#, &["name:", "b", "c", "7"]),
            (r#"["a",{"cursor":"b"}]"#, &["a"]),
            (r#""a""#, &["a"]),
            ("true", &[]),
        ] {
            assert_eq!(found(json), expected, "{json}");
        }
    }
}
