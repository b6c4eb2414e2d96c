//! JSON objects that are no valid JSON-RPC message, or that another reader could take for another message.

use serde_json::json;

use super::{Case, Form, call_but, call_head};
use crate::raw::Head;

const INVALID: i64 = -32600;
const PARAMS: i64 = -32602;
const VERSION: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#;
const CAPABILITIES: &str = r#""io.modelcontextprotocol/clientCapabilities":{}"#;
const LEAF: &str = r#""arguments":{}"#;

pub fn cases() -> Vec<Case> {
    let call =
        |what: &str, body: String, code| Case::rpc(what, call_head().whole(body.as_bytes()), 400, code);
    let mut cases = Vec::new();
    for (part, again) in twice() {
        let what = format!("{again} beside {part}");
        cases.push(call(&what, call_but(part, &format!("{part},{again}")), INVALID));
        cases.push(call(&format!("{what}, first"), call_but(part, &format!("{again},{part}")), INVALID));
    }
    for again in [r#""id":8"#, r#""i\u0064":8"#, r#""id":7"#] {
        let body = call_but(r#""id":7"#, &format!(r#""id":7,{again}"#));
        cases.push(Case::nameless(again, call_head().whole(body.as_bytes()), 400, INVALID));
    }
    for key in [r#""Id""#, r#""ID""#, r#""\u0049d""#] {
        let body = call_but(r#""id""#, key);
        cases.push(Case::nameless(key, call_head().whole(body.as_bytes()), 400, INVALID));
    }
    for (part, by, code) in shapes() {
        cases.push(call(&format!("{by:?} for {part}"), call_but(part, by), code));
    }
    for id in ["null", "1.5", "7.0", "7e0", "-1E2", "{}", "[]", "[7]", "true"] {
        cases.push(with_id(id.to_owned()));
    }
    cases.push(with_id(format!("\"{}\"", "x".repeat(1023))));
    cases.push(with_id("9".repeat(1025)));
    let deep =
        |open: &str, close: &str, count: usize| format!("{}1{}", open.repeat(count), close.repeat(count));
    let deeps = [deep("[", "]", 100), deep(r#"{"x":"#, "}", 100), deep("[", "]", 20_000), "[".repeat(50_000)];
    for (what, deep) in ["arrays", "objects", "very many arrays", "arrays without an end"].iter().zip(&deeps)
    {
        for (place, part, by) in [
            ("arguments", LEAF, format!(r#""arguments":{{"x":{deep}}}"#)),
            ("params", LEAF, format!(r#""x":{deep}"#)),
            ("_meta", VERSION, format!(r#"{VERSION},"x":{deep}"#)),
            ("a capability", CAPABILITIES, CAPABILITIES.replace("{}", &format!(r#"{{"x":{deep}}}"#))),
            ("the message", r#""id":7"#, format!(r#""id":7,"x":{deep}"#)),
            ("the method", r#""tools/call""#, deep.clone()),
        ] {
            let request = call_head().whole(call_but(part, &by).as_bytes());
            cases.push(Case::nameless(format!("{what} too deep in {place}"), request, 400, INVALID));
        }
        let request = call_head().whole(call_but("7", deep).as_bytes());
        cases.push(Case::nameless(format!("{what} too deep as id"), request, 400, INVALID));
    }
    let many: Vec<String> = (0..200).map(|n| format!(r#""k{n}":1"#)).collect();
    let many = many.join(",");
    for (place, part) in [("the message", r#""id":7"#), ("params", LEAF), ("_meta", VERSION)] {
        cases.push(call(
            &format!("too many members in {place}"),
            call_but(part, &format!("{part},{many}")),
            INVALID,
        ));
    }
    cases.extend(references());
    cases.extend(listens());
    cases
}

/// A member of [`super::CALL`], and one that must not be beside it.
fn twice() -> Vec<(&'static str, &'static str)> {
    let mut all = vec![
        (r#""method":"tools/call""#, r#""method":"tools/list""#),
        (r#""method":"tools/call""#, r#""m\u0065thod":"tools/list""#),
        (r#""method":"tools/call""#, r#""Method":"tools/list""#),
        (r#""method":"tools/call""#, r#""\u004dETHOD":"tools/list""#),
        (r#""jsonrpc":"2.0""#, r#""jsonrpc":"2.0""#),
        (r#""jsonrpc":"2.0""#, r#""json\u0072pc":"2.0""#),
        (r#""jsonrpc":"2.0""#, r#""JSONRPC":"2.0""#),
        (r#""jsonrpc":"2.0""#, r#""jſonrpc":"2.0""#),
        (r#""id":7"#, r#""Id":8"#),
        (r#""id":7"#, r#""x":1,"x":1"#),
        (r#""id":7"#, r#""x":1,"\u0078":1"#),
        (r#""id":7"#, r#""params":{}"#),
        (r#""id":7"#, r#""p\u0061rams":{}"#),
        (r#""id":7"#, r#""PARAMS":{}"#),
        (r#""id":7"#, r#""paramſ":{}"#),
        (r#""id":7"#, r#""param\u017f":{}"#),
        (r#""id":7"#, r#""Result":{}"#),
        (r#""id":7"#, r#""ERROR":{}"#),
        (r#""id":7"#, r#""result":{}"#),
        (r#""id":7"#, r#""error":{"code":1,"message":"x"}"#),
        (VERSION, r#""io.modelcontextprotocol/protocolVersion":"2025-11-25""#),
        (VERSION, r#""io.modelcontextprotocol\/protocolVersion":"2025-11-25""#),
        (VERSION, r#""io.modelcontextprotocol/ProtocolVersion":"2025-11-25""#),
        (CAPABILITIES, r#""io.modelcontextprotocol/clientCapabilities":{"roots":{}}"#),
        (CAPABILITIES, r#""io.modelcontextprotocol/client\u0043apabilities":{"roots":{}}"#),
        (CAPABILITIES, r#""io.modelcontextprotocol/clientcapabilitieſ":{"roots":{}}"#),
        (CAPABILITIES, r#""progressToken":1,"progressToken":2"#),
        (CAPABILITIES, r#""progressToken":1,"progreſſToken":2"#),
        (CAPABILITIES, "\"progressTo\u{212A}en\":2"),
        (CAPABILITIES, r#""x/y":1,"x\/y":1"#),
    ];
    let params = [
        r#""name":"other__echo""#,
        r#""n\u0061me":"other__echo""#,
        r#""Name":"other__echo""#,
        r#""arguments":{"x":1}"#,
        r#""\u0061rguments":{"x":1}"#,
        r#""Arguments":{"x":1}"#,
        r#""argumentſ":{"x":1}"#,
        r#""_meta":{}"#,
        r#""\u005fmeta":{}"#,
        r#""_Meta":{}"#,
        r#""Uri":"x""#,
        r#""uri":"x","uri":"y""#,
        r#""cursor":"x","\u0063ursor":"y""#,
        r#""Curſor":"x""#,
        "\"tas\u{212A}Id\":\"x\"",
        r#""requestState":"a","requestState":"b""#,
        r#""RequestState":"a""#,
        r#""x":1,"x":2"#,
    ];
    all.extend(params.map(|again| (LEAF, again)));
    all
}

/// A part of the call, its replacement, and the code of the rejection.
fn shapes() -> Vec<(&'static str, &'static str, i64)> {
    let mut all = Vec::new();
    let version = r#""jsonrpc":"2.0","#;
    for by in [
        "",
        r#""jsonrpc":2.0,"#,
        r#""jsonrpc":2,"#,
        r#""jsonrpc":null,"#,
        r#""jsonrpc":"1.0","#,
        r#""jsonrpc":"2.00","#,
        r#""jsonrpc":" 2.0","#,
        r#""jsonrpc":"","#,
        r#""jsonrpc":["2.0"],"#,
    ] {
        all.push((version, by, INVALID));
    }
    all.push((r#""method":"tools/call","#, "", INVALID));
    all.extend(["null", "1", "true", "{}", "[\"tools/call\"]"].map(|by| (r#""tools/call""#, by, INVALID)));
    for by in ["null", "1", "\"x\"", "true", "[]", "[{}]"] {
        all.push((PARAMS_OF_CALL, by, INVALID));
    }
    all.extend(["null", "1", "true", "{}", "[\"up__tool\"]"].map(|by| (r#""up__tool""#, by, PARAMS)));
    let arguments = [r#""arguments":null"#, r#""arguments":[]"#, r#""arguments":"{}""#, r#""arguments":1"#];
    all.extend(arguments.map(|by| (LEAF, by, PARAMS)));
    for by in
        [r#""cursor":1"#, r#""cursor":null"#, r#""uri":{}"#, r#""uri":7"#, r#""taskId":1"#, r#""level":1"#]
    {
        all.push((LEAF, by, PARAMS));
    }
    for by in ["null", "[]", "\"x\"", "1"] {
        all.push((META_OF_CALL, by, PARAMS));
    }
    all.extend(["null", "20260728", "{}", "[\"2026-07-28\"]"].map(|by| (r#""2026-07-28""#, by, PARAMS)));
    all
}

const META_OF_CALL: &str = r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
const PARAMS_OF_CALL: &str = r#"{"name":"up__tool","arguments":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}"#;

fn with_id(id: String) -> Case {
    let what: String = format!("the id {id}").chars().take(40).collect();
    Case::nameless(what, call_head().whole(call_but("7", &id).as_bytes()), 400, INVALID)
}

/// `params.ref` of `completion/complete`.
fn references() -> Vec<Case> {
    let named = r#""type":"ref/prompt","name":"up__p""#;
    [
        ("[]", PARAMS),
        ("null", PARAMS),
        ("\"ref/prompt\"", PARAMS),
        ("{}", PARAMS),
        (r#"{"type":"ref/prompt"}"#, PARAMS),
        (r#"{"type":"ref/prompt","name":1}"#, PARAMS),
        (r#"{"type":"ref/resource","uri":null}"#, PARAMS),
        (r#"{"type":"ref/prompt","name":"nobody"}"#, PARAMS),
        (r#"{"type":"ref/resource","uri":"nobody://"}"#, PARAMS),
        (&format!(r#"{{{named},"uri":"x://y"}}"#), PARAMS),
        (&format!(r#"{{{named},"name":"other"}}"#), INVALID),
        (&format!(r#"{{{named},"n\u0061me":"other"}}"#), INVALID),
        (&format!(r#"{{{named},"NAME":"other"}}"#), INVALID),
        (&format!(r#"{{{named},"Uri":"other"}}"#), INVALID),
        (&format!(r#"{{{named},"type":"ref/resource"}}"#), INVALID),
        (&format!(r#"{{{named},"x":1,"x":1}}"#), INVALID),
    ]
    .into_iter()
    .map(|(reference, code)| {
        let body = call_but("tools/call", "completion/complete");
        let by = format!(r#""argument":{{"name":"a","value":"b"}},"ref":{reference}"#);
        let body = body.replace(r#""name":"up__tool","arguments":{}"#, &by);
        let head = Head::modern("/mcp", "completion/complete", None);
        Case::rpc(format!("ref {reference}"), head.whole(body.as_bytes()), 400, code)
    })
    .collect()
}

/// `params.notifications` of `subscriptions/listen`, and messages that request nothing.
fn listens() -> Vec<Case> {
    let head = Head::modern("/mcp", "subscriptions/listen", None);
    let listen = |by: &str| {
        call_but("tools/call", "subscriptions/listen").replace(r#""name":"up__tool","arguments":{}"#, by)
    };
    let mut cases: Vec<Case> =
        [r#""x":1"#, r#""notifications":null"#, r#""notifications":[]"#, r#""notifications":1"#]
            .iter()
            .map(|by| {
                Case::rpc(format!("to listen for {by}"), head.whole(listen(by).as_bytes()), 400, PARAMS)
            })
            .collect();
    // A tool call without an id expects no response: it is accepted and dropped.
    let note = call_head().whole(call_but(r#""id":7,"#, "").as_bytes());
    cases.push(Case::new("a call without an id", note, 202, Form::Bare));
    for (what, body) in [
        ("a result that nobody waits for", r#"{"jsonrpc":"2.0","id":7,"result":{}}"#),
        ("an error that nobody waits for", r#"{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"x"}}"#),
        ("a result that stands twice", r#"{"jsonrpc":"2.0","id":7,"result":{},"result":{}}"#),
        ("a result of another version", r#"{"jsonrpc":"1.0","id":7,"result":{}}"#),
        ("an error about nothing", r#"{"jsonrpc":"2.0","error":{"code":1,"message":"x"}}"#),
    ] {
        // Its id belongs to a request of the server: a rejection under it would answer a request of the
        // client.
        cases.push(Case::nameless(what, call_head().whole(body.as_bytes()), 400, INVALID));
    }
    let empty = call_head().whole(br#"{"jsonrpc":"2.0","id":"x"}"#);
    cases.push(Case::new("neither method nor result", empty, 400, Form::Rpc(INVALID, Some(json!("x")))));
    cases
}
