//! Rows of the stateless protocol: what a request must carry, what was removed, and how lists look.

use serde_json::{Value, json};

use super::{ConformanceSetup, message};
use crate::events::Events;
use crate::harness::{Gateway, read};
use crate::mock_server::{MockReply, MockServer, json_answer};
use crate::raw::{Client, Head};

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_its_envelope_is_refused_under_its_id() {
    let setup = ConformanceSetup::start().await;
    type Change = fn(&mut Value, Head) -> Head;
    let rows: [(&str, Change, i64); 9] = [
        ("no _meta", |m, h| (m["params"].as_object_mut().expect("params").remove("_meta"), h).1, -32602),
        (
            "no version",
            |m, h| (m["params"]["_meta"].as_object_mut().expect("meta").remove(VERSION), h).1,
            -32602,
        ),
        (
            "no capabilities",
            |m, h| (m["params"]["_meta"].as_object_mut().expect("meta").remove(CAPABILITIES), h).1,
            -32602,
        ),
        (
            "another version",
            |m, h| {
                m["params"]["_meta"][VERSION] = json!("1900-01-01");
                h.set("MCP-Protocol-Version", "1900-01-01")
            },
            -32022,
        ),
        ("another version in the head", |_, h| h.set("MCP-Protocol-Version", "2025-11-25"), -32020),
        ("no version in the head", |_, h| h.without("MCP-Protocol-Version"), -32020),
        ("another method in the head", |_, h| h.set("Mcp-Method", "tools/list"), -32020),
        ("another name in the head", |_, h| h.set("Mcp-Name", "two__echo"), -32020),
        ("no name in the head", |_, h| h.without("Mcp-Name"), -32020),
    ];
    for server in ["fix", "two", "pipe"] {
        let tool = format!("{server}__counter");
        for (what, change, code) in rows {
            let id = format!("{server}, {what}");
            let params = json!({"name": tool, "arguments": {"name": "reached"}});
            let mut body = message(&*id, "tools/call", params, json!({}));
            let head = change(&mut body, Head::modern("/mcp", "tools/call", Some(&tool)));
            let mut client = Client::connect(setup.gateway.port).await;
            let answer = client.exchange(&head.whole(body.to_string().as_bytes())).await.expect("an answer");
            let said = answer.message();
            assert_eq!((answer.status, &said["error"]["code"]), (400, &json!(code)), "{id}: {said}");
            assert_eq!(said["id"], json!(id), "{said}");
            if code == -32022 {
                assert_eq!(said["error"]["data"]["requested"], "1900-01-01");
                assert_eq!(said["error"]["data"]["supported"], json!(["2026-07-28"]));
            }
        }
        assert_eq!(setup.count(server, "reached").await, 0, "no refused call reached {server}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_of_the_old_era_are_unknown_at_the_modern_wire() {
    let setup = ConformanceSetup::start().await;
    let gone = [
        "initialize",
        "ping",
        "logging/setLevel",
        "resources/subscribe",
        "resources/unsubscribe",
        "tasks/list",
        "nope",
    ];
    for method in gone {
        let params = json!({"uri": "test://static-text", "level": "info"});
        let (status, answer) = setup.gateway.modern("/mcp", method, params).await;
        assert_eq!((status, &answer["error"]["code"]), (404, &json!(-32601)), "{method}: {answer}");
        assert_eq!(answer["id"], 1, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_discover_promises_is_there() {
    let setup = ConformanceSetup::start().await;
    let (status, answer) = setup.gateway.modern("/mcp", "server/discover", json!({})).await;
    let result = &answer["result"];
    assert_eq!((status, &result["supportedVersions"]), (200, &json!(["2026-07-28"])), "{answer}");
    assert_eq!(result["resultType"], "complete");
    let able = result["capabilities"].as_object().expect("capabilities");
    let lists = [("tools", "tools/list"), ("prompts", "prompts/list"), ("resources", "resources/list")];
    for (capability, method) in lists {
        let (status, answer) = setup.gateway.modern("/mcp", method, json!({})).await;
        assert!(able.contains_key(capability), "{able:?}");
        assert_eq!((status, answer["result"][capability].is_array()), (200, true), "{method}: {answer}");
    }
    // By `logLevel` of a request; there is no logging/setLevel.
    assert!(able.contains_key("logging"), "{able:?}");
    let complete = json!({"ref": {"type": "ref/prompt", "name": "two__test_prompt_with_arguments"},
        "argument": {"name": "arg1", "value": "par"}});
    let (status, answer) = setup.gateway.modern("/mcp", "completion/complete", complete).await;
    assert!(able.contains_key("completions"));
    assert_eq!((status, &answer["result"]["completion"]["values"][0]), (200, &json!("paris")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_ordered_cacheable_and_keep_their_schemas() {
    let setup = ConformanceSetup::start().await;
    let (_, first) = setup.gateway.modern("/mcp", "tools/list", json!({})).await;
    let (_, second) = setup.gateway.modern("/mcp", "tools/list", json!({})).await;
    assert_eq!(first, second, "the order is the same each time");
    let tools = first["result"]["tools"].as_array().expect("tools");
    let names: Vec<&str> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
    assert!(names.is_sorted() && names.len() > 90, "{names:?}");
    let sound = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    assert!(names.iter().all(|name| name.len() <= 128 && name.chars().all(sound)), "{names:?}");
    // Each of the three has 2 s and public.
    assert_eq!((&first["result"]["ttlMs"], &first["result"]["cacheScope"]), (&json!(2000), &json!("public")));

    let body = message(1, "tools/list", json!({}), json!({}));
    let direct =
        setup.gateway.http.post(&setup.direct).header("accept", "application/json, text/event-stream");
    let direct = direct.header("mcp-protocol-version", "2026-07-28").header("mcp-method", "tools/list");
    let direct = direct.header("content-type", "application/json").body(body.to_string());
    let (_, direct) = read(direct.send().await.expect("the server answers")).await;
    for tool in direct["result"]["tools"].as_array().expect("tools") {
        for server in ["fix", "two", "pipe"] {
            let name = format!("{server}__{}", tool["name"].as_str().expect("a name"));
            let here = tools.iter().find(|tool| tool["name"] == *name).expect("it is listed");
            assert_eq!(here["inputSchema"].to_string(), tool["inputSchema"].to_string(), "{name}");
        }
    }
}

/// Schemas in a form that no JSON writer would produce again.
const SCHEMAS: [&str; 3] = [
    r##"{ "type" :"object", "$schema":"https://json-schema.org/draft/2020-12/schema","properties":{"b":{"$ref":"#/$defs/\u00e9"}, "a":{"const":1.0}, "é":{"maximum":1e2,"minimum":-0}},  "$defs":{"é":{"$anchor":"x","type":["string","null"]}} }"##,
    r#"{"required":["b","a"],"type":"object","if":{"properties":{"k":{"const":"A\/B"}}},"then":false,"else":true,"unevaluatedProperties":false,"prefixItems":[],"dependentSchemas":{}}"#,
    r#"{"type":"object","properties":{"n":{"maximum":123456789012345678901234567890,"multipleOf":0.10},"":{"enum":["\ud83d\ude00","😀",null,1E+2]}},"additionalProperties":{"$dynamicRef":"\u0023meta"}}"#,
];

#[tokio::test(flavor = "multi_thread")]
async fn schemas_come_through_the_federation_byte_for_byte() {
    let servers = SCHEMAS.map(|schema| {
        MockServer::start(move |seen| match seen.method() {
            "tools/list" => {
                let tool = format!(r#"{{"name":"tool","inputSchema":{schema},"outputSchema":{schema}}}"#);
                MockReply::Say(json_answer(&format!(
                    r#"{{"jsonrpc":"2.0","id":{},"result":{{"tools":[{tool}],"resultType":"complete","ttlMs":0,"cacheScope":"private"}}}}"#,
                    seen.body["id"]
                )))
            }
            _ => MockReply::Good,
        })
    });
    let servers = futures::future::join_all(servers).await;
    let config =
        json!({"a": {"url": servers[0].url}, "b": {"url": servers[1].url}, "c": {"url": servers[2].url}});
    let gateway = Gateway::start(&format!("mcpServers: {config}\n")).await;
    gateway.eventually("all are listed", async |g| g.get("/health").await.contains("\"tools\":3")).await;
    let modern = gateway.modern_request("/mcp", "tools/list", json!({}));
    let session = gateway.initialize("/mcp").await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    for request in [modern, gateway.post("/mcp", Some(&session), &list)] {
        let text = request.send().await.expect("an answer").text().await.expect("a body");
        for (server, schema) in ["a", "b", "c"].into_iter().zip(SCHEMAS) {
            assert!(text.contains(&format!("\"{server}__tool\"")), "{text}");
            for key in ["inputSchema", "outputSchema"] {
                assert!(text.contains(&format!("\"{key}\":{schema}")), "{key} of {server}: {text}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_resource_may_be_kept_for_is_what_its_server_says() {
    let setup = ConformanceSetup::start().await;
    for path in ["/mcp", "/servers/fix/mcp", "/servers/two/mcp", "/servers/pipe/mcp"] {
        let read = json!({"uri": "test://static-text"});
        let (status, answer) = setup.gateway.modern(path, "resources/read", read).await;
        let result = &answer["result"];
        assert_eq!((status, &result["resultType"]), (200, &json!("complete")), "{path}: {answer}");
        let said = (&result["ttlMs"], &result["cacheScope"]);
        assert_eq!(said, (&json!(1000), &json!("private")), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_private_or_stale_makes_the_list_so() {
    let setup = ConformanceSetup::start().await;
    // A server without caching hints.
    let mock = MockServer::start(|_| MockReply::Good).await;
    let gateway = Gateway::start(&format!(
        "mcpServers: {{up: {{url: \"{}\"}}, fix: {{url: \"{}\"}}}}\n",
        mock.url, setup.direct
    ))
    .await;
    super::listed(&gateway, "up__").await;
    super::listed(&gateway, "fix__").await;
    let (_, list) = gateway.modern("/mcp", "tools/list", json!({})).await;
    let said = (&list["result"]["ttlMs"], &list["result"]["cacheScope"]);
    assert_eq!(said, (&json!(0), &json!("private")), "{list}");
    let (_, list) = gateway.modern("/servers/fix/mcp", "tools/list", json!({})).await;
    let said = (&list["result"]["ttlMs"], &list["result"]["cacheScope"]);
    assert_eq!(said, (&json!(2000), &json!("public")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strange_host_or_resource_is_refused() {
    let setup = ConformanceSetup::start().await;
    let body = message(1, "server/discover", json!({}), json!({})).to_string();
    let head = || Head::modern("/mcp", "server/discover", None);
    let mut client = Client::connect(setup.gateway.port).await;
    let evil = head().set("Host", "evil.example").set("Origin", "http://evil.example");
    let answer = client.exchange(&evil.whole(body.as_bytes())).await.expect("an answer");
    assert!((400..500).contains(&answer.status), "{}", answer.status);
    let mut client = Client::connect(setup.gateway.port).await;
    let local = head().set("Host", &format!("localhost:{}", setup.gateway.port));
    let answer = client.exchange(&local.whole(body.as_bytes())).await.expect("an answer");
    assert_eq!(answer.status, 200);

    for uri in ["test://nowhere", "none://such"] {
        let (_, answer) = setup.gateway.modern("/mcp", "resources/read", json!({"uri": uri})).await;
        assert_eq!(answer["error"]["code"], -32602, "{uri}: {answer}");
        assert!(answer.get("result").is_none(), "never empty contents: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_side_by_side_keep_their_own_tokens() {
    let setup = ConformanceSetup::start().await;
    let ask = |server: &str| {
        let params = json!({"name": format!("{server}__stream"), "arguments": {"n": 3, "interval_ms": 20},
            "_meta": {"progressToken": server}});
        Events::open(setup.gateway.modern_request("/mcp", "tools/call", params))
    };
    let (mut fix, mut two, mut pipe) = tokio::join!(ask("fix"), ask("two"), ask("pipe"));
    let all = tokio::join!(fix.rest(), two.rest(), pipe.rest());
    for (server, messages) in [("fix", all.0), ("two", all.1), ("pipe", all.2)] {
        let output: Vec<&Value> =
            messages.iter().filter(|m| m["method"] == "notifications/progress").collect();
        assert_eq!(output.len(), 3, "{server}: {messages:?}");
        assert!(output.iter().all(|m| m["params"]["progressToken"] == server), "{server}: {output:?}");
        let last = messages.last().expect("an answer");
        assert_eq!(last["result"]["content"][0]["text"], "streamed 3", "{server}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_well_known_documents_are_never_passed_off_as_ours() {
    // It serves a metadata document to any client.
    let mock = MockServer::start(|seen| match seen.http_method.as_str() {
        "GET" => MockReply::Say(json_answer(r#"{"issuer":"the server's own"}"#)),
        _ => MockReply::Good,
    })
    .await;
    let gateway = Gateway::start(&format!("mcpServers: {{up: {{url: \"{}\"}}}}\n", mock.url)).await;
    super::listed(&gateway, "up__").await;
    for document in [
        "oauth-protected-resource",
        "oauth-protected-resource/mcp",
        "oauth-protected-resource/servers/up/mcp",
        "oauth-authorization-server",
        "oauth-authorization-server/mcp",
        "openid-configuration",
        "ai-catalog.json",
        "mcp.json",
        "jwks.json",
        "",
    ] {
        for path in [format!("/.well-known/{document}"), format!("/servers/up/mcp/.well-known/{document}")] {
            let response = gateway.http.get(gateway.url(&path)).send().await.expect("an answer");
            let (status, answer) = read(response).await;
            let code = answer["error"]["code"].as_str().unwrap_or_default().to_owned();
            assert_eq!(status, 404, "{path}: {answer}");
            assert!(["no_endpoint", "no_metadata"].contains(&&*code), "{path}: {answer}");
        }
    }
}
