//! The closed list: each method as a request, a notification and a response, on every path in, with every
//! kind of server. Exactly the messages of the list reach the server.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mcp::MessageKind;
use mcp::method;
use mcp::method::{Destination, ROWS, Sender};
use serde_json::{Value, json};

use crate::events::Events;
use crate::harness::{Gateway, initialize, legacy_call, python, read};
use crate::mock_server::{MockReply, MockServer, RecordedRequest, answer, good, http, json_answer, tools};

/// Methods in no row; the last of them could be an extension's.
const UNKNOWN: [&str; 5] = ["", "Tools/call", "notifications/nobody/knows", "tools//call", "vendor/wipe"];

/// All methods of the list, and some that are in none.
pub fn words() -> Vec<&'static str> {
    let mut all: Vec<&str> = ROWS.iter().map(method::MethodRule::as_str).chain(UNKNOWN).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// A server of both eras with one entry of each kind, which sends a request in each call of `hold`.
pub async fn server() -> MockServer {
    MockServer::start(|seen| match (seen.http_method.as_str(), seen.method()) {
        ("POST", "") => MockReply::Say(http("202 Accepted", &[], "")),
        (_, "initialize") => {
            let version = &seen.body["params"]["protocolVersion"];
            let result = json!({"protocolVersion": version, "serverInfo": {"name": "x", "version": "1"},
                "capabilities": {"tools": {}, "prompts": {}, "resources": {"subscribe": true}, "logging": {}, "completions": {}}});
            let head = ["Content-Type: application/json", "Mcp-Session-Id: theirs"];
            MockReply::Say(http("200 OK", &head, &answer(seen, &result)))
        }
        (_, "server/discover") => {
            let result = json!({"supportedVersions": ["2026-07-28"], "resultType": "complete", "ttlMs": 0, "cacheScope": "private",
                "capabilities": {"tools": {}, "prompts": {}, "resources": {"subscribe": true}, "completions": {}}});
            MockReply::Say(json_answer(&answer(seen, &result)))
        }
        (_, "tools/call") if seen.tool() == "hold" => {
            let asks = json!({"jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": {"message": "?",
                "requestedSchema": {"type": "object", "properties": {}}, "_meta": {"progressToken": 5}}});
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
            MockReply::Hang(format!("{head}data: {asks}\n\n").into_bytes())
        }
        (_, "tools/list") => MockReply::Say(json_answer(&answer(seen, &tools(&["tool", "hold"])))),
        (_, "prompts/list") => listed(seen, "prompts", json!([{"name": "prompt"}])),
        (_, "resources/list") => listed(seen, "resources", json!([{"uri": "test://a", "name": "a"}])),
        (_, "resources/templates/list") => listed(seen, "resourceTemplates", json!([])),
        ("GET" | "DELETE", _) | (_, "ping" | "tools/call") => MockReply::Say(good(seen)),
        _ if seen.body.get("id").is_none() => MockReply::Say(http("202 Accepted", &[], "")),
        _ => MockReply::Say(json_answer(&answer(seen, &json!({"resultType": "complete"})))),
    })
    .await
}

