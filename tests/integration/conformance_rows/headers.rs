//! Arguments that headers repeat, on every transport: HTTP, the gateway's own HTTP client, stdio.

use serde_json::{Value, json};

use super::{ConformanceSetup, message};
use crate::harness::Gateway;
use crate::mock_server::{MockReply, MockServer, RecordedRequest, answer, json_answer};
use crate::raw::{Client, Head};

/// Arguments, and the headers of their call.
type Case = (Value, &'static [(&'static str, &'static str)]);

/// A call of the tool whose arguments `region`, `priority` and `urgent` are repeated.
fn call(server: &str, arguments: Value, headers: &[(&str, &str)]) -> (Head, String) {
    let tool = format!("{server}__test_x_mcp_header");
    let head = Head::modern("/mcp", "tools/call", Some(&tool));
    let head = headers.iter().fold(head, |head, (name, value)| head.with(name, value));
    let body = message("h", "tools/call", json!({"name": tool, "arguments": arguments}), json!({}));
    (head, body.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_repeats_other_arguments_is_refused_on_every_way() {
    let setup = ConformanceSetup::start().await;
    let sound: [Case; 4] = [
        (json!({"region": "eu"}), &[("Mcp-Param-Region", "eu")]),
        (json!({"region": "Grüße"}), &[("mcp-param-region", "=?base64?R3LDvMOfZQ==?=")]),
        (
            json!({"region": "eu", "priority": 42, "urgent": false}),
            &[("MCP-PARAM-REGION", "eu"), ("Mcp-Param-Priority", "42.0"), ("Mcp-Param-Urgent", "false")],
        ),
        (json!({"region": "eu"}), &[("Mcp-Param-Region", "eu"), ("Mcp-Param-Unheard-Of", "x")]),
    ];
    let wrong: [Case; 6] = [
        (json!({"region": "eu"}), &[]),
        (json!({"region": "eu"}), &[("Mcp-Param-Region", "us")]),
        (json!({"region": "eu"}), &[("Mcp-Param-Region", "eu"), ("mcp-param-region", "eu")]),
        (json!({"region": "eu"}), &[("Mcp-Param-Region", "eu"), ("Mcp-Param-Priority", "1")]),
        (
            json!({"region": "eu", "priority": 42}),
            &[("Mcp-Param-Region", "eu"), ("Mcp-Param-Priority", "43")],
        ),
        (json!({"region": "eu"}), &[("Mcp-Param-Region", "=?base64?ZXU?=")]),
    ];
    for server in ["fix", "two", "pipe"] {
        for (arguments, headers) in &sound {
            let (head, body) = call(server, arguments.clone(), headers);
            // Whole, and in chunks that only the gateway's own HTTP client can send.
            let long =
                body.replace(r#""params":{"#, &format!(r#""params":{{"pad":"{}","#, "x".repeat(100_000)));
            for request in [head.whole(body.as_bytes()), head.chunked(long.as_bytes(), 9000)] {
                let mut client = Client::connect(setup.gateway.port).await;
                let said = client.exchange(&request).await.expect("an answer").message();
                let text = said["result"]["content"][0]["text"].as_str().unwrap_or_default();
                let got: Value = text
                    .strip_prefix("Arguments: ")
                    .map_or(Value::Null, |t| serde_json::from_str(t).expect("JSON"));
                assert_eq!(&got, arguments, "{server} {headers:?}: {said}");
            }
        }
        for (arguments, headers) in &wrong {
            let (head, body) = call(server, arguments.clone(), headers);
            let mut client = Client::connect(setup.gateway.port).await;
            let answer = client.exchange(&head.whole(body.as_bytes())).await.expect("an answer");
            let said = answer.message();
            assert_eq!(
                (answer.status, &said["error"]["code"]),
                (400, &json!(-32020)),
                "{server} {headers:?}: {said}"
            );
            assert_eq!(said["id"], "h");
        }
    }
}

/// A server whose tools are `good`, with a repeated argument, and `bad`, whose annotation no header can
/// follow.
fn play(seen: &RecordedRequest) -> MockReply {
    if seen.method() != "tools/list" {
        return MockReply::Good;
    }
    let tool = |name: &str, header: &str| {
        json!({"name": name, "inputSchema": {"type": "object", "properties":
            {"n": {"type": "integer", "x-mcp-header": header}, "key": {"type": "string", "x-mcp-header": "Key"}}}})
    };
    let tools = json!({"tools": [tool("good", "N"), tool("bad", "not a token"), tool("twice", "KEY")],
        "resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
    MockReply::Say(json_answer(&answer(seen, &tools)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_no_head_can_be_made_for_is_left_out() {
    let mock = MockServer::start(play).await;
    let gateway = Gateway::start(&format!("mcpServers: {{up: {{url: \"{}\"}}}}\n", mock.url)).await;
    super::listed(&gateway, "up__").await;
    let names = |list: &Value| -> Vec<String> {
        let tools = list["result"]["tools"].as_array().expect("tools");
        tools.iter().map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect()
    };
    let (_, list) = gateway.modern("/mcp", "tools/list", json!({})).await;
    assert_eq!(names(&list), ["up__good"]);
    let (status, answer) = gateway.call("up__bad", json!({})).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32602)), "{answer}");
    // The legacy era has no such headers, and so no fault in them.
    let session = gateway.initialize("/mcp").await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    assert_eq!(names(&gateway.say("/mcp", &session, &list).await.1), ["up__bad", "up__good", "up__twice"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_gets_the_head_that_its_arguments_call_for() {
    let mock = MockServer::start(play).await;
    let config = format!(
        "mcpServers: {{up: {{url: \"{}\", redact: {{arguments: redact}}}}}}\nguard: {{patterns: [{{name: ticket, regex: \"TCK-[0-9]{{6}}\"}}]}}\n",
        mock.url
    );
    let gateway = Gateway::start(&config).await;
    super::listed(&gateway, "up__").await;
    let params = json!({"name": "up__good", "arguments": {"n": 7, "key": "TCK-123456"}});
    let request = gateway.modern_request("/mcp", "tools/call", params);
    let request = request.header("mcp-param-n", "7.0").header("mcp-param-key", "TCK-123456");
    let response = request.header("mcp-param-other", "as it is").send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    let calls = mock.calls();
    let call = calls.first().expect("the call arrived");
    // The argument is redacted, and so is the header that repeats it.
    assert_eq!(call.body["params"]["arguments"]["key"], "[redacted:ticket]");
    assert_eq!(call.header("mcp-param-key"), Some("[redacted:ticket]"));
    assert_eq!(call.header("mcp-param-n"), Some("7"));
    assert_eq!(call.header("mcp-param-other"), Some("as it is"));
    // Free text in other headers is searched as in `_meta`; a trace is not.
    let params = json!({"name": "up__good", "arguments": {"n": 8, "key": "a"}});
    let request = gateway.modern_request("/mcp", "tools/call", params);
    let request = request.header("mcp-param-n", "8").header("mcp-param-key", "a");
    let request = request.header("baggage", "a=TCK-123456").header("tracestate", "a=TCK-123456");
    let trace = "00-41111111111111114111111111111111-b7ad6b7169203331-01";
    let request = request.header("traceparent", trace).header("user-agent", "TCK-123456");
    assert_eq!(request.send().await.expect("an answer").status(), 200);
    let calls = mock.calls();
    let call = calls.last().expect("the call arrived");
    assert_eq!([call.header("baggage"), call.header("tracestate"), call.header("user-agent")], [None; 3]);
    assert_eq!(call.header("traceparent"), Some(trace));
}
