//! Rate limits: rates, quotas and concurrent calls.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::broadcast;

use super::{Caller, key};
use crate::harness::{Gateway, legacy_call};
use crate::mock_server::{MockReply, MockServer};

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
    // The third call, unless the machine takes a second for those before.
    let mut passed = 0;
    let (asked, response) = loop {
        let asked = Instant::now();
        let response = ann.response("demo__echo", hi.clone()).await;
        if response.status() != 200 {
            break (asked, response);
        }
        passed += 1;
        assert!(passed < 100, "nothing is refused");
    };
    assert!(passed >= 2 && response.status() == 429, "{}", response.status());
    assert_eq!(response.headers()["retry-after"], "1");
    let (_, answer) = crate::harness::read(response).await;
    assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(1), &json!(429)), "{answer}");
    let wait = answer["error"]["data"]["retry_after_ms"].as_u64().expect("a time to wait");
    assert!((1..=1000).contains(&wait), "{answer}");
    let message = answer["error"]["message"].as_str().expect("a sentence");
    assert!(message.contains("slow") && message.to_lowercase().contains("wait"), "{message}");
    // Other callers and other tools have budgets of their own.
    assert_eq!(Caller::new(&gateway, "bob").call("demo__echo", hi.clone()).await.0, 200);
    assert_eq!(ann.call("demo__time", json!({})).await.0, 200);
    tokio::time::sleep((asked + Duration::from_millis(wait + 20)).saturating_duration_since(Instant::now()))
        .await;
    assert_eq!(ann.call("demo__echo", hi).await.0, 200);
}

#[tokio::test]
async fn neither_a_new_session_nor_a_reload_refills_a_budget() {
    // No quota, because it starts again at midnight.
    let rules =
        |more: &str| demo(&format!("    - {{name: few, key: [user], limit: 6/1d, burst: 6}}\n{more}"));
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
    gateway.eventually("it is reloaded", async |g| g.process.output().contains("reloaded")).await;
    assert_eq!(open().await, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_calls_of_a_caller_run_at_a_time() {
    // A server whose calls end when this is sent.
    let (ends, _) = broadcast::channel(2);
    let end = ends.clone();
    let server = MockServer::start(move |seen| match seen.method() {
        "tools/call" => MockReply::Stream(Vec::new(), ends.subscribe()),
        _ => MockReply::Good,
    })
    .await;
    let gateway = Gateway::start(&format!(
        "mcpServers: {{p: {{url: \"{}\"}}}}\nauth:\n  api_keys:\n{}rate_limits:\n  rules:\n    \
         - {{name: two, key: [user], concurrent: 2, match: {{tools: [\"*\"]}}}}\n",
        server.url,
        key("ann", "")
    ))
    .await;
    let ann = Caller::new(&gateway, "ann");
    gateway.eventually("the server is there", async |_| ann.tools("/mcp").await == ["p__tool"]).await;
    let call = async || loop {
        let answer = ann.call("p__tool", json!({})).await;
        if answer.0 != 429 {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // The end of the first two frees their slots, for two more.
    for _ in 0..2 {
        let others = async {
            gateway.eventually("two run", async |_| end.receiver_count() == 2).await;
            assert_eq!(ann.call("p__tool", json!({})).await.0, 429, "a third");
            let result = json!({"content": [], "resultType": "complete"});
            end.send(json!({"jsonrpc": "2.0", "id": 1, "result": result})).expect("they listen");
            end.send(json!(null)).expect("they listen");
        };
        let (one, two, ()) = tokio::join!(call(), call(), others);
        assert_eq!((one.0, two.0), (200, 200), "{one:?} {two:?}");
    }
}

#[tokio::test]
async fn an_address_is_limited_before_its_credentials_are_looked_at() {
    let config = format!(
        "listen: {{address: \"127.0.0.1:PORT\", trusted_proxies: [\"127.0.0.0/8\"]}}\n{}",
        demo("    - {name: by-ip, key: [ip], limit: 3/1h}\n")
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
    // An entry that a client writes before the proxy's own is not trusted.
    assert_eq!(knock("198.51.100.1, 203.0.113.9").await, 429);
}
