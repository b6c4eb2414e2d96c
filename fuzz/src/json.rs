//! JSON as serde_json reads it, without loss: members in their order, duplicate keys, values as written.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of one object. A key with an unpaired surrogate, which no `String` holds, is kept with its
/// bytes escaped.
pub struct Members<'a>(pub Vec<(String, &'a RawValue)>);

/// Reads an object without parsing its values; `None` for all else.
pub fn members(text: &[u8]) -> Option<Members<'_>> {
    serde_json::from_slice(text).ok()
}

/// Whether this is JSON; unlike the gateway it accepts unpaired surrogates and any depth.
pub fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(text).is_ok()
}

/// The value of a member, decoded, if it is a string.
pub fn text(members: &Members<'_>, key: &str) -> Option<String> {
    serde_json::from_str(members.get(key)?).ok()
}

/// The value in an object at a path of members, as written; `None` also if a key of the path is duplicated.
pub fn at<'a>(object: &'a [u8], path: &[&str]) -> Option<&'a str> {
    let (first, rest) = path.split_first()?;
    let all = members(object)?;
    let mut found = all.0.iter().filter(|(key, _)| key == first).map(|(_, value)| value.get());
    let value = found.next().filter(|_| found.next().is_none())?;
    if rest.is_empty() { Some(value) } else { at(value.as_bytes(), rest) }
}

/// Checks that two objects have the same members in the same order, with equal bytes, except at these
/// paths.
pub fn same_but(before: &[u8], after: &[u8], paths: &[&[&str]]) {
    let (Some(before), Some(after)) = (members(before), members(after)) else {
        panic!("one of them is no object");
    };
    assert_eq!(before.0.len(), after.0.len());
    for ((key, value), (new_key, new_value)) in before.0.iter().zip(&after.0) {
        assert_eq!(key, new_key);
        let inner: Vec<&[&str]> = paths.iter().filter(|path| path[0] == key).map(|path| &path[1..]).collect();
        if value.get() == new_value.get() || inner.iter().any(|path| path.is_empty()) {
            continue;
        }
        assert!(!inner.is_empty(), "{key:?} changed from {value} to {new_value}");
        same_but(value.get().as_bytes(), new_value.get().as_bytes(), &inner);
    }
}

/// Whether no key is duplicated.
pub fn is_clear(members: &Members<'_>) -> bool {
    members.0.iter().enumerate().all(|(at, (key, _))| members.0[..at].iter().all(|(before, _)| before != key))
}

/// A whole value. Numbers are kept as written, members in their order.
#[derive(Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

/// Reads a whole value strictly: no duplicate key in an object, no unpaired surrogate.
pub fn value(text: &[u8]) -> Option<Value> {
    let raw: &RawValue = serde_json::from_slice(text).ok().filter(|_| !has_halves(text))?;
    let text = raw.get();
    Some(match text.as_bytes()[0] {
        b'n' => Value::Null,
        b't' => Value::Bool(true),
        b'f' => Value::Bool(false),
        b'"' => Value::Text(serde_json::from_str(text).ok()?),
        b'[' => {
            let all: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            Value::List(all.into_iter().map(|raw| value(raw.get().as_bytes())).collect::<Option<_>>()?)
        }
        b'{' => {
            let all = members(text.as_bytes()).filter(is_clear)?;
            let member = |(key, raw): (String, &RawValue)| Some((key, value(raw.get().as_bytes())?));
            Value::Object(all.0.into_iter().map(member).collect::<Option<_>>()?)
        }
        _ => Value::Number(text.to_owned()),
    })
}

impl Value {
    /// The number of values in it, without itself.
    pub fn size(&self) -> usize {
        match self {
            Value::List(all) => all.iter().map(|value| 1 + value.size()).sum(),
            Value::Object(all) => all.iter().map(|(_, value)| 1 + value.size()).sum(),
            _ => 0,
        }
    }
}

/// The nesting depth of a JSON text.
pub fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0, 0);
    each_token(json, |token| match token {
        b"{" | b"[" => {
            depth += 1;
            deepest = deepest.max(depth);
        }
        b"}" | b"]" => depth -= 1,
        _ => {}
    });
    deepest
}

/// Whether a string of a JSON text has an unpaired surrogate.
pub fn has_halves(json: &[u8]) -> bool {
    let mut any = false;
    each_token(json, |token| {
        any |= token.starts_with(b"\"") && serde_json::from_slice::<String>(token).is_err();
    });
    any
}

/// Strings as a whole, all else byte by byte.
fn each_token<'a>(json: &'a [u8], mut take: impl FnMut(&'a [u8])) {
    let mut at = 0;
    while at < json.len() {
        let mut end = at + 1;
        if json[at] == b'"' {
            while json[end] != b'"' {
                end += if json[end] == b'\\' { 2 } else { 1 };
            }
            end += 1;
        }
        take(&json[at..end]);
        at = end;
    }
}

impl<'a> Members<'a> {
    /// The value of a member as written.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.get())
    }
}

/// A key. serde_json rejects unpaired surrogates in strings, but not in bytes.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Key, E> {
                let escaped = |_| bytes.escape_ascii().to_string();
                Ok(Key(String::from_utf8(bytes.to_vec()).unwrap_or_else(escaped)))
            }
        }
        from.deserialize_bytes(Text)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some((Key(key), value)) = from.next_entry()? {
                    all.push((key, value));
                }
                Ok(Members(all))
            }
        }
        from.deserialize_map(All)
    }
}
