//! The format of responses, between servers and clients that differ in what they send and accept: media
//! types, compression, redirects, rejections, slashes.

use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::harness::{Gateway, legacy_call, read};
use crate::mock_server::{self, MockReply, MockServer, RecordedRequest, answer, http, json_answer, tools};
use crate::raw::{Answer, Client, Head};

mod codings;
mod redirects;

const BOTH: &str = "application/json, text/event-stream";

/// A gateway in front of one server, `box`, with settings.
async fn before(mock: &MockServer, settings: &str) -> Gateway {
    let url = &mock.url;
    Gateway::start(&format!("mcpServers: {{box: {{url: \"{url}\", health: {{interval: 1h}}{settings}}}, demo: {{builtin: demo}}}}\n"))
        .await
}

/// A tool call with this `Accept`, in a session or without, as its bytes; `long` for a body that the
/// gateway's own client sends.
async fn call(
    gateway: &Gateway,
    tool: &str,
    session: Option<&str>,
    accept: Option<&str>,
    long: bool,
) -> Answer {
    let mut params = json!({"name": tool, "arguments": {"message": "hello"}});
    let head = match session {
        None => {
            params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {}});
            Head::modern("/mcp", "tools/call", Some(tool))
        }
        Some(id) => Head::post("/mcp").with("Mcp-Session-Id", id).with("MCP-Protocol-Version", "2025-11-25"),
    };
    let head = match accept {
        None => head.without("Accept"),
        Some(accept) => head.set("Accept", accept),
    };
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}).to_string();
    let request = match long {
        false => head.whole(body.as_bytes()),
        true => head.chunked(&[body.as_bytes(), &[b' '; 100_000]].concat(), 50_000),
    };
    Client::connect(gateway.port).await.exchange(&request).await.expect("an answer")
}

fn kind(answer: &Answer) -> &str {
    answer.header("content-type").unwrap_or_default()
}

/// The text of a result.
fn text(answer: &Answer) -> Value {
    answer.message()["result"]["content"][0]["text"].clone()
}

fn done(seen: &RecordedRequest) -> String {
    answer(seen, &json!({"content": [{"type": "text", "text": "done"}], "resultType": "complete"}))
}

fn events(all: &[String]) -> Vec<u8> {
    let body: String = all.iter().map(|message| format!("data: {message}\n\n")).collect();
    http("200 OK", &["Content-Type: text/event-stream"], &body)
}

