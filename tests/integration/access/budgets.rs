//! How often: rates, quotas and what runs at a time.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Caller, key};
use crate::harness::{Gateway, legacy_call};

fn demo(rules: &str) -> String {
    let keys = key("ann", "") + &key("bob", "");
    format!(
        "mcpServers: {{demo: {{builtin: demo}}}}\nauth:\n  api_keys:\n{keys}rate_limits:\n  rules:\n{rules}"
    )
}

#[tokio::test]
async fn a_refusal_says_when_to_come_back_and_then_it_passes() {
    let gateway = Gateway::start(&demo(
        "    - {name: slow, key: [user, tool], limit: 60/1m, burst: 2, match: {tools: [demo__echo]}}\n",
    ))
    .await;
    let ann = Caller::new(&gateway, "ann");
    let hi = json!({"message": "hi"});
    assert_eq!(ann.call("demo__echo", hi.clone()).await.0, 200);
    assert_eq!(ann.call("demo__echo", hi.clone()).await.0, 200);
    let asked = Instant::now();
    let response = ann.response("demo__echo", hi.clone()).await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "1");
    let (_, answer) = crate::harness::read(response).await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(1), &json!(429)), "{answer}");
    let wait = answer["error"]["data"]["retry_after_ms"].as_u64().expect("a time to wait");
    assert!((1..=1000).contains(&wait), "{answer}");
    let words = answer["error"]["message"].as_str().expect("a sentence");
    assert!(words.contains("slow") && words.to_lowercase().contains("wait"), "{words}");
    // Others, and other tools, have budgets of their own.
    assert_eq!(Caller::new(&gateway, "bob").call("demo__echo", hi.clone()).await.0, 200);
    assert_eq!(ann.call("demo__time", json!({})).await.0, 200);
    tokio::time::sleep((asked + Duration::from_millis(wait + 20)).saturating_duration_since(Instant::now()))
        .await;
    assert_eq!(ann.call("demo__echo", hi).await.0, 200);
}

#[tokio::test]
async fn neither_a_new_session_nor_a_reload_refills_a_budget() {
    let rules = |comment: &str| demo(&format!("    - {{name: few, key: [user], quota: 6/1d}}\n{comment}"));
    let gateway = Gateway::start(&rules("")).await;
    let ann = Caller::new(&gateway, "ann");
    let echo = legacy_call(1, "demo__echo", json!({"message": "hi"}));
    for _ in 0..3 {
        let session = ann.session("/mcp").await;
        assert_eq!(ann.say("/mcp", &session, &echo).await.0, 200);
    }
    let body = crate::harness::initialize(json!({}));
    let open = async || {
        let request = gateway.post("/mcp", None, &body).bearer_auth(&ann.key);
        request.send().await.expect("an answer").status()
    };
    assert_eq!(open().await, 429);
    gateway.rewrite(&rules("limits: {max_sessions: 77}\n"));
    let reloaded = "toolgate_config_reloads_total{result=\"ok\"}";
    let _ = reloaded;
    gateway.eventually("it is reloaded", async |g| g.process.output().contains("reloaded")).await;
    assert_eq!(open().await, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_calls_of_a_caller_run_at_a_time() {
    let gateway = Gateway::start(&demo("    - {name: two, key: [user], concurrent: 2}\n")).await;
    let ann = Caller::new(&gateway, "ann");
    let session = ann.session("/mcp").await;
    let sleep = |id: u32| legacy_call(id, "demo__sleep", json!({"seconds": 1}));
    let [one, two, three] = [sleep(1), sleep(2), sleep(3)];
    let (one, two, three) =
        tokio::join!(ann.say("/mcp", &session, &one), ann.say("/mcp", &session, &two), async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            ann.say("/mcp", &session, &three).await
        });
    assert_eq!((one.0, two.0, three.0), (200, 200, 429), "{three:?}");
    // Their end frees the places.
    let (four, five) = (legacy_call(4, "demo__echo", json!({"message": "x"})), sleep(5));
    assert_eq!(ann.say("/mcp", &session, &four).await.0, 200);
    assert_eq!(ann.say("/mcp", &session, &five).await.0, 200);
}

#[tokio::test]
async fn an_address_is_limited_before_its_credentials_are_looked_at() {
    let config = format!(
        "listen: {{address: \"127.0.0.1:PORT\", trusted_proxies: [\"127.0.0.0/8\"]}}\n{}",
        demo("    - {name: door, key: [ip], limit: 3/1h}\n")
    );
    let gateway = Gateway::start(&config).await;
    let knock = async |from: &str| {
        let request = gateway.modern_request("/mcp", "tools/list", json!({})).header("x-forwarded-for", from);
        request.send().await.expect("an answer").status().as_u16()
    };
    for _ in 0..3 {
        assert_eq!(knock("203.0.113.9").await, 401);
    }
    assert_eq!(knock("203.0.113.9").await, 429);
    assert_eq!(knock("203.0.113.10").await, 401, "another address");
    // What a client writes before the proxy's own entry is not believed.
    assert_eq!(knock("198.51.100.1, 203.0.113.9").await, 429);
}
