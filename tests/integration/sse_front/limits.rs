//! Bounds: streams of a caller, calls in flight, rates, and a client that never reads.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::{SseClient, request, text};
use crate::harness::{Gateway, legacy_call, read};
use crate::legacy::scripted_server::ScriptedServer;
use crate::legacy::{lists, setup_with};
use crate::mock_server::{MockReply, MockServer, answer, json_answer};

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_so_many_streams_and_no_more() {
    let limits = "mcpServers: {demo: {builtin: demo}}\nlimits: {max_sessions_per_caller: 2}\n";
    let gateway = Gateway::start(limits).await;
    let mut first = SseClient::ready(&gateway, "/sse").await;
    let second = SseClient::open(&gateway, "/servers/demo/sse").await;
    let third =
        || async { read(gateway.http.get(gateway.url("/sse")).send().await.expect("an answer")).await };
    let (status, answer) = third().await;
    assert_eq!((status, &answer["error"]["code"]), (429, &json!(429)), "{answer}");
    // One that never sent anything counts, until it leaves.
    drop(second);
    gateway
        .eventually("its place is free", async |g| {
            g.http.get(g.url("/sse")).send().await.expect("an answer").status() == 200
        })
        .await;
    assert_eq!(first.say(&request(1, "ping")).await["result"], json!({}), "others keep theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_a_rate_get_their_error_on_the_stream() {
    let rules =
        "rate_limits: {rules: [{name: slow, key: [tool], limit: 1/1h, match: {tools: [demo__echo]}}]}\n";
    let gateway = Gateway::start(&format!("mcpServers: {{demo: {{builtin: demo}}}}\n{rules}")).await;
    let mut client = SseClient::ready(&gateway, "/sse").await;
    let echo = |id: u64| legacy_call(id, "demo__echo", json!({"message": "hi"}));
    assert_eq!(text(&client.say(&echo(1)).await), "hi");
    let error = client.say(&echo(2)).await;
    assert_eq!(error["error"]["code"], 429, "{error}");
    assert!(error["error"]["data"]["retry_after_ms"].as_u64().is_some_and(|wait| wait > 0), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_so_many_calls_in_flight_and_no_more() {
    let stage = ScriptedServer::start().await;
    let gateway = Gateway::start(&setup_with(&stage, "", "")).await;
    lists(&gateway, "s__hold").await;
    let mut client = SseClient::ready(&gateway, "/sse").await;
    for id in 0..64 {
        client.send(&legacy_call(id, "s__hold", json!({}))).await;
    }
    let error = client.say(&legacy_call(64, "s__tool", json!({}))).await;
    assert_eq!(error["error"]["code"], 429, "{error}");
    gateway.eventually("all are there", async |_| stage.with(|state| state.calls.len()) == 64).await;
    stage.with(|state| state.calls[7].answer("done"));
    assert_eq!(text(&client.events.next().await.expect("an answer")), "done");
    // The place is free before the answer is read, or a moment later.
    gateway
        .eventually("a place is free", async |_| {
            client.send(&legacy_call(65, "s__tool", json!({}))).await;
            true
        })
        .await;
    let next = client.answer(&json!(65)).await;
    assert_eq!(text(&next), "done", "{next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_is_ended_and_holds_up_nobody() {
    let limits = "mcpServers: {demo: {builtin: demo}}\nlimits: {write_timeout: 1s}\n";
    let gateway = Gateway::start(limits).await;
    // Little is buffered in the client's own system.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 * 1024).expect("a socket has the option");
    let mut stream =
        socket.connect(([127, 0, 0, 1], gateway.port).into()).await.expect("the gateway listens");
    stream.write_all(b"GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("it is taken");
    let mut begun = String::new();
    while !begun.contains("session_id=") || !begun.ends_with("\n\n") {
        let mut piece = [0; 1024];
        let read = stream.read(&mut piece).await.expect("it begins");
        begun.push_str(std::str::from_utf8(&piece[..read]).expect("UTF-8").trim_end_matches("\r\n"));
    }
    let id = begun.split("session_id=").nth(1).and_then(|rest| rest.get(..32)).expect("an id");
    let uri = gateway.url(&format!("/messages/?session_id={id}"));
    let post = |body: String| {
        let post = gateway.http.post(&uri).header("content-type", "application/json").body(body);
        async { post.send().await.expect("an answer").status().as_u16() }
    };
    let opened = crate::harness::initialize(json!({}));
    assert_eq!(post(opened.to_string()).await, 202);
    let large = "x".repeat(1 << 20);
    let mut other = SseClient::ready(&gateway, "/sse").await;
    let mut last = 202;
    let mut sent = 0;
    while last == 202 {
        last = post(legacy_call(sent, "demo__echo", json!({"message": large})).to_string()).await;
        sent += 1;
        assert!(sent < 10_000, "it takes everything");
        let answer = other.say(&legacy_call(sent, "demo__echo", json!({"message": "hi"}))).await;
        assert_eq!(text(&answer), "hi", "others go on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(last, 404, "its stream has ended");
    drop(other);
    gateway.eventually("no session is left", async |g| g.has_metric("toolgate_sessions", 0.0).await).await;
    gateway.eventually("no stream is left", async |g| g.has_metric("toolgate_streams", 0.0).await).await;
    gateway.eventually("no body is left", async |g| g.has_metric("toolgate_buffered_bytes", 0.0).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_a_client_does_not_read_are_bounded_and_each_call_gets_one() {
    const CALLS: u64 = 48;
    let large = json!({"content": [{"type": "text", "text": "x".repeat(1 << 20)}], "resultType": "complete"});
    let server = MockServer::start(move |seen| match seen.method() {
        "tools/call" => MockReply::Say(json_answer(&answer(seen, &large))),
        _ => MockReply::Good,
    })
    .await;
    let gateway = Gateway::start(&format!(
        "mcpServers: {{large: {{url: \"{}\"}}}}\nlimits: {{max_body: 1MiB, max_buffered: 4MiB}}\n",
        server.url
    ))
    .await;
    lists(&gateway, "large__tool").await;
    let mut client = SseClient::ready(&gateway, "/sse").await;
    // It reads nothing meanwhile; all answers have come.
    for id in 0..CALLS {
        client.send(&legacy_call(id, "large__tool", json!({}))).await;
    }
    gateway.eventually("all are called", async |_| server.count("tools/call") as u64 == CALLS).await;
    let (mut whole, mut refused) = (0, 0);
    let mut open: std::collections::BTreeSet<u64> = (0..CALLS).collect();
    while !open.is_empty() {
        let message = client.events.next().await.expect("the stream goes on");
        assert!(
            open.remove(&message["id"].as_u64().expect("a number")),
            "one answer each: {}",
            message["id"]
        );
        match message["error"]["code"].as_i64() {
            None => whole += 1,
            Some(code) => {
                assert_eq!(code, 503, "{}", message["error"]);
                refused += 1;
            }
        }
    }
    assert!(whole >= 4 && refused > 0, "{whole} whole, {refused} refused");
    gateway.eventually("nothing is left", async |g| g.has_metric("toolgate_buffered_bytes", 0.0).await).await;
}