/// `json` answers so, `stream` with a notification before the response.
fn two_forms(seen: &RecordedRequest) -> MockReply {
    match (seen.method(), seen.tool()) {
        ("tools/list", _) => MockReply::Say(json_answer(&answer(seen, &tools(&["json", "stream"])))),
        ("tools/call", "stream") => {
            let note = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": 1}});
            MockReply::Say(events(&[note.to_string(), done(seen)]))
        }
        _ => MockReply::Good,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_the_form_that_it_takes_and_the_server_hears_nothing_of_it() {
    let mock = MockServer::start(two_forms).await;
    let gateway = before(&mock, "").await;
    let session = gateway.initialize("/mcp").await;
    let (json, stream) = ("application/json", "text/event-stream");
    for session in [None, Some(session.as_str())] {
        for (accept, form) in [
            (None, None),
            (Some(BOTH), None),
            (Some("*/*"), None),
            (Some(json), Some(json)),
            (Some("application/*"), Some(json)),
            (Some("*/*, text/event-stream;q=0"), Some(json)),
            (Some("text/html"), Some(json)),
            (Some(stream), Some(stream)),
            (Some("text/event-stream, application/json;q=0.0"), Some(stream)),
        ] {
            for (tool, own) in [("box__json", json), ("box__stream", stream), ("demo__echo", json)] {
                for long in [false, true] {
                    let answer = call(&gateway, tool, session, accept, long).await;
                    let what = format!("{tool} {accept:?} in {session:?}, long: {long}");
                    assert_eq!((answer.status, kind(&answer)), (200, form.unwrap_or(own)), "{what}");
                    let said = if tool == "demo__echo" { "hello" } else { "done" };
                    assert_eq!(text(&answer), said, "{what}: {}", String::from_utf8_lossy(&answer.body));
                    assert!(answer.whole, "{what}");
                    let notes =
                        String::from_utf8_lossy(&answer.body).matches("notifications/message").count();
                    let heard = usize::from(tool == "box__stream" && kind(&answer) == stream);
                    assert_eq!(notes, heard, "{what}");
                }
            }
        }
    }
    for seen in mock.all() {
        let accept = if seen.http_method == "GET" { "text/event-stream" } else { BOTH };
        if seen.http_method != "DELETE" {
            assert_eq!(seen.header("accept"), Some(accept), "{seen:?}");
        }
        assert_eq!(seen.header("accept-encoding"), Some("identity"), "{seen:?}");
    }
}

/// Errors stay unchanged: JSON with their status.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_json_for_a_client_of_streams_too() {
    let mock = MockServer::start(two_forms).await;
    let gateway = before(&mock, "").await;
    let answer = call(&gateway, "box__none", None, Some("text/event-stream"), false).await;
    assert_eq!((answer.status, kind(&answer)), (400, "application/json"));
    assert_eq!(answer.message()["error"]["code"], -32602);
}

/// A server's request that the client of a call cannot receive is rejected for it, and the call continues.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_no_stream_is_not_waited_for() {
    let (say, _) = broadcast::channel(8);
    let mock = MockServer::start(move |seen| {
        let id = seen.body["id"].clone();
        match (seen.method(), seen.tool()) {
            ("tools/call", _) => {
                let _ = say.send(json!({"call": id}));
                let questions = ["ping", "roots/list"]
                    .map(|method| json!({"jsonrpc": "2.0", "id": method, "method": method}));
                MockReply::Stream(questions.to_vec(), said_by(&say, id))
            }
            // An answer of the client, or of the gateway in its place.
            ("", _) if seen.http_method == "POST" => {
                let _ = say.send(seen.body.clone());
                MockReply::Say(http("202 Accepted", &[], ""))
            }
            _ => MockReply::Good,
        }
    })
    .await;
    let gateway = before(&mock, "").await;
    let session = gateway.initialize_with("/mcp", json!({"roots": {}, "sampling": {}})).await;
    let answer = call(&gateway, "box__tool", Some(&session), Some("application/json"), false).await;
    assert_eq!(
        (answer.status, kind(&answer), answer.message()["id"].clone()),
        (200, "application/json", json!(7))
    );
    assert_eq!(text(&answer), "asked and answered");
    let replies: Vec<Value> = mock
        .all()
        .into_iter()
        .map(|seen| seen.body)
        .filter(|body| body["method"].is_null() && !body["id"].is_null())
        .collect();
    let to = |id: &str| {
        replies.iter().find(|body| body["id"] == id).unwrap_or_else(|| panic!("no {id}: {replies:?}"))
    };
    assert_eq!(to("ping")["result"], json!({}));
    assert_eq!(to("roots/list")["error"]["code"], -32601);
}

