//! The result of a server's handshake. Clients validate it, and an unexpected member costs them the whole
//! connection. So what is invalid under the official schema is corrected if its meaning is clear, or left
//! out.

use std::collections::HashMap;

use bytes::Bytes;
use mcp::Era;
use mcp::era_codec::META_SERVER;
use mcp::json::quote::quote;
use mcp::json::reader::{DEPTH_CEILING, JsonReader};

use super::UpstreamError;
use super::entry_definitions::EntryDefinition;
use mcp::jsonrpc::message;
use mcp::version::HTTP_SSE;

/// The capabilities that declare methods (2026-07-28, `ServerCapabilities`).
const METHOD_CAPABILITIES: [&str; 5] = ["completions", "logging", "prompts", "resources", "tools"];

/// Longest part of a handshake, in bytes: each new client gets it whole.
const MAX_PART: usize = 64 * 1024;
/// Members of one object that are read. The schemas name ten at most.
const MAX_MEMBERS: usize = 128;
/// Errors that are reported of one handshake, and characters of each.
const MAX_ERRORS: usize = 8;
const MAX_ERROR: usize = 200;

/// The handshake of a server in one era (`initialize` or `server/discover`). The members are JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHandshake {
    /// The negotiated protocol version.
    pub version: String,
    /// `ServerCapabilities` of the newest version of the era.
    pub capabilities: Bytes,
    /// `Implementation` of the same.
    pub server_info: Bytes,
    /// A JSON string.
    pub instructions: Option<Bytes>,
    /// The parts that were invalid.
    pub faults: Vec<String>,
}

