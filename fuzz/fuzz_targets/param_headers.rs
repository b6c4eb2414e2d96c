//! Arguments that a head repeats (2026-07-28, "Custom Headers from Tool Parameters"): the generated headers
//! match what a strict reader finds in the arguments, and every accepted head does.
#![no_main]

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use filters::RequestHead;
use filters::param_headers::ParamHeaders;
use fuzz::cut;
use fuzz::json::members;
use http::{HeaderMap, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let (schema, rest) = cut(data, 0);
    let (arguments, said) = cut(rest, 0);
    let Ok(Some(param_headers)) = ParamHeaders::read(schema) else { return };
    let mut named = BTreeMap::new();
    let schema: Value = serde_json::from_slice(schema).expect("what was read is JSON");
    names(&schema, &mut Vec::new(), &mut named);
    // The gateway has read a body before: its arguments are an object without unpaired surrogates, and
    // begin with it.
    let arguments = arguments.trim_ascii();
    let sound = fuzz::json::is_json(arguments) && !fuzz::json::has_halves(arguments);
    let arguments = Some(arguments).filter(|text| sound && members(text).is_some());

    let mut head = HeaderMap::new();
    for (name, value) in param_headers.headers(arguments) {
        assert!(head.insert(name, value).is_none(), "a header stands twice");
    }
    let mut clear = true;
    for (name, path) in &named {
        let there = find(arguments, path);
        clear &= there != Found::Unclear;
        let header = head.get(name.as_str()).map(|value| value.to_str().expect("visible ASCII"));
        match (&there, header) {
            (Found::Value(value), Some(header)) => assert!(same(value, header), "{header:?} for {value}"),
            (Found::Value(value), None) => panic!("{value} is not repeated"),
            (_, header) => assert_eq!(header, None),
        }
    }
    assert!(head.keys().all(|name| named.contains_key(name.as_str())), "a header that no schema names");
    // Generated headers pass, unless readers differ on their source.
    assert_eq!(passes(&param_headers, &head, arguments), clear);

    // Another value for one of them.
    let (name, path) = named.first_key_value().expect("there is one");
    let Ok(value) = HeaderValue::from_bytes(said) else { return };
    let name: http::HeaderName = name.parse().expect("it was one before");
    head.insert(&name, value.clone());
    if passes(&param_headers, &head, arguments) {
        let said = value.to_str().expect("visible ASCII").trim_matches([' ', '\t']);
        match find(arguments, path) {
            Found::Value(value) => assert!(same(&value, said), "{said:?} for {value}"),
            _ => panic!("{said:?} repeats nothing"),
        }
    }
    head.append(&name, value);
    assert!(!passes(&param_headers, &head, arguments), "it stands twice");
});

fn passes(param_headers: &ParamHeaders, headers: &HeaderMap, arguments: Option<&[u8]>) -> bool {
    let http_method = Method::POST;
    let head = RequestHead {
        http_method: &http_method,
        path: "/mcp",
        headers,
        authority: None,
        peer: None,
        certificate: None,
        is_network: true,
    };
    param_headers.verify(&head, arguments).is_ok()
}

/// The headers that a schema names, in lower case, each with the path of its argument.
fn names(schema: &Value, path: &mut Vec<String>, all: &mut BTreeMap<String, Vec<String>>) {
    if let Some(name) = schema.get("x-mcp-header") {
        let name = format!("mcp-param-{}", name.as_str().expect("a name").to_ascii_lowercase());
        assert!(all.insert(name, path.clone()).is_none(), "two arguments in one header");
    }
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        path.push(name.clone());
        names(property, path, all);
        path.pop();
    }
}

/// What is found of an argument.
#[derive(PartialEq)]
enum Found<'a> {
    Nothing,
    /// A key on the path is duplicated.
    Unclear,
    /// A string, a number or a boolean as written.
    Value(&'a str),
}

fn find<'a>(arguments: Option<&'a [u8]>, path: &[String]) -> Found<'a> {
    let Some(mut inside) = arguments else { return Found::Nothing };
    for name in path {
        let Some(all) = members(inside) else { return Found::Nothing };
        let mut found = all.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.get());
        match (found.next(), found.next()) {
            (None, _) => return Found::Nothing,
            (Some(value), None) => inside = value.as_bytes(),
            _ => return Found::Unclear,
        }
    }
    match inside.first() {
        Some(b'{' | b'[' | b'n') | None => Found::Nothing,
        _ => Found::Value(std::str::from_utf8(inside).expect("JSON is UTF-8")),
    }
}

/// Whether a header's value equals a JSON value.
fn same(json: &str, header: &str) -> bool {
    let said = match header.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        None => header.to_owned(),
        Some(inner) => match STANDARD.decode(inner).map(String::from_utf8) {
            Ok(Ok(said)) => said,
            _ => return false,
        },
    };
    match json.as_bytes()[0] {
        b'"' => serde_json::from_str::<String>(json).expect("a string") == said,
        b't' | b'f' => json == said,
        _ => json == said || decimal(json).is_some_and(|number| Some(number) == decimal(&said)),
    }
}

/// A number as its sign, its digits and the power of ten behind them, without loss. Accepts JSON's numbers,
/// with leading zeros.
fn decimal(text: &str) -> Option<(bool, String, i64)> {
    let (minus, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (digits, power) = rest.split_once(['e', 'E']).unwrap_or((rest, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let sound = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !sound(whole) || !sound(fraction) {
        return None;
    }
    let power: i64 = power.parse().ok()?;
    let digits = format!("{whole}{fraction}");
    let (digits, power) = (digits.trim_start_matches('0'), power - fraction.len() as i64);
    let short = digits.trim_end_matches('0');
    if short.is_empty() {
        return Some((false, String::new(), 0));
    }
    Some((minus, short.to_owned(), power + (digits.len() - short.len()) as i64))
}
