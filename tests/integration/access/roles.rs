//! Roles and rules: an entry that a caller may not use is in nothing that it can see.

use serde_json::{Value, json};

use super::{Caller, key};
use crate::harness::{Gateway, a_fixture, legacy_call};

const RBAC: &str = r#"
toolsets:
  little: {tools: ["fix__echo", "fix__fail_tool"]}
rbac:
  roles:
    reader: {allow: {tools: ["*__echo", "*__sleep"], resources: ["test://static-*"], prompts: ["*__test_simple_*"]}}
    dev: {inherits: [reader], allow: {tools: ["fix__*"]}, deny: {tools: ["fix__crash"]}}
    bundle: {allow: {toolsets: [little]}}
    root: {allow: {servers: ["*"]}}
  rules:
    - {name: no-night-echo, when: 'call.tool == "fix__echo" && call.args.message == "night"', effect: deny, message: "not at night"}
    - {name: bob-may-count, when: 'caller.user == "bob" && call.tool == "fix__counter"', effect: allow}
"#;

async fn setup() -> (crate::harness::Process, Gateway) {
    let (fixture, url) = a_fixture().await;
    let keys: String = [
        ("ann", "reader"),
        ("bob", "reader"),
        ("dan", "dev"),
        ("bun", "bundle"),
        ("roy", "root"),
        ("nil", ""),
    ]
    .iter()
    .map(|(name, roles)| key(name, roles))
    .collect();
    let gateway = Gateway::start(&format!(
        "mcpServers: {{fix: {{url: \"{url}\"}}, demo: {{builtin: demo}}}}\nauth:\n  api_keys:\n{keys}{RBAC}"
    ))
    .await;
    let roy = Caller::new(&gateway, "roy");
    gateway
        .eventually("both servers are there", async |_| {
            let tools = roy.tools("/mcp").await;
            tools.contains(&"fix__echo".into()) && tools.contains(&"demo__echo".into())
        })
        .await;
    (fixture, gateway)
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_hold_what_the_caller_may_use_and_nothing_else() {
    let (_fixture, gateway) = setup().await;
    let at = |name| Caller::new(&gateway, name);
    assert_eq!(at("ann").tools("/mcp").await, ["demo__echo", "demo__sleep", "fix__echo", "fix__sleep"]);
    assert_eq!(at("ann").tools("/servers/fix/mcp").await, ["echo", "sleep"]);
    assert_eq!(at("ann").tools("/servers/little/mcp").await, ["fix__echo"]);
    assert_eq!(at("bun").tools("/mcp").await, ["fix__echo", "fix__fail_tool"]);
    // A rule on caller and tool alone decides lists too.
    assert_eq!(at("bob").tools("/servers/fix/mcp").await, ["echo", "sleep", "counter"], "in its own order");
    assert_eq!(at("nil").tools("/mcp").await, [""; 0]);
    let dans = at("dan").tools("/mcp").await;
    assert!(dans.contains(&"fix__counter".into()) && !dans.contains(&"fix__crash".into()), "{dans:?}");
    assert!(at("roy").tools("/mcp").await.contains(&"fix__crash".into()));

    assert_eq!(at("ann").names("/mcp", "prompts/list", "prompts", "name").await, ["fix__test_simple_prompt"]);
    let uris = at("ann").names("/mcp", "resources/list", "resources", "uri").await;
    assert!(!uris.is_empty() && uris.iter().all(|uri| uri.starts_with("test://static-")), "{uris:?}");
    assert_eq!(at("bun").names("/mcp", "resources/list", "resources", "uri").await, [""; 0]);

    // The legacy era shows the same.
    let session = at("ann").session("/mcp").await;
    let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    let (_, answer) = at("ann").say("/mcp", &session, &list).await;
    assert_eq!(answer["result"]["tools"].as_array().map(Vec::len), Some(4), "{answer}");
    // One caller's view must not be cached for another.
    let (_, answer) = at("ann").modern("/mcp", "tools/list", json!({})).await;
    assert_eq!(answer["result"]["cacheScope"], "private");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_used_is_answered_as_what_is_not_there() {
    let (_fixture, gateway) = setup().await;
    let ann = Caller::new(&gateway, "ann");
    let like = |answer: &Value, name: &str, other: &str| answer.to_string().replace(name, other);
    for hidden in ["fix__crash", "fix__counter", "demo__calculator"] {
        let there = ann.call(hidden, json!({})).await;
        let nowhere = ann.call("fix__nowhere", json!({})).await;
        assert_eq!(
            (there.0, like(&there.1, hidden, "X")),
            (nowhere.0, like(&nowhere.1, "fix__nowhere", "X"))
        );
        assert_eq!(there.1["error"]["code"], -32602);
    }
    let output = "who was refused what is told, to operators";
    gateway
        .eventually(output, async |g| {
            let log = g.process.output();
            let mut refused = log.lines().filter(|line| line.contains("\"reason\":\"unknown_tool\""));
            refused
                .any(|line| line.contains("\"tool\":\"fix__crash\"") && line.contains("\"caller\":\"ann\""))
        })
        .await;
    let session = ann.session("/servers/fix/mcp").await;
    let say = async |name: &str| {
        let (status, answer) = ann.say("/servers/fix/mcp", &session, &legacy_call(7, name, json!({}))).await;
        (status, like(&answer, name, "X"))
    };
    assert_eq!(say("crash").await, say("nowhere").await);
    let read = async |uri: &str| {
        let (status, answer) = ann.modern("/mcp", "resources/read", json!({"uri": uri})).await;
        (status, like(&answer, uri, "X"))
    };
    assert_eq!(read("test://watched-resource").await, read("test://nowhere").await);
    let prompt = async |name: &str| {
        let (status, answer) = ann.modern("/mcp", "prompts/get", json!({"name": name})).await;
        (status, like(&answer, name, "X"))
    };
    assert_eq!(prompt("fix__test_prompt_with_image").await, prompt("fix__nowhere").await);
    let complete = async |name: &str| {
        let params =
            json!({"ref": {"type": "ref/prompt", "name": name}, "argument": {"name": "a", "value": ""}});
        let (status, answer) = ann.modern("/mcp", "completion/complete", params).await;
        (status, like(&answer, name, "X"))
    };
    assert_eq!(complete("fix__test_prompt_with_arguments").await, complete("fix__nowhere").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_reads_arguments_refuses_in_its_own_words() {
    let (_fixture, gateway) = setup().await;
    let ann = Caller::new(&gateway, "ann");
    let (status, answer) = ann.call("fix__echo", json!({"message": "day"})).await;
    assert_eq!(status, 200, "{answer}");
    let (status, answer) = ann.call("fix__echo", json!({"message": "night"})).await;
    assert_eq!((status, &answer["error"]["code"]), (403, &json!(403)), "{answer}");
    assert!(answer["error"]["message"].as_str().is_some_and(|m| m.contains("not at night")), "{answer}");
    // A rule that cannot be evaluated denies: the arguments have no `message`.
    assert_eq!(ann.call("fix__echo", json!({"other": 1})).await.0, 403);
    assert_eq!(
        Caller::new(&gateway, "bob").call("fix__counter", json!({"name": "x", "add": 1})).await.0,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_its_callers_alone() {
    let (_fixture, gateway) = setup().await;
    let (ann, bob) = (Caller::new(&gateway, "ann"), Caller::new(&gateway, "bob"));
    let session = ann.session("/mcp").await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    assert_eq!(ann.say("/mcp", &session, &ping).await.0, 200);
    let (status, theirs) = bob.say("/mcp", &session, &ping).await;
    let (_, nobodys) = bob.say("/mcp", "no-such-session", &ping).await;
    assert_eq!((status, &theirs), (404, &nobodys), "as if it did not exist");
    assert_eq!(ann.say("/servers/fix/mcp", &session, &ping).await.0, 404, "another endpoint");
    for http_method in [reqwest::Method::GET, reqwest::Method::DELETE] {
        let request = gateway.http.request(http_method.clone(), gateway.url("/mcp")).bearer_auth("bob-key");
        let response = request.header("mcp-session-id", &session).send().await.expect("an answer");
        assert_eq!(response.status(), 404, "{http_method}");
    }
    assert_eq!(ann.say("/mcp", &session, &ping).await.0, 200, "it is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_change_with_the_file_and_the_lists_with_them() {
    let config = |tools: &str| {
        format!(
            "mcpServers: {{demo: {{builtin: demo}}}}\nauth:\n  api_keys:\n{}rbac: {{roles: {{dev: {{allow: {{tools: [{tools}]}}}}}}}}\n",
            key("dan", "dev")
        )
    };
    let gateway = Gateway::start(&config("demo__echo")).await;
    let dan = Caller::new(&gateway, "dan");
    assert_eq!(dan.tools("/mcp").await, ["demo__echo"]);
    gateway.rewrite(&config("demo__time"));
    gateway.eventually("the new role holds", async |_| dan.tools("/mcp").await == ["demo__time"]).await;
    assert_eq!(dan.call("demo__echo", json!({"message": "hi"})).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_spelling_of_a_uri_is_the_same_resource() {
    let (_fixture, url) = a_fixture().await;
    let (pub_, all) = (key("pub", "public"), key("all", "most"));
    let gateway = Gateway::start(&format!(
        r#"mcpServers: {{fix: {{url: "{url}"}}}}
auth:
  api_keys:
{pub_}{all}rbac:
  roles:
    public: {{allow: {{resources: ["TEST://Template/*"]}}}}
    most: {{allow: {{resources: ["*"]}}, deny: {{resources: ["test://static-*"]}}}}
"#
    ))
    .await;
    let (pub_, all) = (Caller::new(&gateway, "pub"), Caller::new(&gateway, "all"));
    let read = async |who: &Caller<'_>, uri: &str| {
        who.modern("/servers/fix/mcp", "resources/read", json!({"uri": uri})).await
    };
    gateway.eventually("it is there", async |_| read(&pub_, "test://template/1/data").await.0 == 200).await;
    assert_eq!(read(&all, "test://template/1/data").await.0, 200);
    let sent = async || gateway.metric("toolgate_upstream_seconds_count{server=\"fix\"}").await;
    let before = sent().await;
    // The patterns match other spellings too.
    for uri in ["test://static-text", "TEST://STATIC-text", "test://%73tatic-text", "tEsT://st%61tic%2Dtext"]
    {
        let (status, answer) = read(&all, uri).await;
        assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32602)), "{uri}: {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|m| m.starts_with("Resource not found")));
    }
    // An ambiguous URI is rejected, whatever method names it.
    for uri in [
        "test://template/../static-text",
        "test://template/%2e%2e/static-text",
        "test://template/..%2fstatic-text",
        "test://template/x%5c..%5cstatic-text",
        "test://template/%252e%252e/data",
    ] {
        for who in [&pub_, &all] {
            let reference = json!({"ref": {"type": "ref/resource", "uri": uri}, "argument": {"name": "id", "value": "1"}});
            for (method, params) in
                [("resources/read", json!({"uri": uri})), ("completion/complete", reference)]
            {
                let (status, answer) = who.modern("/servers/fix/mcp", method, params).await;
                assert_eq!((status, &answer["error"]["code"]), (400, &json!(-32602)), "{uri}: {answer}");
                let message = answer["error"]["message"].as_str().unwrap_or_default();
                assert!(message.contains("can be read as that of another"), "{uri}: {answer}");
            }
        }
    }
    assert!((sent().await - before).abs() < 0.5, "and none of these reached the server");
    // Lists and calls agree.
    let uris = all.names("/servers/fix/mcp", "resources/list", "resources", "uri").await;
    assert!(!uris.is_empty() && !uris.iter().any(|uri| uri.starts_with("test://static-")), "{uris:?}");
}
