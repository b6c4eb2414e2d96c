//! The error of a request, by its code.

use crate::json::object::Object;
use crate::rejection::code;

/// The error object of a legacy server for a modern client: the code of a resource that is not there is
/// another since 2026-07-28 ("Error codes").
pub fn to_modern(error: &[u8]) -> Option<Vec<u8>> {
    with_code(error, |found| match found {
        code::RESOURCE_NOT_FOUND => code::INVALID_PARAMS,
        URL_ELICITATION_REQUIRED => code::INTERNAL,
        other => other,
    })
}

/// The error object of a modern server for a legacy client, which knows the codes of its own era only.
pub fn to_legacy(error: &[u8]) -> Option<Vec<u8>> {
    with_code(error, |found| match found {
        code::HEADER_MISMATCH | code::MISSING_CAPABILITY | code::UNSUPPORTED_VERSION => code::INTERNAL,
        other => other,
    })
}

/// The code of 2025-11-25 for a request that needs a URL elicitation first.
pub const URL_ELICITATION_REQUIRED: i64 = -32042;

/// The code of an error object, if it is an integer.
pub fn code_of(error: &[u8]) -> Option<i64> {
    std::str::from_utf8(Object::read(error)?.get("code")?).ok()?.parse().ok()
}

fn with_code(error: &[u8], other: impl Fn(i64) -> i64) -> Option<Vec<u8>> {
    let object = Object::read(error)?;
    let found = std::str::from_utf8(object.get("code")?).ok()?.parse().ok();
    match found.map(|found| (found, other(found))) {
        Some((was, is)) if was != is => Some(object.with(&[("code", is.to_string().as_bytes())])),
        _ => Some(error.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_one_era_do_not_reach_the_other() {
        let text = |error: Option<Vec<u8>>| String::from_utf8(error.expect("an object")).expect("UTF-8");
        assert_eq!(text(to_modern(br#"{"code":-32002,"message":"m"}"#)), r#"{"message":"m","code":-32602}"#);
        assert_eq!(text(to_modern(br#"{"code":-32042,"message":"m"}"#)), r#"{"message":"m","code":-32603}"#);
        assert_eq!(text(to_modern(br#"{"code": -32601}"#)), r#"{"code": -32601}"#);
        for code in ["-32020", "-32021", "-32022"] {
            let error = format!(r#"{{"code":{code},"data":{{}}}}"#);
            assert_eq!(text(to_legacy(error.as_bytes())), r#"{"data":{},"code":-32603}"#);
        }
        assert_eq!(text(to_legacy(br#"{"code":1.5}"#)), r#"{"code":1.5}"#);
        assert_eq!(to_legacy(b"{}"), None);
    }
}
