//! What may come on the stream of a response, and which names and metadata a server receives: rows of
//! server-stateless, sse-retry, request-metadata, http-standard-headers and sep-2164 through the
//! federation.

use serde_json::{Value, json};

use super::{ConformanceSetup, listed, message};
use crate::events::Events;
use crate::harness::{Gateway, legacy_call, read};
use crate::mock_server::{MockReply, MockServer, RecordedRequest, answer, http, json_answer, tools};
use crate::raw::{Client, Head};

#[tokio::test(flavor = "multi_thread")]
async fn log_messages_come_to_who_asked_for_them_with_the_call() {
    let setup = ConformanceSetup::start().await;
    for server in ["fix", "two", "pipe"] {
        for level in [None, Some("info")] {
            let mut params = json!({"name": format!("{server}__test_logging_tool"), "arguments": {}});
            if let Some(level) = level {
                params["_meta"] = json!({"io.modelcontextprotocol/logLevel": level});
            }
            let request = setup.gateway.modern_request("/mcp", "tools/call", params);
            let response = request.send().await.expect("an answer");
            let kind = response.headers().get("content-type").cloned();
            let all = if kind.is_some_and(|kind| kind == "text/event-stream") {
                Events::read(response).await.rest().await
            } else {
                vec![read(response).await.1]
            };
            let output = all.iter().filter(|m| m["method"] == "notifications/message").count();
            // The log of a process that all clients share is for no particular client.
            let wanted = usize::from(level.is_some() && server != "pipe");
            assert_eq!(output, wanted, "{server} {level:?}: {all:?}");
            let last = all.last().expect("an answer");
            assert_eq!(last["result"]["content"][0]["text"], "Logged one message", "{server}: {last}");
        }
    }
}

