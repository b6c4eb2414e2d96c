//! List entries that clients cannot read: each is dropped without any other effect, whichever server has
//! it.

use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::clients::{Sdk, run, step};
use crate::harness::Gateway;
use crate::mock_server::{MockReply, MockServer, RecordedRequest, answer, good, http, json_answer};

mod handshake;

/// The lists of a server, by their member names.
type Lists = Arc<Value>;

fn plays(lists: Lists) -> impl Fn(&RecordedRequest) -> MockReply + Send + Sync + 'static {
    let capabilities = json!({"tools": {}, "prompts": {}, "resources": {}});
    let info = json!({"name": "mock", "version": "1"});
    move |seen| {
        let member = match seen.method() {
            "initialize" => {
                let result = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info});
                let headers = ["Content-Type: application/json", "Mcp-Session-Id: theirs"];
                return MockReply::Say(http("200 OK", &headers, &answer(seen, &result)));
            }
            "server/discover" => {
                let result = json!({"supportedVersions": ["2026-07-28"], "capabilities": capabilities,
                    "resultType": "complete", "ttlMs": 0, "cacheScope": "private", "serverInfo": info});
                return MockReply::Say(json_answer(&answer(seen, &result)));
            }
            "tools/list" => "tools",
            "prompts/list" => "prompts",
            "resources/list" => "resources",
            "resources/templates/list" => "resourceTemplates",
            _ => return MockReply::Good,
        };
        let result =
            json!({member: lists[member], "resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
        MockReply::Say(json_answer(&answer(seen, &result)))
    }
}

/// The entry with further members, or others.
fn with(mut entry: Value, members: Value) -> Value {
    for (name, value) in members.as_object().expect("members") {
        entry[name] = value.clone();
    }
    entry
}

fn tool(name: &str, members: Value) -> Value {
    with(json!({"name": name, "inputSchema": {"type": "object"}}), members)
}

/// Shapes of tools that are invalid in both eras, each with the path that the warning names.
fn bad_tools() -> Vec<(Value, &'static str)> {
    let shapes = [
        (json!({"inputSchema": {}}), "/inputSchema"),
        (json!({"inputSchema": null}), "/inputSchema"),
        (json!({"inputSchema": []}), "/inputSchema"),
        (json!({"inputSchema": {"type": "array"}}), "/inputSchema/type"),
        (json!({"inputSchema": {"type": ["object"]}}), "/inputSchema/type"),
        (json!({"inputSchema": {"type": "object", "$schema": 7}}), "/inputSchema/$schema"),
        (json!({"annotations": {"title": null}}), "/annotations/title"),
        (json!({"annotations": {"readOnlyHint": "yes"}}), "/annotations/readOnlyHint"),
        (json!({"annotations": {"destructiveHint": null}}), "/annotations/destructiveHint"),
        (json!({"annotations": {"openWorldHint": 1}}), "/annotations/openWorldHint"),
        (json!({"annotations": null}), "/annotations"),
        (json!({"annotations": []}), "/annotations"),
        (json!({"description": 1}), "/description"),
        (json!({"description": null}), "/description"),
        (json!({"description": ["a"]}), "/description"),
        (json!({"title": {}}), "/title"),
        (json!({"title": null}), "/title"),
        (json!({"icons": {}}), "/icons"),
        (json!({"icons": [{}]}), "/icons/0"),
        (json!({"icons": [{"src": 1}]}), "/icons/0/src"),
        (json!({"icons": [{"src": "data:,", "sizes": "any"}]}), "/icons/0/sizes"),
        (json!({"icons": [{"src": "data:,", "theme": "blue"}]}), "/icons/0/theme"),
        (json!({"icons": null}), "/icons"),
        (json!({"outputSchema": []}), "/outputSchema"),
        (json!({"outputSchema": null}), "/outputSchema"),
        (json!({"outputSchema": {"$schema": null}}), "/outputSchema/$schema"),
        (json!({"_meta": []}), "/_meta"),
        (json!({"_meta": null}), "/_meta"),
        (json!({"execution": {"taskSupport": "maybe"}}), "/execution/taskSupport"),
        (json!({"execution": []}), "/execution"),
    ];
    let tools = shapes.into_iter().enumerate();
    tools.map(|(at, (shape, place))| (tool(&format!("bad-{at:02}"), shape), place)).collect()
}

