//! Secrets in text from people and models do not reach servers that must get none, in any message and at
//! any position; protocol handles arrive unchanged.

use serde_json::{Value, json};

use crate::events::Events;
use crate::harness::{Gateway, legacy_call};
use crate::legacy::scripted_server::{OpenSession, ScriptedServer};
use crate::legacy::{accepted, hold, lists, question};
use crate::mock_server::{MockReply, MockServer};

const SECRET: &str = "4111 1111 1111 1111";
/// Looks like a card number, and is a handle.
const HANDLE: &str = "id-4111111111111111";

fn secret() -> String {
    format!("my card is {SECRET}")
}

async fn modern(redaction: &str) -> (MockServer, Gateway) {
    let server = MockServer::start(|_| MockReply::Good).await;
    let settings = format!("{{url: \"{}\", redact: {{arguments: {redaction}}}}}", server.url);
    let gateway = Gateway::start(&format!("mcpServers: {{p: {settings}}}\n")).await;
    gateway.eventually("the server is there", async |g| g.call("p__tool", json!({})).await.0 == 200).await;
    (server, gateway)
}

/// Requests with text in all possible positions, and with handles.
fn requests() -> Vec<(&'static str, Value)> {
    let meta = json!({"progressToken": "t", "traceparent": HANDLE, "com.example/note": secret(),
        "io.modelcontextprotocol/clientInfo": {"name": HANDLE, "version": "1", "title": secret()}});
    let answers = json!({HANDLE: {"action": "accept", "content": {"card": secret()}},
        "two": {"role": "assistant", "model": HANDLE, "content": {"type": "text", "text": secret()}},
        "three": {"roots": [{"uri": HANDLE, "name": secret()}]}});
    vec![
        (
            "tools/call",
            json!({"name": "tool", "arguments": {"cursor": secret(), secret(): 1}, "requestState": HANDLE,
            "inputResponses": answers, "_meta": meta, "unknown": secret()}),
        ),
        (
            "resources/read",
            json!({"uri": format!("x://{HANDLE}"), "requestState": HANDLE, "inputResponses": answers, "_meta": meta,
            "arguments": {"x": secret()}}),
        ),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/resource", "uri": format!("x://{HANDLE}"), "title": secret()},
            "argument": {"name": HANDLE, "value": secret(), "more": secret()},
            "context": {"arguments": {"a": secret(), "name": secret()}}, "_meta": meta}),
        ),
        (
            "vendor/wipe",
            json!({"cursor": HANDLE, "name": secret(), "text": [{"cursor": secret()}], "_meta": meta}),
        ),
    ]
}

fn count(message: &Value, word: &str) -> usize {
    message.to_string().matches(word).count()
}

#[tokio::test]
async fn no_text_of_a_request_holds_a_secret_and_handles_stay() {
    let (server, gateway) = modern("redact").await;
    for (method, params) in requests() {
        let before = server.calls().len();
        gateway.modern("/servers/p/mcp", method, params.clone()).await;
        let seen = server.calls();
        let [sent] = &seen[before..] else { panic!("{method}: {seen:?}") };
        let head: String = sent.headers.iter().map(|(_, value)| value.as_str()).collect();
        assert!(!head.contains(SECRET), "{method}: {head}");
        assert_eq!(count(&sent.body, SECRET), 0, "{method}: {}", sent.body);
        assert_eq!(count(&sent.body, HANDLE), count(&params, HANDLE), "{method}: {}", sent.body);
        assert_eq!(
            count(&sent.body, "[redacted:credit_card"),
            count(&params, SECRET),
            "{method}: {}",
            sent.body
        );
    }
}

