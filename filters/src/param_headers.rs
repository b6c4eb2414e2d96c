//! Arguments that a call repeats in its head (MCP 2026-07-28, streamable-http, "Custom Headers from Tool
//! Parameters"): the `x-mcp-header` annotations of a tool's schema, the check of a head against the
//! arguments, and the headers to send for them.
//!
//! A proxy that routes by such a header must not see other values than the tool. So a declared header with
//! another value, duplicated, missing, or without an argument is rejected. Undeclared headers are passed on
//! unchanged.

use mcp::Reason;
use std::borrow::Cow;

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use crate::request::{AmbiguousHeader, RequestHead};
use mcp::header_value::{decode, encode};
use mcp::json::reader::{DEPTH_CEILING, JsonReader};
use mcp::rejection::{Rejection, code};

const KEY: &str = "x-mcp-header";
/// The prefix of the name in a schema.
const PREFIX: &str = "mcp-param-";
/// Most arguments of a tool that may be repeated: each call looks up each of them.
const MAX_HEADERS: usize = 64;

/// The repeated arguments of one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamHeaders(Vec<ParamHeader>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct ParamHeader {
    header: HeaderName,
    /// From `arguments` down.
    path: Vec<String>,
}

/// Why the annotations of a schema are invalid. A client must ignore such a tool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidParamHeader {
    #[error("the schema cannot be read")]
    Unreadable,
    #[error("`x-mcp-header` stands where no argument of one certain place is")]
    Place,
    #[error("`x-mcp-header` of `{0}` is not a name that a header can have")]
    Name(String),
    #[error("`x-mcp-header` of `{0}` stands at something else than a string, an integer or a boolean")]
    Type(String),
    #[error("`x-mcp-header` of `{0}` is the name of another argument's")]
    Duplicate(String),
    #[error("more than {MAX_HEADERS} arguments are to be repeated in the head")]
    TooMany,
}

impl ParamHeaders {
    /// Reads an `inputSchema`; `None` if it names no header.
    pub fn read(schema: &[u8]) -> Result<Option<Self>, InvalidParamHeader> {
        // Most tools have none, and a key may be written with escapes.
        if memchr::memmem::find(schema, KEY.as_bytes()).is_none()
            && memchr::memmem::find(schema, b"\\u").is_none()
        {
            return Ok(None);
        }
        let schema: Value = serde_json::from_slice(schema).map_err(|_| InvalidParamHeader::Unreadable)?;
        let mut all = Vec::new();
        walk(&schema, Some(&mut Vec::new()), &mut all)?;
        Ok((!all.is_empty()).then_some(Self(all)))
    }

    /// Whether the head repeats the arguments correctly.
    pub fn verify(&self, head: &RequestHead<'_>, arguments: Option<&[u8]>) -> Result<(), Rejection> {
        for header in &self.0 {
            let refuse = |what: &str| {
                let name = header.header.as_str();
                let message = format!("the header {name} {what} the argument `{}`", header.path.join("."));
                Err(Rejection::new(400, code::HEADER_MISMATCH, Reason::HeaderMismatch, message))
            };
            let Ok(argument) = header.argument(arguments) else {
                return refuse("cannot be compared, for there is more than one of");
            };
            match (head.single(&header.header), argument) {
                (Ok(None), None) => {}
                (Err(AmbiguousHeader), _) => return refuse("must stand once, in visible ASCII, for"),
                (Ok(Some(_)), None) => return refuse("is there, and nothing that it could repeat of"),
                (Ok(None), Some(_)) => return refuse("is missing, which repeats"),
                (Ok(Some(said)), Some(argument)) => match decode(said) {
                    Some(said) if argument.equals_header(&said) => {}
                    _ => return refuse("does not say what the body says of"),
                },
            }
        }
        Ok(())
    }

    /// The headers that repeat these arguments.
    pub fn headers(&self, arguments: Option<&[u8]>) -> Vec<(HeaderName, HeaderValue)> {
        let header = |mirror: &ParamHeader| {
            let argument = mirror.argument(arguments).ok()??;
            let value = HeaderValue::from_str(&encode(&argument.text())).ok()?;
            Some((mirror.header.clone(), value))
        };
        self.0.iter().filter_map(header).collect()
    }
}

