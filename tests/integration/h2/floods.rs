//! HTTP/2 clients that cost more than they should: each is disconnected or slowed down, without effect on
//! others.

use std::time::Duration;

use serde_json::json;

use super::frames::{self, ENHANCE_YOUR_CALM, Raw, fields, frame};
use super::{Wire, in_time, message, pour};
use crate::harness::Gateway;
use crate::mock_server::{self, MockReply, MockServer};
use crate::process;

const DEMO: &str = "mcpServers: {demo: {builtin: demo}}\nlog: {level: error}\n";
const MIB: usize = 1024 * 1024;

/// A call that takes long, as headers.
fn head(method: &str, path: &str) -> Vec<u8> {
    fields(&[
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("accept", "application/json, text/event-stream"),
        ("content-type", "application/json"),
    ])
}

/// Another client is served, and the gateway has not grown by more than this.
async fn goes_on(gateway: &Gateway, before: usize, max: usize) {
    assert_eq!(gateway.call("demo__echo", json!({"text": "x"})).await.0, 200, "{}", gateway.process.story());
    let wire = Wire::open(gateway.port).await;
    assert_eq!(wire.ask("/mcp", "tools/list", json!({})).await.status, 200, "{}", gateway.process.story());
    let now = process::resident(gateway.process.id());
    assert!(now < before + max, "grew from {before} to {now} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_without_end_are_not_taken() {
    let gateway = Gateway::start(DEMO).await;
    goes_on(&gateway, 0, usize::MAX).await;
    let before = process::resident(gateway.process.id());
    // All at once: most are reset before they are accepted.
    let mut raw = Raw::open(gateway.port).await;
    let mut burst = Vec::new();
    for stream in (1..20_000).step_by(2) {
        burst.extend(frame(frames::HEADERS, frames::END_HEADERS, stream, &head("POST", "/mcp")));
        burst.extend(frame(frames::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    raw.send(&burst).await;
    assert_eq!(raw.reason().await, Some(ENHANCE_YOUR_CALM));
    goes_on(&gateway, before, 32 * MIB).await;

    // One after the other: each is accepted, waits for its body, and is reset.
    let mut wire = Wire::open(gateway.port).await;
    for asked in 0.. {
        assert!(asked < 5000, "{asked} requests were begun and left");
        let request = wire.modern("/mcp", "tools/list", None).body(()).expect("a request");
        let Ok(mut send) = wire.send.clone().ready().await else { break };
        let Ok((_, mut to)) = send.send_request(request, false) else { break };
        if !wire.is_read().await {
            break;
        }
        to.send_reset(h2::Reason::CANCEL);
    }
    // Without an error code, if the last one was in flight at the GOAWAY.
    let reason = wire.ended().await.err().and_then(|error| error.reason());
    assert!(matches!(reason, None | Some(h2::Reason::ENHANCE_YOUR_CALM)), "{reason:?}");
    goes_on(&gateway, before, 32 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_the_gateway_itself_that_are_left_count_too() {
    let gateway = Gateway::start(DEMO).await;
    goes_on(&gateway, 0, usize::MAX).await;
    let before = process::resident(gateway.process.id());
    let mut raw = Raw::open(gateway.port).await;
    let mut stream = 1;
    // Few at a time, so that all are accepted.
    let reason = loop {
        assert!(stream < 20_000, "{stream} streams were begun and left");
        let mut burst = Vec::new();
        for _ in 0..10 {
            burst.extend(frame(frames::HEADERS, frames::END_HEADERS, stream, &head("POST", "/mcp")));
            burst.extend(frame(frames::DATA, frames::END_STREAM, stream, b"{}"));
            burst.extend(frame(frames::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            stream += 2;
        }
        if !(raw.send(&burst).await && raw.ping().await) {
            break raw.reason().await;
        }
        // The ping is answered when everything before it is read.
        let away = loop {
            match raw.frame().await {
                Some((frames::PING, ..)) => break None,
                Some((frames::GOAWAY, _, _, payload)) => break Some(payload[7].into()),
                Some(_) => {}
                None => break Some(0),
            }
        };
        if away.is_some() {
            break away;
        }
    };
    assert!(matches!(reason, Some(ENHANCE_YOUR_CALM | 0)), "{reason:?}");
    goes_on(&gateway, before, 32 * MIB).await;
    let story = gateway.process.output();
    assert!(!story.contains("a call failed"), "{story}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beside_too_many_that_are_left_come_to_their_end() {
    let gateway = Gateway::start(DEMO).await;
    let mut wire = Wire::open(gateway.port).await;
    let (name, body) = message("tools/call", json!({"name": "demo__sleep", "arguments": {"seconds": 5}}));
    let request = wire.modern("/mcp", "tools/call", name.as_deref()).body(()).expect("a request");
    let (kept, to) = wire.begin(request, false).await;
    assert!(pour(to, &body, usize::MAX).await);
    for asked in 0.. {
        assert!(asked < 5000, "{asked} requests were begun and left");
        let request = wire.modern("/mcp", "tools/list", None).body(()).expect("a request");
        let Ok(mut send) = wire.send.clone().ready().await else { break };
        let Ok((_, mut to)) = send.send_request(request, false) else { break };
        if !wire.is_read().await {
            break;
        }
        to.send_reset(h2::Reason::CANCEL);
    }
    let answer = in_time(super::whole(kept)).await.expect("an answer");
    assert_eq!(answer.status, 200, "{:?}", answer.message());
    let _ = wire.ended().await;
    goes_on(&gateway, 0, usize::MAX).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_stopped_after_a_while_do_not_count() {
    let mock = MockServer::start(|seen| match seen.tool() {
        "tool" => MockReply::Hang(Vec::new()),
        _ => MockReply::Good,
    })
    .await;
    let gateway = Gateway::start(&format!("mcpServers: {{up: {{url: \"{}\"}}}}\n", mock.url)).await;
    let wire = Wire::open(gateway.port).await;
    for round in 1..=3 {
        let mut kept = Vec::new();
        for _ in 0..60 {
            let (name, body) = message("tools/call", json!({"name": "up__tool"}));
            let request = wire.modern("/mcp", "tools/call", name.as_deref()).body(()).expect("a request");
            let (answer, to) = wire.begin(request, false).await;
            assert!(pour(to, &body, usize::MAX).await);
            kept.push(answer);
        }
        gateway.eventually("they run", async |_| mock.calls().len() == round * 60).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        drop(kept);
        assert_eq!(wire.ask("/mcp", "ping", json!({})).await.status, 404, "the connection stands");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_often_cancels_but_also_waits_is_served() {
    let gateway = Gateway::start(DEMO).await;
    let wire = Wire::open(gateway.port).await;
    for _ in 0..150 {
        let request = wire.modern("/mcp", "tools/list", None).body(()).expect("a request");
        let (_, mut to) = wire.begin(request, false).await;
        to.send_reset(h2::Reason::CANCEL);
        assert_eq!(wire.ask("/mcp", "tools/list", json!({})).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_end_are_not_taken() {
    let gateway = Gateway::start(DEMO).await;
    goes_on(&gateway, 0, usize::MAX).await;
    let before = process::resident(gateway.process.id());
    for piece in [Vec::new(), fields(&[("x", "y")]), fields(&[("x", "y")]).repeat(3000)] {
        let mut raw = Raw::open(gateway.port).await;
        assert!(raw.send(&frame(frames::HEADERS, frames::END_STREAM, 1, &head("GET", "/mcp"))).await);
        let more = frame(frames::CONTINUATION, 0, 1, &piece).repeat(100);
        let mut sent = 0;
        while sent < 256 * MIB && raw.send(&more).await {
            sent += more.len();
        }
        assert!(sent < 256 * MIB, "{sent} bytes of headers in pieces of {} were taken", piece.len());
        assert_ne!(raw.reason().await, Some(0), "in good order");
    }
    goes_on(&gateway, before, 32 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_and_settings_that_are_not_waited_for_fill_no_memory() {
    let gateway = Gateway::start(DEMO).await;
    goes_on(&gateway, 0, usize::MAX).await;
    let before = process::resident(gateway.process.id());
    let mut kept = Vec::new();
    for (kind, payload) in [(frames::PING, vec![7; 8]), (frames::SETTINGS, vec![0, 3, 0, 0, 0, 100])] {
        let mut raw = Raw::open(gateway.port).await;
        let burst = frame(kind, 0, 0, &payload).repeat(10_000);
        // The responses are not read, so at some point nothing more is accepted.
        let flood = async {
            for _ in 0..400 {
                if !raw.send(&burst).await {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), flood).await;
        kept.push(raw);
    }
    goes_on(&gateway, before, 32 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_at_a_time_than_are_offered_are_refused() {
    let gateway = Gateway::start(DEMO).await;
    let mut raw = Raw::open(gateway.port).await;
    let mut burst = Vec::new();
    for stream in (1..300).step_by(2) {
        burst.extend(frame(frames::HEADERS, frames::END_HEADERS, stream, &head("POST", "/mcp")));
    }
    assert!(raw.send(&burst).await);
    let mut refused = 0;
    while refused < 50 {
        let (kind, _, _, payload) = raw.frame().await.expect("the connection stands");
        // REFUSED_STREAM
        refused += usize::from(kind == frames::RST_STREAM && payload == 7_u32.to_be_bytes());
    }
    assert_eq!(gateway.call("demo__echo", json!({"text": "x"})).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_further_request_takes_the_place_of_a_connection() {
    let gateway = Gateway::start(&format!("{DEMO}limits: {{max_connections: 4}}\n")).await;
    let wire = Wire::open(gateway.port).await;
    // This one among them, and those that the client of the harness keeps.
    let open = gateway.metric("toolgate_connections").await as usize;
    let sleep = json!({"name": "demo__sleep", "arguments": {"seconds": 2}});
    let calls = (0..10).map(|_| wire.ask("/mcp", "tools/call", sleep.clone()));
    let answers = in_time(futures::future::join_all(calls)).await;
    let full: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    let done = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!((done, full.len()), (1 + 4 - open, 5 + open), "{open} connections were open before");
    for answer in full {
        assert_eq!(answer.headers["retry-after"], "1");
        assert!(
            answer.message()["error"]["message"]
                .as_str()
                .is_some_and(|message| message.contains("as it takes"))
        );
    }
    // A slot is released a moment after its response was read: a client that is told to retry does.
    in_time(async { while wire.ask("/mcp", "tools/list", json!({})).await.status != 200 {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_many_requests_on_a_connection_are_bounded() {
    const SIZE: usize = 60_000;
    let gateway = Gateway::start(&format!("{DEMO}limits: {{max_buffered: 1MiB}}\n")).await;
    let wire = Wire::open(gateway.port).await;
    let mut kept = Vec::new();
    // Small ones, none of which completes.
    for _ in 0..40 {
        let request = wire.modern("/mcp", "tools/list", None).body(()).expect("a request");
        let (answer, mut to) = wire.begin(request, false).await;
        to.send_data(vec![b' '; SIZE].into(), false).expect("it is taken");
        kept.push((answer, to));
    }
    let mut refused = 0;
    for (answer, _) in &mut kept {
        if let Ok(answer) = tokio::time::timeout(Duration::from_millis(500), answer).await {
            assert_eq!(answer.expect("an answer").status().as_u16(), 503);
            refused += 1;
        }
    }
    // One is worth as much as that of an HTTP/1 connection.
    let max = MIB / SIZE + 1;
    assert!(refused >= 40 - max, "{refused} of 40 were refused");
    let counted = gateway.metric("toolgate_buffered_bytes").await as usize;
    assert!((1..=MIB).contains(&counted), "{counted} bytes are counted");
    drop(kept);
    in_time(async { while wire.ask("/mcp", "tools/list", json!({})).await.status != 200 {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_cost_their_connection() {
    let gateway = Gateway::start(DEMO).await;
    malformed(Raw::open(gateway.port).await, 100).await;
    assert_eq!(gateway.call("demo__echo", json!({"text": "x"})).await.0, 200);
}

/// A socket that is closed with unread requests is reset, and unsent bytes are lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_late_learns_why_it_is_sent_away() {
    let gateway = Gateway::start(DEMO).await;
    malformed(Raw::narrow(gateway.port).await, 20_000).await;
    assert_eq!(gateway.call("demo__echo", json!({"text": "x"})).await.0, 200);
}

/// Sends requests without reading, and then reads why no more are accepted.
async fn malformed(mut raw: Raw, max: u32) {
    let bad = fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/mcp"),
        (":authority", "localhost"),
        ("host", "evil.example"),
    ]);
    for stream in (1..2 * max).step_by(2) {
        if !raw.send(&frame(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, stream, &bad)).await {
            break;
        }
    }
    assert_eq!(raw.reason().await, Some(ENHANCE_YOUR_CALM));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_take_its_answers_is_left() {
    let big = "x".repeat(MIB);
    let mock = MockServer::start(move |seen| match seen.tool() {
        "tool" => MockReply::Say(mock_server::json_answer(&mock_server::answer(
            seen,
            &json!({"content": [{"type": "text", "text": big}], "resultType": "complete"}),
        ))),
        _ => MockReply::Good,
    })
    .await;
    let config = format!("mcpServers: {{up: {{url: \"{}\", max_concurrent: 40}}}}\n", mock.url);
    let gateway = Gateway::start(&format!("{config}limits: {{write_timeout: 1s}}\n")).await;
    let wire = Wire::with(gateway.port, h2::client::Builder::new().initial_window_size(100)).await;
    let mut kept = Vec::new();
    for _ in 0..40 {
        let (name, body) = message("tools/call", json!({"name": "up__tool"}));
        let request = wire.modern("/mcp", "tools/call", name.as_deref()).body(()).expect("a request");
        let (answer, to) = wire.begin(request, false).await;
        assert!(pour(to, &body, usize::MAX).await);
        kept.push(answer);
    }
    let mut cut = 0;
    for answer in kept {
        let (head, mut body) = in_time(answer).await.expect("an answer").into_parts();
        assert_eq!(head.status.as_u16(), 200);
        // Without releases the window does not grow.
        let mut got = 0;
        loop {
            match in_time(body.data()).await {
                Some(Ok(piece)) => got += piece.len(),
                Some(Err(_)) => break cut += 1,
                None => break,
            }
        }
        assert!(got <= 100, "{got} bytes");
    }
    assert_eq!(cut, 40, "an answer that was not taken looks whole");
    // All slots at the server are free again.
    gateway.eventually("others are served", async |g| g.call("up__tool", json!({})).await.0 == 200).await;
}
