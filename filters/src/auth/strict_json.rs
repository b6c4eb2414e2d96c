//! Unambiguous JSON objects of tokens and key sets. A duplicate key at any level is rejected: RFC 7519 §4
//! allows "reject" or "last one wins", and two readers that differ let claims be smuggled. Lone surrogates,
//! trailing text and deep nesting are rejected too.

use serde_json::{Map, Value};

use mcp::json::reader::{JsonError, JsonReader, Text};

/// Real tokens nest three or four levels.
const DEPTH: usize = 16;

/// Why a text is not an unambiguous object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrictJsonError {
    #[error("not JSON: {0}")]
    Json(#[from] JsonError),
    #[error("a key stands twice")]
    Duplicate,
    #[error("a number is out of range")]
    Number,
    #[error("not a JSON object")]
    NotObject,
}

/// Reads one JSON object.
pub fn object(text: &[u8]) -> Result<Map<String, Value>, StrictJsonError> {
    let mut reader = JsonReader::new(text, DEPTH)?;
    let mut flaw = None;
    let value = value(&mut reader, text, &mut flaw)?;
    reader.end()?;
    match (flaw, value) {
        (Some(flaw), _) => Err(flaw),
        (None, Value::Object(map)) => Ok(map),
        (None, _) => Err(StrictJsonError::NotObject),
    }
}

/// `flaw` holds errors that the reader cannot express; the first one counts.
fn value(
    reader: &mut JsonReader<'_>,
    text: &[u8],
    flaw: &mut Option<StrictJsonError>,
) -> Result<Value, JsonError> {
    Ok(match reader.peek()? {
        b'{' => {
            let mut map = Map::new();
            reader.object(|reader, key: Text| {
                let value = value(reader, text, flaw)?;
                if map.insert(key.read(text).into_owned(), value).is_some() {
                    flaw.get_or_insert(StrictJsonError::Duplicate);
                }
                Ok(())
            })?;
            Value::Object(map)
        }
        b'[' => {
            let mut list = Vec::new();
            reader.array(|reader| {
                list.push(value(reader, text, flaw)?);
                Ok(())
            })?;
            Value::Array(list)
        }
        b'"' => Value::String(reader.string()?.read(text).into_owned()),
        _ => {
            let span = reader.value()?;
            match span.of(text) {
                b"true" => Value::Bool(true),
                b"false" => Value::Bool(false),
                b"null" => Value::Null,
                number => match serde_json::from_slice(number) {
                    Ok(number) => Value::Number(number),
                    // 1e999 is grammar, but no number.
                    Err(_) => {
                        flaw.get_or_insert(StrictJsonError::Number);
                        Value::Null
                    }
                },
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_another_reader_reads() {
        let text = br#"{"a":[1,-2.5,1e3,true,null,"\u00e9\n"],"b":{"c":{}}, "d" : 18446744073709551615}"#;
        let other: Value = serde_json::from_slice(text).expect("valid JSON");
        assert_eq!(Value::Object(object(text).expect("valid JSON")), other);
    }

    #[test]
    fn a_key_that_stands_twice_is_refused_at_any_level_and_in_any_spelling() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"{"x":[{"a":1,"b":0,"a":2}]}"#,
        ] {
            assert_eq!(object(text.as_bytes()), Err(StrictJsonError::Duplicate), "{text}");
        }
    }

    #[test]
    fn what_is_no_object_or_goes_on_after_it_is_refused() {
        for text in [
            "",
            "[]",
            "null",
            "\"{}\"",
            "{}{}",
            "{} x",
            "{\"a\":1e999}",
            "{\"a\":NaN}",
            "{'a':1}",
            "{\"a\":\"\\ud800\"}",
        ] {
            assert!(object(text.as_bytes()).is_err(), "{text}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(40), "]".repeat(40));
        assert!(object(deep.as_bytes()).is_err());
    }
}
