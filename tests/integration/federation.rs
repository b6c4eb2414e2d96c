//! Many servers as one: what of each is forwarded, what is not, and what is redacted.

use serde_json::{Value, json};

use crate::harness::{Gateway, read};
use crate::mock_server::{MockReply, MockServer, RecordedRequest, answer, json_answer};

fn says(seen: &RecordedRequest, result: &Value) -> MockReply {
    MockReply::Say(json_answer(&answer(seen, result)))
}

fn handshake(seen: &RecordedRequest, capabilities: &Value) -> MockReply {
    says(
        seen,
        &json!({"supportedVersions": ["2026-07-28"], "capabilities": capabilities, "resultType": "complete",
            "ttlMs": 0, "cacheScope": "private"}),
    )
}

async fn connected(gateway: &Gateway, tools: usize) {
    let message = format!("\"tools\":{tools}");
    gateway.eventually("all is listed", async |g| g.get("/health").await.contains(&message)).await;
}

/// The last request of this method at a server.
fn asked(mock: &MockServer, method: &str) -> RecordedRequest {
    mock.all().into_iter().rfind(|seen| seen.method() == method).expect("it was asked")
}

#[tokio::test]
async fn the_page_of_a_tool_is_read_though_no_list_names_it() {
    let page = "ui://weather/page.html";
    let mock = MockServer::start(move |seen| match seen.method() {
        "server/discover" => handshake(seen, &json!({"tools": {}, "resources": {}})),
        "tools/list" => says(
            seen,
            &json!({"tools": [
                {"name": "new", "inputSchema": {"type": "object"}, "_meta": {"ui": {"resourceUri": page}}},
                {"name": "old", "inputSchema": {"type": "object"}, "_meta": {"ui/resourceUri": "ui://old"}},
                {"name": "sly", "inputSchema": {"type": "object"}, "_meta": {"ui/resourceUri": "file:///etc"}}],
                "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}),
        ),
        "resources/list" => says(seen, &json!({"resources": [], "resultType": "complete"})),
        "resources/read" => {
            let uri = &seen.body["params"]["uri"];
            says(seen, &json!({"contents": [{"uri": uri, "text": "<p>"}], "resultType": "complete"}))
        }
        _ => MockReply::Good,
    })
    .await;
    let config = format!(
        "mcpServers: {{p: {{url: \"{}\"}}, demo: {{builtin: demo}}}}\ntoolsets: {{one: {{tools: [p__new]}}}}\n",
        mock.url
    );
    let gateway = Gateway::start(&config).await;
    connected(&gateway, 8).await;
    for (path, uri, status) in [
        ("/mcp", page, 200),
        ("/mcp", "ui://old", 200),
        ("/mcp", "file:///etc", 400),
        ("/mcp", "ui://none", 400),
        ("/servers/one/mcp", page, 200),
        ("/servers/one/mcp", "ui://old", 400),
    ] {
        let (got, answer) = gateway.modern(path, "resources/read", json!({"uri": uri})).await;
        assert_eq!(got, status, "{path} {uri}: {answer}");
    }
    let (_, list) = gateway.modern("/mcp", "resources/list", json!({})).await;
    assert_eq!(list["result"]["resources"], json!([]), "{list}");
}

#[tokio::test]
async fn a_uri_goes_to_the_server_whose_template_says_most_of_it() {
    let server = |templates: &'static [&'static str]| {
        MockServer::start(move |seen| match seen.method() {
            "server/discover" => handshake(seen, &json!({"tools": {}, "resources": {}, "completions": {}})),
            "resources/templates/list" => {
                let list = templates.iter().map(|text| json!({"uriTemplate": text, "name": "t"}));
                let list: Vec<Value> = list.collect();
                says(seen, &json!({"resourceTemplates": list, "resultType": "complete"}))
            }
            "resources/list" => says(seen, &json!({"resources": [], "resultType": "complete"})),
            "resources/read" => says(seen, &json!({"contents": [], "resultType": "complete"})),
            "completion/complete" => {
                says(seen, &json!({"completion": {"values": []}, "resultType": "complete"}))
            }
            _ => MockReply::Good,
        })
    };
    let mocks = [
        server(&["{+anything}", "docs://{+path}"]).await,
        server(&["docs://{name}/raw", "docs://pages/{page}"]).await,
        server(&["docs://pages/{page}/raw"]).await,
    ];
    let servers: Vec<String> =
        mocks.iter().enumerate().map(|(at, p)| format!("s{at}: {{url: \"{}\"}}", p.url)).collect();
    let gateway = Gateway::start(&format!("mcpServers: {{{}}}\n", servers.join(", "))).await;
    connected(&gateway, 3).await;
    let reached = |method: &str| -> Vec<usize> { mocks.iter().map(|p| p.count(method)).collect() };
    let rows = [
        ("docs://pages/1/raw", 2),
        ("docs://pages/1", 1),
        ("docs://a/raw", 1),
        ("docs://a/b/raw", 0),
        ("docs://pages/1/2/raw", 0),
        ("other://x", 0),
    ];
    for (uri, server) in rows {
        let mut expected = reached("resources/read");
        expected[server] += 1;
        let (status, answer) = gateway.modern("/mcp", "resources/read", json!({"uri": uri})).await;
        assert_eq!(status, 200, "{uri}: {answer}");
        assert_eq!(reached("resources/read"), expected, "{uri}");
    }
    // A template is completed by its own text, which others match too.
    for (uri, server) in [("docs://{+path}", 0), ("docs://pages/{page}", 1), ("{+anything}", 0)] {
        let mut expected = reached("completion/complete");
        expected[server] += 1;
        let params =
            json!({"ref": {"type": "ref/resource", "uri": uri}, "argument": {"name": "x", "value": ""}});
        assert_eq!(gateway.modern("/mcp", "completion/complete", params).await.0, 200, "{uri}");
        assert_eq!(reached("completion/complete"), expected, "{uri}");
    }
}

#[tokio::test]
async fn a_server_that_has_no_tasks_does_not_see_that_its_client_has() {
    let mock = MockServer::start(|_| MockReply::Good).await;
    let gateway = Gateway::start(&format!("mcpServers: {{p: {{url: \"{}\"}}}}\n", mock.url)).await;
    connected(&gateway, 1).await;
    let able = json!({"elicitation": {}, "extensions": {"io.modelcontextprotocol/tasks": {}, "other/one": {"x": 1}}});
    let carried = json!({"elicitation": {}, "extensions": {"other/one": {"x": 1}}});
    for (path, tool) in [("/mcp", "p__tool"), ("/servers/p/mcp", "tool")] {
        let params = json!({"name": tool, "arguments": {"n": 1.50}});
        let request = gateway.modern_request(path, "tools/call", params.clone());
        let mut body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        body["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": able, "progressToken": "t"});
        let (status, said) = read(request.body(body.to_string()).send().await.expect("an answer")).await;
        assert_eq!(status, 200, "{said}");
        let seen = asked(&mock, "tools/call");
        assert_eq!(
            seen.body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"], carried,
            "{path}"
        );
        assert_eq!(
            seen.body["params"]["_meta"]["progressToken"], seen.body["id"],
            "one of the gateway's own"
        );
        assert_eq!((seen.tool(), &seen.body["params"]["arguments"]), ("tool", &json!({"n": 1.50})));
    }
}