#[tokio::test]
async fn a_request_with_a_secret_anywhere_is_blocked() {
    let (server, gateway) = modern("block").await;
    let before = server.calls().len();
    let mut tried = 0;
    for (method, params) in requests() {
        for path in places(&params) {
            // One secret at a time.
            let mut one = params.clone();
            for other in places(&params).iter().filter(|other| **other != path) {
                set(&mut one, other, json!("plain"));
            }
            if let Some(arguments) = one.get_mut("arguments").and_then(Value::as_object_mut) {
                arguments.remove(&secret());
            }
            let (status, answer) = gateway.modern("/servers/p/mcp", method, one.clone()).await;
            assert_eq!(
                (status, &answer["error"]["code"]),
                (400, &json!(-32602)),
                "{method} {path:?}: {answer}"
            );
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
    assert_eq!(server.calls().len(), before, "{:?}", server.calls());
}

/// The paths of the values that hold the secret.
fn places(value: &Value) -> Vec<String> {
    let under = |key: String, value: &Value| {
        let key = key.replace('~', "~0").replace('/', "~1");
        places(value).into_iter().map(move |rest| format!("/{key}{rest}")).collect::<Vec<_>>()
    };
    match value {
        Value::String(text) if text.contains(SECRET) => vec![String::new()],
        Value::Array(all) => {
            all.iter().enumerate().flat_map(|(at, value)| under(at.to_string(), value)).collect()
        }
        Value::Object(all) => all.iter().flat_map(|(key, value)| under(key.clone(), value)).collect(),
        _ => Vec::new(),
    }
}

fn set(value: &mut Value, path: &str, to: Value) {
    *value.pointer_mut(path).expect("it is there") = to;
}

async fn legacy(redaction: &str) -> (ScriptedServer, Gateway, String) {
    let stage = ScriptedServer::start().await;
    let setup = crate::legacy::setup_with(&stage, &format!(", redact: {{arguments: {redaction}}}"), "");
    let gateway = Gateway::start(&setup).await;
    lists(&gateway, "s__hold").await;
    let session =
        gateway.initialize_with("/mcp", json!({"elicitation": {}, "sampling": {}, "roots": {}})).await;
    (stage, gateway, session)
}

/// The server sends a request during a call; returns the id that the client sees.
async fn asked(stream: &mut Events, open: &OpenSession, question: &Value) -> Value {
    open.say(question);
    stream.method(question["method"].as_str().expect("a method")).await["id"].clone()
}

#[tokio::test]
async fn answers_to_servers_and_notifications_hold_no_secrets() {
    let (stage, gateway, session) = legacy("redact").await;
    let (mut stream, open) = hold(&gateway, &stage, &session, "c").await;
    let sampling = json!({"jsonrpc": "2.0", "id": 2, "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}});
    let roots = json!({"jsonrpc": "2.0", "id": 3, "method": "roots/list"});
    let mut elicitation = question(1, "?");
    elicitation["params"]["_meta"] = json!({"progressToken": 9});
    open.say(&elicitation);
    let asks = stream.method("elicitation/create").await;
    let token = asks["params"]["_meta"]["progressToken"].clone();
    let progress =
        json!({"progressToken": token, "progress": 1, "message": secret(), "_meta": {"note": secret()}});
    let replies = [
        (
            asks["id"].clone(),
            json!({"action": "accept", "content": {"type": secret(), "model": secret()}, "_meta": {"x": secret()}}),
        ),
        (
            asked(&mut stream, &open, &sampling).await,
            json!({"role": "assistant", "model": HANDLE, "stopReason": HANDLE,
            "content": [{"type": "text", "text": secret()}, {"type": "tool_use", "id": HANDLE, "name": HANDLE, "input": {"id": secret()}}]}),
        ),
        (
            asked(&mut stream, &open, &roots).await,
            json!({"roots": [{"uri": format!("file:///{HANDLE}"), "name": secret()}]}),
        ),
    ];
    let said = async |body: Value| {
        let (status, answer) = gateway.say("/mcp", &session, &body).await;
        assert_eq!(status, 202, "{body}: {answer}");
    };
    said(json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress})).await;
    for (id, result) in &replies {
        said(json!({"jsonrpc": "2.0", "id": id, "result": result, "more": secret()})).await;
    }
    let id = asked(&mut stream, &open, &question(4, "?")).await;
    said(json!({"jsonrpc": "2.0", "id": id, "error": {"code": -1, "message": secret(), "data": {"code": secret()}}})).await;
    said(json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed", "params": {"_meta": {"why": secret()}, "x": secret()}})).await;
    said(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "c", "reason": secret(), "requestState": secret()}})).await;
    let level = json!({"jsonrpc": "2.0", "id": 7, "method": "logging/setLevel", "params": {"level": "debug", "_meta": {"x": secret()}}});
    gateway.say("/mcp", &session, &level).await;
    gateway.eventually("the level is set", async |_| !stage.heard("logging/setLevel").is_empty()).await;

    let all = stage.mock.all();
    for seen in &all {
        assert_eq!(count(&seen.body, SECRET), 0, "{}", seen.body);
    }
    let [one, two, three, four] = &stage.replies()[..] else { panic!("{all:?}") };
    assert_eq!((&one.body["id"], &one.body["result"]["action"]), (&json!(1), &json!("accept")));
    assert_eq!(
        one.body["result"]["content"]["type"], "my card is [redacted:credit_card]",
        "no handle there: {}",
        one.body
    );
    assert_eq!(count(&two.body, HANDLE), 4, "{}", two.body);
    assert_eq!(three.body["result"]["roots"][0]["uri"], format!("file:///{HANDLE}"));
    assert_eq!((&four.body["id"], &four.body["error"]["code"]), (&json!(4), &json!(-1)));
    let output = &stage.heard("notifications/progress")[0].body["params"];
    assert_eq!((&output["progressToken"], &output["progress"]), (&json!(9), &json!(1)), "{output}");
    assert_eq!(stage.heard("notifications/cancelled").len(), 1);
    let metric = "toolgate_redactions_total{action=\"redact\",detector=\"credit_card\",server=\"s\",way=\"arguments\"}";
    assert!(gateway.metric(metric).await >= 12.0);
}