/// Sends a request to the client on the stream of the response, before the response.
fn asks(seen: &RecordedRequest) -> MockReply {
    let ask = json!({"jsonrpc": "2.0", "id": 7, "method": "roots/list", "params": {}});
    let note = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}});
    let last = answer(seen, &json!({"content": [], "resultType": "complete"}));
    let events = format!("data: {note}\n\ndata: {ask}\n\ndata: {last}\n\n");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    MockReply::Cut(format!("{head}{events}").into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_on_the_stream_of_a_modern_answer_is_not_heard() {
    let play =
        |seen: &RecordedRequest| if seen.method() == "tools/call" { asks(seen) } else { MockReply::Good };
    let (mock, good) = (MockServer::start(play).await, MockServer::start(|_| MockReply::Good).await);
    let servers = json!({"up": {"url": mock.url}, "good": {"url": good.url}});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    listed(&gateway, "up__").await;
    for (path, tool) in [("/mcp", "up__tool"), ("/servers/up/mcp", "tool")] {
        let head = Head::modern(path, "tools/call", Some(tool));
        let params = json!({"name": tool, "arguments": {"pad": "x".repeat(100_000)}});
        let body = message("mine", "tools/call", params, json!({"roots": {}})).to_string();
        // By Pingora, and by the gateway's own HTTP client.
        for request in [head.whole(body.as_bytes()), head.chunked(body.as_bytes(), 9000)] {
            let mut client = Client::connect(gateway.port).await;
            let said = client.exchange(&request).await.expect("an answer");
            let text = String::from_utf8_lossy(&said.body);
            assert!(!text.contains("roots/list"), "{path}: {text}");
            let last = said.message();
            assert_eq!(
                (&last["id"], &last["error"]["code"]),
                (&json!("mine"), &json!(502)),
                "{path}: {text}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_to_wait_before_a_stream_is_gone_on_with_reaches_the_client() {
    let play = |seen: &RecordedRequest| {
        if seen.method() != "tools/call" {
            return MockReply::Good;
        }
        let last = answer(seen, &json!({"content": []}));
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
        MockReply::Cut(format!("{head}id: 1\nretry: 1234\ndata: \n\nid: 2\ndata: {last}\n\n").into_bytes())
    };
    let mock = MockServer::start(play).await;
    let (good, more) =
        (MockServer::start(|_| MockReply::Good).await, MockServer::start(|_| MockReply::Good).await);
    let servers = json!({"up": {"url": mock.url}, "good": {"url": good.url}, "more": {"url": more.url}});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    listed(&gateway, "up__").await;
    for (path, tool) in [("/mcp", "up__tool"), ("/servers/up/mcp", "tool")] {
        let session = gateway.initialize(path).await;
        let call = gateway.post(path, Some(&session), &legacy_call(1, tool, json!({})));
        let text = call.send().await.expect("an answer").text().await.expect("a body");
        let (first, _) = text.split_once("\n\n").expect("a first event");
        assert!(first.lines().any(|line| line.replace(' ', "") == "retry:1234"), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_three_servers_ends_at_all_of_them() {
    let mocks = [
        MockServer::start(|_| MockReply::Good).await,
        MockServer::start(|_| MockReply::Good).await,
        MockServer::start(|_| MockReply::Good).await,
    ];
    let [one, two, three] = mocks.each_ref().map(|mock| json!({"url": mock.url, "era": "legacy"}));
    let servers = json!({"one": one, "two": two, "three": three});
    let gateway = Gateway::start(&format!("mcpServers: {servers}\n")).await;
    gateway.eventually("all are listed", async |g| g.get("/health").await.contains("\"tools\":3")).await;
    let session = gateway.initialize("/mcp").await;
    for server in ["one", "two", "three"] {
        let call = legacy_call(1, &format!("{server}__tool"), json!({}));
        let (status, answer) = gateway.say("/mcp", &session, &call).await;
        assert_eq!((status, &answer["result"]["content"][0]["text"]), (200, &json!("done")), "{answer}");
    }
    let http_method = |http_method: reqwest::Method| {
        let request =
            gateway.http.request(http_method, gateway.url("/mcp")).header("mcp-session-id", &session);
        request.header("accept", "text/event-stream").send()
    };
    assert_eq!(http_method(reqwest::Method::DELETE).await.expect("an answer").status(), 204);
    for again in [reqwest::Method::DELETE, reqwest::Method::GET] {
        assert_eq!(http_method(again.clone()).await.expect("an answer").status(), 404, "{again}");
    }
    for server in ["one", "two", "three"] {
        let call = legacy_call(2, &format!("{server}__tool"), json!({}));
        assert_eq!(gateway.say("/mcp", &session, &call).await.0, 404, "{server}");
    }
    for mock in &mocks {
        let output = || mock.all().iter().filter(|seen| seen.http_method == "DELETE").count();
        gateway.eventually("the server is told", async |_| output() > 0).await;
        assert_eq!((output(), mock.count("tools/call")), (1, 1), "once, and nothing after it");
    }
}

/// A server with these three entries, whose resource `gone://thing` is listed and does not exist.
fn library(seen: &RecordedRequest) -> MockReply {
    let says = |result: &Value| MockReply::Say(json_answer(&answer(seen, result)));
    let cached = |mut result: Value| {
        (result["resultType"], result["ttlMs"], result["cacheScope"]) =
            (json!("complete"), json!(0), json!("private"));
        result
    };
    let able = json!({"tools": {}, "prompts": {}, "resources": {}});
    let resource = |uri: &str| json!({"uri": uri, "name": "r"});
    match seen.method() {
        "server/discover" => {
            says(&cached(json!({"supportedVersions": ["2026-07-28"], "capabilities": able})))
        }
        "tools/list" => says(&tools(&["tool"])),
        "prompts/list" => says(&cached(json!({"prompts": [{"name": "prompt"}]}))),
        "resources/list" => says(&cached(json!({"resources": [resource(SPACED), resource("gone://thing")]}))),
        "prompts/get" => says(&json!({"messages": [], "resultType": "complete"})),
        "resources/read" if seen.body["params"]["uri"] == "gone://thing" => {
            let status = seen.body["params"]["_meta"]["status"].as_str().unwrap_or_default();
            let error =
                json!({"code": -32602, "message": "Resource not found", "data": {"uri": "gone://thing"}});
            let error = json!({"jsonrpc": "2.0", "id": seen.body["id"], "error": error});
            MockReply::Say(http(status, &["Content-Type: application/json"], &error.to_string()))
        }
        "resources/read" => says(&cached(json!({"contents": []}))),
        _ => MockReply::Good,
    }
}

const SPACED: &str = "file:///path/to/file%20name.txt?id=1";

/// The library between two other servers.
async fn shelf() -> (Gateway, [MockServer; 3]) {
    let mocks = [
        MockServer::start(library).await,
        MockServer::start(|_| MockReply::Good).await,
        MockServer::start(|_| MockReply::Good).await,
    ];
    let [up, two, three] = mocks.each_ref().map(|mock| json!({"url": mock.url, "era": "modern"}));
    let gateway =
        Gateway::start(&format!("mcpServers: {}\n", json!({"up": up, "two": two, "three": three}))).await;
    listed(&gateway, "up__").await;
    (gateway, mocks)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_hears_its_own_names_and_what_the_client_says_of_itself() {
    let (gateway, [up, two, three]) = shelf().await;
    let meta = json!({
        "io.modelcontextprotocol/clientInfo": {"name": "kim", "version": "7"},
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"roots": {}, "elicitation": {"form": {}}, "sampling": {}},
        "io.modelcontextprotocol/logLevel": "debug",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "com.example/own": [1, {"a": null}],
        "progressToken": "t",
    });
    for (number, (method, key, outside, inside)) in [
        ("tools/call", "name", "up__tool", "tool"),
        ("prompts/get", "name", "up__prompt", "prompt"),
        ("resources/read", "uri", SPACED, SPACED),
    ]
    .into_iter()
    .enumerate()
    {
        let mut params = json!({"_meta": meta});
        params[key] = json!(outside);
        let body = json!({"jsonrpc": "2.0", "id": method, "method": method, "params": params}).to_string();
        // However a client spells the names of its headers.
        let head = Head::of("POST /mcp HTTP/1.1")
            .with("ACCEPT", "application/json, text/event-stream")
            .with("CONTENT-TYPE", "application/json")
            .with("MCP-PROTOCOL-VERSION", "2026-07-28")
            .with("MCP-METHOD", method)
            .with("mCP-nAME", outside);
        let mut client = Client::connect(gateway.port).await;
        let said = client.exchange(&head.whole(body.as_bytes())).await.expect("an answer");
        assert_eq!(said.status, 200, "{method}: {}", said.message());
        let calls = up.calls();
        assert_eq!(calls.len(), number + 1, "{method}: {calls:?}");
        let seen = calls.last().expect("it arrived");
        let got = ["mcp-name", "mcp-method", "mcp-protocol-version"].map(|name| {
            let mut there = seen.headers.iter().filter(|(header, _)| header == name);
            let value = there.next().map(|(_, value)| value.as_str());
            assert!(there.next().is_none(), "{method}: {name} stands twice");
            value
        });
        assert_eq!(got, [Some(inside), Some(method), Some("2026-07-28")], "{method}");
        assert_eq!((seen.method(), &seen.body["params"][key]), (method, &json!(inside)));
        // The progress token is the gateway's own, as the id is.
        let mut meta = meta.clone();
        meta["progressToken"] = seen.body["id"].clone();
        assert_eq!(seen.body["params"]["_meta"], meta, "{method}");
    }
    assert!(two.calls().is_empty() && three.calls().is_empty(), "nobody else hears of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_resource_is_not_there_comes_in_its_servers_words() {
    let (gateway, _puppets) = shelf().await;
    // The SDKs do not agree on the status.
    for status in [200, 400, 404] {
        let params = json!({"uri": "gone://thing", "_meta": {"status": format!("{status} So")}});
        for path in ["/mcp", "/servers/up/mcp"] {
            let (got, answer) = gateway.modern(path, "resources/read", params.clone()).await;
            let error =
                json!({"code": -32602, "message": "Resource not found", "data": {"uri": "gone://thing"}});
            assert_eq!((got, &answer["error"]), (status, &error), "{path}: {answer}");
            assert_eq!((&answer["id"], answer.get("result")), (&json!(1), None));
        }
    }
}