fn listed(seen: &RecordedRequest, what: &str, all: Value) -> MockReply {
    let mut result = json!({"resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
    result[what] = all;
    MockReply::Say(json_answer(&answer(seen, &result)))
}

/// Params with which a message of this method is forwarded if possible; `many`: names are those of the
/// federation.
pub fn params(word: &str, many: bool, mark: &str) -> Value {
    let name = |name: &str| if many { format!("s__{name}") } else { name.to_owned() };
    let mut params = match word {
        "tools/call" => json!({"name": name("tool"), "arguments": {}}),
        "prompts/get" => json!({"name": name("prompt")}),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => json!({"uri": "test://a"}),
        "completion/complete" => {
            json!({"ref": {"type": "ref/prompt", "name": name("prompt")}, "argument": {"name": "a", "value": "b"}})
        }
        "logging/setLevel" => json!({"level": "debug"}),
        "tasks/get" | "tasks/result" | "tasks/cancel" | "tasks/update" => json!({"taskId": "1"}),
        "initialize" => initialize(json!({}))["params"].clone(),
        "subscriptions/listen" => json!({"notifications": {}}),
        _ => json!({}),
    };
    params["_meta"]["walk"] = json!(mark);
    params
}

/// Whether the list lets a message through to the server.
pub fn passes(kind: MessageKind, word: &str, revision: &str, many: bool) -> bool {
    match method::find(Sender::Client, kind, word, revision) {
        Some(row) => match row.destination {
            Destination::ByName | Destination::AllServers => true,
            Destination::SingleServer => !many,
            // Those concern a running call or a request: there is a test for each.
            Destination::ServerOfRequest
            | Destination::RequestingServer
            | Destination::ServerOfTask
            | Destination::Gateway
            | Destination::Client => false,
        },
        None => kind == MessageKind::Request && !many && word == "vendor/wipe",
    }
}

/// Each message carries a mark that identifies it.
#[derive(Default)]
pub struct Marks(AtomicUsize, String);

impl Marks {
    /// Those of one walk of several with the same server.
    pub fn of(revision: &str, path: &str) -> Self {
        Self(AtomicUsize::default(), format!("{revision}{path}"))
    }

    pub fn next(&self) -> String {
        format!("mark-{}-{}-", self.1, self.0.fetch_add(1, Ordering::Relaxed))
    }
}

pub async fn setup(server: &MockServer, era: &str) -> Gateway {
    let settings = format!("{{url: \"{}\", era: {era}, health: {{interval: 1h}}}}", server.url);
    let gateway = Gateway::start(&format!("mcpServers: {{s: {settings}, demo: {{builtin: demo}}}}\n")).await;
    if era == "legacy" {
        crate::legacy::lists(&gateway, "s__tool").await;
    } else {
        crate::legacy::listed(&gateway, "s__tool").await;
    }
    gateway
}

/// Opens a session of this version.
async fn session(gateway: &Gateway, path: &str, revision: &str) -> String {
    let mut body = initialize(json!({"elicitation": {}, "roots": {"listChanged": true}}));
    body["params"]["protocolVersion"] = json!(revision);
    let opened = gateway.post(path, None, &body).send().await.expect("an answer");
    opened.headers()["mcp-session-id"].to_str().expect("an id").to_owned()
}

/// Waits for background work if the message must come; one that must not come has had its time with the
/// response.
async fn settled(gateway: &Gateway, reached: impl Fn() -> bool, expected: bool, what: &str) {
    if expected {
        gateway.eventually(what, async |_| reached()).await;
    }
    assert_eq!(reached(), expected, "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_legacy_sessions_and_batches_only_what_the_list_says_reaches_the_server() {
    let (server, marks) = (server().await, Marks::default());
    let gateway = setup(&server, "legacy").await;
    for revision in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        for path in ["/mcp", "/servers/s/mcp"] {
            let many = path == "/mcp";
            let id = session(&gateway, path, revision).await;
            let tool = if many { "s__tool" } else { "tool" };
            assert_eq!(
                gateway.say(path, &id, &legacy_call("sit", tool, json!({}))).await.0,
                200,
                "a session there"
            );
            for batch in [false, true].into_iter().filter(|batch| !batch || revision == "2025-03-26") {
                for word in words() {
                    for kind in [MessageKind::Request, MessageKind::Notification, MessageKind::Response] {
                        let (mark, from) = (marks.next(), server.all().len());
                        let mut body =
                            json!({"jsonrpc": "2.0", "method": word, "params": params(word, many, &mark)});
                        match kind {
                            MessageKind::Request => body["id"] = json!(mark),
                            MessageKind::Notification => {}
                            // A response has no method; an unexpected one is the nearest case.
                            MessageKind::Response => {
                                body = json!({"jsonrpc": "2.0", "id": mark, "result": {"method": word, "_meta": {"walk": mark}}});
                            }
                        }
                        let body = if batch { json!([body]) } else { body };
                        let what = format!("{revision} {path} {kind:?} {word:?} in a batch: {batch}");
                        let (status, answer) = gateway.say(path, &id, &body).await;
                        match kind {
                            MessageKind::Request => assert_eq!(status, 200, "{what}: {answer}"),
                            _ => assert_eq!((status, answer), (202, json!("")), "{what}"),
                        }
                        // At the server, `initialize` in a batch is rejected; alone it opens another
                        // session here.
                        let reached =
                            || server.all()[from..].iter().any(|seen| seen.body.to_string().contains(&mark));
                        // The gateway itself sends a level to many servers, without the mark.
                        let output = many && word == "logging/setLevel";
                        let expected = passes(kind, word, revision, many) && !output;
                        settled(&gateway, reached, expected, &what).await;
                    }
                }
            }
        }
    }
    // The only messages without an id are those of the list.
    let notes =
        server.all().into_iter().filter(|seen| seen.http_method == "POST" && seen.body.get("id").is_none());
    let mut notes: Vec<String> = notes.map(|seen| seen.method().to_owned()).collect();
    notes.sort_unstable();
    notes.dedup();
    let known =
        ["notifications/initialized", "notifications/roots/list_changed", "notifications/tasks/status"];
    assert_eq!(notes, known);
}

#[tokio::test]
async fn cancellations_progress_and_answers_go_to_the_server_that_they_are_for() {
    let server = server().await;
    let gateway = setup(&server, "legacy").await;
    for path in ["/mcp", "/servers/s/mcp"] {
        let from = server.all().len();
        let id = session(&gateway, path, "2025-11-25").await;
        let tool = if path == "/mcp" { "s__hold" } else { "hold" };
        let mut stream =
            Events::open(gateway.post(path, Some(&id), &legacy_call("held", tool, json!({})))).await;
        let asks = stream.method("elicitation/create").await;
        let progress = json!({"progressToken": asks["params"]["_meta"]["progressToken"], "progress": 1});
        for body in [
            json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress}),
            json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 5, "progress": 1}}),
            json!({"jsonrpc": "2.0", "id": 1, "result": {"action": "cancel"}}),
            json!({"jsonrpc": "2.0", "id": asks["id"], "result": {"action": "accept"}}),
            json!({"jsonrpc": "2.0", "id": asks["id"], "result": {"action": "decline"}}),
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "other"}}),
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "held"}}),
        ] {
            assert_eq!(gateway.say(path, &id, &body).await.0, 202, "{body}");
        }
        // Neither a message with an outcome and a method, nor one with two outcomes.
        for body in [
            json!({"jsonrpc": "2.0", "id": asks["id"], "method": "tools/call", "result": {}}),
            json!({"jsonrpc": "2.0", "id": asks["id"], "error": {"code": 1, "message": "x"}, "result": {}}),
        ] {
            assert_eq!(gateway.say(path, &id, &body).await.0, 400, "{body}");
        }
        let seen = server.all();
        let mut output: Vec<&Value> = seen[from..].iter().map(|seen| &seen.body).collect();
        output.retain(|body| {
            body["method"] == "notifications/progress"
                || body["method"] == "notifications/cancelled"
                || body["result"].is_object()
        });
        let [one, two, three] = output[..] else { panic!("{output:?}") };
        assert_eq!(one["params"], json!({"progressToken": 5, "progress": 1}));
        assert_eq!(*two, json!({"jsonrpc": "2.0", "id": 1, "result": {"action": "accept"}}));
        assert_eq!(three["method"], "notifications/cancelled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_modern_http_only_what_the_list_says_reaches_the_server() {
    let (server, marks) = (server().await, Marks::default());
    let gateway = setup(&server, "modern").await;
    for path in ["/mcp", "/servers/s/mcp"] {
        let many = path == "/mcp";
        for word in words() {
            // Its response is a stream without end.
            for kind in [MessageKind::Request, MessageKind::Notification, MessageKind::Response] {
                let (mark, from) = (marks.next(), server.all().len());
                let mut params = params(word, many, &mark);
                params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
                params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
                let mut body = json!({"jsonrpc": "2.0", "method": word, "params": params});
                match kind {
                    MessageKind::Request => body["id"] = json!(mark),
                    MessageKind::Notification => {}
                    MessageKind::Response => {
                        body = json!({"jsonrpc": "2.0", "id": mark, "result": {"_meta": {"walk": mark}}})
                    }
                }
                let mut request =
                    gateway.http.post(gateway.url(path)).header("content-type", "application/json");
                request = request.header("accept", "application/json, text/event-stream");
                request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", word);
                let name = params.get("name").or(params.get("uri")).or(params.get("taskId"));
                if let Some(name) = name.and_then(Value::as_str) {
                    request = request.header("mcp-name", name);
                }
                let what = format!("{path} {kind:?} {word:?}");
                let response = request.body(body.to_string()).send().await.expect("an answer");
                if word == "subscriptions/listen" && kind == MessageKind::Request {
                    assert_eq!(response.status(), 200, "{what}");
                } else {
                    let (status, answer) = read(response).await;
                    match kind {
                        MessageKind::Request => {
                            assert!(status == 200 || answer["error"]["code"] == -32601, "{what}: {answer}")
                        }
                        MessageKind::Notification => assert_eq!((status, answer), (202, json!("")), "{what}"),
                        MessageKind::Response => assert_eq!(status, 400, "{what}: {answer}"),
                    }
                }
                let reached =
                    || server.all()[from..].iter().any(|seen| seen.body.to_string().contains(&mark));
                settled(&gateway, reached, passes(kind, word, "2026-07-28", many), &what).await;
            }
        }
    }
    assert!(server.all().iter().all(|seen| seen.http_method != "POST" || seen.body.get("id").is_some()));
}