#[tokio::test]
async fn answers_and_notifications_with_secrets_are_blocked_and_may_come_again_without() {
    let (stage, gateway, session) = legacy("block").await;
    let (mut stream, open) = hold(&gateway, &stage, &session, "c").await;
    let id = asked(&mut stream, &open, &question(1, "?")).await;
    let say = async |body: Value| gateway.say("/mcp", &session, &body).await;
    let mut bad = accepted(&id);
    bad["result"]["content"] = json!({"card": secret()});
    for body in [
        bad,
        json!({"jsonrpc": "2.0", "id": id, "error": {"code": -1, "message": secret()}}),
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "c", "reason": secret()}}),
        json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed", "params": {"_meta": {"x": secret()}}}),
    ] {
        let (status, answer) = say(body.clone()).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32602)), "{body}: {answer}");
        assert!(answer.get("id").is_none(), "{answer}");
    }
    assert_eq!(stage.replies().len(), 0);
    for method in ["notifications/cancelled", "notifications/roots/list_changed"] {
        assert_eq!(stage.heard(method).len(), 0, "{method}");
    }
    // The request and the call were not redacted.
    assert_eq!(say(accepted(&id)).await.0, 202);
    assert_eq!(stage.replies()[0].body, accepted(&json!(1)));
    open.answer("done");
    assert_eq!(stream.rest().await.pop().expect("an answer")["result"]["content"][0]["text"], "done");
}

#[tokio::test]
async fn a_client_introduces_itself_without_secrets() {
    let (stage, gateway, _) = legacy("redact").await;
    let client = json!({"name": HANDLE, "version": "1", "title": secret(), "websiteUrl": HANDLE});
    let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
        "capabilities": {"experimental": {"x": {"note": secret()}}}, "clientInfo": client}});
    let opened = gateway.post("/mcp", None, &body).send().await.expect("an answer");
    let session = opened.headers()["mcp-session-id"].to_str().expect("an id").to_owned();
    gateway.say("/mcp", &session, &legacy_call(1, "s__tool", json!({}))).await;
    let seen = stage.heard("initialize").pop().expect("it came").body;
    assert_eq!((count(&seen, SECRET), count(&seen, HANDLE)), (0, 2), "{seen}");
}
