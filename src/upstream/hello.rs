//! How a server introduces itself. Clients check what they read of it, and what they do not expect costs them the whole
//! connection; so what does not fit the official schema is taken for what it can only mean, or left out.

use bytes::Bytes;
use filters::Era;
use filters::agree::quote;
use filters::json::{DEPTH_CEILING, Reader};

use super::UpstreamError;
use crate::protocol::definitions::Definition;
use crate::protocol::{revision, wire};

/// The capabilities that say which methods there are (2026-07-28, `ServerCapabilities`).
const OFFERS: [&str; 5] = ["completions", "logging", "prompts", "resources", "tools"];

/// Longest part of a greeting that is read, in bytes.
const PART: usize = 32 * 1024;

/// How a server introduces itself in one era (`initialize` or `server/discover`). The members are JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The revision that was agreed on.
    pub version: String,
    /// `ServerCapabilities` of the newest revision of the era.
    pub capabilities: Bytes,
    /// `Implementation` of the same.
    pub server_info: Bytes,
    /// A JSON string.
    pub instructions: Option<Bytes>,
    /// What of it did not fit.
    pub faults: Vec<String>,
}

impl Hello {
    /// Reads the result of `initialize` or `server/discover`.
    ///
    /// # Errors
    /// [`UpstreamError::Nonsense`] if it has no capabilities.
    pub fn read(result: &Bytes, version: String) -> Result<Self, UpstreamError> {
        let part =
            |name| wire::member(result, name).map(|span| span.of(result)).filter(|raw| raw.len() <= PART);
        let era = if revision::LEGACY.contains(&version.as_str()) { Era::Legacy } else { Era::Modern };
        let mut faults = Vec::new();
        let capabilities = part("capabilities")
            .and_then(members)
            .ok_or_else(|| UpstreamError::Nonsense("its greeting has no capabilities".into()))?;
        let definition = Definition::new(era, "ServerCapabilities");
        let mut kept = Kept::default();
        for (name, value) in capabilities {
            match definition.check_member(&name, value) {
                Ok(()) => kept.add(&name, value),
                Err(why) => {
                    faults.push(format!("capabilities{why}"));
                    if let Some(meant) = meant(&definition, &name, value) {
                        kept.add(&name, &meant);
                    }
                }
            }
        }
        let capabilities = kept.object();
        // Modern servers name themselves in `_meta` of each result.
        let named = || {
            let meta = part("_meta")?;
            Some(wire::member(meta, "io.modelcontextprotocol/serverInfo")?.of(meta))
        };
        let definition = Definition::new(era, "Implementation");
        let mut kept = Kept::default();
        for (name, value) in part("serverInfo").or_else(named).and_then(members).unwrap_or_default() {
            match definition.check_member(&name, value) {
                Ok(()) => kept.add(&name, value),
                Err(why) => faults.push(format!("serverInfo{why}")),
            }
        }
        for (name, instead) in [("name", r#""unknown""#), ("version", r#""0""#)] {
            if !kept.has(name) {
                kept.add(name, instead.as_bytes());
            }
        }
        let instructions = part("instructions").filter(|raw| raw.first() == Some(&b'"'));
        Ok(Self {
            version,
            capabilities,
            server_info: kept.object(),
            // A copy: what is kept for long shall not keep the whole answer.
            instructions: instructions.map(Bytes::copy_from_slice),
            faults,
        })
    }

    /// Whether the capability `name` is offered, and with the flag `flag` if one is asked for.
    pub fn offers(&self, name: &str, flag: Option<&str>) -> bool {
        let Some(span) = wire::member(&self.capabilities, name) else { return false };
        match flag {
            None => true,
            Some(flag) => {
                let part = span.of(&self.capabilities);
                wire::member(part, flag).is_some_and(|value| value.of(part) == b"true")
            }
        }
    }
}

/// What a server means by a capability that does not fit: without the flags that do not, and simply that it has it, unless
/// it says that it has not. PHP writes `[]` for an empty object.
fn meant(definition: &Definition, name: &str, value: &[u8]) -> Option<Bytes> {
    if !OFFERS.contains(&name) || value == b"null" || value == b"false" {
        return None;
    }
    let mut kept = Kept::default();
    for (flag, value) in members(value).unwrap_or_default() {
        let mut alone = Kept::default();
        alone.add(&flag, value);
        if definition.check_member(name, &alone.object()).is_ok() {
            kept.add(&flag, value);
        }
    }
    Some(kept.object())
}

/// The members of an object, one of each name: the last, as most readers have it. `None` for all else.
fn members(object: &[u8]) -> Option<Vec<(String, &[u8])>> {
    let mut all: Vec<(String, &[u8])> = Vec::new();
    let mut reader = Reader::lenient(object, DEPTH_CEILING).ok()?;
    reader
        .object(|r, key| {
            let name = key.read(object).into_owned();
            let value = r.value()?.of(object);
            all.retain(|(known, _)| *known != name);
            all.push((name, value));
            Ok(())
        })
        .ok()?;
    Some(all)
}

/// An object that is put together.
#[derive(Default)]
struct Kept(Vec<(String, Bytes)>);

impl Kept {
    fn add(&mut self, name: &str, value: &[u8]) {
        self.0.push((name.to_owned(), Bytes::copy_from_slice(value)));
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    fn object(&self) -> Bytes {
        let mut out = vec![b'{'];
        for (name, value) in &self.0 {
            if out.len() > 1 {
                out.push(b',');
            }
            out.extend_from_slice(quote(name).as_bytes());
            out.push(b':');
            out.extend_from_slice(value);
        }
        out.push(b'}');
        Bytes::from(out)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn hello(version: &str, result: &str) -> Hello {
        Hello::read(&Bytes::copy_from_slice(result.as_bytes()), version.to_owned()).expect("a greeting")
    }

    fn value(text: &[u8]) -> Value {
        serde_json::from_slice(text).expect("JSON")
    }

    #[test]
    fn what_fits_stays_as_it_was_sent() {
        let capabilities = r#"{"tools":{ "listChanged":true},"experimental":{"a":{"n":1.50}},"other":5}"#;
        let info = r#"{"name":"a","version":"1","icons":[{"src":"https://a/b"}],"x":[ ]}"#;
        for version in [revision::NEWEST_LEGACY, revision::NEWEST_MODERN] {
            let read = hello(version, &format!(r#"{{"capabilities":{capabilities},"serverInfo":{info}}}"#));
            assert_eq!((&*read.capabilities, &*read.server_info), (capabilities.as_bytes(), info.as_bytes()));
            assert!(read.faults.is_empty(), "{:?}", read.faults);
        }
    }

    #[test]
    fn a_capability_that_does_not_fit_is_taken_for_what_it_can_only_mean() {
        for (sent, kept) in [
            (r#"{"tools":null}"#, json!({})),
            (r#"{"tools":false}"#, json!({})),
            (r#"{"tools":true}"#, json!({"tools": {}})),
            (r#"{"tools":[]}"#, json!({"tools": {}})),
            (r#"{"tools":{"listChanged":"yes"}}"#, json!({"tools": {}})),
            (
                r#"{"resources":{"listChanged":1,"subscribe":true,"x":2}}"#,
                json!({"resources": {"subscribe": true, "x": 2}}),
            ),
            (r#"{"tools":{},"experimental":5}"#, json!({"tools": {}})),
            (r#"{"tools":{},"experimental":{"a":null}}"#, json!({"tools": {}})),
            (r#"{"logging":5}"#, json!({"logging": {}})),
            (r#"{"tools":true,"tools":{}}"#, json!({"tools": {}})),
            (r#"{"prompts":{"\ud83d":1}}"#, json!({"prompts": {"\u{fffd}": 1}})),
        ] {
            let twice = sent.matches("\"tools\"").count() == 2;
            for version in [revision::NEWEST_LEGACY, revision::NEWEST_MODERN] {
                let read = hello(version, &format!(r#"{{"capabilities":{sent}}}"#));
                assert_eq!(value(&read.capabilities), kept, "{sent}");
                assert_eq!(read.faults.is_empty(), twice, "{sent}: {:?}", read.faults);
            }
        }
        let read = hello("2026-07-28", r#"{"capabilities":{"tools":{},"extensions":{"a":null}}}"#);
        assert_eq!(read.faults, ["capabilities/extensions/a: expected object, got null"]);
        for broken in ["{}", r#"{"capabilities":[]}"#, r#"{"capabilities":null}"#] {
            let broken = Bytes::from_static(broken.as_bytes());
            assert!(Hello::read(&broken, "2026-07-28".to_owned()).is_err());
        }
    }

    #[test]
    fn a_server_that_names_itself_badly_is_named_by_what_is_left() {
        for (sent, kept) in [
            ("null", json!({"name": "unknown", "version": "0"})),
            (r#"{"name":"a"}"#, json!({"name": "a", "version": "0"})),
            (r#"{"name":1,"version":"2"}"#, json!({"name": "unknown", "version": "2"})),
            (r#"{"name":"a","version":null,"title":null}"#, json!({"name": "a", "version": "0"})),
            (r#"{"name":"a","version":"1","icons":[{"src":1}]}"#, json!({"name": "a", "version": "1"})),
            (r#"{"name":"\ud83d","version":"1"}"#, json!({"name": "unknown", "version": "1"})),
        ] {
            let in_meta =
                format!(r#"{{"capabilities":{{}},"_meta":{{"io.modelcontextprotocol/serverInfo":{sent}}}}}"#);
            for read in [
                hello("2025-11-25", &format!(r#"{{"capabilities":{{}},"serverInfo":{sent}}}"#)),
                hello("2026-07-28", &in_meta),
            ] {
                assert_eq!(value(&read.server_info), kept, "{sent}");
            }
        }
    }
}
