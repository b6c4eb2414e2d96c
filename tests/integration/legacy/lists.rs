//! Lists in the form in which the server itself sends them.

use serde_json::json;

use super::listed;
use crate::harness::{Gateway, a_fixture};
use crate::mock_server::{MockReply, MockServer, answer, good, http};

async fn kind_of(gateway: &Gateway, path: &str, accept: &str) -> (String, String) {
    let session = gateway.initialize(path).await;
    let list = json!({"jsonrpc": "2.0", "id": "l\u{e9}", "method": "tools/list"});
    let request = gateway.http.post(gateway.url(path)).header("mcp-session-id", &session);
    let request = request.header("accept", accept).header("content-type", "application/json");
    let response = request.body(list.to_string()).send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    let kind = response.headers()["content-type"].to_str().expect("ASCII").to_owned();
    (kind, response.text().await.expect("a body"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_alone_keeps_the_form_of_its_lists() {
    const BOTH: &str = "application/json, text/event-stream";
    let (_fixture, url) = a_fixture().await;
    let gateway =
        Gateway::start(&format!("mcpServers: {{fix: {{url: \"{url}\"}}, demo: {{builtin: demo}}}}\n")).await;
    listed(&gateway, "fix__echo").await;

    let (kind, text) = kind_of(&gateway, "/servers/fix/mcp", BOTH).await;
    assert_eq!(kind, "text/event-stream");
    let data = text.strip_prefix("event: message\ndata: ").and_then(|text| text.strip_suffix("\n\n"));
    let message: serde_json::Value = serde_json::from_str(data.expect("one event")).expect("JSON");
    assert_eq!(message["id"], "l\u{e9}");
    assert!(message["result"]["tools"].as_array().is_some_and(|tools| tools.len() > 10));

    for (path, accept) in
        [("/servers/fix/mcp", "application/json"), ("/mcp", BOTH), ("/servers/demo/mcp", BOTH)]
    {
        assert_eq!(kind_of(&gateway, path, accept).await.0, "application/json", "{path} {accept}");
    }
}

#[tokio::test]
async fn a_list_of_many_lines_is_one_event() {
    let server = MockServer::start(|seen| match seen.method() {
        "tools/list" => {
            let tool = "{\r\n \"name\": \"tool\",\n \"inputSchema\": {\"type\": \"object\"}\r}";
            let text = answer(seen, &json!({"tools": ["TOOL"]})).replace("\"TOOL\"", tool);
            let data: String = text.split(['\n', '\r']).map(|line| format!("data: {line}\n")).collect();
            MockReply::Say(http("200 OK", &["Content-Type: text/event-stream"], &format!("{data}\n")))
        }
        _ => MockReply::Say(good(seen)),
    })
    .await;
    let gateway = Gateway::start(&format!("mcpServers: {{p: {{url: \"{}\"}}}}\n", server.url)).await;
    listed(&gateway, "p__tool").await;
    let (kind, text) = kind_of(&gateway, "/servers/p/mcp", "text/event-stream, application/json").await;
    assert_eq!(kind, "text/event-stream");
    let data = text.strip_prefix("event: message\ndata: ").and_then(|text| text.strip_suffix("\n\n"));
    let message: serde_json::Value = serde_json::from_str(data.expect("one event")).expect("on one line");
    assert_eq!(message["result"]["tools"][0]["name"], "tool");
}