fn sound_and_bad() -> Value {
    let mut tools: Vec<Value> = bad_tools().into_iter().map(|(tool, _)| tool).collect();
    tools.extend([
        json!({"title": "no name"}),
        json!({"name": 7}),
        json!("no object"),
        json!({"name": "bare"}),
    ]);
    tools.insert(
        7,
        tool(
            "tool",
            json!({"more": null, "annotations": {"more": 1}, "icons": [{"src": "no uri", "more": {}}]}),
        ),
    );
    let prompt = |members| with(json!({"name": "bad"}), members);
    let resource = |members| with(json!({"uri": "a://bad", "name": "bad"}), members);
    let template = |members| with(json!({"uriTemplate": "a://{bad}", "name": "bad"}), members);
    json!({
        "tools": tools,
        "prompts": [
            prompt(json!({"arguments": {}})),
            prompt(json!({"arguments": [{}]})),
            prompt(json!({"arguments": [{"name": "a", "required": "yes"}]})),
            prompt(json!({"arguments": null})),
            prompt(json!({"description": null})),
            {"name": "ask", "arguments": [{"name": "a", "more": null}]},
        ],
        "resources": [
            resource(json!({"mimeType": null})),
            resource(json!({"size": "1"})),
            resource(json!({"size": 1.5})),
            resource(json!({"size": 1e300})),
            resource(json!({"name": null})),
            resource(json!({"annotations": {"priority": 2}})),
            resource(json!({"annotations": {"audience": ["nobody"]}})),
            resource(json!({"annotations": {"lastModified": "yesterday"}})),
            {"uri": "a://nameless"},
            {"uri": "no uri", "name": "a", "size": 9_007_199_254_740_993_u64},
        ],
        "resourceTemplates": [
            template(json!({"mimeType": 1})),
            template(json!({"annotations": {"lastModified": 1}})),
            {"uriTemplate": "a://{nameless}"},
            {"uriTemplate": "a://{b", "name": "a", "size": "any"},
        ],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_cannot_read_costs_them_no_list_and_is_told_of_once() {
    let lists = Arc::new(sound_and_bad());
    let bad = MockServer::start(plays(lists)).await;
    let sound = MockServer::start(|_| MockReply::Good).await;
    let config = format!(
        "mcpServers: {{bad: {{url: \"{}\", health: {{interval: 1h}}}}, sound: {{url: \"{}\"}}}}\n",
        bad.url, sound.url
    );
    let mut gateway = Gateway::start(&config).await;
    gateway.eventually("both are listed", async |g| g.get("/health").await.contains("\"tools\":2")).await;
    // Without the gateway such a list is useless.
    let plan = [step("tool", json!({}), "done")];
    for sdk in [Sdk::Python, Sdk::TypeScript] {
        assert!(!run(sdk, &bad.url, "legacy", &plan).await.ok, "{sdk:?} takes such lists by now");
    }
    let both = [step("bad__tool", json!({}), "done"), step("sound__tool", json!({}), "done")];
    let all = gateway.url("/mcp");
    let alone = gateway.url("/servers/bad/mcp");
    let runs = [
        (Sdk::Python, "legacy"),
        (Sdk::TypeScript, "legacy"),
        (Sdk::Python, "2026-07-28"),
        (Sdk::TypeScript, "modern"),
    ];
    let runs = runs.into_iter().flat_map(|(sdk, mode)| {
        [
            (sdk, mode, &all, &both[..], json!(["bad__tool", "sound__tool"]), "bad__ask"),
            (sdk, mode, &alone, &plan[..], json!(["tool"]), "ask"),
        ]
    });
    for (sdk, mode, url, plan, tools, prompt) in runs {
        let ran = run(sdk, url, mode, plan).await;
        assert!(ran.ok && ran.bad().is_empty(), "{url}: {}", ran.output);
        assert_eq!(ran.seen["tools"], tools, "{url}: {}", ran.output);
        assert_eq!(ran.seen["prompts"], json!([prompt]), "{url}: {}", ran.output);
        assert_eq!(ran.seen["resources"], json!(["no uri"]), "{url}: {}", ran.output);
        assert_eq!(ran.seen["templates"], json!(["a://{b"]), "{url}: {}", ran.output);
    }
    for (kind, count) in [("tools", 34.0), ("prompts", 5.0), ("resources", 9.0), ("resourceTemplates", 3.0)] {
        let metric = format!(r#"toolgate_catalog_rejected{{kind="{kind}",server="bad"}}"#);
        assert_eq!(gateway.metric(&metric).await, count, "{kind}");
    }
    gateway.process.wait_for("a://{nameless}");
    let log = gateway.process.output();
    let output = |message: &[&str]| {
        let lines = log.lines().filter(|line| line.contains("it is left out"));
        lines.filter(|line| message.iter().all(|word| line.contains(word))).count()
    };
    for (tool, place) in bad_tools() {
        let name = format!("\"{}\"", tool["name"].as_str().expect("a name"));
        let output =
            output(&["\"server\":\"bad\"", "\"kind\":\"tools\"", "\"eras\":\"legacy,modern\"", &name, place]);
        assert_eq!(output, 1, "{tool}\n{log}");
    }
    assert_eq!(output(&["\"bare\"", "the property `inputSchema` is missing"]), 1, "{log}");
    let printed = Command::new(env!("CARGO_BIN_EXE_toolgate"))
        .args(["tools", "-c"])
        .arg(gateway.folder.path().join("toolgate.yaml"))
        .output()
        .expect("the command runs");
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    for (tool, place) in bad_tools() {
        let name = format!("bad__{}", tool["name"].as_str().expect("a name"));
        let marks = printed.lines().filter(|line| line.starts_with(&name));
        let marks: Vec<&str> =
            marks.filter(|line| line.contains("left out") && line.contains(place)).collect();
        assert_eq!(marks.len(), 2, "{name} in each era: {printed}");
    }
}

#[tokio::test]
async fn an_entry_is_held_against_the_revision_it_is_shown_in_and_comes_back_when_it_fits() {
    let lists = std::sync::Mutex::new(vec![
        tool("both", json!({})),
        // A schema may be `true` from 2026-07-28 on.
        tool("modern", json!({"inputSchema": {"type": "object", "properties": {"a": true}}})),
        tool("neither", json!({"title": 7})),
    ]);
    let lists = Arc::new(lists);
    let shared = lists.clone();
    let mock = MockServer::start(move |seen| match seen.method() {
        "tools/list" => {
            let tools = shared.lock().expect("nobody panics with the lock").clone();
            let result =
                json!({"tools": tools, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
            MockReply::Say(json_answer(&answer(seen, &result)))
        }
        _ => MockReply::Good,
    })
    .await;
    let health = "health: {interval: 1s}";
    let mut gateway =
        Gateway::start(&format!("mcpServers: {{p: {{url: \"{}\", {health}}}}}\n", mock.url)).await;
    gateway.eventually("all is listed", async |g| g.get("/health").await.contains("\"tools\":2")).await;
    let session = gateway.initialize("/mcp").await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let names = |answer: &Value| -> Vec<String> {
        let tools = answer["result"]["tools"].as_array().expect("a list").iter();
        tools.map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(&gateway.say("/mcp", &session, &list).await.1), ["p__both"]);
    assert_eq!(names(&gateway.modern("/mcp", "tools/list", json!({})).await.1), ["p__both", "p__modern"]);
    // Nor can it be called where it is not shown.
    let (status, _) = gateway.call("p__neither", json!({})).await;
    assert_eq!(status, 400);
    assert!(gateway.process.wait_for("\"modern\"").contains("\"eras\":\"legacy\""));
    lists.lock().expect("nobody panics with the lock")[2] = tool("neither", json!({"title": "seven"}));
    let config = format!("mcpServers: {{p: {{url: \"{}\", {health}, timeout: 31s}}}}\n", mock.url);
    gateway.rewrite(&config);
    let both = ["p__both", "p__neither"];
    gateway.eventually("it fits now", async |g| names(&g.say("/mcp", &session, &list).await.1) == both).await;
    assert_eq!(gateway.metric(r#"toolgate_catalog_rejected{kind="tools",server="p"}"#).await, 1.0);
}

/// Lists are read repeatedly: the log reports a dropped entry once for each reason.
#[tokio::test]
async fn what_is_left_out_is_told_of_once() {
    let lists = Arc::new(std::sync::Mutex::new(json!({"title": 7})));
    let shared = lists.clone();
    let mock = MockServer::start(move |seen| match seen.method() {
        "tools/list" => {
            let members = shared.lock().expect("nobody panics with the lock").clone();
            let tools = [tool("odd", members), tool("same", json!({}))];
            let result =
                json!({"tools": tools, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
            MockReply::Say(json_answer(&answer(seen, &result)))
        }
        _ => MockReply::Good,
    })
    .await;
    // The second server has no prefix, and uses names that the first shows already.
    let other = MockServer::start(|seen| match seen.method() {
        "tools/list" => {
            let tools = [tool("p__same", json!({}))];
            let result =
                json!({"tools": tools, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
            MockReply::Say(json_answer(&answer(seen, &result)))
        }
        _ => MockReply::Good,
    })
    .await;
    let config = |number: usize| {
        format!(
            "mcpServers: {{p: {{url: \"{}\", headers: {{X-Number: \"{number}\"}}}}, q: {{url: \"{}\", prefix: \"\"}}}}\n",
            mock.url, other.url
        )
    };
    let gateway = Gateway::start(&config(0)).await;
    let count =
        |message: &str| gateway.process.output().lines().filter(|line| line.contains(message)).count();
    let left_out = async |entries: f64| {
        let metric = r#"toolgate_catalog_rejected{kind="tools",server="p"}"#;
        gateway
            .eventually("the list was read", async |g| (g.metric(metric).await - entries).abs() < 0.5)
            .await;
    };
    left_out(1.0).await;
    // With another header it is connected again, its list is read again, and all lists are built again.
    let shapes =
        [json!({}), json!({"title": 7}), json!({}), json!({"title": []}), json!({}), json!({"title": 7})];
    for (n, shape) in shapes.into_iter().enumerate() {
        let entries = if shape == json!({}) { 0.0 } else { 1.0 };
        *lists.lock().expect("nobody panics with the lock") = shape;
        gateway.rewrite(&config(1 + n));
        left_out(entries).await;
    }
    let log = gateway.process.output();
    assert_eq!(count("clients could not read the entry"), 2, "{log}");
    assert_eq!(count("the name is taken"), 1, "{log}");
}

/// A JSON text with the escape of half a surrogate pair at each `HALF`.
fn halves(value: &Value) -> String {
    value.to_string().replace("HALF", r"\ud83d")
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_surrogate_pair_costs_no_list_and_no_result() {
    let list = json!({"tools": [
            tool("tool", json!({"description": "cut HALF", "inputSchema": {"type": "object", "HALF": 1}})),
            tool("half-HALF", json!({}))],
        "resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
    let mock = MockServer::start(move |seen| match seen.method() {
        "tools/list" => {
            MockReply::Say(json_answer(&halves(&serde_json::from_str(&answer(seen, &list)).expect("JSON"))))
        }
        "tools/call" => {
            let text = seen.body["params"]["arguments"]["form"].as_str().unwrap_or_default();
            let result = json!({"content": [{"type": "text", "text": "cut HALF"}], "resultType": "complete"});
            let message = halves(&serde_json::from_str(&answer(seen, &result)).expect("JSON"));
            match text {
                "events" => MockReply::Say(http(
                    "200 OK",
                    &["Content-Type: text/event-stream"],
                    &format!("data: {message}\n\n"),
                )),
                _ => MockReply::Say(json_answer(&message)),
            }
        }
        _ => MockReply::Say(good(seen)),
    })
    .await;
    let script = r#"
import json, sys
for line in sys.stdin:
    ask = json.loads(line)
    if "id" not in ask:
        continue
    modern = "_meta" in ask.get("params", {}) and any("protocolVersion" in key for key in ask["params"]["_meta"])
    caps = {"tools": {}}
    result = {
        "initialize": {"protocolVersion": "2025-11-25", "capabilities": caps, "serverInfo": {"name": "s", "version": "1"}},
        "server/discover": {"supportedVersions": ["2026-07-28"], "capabilities": caps},
        "tools/list": {"tools": [{"name": "tool", "description": "cut \ud83d", "inputSchema": {"type": "object"}},
            {"name": "half-\ud83d", "inputSchema": {"type": "object"}}]},
        "tools/call": {"content": [{"type": "text", "text": "cut \ud83d"}]},
    }.get(ask["method"], {})
    result["resultType"] = "complete"
    print(json.dumps({"jsonrpc": "2.0", "id": ask["id"], "result": result}), flush=True)
"#;
    let servers = json!({
        "http": {"url": mock.url},
        "searched": {"url": mock.url, "redact": {"results": "redact"}},
        "stdio": {"command": crate::harness::python(), "args": ["-c", script]},
    });
    let gateway = Gateway::start(&format!("mcpServers: {servers}\nguard: {{detectors: [email]}}\n")).await;
    gateway.eventually("all are listed", async |g| g.get("/health").await.contains("\"tools\":3")).await;
    let session = gateway.initialize("/mcp").await;
    for server in ["http", "searched", "stdio"] {
        for form in ["json", "events"] {
            let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
                "params": {"name": format!("{server}__tool"), "arguments": {"form": form}}});
            let answer = gateway.post("/mcp", Some(&session), &body).send().await.expect("an answer");
            assert_eq!(answer.status(), 200, "{server} {form}");
            let text = answer.text().await.expect("a body");
            assert!(text.contains(r"cut \ud83d"), "{server} {form}: {text}");
        }
    }
    for (sdk, mode) in [(Sdk::Python, "legacy"), (Sdk::TypeScript, "modern")] {
        let ran = run(sdk, &gateway.url("/mcp"), mode, &[]).await;
        assert_eq!(
            ran.seen["tools"],
            json!(["http__tool", "searched__tool", "stdio__tool"]),
            "{}",
            ran.output
        );
    }
    for server in ["http", "searched", "stdio"] {
        let metric = format!(r#"toolgate_catalog_rejected{{kind="tools",server="{server}"}}"#);
        assert_eq!(gateway.metric(&metric).await, 1.0, "{server}");
    }
    // From a client it is rejected, as before.
    let bad = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"http__tool","arguments":{"a":"\ud83d"}}}"#;
    let refused = gateway.post("/mcp", Some(&session), &json!({})).body(bad).send().await.expect("an answer");
    assert_eq!(refused.status(), 400);
}

#[tokio::test]
async fn a_server_by_itself_keeps_the_order_of_its_lists() {
    let names = ["zebra", "apple", "mango", "Banana", "cherry"];
    let entries = |member: &str| -> Vec<Value> {
        names
            .iter()
            .map(|name| json!({member: name, "name": name, "inputSchema": {"type": "object"}}))
            .collect()
    };
    let lists = json!({"tools": entries("name"), "prompts": entries("name"), "resources": entries("uri"),
        "resourceTemplates": entries("uriTemplate")});
    let mock = MockServer::start(plays(Arc::new(lists))).await;
    let gateway = Gateway::start(&format!("mcpServers: {{p: {{url: \"{}\"}}}}\n", mock.url)).await;
    gateway.eventually("all is listed", async |g| g.get("/health").await.contains("\"tools\":5")).await;
    let list = async |path: &str, method: &str, member: &str, key: &str| -> Vec<String> {
        let (_, answer) = gateway.modern(path, method, json!({})).await;
        let list = answer["result"][member].as_array().expect("a list").iter();
        list.map(|entry| entry[key].as_str().expect("a name").to_owned()).collect()
    };
    for (method, member, key) in [
        ("tools/list", "tools", "name"),
        ("prompts/list", "prompts", "name"),
        ("resources/list", "resources", "uri"),
        ("resources/templates/list", "resourceTemplates", "uriTemplate"),
    ] {
        assert_eq!(list("/servers/p/mcp", method, member, key).await, names, "{method}");
        let all = list("/mcp", method, member, key).await;
        assert!(all.is_sorted() && all.len() == names.len(), "{method}: {all:?}");
    }
}
