//! Several gateway processes with one Redis and one key: a call that waits at one is answered at another.

use serde_json::{Value, json};

use super::{able, accepted, modern_call, question, retry, send, text};
use crate::harness::{Gateway, a_fixture_of, a_redis, free_port};
use crate::process::Process;

const KEY: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";
const OTHER_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const TOOL: &str = "old__test_elicitation";

/// Gateways in front of one legacy server.
struct Fleet {
    gateways: Vec<Gateway>,
    redis: Process,
    port: u16,
    url: String,
    _server: Process,
}

impl Fleet {
    async fn start(count: usize) -> Self {
        let (server, url) = a_fixture_of("legacy").await;
        let port = free_port();
        let redis = a_redis(port).await;
        let mut fleet = Self { gateways: Vec::new(), redis, port, url, _server: server };
        for _ in 0..count {
            let gateway = fleet.gateway(&format!("{{key: \"{KEY}\"}}")).await;
            fleet.gateways.push(gateway);
        }
        fleet
    }

    /// Another gateway, connected to Redis.
    async fn gateway(&self, secrets: &str) -> Gateway {
        let gateway = Gateway::start(&format!(
            "mcpServers: {{old: {{url: \"{}\"}}}}\nredis: {{url: \"redis://127.0.0.1:{}\"}}\nsecrets: {secrets}\n",
            self.url, self.port
        ))
        .await;
        is_connected(&gateway, true).await;
        gateway
    }
}

async fn is_connected(gateway: &Gateway, up: bool) {
    let value = f64::from(u8::from(up));
    gateway
        .eventually("the channel is as it should be", async |gateway| {
            gateway.has_metric("toolgate_process_channel_up", value).await
        })
        .await;
}

async fn asked(gateway: &Gateway) -> (Value, Value, String) {
    let call = modern_call(1, TOOL, json!({"message": "who?"}), &able());
    let (status, said) = send(gateway, "/mcp", "", &call).await;
    assert_eq!(status, 200, "{said}");
    let (key, _) = question(&said);
    (call, said, key)
}

