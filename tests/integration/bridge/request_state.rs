//! The `requestState` of a bridged call: whose it is, what it opens, and how often.

use serde_json::{Value, json};

use super::{Bridged, able, accepted, modern_call, question, retry, send, text};
use crate::harness::Gateway;

pub const AUTH: &str = r#"
auth:
  api_keys:
    - {id: ann, sha256: cba322bc2b94a5dd50710068d2a8fa4cd2b1d4dea94bba56b3b5d955987dbef7, user: ann}
    - {id: bob, sha256: e38fba47d2a588ec6334d3d14cf3459e670f1bc08950e706f9893aaa78a18d6c, user: bob}
"#;
pub const ANN: &str = "ann-key-of-the-test-000000000000";
const BOB: &str = "bob-key-of-the-test-000000000000";
const TOOL: &str = "old__test_elicitation";

async fn asked(gateway: &Gateway, id: u64) -> (Value, Value, String) {
    let call = modern_call(id, TOOL, json!({"message": "who?"}), &able());
    let (status, said) = send(gateway, "/mcp", ANN, &call).await;
    assert_eq!((status, &said["id"]), (200, &json!(id)), "{said}");
    let (key, asks) = question(&said);
    assert_eq!((&asks["method"], &asks["params"]["message"]), (&json!("elicitation/create"), &json!("who?")));
    (call, said, key)
}

fn is_refused(answer: &(u16, Value)) -> bool {
    let (status, said) = answer;
    *status == 400
        && said["error"]["code"] == -32602
        && said["error"]["data"]["reason"] == "invalid_request_state"
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_goes_to_the_call_that_waits_and_its_repeats_get_the_same_result() {
    let bridged = Bridged::start(AUTH).await;
    let gateway = &bridged.gateway;
    let (call, said, key) = asked(gateway, 1).await;
    let answer = retry(&call, 2, &said, json!({&key: accepted("ann")}));
    let (status, done) = send(gateway, "/mcp", ANN, &answer).await;
    assert_eq!(
        (status, &done["id"], &done["result"]["resultType"]),
        (200, &json!(2), &json!("complete")),
        "{done}"
    );
    assert!(text(&done).contains("\"username\": \"ann\"") || text(&done).contains("ann"), "{done}");
    // The client did not get it and sends it again, under another id.
    let again = retry(&call, 3, &said, json!({&key: accepted("ann")}));
    let (status, repeat) = send(gateway, "/mcp", ANN, &again).await;
    assert_eq!((status, &repeat["id"], &repeat["result"]), (200, &json!(3), &done["result"]), "{repeat}");
    // Another answer is another message.
    let other = retry(&call, 4, &said, json!({&key: accepted("eve")}));
    assert!(is_refused(&send(gateway, "/mcp", ANN, &other).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_for_its_caller_its_endpoint_and_its_call() {
    let bridged = Bridged::start(AUTH).await;
    let gateway = &bridged.gateway;
    let (call, said, key) = asked(gateway, 1).await;
    let right = retry(&call, 2, &said, json!({&key: accepted("ann")}));
    assert!(is_refused(&send(gateway, "/mcp", BOB, &right).await), "another caller");
    let mut there = right.clone();
    there["params"]["name"] = json!("test_elicitation");
    assert!(is_refused(&send(gateway, "/servers/old/mcp", ANN, &there).await), "another endpoint");
    let mut tool = right.clone();
    tool["params"]["name"] = json!("old__test_sampling");
    assert!(is_refused(&send(gateway, "/mcp", ANN, &tool).await), "another tool");
    let mut arguments = right.clone();
    arguments["params"]["arguments"] = json!({"message": "whose?"});
    assert!(is_refused(&send(gateway, "/mcp", ANN, &arguments).await), "other arguments");
    let state = said["result"]["requestState"].as_str().expect("a state");
    let middle = state.len() / 2;
    let letter = if state.as_bytes()[middle] == b'A' { "B" } else { "A" };
    for forged in [
        String::new(),
        "x".repeat(1 << 20),
        state[..state.len() - 1].to_owned(),
        format!("{}{letter}{}", &state[..middle], &state[middle + 1..]),
    ] {
        let mut forged_retry = right.clone();
        forged_retry["params"]["requestState"] = json!(forged);
        assert!(is_refused(&send(gateway, "/mcp", ANN, &forged_retry).await), "{}", forged.len());
    }
    // None of these has used it up.
    let (status, done) = send(gateway, "/mcp", ANN, &right).await;
    assert_eq!((status, &done["result"]["resultType"]), (200, &json!("complete")), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_equal_retries_the_server_hears_one() {
    let bridged = Bridged::start(AUTH).await;
    let gateway = &bridged.gateway;
    let (call, said, key) = asked(gateway, 1).await;
    let retries: Vec<Value> =
        (2..18).map(|id| retry(&call, id, &said, json!({&key: accepted("ann")}))).collect();
    let all = futures::future::join_all(retries.iter().map(|retry| send(gateway, "/mcp", ANN, retry))).await;
    for (retry, (status, done)) in retries.iter().zip(&all) {
        assert_eq!((*status, &done["id"]), (200, &retry["id"]), "{done}");
        assert_eq!(done["result"], all[0].1["result"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_answer_is_asked_for_again() {
    let bridged = Bridged::start("").await;
    let gateway = &bridged.gateway;
    let call = modern_call(1, TOOL, json!({"message": "who?"}), &able());
    let (_, mut said) = send(gateway, "/mcp", "", &call).await;
    for (id, answers) in
        [(2, json!({})), (3, json!({"other": accepted("x")})), (4, json!({"q1": "no object"}))]
    {
        let (key, _) = question(&said);
        let (status, again) = send(gateway, "/mcp", "", &retry(&call, id, &said, answers)).await;
        assert_eq!(status, 200, "{again}");
        assert_eq!(question(&again).0, key, "the same question");
        said = again;
    }
    let (key, _) = question(&said);
    let (_, done) =
        send(gateway, "/mcp", "", &retry(&call, 5, &said, json!({&key: {"action": "decline"}}))).await;
    assert!(text(&done).contains("decline"), "{done}");
}
