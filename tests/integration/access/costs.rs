//! Conditions over values that clients and servers choose.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use serde_json::json;

use super::{Caller, key};
use crate::harness::{Gateway, read};
use crate::mock_server::{MockReply, MockServer, answer, json_answer, tools};

#[tokio::test(flavor = "multi_thread")]
async fn elements_of_a_token_against_those_of_a_call_hold_up_nobody() {
    let secret = "s".repeat(40);
    let gateway = Gateway::start(&format!(
        r#"mcpServers: {{demo: {{builtin: demo}}}}
auth:
  jwt:
    - {{issuer: "https://me.example", audience: toolgate, secret: "{secret}"}}
  api_keys:
{}rbac:
  default: allow
  roles: {{boss: {{allow: {{tools: ["*"]}}, admin: true}}}}
  rules:
    - {{name: shared, when: 'caller.claims.g.exists(x, call.args.a.exists(y, y == x))', effect: deny, message: "not yours"}}
"#,
        key("ann", "") + &key("root", "boss")
    ))
    .await;
    let token = |g: Vec<u8>| {
        let claims = json!({"iss": "https://me.example", "aud": "toolgate", "sub": "mallory", "exp": 4_000_000_000_u64, "g": g});
        let key = EncodingKey::from_secret(secret.as_bytes());
        encode(&Header::new(Algorithm::HS256), &claims, &key).expect("a token")
    };
    let call = async |token: &str, a: Vec<u8>| {
        let params = json!({"name": "demo__echo", "arguments": {"message": "hi", "a": a}});
        let request = gateway.modern_request("/mcp", "tools/call", params).bearer_auth(token);
        read(request.send().await.expect("an answer")).await
    };
    let few = token(vec![1; 50]);
    gateway.eventually("it is there", async |_| call(&few, vec![2; 50]).await.0 == 200).await;
    assert_eq!(call(&few, vec![2, 1]).await.0, 403);
    let many = token(vec![1; 5_500]);
    let costly = || call(&many, vec![2; 9_900]);
    let ann = Caller::new(&gateway, "ann");
    // The rule denies a caller without such a claim; a rejection is enough here.
    let other = ann.call("demo__echo", json!({"message": "hi", "a": []}));
    let (one, two, three, four, other) = tokio::join!(costly(), costly(), costly(), costly(), other);
    for (status, answer) in [one, two, three, four, other] {
        assert_eq!((status, &answer["error"]["message"]), (403, &json!("not yours")), "{answer}");
    }
    let metrics = gateway.http.get(gateway.url("/metrics")).bearer_auth("root-key");
    let metrics = metrics.send().await.expect("an answer").text().await.expect("a text");
    let output = "toolgate_filter_rejections_total{filter=\"rbac\",reason=\"rule_too_costly\"} 4";
    assert!(metrics.lines().any(|line| line == output), "{metrics}");
}

/// Rules are evaluated for each name of a list. With one serving thread, other callers' calls run in
/// between.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_costs_much_keeps_no_serving_thread() {
    let many = MockServer::start(|seen| match seen.method() {
        "tools/list" => {
            let names: Vec<String> = (0..400).map(|n| format!("t{n}")).collect();
            let list = tools(&names.iter().map(String::as_str).collect::<Vec<_>>());
            MockReply::Say(json_answer(&answer(seen, &list)))
        }
        _ => MockReply::Good,
    })
    .await;
    let secret = "s".repeat(40);
    let gateway = Gateway::start(&format!(
        r#"workers: 1
mcpServers: {{many: {{url: "{}"}}, demo: {{builtin: demo}}}}
auth:
  jwt:
    - {{issuer: "https://me.example", audience: toolgate, secret: "{secret}"}}
  api_keys:
{}rbac:
  default: allow
  rules:
    - {{name: foreign, when: 'has(caller.claims.g) && caller.claims.g.exists(x, call.tool == x + "__t")', effect: deny}}
"#,
        many.url,
        key("ann", "")
    ))
    .await;
    let claims = json!({"iss": "https://me.example", "aud": "toolgate", "sub": "mallory", "exp": 4_000_000_000_u64,
        "g": (0..1_000).map(|n| n.to_string()).collect::<Vec<_>>()});
    let token = encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes()));
    let token = token.expect("a token");
    let ann = Caller::new(&gateway, "ann");
    gateway.eventually("all are listed", async |_| ann.tools("/mcp").await.len() > 400).await;

    let meanwhile = AtomicU32::new(0);
    let list = gateway.modern_request("/mcp", "tools/list", json!({})).bearer_auth(&token);
    let list = async { read(list.send().await.expect("an answer")).await };
    let others = async {
        loop {
            let (status, answer) = ann.call("demo__echo", json!({"message": "hi"})).await;
            assert_eq!(status, 200, "{answer}");
            meanwhile.fetch_add(1, Relaxed);
        }
    };
    let (status, listed) = tokio::select! {
        listed = list => listed,
        () = others => unreachable!("they go on for ever"),
    };
    assert_eq!(status, 200, "{listed}");
    assert!(
        listed["result"]["tools"].as_array().is_some_and(|tools| tools.len() > 400),
        "none of them is foreign"
    );
    let meanwhile = meanwhile.into_inner();
    assert!(meanwhile >= 10, "{meanwhile} calls were answered while the list was made");
}