/// A stdio server of the legacy era that stores each received line.
const KEEPS: &str = r#"
import json, sys
for line in sys.stdin:
    open(sys.argv[1], "a").write(line)
    ask = json.loads(line)
    if "id" not in ask or "method" not in ask: continue
    method = ask["method"]
    result = {"initialize": {"protocolVersion": "2025-11-25", "serverInfo": {"name": "k", "version": "1"},
                             "capabilities": {"tools": {}, "prompts": {}, "resources": {"subscribe": True}, "logging": {}, "completions": {}}},
              "tools/list": {"tools": [{"name": "tool", "inputSchema": {"type": "object"}}]},
              "prompts/list": {"prompts": [{"name": "prompt"}]},
              "resources/list": {"resources": [{"uri": "test://a", "name": "a"}]},
              "resources/templates/list": {"resourceTemplates": []}}.get(method, {})
    answer = {"jsonrpc": "2.0", "id": ask["id"], "result": result}
    if method == "server/discover": answer = {"jsonrpc": "2.0", "id": ask["id"], "error": {"code": -32601, "message": "?"}}
    print(json.dumps(answer), flush=True)
"#;

fn recording_server(folder: &tempfile::TempDir) -> (PathBuf, Value) {
    let file = folder.path().join("heard");
    let settings = json!({"command": python(), "args": ["-c", KEEPS, file], "health": {"interval": "1h"}});
    (file, settings)
}

