//! What goes over the one stream: responses, errors, progress, questions, notifications, cancellations.

use serde_json::{Value, json};

use super::{SseClient, request, text};
use crate::harness::{Gateway, a_fixture_of, legacy_call};
use crate::legacy::scripted_server::ScriptedServer;
use crate::legacy::{accepted, listed, lists, logged, question, setup_with};

/// A gateway in front of one scripted server, named `s`.
async fn staged(rest: &str) -> (Gateway, ScriptedServer) {
    let stage = ScriptedServer::start().await;
    let gateway = Gateway::start(&setup_with(&stage, "", rest)).await;
    lists(&gateway, "s__hold").await;
    (gateway, stage)
}

/// Begins a call that the server holds.
async fn hold(gateway: &Gateway, stage: &ScriptedServer, client: &SseClient, id: u64) {
    let before = stage.with(|state| state.calls.len());
    let mut call = legacy_call(id, "s__hold", json!({}));
    call["params"]["_meta"] = json!({"progressToken": format!("p{id}")});
    client.send(&call).await;
    let held = async |_: &Gateway| stage.with(|state| state.calls.len()) > before;
    gateway.eventually("the server holds it", held).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_those_of_clients_of_the_transport() {
    let gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    for (asked, given) in [
        ("2024-11-05", "2024-11-05"),
        ("2024-10-07", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2999-01-01", "2025-11-25"),
    ] {
        let mut client = SseClient::open(&gateway, "/sse").await;
        let begun = client.initialize(asked, json!({})).await;
        assert_eq!(begun["result"]["protocolVersion"], given, "{begun}");
        // The TypeScript SDK repeats it in a header.
        let post = gateway.http.post(client.uri.clone()).header("content-type", "application/json");
        let post = post.header("mcp-protocol-version", given).body(request(1, "ping").to_string());
        assert_eq!(post.send().await.expect("an answer").status(), 202, "{given}");
        assert_eq!(client.answer(&json!(1)).await["result"], json!({}));
    }
    let mut client = SseClient::ready(&gateway, "/sse").await;
    let mut modern = request(2, "tools/list");
    modern["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {}});
    let post = gateway.http.post(client.uri.clone()).header("content-type", "application/json");
    let post = post.header("mcp-protocol-version", "2026-07-28").header("mcp-method", "tools/list");
    assert_eq!(post.body(modern.to_string()).send().await.expect("an answer").status(), 202);
    let error = client.answer(&json!(2)).await;
    assert_eq!(error["error"]["code"], -32022, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_initialize_has_no_session() {
    let gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    let mut client = SseClient::open(&gateway, "/sse").await;
    assert_eq!(client.say(&request(1, "ping")).await["result"], json!({}));
    // A client whose stream broke and that opened another one by itself.
    for body in [
        legacy_call(2, "demo__echo", json!({"message": "hi"})),
        request(3, "tools/list"),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json!({"jsonrpc": "2.0", "id": 4, "result": {}}),
    ] {
        let response = client.post_text(body.to_string()).await;
        assert_eq!(response.status(), 404, "{body}");
        let said = response.text().await.expect("a body");
        assert!(said.contains("begin with `initialize`"), "{said}");
    }
    client.initialize("2024-11-05", json!({})).await;
    assert_eq!(text(&client.say(&legacy_call(5, "demo__echo", json!({"message": "hi"}))).await), "hi");
    let (_, said) = gateway.call("demo__echo", json!({"message": "x"})).await;
    assert_eq!(text(&said), "x", "others are not concerned");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_requests_come_under_their_ids() {
    let gateway = Gateway::start("mcpServers: {demo: {builtin: demo}}\n").await;
    let mut client = SseClient::ready(&gateway, "/sse").await;
    for (body, code) in [
        (legacy_call(1, "demo__none", json!({})), -32602),
        (request(2, "no/such"), -32601),
        (json!({"jsonrpc": "2.0", "id": "s", "method": "tools/call", "params": {}}), -32602),
        (json!({"jsonrpc": "2.0", "id": 4, "method": "tools/list", "params": {"cursor": "x"}}), -32602),
    ] {
        let error = client.say(&body).await;
        assert_eq!(error["error"]["code"], code, "{error}");
    }
    // Others have seen all of it by then: each response came once, and in no other order than it was there.
    assert_eq!(client.say(&request(9, "ping")).await, json!({"jsonrpc": "2.0", "id": 9, "result": {}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_log_messages_and_answers_of_several_calls_share_the_stream() {
    let (gateway, stage) = staged("").await;
    let mut client = SseClient::ready(&gateway, "/sse").await;
    hold(&gateway, &stage, &client, 1).await;
    let first = stage.call().expect("a call");
    hold(&gateway, &stage, &client, 2).await;
    let second = stage.call().expect("a call");
    let token = |at: usize| stage.heard("tools/call")[at].body["params"]["_meta"]["progressToken"].clone();
    for (call, at) in [(&second, 1), (&first, 0)] {
        call.say(&json!({"jsonrpc": "2.0", "method": "notifications/progress",
            "params": {"progressToken": token(at), "progress": 1}}));
        call.say(&logged("note"));
        call.answer("done");
        let id = at as u64 + 1;
        let progress = client.events.next().await.expect("progress");
        assert_eq!(progress["params"]["progressToken"], format!("p{id}"), "{progress}");
        assert_eq!(client.events.next().await.expect("a log message"), logged("note"));
        let answer = client.events.next().await.expect("an answer");
        assert!(answer["id"] == id && text(&answer) == "done", "{answer}");
    }
    gateway
        .eventually("both are counted", async |g| {
            g.metric(
                "toolgate_requests_total{method=\"tools/call\",outcome=\"ok\",server=\"s\",tool=\"s__hold\"}",
            )
            .await
                == 2.0
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_of_servers_are_answered_during_a_call_and_outside_of_one() {
    let (gateway, stage) = staged("").await;
    let mut client = SseClient::open(&gateway, "/sse").await;
    client.initialize("2024-11-05", json!({"elicitation": {}, "roots": {}, "sampling": {}})).await;
    hold(&gateway, &stage, &client, 1).await;
    let call = stage.call().expect("a call");
    call.say(&question(7, "may I?"));
    let asked = client.events.method("elicitation/create").await;
    client.send(&accepted(&asked["id"])).await;
    gateway.eventually("the answer is there", async |_| stage.replies().len() == 1).await;
    assert_eq!(stage.replies()[0].body["id"], 7);
    // The gateway listens for the session too.
    let of_client = || stage.clients().first().and_then(|id| stage.stream(id));
    gateway.eventually("the gateway listens", async |_| of_client().is_some()).await;
    of_client().expect("a stream").say(&json!({"jsonrpc": "2.0", "id": "r", "method": "roots/list"}));
    let asked = client.events.method("roots/list").await;
    client.send(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"roots": []}})).await;
    gateway.eventually("the answer is there", async |_| stage.replies().len() == 2).await;
    // A second answer and one to nothing are taken and go nowhere.
    client.send(&accepted(&asked["id"])).await;
    client.send(&accepted(&json!("nothing"))).await;
    call.answer("thanks");
    assert_eq!(text(&client.answer(&json!(1)).await), "thanks");
    assert_eq!(stage.replies().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_ends_at_its_server_and_has_no_response() {
    let (gateway, stage) = staged("").await;
    let mut client = SseClient::ready(&gateway, "/sse").await;
    hold(&gateway, &stage, &client, 1).await;
    let call = stage.call().expect("a call");
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    client.send(&cancel).await;
    let heard = stage.heard("notifications/cancelled");
    assert_eq!(heard.len(), 1, "before the 202");
    assert_eq!(heard[0].body["params"]["requestId"], stage.sent());
    gateway.eventually("nobody waits", async |_| !call.is_heard()).await;
    // One of a server in the process.
    client.send(&legacy_call(2, "demo__sleep", json!({"seconds": 3600}))).await;
    let mut cancel = cancel;
    cancel["params"]["requestId"] = json!(2);
    client.send(&cancel).await;
    client.send(&request(3, "ping")).await;
    let next = client.events.next().await.expect("a message");
    assert_eq!(next["id"], 3, "neither call has a response: {next}");
    let counted = async |g: &Gateway, server: &str, tool: &str| {
        let labels =
            format!("method=\"tools/call\",outcome=\"client_aborted\",server=\"{server}\",tool=\"{tool}\"");
        g.metric(&format!("toolgate_requests_total{{{labels}}}")).await == 1.0
    };
    gateway.eventually("it is counted", async |g| counted(g, "s", "s__hold").await).await;
    gateway.eventually("it is counted", async |g| counted(g, "demo", "demo__sleep").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn list_changes_come_once_and_after_the_new_list() {
    let (gateway, stage) = staged("").await;
    let mut client = SseClient::ready(&gateway, "/sse").await;
    stage.with(|state| state.tools.push("fresh"));
    stage.change();
    let change = client.events.next().await.expect("a notification");
    assert_eq!(change, json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
    let list = client.say(&request(1, "tools/list")).await;
    assert!(list.to_string().contains("s__fresh"), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_server_asks_an_old_client_through_the_bridge() {
    let (_fixture, url) = a_fixture_of("modern").await;
    let gateway = Gateway::start(&format!("mcpServers: {{new: {{url: \"{url}\"}}}}\n")).await;
    listed(&gateway, "new__echo").await;
    let mut client = SseClient::open(&gateway, "/sse").await;
    client.initialize("2025-11-25", json!({"elicitation": {"form": {}}})).await;
    client.send(&legacy_call(1, "new__test_elicitation", json!({"message": "who?"}))).await;
    let asked = client.events.method("elicitation/create").await;
    let content = json!({"username": "ann", "email": "a@example.com"});
    let answer =
        json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept", "content": content}});
    client.send(&answer).await;
    let done = client.answer(&json!(1)).await;
    assert!(text(&done).contains("ann") && done["result"].get("resultType").is_none(), "{done}");
    // A client that has left while it was asked: the call ends, and the server is not asked again.
    client.send(&legacy_call(2, "new__test_elicitation", json!({"message": "who?"}))).await;
    client.events.method("elicitation/create").await;
    drop(client);
    gateway.eventually("the session ends", async |g| g.has_metric("toolgate_sessions", 0.0).await).await;
    let _: Value = gateway.call("new__echo", json!({"message": "x"})).await.1;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_initialize_ends_the_calls_of_the_first_with_an_error() {
    let (gateway, stage) = staged("").await;
    let mut client = SseClient::ready(&gateway, "/sse").await;
    hold(&gateway, &stage, &client, 1).await;
    let mut again = crate::harness::initialize(json!({}));
    again["id"] = json!("again");
    client.send(&again).await;
    let (mut begun, mut ended) = (false, None);
    while !begun || ended.is_none() {
        let message = client.events.next().await.expect("the stream goes on");
        match &message["id"] {
            id if *id == json!(1) => ended = Some(message),
            id if *id == json!("again") => begun = message["result"]["serverInfo"].is_object(),
            _ => {}
        }
    }
    let ended = ended.expect("its call has ended");
    assert!(
        ended["error"]["message"].as_str().is_some_and(|m| m.contains("the session has ended")),
        "{ended}"
    );
}
