//! What an outsider found by trying to break the bridge.

use serde_json::{Value, json};

use super::{Bridged, able, accepted, modern_call, question, retry, send, text};
use crate::events::Events;
use crate::harness::{Gateway, a_fixture_of, legacy_call};
use crate::mock_server::{MockReply, MockServer, answer};

const META: &str = "io.modelcontextprotocol";

#[tokio::test(flavor = "multi_thread")]
async fn a_log_level_is_a_word_of_the_list_and_never_a_part_of_a_message() {
    let mock = MockServer::start(|_| MockReply::Good).await;
    let config =
        format!("mcpServers: {{old: {{url: \"{}\", era: legacy, tools: {{deny: [secret]}}}}}}\n", mock.url);
    let gateway = Gateway::start(&config).await;
    let level = r#"x"},"method":"tools/call","params":{"name":"secret","arguments":{}},"z":{"q":""#;
    let before = mock.all().len();
    for level in [level, "", "DEBUG", "loud"] {
        let mut call = modern_call(1, "old__tool", json!({}), &json!({}));
        call["params"]["_meta"][format!("{META}/logLevel")] = json!(level);
        let (status, said) = send(&gateway, "/mcp", "", &call).await;
        assert_eq!((status, &said["error"]["code"]), (400, &json!(-32602)), "{level}: {said}");
    }
    assert!(!mock.all()[before..].iter().any(|seen| !seen.is_own_request()), "nothing reached the server");
    let mut call = modern_call(2, "old__tool", json!({}), &json!({}));
    call["params"]["_meta"][format!("{META}/logLevel")] = json!("debug");
    assert_eq!(send(&gateway, "/mcp", "", &call).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_its_client_does_not_refuse_the_answer() {
    let (_old, url) = a_fixture_of("legacy").await;
    let limits =
        "rate_limits: {rules: [{name: one, key: [], concurrent: 1, match: {methods: [tools/call]}}]}\n";
    for (settings, rest) in
        [(", max_concurrent: 1", ""), ("", limits), (", circuit_breaker: {failures: 1, open_for: 1h}", "")]
    {
        let config = format!("mcpServers: {{old: {{url: \"{url}\"{settings}}}}}\n{rest}");
        let gateway = Gateway::start(&config).await;
        let call = modern_call(1, "old__test_elicitation", json!({"message": "who?"}), &able());
        let (_, said) = send(&gateway, "/mcp", "", &call).await;
        let (key, _) = question(&said);
        let again = retry(&call, 2, &said, json!({&key: accepted("ann")}));
        let (status, done) = send(&gateway, "/mcp", "", &again).await;
        assert_eq!(
            (status, &done["result"]["resultType"]),
            (200, &json!("complete")),
            "{settings}{rest}: {done}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_a_string_and_capabilities_have_a_limit() {
    let bridged = Bridged::start("").await;
    let gateway = &bridged.gateway;
    for state in [json!(123), json!(null), json!({"a": 1}), json!([])] {
        let mut call = modern_call(1, "old__counter", json!({"name": "state"}), &able());
        call["params"]["requestState"] = state.clone();
        let (status, said) = send(gateway, "/mcp", "", &call).await;
        assert_eq!(status, 400, "{state}: {said}");
    }
    let long = json!({"experimental": {"x": "y".repeat(9 * 1024)}});
    let call = modern_call(1, "old__counter", json!({"name": "state"}), &long);
    let (status, said) = send(gateway, "/mcp", "", &call).await;
    assert_eq!((status, &said["error"]["code"]), (400, &json!(-32602)), "{said}");
    let session = gateway.initialize("/mcp").await;
    assert_eq!(gateway.count(&session, "old", "state").await, 0, "nothing reached the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_together_with_the_answer_comes_before_it() {
    let mock = MockServer::start(|seen| match seen.method() {
        "tools/call" => {
            let token = &seen.body["params"]["_meta"]["progressToken"];
            let note = |step: u32| {
                json!({"jsonrpc": "2.0", "method": "notifications/progress",
                    "params": {"progressToken": token, "progress": step}})
            };
            let result = answer(seen, &json!({"content": []}));
            let events: String = (1..=5).map(note).map(|note| format!("data: {note}\n\n")).collect();
            let body = format!("{events}data: {result}\n\n");
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length";
            MockReply::Say(format!("{head}: {}\r\n\r\n{body}", body.len()).into_bytes())
        }
        _ => MockReply::Good,
    })
    .await;
    let gateway =
        Gateway::start(&format!("mcpServers: {{old: {{url: \"{}\", era: legacy}}}}\n", mock.url)).await;
    let mut call = modern_call(1, "old__tool", json!({}), &json!({}));
    call["params"]["_meta"]["progressToken"] = json!("p");
    let request = gateway
        .http
        .post(gateway.url("/mcp"))
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", "old__tool")
        .body(call.to_string());
    let all = Events::open(request).await.rest().await;
    let steps: Vec<&Value> = all.iter().map(|message| &message["params"]["progress"]).collect();
    assert_eq!(steps, [&json!(1), &json!(2), &json!(3), &json!(4), &json!(5), &json!(null)], "{all:?}");
    assert!(all.iter().take(5).all(|note| note["params"]["progressToken"] == "p"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_blocked_leaves_the_question_open() {
    let (_new, url) = a_fixture_of("modern").await;
    let config = format!("mcpServers: {{new: {{url: \"{url}\", redact: {{arguments: block}}}}}}\n");
    let gateway = Gateway::start(&config).await;
    let session = gateway.initialize_with("/mcp", able()).await;
    let call = legacy_call(1, "new__test_elicitation", json!({"message": "who?"}));
    let mut stream = Events::open(gateway.post("/mcp", Some(&session), &call)).await;
    let id = stream.method("elicitation/create").await["id"].clone();
    let reply = |name: &str| json!({"jsonrpc": "2.0", "id": id, "result": accepted(name)});
    let (status, said) = gateway.say("/mcp", &session, &reply("4111 1111 1111 1111")).await;
    assert_eq!(status, 400, "{said}");
    assert_eq!(gateway.say("/mcp", &session, &reply("ann")).await.0, 202);
    let last = stream.rest().await.pop().expect("an end");
    assert!(text(&last).contains("ann"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refusal_ends_a_call_that_asked_several_things() {
    let bridged = Bridged::start("").await;
    let gateway = &bridged.gateway;
    let session = gateway.initialize_with("/mcp", able()).await;
    let call = legacy_call(1, "new__test_input_required_result_multiple_inputs", json!({}));
    let mut stream = Events::open(gateway.post("/mcp", Some(&session), &call)).await;
    let asked = [
        stream.next().await.expect("a question"),
        stream.next().await.expect("a question"),
        stream.next().await.expect("a question"),
    ];
    let refusal = json!({"jsonrpc": "2.0", "id": asked[1]["id"], "error": {"code": -1, "message": "no"}});
    assert_eq!(gateway.say("/mcp", &session, &refusal).await.0, 202);
    let last = stream.rest().await.pop().expect("an end");
    assert_eq!(last["error"]["code"], -32603, "{last}");
}
