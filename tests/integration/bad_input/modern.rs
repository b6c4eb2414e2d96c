//! The modern era: `_meta`, the headers that mirror the body, revisions, methods and names.

use super::{CALL, Case, Form, UNSUPPORTED, call_but, call_head};
use crate::raw::Head;

const PARAMS: i64 = -32602;
const UNKNOWN_METHOD: i64 = -32601;
const MISMATCH: i64 = -32020;
const VERSION: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","#;

pub fn cases() -> Vec<Case> {
    let mut cases = metas();
    for (what, head) in mismatches() {
        cases.push(Case::rpc(what, head.whole(CALL.as_bytes()), 400, MISMATCH));
    }
    cases.extend(mirrors());
    cases.extend(methods());
    cases.extend(names());
    cases.extend(cursors());
    cases
}

/// Missing members of `_meta`, and unsupported versions.
fn metas() -> Vec<Case> {
    let meta = r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    let capabilities = r#","io.modelcontextprotocol/clientCapabilities":{}"#;
    let params = format!(r#","params":{{"name":"up__tool","arguments":{{}}{meta}}}"#);
    let mut cases: Vec<Case> = [
        ("no params", call_but(&params, "")),
        ("no _meta", call_but(meta, "")),
        ("an empty _meta", call_but(meta, r#","_meta":{}"#)),
        ("no protocolVersion", call_but(VERSION, "")),
        ("no clientCapabilities", call_but(capabilities, "")),
        ("clientCapabilities of null", call_but(capabilities, &capabilities.replace("{}", "null"))),
        ("clientCapabilities in an array", call_but(capabilities, &capabilities.replace("{}", "[]"))),
        ("clientCapabilities as a word", call_but(capabilities, &capabilities.replace("{}", "\"all\""))),
        ("the pair beside _meta", call_but(r#""_meta":{"#, r#""x":{"#)),
    ]
    .into_iter()
    .map(|(what, body)| Case::rpc(what, call_head().whole(body.as_bytes()), 400, PARAMS))
    .collect();
    for version in
        ["2026-07-29", "2027-01-01", "2025-11-25", "2024-11-05", "1.0", "DRAFT-2026-v1", "2026-07-28 "]
    {
        let head = call_head().set("MCP-Protocol-Version", &format!("=?base64?{}?=", base64(version)));
        let body = call_but("2026-07-28", version);
        let case =
            Case::rpc(format!("the revision {version:?}"), head.whole(body.as_bytes()), 400, UNSUPPORTED);
        cases.push(case);
    }
    for version in ["2026-07-29", "2024-11-05", "1.0"] {
        let head = call_head().set("MCP-Protocol-Version", version);
        let body = call_but(meta, "");
        let what = format!("the revision {version} in the header alone");
        cases.push(Case::rpc(what, head.whole(body.as_bytes()), 400, UNSUPPORTED));
    }
    cases
}

/// Heads that contradict [`CALL`], or repeat a header.
fn mismatches() -> Vec<(String, Head)> {
    let mut all = Vec::new();
    for (name, wrong) in [
        (
            "MCP-Protocol-Version",
            &["2025-11-25", "2026-07-29", "2026-07-28, 2026-07-28", "", "2026-7-28"][..],
        ),
        (
            "Mcp-Method",
            &[
                "tools/list",
                "Tools/Call",
                "TOOLS/CALL",
                "tools/call, tools/call",
                "",
                "tools/call;x",
                "\"tools/call\"",
            ],
        ),
        (
            "Mcp-Name",
            &[
                "other__echo",
                "up__Tool",
                "tool",
                "",
                "up__tool, up__tool",
                "up__tool;x",
                "\"up__tool\"",
                "up%5F%5Ftool",
            ],
        ),
    ] {
        all.push((format!("no {name}"), call_head().without(name)));
        for value in wrong {
            all.push((format!("{name}: {value:?}"), call_head().set(name, value)));
        }
    }
    all.push(("the revision twice".into(), call_head().with("MCP-Protocol-Version", "2026-07-28")));
    all.push(("the method twice".into(), call_head().with("Mcp-Method", "tools/call")));
    all.push(("the name twice".into(), call_head().with("mcp-name", "up__tool")));
    all.push((
        "another name first".into(),
        call_head().set("Mcp-Name", "other__echo").with("MCP-NAME", "up__tool"),
    ));
    for (what, value) in [
        ("base64 of another name", format!("=?base64?{}?=", base64("other__echo"))),
        ("base64 of nothing", "=?base64??=".into()),
        ("base64 without its padding", format!("=?base64?{}?=", base64("up__tool").trim_end_matches('='))),
        ("base64 with white space", format!("=?base64? {} ?=", base64("up__tool"))),
        ("base64 with a bad letter", "=?base64?dXBfX3Rvb2*=?=".into()),
        ("base64 of what is no UTF-8", "=?base64?//8=?=".into()),
        ("base64 with loose bits", "=?base64?dXBfX3Rvb2x=?=".into()),
        ("base64 under another case", format!("=?BASE64?{}?=", base64("up__tool"))),
        ("base64 without its end", format!("=?base64?{}", base64("up__tool"))),
        ("base64 in base64", format!("=?base64?{}?=", base64(&format!("=?base64?{}?=", base64("up__tool"))))),
        ("another word for the encoding", format!("=?utf-8?B?{}?=", base64("up__tool"))),
    ] {
        all.push((what.into(), call_head().set("Mcp-Name", &value)));
    }
    all
}

/// Names that only base64 can carry, and names in other methods.
fn mirrors() -> Vec<Case> {
    let ask = |method: &str, member: &str, name: &str, header: Option<&str>| {
        let body = call_but("tools/call", method)
            .replace(r#""name":"up__tool""#, &format!(r#""{member}":{name:?}"#));
        Head::modern("/mcp", method, header).whole(body.as_bytes())
    };
    let umlaut = format!("=?base64?{}?=", base64("küche"));
    let sentinel = "=?base64?bm9wZQ==?=";
    let wrapped = format!("=?base64?{}?=", base64(sentinel));
    vec![
        Case::rpc("no name of a prompt", ask("prompts/get", "name", "p", None), 400, MISMATCH),
        Case::rpc("another name of a prompt", ask("prompts/get", "name", "p", Some("q")), 400, MISMATCH),
        Case::rpc("no name of a resource", ask("resources/read", "uri", "x://y", None), 400, MISMATCH),
        Case::rpc(
            "another name of a resource",
            ask("resources/read", "uri", "x://y", Some("x://Y")),
            400,
            MISMATCH,
        ),
        // A client of the extension that is in use omits it; the endpoint has no tasks.
        Case::rpc("no name of a task", ask("tasks/get", "taskId", "t", None), 404, UNKNOWN_METHOD),
        Case::rpc(
            "raw letters beyond ASCII",
            ask("tools/call", "name", "küche", Some("küche")),
            400,
            MISMATCH,
        ),
        Case::rpc("base64 of such letters", ask("tools/call", "name", "küche", Some(&umlaut)), 400, PARAMS),
        Case::rpc(
            "a name that looks like base64, raw",
            ask("tools/call", "name", sentinel, Some(sentinel)),
            400,
            MISMATCH,
        ),
        Case::rpc(
            "a name that looks like base64, wrapped",
            ask("tools/call", "name", sentinel, Some(&wrapped)),
            400,
            PARAMS,
        ),
        Case::rpc(
            "base64 where it need not be",
            ask("tools/call", "name", "nope", Some(sentinel)),
            400,
            PARAMS,
        ),
        Case::rpc(
            "white space around a name",
            ask("tools/call", "name", "nope", Some(" \tnope \t")),
            400,
            PARAMS,
        ),
        Case::rpc("an unknown prompt", ask("prompts/get", "name", "up__p", Some("up__p")), 400, PARAMS),
        Case::rpc("an unknown resource", ask("resources/read", "uri", "x://y", Some("x://y")), 400, PARAMS),
        Case::rpc("an empty resource", ask("resources/read", "uri", "", Some("")), 400, PARAMS),
        Case::rpc("a prompt without a name", ask("prompts/get", "x", "p", Some("p")), 400, PARAMS),
        Case::rpc("a resource without a URI", ask("resources/read", "x", "p", Some("p")), 400, PARAMS),
    ]
}

/// Methods that the era does not have, or that do not exist.
fn methods() -> Vec<Case> {
    [
        "initialize",
        "ping",
        "logging/setLevel",
        "resources/subscribe",
        "resources/unsubscribe",
        "tasks/list",
        "tasks/result",
        "sampling/createMessage",
        "elicitation/create",
        "roots/list",
        "notifications/initialized",
        "Tools/call",
        "TOOLS/LIST",
        "tools",
        "tools/",
        "tools/call/",
        "/tools/call",
        "tools//call",
        "server/Discover",
        "rpc.discover",
        "nope",
        "",
    ]
    .iter()
    .map(|method| {
        let body = call_but("tools/call", method);
        let head = Head::modern("/mcp", method, None);
        Case::rpc(format!("the method {method:?}"), head.whole(body.as_bytes()), 404, UNKNOWN_METHOD)
    })
    .collect()
}

/// Unknown tools.
fn names() -> Vec<Case> {
    let long = "n".repeat(5000);
    let names = [
        "nope",
        "tool",
        "up__",
        "__tool",
        "up_tool",
        "UP__tool",
        "up__TOOL",
        "up__tool ",
        "up__tool\0",
        "up__tool\n",
        "up/tool",
        "up__up__tool",
        "../up__tool",
        "*",
        "",
        &long,
    ];
    let mut cases: Vec<Case> = names
        .iter()
        .map(|name| {
            let body = call_but("\"up__tool\"", &serde_json::Value::from(*name).to_string());
            let head = call_head().set("Mcp-Name", &format!("=?base64?{}?=", base64(name)));
            let what: String = format!("the tool {name:?}").chars().take(40).collect();
            Case::rpc(what, head.whole(body.as_bytes()), 400, PARAMS)
        })
        .collect();
    let nameless = call_but(r#""name":"up__tool","#, "");
    cases.push(Case::rpc("no tool", call_head().whole(nameless.as_bytes()), 400, PARAMS));
    cases
}

fn cursors() -> Vec<Case> {
    let mut cases = Vec::new();
    for method in ["tools/list", "prompts/list", "resources/list", "resources/templates/list"] {
        for cursor in
            ["", "x", "p", "p0", "p1", "p-1", "p+1", "P1", "p1x", "p99999999999999999999999", "\u{0}"]
        {
            let cursor = serde_json::Value::from(cursor).to_string();
            let body =
                call_but("tools/call", method).replace(r#""arguments":{}"#, &format!(r#""cursor":{cursor}"#));
            let request = Head::modern("/mcp", method, None).whole(body.as_bytes());
            cases.push(Case::rpc(format!("the cursor {cursor} of {method}"), request, 400, PARAMS));
        }
    }
    let get = Head::of("GET /mcp HTTP/1.1").with("MCP-Protocol-Version", "2026-07-28");
    let delete = get.clone().line("DELETE /mcp HTTP/1.1");
    for head in [get, delete] {
        let case = Case::new("GET or DELETE", head.bytes(), 405, Form::Rpc(405, None));
        cases.push(case.saying("allow", "POST, GET, DELETE"));
    }
    cases
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
