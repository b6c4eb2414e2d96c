//! An object as its members, to write it again with some of them left out, replaced or added. The values
//! stay the bytes that they were.

use super::reader::{DEPTH_CEILING, JsonReader, Span, Text};

/// The members of one JSON object, in their order.
#[derive(Debug)]
pub struct Object<'a> {
    text: &'a [u8],
    members: Vec<(Text, Span)>,
}

impl<'a> Object<'a> {
    /// Reads an object; `None` for any other text. Unpaired surrogates are accepted, as in servers' messages.
    pub fn read(text: &'a [u8]) -> Option<Self> {
        let mut reader = JsonReader::lenient(text, DEPTH_CEILING).ok()?;
        let mut members = Vec::new();
        reader
            .object(|r, key| {
                let value = r.value()?;
                members.push((key, value));
                Ok(())
            })
            .ok()?;
        reader.end().ok()?;
        Some(Self { text, members })
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The value of a member; of the last one of this name, as most parsers have it.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        let found = self.members.iter().rev().find(|(key, _)| key.is(self.text, name));
        found.map(|(_, value)| value.of(self.text))
    }

    /// The decoded names and the values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (std::borrow::Cow<'a, str>, &'a [u8])> {
        let text = self.text;
        self.members.iter().map(move |(key, value)| (key.read(text), value.of(text)))
    }

    /// Leaves out the members whose name fulfils the condition.
    pub fn remove(&mut self, is_removed: impl Fn(&str) -> bool) {
        let text = self.text;
        self.members.retain(|(key, _)| !is_removed(&key.read(text)));
    }

    /// The object with `added` at its end; members of these names are replaced. The values are JSON text.
    pub fn with(&self, added: &[(&str, &[u8])]) -> Vec<u8> {
        let length: usize = added.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        let mut out = Vec::with_capacity(self.text.len() + length);
        out.push(b'{');
        for (key, value) in &self.members {
            if added.iter().any(|(name, _)| key.is(self.text, name)) {
                continue;
            }
            separate(&mut out);
            out.extend_from_slice(key.span.of(self.text));
            out.push(b':');
            out.extend_from_slice(value.of(self.text));
        }
        for (name, value) in added {
            separate(&mut out);
            out.extend_from_slice(super::quote::quote(name).as_bytes());
            out.push(b':');
            out.extend_from_slice(value);
        }
        out.push(b'}');
        out
    }
}

fn separate(out: &mut Vec<u8>) {
    if out.len() > 1 {
        out.push(b',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_left_out_replaced_and_added() {
        let text = br#" {"a": 1, "b" : {"c":[1, 2]} ,"a":3, "\u0064":"x"} "#;
        let mut object = Object::read(text).expect("an object");
        assert_eq!(object.get("a"), Some(&b"3"[..]), "the last of a name counts");
        assert_eq!(object.get("d"), Some(&br#""x""#[..]));
        assert_eq!(object.get("e"), None);
        let written = |object: &Object<'_>, added: &[(&str, &[u8])]| {
            String::from_utf8(object.with(added)).expect("UTF-8")
        };
        assert_eq!(
            written(&object, &[("a", b"0"), ("e\"", b"[]")]),
            r#"{"b":{"c":[1, 2]},"\u0064":"x","a":0,"e\"":[]}"#
        );
        object.remove(|name| name == "a" || name == "d");
        assert_eq!(written(&object, &[]), r#"{"b":{"c":[1, 2]}}"#);
        object.remove(|_| true);
        assert!(object.is_empty());
        assert_eq!(written(&object, &[]), "{}");
        assert_eq!(written(&object, &[("x", b"1")]), r#"{"x":1}"#);
    }

    #[test]
    fn other_texts_are_no_objects() {
        for text in ["", "[]", "1", "{", "{\"a\":1}x", "{\"a\":}", "null"] {
            assert!(Object::read(text.as_bytes()).is_none(), "{text}");
        }
    }
}