#[tokio::test]
async fn a_federation_says_of_itself_what_its_servers_can_and_a_toolset_what_its_own_can() {
    let server = |capabilities: Value, message: &'static str| {
        MockServer::start(move |seen| match seen.method() {
            "server/discover" => says(
                seen,
                &json!({"supportedVersions": ["2026-07-28"], "capabilities": capabilities, "instructions": message,
                    "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}),
            ),
            _ => MockReply::Good,
        })
    };
    let talker = server(json!({"tools": {}, "logging": {}}), "Logs a lot.").await;
    let silent = server(json!({"tools": {}}), "Says nothing.").await;
    let gateway = Gateway::start(&format!(
        "mcpServers: {{talker: {{url: \"{}\"}}, silent: {{url: \"{}\"}}}}\ntoolsets: {{one: {{tools: [silent__tool]}}}}\n",
        talker.url, silent.url
    ))
    .await;
    connected(&gateway, 2).await;
    let discover = async |path| gateway.modern(path, "server/discover", json!({})).await.1["result"].clone();
    let all = discover("/mcp").await;
    assert_eq!(all["capabilities"]["logging"], json!({}), "{all}");
    let message = all["instructions"].as_str().expect("instructions");
    assert!(message.contains("Logs a lot.") && message.contains("Says nothing."), "{message}");
    let one = discover("/servers/one/mcp").await;
    assert_eq!(one["capabilities"], json!({"tools": {"listChanged": true}}), "{one}");
    assert_eq!(one["instructions"], "## silent\nSays nothing.");
}

#[tokio::test]
async fn what_is_completed_has_no_name_in_the_head() {
    let mock = MockServer::start(|seen| match seen.method() {
        "server/discover" => handshake(seen, &json!({"tools": {}, "prompts": {}, "completions": {}})),
        "prompts/list" => says(seen, &json!({"prompts": [{"name": "ask"}], "resultType": "complete"})),
        "completion/complete" | "prompts/get" => {
            says(seen, &json!({"completion": {"values": ["x"]}, "messages": [], "resultType": "complete"}))
        }
        _ => MockReply::Good,
    })
    .await;
    let gateway = Gateway::start(&format!("mcpServers: {{p: {{url: \"{}\"}}}}\n", mock.url)).await;
    connected(&gateway, 1).await;
    let params =
        json!({"ref": {"type": "ref/prompt", "name": "p__ask"}, "argument": {"name": "x", "value": ""}});
    assert_eq!(gateway.modern("/mcp", "completion/complete", params).await.0, 200);
    let seen = asked(&mock, "completion/complete");
    assert_eq!((seen.header("mcp-name"), &seen.body["params"]["ref"]["name"]), (None, &json!("ask")));
    assert_eq!(gateway.modern("/mcp", "prompts/get", json!({"name": "p__ask"})).await.0, 200);
    assert_eq!(asked(&mock, "prompts/get").header("mcp-name"), Some("ask"));
}

#[tokio::test]
async fn what_the_user_answers_is_searched_like_arguments_and_the_servers_state_is_left_alone() {
    const CARD: &str = "4111 1111 1111 1111";
    const STATE: &str = "eyJ4Ijo0fQ.4111111111111111.TCK";
    let mock = MockServer::start(|seen| match seen.method() {
        "tools/call" if seen.body["params"].get("inputResponses").is_none() => {
            let asks = json!({"q": {"method": "elicitation/create", "params": {"message": CARD}}});
            says(seen, &json!({"resultType": "input_required", "requestState": STATE, "inputRequests": asks}))
        }
        _ => MockReply::Good,
    })
    .await;
    let config = |what: &str| {
        format!("mcpServers: {{p: {{url: \"{}\", redact: {{{what}}}}}}}\nguard: {{}}\n", mock.url)
    };
    let gateway = Gateway::start(&config("arguments: redact, results: redact")).await;
    connected(&gateway, 1).await;
    let mut params = json!({"name": "p__tool", "arguments": {"a": CARD}});
    let (_, asked_back) = gateway.modern("/mcp", "tools/call", params.clone()).await;
    let result = &asked_back["result"];
    assert_eq!(result["requestState"], STATE, "{asked_back}");
    assert_eq!(result["inputRequests"]["q"]["params"]["message"], "[redacted:credit_card]", "{asked_back}");
    params["requestState"] = json!(STATE);
    params["inputResponses"] = json!({"q": {"action": "accept", "content": {"card": CARD}}});
    assert_eq!(gateway.modern("/mcp", "tools/call", params.clone()).await.0, 200);
    let seen = asked(&mock, "tools/call").body["params"].clone();
    assert_eq!(seen["inputResponses"]["q"]["content"]["card"], "[redacted:credit_card]", "{seen}");
    assert_eq!(seen["arguments"]["a"], "[redacted:credit_card]", "{seen}");
    assert_eq!(seen["requestState"], STATE);

    gateway.rewrite(&config("arguments: block"));
    params["arguments"] = json!({});
    gateway
        .eventually("it is refused", async |g| {
            let (status, said) = g.modern("/mcp", "tools/call", params.clone()).await;
            status == 400 && said["error"]["code"] == -32602
        })
        .await;
}

#[tokio::test]
async fn a_client_that_takes_no_stream_is_told_so() {
    let gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    connected(&gateway, 5).await;
    let params = json!({"notifications": {"toolsListChanged": true}});
    let request = gateway.modern_request("/mcp", "subscriptions/listen", params);
    let (client, request) = request.build_split();
    let mut request = request.expect("a request");
    request.headers_mut().insert("accept", "application/json".parse().expect("a value"));
    let (status, said) = read(client.execute(request).await.expect("an answer")).await;
    assert_eq!(status, 406, "{said}");
    assert!(
        said["error"]["message"].as_str().is_some_and(|message| message.contains("text/event-stream")),
        "{said}"
    );
}

#[tokio::test]
async fn a_page_does_not_take_the_place_of_a_resource() {
    let server = |uri: &'static str, text: &'static str| {
        MockServer::start(move |seen| match seen.method() {
            "server/discover" => handshake(seen, &json!({"tools": {}, "resources": {}})),
            "tools/list" => says(
                seen,
                &json!({"tools": [{"name": "tool", "inputSchema": {"type": "object"},
                    "_meta": {"ui": {"resourceUri": "ui://same"}}}], "resultType": "complete"}),
            ),
            "resources/list" => {
                says(seen, &json!({"resources": [{"uri": uri, "name": "r"}], "resultType": "complete"}))
            }
            "resources/read" => says(seen, &json!({"contents": [{"text": text}], "resultType": "complete"})),
            _ => MockReply::Good,
        })
    };
    let (first, second) = (server("a://x", "first").await, server("ui://same", "second").await);
    let mut gateway = Gateway::start(&format!(
        "mcpServers: {{a: {{url: \"{}\"}}, b: {{url: \"{}\"}}}}\n",
        first.url, second.url
    ))
    .await;
    connected(&gateway, 2).await;
    let (_, read) = gateway.modern("/mcp", "resources/read", json!({"uri": "ui://same"})).await;
    assert_eq!(read["result"]["contents"][0]["text"], "second", "{read}");
    gateway.process.wait_for("which has the same URI");
}
