//! Bodies of every size, in chunks of any size: the server receives exactly what the client sent.
//!
//! The servers are two of the real fixture; its tool `echo_bytes` returns the length and the SHA-256 of its
//! input. One has names that the gateway changes, the other also has its own.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::{Gateway, Process, fixture};
use crate::mock_server::{MockReply, MockServer};
use crate::raw::{Answer, Client, Head};

pub const KIB: usize = 1024;
pub const MIB: usize = 1024 * KIB;

pub struct BodySetup {
    pub gateway: Gateway,
    pub _fixtures: [Process; 2],
}

pub async fn setup() -> BodySetup {
    let ((one, url1), (two, url2)) = (fixture(0), fixture(0));
    let config = format!(
        "mcpServers: {{one: {{url: \"{url1}\"}}, two: {{url: \"{url2}\"}}}}\nlimits: {{max_body: 20MiB}}\n"
    );
    BodySetup { gateway: Gateway::start(&config).await, _fixtures: [one, two] }
}

/// Paths and the name that the tool has there.
pub const PLACES: [(&str, &str); 4] = [
    ("/mcp", "one__echo_bytes"),
    ("/servers/two/mcp", "echo_bytes"),
    ("/mcp", "two__echo_bytes"),
    ("/servers/one/mcp", "echo_bytes"),
];

/// A call whose whole body has this many bytes, with its head and the expected response. The data differ
/// with `salt`, so that no response matches another request.
pub struct Sent {
    head: Head,
    pub body: Vec<u8>,
    pub id: usize,
    pub expected: String,
}

