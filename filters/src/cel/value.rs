//! JSON as values of CEL.
//!
//! The evaluator's own conversion makes every whole number unsigned, so that `call.args.n + 1` fails. A text
//! with a duplicate key could have another meaning for the server, so it is an error here.

use std::collections::HashMap;

use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt,
};
use cel::common::value::Val;

use mcp::json::reader::{JsonError, JsonErrorKind, JsonReader};

/// Deepest nesting of arguments in conditions.
const MAX_DEPTH: usize = 64;
/// Most values of arguments in conditions; conditions go over them one by one.
const MAX_VALUES: usize = 10_000;

/// The arguments of a call.
pub struct Arguments<'a>(CelMap<'a>);

/// Why conditions cannot use the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidArguments {
    #[error("{0}")]
    Json(JsonError),
    #[error("not an object")]
    NotAnObject,
    #[error("a key stands twice")]
    Duplicate,
    #[error("too many values")]
    TooMany,
    #[error("a number that is too large")]
    Number,
}

impl<'a> Arguments<'a> {
    pub fn read(text: &'a [u8]) -> Result<Self, InvalidArguments> {
        let mut reader = JsonReader::new(text, MAX_DEPTH).map_err(InvalidArguments::Json)?;
        let mut taker = Converter { text, left: MAX_VALUES, error: None };
        let read = match reader.peek() {
            Ok(b'{') => taker.object(&mut reader),
            Ok(_) => return Err(InvalidArguments::NotAnObject),
            Err(fault) => Err(fault),
        };
        let read = read.and_then(|map| reader.end().map(|()| map));
        read.map(Self).map_err(|fault| taker.error.unwrap_or(InvalidArguments::Json(fault)))
    }

    pub(super) fn value(&self) -> &CelMap<'a> {
        &self.0
    }
}

struct Converter<'a> {
    text: &'a [u8],
    left: usize,
    error: Option<InvalidArguments>,
}

impl<'a> Converter<'a> {
    fn value(&mut self, reader: &mut JsonReader<'a>) -> Result<Box<dyn Val + 'a>, JsonError> {
        if self.left == 0 {
            return self.fail(InvalidArguments::TooMany);
        }
        self.left -= 1;
        Ok(match reader.peek()? {
            b'{' => Box::new(self.object(reader)?),
            b'[' => {
                let mut list: Vec<Box<dyn Val + 'a>> = Vec::new();
                reader.array(|reader| {
                    list.push(self.value(reader)?);
                    Ok(())
                })?;
                Box::new(CelList::from(list))
            }
            b'"' => Box::new(CelString::from(reader.string()?.read(self.text))),
            first => {
                let raw = reader.value()?.of(self.text);
                match first {
                    b't' | b'f' => Box::new(CelBool::from(first == b't')),
                    b'n' => Box::new(CelNull),
                    _ => match number(std::str::from_utf8(raw).expect("the reader checked the text")) {
                        Some(number) => number,
                        None => return self.fail(InvalidArguments::Number),
                    },
                }
            }
        })
    }

    fn object(&mut self, reader: &mut JsonReader<'a>) -> Result<CelMap<'a>, JsonError> {
        let mut map: HashMap<CelMapKey<'a>, Box<dyn Val + 'a>> = HashMap::new();
        reader.object(|reader, key| {
            let value = self.value(reader)?;
            let key = CelMapKey::String(CelString::from(key.read(self.text)));
            match map.insert(key, value) {
                None => Ok(()),
                Some(_) => self.fail(InvalidArguments::Duplicate),
            }
        })?;
        Ok(CelMap::from(map))
    }

    fn fail<T>(&mut self, why: InvalidArguments) -> Result<T, JsonError> {
        self.error = Some(why);
        Err(JsonError { kind: JsonErrorKind::Unexpected, at: 0 })
    }
}

/// A whole number is an int if it fits, else a uint; everything else a double.
fn number<'a>(text: &str) -> Option<Box<dyn Val + 'a>> {
    if !text.contains(['.', 'e', 'E']) {
        if let Ok(n) = text.parse::<i64>() {
            return Some(Box::new(CelInt::from(n)));
        }
        if let Ok(n) = text.parse::<u64>() {
            return Some(Box::new(CelUInt::from(n)));
        }
    }
    let n: f64 = text.parse().ok()?;
    n.is_finite().then(|| Box::new(CelDouble::from(n)) as Box<dyn Val + 'a>)
}

pub(super) fn strings(of: &[String]) -> CelList<'_> {
    let list: Vec<Box<dyn Val + '_>> =
        of.iter().map(|s| Box::new(CelString::from(s.as_str())) as Box<dyn Val + '_>).collect();
    CelList::from(list)
}

/// Claims of a token; token verification has parsed them by the same rules.
pub(super) fn object(of: &serde_json::Map<String, serde_json::Value>) -> CelMap<'_> {
    let map: HashMap<CelMapKey<'_>, Box<dyn Val + '_>> =
        of.iter().map(|(key, value)| (CelMapKey::from(key.as_str()), json(value))).collect();
    CelMap::from(map)
}

fn json(of: &serde_json::Value) -> Box<dyn Val + '_> {
    use serde_json::Value as V;
    match of {
        V::Null => Box::new(CelNull),
        V::Bool(b) => Box::new(CelBool::from(*b)),
        V::String(s) => Box::new(CelString::from(s.as_str())),
        V::Array(list) => Box::new(CelList::from(list.iter().map(json).collect::<Vec<_>>())),
        V::Object(map) => Box::new(object(map)),
        V::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Box::new(CelInt::from(n)),
            (None, Some(n)) => Box::new(CelUInt::from(n)),
            _ => Box::new(CelDouble::from(n.as_f64().unwrap_or(f64::NAN))),
        },
    }
}