/// Messages of the gateway itself to a stdio server: they carry no mark.
const OWN_WORDS: [&str; 3] = ["resources/subscribe", "resources/unsubscribe", "logging/setLevel"];

#[tokio::test(flavor = "multi_thread")]
async fn before_a_stdio_server_only_requests_of_the_list_reach_it() {
    let (folder, marks) = (tempfile::tempdir().expect("a folder"), Marks::default());
    let (file, settings) = recording_server(&folder);
    let servers = json!({"s": settings, "demo": {"builtin": "demo"}});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    crate::legacy::lists(&gateway, "s__tool").await;
    let heard = || std::fs::read_to_string(&file).unwrap_or_default();
    for path in ["/mcp", "/servers/s/mcp"] {
        let many = path == "/mcp";
        let id = session(&gateway, path, "2025-11-25").await;
        for word in words() {
            for kind in [MessageKind::Request, MessageKind::Notification] {
                let mark = marks.next();
                let mut body = json!({"jsonrpc": "2.0", "method": word, "params": params(word, many, &mark)});
                if kind == MessageKind::Request {
                    body["id"] = json!(mark);
                }
                let what = format!("{path} {kind:?} {word:?}");
                let (status, answer) = gateway.say(path, &id, &body).await;
                assert_eq!(status, if kind == MessageKind::Request { 200 } else { 202 }, "{what}: {answer}");
                let expected = kind == MessageKind::Request
                    && passes(kind, word, "2025-11-25", many)
                    && !OWN_WORDS.contains(&word)
                    // All callers share the process: it cannot tell whose a task is.
                    && !word.starts_with("tasks/");
                assert_eq!(heard().contains(&mark), expected, "{what}");
            }
        }
    }
    let notes = heard();
    let notes = notes.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut notes: Vec<Value> =
        notes.filter(|line| line.get("id").is_none()).map(|line| line["method"].clone()).collect();
    notes.dedup();
    assert_eq!(notes, [json!("notifications/initialized")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn from_within_only_what_the_list_says_reaches_the_server() {
    let server = Arc::new(server().await);
    let text = format!(
        "mcpServers: {{s: {{url: \"{}\", health: {{interval: 1h}}}}, demo: {{builtin: demo}}}}\n",
        server.url
    );
    let seen = server.clone();
    let walked = tokio::task::spawn_blocking(move || {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("toolgate.yaml");
        std::fs::write(&file, text).expect("it is written");
        let config = toolgate::config::load(&file).expect("it is sound");
        let app = toolgate::lifecycle::App::build(config).expect("the gateway is built");
        let (dispatcher, marks) = (app.dispatcher.clone(), Marks::default());
        app.run_once(async move {
            for (path, modern) in
                [("/mcp", false), ("/servers/s/mcp", false), ("/mcp", true), ("/servers/s/mcp", true)]
            {
                let revision = if modern { "2026-07-28" } else { "2025-11-25" };
                for word in words().into_iter().filter(|word| *word != "subscriptions/listen") {
                    for kind in [MessageKind::Request, MessageKind::Notification, MessageKind::Response] {
                        let (mark, from) = (marks.next(), seen.all().len());
                        let mut params = params(word, path == "/mcp", &mark);
                        if modern {
                            params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(revision);
                            params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
                        }
                        let mut body = json!({"jsonrpc": "2.0", "method": word, "params": params});
                        match kind {
                            MessageKind::Request => body["id"] = json!(mark),
                            MessageKind::Notification => {}
                            MessageKind::Response => {
                                body = json!({"jsonrpc": "2.0", "id": mark, "result": {"x": mark}})
                            }
                        }
                        let what = format!("{path} {revision} {kind:?} {word:?}");
                        let answer =
                            dispatcher.answer_internal(None, None, path, body.to_string().into()).await;
                        if kind == MessageKind::Notification {
                            assert_eq!(answer.expect("it is taken"), "", "{what}");
                        }
                        let reached =
                            seen.all()[from..].iter().any(|seen| seen.body.to_string().contains(&mark));
                        // A session of one call has no state at a server, and keeps no level.
                        let expected = kind == MessageKind::Request
                            && passes(kind, word, revision, path == "/mcp")
                            && (word != "logging/setLevel" || path != "/mcp");
                        assert_eq!(reached, expected, "{what}");
                    }
                }
            }
        });
    });
    walked.await.expect("the walk ends");
}