/// Visits every place of a schema that may hold another schema; `path` is lost where an argument's place is
/// not certain. Data (`default`, `const`, `enum`, `examples`) is skipped, and no `$ref` is followed.
fn walk(
    schema: &Value,
    mut path: Option<&mut Vec<String>>,
    all: &mut Vec<ParamHeader>,
) -> Result<(), InvalidParamHeader> {
    const ONE: [&str; 11] = [
        "items",
        "contains",
        "additionalProperties",
        "unevaluatedItems",
        "unevaluatedProperties",
        "propertyNames",
        "not",
        "if",
        "then",
        "else",
        "contentSchema",
    ];
    const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
    const NAMED: [&str; 4] = ["patternProperties", "dependentSchemas", "$defs", "definitions"];
    let Value::Object(members) = schema else { return Ok(()) };
    if let Some(name) = members.get(KEY) {
        let path = path.as_deref().filter(|path| !path.is_empty()).ok_or(InvalidParamHeader::Place)?;
        all.push(param_header(name, path, members, all)?);
    }
    for (key, value) in members {
        match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                for (name, property) in properties {
                    match path.as_deref_mut() {
                        None => walk(property, None, all)?,
                        Some(path) => {
                            path.push(name.clone());
                            walk(property, Some(path), all)?;
                            path.pop();
                        }
                    }
                }
            }
            (key, value) if ONE.contains(&key) => walk(value, None, all)?,
            (key, Value::Array(list)) if LIST.contains(&key) => {
                list.iter().try_for_each(|inner| walk(inner, None, all))?;
            }
            (key, Value::Object(named)) if NAMED.contains(&key) => {
                named.values().try_for_each(|inner| walk(inner, None, all))?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn param_header(
    name: &Value,
    path: &[String],
    members: &Map<String, Value>,
    others: &[ParamHeader],
) -> Result<ParamHeader, InvalidParamHeader> {
    let place = || path.join(".");
    let name =
        name.as_str().filter(|name| !name.is_empty()).ok_or_else(|| InvalidParamHeader::Name(place()))?;
    let header = HeaderName::from_bytes(format!("{PREFIX}{name}").as_bytes());
    let header = header.map_err(|_| InvalidParamHeader::Name(place()))?;
    match members.get("type").and_then(Value::as_str) {
        Some("string" | "integer" | "boolean") => {}
        _ => return Err(InvalidParamHeader::Type(place())),
    }
    if others.iter().any(|other| other.header == header) {
        return Err(InvalidParamHeader::Duplicate(place()));
    }
    if others.len() == MAX_HEADERS {
        return Err(InvalidParamHeader::TooMany);
    }
    Ok(ParamHeader { header, path: path.to_vec() })
}

/// A duplicate name in one object: readers differ on which one counts.
struct DuplicateArgument;

impl ParamHeader {
    /// The argument; `None` if it is missing, null, or not representable in a header.
    fn argument<'a>(&self, arguments: Option<&'a [u8]>) -> Result<Option<Argument<'a>>, DuplicateArgument> {
        let Some(mut inside) = arguments else { return Ok(None) };
        for name in &self.path {
            if inside.first() != Some(&b'{') {
                return Ok(None);
            }
            let mut found = None;
            let mut doubled = false;
            let read = JsonReader::new(inside, DEPTH_CEILING).and_then(|mut reader| {
                reader.object(|r, key| {
                    let value = r.value()?;
                    if key.is(inside, name) {
                        doubled |= found.replace(value).is_some();
                    }
                    Ok(())
                })
            });
            if doubled || read.is_err() {
                return Err(DuplicateArgument);
            }
            match found {
                Some(place) => inside = place.of(inside),
                None => return Ok(None),
            }
        }
        Ok(Argument::read(inside))
    }
}

#[derive(Debug, PartialEq)]
enum Argument<'a> {
    Text(Cow<'a, str>),
    /// As written.
    Number(&'a str),
    Word(&'static str),
}

impl<'a> Argument<'a> {
    fn read(raw: &'a [u8]) -> Option<Self> {
        match raw.first()? {
            b'"' => Some(Self::Text(JsonReader::new(raw, 1).and_then(|mut r| r.string()).ok()?.read(raw))),
            b't' => Some(Self::Word("true")),
            b'f' => Some(Self::Word("false")),
            b'-' | b'0'..=b'9' => Some(Self::Number(std::str::from_utf8(raw).ok()?)),
            _ => None,
        }
    }

    fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Word(word) => Cow::Borrowed(word),
            Self::Number(raw) => canonical_integer(raw).unwrap_or(Cow::Borrowed(raw)),
        }
    }

    /// Whether a header has the same value. Whole numbers are compared as numbers, exactly and at any length.
    fn equals_header(&self, header: &str) -> bool {
        match self {
            Self::Text(text) => header == text,
            Self::Word(word) => header == *word,
            Self::Number(raw) => {
                let plain = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'.'));
                header == *raw
                    || (plain(header)
                        && canonical_integer(header).is_some_and(|said| Some(said) == canonical_integer(raw)))
            }
        }
    }
}

/// A whole number in its shortest form, exactly; `None` for a fraction, or for an implausible number of
/// zeros.
fn canonical_integer(raw: &str) -> Option<Cow<'_, str>> {
    const ZEROS: usize = 64;
    let (number, power) = match raw.split_once(['e', 'E']) {
        Some((number, power)) => (number, power.parse::<i64>().ok()?),
        None => (raw, 0),
    };
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |digits| ("-", digits));
    let (digits, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_valid = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_valid(digits) || !is_valid(fraction) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() && power == 0 {
        return Some(match (sign, digits.trim_start_matches('0')) {
            (_, "") => Cow::Borrowed("0"),
            ("", short) => Cow::Borrowed(short),
            (sign, short) => Cow::Owned(format!("{sign}{short}")),
        });
    }
    // The significant digits, and how many of all are before the point.
    let all = format!("{digits}{fraction}");
    let point = power.checked_add(i64::try_from(digits.len()).ok()?)?;
    let counting = all.trim_end_matches('0');
    let short = counting.trim_start_matches('0');
    if short.is_empty() {
        return Some(Cow::Borrowed("0"));
    }
    let zeros = usize::try_from(point).ok()?.checked_sub(counting.len()).filter(|zeros| *zeros <= ZEROS)?;
    Some(Cow::Owned(format!("{sign}{short}{}", "0".repeat(zeros))))
}