fn refusal(answer: &(u16, Value)) -> String {
    let (status, said) = answer;
    assert_eq!((*status, &said["error"]["code"]), (400, &json!(-32602)), "{said}");
    assert_eq!(said["error"]["data"]["reason"], "invalid_request_state", "{said}");
    said["error"]["message"].as_str().expect("a message").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_at_one_process_is_answered_once_at_any() {
    let fleet = Fleet::start(3).await;
    let (call, said, key) = asked(&fleet.gateways[0]).await;
    // The same retry at all processes at once: the server hears one.
    let retries: Vec<Value> =
        (2..11).map(|id| retry(&call, id, &said, json!({&key: accepted("ann")}))).collect();
    let all = retries.iter().zip(fleet.gateways.iter().cycle());
    let all = futures::future::join_all(all.map(|(retry, gateway)| send(gateway, "/mcp", "", retry))).await;
    for (retry, (status, done)) in retries.iter().zip(&all) {
        assert_eq!((*status, &done["id"]), (200, &retry["id"]), "{done}");
        assert!(text(done).contains("ann"), "{done}");
        assert_eq!(done["result"], all[0].1["result"]);
    }
    // Another answer, at yet another process.
    let other = retry(&call, 20, &said, json!({&key: accepted("eve")}));
    refusal(&send(&fleet.gateways[2], "/mcp", "", &other).await);
    // Missing answers are asked for again, over the other process too.
    let (call, said, key) = asked(&fleet.gateways[1]).await;
    let (_, again) = send(&fleet.gateways[0], "/mcp", "", &retry(&call, 2, &said, json!({}))).await;
    assert_eq!(question(&again).0, key);
    let last = retry(&call, 3, &again, json!({&key: {"action": "decline"}}));
    let (_, done) = send(&fleet.gateways[2], "/mcp", "", &last).await;
    assert!(text(&done).contains("decline"), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_process_with_the_call_is_told() {
    let mut fleet = Fleet::start(2).await;
    let (call, said, key) = asked(&fleet.gateways[0]).await;
    let answer = retry(&call, 2, &said, json!({&key: accepted("ann")}));
    drop(fleet.gateways.remove(0));
    let why = refusal(&send(&fleet.gateways[0], "/mcp", "", &answer).await);
    assert!(why.contains("has ended"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_client_is_told_to_come_again_and_then_it_works() {
    let mut fleet = Fleet::start(2).await;
    let (call, said, key) = asked(&fleet.gateways[0]).await;
    let answer = retry(&call, 2, &said, json!({&key: accepted("ann")}));
    fleet.redis.kill();
    is_connected(&fleet.gateways[1], false).await;
    let (status, refused) = send(&fleet.gateways[1], "/mcp", "", &answer).await;
    assert_eq!(status, 503, "{refused}");
    assert!(
        refused["error"]["message"].as_str().is_some_and(|why| why.contains("Redis is down")),
        "{refused}"
    );
    fleet.redis = a_redis(fleet.port).await;
    is_connected(&fleet.gateways[0], true).await;
    is_connected(&fleet.gateways[1], true).await;
    let (status, done) = send(&fleet.gateways[1], "/mcp", "", &answer).await;
    assert!(status == 200 && text(&done).contains("ann"), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_another_key_knows_nothing_and_an_old_key_still_opens() {
    let fleet = Fleet::start(1).await;
    let stranger = fleet.gateway(&format!("{{key: \"{OTHER_KEY}\"}}")).await;
    let renewed = fleet.gateway(&format!("{{key: \"{OTHER_KEY}\", old_keys: [\"{KEY}\"]}}")).await;
    let (call, said, key) = asked(&fleet.gateways[0]).await;
    let answer = retry(&call, 2, &said, json!({&key: accepted("ann")}));
    let why = refusal(&send(&stranger, "/mcp", "", &answer).await);
    assert!(why.contains("make the call again"), "{why}");
    // The first process does not know the new key yet, and takes it by a reload, without losing its call.
    fleet.gateways[0].rewrite(&format!(
        "mcpServers: {{old: {{url: \"{}\"}}}}\nredis: {{url: \"redis://127.0.0.1:{}\"}}\n\
         secrets: {{key: \"{KEY}\", old_keys: [\"{OTHER_KEY}\"]}}\n",
        fleet.url, fleet.port
    ));
    fleet.gateways[0]
        .eventually("the reload", async |gateway| gateway.process.output().contains("secrets changed"))
        .await;
    let (status, done) = send(&renewed, "/mcp", "", &answer).await;
    assert!(status == 200 && text(&done).contains("ann"), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_hangs_is_told_and_the_call_is_there_when_it_goes_on() {
    let fleet = Fleet::start(2).await;
    let (call, said, key) = asked(&fleet.gateways[0]).await;
    let answer = retry(&call, 2, &said, json!({&key: accepted("ann")}));
    fleet.gateways[0].process.signal(libc::SIGSTOP);
    // The response has begun by then, as a stream that is kept alive: its status says nothing.
    let (_, refused) = send(&fleet.gateways[1], "/mcp", "", &answer).await;
    fleet.gateways[0].process.signal(libc::SIGCONT);
    assert_eq!(refused["error"]["code"], 503, "{refused}");
    assert!(
        refused["error"]["message"].as_str().is_some_and(|why| why.contains("does not answer")),
        "{refused}"
    );
    // What was sent meanwhile may have reached it: the same answer again is no second one. It listens again in a moment.
    fleet.gateways[1]
        .eventually("the call is answered", async |gateway| {
            let (status, done) = send(gateway, "/mcp", "", &answer).await;
            status == 200
                && done["result"]["content"][0]["text"].as_str().is_some_and(|text| text.contains("ann"))
        })
        .await;
}