impl Sent {
    pub fn new((path, tool): (&str, &str), size: usize, salt: usize) -> Self {
        let message = |data: &str| {
            json!({"jsonrpc": "2.0", "id": salt, "method": "tools/call", "params": {
                "name": tool, "arguments": {"data": data},
                "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28",
                    "io.modelcontextprotocol/clientCapabilities": {}}}})
            .to_string()
        };
        let mut state = salt as u64 + 1;
        let letters = (message("").len()..size).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'0' + (state >> 58) as u8 % 10)
        });
        let data: String = letters.collect();
        let hash: String = Sha256::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect();
        let body = message(&data).into_bytes();
        assert!(body.len() == size || data.is_empty(), "the body has the size that was asked for");
        let head = Head::modern(path, "tools/call", Some(tool));
        Self { head, body, id: salt, expected: format!("{} {hash}", data.len()) }
    }

    fn check(&self, answer: Option<Answer>, what: &str) {
        let answer = answer.unwrap_or_else(|| panic!("{what}: no answer"));
        let message = answer.message();
        assert_eq!(answer.status, 200, "{what}: {message}");
        assert_eq!(message["id"], self.id, "{what}");
        assert_eq!(message["result"]["content"][0]["text"], self.expected, "{what}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_all_sizes_and_cuts_arrive_whole() {
    let BodySetup { gateway, _fixtures } = setup().await;
    let mut kept = Client::connect(gateway.port).await;
    let mut salt = 0;
    for size in [0, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB, 16 * MIB] {
        for place in &PLACES[..if size > MIB { 2 } else { 4 }] {
            salt += 1;
            let sent = Sent::new(*place, size, salt);
            for chunk in [None, Some(1), Some(777), Some(60_000), Some(64 * KIB)] {
                // One byte per chunk takes minutes for large bodies and shows nothing more.
                if chunk == Some(1) && size > 64 * KIB + 1 {
                    continue;
                }
                let request = match chunk {
                    None => sent.head.whole(&sent.body),
                    Some(chunk) => sent.head.chunked(&sent.body, chunk),
                };
                let what = format!("{size} bytes to {place:?} in chunks of {chunk:?}");
                sent.check(kept.exchange(&request).await, &what);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_requests_share_a_connection_and_get_their_own_answers() {
    let BodySetup { gateway, _fixtures } = setup().await;
    let mut client = Client::connect(gateway.port).await;
    for turn in 0..100 {
        let sent = Sent::new(PLACES[turn % 4], 500 + turn * 997, turn);
        let request =
            if turn % 3 == 0 { sent.head.chunked(&sent.body, 5000) } else { sent.head.whole(&sent.body) };
        sent.check(client.exchange(&request).await, &format!("request {turn}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_is_told_to_go_on_before_its_body_is_read() {
    let BodySetup { gateway, _fixtures } = setup().await;
    let mut client = Client::connect(gateway.port).await;
    for (turn, size) in [0, 64 * KIB, MIB].into_iter().enumerate() {
        let sent = Sent::new(PLACES[turn % 4], size, turn);
        let request = sent.head.clone().with("Expect", "100-continue").whole(&sent.body);
        let (head, body) = request.split_at(request.len() - sent.body.len());
        assert!(client.send(head).await, "the gateway reads heads");
        let go_on = client.answer().await.map(|answer| answer.status);
        assert_eq!(go_on, Some(100), "{size} bytes");
        sent.check(client.exchange(body).await, "after 100");
    }
    let head = Head::modern("/mcp", "tools/call", Some("x")).with("Expect", "100-continue");
    let refused = client.exchange(&head.with("Content-Length", "30000000").bytes()).await.expect("an answer");
    assert_eq!((refused.status, refused.closes(), client.ended().await), (413, true, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_refused_and_the_next_request_is_not() {
    let BodySetup { gateway, _fixtures } = setup().await;
    for excess in [1, MIB] {
        let sent = Sent::new(PLACES[0], 20 * MIB + excess, 1);
        for request in [sent.head.whole(&sent.body), sent.head.chunked(&sent.body, 64 * KIB)] {
            let mut client = Client::connect(gateway.port).await;
            let answer = client.exchange(&request).await.expect("an answer");
            assert_eq!((answer.status, answer.message()["error"]["code"].as_i64()), (413, Some(413)));
            assert!(answer.closes() && client.ended().await, "what is left of the body is no request");
        }
    }
    // A real client, which writes while it reads, sees the response too.
    let response = gateway.post("/mcp", None, &Value::from("x".repeat(21 * MIB))).send().await;
    assert_eq!(response.expect("an answer").status(), 413);
    let sent = Sent::new(PLACES[0], 20 * MIB, 2);
    let mut client = Client::connect(gateway.port).await;
    sent.check(client.exchange(&sent.head.whole(&sent.body)).await, "as large as may be");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let mock = MockServer::start(|_| MockReply::Good).await;
    let config = format!("mcpServers: {{up: {{url: \"{}\"}}}}\nlimits: {{body_timeout: 500ms}}\n", mock.url);
    let gateway = Gateway::start(&config).await;
    let sent = Sent::new(("/mcp", "up__tool"), 2000, 1);
    for request in [sent.head.whole(&sent.body), sent.head.chunked(&sent.body, 100)] {
        for cut in [sent.body.len(), 1000, 1] {
            let mut client = Client::connect(gateway.port).await;
            let start = Instant::now();
            assert!(client.send(&request[..request.len() - cut]).await, "the gateway reads");
            let answer = client.answer().await.expect("an answer");
            assert_eq!((answer.status, answer.message()["error"]["code"].as_i64()), (408, Some(408)));
            assert!(
                answer.closes() && client.ended().await,
                "the rest of the body would be taken for a request"
            );
            let took = start.elapsed();
            assert!((400..5000).contains(&took.as_millis()), "answered after {took:?}");
        }
    }
    // Slow bytes do not extend the timeout.
    let Client { mut writer, .. } = Client::connect(gateway.port).await;
    let request = sent.head.whole(&sent.body);
    let start = Instant::now();
    let trickle = async {
        use tokio::io::AsyncWriteExt;
        for byte in request.chunks(1) {
            if writer.write_all(byte).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    trickle.await;
    assert!(start.elapsed() < Duration::from_secs(10), "trickled for {:?}", start.elapsed());
    assert!(mock.calls().is_empty(), "reached the server: {:?}", mock.calls());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_amid_its_body_has_called_nothing() {
    let mock = MockServer::start(|_| MockReply::Good).await;
    let gateway = Gateway::start(&format!("mcpServers: {{up: {{url: \"{}\"}}}}\n", mock.url)).await;
    for size in [2000, 200 * KIB] {
        let sent = Sent::new(("/mcp", "up__tool"), size, 1);
        for request in [sent.head.whole(&sent.body), sent.head.chunked(&sent.body, 100)] {
            for cut in [1, 6, size / 2] {
                let mut client = Client::connect(gateway.port).await;
                let answer = client.exchange_and_close(&request[..request.len() - cut]).await;
                assert!(answer.is_none_or(|answer| answer.status == 400), "{size} bytes but {cut}");
            }
        }
    }
    assert!(mock.calls().is_empty(), "reached the server: {:?}", mock.calls());
}
