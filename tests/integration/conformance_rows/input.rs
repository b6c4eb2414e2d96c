//! Rows of `input_required`: the server requests input, the client answers in a call of its own, and the
//! state between the two returns unchanged.

use serde_json::{Value, json};

use super::{ConformanceSetup, message};
use crate::harness::{Gateway, read};
use crate::mock_server::{MockReply, MockServer, answer, json_answer};

fn able() -> Value {
    json!({"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}})
}

async fn send(gateway: &Gateway, body: &Value) -> (u16, Value) {
    let name = body["params"].get("name").or_else(|| body["params"].get("uri"));
    let request = gateway
        .http
        .post(gateway.url("/mcp"))
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", body["method"].as_str().expect("a method"))
        .header("mcp-name", name.and_then(Value::as_str).expect("a name"))
        .body(body.to_string());
    read(request.send().await.expect("an answer")).await
}

/// The client's answer to one request.
fn reply(question: &Value) -> Value {
    match question["method"].as_str().expect("a method") {
        "elicitation/create" => {
            let properties = question["params"]["requestedSchema"]["properties"].as_object();
            let filled = properties.into_iter().flatten().map(|(name, about)| {
                let value = if about["type"] == "boolean" { json!(true) } else { json!("Ada") };
                (name.clone(), value)
            });
            json!({"action": "accept", "content": filled.collect::<serde_json::Map<_, _>>()})
        }
        "sampling/createMessage" => {
            json!({"role": "assistant", "content": {"type": "text", "text": "Paris"}, "model": "none"})
        }
        "roots/list" => json!({"roots": [{"uri": "file:///root", "name": "root"}]}),
        other => panic!("nobody may ask for {other}"),
    }
}

/// Repeats the call until the result is complete; returns it and the number of rounds.
async fn rounds(gateway: &Gateway, method: &str, params: Value) -> (Value, usize) {
    let mut now = params.clone();
    for round in 1..8 {
        let (status, said) = send(gateway, &message(format!("round {round}"), method, now, able())).await;
        assert_eq!((status, &said["id"]), (200, &json!(format!("round {round}"))), "{said}");
        let result = &said["result"];
        if result["resultType"] == "complete" {
            return (said, round);
        }
        assert_eq!(result["resultType"], "input_required", "{said}");
        let asked = result["inputRequests"].as_object().expect("questions");
        now = params.clone();
        now["inputResponses"] = asked.iter().map(|(key, question)| (key.clone(), reply(question))).collect();
        if let Some(state) = result.get("requestState") {
            now["requestState"] = state.clone();
        }
    }
    panic!("{method} never ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_question_comes_through_from_every_server() {
    let setup = ConformanceSetup::start().await;
    let rows = [
        ("elicitation", "Hello, Ada!", 2),
        ("sampling", "The model said: Paris", 2),
        ("list_roots", "root file:///root", 2),
        ("request_state", "state-ok", 2),
        ("multiple_inputs", "Paris Ada, of 1 roots", 2),
        ("multi_round", "Ada likes Ada", 3),
        ("capabilities", "Answered:", 2),
    ];
    for server in ["fix", "two", "pipe"] {
        for (tool, expected, expected_rounds) in rows {
            let name = format!("{server}__test_input_required_result_{tool}");
            let params = json!({"name": name, "arguments": {}});
            let (said, rounds) = rounds(&setup.gateway, "tools/call", params).await;
            let text = said["result"]["content"][0]["text"].as_str().unwrap_or_default();
            assert!(text.contains(expected), "{name}: {said}");
            assert_eq!(rounds, expected_rounds, "{name}");
        }
        let prompt = json!({"name": format!("{server}__test_input_required_result_prompt"), "arguments": {}});
        let (said, rounds) = rounds(&setup.gateway, "prompts/get", prompt).await;
        assert_eq!(
            (said["result"]["messages"][0]["content"]["text"].as_str(), rounds),
            (Some("Context: Ada"), 2)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_was_tampered_with_and_a_client_that_cannot_are_errors() {
    let setup = ConformanceSetup::start().await;
    for server in ["fix", "two", "pipe"] {
        let params =
            json!({"name": format!("{server}__test_input_required_result_tampered_state"), "arguments": {}});
        let (_, said) = send(&setup.gateway, &message(1, "tools/call", params.clone(), able())).await;
        let state = said["result"]["requestState"].as_str().expect("a state").to_owned();
        let middle = state.len() / 2;
        let other = if state.as_bytes()[middle] == b'A' { "B" } else { "A" };
        let mut again = params.clone();
        again["requestState"] = json!(format!("{}{other}{}", &state[..middle], &state[middle + 1..]));
        again["inputResponses"] = json!({"confirm": {"action": "accept", "content": {"ok": true}}});
        let (_, said) = send(&setup.gateway, &message(2, "tools/call", again, able())).await;
        assert!(said["error"]["code"].is_i64() && said["id"] == 2, "{server}: {said}");

        let (status, said) = send(&setup.gateway, &message(3, "tools/call", params, json!({}))).await;
        assert_eq!((status, &said["error"]["code"]), (400, &json!(-32021)), "{server}: {said}");
        assert!(said["error"]["data"]["requiredCapabilities"]["elicitation"].is_object(), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_comes_back_to_its_server_as_it_left_it() {
    let states: Vec<String> = vec![
        String::new(),
        " \t\n\r\u{0}\u{7f}\u{1f}\"\\/".into(),
        "{\"a\":[1,{\"b\":null}],\"a\":2}".into(),
        "=?base64?YQ==?= %00 \u{fffd}\u{feff}\u{2028}\u{10ffff} e\u{301} \u{e9}".into(),
        "x".repeat(64 << 10),
        "\u{1F600}\u{0}".repeat(8 << 10),
    ];
    for (number, state) in states.into_iter().enumerate() {
        let sent = state.clone();
        let mock = MockServer::start(move |seen| match seen.method() {
            "tools/call" if seen.body["params"].get("requestState").is_none() => {
                let asks = json!({"resultType": "input_required", "requestState": sent});
                MockReply::Say(json_answer(&answer(seen, &asks)))
            }
            _ => MockReply::Good,
        })
        .await;
        let gateway = Gateway::start(&format!("mcpServers: {{up: {{url: \"{}\"}}}}\n", mock.url)).await;
        super::listed(&gateway, "up__").await;
        let mut params = json!({"name": "up__tool", "arguments": {}});
        let (_, said) = send(&gateway, &message(1, "tools/call", params.clone(), able())).await;
        params["requestState"] = said["result"]["requestState"].clone();
        let (_, said) = send(&gateway, &message(2, "tools/call", params, able())).await;
        assert_eq!(said["result"]["content"][0]["text"], "done", "state {number}");
        let [first, last] = &mock.calls()[..] else { panic!("two calls") };
        assert!(first.body["params"].get("requestState").is_none());
        assert!(last.body["params"]["requestState"] == *state, "state {number} is another now");
        assert_ne!(first.body["id"], last.body["id"], "under a new id");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_asked_no_more_than_it_says_that_it_can() {
    let setup = ConformanceSetup::start().await;
    let rows = [
        (json!({"elicitation": {"form": {}}}), &["user_name"][..]),
        (json!({"sampling": {}}), &["greeting"]),
        (json!({"sampling": {}, "roots": {}}), &["client_roots", "greeting"]),
        (json!({}), &[]),
    ];
    for server in ["fix", "two", "pipe"] {
        let name = format!("{server}__test_input_required_result_capabilities");
        for (able, asked) in &rows {
            let params = json!({"name": name, "arguments": {}});
            let (status, said) = send(&setup.gateway, &message(1, "tools/call", params, able.clone())).await;
            assert_eq!(status, 200, "{server} {able}: {said}");
            let questions = said["result"]["inputRequests"].as_object();
            let mut keys: Vec<&String> = questions.into_iter().flat_map(|all| all.keys()).collect();
            keys.sort();
            assert_eq!(keys, *asked, "{server} {able}: {said}");
            let text = &said["result"]["content"][0]["text"];
            assert_eq!(text == "The client can answer nothing", asked.is_empty(), "{server} {able}: {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_missing_are_asked_for_again_and_more_than_was_asked_does_no_harm() {
    let setup = ConformanceSetup::start().await;
    for server in ["fix", "two", "pipe"] {
        let name = format!("{server}__test_input_required_result_multiple_inputs");
        let params = json!({"name": name, "arguments": {}});
        let (_, said) = send(&setup.gateway, &message(1, "tools/call", params.clone(), able())).await;
        let questions = said["result"]["inputRequests"].as_object().expect("questions").clone();
        let mut again = params.clone();
        again["requestState"] = said["result"]["requestState"].clone();
        again["inputResponses"] = json!({"user_name": reply(&questions["user_name"])});
        let (status, said) = send(&setup.gateway, &message(2, "tools/call", again.clone(), able())).await;
        assert_eq!(
            (status, &said["result"]["resultType"]),
            (200, &json!("input_required")),
            "{server}: {said}"
        );
        assert!(said["result"]["inputRequests"].get("greeting").is_some(), "{server}: {said}");

        again["requestState"] = said["result"]["requestState"].clone();
        for (key, question) in &questions {
            again["inputResponses"][key] = reply(question);
        }
        again["inputResponses"]["nobody_asked"] = json!({"action": "decline"});
        again["unheard_of"] = json!([1]);
        let (status, said) = send(&setup.gateway, &message(3, "tools/call", again, able())).await;
        assert_eq!((status, &said["result"]["resultType"]), (200, &json!("complete")), "{server}: {said}");
        assert_eq!(said["result"]["content"][0]["text"], "Paris Ada, of 1 roots", "{server}");
    }
}
