//! Bodies that are no JSON, or JSON that is no object.

use super::{CALL, Case, call_but, call_head};

const PARSE: i64 = -32700;
const INVALID: i64 = -32600;

pub fn cases() -> Vec<Case> {
    let case = |what: &str, body: &[u8], code| Case::nameless(what, call_head().whole(body), 400, code);
    let mut cases: Vec<Case> =
        texts().iter().map(|(what, body)| case(what, body.as_bytes(), PARSE)).collect();
    cases.extend(bytes().iter().map(|(what, body)| case(what, body, PARSE)));
    cases.extend(inside().iter().map(|(what, raw)| {
        let body = call_with_bytes(raw);
        case(what, &body, PARSE)
    }));
    let cuts = [1, 2, 9, 20, 30, 46, 60, 75, 100, CALL.len() - 1];
    cases.extend(cuts.iter().map(|at| case(&format!("cut after {at}"), &CALL.as_bytes()[..*at], PARSE)));
    let others = [
        "1", "-0", "1.5", "\"x\"", "\"\"", "true", "false", "null", " null ", "[]", "[1]", "[[]]", "[{}]",
        "[null]",
    ];
    cases.extend(others.iter().map(|body| case(&format!("the body {body}"), body.as_bytes(), INVALID)));
    for count in [1, 2, 50] {
        let batch = format!("[{}]", vec![CALL; count].join(","));
        cases.push(case(&format!("a batch of {count}"), batch.as_bytes(), INVALID));
    }
    cases
}

/// Whole bodies.
fn texts() -> Vec<(&'static str, String)> {
    vec![
        ("no body", String::new()),
        ("white space", " \r\n\t ".into()),
        ("words", "tools/call".into()),
        ("a form", "method=tools%2Fcall&id=7".into()),
        ("half a word", "nul".into()),
        ("an open object", "{".into()),
        ("a closed object", "}".into()),
        ("a key alone", r#"{"id"}"#.into()),
        ("a key without a value", r#"{"id":}"#.into()),
        ("a comma first", r#"{,"id":7}"#.into()),
        ("two values", r#"{"id":7 8}"#.into()),
        ("an array closed by a brace", r#"{"id":[7}}"#.into()),
        ("trailing comma", call_but("}}}}", "}}},}")),
        ("trailing comma in params", call_but("}}}}", "}},}}")),
        ("single quotes", CALL.replace('"', "'")),
        ("bare keys", CALL.replace("\"id\"", "id")),
        ("a comment", call_but("\"id\":7", "/* */\"id\":7")),
        ("a line comment after", format!("{CALL}//")),
        ("a second object after", format!("{CALL}{{}}")),
        ("a second call after", format!("{CALL}\n{CALL}")),
        ("a comma after", format!("{CALL},")),
        ("a word after", format!("{CALL}x")),
        ("a NUL after", format!("{CALL}\0")),
        ("a NUL before", format!("\0{CALL}")),
        ("a form feed before", format!("\x0c{CALL}")),
        ("a no-break space before", format!("\u{a0}{CALL}")),
        ("a UTF-8 BOM before", format!("\u{feff}{CALL}")),
        ("a prefix against hijacking", format!(")]}}',\n{CALL}")),
        ("an event stream", format!("data: {CALL}\n\n")),
        ("very many open arrays", "[".repeat(60_000)),
    ]
}

fn bytes() -> Vec<(&'static str, Vec<u8>)> {
    let units: Vec<u16> = CALL.encode_utf16().collect();
    let marked = |bytes: Vec<u8>| [vec![0xFF, 0xFE], bytes].concat();
    vec![
        ("UTF-16, little end first", units.iter().flat_map(|unit| unit.to_le_bytes()).collect()),
        ("UTF-16, big end first", units.iter().flat_map(|unit| unit.to_be_bytes()).collect()),
        ("UTF-16 with a BOM", marked(units.iter().flat_map(|unit| unit.to_le_bytes()).collect())),
        ("gzip", vec![0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3]),
        ("MessagePack", vec![0x82, 0xA2, b'i', b'd', 7]),
        ("0xFF after the end", [CALL.as_bytes(), &[0xFF]].concat()),
    ]
}

/// Invalid values, in the place of the empty object of `arguments`.
fn inside() -> Vec<(&'static str, &'static [u8])> {
    vec![
        ("NaN", b"{\"x\":NaN}"),
        ("Infinity", b"{\"x\":-Infinity}"),
        ("True", b"{\"x\":True}"),
        ("undefined", b"{\"x\":undefined}"),
        ("a hexadecimal number", b"{\"x\":0x10}"),
        ("a leading zero", b"{\"x\":01}"),
        ("a plus sign", b"{\"x\":+1}"),
        ("no digit after the point", b"{\"x\":1.}"),
        ("no digit before the point", b"{\"x\":.5}"),
        ("an exponent without digits", b"{\"x\":1e}"),
        ("two minus signs", b"{\"x\":--1}"),
        ("an underscore in a number", b"{\"x\":1_000}"),
        ("an unknown escape", b"{\"x\":\"\\x41\"}"),
        ("a short escape", b"{\"x\":\"\\u12\"}"),
        ("an escape with a sign", b"{\"x\":\"\\u+123\"}"),
        ("a lone high surrogate", b"{\"x\":\"\\ud800\"}"),
        ("a lone low surrogate", b"{\"x\":\"\\udc00\"}"),
        ("surrogates the wrong way round", b"{\"x\":\"\\udc00\\ud800\"}"),
        ("a high surrogate before a letter", b"{\"x\":\"\\ud83dA\"}"),
        ("a high surrogate before another", b"{\"x\":\"\\ud83d\\ud83d\\ude00\"}"),
        ("a lone surrogate in a key", b"{\"\\ud800\":1}"),
        ("a raw line end in a string", b"{\"x\":\"a\nb\"}"),
        ("a raw tab in a string", b"{\"x\":\"a\tb\"}"),
        ("a raw NUL in a string", b"{\"x\":\"a\0b\"}"),
        ("a string without an end", b"{\"x\":\"}"),
        ("0xFF in a string", b"{\"x\":\"\xFF\"}"),
        ("half a letter", b"{\"x\":\"\xE2\x82\"}"),
        ("an overlong slash", b"{\"x\":\"\xC0\xAF\"}"),
        ("an overlong NUL", b"{\"x\":\"\xE0\x80\x80\"}"),
        ("a surrogate in UTF-8", b"{\"x\":\"\xED\xA0\x80\"}"),
        ("a letter beyond Unicode", b"{\"x\":\"\xF4\x90\x80\x80\"}"),
        ("Latin-1", b"{\"x\":\"caf\xE9\"}"),
        ("bad UTF-8 in a key", b"{\"\xFE\":1}"),
    ]
}

fn call_with_bytes(value: &[u8]) -> Vec<u8> {
    let (before, after) = CALL.split_once("{},\"_meta\"").expect("arguments are empty");
    [before.as_bytes(), value, b",\"_meta\"", after.as_bytes()].concat()
}
