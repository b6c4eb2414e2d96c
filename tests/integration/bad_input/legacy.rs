//! The legacy era: sessions, and what a session does not have.

use super::{Case, Form};
use crate::raw::Head;

const INVALID: i64 = -32600;
const MISMATCH: i64 = -32020;
const PARAMS: i64 = -32602;
const UNKNOWN_METHOD: i64 = -32601;

/// `all` is a session of `/mcp`, `single` one of `/servers/up/mcp`.
pub fn cases(all: &str, single: &str) -> Vec<Case> {
    let mut cases = without_session(all, single);
    let head = Head::post("/mcp").with("Mcp-Session-Id", all).with("MCP-Protocol-Version", "2025-11-25");
    for method in
        ["server/discover", "subscriptions/listen", "nope", "Tools/call", "initialized", "", "tasks/get"]
    {
        let request = head.whole(request(method, "{}").as_bytes());
        cases.push(Case::rpc(format!("the method {method:?}"), request, 200, UNKNOWN_METHOD));
    }
    for (method, params) in [
        ("tools/call", r#"{"name":"nope","arguments":{}}"#),
        ("tools/call", r#"{"name":"tool"}"#),
        ("tools/call", "{}"),
        ("prompts/get", r#"{"name":"nope"}"#),
        ("prompts/get", "{}"),
        ("resources/read", r#"{"uri":"nope://x"}"#),
        ("resources/read", "{}"),
        ("resources/subscribe", r#"{"uri":"nope://x"}"#),
        ("resources/unsubscribe", "{}"),
        ("completion/complete", "{}"),
        ("completion/complete", r#"{"ref":{"type":"ref/prompt","name":"nope"}}"#),
        ("tools/list", r#"{"cursor":"p1"}"#),
        ("tools/list", r#"{"cursor":""}"#),
        ("prompts/list", r#"{"cursor":"x"}"#),
        ("initialize", "{}"),
        ("initialize", r#"{"capabilities":{},"clientInfo":{}}"#),
    ] {
        let request = head.whole(request(method, params).as_bytes());
        // These versions have a code of their own for an unknown resource.
        let code = if params.contains("nope://") { -32002 } else { PARAMS };
        cases.push(Case::rpc(format!("{method} {params}"), request, 200, code));
    }
    for body in [
        r#"{"jsonrpc":"2.0","id":7,"result":{}}"#,
        r#"{"jsonrpc":"2.0","id":"tg-1-7","error":{"code":1,"message":"x"}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/nobody/knows"}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":99}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#,
        r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"up__tool"}}"#,
    ] {
        cases.push(Case::new(body, head.whole(body.as_bytes()), 202, Form::Bare));
    }
    cases
}

/// Messages and HTTP methods whose session does not exist, or is another caller's.
fn without_session(all: &str, single: &str) -> Vec<Case> {
    let call = request("tools/call", r#"{"name":"up__tool","arguments":{}}"#);
    let post = |path: &str, session: &[&str]| {
        let head = Head::post(path).with("MCP-Protocol-Version", "2025-11-25");
        session.iter().fold(head, |head, id| head.with("Mcp-Session-Id", id)).whole(call.as_bytes())
    };
    let mut cases = vec![
        Case::rpc("a call without a session", post("/mcp", &[]), 400, INVALID),
        Case::rpc("a call without a session on one server", post("/servers/up/mcp", &[]), 400, INVALID),
        Case::rpc("two sessions", post("/mcp", &[all, single]), 400, INVALID),
        Case::rpc("a session twice", post("/mcp", &[all, all]), 400, INVALID),
        Case::rpc("two sessions in one line", post("/mcp", &[&format!("{all}, {single}")]), 404, 404),
        Case::rpc("an unknown session", post("/mcp", &["nope"]), 404, 404),
        Case::rpc("an empty session", post("/mcp", &[""]), 404, 404),
        Case::rpc("a session in other letters", post("/mcp", &[&swapped(all)]), 404, 404),
        Case::rpc("the beginning of a session", post("/mcp", &[&all[..all.len() - 1]]), 404, 404),
        Case::rpc("a longer session", post("/mcp", &[&format!("{all}A")]), 404, 404),
        Case::rpc("another endpoint's session", post("/mcp", &[single]), 404, 404),
        Case::rpc("the session of all on one server", post("/servers/up/mcp", &[all]), 404, 404),
        Case::rpc("a session on another server", post("/servers/other/mcp", &[single]), 404, 404),
        Case::rpc("the server's own session", post("/servers/up/mcp", &["theirs"]), 404, 404),
    ];
    for session in [None, Some("nope"), Some(single)] {
        let (status, code) = if session.is_none() { (400, INVALID) } else { (404, 404) };
        for http_method in ["GET", "DELETE"] {
            let head = Head::of(&format!("{http_method} /mcp HTTP/1.1")).with("Accept", "text/event-stream");
            let head = session.into_iter().fold(head, |head, id| head.with("Mcp-Session-Id", id));
            cases.push(Case::nameless(format!("{http_method} with {session:?}"), head.bytes(), status, code));
        }
        let note = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let head = session.into_iter().fold(Head::post("/mcp"), |head, id| head.with("Mcp-Session-Id", id));
        cases.push(Case::nameless(
            format!("a notification with {session:?}"),
            head.whole(note),
            status,
            code,
        ));
        // Its id belongs to a request of the server, so the rejection does not use it.
        let response = br#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
        cases.push(Case::nameless(
            format!("a response with {session:?}"),
            head.whole(response),
            status,
            code,
        ));
    }
    let doubled = Head::post("/mcp")
        .with("MCP-Protocol-Version", "2025-11-25")
        .with("MCP-Protocol-Version", "2025-06-18");
    let initialize =
        request("initialize", r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{}}"#);
    cases.push(Case::rpc("two revisions in the head", doubled.whole(initialize.as_bytes()), 400, INVALID));
    let listing = doubled.with("Mcp-Session-Id", all).whole(request("tools/list", "{}").as_bytes());
    cases.push(Case::rpc("two revisions in the head of a list", listing, 400, MISMATCH));
    cases
}

fn request(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{params}}}"#)
}

/// Swaps upper and lower case.
fn swapped(word: &str) -> String {
    let swap = |c: char| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
    word.chars().map(swap).collect()
}