/// A stream that ends with the response once both requests were answered.
fn said_by(said: &broadcast::Sender<Value>, id: Value) -> broadcast::Receiver<Value> {
    let (out, heard) = broadcast::channel(8);
    let mut said = said.subscribe();
    tokio::spawn(async move {
        let mut open = 2;
        while open > 0 {
            let Ok(message) = said.recv().await else { return };
            open -= i32::from(message.get("call").is_none());
        }
        let content = json!([{"type": "text", "text": "asked and answered"}]);
        let _ = out.send(json!({"jsonrpc": "2.0", "id": id, "result": {"content": content}}));
        let _ = out.send(Value::Null);
    });
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn json_by_another_name_or_none_is_json() {
    let mock = MockServer::start(|seen| {
        let typed = |kind: &str| MockReply::Say(http("200 OK", &[&format!("Content-Type: {kind}")], &done(seen)));
        match (seen.method(), seen.tool()) {
            ("tools/list", _) => {
                let body = answer(seen, &tools(&["text_json", "json_rpc", "none", "page", "missing", "oops"]));
                MockReply::Say(http("200 OK", &[], &body))
            }
            ("tools/call", "text_json") => typed("Text/JSON; charset=utf-8"),
            ("tools/call", "json_rpc") => typed("application/json-rpc"),
            ("tools/call", "none") => MockReply::Say(http("200 OK", &[], &done(seen))),
            ("tools/call", "page") => MockReply::Say(http("200 OK", &[], "<html>")),
            ("tools/call", "missing") => {
                let error = json!({"jsonrpc": "2.0", "id": seen.body["id"], "error": {"code": -32601, "message": "none"}});
                MockReply::Say(http("404 Not Found", &[], &error.to_string()))
            }
            ("tools/call", "oops") => MockReply::Say(http("404 Not Found", &[], "<html>")),
            _ => MockReply::Good,
        }
    })
    .await;
    let gateway = before(&mock, "").await;
    for long in [false, true] {
        for tool in ["text_json", "json_rpc", "none"] {
            let answer = call(&gateway, &format!("box__{tool}"), None, Some(BOTH), long).await;
            assert_eq!((answer.status, kind(&answer)), (200, "application/json"), "{tool}");
            assert_eq!(text(&answer), "done", "{tool}");
        }
        let answer = call(&gateway, "box__missing", None, Some(BOTH), long).await;
        assert_eq!((answer.status, &answer.message()["error"]["code"]), (404, &json!(-32601)));
        for tool in ["page", "oops"] {
            let answer = call(&gateway, &format!("box__{tool}"), None, Some(BOTH), long).await;
            assert_eq!(answer.message()["error"]["code"], 502, "{tool}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_no_time_says_when_in_whatever_words() {
    let mock = MockServer::start(|seen| {
        let page = |status: &str, headers: &[&str]| {
            MockReply::Say(http(status, &[&["Content-Type: text/html"], headers].concat(), "<h1>Later</h1>"))
        };
        // No MCP message either.
        let message = |status: &str, headers: &[&str]| {
            let headers = [&["Content-Type: application/json"], headers].concat();
            MockReply::Say(http(status, &headers, r#"{"error":"Later","tg":[]}"#))
        };
        match (seen.method(), seen.tool()) {
            ("tools/list", _) => MockReply::Say(json_answer(&answer(
                seen,
                &tools(&[
                    "busy",
                    "limited",
                    "silent",
                    "busy_json",
                    "limited_json",
                    "silent_json",
                    "busy_empty",
                    "limited_untyped",
                    "tool",
                ]),
            ))),
            ("tools/call", "busy") => page("503 Service Unavailable", &["Retry-After: 17"]),
            ("tools/call", "limited") => page("429 Too Many Requests", &["Retry-After: 3"]),
            ("tools/call", "silent") => page("503 Service Unavailable", &[]),
            ("tools/call", "busy_json") => message("503 Service Unavailable", &["Retry-After: 17"]),
            ("tools/call", "limited_json") => message("429 Too Many Requests", &["Retry-After: 3"]),
            ("tools/call", "busy_empty") => {
                let headers = ["Content-Type: application/json", "Retry-After: 17"];
                MockReply::Say(http("503 Service Unavailable", &headers, ""))
            }
            ("tools/call", "limited_untyped") => {
                MockReply::Say(http("429 Too Many Requests", &["Retry-After: 3"], "slow"))
            }
            ("tools/call", "silent_json") => message("503 Service Unavailable", &[]),
            _ => MockReply::Good,
        }
    })
    .await;
    let gateway = before(&mock, "").await;
    for long in [false, true] {
        for (tool, status, after) in [
            ("busy", 503, Some("17")),
            ("limited", 429, Some("3")),
            ("silent", 503, None),
            ("busy_json", 503, Some("17")),
            ("limited_json", 429, Some("3")),
            ("silent_json", 503, None),
            ("busy_empty", 503, Some("17")),
            ("limited_untyped", 429, Some("3")),
        ] {
            let answer = call(&gateway, &format!("box__{tool}"), None, Some(BOTH), long).await;
            let error = &answer.message()["error"];
            assert_eq!((answer.status, answer.header("retry-after")), (status, after), "{tool}: {error}");
            assert_eq!(error["data"]["server"], "box", "{tool}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_a_gateway_without_credentials_is_heard() {
    const WORDS: &str = "Access is only allowed at localhost:8931";
    let forbid = |kind: &str, body: &str| http("403 Forbidden", &[&format!("Content-Type: {kind}")], body);
    let plain =
        MockServer::start(move |_| MockReply::Say(forbid("text/plain", &format!("{WORDS}\u{1b}[31m\r\n"))))
            .await;
    let config = |url: &str, more: &str| format!("mcpServers: {{box: {{url: \"{url}\"{more}}}}}\n");
    let mut gateway = Gateway::start(&config(&plain.url, "")).await;
    let output = gateway.process.wait_for("server is not connected");
    assert!(output.contains(WORDS) && !output.contains("credentials"), "{output}");

    // At a call, on each path, and with text that must not be shown where credentials are configured.
    let play = move |seen: &RecordedRequest| match (seen.method(), seen.tool()) {
        ("tools/list", _) => {
            MockReply::Say(json_answer(&answer(seen, &tools(&["tool", "page", "json", "login"]))))
        }
        ("tools/call", "page") => MockReply::Say(forbid("text/html", "<h1>No</h1>")),
        ("tools/call", "json") => {
            let error = json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32000, "message": WORDS}});
            MockReply::Say(forbid("application/json", &error.to_string()))
        }
        ("tools/call", "login") => {
            MockReply::Say(http("401 Unauthorized", &["Content-Type: text/plain"], WORDS))
        }
        ("tools/call", _) => {
            MockReply::Say(forbid("text/plain", &format!("{WORDS}\r\n{}", "x".repeat(9000))))
        }
        _ => MockReply::Good,
    };
    let mock = MockServer::start(play).await;
    for (settings, given) in [("", false), (", headers: {X-Api-Key: abc}", true)] {
        let gateway = before(&mock, settings).await;
        for long in [false, true] {
            // As in `a_redirection_elsewhere_is_named_and_nothing_goes_there`.
            call(&gateway, "box__tool", None, Some(BOTH), long).await;
            for (tool, message) in [
                ("tool", WORDS),
                ("json", WORDS),
                ("page", "refuses the gateway (HTTP 403)"),
                ("login", "asks for credentials (HTTP 401), and none are configured"),
            ] {
                let answer = call(&gateway, &format!("box__{tool}"), None, Some(BOTH), long).await;
                let error = &answer.message()["error"];
                assert_eq!((answer.status, &error["code"]), (502, &json!(502)), "{tool}: {error}");
                let said = error["message"].as_str().unwrap_or_default();
                let message = if given { "does not accept the gateway's credentials" } else { message };
                assert!(said.contains(message) && said.len() < 400, "{tool}: {said}");
                assert!(!given || !said.contains(WORDS), "{said}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slash_at_the_end_of_an_endpoint_says_nothing() {
    let mock = MockServer::start(|_| MockReply::Good).await;
    let gateway = before(&mock, "").await;
    for path in ["/mcp/", "/servers/box/mcp/"] {
        let (status, list) = gateway.modern(path, "tools/list", json!({})).await;
        assert_eq!(status, 200, "{list}");
        let session = gateway.initialize(path).await;
        let plain = path.trim_end_matches('/');
        for path in [path, plain] {
            let tool = if plain == "/mcp" { "box__tool" } else { "tool" };
            let (_, answer) = gateway.say(path, &session, &legacy_call(1, tool, json!({}))).await;
            assert_eq!(answer["result"]["content"][0]["text"], "done", "{path}: {answer}");
        }
        let gone = gateway.http.delete(gateway.url(path)).header("mcp-session-id", &session);
        assert_eq!(gone.send().await.expect("an answer").status(), 204);
    }
    for path in ["/mcp//", "/", "/servers/box/", "/servers/none/mcp/"] {
        let request = gateway.modern_request(path, "tools/list", json!({}));
        assert_eq!(read(request.send().await.expect("an answer")).await.0, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_resource_has_the_code_of_its_revision() {
    let mock = MockServer::start(|_| MockReply::Good).await;
    let gateway = before(&mock, "").await;
    let session = gateway.initialize("/mcp").await;
    let body =
        json!({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": "none://such"}});
    assert_eq!(gateway.say("/mcp", &session, &body).await.1["error"]["code"], -32002);
    let modern = gateway.modern("/mcp", "resources/read", json!({"uri": "none://such"})).await;
    assert_eq!((modern.0, &modern.1["error"]["code"]), (400, &json!(-32602)));
}

/// By a stream that ends with two carriage returns and the connection.
#[tokio::test(flavor = "multi_thread")]
async fn the_answer_may_be_the_last_event_of_a_stream_with_any_line_ends() {
    let mock = MockServer::start(|seen| match seen.method() {
        "tools/call" | "tools/list" => {
            let body =
                if seen.method() == "tools/list" { answer(seen, &tools(&["tool"])) } else { done(seen) };
            MockReply::Cut(
                format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {body}\r\r")
                    .into_bytes(),
            )
        }
        _ => MockReply::Good,
    })
    .await;
    let gateway = before(&mock, "").await;
    for long in [false, true] {
        let answer = call(&gateway, "box__tool", None, Some(BOTH), long).await;
        assert_eq!((answer.status, text(&answer)), (200, json!("done")), "{answer:?}");
    }
}