impl ServerHandshake {
    /// Reads the result of `initialize` or `server/discover`.
    ///
    /// # Errors
    ///
    /// [`UpstreamError::InvalidResponse`] if it has no capabilities, or too many to be meant.
    pub fn read(result: &Bytes, version: String) -> Result<Self, UpstreamError> {
        let invalid = |message: String| UpstreamError::InvalidResponse(message);
        let part = |name| message::member(result, name).map(|span| span.of(result));
        // That of HTTP+SSE has no rules of its own here.
        let server_era = if version == HTTP_SSE { Era::Legacy } else { Era::of_version(&version) };
        let mut faults = Faults::default();
        let capabilities = part("capabilities")
            .filter(|raw| raw.first() == Some(&b'{'))
            .ok_or_else(|| invalid("its handshake has no capabilities".into()))?;
        if capabilities.len() > MAX_PART {
            return Err(invalid(format!(
                "the capabilities in its handshake are longer than {MAX_PART} bytes"
            )));
        }
        let capabilities =
            members(capabilities).ok_or_else(|| invalid("its capabilities cannot be read".into()))?;
        let definition = Definitions::of(server_era, "ServerCapabilities");
        let mut kept = Kept::default();
        for (name, value) in capabilities {
            match definition.check_member(&name, value) {
                Ok(()) => kept.add(&name, value),
                Err(why) => {
                    faults.add("capabilities", &why);
                    if let Some(meant) = meant(&definition, &name, value) {
                        kept.add(&name, &meant);
                    }
                }
            }
        }
        let capabilities = kept.object();
        // Modern servers send their info in `_meta` of each result.
        let named = || {
            let meta = part("_meta")?;
            Some(message::member(meta, META_SERVER)?.of(meta))
        };
        let definition = Definitions::of(server_era, "Implementation");
        let mut kept = Kept::default();
        let info = part("serverInfo").or_else(named).filter(|raw| faults.is_short("serverInfo", raw));
        for (name, value) in info.and_then(members).unwrap_or_default() {
            match definition.check_member(&name, value) {
                Ok(()) => kept.add(&name, value),
                Err(why) => faults.add("serverInfo", &why),
            }
        }
        for (name, instead) in [("name", r#""unknown""#), ("version", r#""0""#)] {
            if !kept.has(name) {
                kept.add(name, instead.as_bytes());
            }
        }
        // A copy: what is kept for long must not keep the whole response.
        let instructions = part("instructions").filter(|raw| raw.first() == Some(&b'"'));
        let instructions = instructions.filter(|raw| faults.is_short("instructions", raw));
        let instructions = instructions.map(|raw| {
            if JsonReader::new(raw, 1).and_then(|mut reader| reader.string()).is_ok() {
                return Bytes::copy_from_slice(raw);
            }
            faults.add("instructions", ": half of a surrogate pair, which becomes U+FFFD");
            Bytes::from(quote(&message::string(raw).unwrap_or_default()))
        });
        Ok(Self { version, capabilities, server_info: kept.object(), instructions, faults: faults.0 })
    }

    /// Whether the capability `name` is offered, and with the flag `flag` if one is given.
    pub fn has_capability(&self, name: &str, flag: Option<&str>) -> bool {
        let Some(span) = message::member(&self.capabilities, name) else { return false };
        match flag {
            None => true,
            Some(flag) => {
                let part = span.of(&self.capabilities);
                message::member(part, flag).is_some_and(|value| value.of(part) == b"true")
            }
        }
    }
}

/// The meaning of an invalid capability: without its invalid flags, and simply present, unless it is `null`
/// or `false`. PHP writes `[]` for an empty object.
fn meant(definition: &Definitions, name: &str, value: &[u8]) -> Option<Bytes> {
    if !METHOD_CAPABILITIES.contains(&name) || value == b"null" || value == b"false" {
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

/// The members of an object, one of each name: the last, as most parsers have it. Beyond [`MAX_MEMBERS`]
/// names the rest is skipped. `None` for all else.
fn members(object: &[u8]) -> Option<Vec<(String, &[u8])>> {
    let mut all: Vec<(String, &[u8])> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut reader = JsonReader::lenient(object, DEPTH_CEILING).ok()?;
    reader
        .object(|r, key| {
            let name = key.read(object);
            let value = r.value()?.of(object);
            match places.get(&*name) {
                Some(place) => all[*place].1 = value,
                None if all.len() < MAX_MEMBERS => {
                    places.insert(name.clone().into_owned(), all.len());
                    all.push((name.into_owned(), value));
                }
                None => {}
            }
            Ok(())
        })
        .ok()?;
    Some(all)
}

/// The definition of the era, and that of the other: the SDKs validate members of one version against it in
/// both eras.
struct Definitions([EntryDefinition; 2]);

impl Definitions {
    fn of(server_era: Era, name: &'static str) -> Self {
        Self([EntryDefinition::new(server_era, name), EntryDefinition::new(server_era.other(), name)])
    }

    fn check_member(&self, name: &str, value: &[u8]) -> Result<(), String> {
        self.0.iter().try_for_each(|definition| definition.check_member(name, value))
    }
}

/// The reported errors of a handshake.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    /// Whether a part is short enough; a part that is left out for its length is reported.
    fn is_short(&mut self, part: &str, raw: &[u8]) -> bool {
        if raw.len() > MAX_PART {
            self.add(part, &format!(": longer than {MAX_PART} bytes"));
        }
        raw.len() <= MAX_PART
    }

    fn add(&mut self, part: &str, why: &str) {
        if self.0.len() < MAX_ERRORS {
            self.0.push(format!("{part}{}", why.chars().take(MAX_ERROR).collect::<String>()));
        }
    }
}

/// An object that is being built.
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

    use mcp::version;

    use super::*;

    fn handshake(version: &str, result: &str) -> ServerHandshake {
        ServerHandshake::read(&Bytes::copy_from_slice(result.as_bytes()), version.to_owned())
            .expect("a handshake")
    }

    fn value(text: &[u8]) -> Value {
        serde_json::from_slice(text).expect("JSON")
    }

    #[test]
    fn what_fits_stays_as_it_was_sent() {
        let capabilities = r#"{"tools":{ "listChanged":true},"experimental":{"a":{"n":1.50}},"other":5}"#;
        let info = r#"{"name":"a","version":"1","icons":[{"src":"https://a/b"}],"x":[ ]}"#;
        for version in [version::NEWEST_LEGACY, version::NEWEST_MODERN] {
            let read =
                handshake(version, &format!(r#"{{"capabilities":{capabilities},"serverInfo":{info}}}"#));
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
            for version in [version::NEWEST_LEGACY, version::NEWEST_MODERN] {
                let read = handshake(version, &format!(r#"{{"capabilities":{sent}}}"#));
                assert_eq!(value(&read.capabilities), kept, "{sent}");
                assert_eq!(read.faults.is_empty(), twice, "{sent}: {:?}", read.faults);
            }
        }
        for version in ["2025-11-25", "2026-07-28"] {
            let read =
                handshake(version, r#"{"capabilities":{"tools":{},"extensions":{"a":null},"tasks":5}}"#);
            assert_eq!(
                read.faults,
                [
                    "capabilities/extensions/a: expected object, got null",
                    "capabilities/tasks: expected object, got number"
                ]
            );
            assert_eq!(value(&read.capabilities), json!({"tools": {}}));
        }
        for broken in ["{}", r#"{"capabilities":[]}"#, r#"{"capabilities":null}"#] {
            let broken = Bytes::from_static(broken.as_bytes());
            assert!(ServerHandshake::read(&broken, "2026-07-28".to_owned()).is_err());
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
                handshake("2025-11-25", &format!(r#"{{"capabilities":{{}},"serverInfo":{sent}}}"#)),
                handshake("2026-07-28", &in_meta),
            ] {
                assert_eq!(value(&read.server_info), kept, "{sent}");
            }
        }
    }

    #[test]
    fn a_large_handshake_costs_little_and_is_reported_briefly() {
        let many: Vec<String> = (0..5000).map(|n| format!(r#""{n}":1"#)).collect();
        let bad = format!(r#""experimental":{{"{}":1}},"logging":{{"a":1}}"#, "y".repeat(1000));
        let sent = format!(r#"{{"capabilities":{{{bad},{},"logging":{{"b":1}}}}}}"#, many.join(","));
        let read = handshake("2025-11-25", &sent);
        let kept = value(&read.capabilities);
        assert_eq!(kept["logging"], json!({"b": 1}), "the last of a name counts, however many come between");
        assert!(kept.as_object().is_some_and(|kept| kept.len() < MAX_MEMBERS));
        assert!(read.faults.len() == 1 && read.faults[0].len() < 300, "{:?}", read.faults);
        let long = "x".repeat(MAX_PART);
        let sent = format!(
            r#"{{"capabilities":{{}},"serverInfo":{{"name":"{long}","version":"1"}},"instructions":"{long}"}}"#
        );
        let read = handshake("2025-11-25", &sent);
        assert_eq!(value(&read.server_info), json!({"name": "unknown", "version": "0"}));
        assert_eq!((read.instructions, read.faults.len()), (None, 2));
        let sent = format!(r#"{{"capabilities":{{"x":"{long}"}}}}"#);
        let error =
            ServerHandshake::read(&Bytes::from(sent), "2025-11-25".to_owned()).expect_err("it is too long");
        assert!(error.to_string().contains("longer than 65536 bytes"), "{error}");
    }

    #[test]
    fn instructions_are_text_that_every_reader_takes() {
        let read = handshake("2025-11-25", r#"{"capabilities":{},"instructions":"a\ud800b"}"#);
        assert_eq!(read.instructions.as_deref(), Some("\"a\u{fffd}b\"".as_bytes()));
        assert_eq!(read.faults.len(), 1);
        let read = handshake("2025-11-25", r#"{"capabilities":{},"instructions":"a\ud83d\ude00"}"#);
        assert_eq!(read.instructions.as_deref(), Some(br#""a\ud83d\ude00""#.as_slice()));
        assert!(read.faults.is_empty());
    }
}
